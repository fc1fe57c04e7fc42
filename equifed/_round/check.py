"""Whether a model, a cohort and a state can be what a round works on."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._client.keeping import kept_in
from .._cohort import Cohort, last_client
from .._executor import Executor
from .._roles import Roles
from .._store import ClientRows
from .._tree import difference, is_here, leaves_by_path, wide_dtype
from .._types import ClientState, Model, Params
from .state import begin, State


def check_round(algorithm: Any, cohort: Cohort, executor: Executor) -> None:
    executor.check(cohort)
    if cohort.batch_size != algorithm.batching.batch_size:
        raise ValueError(
            f"The cohort was planned with a batch size of {cohort.batch_size}, but the "
            f"algorithm's batching is {algorithm.batching!r}. Build the loader with "
            "`Loader(dataset, sampler, algorithm.batching)`."
        )


def check_model(model: Model) -> None:
    """Refuses NumPy's arrays, which JAX would take for part of the program."""
    for path, leaf in jtu.tree_leaves_with_path(model):
        if isinstance(leaf, np.ndarray):
            raise TypeError(
                f"The model's `{jtu.keystr(path)}` is an array of NumPy's, which is "
                "not trained. Make it one of JAX's: `jax.tree.map(jnp.asarray, model)`."
            )


def check_needs(algorithm: Any, roles: Roles | None) -> None:
    """Whether some leaves have each role that an algorithm needs."""
    for role in algorithm.needs:
        if roles is None or not roles.of(role):
            raise ValueError(
                f"`{type(algorithm).__name__}` needs {role} leaves, of which the model "
                f"has none. Give `roles=equifed.roles(model, {role}=lambda m: m.head)`."
            )


def check_population(states: ClientState, cohort: Cohort) -> None:
    """Whether each client of the cohort has a state; looks at the numbers."""
    sizes = {x.shape[0] for x in jtu.tree_leaves(states)}
    if sizes and (last := last_client(cohort)) >= min(sizes):
        raise ValueError(
            f"The cohort has a client number {last}, but the state is of "
            f"{min(sizes)} clients. Make it with `algorithm.init(model, "
            "num_clients=loader.num_clients)`."
        )


def check_finite(params: Params) -> None:
    """Whether training can begin; looks at the numbers that are known."""
    for path, x in jtu.tree_leaves_with_path(params):
        if not is_here(x):
            continue
        if not np.isfinite(values := np.asarray(x, wide_dtype(x.dtype))).all():
            what = "nan" if np.isnan(values).any() else "inf"
            raise ValueError(
                f"`model{jtu.keystr(path)}` holds {what}, and nothing is learnt from "
                "a number that is not finite. Start from a finite model."
            )


def check_real(params: Params) -> None:
    for path, x in jtu.tree_leaves_with_path(params):
        if jnp.iscomplexobj(x):
            raise ValueError(
                f"The model{jtu.keystr(path)} is complex ({x.dtype}), but norms, "
                "medians and steps here are those of real numbers. Keep the real "
                "and the imaginary part as two arrays, and join them in the model "
                "with `jax.lax.complex`."
            )


class _Sized:
    """A leaf that has one entry for each client of a population of unknown size."""


def check_state(algorithm: Any, state: State, *, axes: int = 1) -> None:
    """Whether a state is of this algorithm and of this model, as far as structure,
    shapes and dtypes tell.

    **Arguments:**

    - `axes`: how many axes the clients' states are stacked along: one over the
        population, two over a cohort's slots.

    **Raises:**

    `ValueError` that names the part that is not.
    """
    clients = jtu.tree_map(lambda x: _one(x, axes), state.clients)
    kept = kept_in(clients)
    personal = None if kept is None else kept.personal

    # A lambda: a function would be made ready for its checks again and again.
    begun = lambda num_clients: eqx.filter_eval_shape(  # noqa: E731
        begin,
        algorithm,
        state.params,
        personal,
        num_clients=num_clients,
        key=jr.key(0),
    )
    try:
        wanted, other = begun(2), begun(3)
    except jax.errors.JAXTypeError:
        return  # A `begin` of one's own that cannot be traced: nothing is known.
    if difference("params", wanted.params, state.params) is not None:
        return  # It keeps several models, and what it makes of these is not known.
    # Where two populations differ there is an entry for each client.
    server = jtu.tree_map(
        lambda x, y: x if jnp.shape(x) == jnp.shape(y) else _Sized(),
        wanted.server,
        other.server,
    )
    for name, got, like in (
        ("server", _unsized(state.server, server), server),
        ("aggregator", state.aggregator, wanted.aggregator),
        ("clients", clients, wanted.clients),
    ):
        found = difference(f"state.{name}", got, like)
        if found is not None:
            raise ValueError(
                f"The state is not of this algorithm and model: {found}. Take the one "
                "that `algorithm.init(model, num_clients=...)` returned, or a round of "
                "the same algorithm."
            )


def _one(x: Any, axes: int) -> Any:
    """The shape of one client's, of a stack."""
    is_array = eqx.is_array(x) or isinstance(x, ClientRows | np.ndarray)
    if not is_array or x.ndim < axes:
        return x
    return jax.ShapeDtypeStruct(x.shape[axes:], x.dtype)


def _unsized(x: PyTree, like: PyTree) -> PyTree:
    """With `_Sized` where the other tree has it."""
    sized = {
        path for path, leaf in leaves_by_path(like).items() if isinstance(leaf, _Sized)
    }
    return jtu.tree_map_with_path(
        lambda path, leaf: _Sized() if jtu.keystr(path) in sized else leaf, x
    )
