"""What the parts of a round promise each other.

A client, an aggregator or a server of one's own may return anything. So what comes back
is held against what was given: by structure, shapes and dtypes alone, which are known
while a round is traced, so that a compiled round pays nothing for it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ._aggregator import AbstractAggregator, Aggregate
from ._client import AbstractClient, Message
from ._metrics import AbstractMetric, check_free, RESERVED
from ._server import AbstractServer
from ._tree import difference, kind_of, leaves_by_path, params_of
from ._types import AggregatorState, ClientState, Model, Params, ServerState
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
    if not isinstance(metrics, dict):
        raise TypeError(
            f"{name} must return a dictionary of metrics last, got {shown(metrics)}."
        )
    check_free(name, metrics, [x for x in RESERVED if x != "loss"])
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must name its metrics by text, got {shown(key)}.")
        if not isinstance(value, AbstractMetric):
            wanted = "an `AbstractMetric`, `Average(x)` for example"
            raise TypeError(sentence(f"metrics[{key!r}]", wanted, value))
    return message, new_state, metrics


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


def check_encoded(aggregator: AbstractAggregator, encoded: Any) -> PyTree:
    """What an aggregator made of one message."""
    name = f"`{type(aggregator).__name__}.encode`"
    leaves = jtu.tree_leaves_with_path(encoded)
    if not leaves:
        raise TypeError(f"{name} must return a tree of arrays, got {shown(encoded)}.")
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array | np.ndarray):
            where = f"one of them (`{jtu.keystr(path)}`) is {shown(leaf)}"
            got = f"but {where}" if path else f"got {shown(leaf)}"
            raise TypeError(f"{name} must return arrays, {got}.")
    return encoded


def check_decoded(
    aggregator: AbstractAggregator, out: Any, state: AggregatorState
) -> tuple[Aggregate, AggregatorState]:
    """What an aggregator made of all messages."""
    _check_pair(aggregator, "decode", "an `Aggregate` and its new state", out, 2)
    aggregate, new_state = out
    if not isinstance(aggregate, Aggregate):
        name = type(aggregator).__name__
        raise TypeError(
            f"`{name}.decode` must return an `Aggregate` first, got {shown(aggregate)}."
        )
    _check_number("An aggregate's `weight`", aggregate.weight)
    _check_number("An aggregate's `count`", aggregate.count)
    _check_like(aggregator, "decode", "state", new_state, state)
    return aggregate, new_state


def check_server(
    server: AbstractServer, out: Any, params: Params, state: ServerState
) -> tuple[Params, ServerState]:
    """What a server's round returned."""
    _check_pair(server, "round", "the new params and its new state", out, 2)
    new_params, new_state = out
    _check_like(server, "round", "params", new_params, params)
    _check_like(server, "round", "state", new_state, state)
    return new_params, new_state


class _Sized:
    """A leaf that has one entry for each client of a population of unknown size."""


def check_state(
    client: AbstractClient,
    aggregator: AbstractAggregator,
    server: AbstractServer,
    model: Model,
    states: tuple[ServerState, AggregatorState, ClientState],
) -> None:
    """Whether a state is of this algorithm and of this model.

    **Raises:**

    `ValueError` that names the part that is not.
    """
    of_server, of_aggregator, of_clients = states
    params = params_of(model)
    sizes = {x.shape[0] for x in jtu.tree_leaves(of_clients) if jnp.ndim(x) > 0}
    try:
        one = eqx.filter_eval_shape(client.init, params)
        clients = jtu.tree_map(lambda x: _stacked(x, sizes), one)
        at_server = _server_state(server, params, sizes)
        at_aggregator = eqx.filter_eval_shape(aggregator.init, params)
    except jax.errors.JAXTypeError:
        return  # An `init` of one's own that cannot be traced: nothing is known.
    for name, got, wanted in (
        ("server", of_server, at_server),
        ("aggregator", of_aggregator, at_aggregator),
        ("clients", of_clients, clients),
    ):
        found = difference(f"state.{name}", _unsized(got, wanted), wanted)
        if found is not None:
            raise ValueError(
                f"The state is not of this algorithm and model: {found}. Take the one "
                "that `algorithm.init(model, num_clients=...)` returned, or a round of "
                "the same algorithm."
            )


def _stacked(x: Any, sizes: set[int]) -> Any:
    if getattr(x, "shape", None) is None or not sizes:
        return x
    return jax.ShapeDtypeStruct((max(sizes), *x.shape), x.dtype)


def _server_state(
    server: AbstractServer, params: Params, sizes: set[int]
) -> ServerState:
    def init(count: int) -> ServerState:
        return eqx.filter_eval_shape(server.init, params, num_clients=count)

    if sizes:
        return init(max(sizes))
    # Clients that keep nothing do not tell how many they are.
    return jtu.tree_map(
        lambda x, y: x if jnp.shape(x) == jnp.shape(y) else _Sized(), init(2), init(3)
    )


def _unsized(x: PyTree, like: PyTree) -> PyTree:
    """With `_Sized` where the other tree has it."""
    sized = {
        path for path, leaf in leaves_by_path(like).items() if isinstance(leaf, _Sized)
    }
    return jtu.tree_map_with_path(
        lambda path, leaf: _Sized() if jtu.keystr(path) in sized else leaf, x
    )
