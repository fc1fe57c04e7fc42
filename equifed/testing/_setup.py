"""What the laws try an algorithm on: a few ragged clients, and two rounds of them.

Nearly all of a law's time goes into compiling the round. So laws share what they have
had computed, and what they change is, where it can be, in the plan or in the data,
which are a round's arguments, and not in the program.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._check import check_kind
from .._cohort import Cohort, NO_CLIENT
from .._executor import Executor
from .._roles import Roles
from .._round import State
from .._round.step import round_step
from .._types import Loss
from .._words import shown
from ..data import AbstractBatching, Epochs, Loader
from ._clients import law_loader, SIZES
from ._losses import LawModel, plain_loss, quiet_loss
from ._problems import law_roles, Linear


T = TypeVar("T")
Make = Callable[[Loss, AbstractBatching], AbstractAlgorithm]
Change = Callable[[Cohort], Cohort]
Result = tuple[State, dict[str, Any]]

BATCHING = Epochs(2, batch_size=4)
SLOTS = len(SIZES) + 2  # Nobody sits in the last two.
KEY = 1


def same(cohort: Cohort) -> Cohort:
    return cohort


def quiet(cohort: Cohort) -> Cohort:
    """The same cohort, on which the plain loss is the quiet one."""
    return eqx.tree_at(lambda c: c.examples["noise"], cohort, replace_fn=jnp.zeros_like)


def slots_of(cohort: Cohort) -> tuple[Array, ...]:
    """All that is known of the slots; last, who sits in them."""
    c = cohort
    return c.start, c.stop, c.first, c.num_examples, c.info["staleness"], c.index


def with_slots(cohort: Cohort, slots: Sequence[Array]) -> Cohort:
    *plan, staleness, index = slots
    where = lambda c: (c.start, c.stop, c.first, c.num_examples, c.index)  # noqa: E731
    cohort = eqx.tree_at(where, cohort, (*plan, index))
    return dataclasses.replace(cohort, info={"staleness": staleness})


class Setup:
    """An algorithm on its clients."""

    make: Make
    algorithm: AbstractAlgorithm
    """Its loss notes when it is traced, and which key comes with which example."""
    loader: Loader
    state: State
    traces: list[int]
    """How often the loss had been traced after each of the first two rounds."""
    visits: list[tuple[bytes, int]]
    """The key and the number of each example that the loss was given in them."""
    spoiled: tuple[Result, Counter[int]] | None
    """What one law has had computed for another: see `ledger`."""
    at_once: bool | None
    """Whether some laws hold at once, if that was tried: see `hold_at_once`."""

    def __init__(
        self, make: Make, model: LawModel | None = None, roles: Roles | None = None
    ):
        self.make = make
        self.traces, self.visits = [], []
        self.spoiled, self.at_once = None, None
        self._count, self._listens = 0, False

        def visit(key: ArrayLike, number: ArrayLike) -> None:
            if self._listens:
                self.visits.append((np.asarray(key).tobytes(), int(np.asarray(number))))

        def loss(model: LawModel, example: dict[str, Array], key: PRNGKeyArray):
            self._count += 1
            jax.debug.callback(visit, jr.key_data(key), example["id"])
            return plain_loss(model, example, key)

        self._loss = loss
        self.algorithm = self.build(loss)
        self.loader = law_loader(self.algorithm.batching)
        if model is None:
            model, roles = Linear(), law_roles(self.algorithm.needs)
        self.state = self.algorithm.init(
            model, num_clients=len(SIZES), key=jr.key(KEY), roles=roles
        )

    def build(
        self, loss: Loss, batching: AbstractBatching = BATCHING
    ) -> AbstractAlgorithm:
        """The algorithm for another loss, or another batching."""
        algorithm = self.make(loss, batching)
        check_kind("make(loss, batching)", algorithm, AbstractAlgorithm)
        got = algorithm.batching.batch_size
        if got != batching.batch_size:
            raise ValueError(
                "`make(loss, batching)` must give the batching on to the algorithm: "
                f"asked for a batch size of {batching.batch_size}, got {got}."
            )
        return algorithm

    @functools.cached_property
    def plain(self) -> AbstractAlgorithm:
        """The algorithm with a loss that notes nothing: the same numbers."""
        return self.build(plain_loss)

    @functools.cached_property
    def quiet(self) -> AbstractAlgorithm:
        """The algorithm with a loss that ignores its key."""
        return self.build(quiet_loss)

    @functools.cached_property
    def expected(self) -> Result:
        """The state after two rounds, and the metrics of the second, which every way
        of running them must give."""
        algorithm, state, metrics = self.algorithm, self.state, {}
        self._listens = True
        for number in range(2):
            cohort = self.cohort(number)
            state, metrics = algorithm.round(state, cohort, key=jr.key(KEY))
            self.traces.append(self._count)
            # What is the same algorithm need not be the same object.
            algorithm = self.build(self._loss)
        jax.effects_barrier()
        self._listens = False
        if not self.visits:
            raise ValueError(
                "The algorithm never computed the loss that `make(loss, batching)` was "
                "given, so no law can see what it does. Give `loss` on to its client."
            )
        return state, metrics

    @functools.cached_property
    def expected_quiet(self) -> Result:
        """The same where nothing depends on the loss's keys."""
        return self.run(quiet)

    @functools.cached_property
    def expected_in_order(self) -> Result:
        """The same where sums are ordered."""
        device = SingleDeviceSharding(jax.devices()[0])
        return self.run(
            lambda cohort: placed(cohort, device),
            algorithm=self.plain,
            executor=Executor(ordered=True),
            place=lambda x: placed(x, device),
            bits=True,
        )

    def owner(self, number: int) -> str:
        """The client that has an example."""
        dataset = self.loader.dataset
        place = np.searchsorted(dataset.offsets, number, side="right") - 1
        return dataset.client_ids[int(place)]

    def cohort(self, number: int, loader: Loader | None = None) -> Cohort:
        """The cohort of a round, with some empty slots at its end, or at that of each
        device."""
        cohort = (loader or self.loader)(number)
        *slots, index = (np.asarray(x) for x in slots_of(cohort))
        wide = ((0, 0), (0, SLOTS - index.shape[1]))
        slots = [np.pad(x, wide) for x in slots]
        slots.append(np.pad(index, wide, constant_values=NO_CLIENT))
        return with_slots(cohort, [jnp.asarray(x) for x in slots])

    def run(
        self,
        change: Change = same,
        *,
        algorithm: AbstractAlgorithm | None = None,
        executor: Executor = Executor(),  # noqa: B008 (holds no array)
        loader: Callable[[int], Cohort] | None = None,
        state: State | None = None,
        start: int = 0,
        key: PRNGKeyArray | None = None,
        place: Callable[[Any], Any] = lambda x: x,
        bits: bool = False,
    ) -> Result:
        """Two rounds, because what clients and servers keep shows only in the second.

        **Arguments:**

        - `place`: puts the algorithm, the state and the key where they are to lie.
        - `bits`: whether the last bits matter, and how they are compiled with them.
        """
        loader = self.cohort if loader is None else loader
        state = self.state if state is None else state
        if algorithm is None:
            # The program of `expected`, as long as nothing has another shape.
            algorithm, step = self.algorithm, compiled_round
        else:
            step = compiled_round if bits else quickly(round_step)
        key = jr.key(KEY) if key is None else key
        method, after, root = place((algorithm, state, key))
        metrics = {}
        for number in range(start, 2):
            cohort = change(loader(number))
            after, metrics = step(method, after, cohort, root, executor)
        return after, metrics


def placed(tree: T, where: Sharding) -> T:
    """The same with its arrays on a device, or over some."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, where), rest)


def compiled_round(
    algorithm: AbstractAlgorithm,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
) -> Result:
    """A round as everybody runs it."""
    return algorithm.round(state, cohort, key=key, executor=executor)


def quickly(function: Callable) -> Callable:
    """A program of which the last bits do not matter, and which takes longer to compile
    than it ever runs."""
    options: Any = {"compiler_options": _quick_options()}
    return eqx.filter_jit(function, **options)


@functools.cache
def _quick_options() -> dict[str, bool | int] | None:
    options = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    }
    try:
        jax.jit(lambda x: x, compiler_options=options)(jnp.zeros(()))
    except Exception:  # noqa: BLE001 (another version of XLA may not know them)
        return None
    return options


_shared: list[Setup] = []


def setup(
    make: Make, model: LawModel | None = None, roles: Roles | None = None
) -> Setup:
    """What the laws share where they are tried together, or else anew."""
    if _shared and _shared[0].make is make:
        return _shared[0]
    try:
        inspect.signature(make).bind(quiet_loss, BATCHING)
    except TypeError as error:
        raise TypeError(
            f"`make` is called as `make(loss, batching)`, and {shown(make)} cannot be: "
            f"{error}. Write a function of these two that builds the algorithm."
        ) from None
    except ValueError:
        pass  # It does not tell its signature.
    return Setup(make, model, roles)


@contextlib.contextmanager
def shared(
    make: Make, model: LawModel | None = None, roles: Roles | None = None
) -> Iterator[None]:
    """Inside, all laws of `make` share what they have had computed, of that model."""
    _shared[:] = [setup(make, model, roles)]
    try:
        yield
    finally:
        _shared.clear()
