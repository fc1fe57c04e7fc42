"""Layers that begin as haiku's do, on which FedJAX's models are built.

Weights are normal, cut at two standard deviations, with one of 1 / sqrt(fan-in) before
the cut; biases are 0, but for an LSTM's forget gate, whose bias is 1 (where haiku has a
0 and adds 1 in the layer: the same function, of which weight decay alone would know).
"""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn


def cut_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int
) -> Float[Array, "..."]:
    return jr.truncated_normal(key, -2.0, 2.0, shape) / math.sqrt(fan_in)


def linear(in_size: int, out_size: int, *, key: PRNGKeyArray) -> eqx.nn.Linear:
    layer = eqx.filter_eval_shape(eqx.nn.Linear, in_size, out_size, key=key)
    weight = cut_normal(key, (out_size, in_size), in_size)
    return eqx.tree_at(
        lambda x: (x.weight, x.bias), layer, (weight, jnp.zeros(out_size))
    )


def conv(
    in_channels: int, out_channels: int, size: int, *, key: PRNGKeyArray
) -> nn.Conv2d:
    layer = eqx.filter_eval_shape(nn.Conv2d, in_channels, out_channels, size, key=key)
    shape = (size, size, in_channels, out_channels)
    weight = cut_normal(key, shape, size * size * in_channels)
    return eqx.tree_at(
        lambda x: (x.weight, x.bias), layer, (weight, jnp.zeros(out_channels))
    )


def lstm(in_size: int, hidden_size: int, *, key: PRNGKeyArray) -> nn.LSTM:
    layer = eqx.filter_eval_shape(nn.LSTM, in_size, hidden_size, key=key)
    # The input and the hidden state are one vector to haiku.
    shape = (4 * hidden_size, in_size + hidden_size)
    weight = cut_normal(key, shape, in_size + hidden_size)
    forget = jnp.arange(4 * hidden_size) // hidden_size == 1
    return eqx.tree_at(
        lambda x: (x.weight_ih, x.weight_hh, x.bias),
        layer,
        (weight[:, :in_size], weight[:, in_size:], forget.astype(weight.dtype)),
    )
