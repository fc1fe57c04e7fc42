"""An algorithm is a client, an aggregator and a server, and one `round` for all.

The round is written once. What makes an algorithm is which three parts it binds, so a
new one is a class whose only method is an `__init__` that picks them; or no class at
all: `Algorithm(client=..., aggregator=..., server=...)`.
"""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._aggregator import AbstractAggregator
from .._check import check_count, check_kind, checked
from .._client import AbstractClient
from .._cohort import Cohort, NO_CLIENT
from .._compiled import compiled, Flat
from .._executor import Executor
from .._server import AbstractServer
from .._tree import params_of, wide_dtype
from .._types import ClientState, Model, Params
from .._used_up import check_not_used_up
from .._words import shown
from ..data import AbstractBatching
from .apart import one_round_apart, runs_apart
from .lookups import check_lookups
from .parts import check_parts
from .state import repeat, State
from .step import one_round


class AbstractAlgorithm(eqx.Module):
    """A client, an aggregator and a server, bound."""

    client: eqx.AbstractVar[AbstractClient]
    aggregator: eqx.AbstractVar[AbstractAggregator]
    server: eqx.AbstractVar[AbstractServer]

    def __check_init__(self):
        check_kind("client", self.client, AbstractClient)
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_kind("server", self.server, AbstractServer)
        check_kind("batching", self.batching, AbstractBatching)
        check_parts(self.client, self.server)

    @property
    def batching(self) -> AbstractBatching:
        """How a client goes through its examples; the loader needs it too."""
        return self.client.batching

    @checked()
    def init(self, model: Model, *, num_clients: int) -> State:
        """The state before the first round. The model is copied.

        **Arguments:**

        - `model`: any PyTree with floating-point arrays, which are what is trained, but
            for those of an `equinox.nn.State`, and those that the loss does not reach.
        - `num_clients`: the size of the population.

        **Raises:**

        `ValueError` if the model has nothing to train, or complex numbers to train, or
        numbers that are not finite, or the population is empty.
        """
        check_count("num_clients", num_clients)
        check_not_used_up("model", model)
        check_model(model)
        model = jtu.tree_map(lambda x: jnp.array(x) if eqx.is_array(x) else x, model)
        params = params_of(model)
        _check_real(params)
        if not jtu.tree_leaves(params):
            raise ValueError(
                "The model has no floating-point array, so there is nothing to train, "
                f"got {shown(model)}. Integer arrays and Python floats are not trained."
            )
        _check_finite(params)
        # The leaves of every client's state are the same at the start.
        client = self.client.init(params)
        clients = jtu.tree_map(lambda x: repeat(x, num_clients), client)
        server = self.server.init(params, num_clients=num_clients)
        aggregator = self.aggregator.init(params)
        return State(model, server, aggregator, clients, jnp.zeros((), jnp.int32))

    @checked(
        cohort="Take one from a `Loader`, or make one with `equifed.data.cohort`.",
    )
    def round(
        self,
        state: State,
        cohort: Cohort,
        *,
        key: PRNGKeyArray,
        executor: Executor = Executor(),  # noqa: B008 (holds no array)
    ) -> tuple[State, dict[str, Array]]:
        """Runs one round: broadcast, local work, aggregation, server step.

        It is compiled once for all cohorts of the same shape. If the new model or
        the server's new state is not finite, or no client had anything to say, the
        round is rejected: the state stays as it was, but for the number of rounds.

        **Arguments:**

        - `state`: what `init` or the last `round` returned.
        - `cohort`: this round's clients, from an [`equifed.data.Loader`][].
        - `key`: the experiment's root key, the same in every round: the round's number
            and the clients' are folded into it.
        - `executor`: how to run it; never changes the result.

        **Returns:**

        The new state, and metrics: `loss` (the mean training loss over the examples
        visited, as the clients moved, of those clients whose message is finite; NaN
        if there is none), whatever else the loss reports, `clients` (the number of
        messages aggregated), `nonfinite` (the number of clients whose message was not
        finite), `nonfinite_model` (1 if that is why the round was rejected).

        **Raises:**

        `ValueError` if the cohort does not fit the executor or the algorithm, or holds
        an id that has no row in a table which the loss reads.
        """
        check_round(self, cohort, executor)
        check_not_used_up("state", state)
        check_population(state.clients, cohort)
        fixed, old = Flat((self, key, executor, None)), Flat(state)
        check_lookups(self.client.loss, state.model, old, cohort)
        if runs_apart(executor, self, state, cohort, key):
            program = one_round_apart(fixed, old)
        else:
            program = compiled(one_round, fixed, old)
        arrays, metrics = program(fixed.arrays, old.arrays, cohort)
        return old.build(arrays), metrics


class Algorithm(AbstractAlgorithm):
    """Any client, aggregator and server."""

    client: AbstractClient
    aggregator: AbstractAggregator
    server: AbstractServer


def check_round(
    algorithm: AbstractAlgorithm, cohort: Cohort, executor: Executor
) -> None:
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


def check_population(states: ClientState, cohort: Cohort) -> None:
    """Whether each client of the cohort has a state; looks at the numbers."""
    sizes = {x.shape[0] for x in jtu.tree_leaves(states)}
    index = cohort.index
    if not sizes or isinstance(index, jax.core.Tracer):
        return
    if not index.is_fully_addressable:
        return  # Each process has its own.
    numbers = np.asarray(index)
    last = int(np.max(numbers, initial=-1, where=numbers != NO_CLIENT))
    if last >= min(sizes):
        raise ValueError(
            f"The cohort has a client number {last}, but the state is of "
            f"{min(sizes)} clients. Make it with `algorithm.init(model, "
            "num_clients=loader.num_clients)`."
        )


def _check_finite(params: Params) -> None:
    """Whether training can begin; looks at the numbers that are known."""
    for path, x in jtu.tree_leaves_with_path(params):
        if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
            continue
        if not np.isfinite(values := np.asarray(x, wide_dtype(x.dtype))).all():
            what = "nan" if np.isnan(values).any() else "inf"
            raise ValueError(
                f"`model{jtu.keystr(path)}` holds {what}, and nothing is learnt from "
                "a number that is not finite. Start from a finite model."
            )


def _check_real(params: Params) -> None:
    for path, x in jtu.tree_leaves_with_path(params):
        if jnp.iscomplexobj(x):
            raise ValueError(
                f"The model{jtu.keystr(path)} is complex ({x.dtype}), but norms, "
                "medians and steps here are those of real numbers. Keep the real "
                "and the imaginary part as two arrays, and join them in the model "
                "with `jax.lax.complex`."
            )
