"""The loop over rounds, as an iterator; [`equifed.train`][] is built on it."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._check import check_count, check_kind, checked
from .._client import traced_loss
from .._debug import by_number
from .._executor import Executor
from .._interrupt import keep, where
from .._round import State
from .._round.check import check_state
from .._round.debugged import DebuggedSteps
from .._stepper.stepper import Stepper
from .._stepper.tune import tuned
from .._store import ClientStates, moved, store_of
from .._types import ClientState, Model
from .._used_up import check_not_used_up
from ..data import AbstractBatching, AbstractLoader, Loader
from ..data._calls import cohorts_of, Peekable, split, stacks
from .counted_twice import warn_if_counted_twice
from .missing_rows import MissingRows
from .reported import with_reports


@checked(loader="Make one with `Loader(dataset, sampler, algorithm.batching)`.")
def rounds(
    algorithm: AbstractAlgorithm,
    state: State,
    loader: AbstractLoader,
    *,
    num_rounds: int,
    key: PRNGKeyArray,
    executor: Executor | None = None,
    rounds_per_call: int = 1,
    client_states: ClientStates = None,
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Runs rounds one after another, up to round `num_rounds`.

    The state that is yielded is used up by the next round: what you want to keep of
    it, copy before going on (`jax.tree.map(jnp.copy, state.model)`). If Ctrl-C or an
    error comes while a round is run, the exception has the state that was reached, as
    its attribute `state`.

    **Arguments:**

    - `state`: where to start: what `algorithm.init` returned, or a restored state.
        Cohorts are drawn from round `state.round` on.
    - `num_rounds`: the number of rounds in all, those behind `state` included.
    - `key`: the experiment's root key.
    - `executor`: how to run the rounds.
    - `rounds_per_call`: how many rounds one call of the compiled program runs. More
        than one is faster where a round takes less than about a millisecond.
    - `client_states`: where what each client keeps is to lie: `"device"`, `"sharded"`,
        `"host"` or a folder, as for [`equifed.train`][]; where the state has it, if not
        given. In a folder it is changed in place: the state that was given is used up.

    **Returns:**

    An iterator of pairs: the state after each round, and the round's metrics (still on
    the device: reading one waits for the round), with what the loader reports. With
    `rounds_per_call` above 1 there is a pair for each call, and its metrics have a
    leading axis of rounds.

    !!! example

        ```python
        for state, metrics in eqf.rounds(
            algorithm, state, loader, num_rounds=100, key=key
        ):
            print(int(state.round), float(metrics["loss"]))
        ```
    """
    check_count("num_rounds", num_rounds, least=0)
    _, missing = check_rounds(algorithm, state, loader, rounds_per_call)
    number = int(state.round)
    check_ahead(num_rounds, number, "the state is")
    calls = Calls(
        algorithm,
        state,
        loader,
        num_rounds=num_rounds,
        key=key,
        executor=executor,
        rounds_per_call=rounds_per_call,
        missing=missing,
        client_states=client_states,
    )
    several = rounds_per_call > 1
    return with_reports(_pairs(calls), loader, number, several=several)


def _pairs(calls: "Calls") -> Iterator[tuple[State, dict[str, Any]]]:
    try:
        for state, metrics, _ in calls:
            yield state, metrics
    except GeneratorExit:
        raise  # The loop was left, with a state in hand.
    except BaseException as error:
        state, metrics, _ = calls.reached()
        note = f"The state that was reached is kept as {where(error, 'state')}."
        keep(error, "" if metrics is None else note, state=state)
        raise


class Calls:
    """Rounds in calls of at most `rounds_per_call`, as an iterator.

    It gives the state after each call, the metrics, and how many rounds were run; and
    whatever interrupts it, what was reached.
    """

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        loader: AbstractLoader,
        *,
        num_rounds: int,
        key: PRNGKeyArray,
        executor: Executor | None,
        rounds_per_call: int,
        missing: MissingRows,
        breaks: Sequence[int] = (),
        stop_nonfinite: bool = False,
        client_states: ClientStates = None,
        owned: bool = False,
    ):
        """**Arguments:**

        - `missing`: looks at each round's data before it is run.
        - `breaks`: no call goes beyond a multiple of any of these.
        - `stop_nonfinite`: whether a call ends early with a round whose model is not
            finite.
        - `owned`: whether nobody else has what clients keep: it is not copied.
        """
        self._algorithm, self._loader, self._key = algorithm, loader, key
        self._executor = Executor() if executor is None else executor
        if self._executor.debug and rounds_per_call > 1:
            raise ValueError(
                "`Executor(debug=True)` runs one round in a call, got "
                f"`rounds_per_call={rounds_per_call}`. Leave it out while debugging."
            )
        self._num_rounds, self._size = num_rounds, rounds_per_call
        self._breaks, self._stop = breaks, stop_nonfinite
        self._missing = missing
        clients = moved(state.clients, client_states, loader.mesh, owned=owned)
        _check_calls(clients, rounds_per_call)
        self._state: State | None = dataclasses.replace(state, clients=clients)
        self._step: Stepper | DebuggedSteps | None = None

    def __iter__(self) -> Iterator[tuple[State, dict[str, Any], int | Array]]:
        loader, state = self._loader, self._state
        assert state is not None
        start, executor = int(state.round), self._executor
        if executor.block_size == "auto":
            _, first = next(cohorts_of(loader, start, start + 1))
            self._missing(start, lambda: self._model, lambda: first)
            executor = tuned(
                self._algorithm, state, first, key=self._key, executor=executor
            )
        parts = {"key": self._key, "executor": executor}
        if executor.debug:
            step = DebuggedSteps(
                self._algorithm, state, **parts, names=lambda i: _name(loader, i)
            )
        else:
            step = Stepper(
                self._algorithm,
                state,
                **parts,
                mesh=loader.mesh,
                several=self._size > 1,
            )
        self._step = step
        self._state = None  # The caller may have let go of it.
        del state
        if self._size == 1:
            each = Peekable(cohorts_of(loader, start, self._num_rounds))
            try:
                for round, cohort in each:
                    self._missing(round, lambda: self._model, lambda: cohort)  # noqa: B023
                    done = step(cohort)
                    step.ahead(each.peek)
                    yield *done, 1
            finally:
                step.finish()
            return
        assert isinstance(step, Stepper)
        calls = split(start, self._num_rounds, self._size, self._breaks)
        for call, cohorts in stacks(loader, calls, self._size):
            count = len(call)
            for i, round in enumerate(call):
                self._missing(round, lambda: self._model, lambda: cohorts[i])  # noqa: B023
            state, metrics, ran = step.several(cohorts, count, stop=self._stop)
            if count < self._size:
                metrics = {name: x[:count] for name, x in metrics.items()}
            yield state, metrics, ran

    @property
    def _model(self) -> Model | None:
        """One of those that are trained: they are alike."""
        return next(iter(self._algorithm.models(self.reached()[0])), None)

    def reached(self) -> tuple[State, dict[str, Any] | None, int | Array | None]:
        """The state after the last call, that call's metrics, if there was one, and
        its number of rounds, if it ran several."""
        if self._step is None:
            assert self._state is not None
            return self._state, None, None
        metrics, ran = (*self._step.last, None, None)[:2]
        return self._step.state, metrics, ran


def _name(loader: AbstractLoader, number: int) -> str:
    """A client's number, and its id where that is known."""
    if isinstance(loader, Loader) and number < len(loader.dataset):
        return f"{by_number(number)}, {loader.dataset.client_ids[number]!r}"
    return by_number(number)


def check_rounds(
    algorithm: AbstractAlgorithm,
    state: State,
    loader: AbstractLoader,
    rounds_per_call: int,
) -> tuple[Collection[str], MissingRows]:
    """Refuses what does not fit together, before anything is compiled.

    **Returns:**

    The names of the metrics that the loss reports, if that is known; and what looks at
    the data of each round.
    """
    check_not_used_up("state", state)
    check_count("rounds_per_call", rounds_per_call)
    check_kind("loader.batching", getattr(loader, "batching", None), AbstractBatching)
    if loader.batching != algorithm.batching:
        raise ValueError(
            f"The loader's batching is {loader.batching!r}, but the algorithm's is "
            f"{algorithm.batching!r}. Build the loader with "
            "`Loader(dataset, sampler, algorithm.batching)`."
        )
    sizes = {x.shape[0] for x in jtu.tree_leaves(state.clients)}
    if loader.num_clients is None and sizes:
        raise stateful_on_a_stream(algorithm)
    if sizes - {loader.num_clients}:
        raise ValueError(
            f"The state is of {sizes.pop()} clients, but the loader has "
            f"{loader.num_clients}. Make it with "
            "`algorithm.init(model, num_clients=loader.num_clients)`."
        )
    _check_calls(state.clients, rounds_per_call)
    check_state(algorithm, state)
    warn_if_counted_twice(algorithm, loader)
    if isinstance(loader, Loader) and loader.clock is not None:
        loader.clock.check_algorithm(algorithm)
    loss, models = algorithm.loss, eqx.filter_eval_shape(algorithm.models, state)
    if not isinstance(loader, Loader) or not models:
        return (), MissingRows(loader, loss, algorithm._numbered, None)
    # By shape alone, so that the error can name the client.
    client, example = loader.dataset.client_ids[0], loader.dataset.example
    reported, lookups = traced_loss(
        *(loss, models[0], example, f"client {client!r}", algorithm._numbered)
    )
    missing = MissingRows(loader, loss, algorithm._numbered, lookups)
    missing.before(algorithm.models(state)[0])
    return reported, missing


def _check_calls(clients: ClientState, rounds_per_call: int) -> None:
    if rounds_per_call > 1 and store_of(clients) is not None:
        raise ValueError(
            "With `client_states` other than 'device' clients' rows are brought to a "
            f"round, so that a call runs one, got `rounds_per_call={rounds_per_call}`. "
            "Leave it out, or give `client_states='device'`."
        )


def check_ahead(num_rounds: int, number: int, what: str, remedy: str = "") -> None:
    """Refuses to train up to a round that is behind already."""
    if number > num_rounds:
        raise ValueError(
            f"`num_rounds` is {num_rounds}, but {what} of round {number}, and "
            "`num_rounds` counts all rounds from the first. Give "
            f"{number} or more{remedy}."
        )


def stateful_on_a_stream(algorithm: AbstractAlgorithm) -> ValueError:
    return ValueError(
        f"`{type(algorithm).__name__}` keeps a state for each client, but a stream "
        "does not know its clients. Use a `FederatedDataset` and a `Loader`."
    )
