"""How a client visits its examples: for how long, and in which batches.

A batching turns a number of examples into a table of row numbers with one row for
each step. It knows nothing of the examples, the client or the round; the generator
that it is given depends on all three, so that the same client sees the same order
whichever slot, device or process runs it.
"""

import abc
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Int

from .._check import check_count, checked
from .._cohort import NO_ROW
from .._overrides import inherit_types
from ._random import raw


class AbstractBatching(eqx.Module):
    """The order in which a client visits its examples."""

    batch_size: eqx.AbstractVar[int]

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def order(
        self, num_examples: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "steps batch"]:
        """Lays out a client's steps.

        **Arguments:**

        - `num_examples`: How many examples the client has. Without any, there are no
            steps.
        - `rng`: The client's generator for this round.

        **Returns:**

        For each step the numbers of its examples, from 0 to `num_examples - 1`. An
        empty place in a short batch holds -1.
        """

    @abc.abstractmethod
    def num_steps(
        self, num_examples: Int[np.ndarray, " clients"]
    ) -> Int[np.ndarray, " clients"]:
        """Counts the steps of clients with so many examples, without laying them out.

        **Arguments:**

        - `num_examples`: An array of numbers of examples.

        **Returns:**

        The number of rows that `order` has for each of them.
        """


class Epochs(AbstractBatching):
    """Passes over the client's examples, each in a new order.

    With `last="short"` a pass ends in a batch that may be smaller; with `"drop"` that
    batch is left out, and a client with fewer than `batch_size` examples does nothing;
    with `"fill"` the passes are strung together and cut into full batches,
    `ceil(num_epochs * num_examples / batch_size)` of them, the last of which is filled
    from one more pass. This is what TensorFlow Federated and FedJAX do; a batch may
    then hold an example twice.

    !!! example

        ```python
        Epochs(5, batch_size=20)
        ```
    """

    num_epochs: int
    batch_size: int
    last: Literal["short", "drop", "fill"]
    shuffle: bool

    @checked()
    def __init__(
        self,
        num_epochs: int = 1,
        *,
        batch_size: int,
        last: Literal["short", "drop", "fill"] = "short",
        shuffle: bool = True,
    ):
        """**Arguments:**

        - `num_epochs`: The number of passes.
        - `batch_size`: The number of examples in a batch.
        - `last`: What becomes of a pass's incomplete last batch: `"short"`, `"drop"`
            or `"fill"`.
        - `shuffle`: Whether each pass has a new random order; otherwise every pass
            goes through the examples as they are stored.
        """
        self.num_epochs = check_count("num_epochs", num_epochs)
        self.batch_size = check_count("batch_size", batch_size)
        self.last = last
        self.shuffle = bool(shuffle)

    def order(
        self, num_examples: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "steps batch"]:
        # Each is read once: of a module that takes as long as to draw some numbers.
        size, num_epochs, last = self.batch_size, self.num_epochs, self.last
        shuffle = self.shuffle
        if last == "fill":
            num_steps = -(-num_epochs * num_examples // size)
            return _full_batches(num_examples, num_steps, size, rng, shuffle=shuffle)
        rows = _passes(num_examples, num_epochs, rng, shuffle=shuffle)
        if last == "drop":
            rows = rows[:, : num_examples // size * size]
        elif (missing := -num_examples % size) > 0:
            padded = np.full((num_epochs, num_examples + missing), NO_ROW)
            padded[:, :num_examples] = rows
            rows = padded
        return rows.reshape(-1, size)

    def num_steps(
        self, num_examples: Int[np.ndarray, " clients"]
    ) -> Int[np.ndarray, " clients"]:
        num_examples, size = np.asarray(num_examples), self.batch_size
        if self.last == "fill":
            return -(-self.num_epochs * num_examples // size)
        if self.last == "drop":
            return self.num_epochs * (num_examples // size)
        return self.num_epochs * -(-num_examples // size)


class Steps(AbstractBatching):
    """The same number of steps for every client, however many examples it has.

    The client's examples are passed over as often as needed, each time in a new order,
    and the passes are cut into full batches. A batch may hold an example twice, where
    a pass ends inside it.

    !!! example

        ```python
        Steps(10, batch_size=20)
        ```
    """

    num_batches: int
    batch_size: int
    shuffle: bool

    @checked()
    def __init__(self, num_steps: int, *, batch_size: int, shuffle: bool = True):
        """**Arguments:**

        - `num_steps`: The number of steps of each client that has any example.
        - `batch_size`: The number of examples in a batch.
        - `shuffle`: Whether each pass has a new random order.
        """
        self.num_batches = check_count("num_steps", num_steps)
        self.batch_size = check_count("batch_size", batch_size)
        self.shuffle = bool(shuffle)

    def order(
        self, num_examples: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "steps batch"]:
        num_steps = self.num_batches if num_examples > 0 else 0
        return _full_batches(
            num_examples, num_steps, self.batch_size, rng, shuffle=self.shuffle
        )

    def num_steps(
        self, num_examples: Int[np.ndarray, " clients"]
    ) -> Int[np.ndarray, " clients"]:
        return np.where(np.asarray(num_examples) > 0, self.num_batches, 0)


def _passes(
    num_examples: int, num_passes: int, rng: np.random.Generator, *, shuffle: bool
) -> Int[np.ndarray, "passes examples"]:
    if not shuffle:
        return np.tile(np.arange(num_examples), (num_passes, 1))
    bits = raw(rng, num_passes * num_examples).reshape(num_passes, num_examples)
    return bits.argsort(axis=1, kind="stable")


def _full_batches(
    num_examples: int,
    num_steps: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    shuffle: bool,
) -> Int[np.ndarray, "steps batch"]:
    num_visits = num_steps * batch_size
    num_passes = -(-num_visits // max(num_examples, 1))
    rows = _passes(num_examples, num_passes, rng, shuffle=shuffle)
    return rows.reshape(-1)[:num_visits].reshape(num_steps, batch_size)
