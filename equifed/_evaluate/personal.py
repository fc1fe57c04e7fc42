"""Each client's own model, on its own examples.

A model is made from what the client keeps, by `algorithm.own_model`, and may be tuned
first. Clients are gone through in chunks, so that the models of all need not fit; what
all have in common is there once.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._check import checked
from .._round import State
from .._types import Measure
from .._used_up import check_not_used_up
from ..data import FederatedDataset
from .clients import ClientMetrics
from .evaluator import Evaluator
from .fine_tune import fine_tuned, FineTune
from .made import Maker, newcomer
from .own import Own


# The models of one chunk of clients take up at most so many bytes.
_CHUNK = 2**28


@checked(
    test="Build one with `FederatedDataset.from_arrays` or its siblings.",
    clients="Give the dataset that was trained on.",
)
def evaluate_personal(
    algorithm: AbstractAlgorithm,
    state: State,
    test: FederatedDataset,
    metrics: Measure,
    *,
    clients: FederatedDataset,
    fine_tune: FineTune | None = None,
    support: FederatedDataset | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
) -> ClientMetrics:
    """Evaluates each client's own model on that client's examples, in inference mode.

    A client is known by its id. Its model is `algorithm.own_model` of its row of
    `state.clients`; that of an algorithm whose clients keep nothing is the one that was
    trained. A client that was not trained with has what one would begin with that
    joined now: the shared part of the model, and for the rest what `init` was given.

    **Arguments:** as those of [`equifed.evaluate`][], and

    - `algorithm`, `state`: `solution.state`, say.
    - `test`: the examples to evaluate on.
    - `clients`: the dataset that was trained on: its clients are the rows of
        `state.clients`.
    - `fine_tune`: steps that each client takes first, on its examples of `support`. The
        metrics of one that diverges are NaN, with a warning.
    - `support`: by default `clients`. Who has no example there is not tuned.
    - `key`: fine-tuning's too; a client's own follows from it and its number.
    - `mesh`: fine-tuning's too: each device tunes whole clients.

    **Returns:**

    An [`equifed.ClientMetrics`][], in the order of `test.client_ids`. A client without
    examples in `test` has NaN. `unseen` are the ids of those not trained with.

    **Raises:** as [`equifed.evaluate`][], and

    `ValueError` if the algorithm has no model to give, if the state is of another
    number of clients, or if a client would have to be tuned on examples that are not
    there.

    !!! example

        ```python
        found = eqf.evaluate_personal(
            algorithm, solution.state, test, accuracy, clients=train
        )
        found.mean("accuracy"), found.tail("accuracy", 0.1)
        ```
    """
    evaluator = PersonalEvaluator(
        test, metrics, clients, fine_tune, support, batch_size, mesh
    )
    return evaluator(algorithm, state, key)[1]


class PersonalEvaluator:
    """Evaluates own models again and again."""

    def __init__(
        self,
        test: FederatedDataset,
        metrics: Measure,
        clients: FederatedDataset,
        fine_tune: FineTune | None = None,
        support: FederatedDataset | None = None,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        self._test, self._clients, self._tune = test, clients, fine_tune
        self._mesh = mesh
        self._support = clients if support is None else support
        self._whole = Evaluator(test, metrics, batch_size=batch_size, mesh=mesh)
        self._number = _numbers(test, clients)
        self._at_support = _numbers(test, self._support)
        if fine_tune is not None:
            self._check_support()
        elif support is not None:
            raise ValueError(
                "`support` has examples to fine-tune on, and there is no `fine_tune`. "
                "Give `fine_tune=equifed.FineTune(loss, optim, batching)`, or leave it "
                "out."
            )

    def _check_support(self) -> None:
        sizes = np.asarray(self._test.client_sizes)
        none = (self._at_support < 0) & (sizes > 0)
        if none.any():
            ids = self._test.client_ids
            raise ValueError(
                f"`fine_tune` has no examples of {int(none.sum())} of the clients, "
                f"{ids[int(none.argmax())]!r} the first: they are not in `clients`. "
                "Give `support`, a dataset with some examples of each (see "
                "`split_examples`)."
            )

    def check(
        self, algorithm: AbstractAlgorithm, state: State, where: str = ""
    ) -> list[str]:
        """The names of what is measured; an error if there is no model to measure."""
        row = eqx.filter_eval_shape(newcomer, algorithm, state)
        model = eqx.filter_eval_shape(algorithm.own_model, state, row)
        if model is None:
            raise ValueError(
                f"`{type(algorithm).__name__}` trains several models, and does "
                "not say which of them is a client's own. Evaluate those of "
                "`algorithm.models(state)`."
            )
        sizes = {x.shape[0] for x in jtu.tree_leaves(state.clients)}
        if sizes - {self._clients.num_clients}:
            raise ValueError(
                f"The state is of {sizes.pop()} clients, and `clients` has "
                f"{self._clients.num_clients}. Give the dataset that was trained on."
            )
        return self._whole._check(model, where)

    def __call__(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        key: PRNGKeyArray | None = None,
    ) -> tuple[dict[str, Any], ClientMetrics]:
        """The metrics over all examples, and those of each client."""
        check_not_used_up("state", state)
        self.check(algorithm, state)
        key = jr.key(0) if key is None else key
        maker = Maker(algorithm, state, self._tune)
        parts = []
        for chunk in self._chunks(maker.nbytes):
            own, failed = self._models(maker, chunk, key)
            one = self._whole
            if len(chunk) < self._test.num_clients:
                size = one._batch_size_for(own[0])
                first_row = int(self._test.offsets[chunk[0]])
                one = one._like(self._test.select(chunk), size, first_row)
            part = jax.device_get(one._own(own, key))
            parts.append(jtu.tree_map(lambda x: _nan_where(failed, x), part))  # noqa: B023
            self._whole._explained |= one._explained
        total = jtu.tree_map(lambda *x: np.concatenate(x), *parts)
        found, each = self._whole._told(total)
        ids = self._test.client_ids
        unseen = tuple(ids[i] for i in np.flatnonzero(self._number < 0))
        each = ClientMetrics(each.values, each.num_examples, each.client_ids, unseen)
        return found, each

    def _chunks(self, nbytes: int) -> Iterator[np.ndarray]:
        """The clients of the test set, in parts whose models fit."""
        count = self._test.num_clients
        size = max(1, min(count, _CHUNK // max(nbytes, 1)))
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count))

    def _models(
        self, maker: Maker, chunk: np.ndarray, key: PRNGKeyArray
    ) -> tuple[Own, np.ndarray]:
        """The models of some clients, and whose fine-tuning diverged."""
        own = maker(self._number[chunk])
        stacked, common = own.stacked, own.common
        failed = np.zeros(len(chunk), bool)
        if self._tune is not None:
            numbers = self._at_support[chunk]
            parts = (self._tune, stacked, common, self._support, numbers)
            stacked, failed = fine_tuned(*parts, key, mesh=self._mesh)
        # The flags of layers are not arrays, and so in common.
        return Own(stacked, eqx.nn.inference_mode(common)), failed


def _numbers(test: FederatedDataset, other: FederatedDataset) -> np.ndarray:
    """The numbers of a dataset's clients in another one, -1 where they are not."""
    known = {name: i for i, name in enumerate(other.client_ids)}
    return np.array([known.get(name, -1) for name in test.client_ids])


def _nan_where(failed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sums of clients, of which some are not known."""
    if not failed.any() or not np.issubdtype(x.dtype, np.floating):
        return x
    return np.where(failed.reshape(-1, *[1] * (x.ndim - 1)), np.nan, x).astype(x.dtype)
