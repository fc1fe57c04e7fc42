"""Batches over the examples of all clients: for a baseline without clients.

Each epoch is one permutation of all examples, whoever owns them. A buffer, through
which a file is shuffled that does not fit into memory, would keep what lies together in
the file together in the batches; here there is no need for one.
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from .._check import check_count, check_seed, checked
from ._batching import Epochs
from ._column import take
from ._dataset import FederatedDataset
from ._random import generator, POOL


@checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
def batches(
    dataset: FederatedDataset,
    batch_size: int,
    *,
    num_epochs: int | None = 1,
    last: Literal["short", "drop"] = "short",
    shuffle: bool = True,
    seed: int = 0,
) -> Iterator[dict[str, Shaped[np.ndarray, "batch ..."]]]:
    """Goes through the examples of all clients in batches, as centralised training
    does.

    To train centrally by an algorithm of this library, in its own loop, give it one
    client who owns everything, [`equifed.data.FederatedDataset.pooled`][].

    !!! example

        ```python
        for batch in eqf.data.batches(dataset, 128, num_epochs=10, seed=0):
            params, state = step(params, state, batch)
        ```

    **Arguments:**

    - `dataset`: The examples.
    - `batch_size`: The number of examples in a batch.
    - `num_epochs`: How often each example comes, or `None` for no end.
    - `last`: Whether an epoch's incomplete last batch is `"short"` or left out,
        `"drop"`.
    - `shuffle`: Whether each epoch has a new random order of all examples; otherwise
        they come client by client.
    - `seed`: The seed of the orders.

    **Returns:**

    An iterator over `{column: array}`, with one row for each example of a batch.
    """
    check_count("batch_size", batch_size)
    if num_epochs is not None:
        check_count("num_epochs", num_epochs)
    check_seed(seed)
    if last == "drop" and batch_size > dataset.num_examples:
        raise ValueError(
            f"`batch_size` is {batch_size}, but there are only {dataset.num_examples} "
            "examples, so that there is no batch. Lower it, or write `last='short'`."
        )
    epoch = Epochs(1, batch_size=batch_size, last=last, shuffle=shuffle)
    numbers = itertools.count() if num_epochs is None else range(num_epochs)
    return _batches(dataset, epoch, numbers, seed)


def _batches(dataset, epoch, numbers, seed):
    for number in numbers:
        order = epoch.order(dataset.num_examples, generator(seed, POOL, number))
        for rows in order:
            rows = rows[rows >= 0]
            yield {name: take(column, rows) for name, column in dataset.columns.items()}
