"""An LSTM over a whole sequence, whose gradients stay matrix products.

Scanning a cell over a sequence is right, but wastes a quarter of a training step. In
reverse mode the gradient of the recurrent weight is a sum over time steps, and JAX
forms it inside the backward loop: at each step one thin outer product and one pass over
an array as large as the weight. Yet all of it is one matrix product of what the loop
leaves behind, the hidden states and the cotangents of the gates.

So the recurrence has a rule of its own, for *forward* mode: a change `dW` of the weight
acts on a step only through `dW @ h`, as a change of the gates' input would, and once
the hidden states are known that is one product for all the steps. The rest of the rule
is what JAX derives with the weight held fixed. Transposed, the product is the gradient
wanted. A batch of sequences folds into it, because a rule for forward mode is mapped
and transposed like any other code; `jax.custom_vjp` would form one gradient for each
sequence, and then sum them.

The input's part of the gates does not recur, and is one product from the start.
"""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._check import check_count, check_kind, checked


LSTMState: TypeAlias = tuple[Float[Array, " hidden"], Float[Array, " hidden"]]


class LSTM(eqx.Module):
    """A layer of long short-term memory over one sequence.

    Computes what scanning `equinox.nn.LSTMCell` over the sequence does, has the same
    parameters, and for the same key begins with the same numbers. Training it is
    faster: its gradients are a few large matrix products instead of many small ones.

    !!! example

        ```python
        lstm = eqf.nn.LSTM(96, 670, key=jr.key(0))
        hidden, (h, c) = lstm(jnp.ones((20, 96)))
        hidden.shape  # (20, 670)
        ```
    """

    weight_ih: Float[Array, "gates input"]
    weight_hh: Float[Array, "gates hidden"]
    bias: Float[Array, " gates"] | None
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        use_bias: bool = True,  # noqa: FBT001, FBT002
        dtype: DTypeLike | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: The size of the vector at each step of the sequence.
        - `hidden_size`: The size of the hidden state.
        - `use_bias`: Whether to add a bias.
        - `dtype`: The dtype of the parameters; by default JAX's floating-point type.
        - `key`: The randomness of the initial parameters.
        """
        check_count("input_size", input_size)
        check_count("hidden_size", hidden_size)
        cell = eqx.nn.LSTMCell(input_size, hidden_size, use_bias, dtype, key=key)
        self.weight_ih = cell.weight_ih
        self.weight_hh = cell.weight_hh
        self.bias = cell.bias
        self.input_size = cell.input_size
        self.hidden_size = cell.hidden_size
        self.use_bias = cell.use_bias

    @classmethod
    def from_equinox(cls, cell: eqx.nn.LSTMCell) -> "LSTM":
        """Turns a cell of Equinox's into a layer that keeps its parameters.

        **Arguments:**

        - `cell`: The cell to convert.

        **Returns:**

        A layer that computes on a sequence what scanning `cell` over it computes.
        """
        check_kind("cell", cell, eqx.nn.LSTMCell)
        layer = eqx.filter_eval_shape(
            cls, cell.input_size, cell.hidden_size, cell.use_bias, key=jax.random.key(0)
        )
        return eqx.tree_at(
            lambda layer: (layer.weight_ih, layer.weight_hh, layer.bias),
            layer,
            (cell.weight_ih, cell.weight_hh, cell.bias),
            is_leaf=lambda x: x is None,
        )

    @jax.named_scope("equifed.nn.LSTM")
    def __call__(
        self,
        x: Float[Array, "length input"],
        state: LSTMState | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "length hidden"], LSTMState]:
        """Runs over one sequence.

        **Arguments:**

        - `x`: The sequence.
        - `state`: The hidden state and the cell state to begin with; zeros by default.
        - `key`: Ignored; there as in Equinox's layers.

        **Returns:**

        The hidden state after each step, and the hidden and the cell state after the
        last one, from which the sequence can be continued.

        **Raises:**

        `ValueError` if `x` is not a sequence of vectors of `input_size` numbers, or if
        it or `state` is not of the parameters' dtype.
        """
        del key
        check_kind("x", x, (jax.Array, np.ndarray))
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ValueError(
                "`equifed.nn.LSTM` takes one sequence of shape (length, "
                f"{self.input_size}), got one of shape {x.shape}. Use `jax.vmap` for a "
                "batch."
            )
        for array in (x,) if state is None else (x, *state):
            if array.dtype != self.weight_hh.dtype:
                raise ValueError(
                    "The sequence and the state must be of the parameters' dtype, "
                    f"{self.weight_hh.dtype}, got {array.dtype}. Cast with "
                    "`x.astype(...)`."
                )
        gates = x @ self.weight_ih.T
        if self.bias is not None:
            gates = gates + self.bias[None]
        if state is None:
            # Inside `jax.shard_map` these vary over the devices if the gates do.
            zeros = jnp.zeros_like(gates, shape=(self.hidden_size,))
            state = (zeros, zeros)
        return _recur(gates, self.weight_hh, state)


def _scan(
    gates: Float[Array, "length gates"],
    weight: Float[Array, "gates hidden"],
    state: LSTMState,
) -> tuple[Float[Array, "length hidden"], LSTMState]:
    def step(state: LSTMState, gates: Array) -> tuple[LSTMState, Array]:
        h, c = state
        i, f, g, o = jnp.split(gates + weight @ h, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    state, hidden = jax.lax.scan(step, state, gates)
    return hidden, state


_recur = jax.custom_jvp(_scan)


@_recur.defjvp
def _recur_jvp(primals, tangents):
    gates, weight, state = primals
    d_gates, d_weight, d_state = tangents
    out, advance = jax.linearize(
        lambda gates, state: _scan(gates, weight, state), gates, state
    )
    hidden, _ = out
    before = jnp.concatenate([state[0][None], hidden])[:-1]
    return out, advance(d_gates + before @ d_weight.T, d_state)
