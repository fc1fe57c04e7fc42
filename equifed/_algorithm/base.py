"""What an algorithm is: how it begins, and one round of it as a short program.

A method of a paper says what happens in a round: what is sent to whom, what comes back,
and what the server makes of it. That is `step`, which makes one pass over the clients
or several. What is the same for all of them (the plan of the cohort, devices, what is
kept of a round that diverged) is not its business. Most methods are one pass with a
client, an aggregator and a server: see [`equifed.AbstractOnePass`][].
"""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._check import check_count, checked
from .._client.keeping import kept_in
from .._cohort import Cohort, NO_CLIENT
from .._compiled import compiled, FlatTree
from .._executor import Executor, Participants
from .._lookups import Numbered
from .._metrics import AbstractMetric
from .._overrides import inherit_types
from .._roles import is_empty, Role, Roles, split_model
from .._round import Beginning, State
from .._round.apart import one_round_apart, runs_apart
from .._round.check import (
    check_finite,
    check_model,
    check_needs,
    check_population,
    check_real,
    check_round,
)
from .._round.debugged import debugged_round
from .._round.lookups import check_lookups
from .._round.state import begin, repeat
from .._round.statistics import averaged, copied
from .._round.step import one_round, taken_apart
from .._round.stored import are_brought, round_of_slots
from .._store import begun as states_of_all, check_place, ClientStates
from .._tree import split_params
from .._types import ClientState, Loss, Model, Params
from .._used_up import check_not_used_up
from .._words import shown
from ..data import AbstractBatching


NOT_KEPT = (
    "`{}` cannot keep personal leaves: it {}, of which the part of these would mean "
    "nothing. Make them shared or frozen, or take an algorithm of one pass whose "
    "clients send nothing but the change of the model: `FedAvg`, say."
)


class AbstractAlgorithm(eqx.Module):
    """A federated algorithm. Subclass it for a method of your own."""

    loss: eqx.AbstractVar[Loss]
    """The loss of one example, which the clients train on."""
    batching: eqx.AbstractVar[AbstractBatching]
    """How a client goes through its examples; the loader needs it too."""
    needs: ClassVar[tuple[Role, ...]] = ()
    """Which roles some of the model's leaves must have: see [`equifed.roles`][]."""
    keeps_statistics: ClassVar[bool] = False
    """Whether the statistics of a [`equifed.Stateful`][] loss stay with each client, as
    nobody averages them: to `keep` they are personal."""
    _numbered: ClassVar[tuple[Numbered, ...]] = ()
    """What it reads of an example beside the loss, a number of so many: it is looked at
    before a round."""
    trusted_client: ClassVar[Int[Array, ""] | None] = None
    """The number of a client that is the server itself, whom nobody attacks."""
    rejects: ClassVar[tuple[str, str]] = (
        "by its aggregator, for which {clients:g} messages are too few",
        "Draw more clients a round, or tell the rule of fewer Byzantine ones.",
    )
    """Why it rejects a round to which some came, and what to do."""

    @property
    def carries_state(self) -> bool:
        """Whether its step carries the state of a [`equifed.Stateful`][] loss."""
        return False

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def begin(
        self, params: Params, *, num_clients: int, key: PRNGKeyArray | None
    ) -> Beginning:
        """What is there before the first round.

        **Arguments:**

        - `params`: those of the user's model, copied.
        - `num_clients`: the size of the population.
        - `key`: for an algorithm that begins at random; `None` if none was given.
        """

    @abc.abstractmethod
    def step(
        self, state: State, clients: Participants, *, key: PRNGKeyArray
    ) -> tuple[State, dict[str, AbstractMetric], Bool[Array, ""]]:
        """One round. It is traced, and must be pure.

        **Arguments:**

        - `state`: where the last round ended; `state.clients` are the states of this
            round's slots, with leading axes (devices, slots).
        - `clients`: the clients that take part; call them to make a pass.
        - `key`: this round's.

        **Returns:**

        The new state (but for the number of rounds), metrics, and whether to accept
        the round: if not, or if the new params or the server's state are not finite,
        the state stays as it was.
        """

    @abc.abstractmethod
    def model(self, state: State) -> Model | None:
        """The model that was trained, which is evaluated; `None` if there are several,
        none of which is the one."""

    def models(self, state: State) -> list[Model]:
        """All models that are trained; an algorithm of several gives them here."""
        one = self.model(state)
        return [] if one is None else [one]

    def own_model(self, state: State, kept: ClientState) -> Model | None:
        """The model that one client uses, whose row of `state.clients` is `kept`: the
        one that was trained, with the client's personal leaves, unless the method gives
        each client its own."""
        model, found = self.model(state), kept_in(kept)
        return model if found is None else eqx.combine(found.personal, model)

    def keep(self, params: Params, personal: Params, begun: Beginning) -> ClientState:
        """What ONE client keeps, in place of `begun.clients`, if some of the model's
        leaves are personal: see [`equifed.roles`][].

        An algorithm whose step can do with such clients overrides it.

        **Arguments:**

        - `params`, `personal`: the shared leaves and the personal ones.
        - `begun`: what `begin` returned.

        **Raises:**

        `ValueError` where it cannot.
        """
        raise ValueError(NOT_KEPT.format(type(self).__name__, "takes more passes"))

    @checked()
    def init(
        self,
        model: Model,
        *,
        num_clients: int,
        key: PRNGKeyArray | None = None,
        roles: Roles | None = None,
        client_states: ClientStates = "device",
    ) -> State:
        """The state before the first round. What is trained of the model is copied.

        **Arguments:**

        - `model`: any PyTree with floating-point arrays, which are what is trained, but
            for those of an `equinox.nn.State`, and those that the loss does not reach.
        - `num_clients`: the size of the population.
        - `key`: the experiment's root key. Only algorithms that begin at random need
            it.
        - `roles`: which of these are shared, personal or frozen: see
            [`equifed.roles`][]. By default all are shared.
        - `client_states`: where what each client keeps is to lie: `"device"`,
            `"host"`, or a folder, as for [`equifed.train`][].

        **Raises:**

        `ValueError` if the model has nothing to train, or complex numbers to train, or
        numbers that are not finite, or the population is empty; if the roles are of
        another model, or the algorithm cannot keep personal leaves.
        """
        check_place(client_states)
        if client_states == "sharded":
            raise ValueError(
                "`client_states` must be 'device', 'host' or a folder here, got "
                "'sharded': the mesh is the loader's. Give it to `equifed.rounds`."
            )
        return self._init(model, num_clients, key, roles, client_states, None)

    def _init(
        self,
        model: Model,
        num_clients: int,
        key: PRNGKeyArray | None,
        roles: Roles | None,
        client_states: ClientStates,
        mesh: Mesh | None,
    ) -> State:
        """`init`, by `train` too, which knows the mesh."""
        check_count("num_clients", num_clients)
        check_not_used_up("model", model)
        check_model(model)
        *parts, rest = split_model(model, roles)
        params, personal, statistics = copied(parts)
        check_needs(self, roles)
        own, own_statistics = split_params(personal)
        trained = eqx.combine(params, own)
        check_real(trained)
        if is_empty(trained):
            raise ValueError(
                "The model has no floating-point array, so there is nothing to train, "
                f"got {shown(model)}. Integer arrays and Python floats are not trained."
            )
        check_finite(trained)
        of_state = averaged(self, statistics, own_statistics)
        if of_state is not None and self.keeps_statistics:
            personal, of_state = eqx.combine(personal, of_state), None
        elif of_state is None:
            rest = eqx.combine(statistics, rest)
        if key is not None:
            key = jr.fold_in(key, NO_CLIENT)  # No round has this number.
        begun = begin(self, params, personal, num_clients=num_clients, key=key)
        # A client that has not taken part has the personal leaves of the model.
        rest = eqx.combine(personal, rest)
        # The leaves of every client's state are the same at the start.
        clients = states_of_all(begun.clients, num_clients, repeat, client_states, mesh)
        zero = jnp.zeros((), jnp.int32)
        parts = (begun.server, begun.aggregator, clients, zero, of_state)
        return State(begun.params, rest, *parts)

    @checked(cohort="Take one from a `Loader`, or make one by `equifed.data.cohort`.")
    def round(
        self,
        state: State,
        cohort: Cohort,
        *,
        key: PRNGKeyArray,
        executor: Executor = Executor(),  # noqa: B008 (holds no array)
    ) -> tuple[State, dict[str, Any]]:
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
        messages aggregated), `nonfinite` (the number of clients whose message, or what
        they would keep, was not finite), `nonfinite_model` (1 if that is why the round
        was rejected), and `bits_up` and `bits_down` (what the clients sent, and what
        was sent to them, in all passes; each a [`equifed.Bits`][]).

        **Raises:**

        `ValueError` if the cohort does not fit the executor or the algorithm, or holds
        an id that has no row in a table which the loss reads, or a number that the
        algorithm does not know.
        """
        check_round(self, cohort, executor)
        check_not_used_up("state", state)
        check_population(state.clients, cohort)
        brought = are_brought(self, state, cohort, key)
        fixed, old = taken_apart(self, state, key, executor, brought=brought)
        if not executor.debug:
            # Of several that are alike one tells what is read of all. (Not `fixed`,
            # which would keep the functions that are in the algorithm.)
            parts = [old, FlatTree(state.rest)]
            check_lookups(
                *(self.loss, self._numbered),
                *(lambda: next(iter(self.models(state)), None), parts, cohort),
            )
        if brought:
            return round_of_slots(self, state, cohort, key, executor, fixed, old)
        if executor.debug:
            return debugged_round(self, state, cohort, key, executor)
        if runs_apart(executor, cohort.mesh, self, state, cohort, key):
            program = one_round_apart(fixed, old)
        else:
            program = compiled(one_round, fixed, old)
        arrays, metrics = program(fixed.arrays, old.arrays, cohort)
        return dataclasses.replace(old.build(arrays), rest=state.rest), metrics
