"""Attacks through the data: the clients train as they should, on poisoned examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._check import check_count, check_number, check_seed, checked
from ..data import FederatedDataset


Columns = Mapping[str, np.ndarray]
Trigger = Callable[[dict[str, np.ndarray]], Columns]


@checked()
def flip_labels(
    dataset: FederatedDataset,
    clients: Sequence[int] | np.ndarray,
    num_classes: int,
    *,
    label: str = "label",
) -> FederatedDataset:
    r"""A dataset in which some clients have wrong labels: $C - 1 - y$ for $y$, of $C$
    classes (Fang et al., 2020, arXiv 1911.11815).

    **Arguments:**

    - `dataset`: the clean one.
    - `clients`: the attackers' numbers.
    - `num_classes`: the $C$.
    - `label`: the column of the labels, integers from 0 to $C - 1$.

    **Raises:**

    `ValueError` for a client, a column or a label that there is not.
    """
    check_count("num_classes", num_classes)

    def flipped(examples, number):
        y = examples[label]
        if y.size and not (0 <= y.min() and y.max() < num_classes):
            raise ValueError(
                f"`num_classes` is {num_classes}, but client {number} has labels from "
                f"{y.min()} to {y.max()}."
            )
        return {**examples, label: (num_classes - 1 - y).astype(y.dtype)}

    return _changed(dataset, clients, label, flipped)


@checked()
def backdoored(
    dataset: FederatedDataset,
    clients: Sequence[int] | np.ndarray,
    trigger: Trigger,
    target: int,
    *,
    share: float,
    label: str = "label",
    seed: int = 0,
) -> FederatedDataset:
    """A dataset in which a share of some clients' examples carries a trigger, and the
    label that the attacker wants for whatever does (Bagdasaryan et al., 2020, arXiv
    1807.00459). The other examples stay, so that the model stays good at its task.

    **Arguments:**

    - `dataset`: the clean one.
    - `clients`: the attackers' numbers.
    - `trigger`: takes examples, `{column: array}`, and returns them with the trigger:
        images with a white corner, say.
    - `target`: the label.
    - `share`: the share of a client's examples, in (0, 1], rounded to the nearest
        number of them.
    - `label`: the column of the labels.
    - `seed`: for another draw of which examples.

    **Raises:**

    `ValueError` for a client or a column that there is not, or a share out of range.
    """
    check_number("share", share, least=0, strict=True, most=1)
    seed = check_seed(seed)

    def poisoned(examples, number):
        size = len(examples[label])
        draw = np.random.default_rng((seed, number)).permutation(size)
        chosen = draw < round(share * size)
        new = dict(trigger({name: x.copy() for name, x in examples.items()}))
        new[label] = np.full_like(examples[label], target)
        return {
            name: np.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), new[name], x)
            for name, x in examples.items()
        }

    return _changed(dataset, clients, label, poisoned)


@checked()
def triggered(
    dataset: FederatedDataset, trigger: Trigger, target: int, *, label: str = "label"
) -> FederatedDataset:
    """What a backdoor is measured on: all examples of other labels than the attacker's,
    with the trigger, and the attacker's label. The accuracy on it, of
    [`equifed.evaluate`][], is the attack's success rate.

    **Arguments:**

    - `dataset`: the clean test examples.
    - `trigger`, `target`, `label`: as for [`equifed.attacks.backdoored`][].

    **Raises:**

    `ValueError` if there is no such column.
    """

    def changed(examples, number):
        others = examples[label] != target
        kept = {name: x[others] for name, x in examples.items()}
        new = dict(trigger({name: x.copy() for name, x in kept.items()}))
        return {**new, label: np.full_like(kept[label], target)}

    return _changed(dataset, range(len(dataset)), label, changed)


def _changed(
    dataset: FederatedDataset, clients: Any, label: str, change: Callable
) -> FederatedDataset:
    """The dataset with the examples of some clients changed."""
    if label not in dataset.columns:
        raise ValueError(
            f"`label` must name one of the columns {sorted(dataset.columns)}, got "
            f"{label!r}."
        )
    for client in clients:
        check_count("clients", client, least=0, most=len(dataset) - 1)
    numbers = {dataset.client_ids[i]: int(i) for i in clients}

    def fn(client_id, examples):
        number = numbers.get(client_id)
        return examples if number is None else change(examples, number)

    return dataset.map_clients(fn)
