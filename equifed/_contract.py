"""What the parts of a round promise each other.

A client, an aggregator or a server of one's own may return anything. So what comes back
is held against what was given: by structure, shapes and dtypes alone, which are known
while a round is traced, so that a compiled round pays nothing for it.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from ._aggregator import AbstractAggregator
from ._bits import Bits, SENT, UP
from ._client import AbstractClient
from ._metrics import AbstractMetric, check_free, RESERVED
from ._server import AbstractServer
from ._tree import difference, kind_of
from ._types import AggregatorState, ClientState, Params, ServerState
from ._wire import Aggregate, Message
from ._words import message as sentence, shown


Metrics = dict[str, AbstractMetric]


def _check_pair(part: Any, method: str, what: str, out: Any, length: int) -> None:
    if not isinstance(out, tuple) or len(out) != length:
        raise TypeError(
            f"`{type(part).__name__}.{method}` must return {what}, got {shown(out)}."
        )


def _check_like(part: Any, method: str, name: str, x: PyTree, like: PyTree) -> None:
    found = difference(name, x, like)
    if found is not None:
        raise TypeError(
            f"`{type(part).__name__}.{method}` must return `{name}` as it was given, "
            f"but {found}."
        )


def _check_number(name: str, x: Any) -> None:
    is_array = isinstance(x, jax.Array | np.ndarray)
    if not is_array or x.shape != () or not jnp.issubdtype(x.dtype, jnp.floating):
        got = kind_of(x)
        raise TypeError(
            f"{name} must be one floating-point number, as an array, got {got}."
        )


def check_client(
    client: AbstractClient, out: Any, state: ClientState
) -> tuple[Message, ClientState, Metrics]:
    """What a client's round returned."""
    what = "a message, the client's new state and its metrics"
    _check_pair(client, "round", what, out, 3)
    message, new_state, metrics = out
    name = f"`{type(client).__name__}.round`"
    if not isinstance(message, Message):
        raise TypeError(f"{name} must return a `Message` first, got {shown(message)}.")
    _check_number("A message's `weight`", message.weight)
    for path, leaf in jtu.tree_leaves_with_path((message.payload, message.stats)):
        if not isinstance(leaf, jax.Array | np.ndarray):
            part = ("payload", "stats")[path[0].idx] + jtu.keystr(path[1:])
            raise TypeError(f"A message holds arrays, but `{part}` is {shown(leaf)}.")
        _check_real(name, path, leaf)
    _check_like(client, "round", "state", new_state, state)
    return message, new_state, _check_metrics(name, metrics)


def _check_metrics(
    name: str, metrics: Any, taken: Collection[str] = RESERVED
) -> Metrics:
    if not isinstance(metrics, dict):
        raise TypeError(
            f"{name} must return a dictionary of metrics last, got {shown(metrics)}."
        )
    check_free(name, metrics, [x for x in taken if x not in ("loss", *SENT)])
    if UP in metrics and not isinstance(metrics[UP], Bits):
        raise TypeError(sentence("metrics['bits_up']", "a `Bits`", metrics[UP]))
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must name its metrics by text, got {shown(key)}.")
        if not isinstance(value, AbstractMetric):
            wanted = "an `AbstractMetric`, `Average(x)` for example"
            raise TypeError(sentence(f"metrics[{key!r}]", wanted, value))
    return metrics


def _check_real(name: str, path: tuple[Any, ...], x: Any) -> None:
    """Refuses what is cut on its way: an imaginary part, or a step to whole numbers."""
    is_payload = path[0].idx == 0
    part = f"{'payload' if is_payload else 'stats'}{jtu.keystr(path[1:])}"
    if jnp.iscomplexobj(x):
        raise TypeError(
            f"{name} sends a complex `{part}`, {kind_of(x)}, but norms and means here "
            "are those of real numbers. Send the real and the imaginary part."
        )
    if is_payload and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} must send floating-point numbers, but `{part}` is {kind_of(x)}."
        )


def check_encoded(aggregator: AbstractAggregator, out: Any) -> tuple[PyTree, Metrics]:
    """What an aggregator made of one message."""
    _check_pair(aggregator, "encode", "what was encoded and its metrics", out, 2)
    encoded, metrics = out
    name = f"`{type(aggregator).__name__}.encode`"
    leaves = jtu.tree_leaves_with_path(encoded)
    if not leaves:
        raise TypeError(f"{name} must return a tree of arrays, got {shown(encoded)}.")
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array | np.ndarray):
            where = f"one of them (`{jtu.keystr(path)}`) is {shown(leaf)}"
            got = f"but {where}" if path else f"got {shown(leaf)}"
            raise TypeError(f"{name} must return arrays, {got}.")
    return encoded, _check_metrics(name, metrics)


def check_decoded(
    aggregator: AbstractAggregator, out: Any, state: AggregatorState
) -> tuple[Aggregate, AggregatorState, Metrics]:
    """What an aggregator made of all messages."""
    what = "an `Aggregate`, its new state and its metrics"
    _check_pair(aggregator, "decode", what, out, 3)
    aggregate, new_state, metrics = out
    name = f"`{type(aggregator).__name__}.decode`"
    if not isinstance(aggregate, Aggregate):
        raise TypeError(
            f"{name} must return an `Aggregate` first, got {shown(aggregate)}."
        )
    _check_number("An aggregate's `weight`", aggregate.weight)
    _check_number("An aggregate's `count`", aggregate.count)
    _check_truth("An aggregate's `accept`", aggregate.accept)
    _check_like(aggregator, "decode", "state", new_state, state)
    return aggregate, new_state, _check_metrics(name, metrics)


def _check_truth(name: str, x: Any) -> None:
    is_array = isinstance(x, jax.Array | np.ndarray)
    if not is_array or x.shape != () or x.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be one truth value, as an array (`aggregate.count > 0`, for "
            f"example), got {kind_of(x)}."
        )


def check_server(
    server: AbstractServer, out: Any, params: Params, state: ServerState
) -> tuple[Params, ServerState]:
    """What a server's round returned."""
    _check_pair(server, "round", "the new params and its new state", out, 2)
    new_params, new_state = out
    _check_like(server, "round", "params", new_params, params)
    _check_like(server, "round", "state", new_state, state)
    return new_params, new_state


def check_step(algorithm: Any, out: Any, before: Any) -> tuple[Any, Metrics, Array]:
    """What an algorithm's step returned: a state like the one it was given."""
    what = "the new state, metrics, and whether to accept the round"
    _check_pair(algorithm, "step", what, out, 3)
    after, metrics, accept = out
    name = f"`{type(algorithm).__name__}.step`"
    if type(after) is not type(before):
        raise TypeError(f"{name} must return a `State` first, got {shown(after)}.")
    for part in ("params", "rest", "server", "aggregator", "clients", "statistics"):
        new, old = getattr(after, part), getattr(before, part)
        _check_like(algorithm, "step", f"state.{part}", new, old)
    metrics = _check_metrics(name, metrics, taken=("round", "nonfinite_model"))
    for needed in ("loss", "clients", "nonfinite", "bits_up", "bits_down"):
        if needed not in metrics:
            raise ValueError(
                f"{name} must report `{needed}` among its metrics: return those of a "
                "pass, `outcome.metrics`, or add your own to them."
            )
    _check_truth(f"{name}'s last value", accept)
    return after, metrics, accept
