"""Clients with a given number of labels."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from ..._check import check_choice, check_count, check_seed, checked
from ..._warn import warn
from ..._words import listed
from .._ids import client_codes
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, named


Choice = Literal["random", "deterministic", "first-deterministic"]


class PathologicalPartition(AbstractPartition):
    """Clients that have so many labels each, and no other. Which ones is chosen first;
    then each label's examples are divided equally among those that have it.

    Client `i` has, of `L` labels in natural order,

    - `"random"`: any ones;
    - `"deterministic"`: the labels `i`, `i + 1`, ... modulo `L`;
    - `"first-deterministic"`: the label `i` modulo `L`, and any others.

    Examples of a label that no client has are left out, with a warning. With as many
    clients as labels, only a random choice can leave some.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{li2022federated,
            title={Federated Learning on Non-IID Data Silos: An Experimental Study},
            author={Li, Qinbin and Diao, Yiqun and Chen, Quan and He, Bingsheng},
            booktitle={ICDE},
            year={2022},
        }
        ```

        (Its choice is `"first-deterministic"`.)
    """

    num_clients: int
    labels_per_client: int
    label: str
    choice: str
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        labels_per_client: int = 2,
        *,
        label: str = "label",
        choice: Choice = "first-deterministic",
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `labels_per_client`: How many labels each of them has.
        - `label`: The column of labels.
        - `choice`: Which labels a client has.
        - `seed`: The seed of the split.

        **Raises:**

        `ValueError` if there are fewer labels than a client is to have, or fewer
        examples of a label than clients that have it, once the examples are known.
        """
        self.num_clients = check_count("num_clients", num_clients)
        self.labels_per_client = check_count("labels_per_client", labels_per_client)
        self.label = label
        check_choice(
            "choice", choice, ("random", "deterministic", "first-deterministic")
        )
        self.choice = choice
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        names, labels = client_codes(columns[self.label], self.label)
        if self.labels_per_client > len(names):
            raise ValueError(
                f"`labels_per_client` is {self.labels_per_client}, but column "
                f"{self.label!r} has {len(names)} labels. Ask for fewer."
            )
        rng = generator(self.seed, PARTITION)
        has = self._chosen(len(names), rng)
        self._check(has, names, np.bincount(labels, minlength=len(names)))
        rows = permutation(rng, num_examples)
        clients: list[list] = [[] for _ in range(self.num_clients)]
        for number, owners in enumerate(has.T):
            owners = np.flatnonzero(owners)
            parts = np.array_split(rows[labels[rows] == number], max(1, len(owners)))
            for owner, part in zip(owners, parts, strict=False):
                clients[owner].append(part)
        return named(np.concatenate(parts) for parts in clients)

    def _chosen(
        self, num_labels: int, rng: np.random.Generator
    ) -> Bool[np.ndarray, "clients labels"]:
        has = np.zeros((self.num_clients, num_labels), bool)
        for client, own in enumerate(has):
            first = client % num_labels
            order = (first + np.arange(num_labels)) % num_labels
            if self.choice == "random":
                order = permutation(rng, num_labels)
            elif self.choice == "first-deterministic":
                others = permutation(rng, num_labels)
                order = np.append(first, others[others != first])
            own[order[: self.labels_per_client]] = True
        return has

    def _check(
        self,
        has: Bool[np.ndarray, "clients labels"],
        names: list[str],
        counts: Int[np.ndarray, " labels"],
    ) -> None:
        owners = has.sum(axis=0)
        short = np.flatnonzero(owners > counts)
        if len(short) > 0:
            label = short[0]
            raise ValueError(
                f"{owners[label]} clients are to have label {names[label]!r} of column "
                f"{self.label!r}, which has {counts[label]} examples. Lower "
                "`num_clients` or `labels_per_client`, or write "
                "`choice='deterministic'`, which spreads the labels evenly."
            )
        nobodys = np.flatnonzero(owners == 0)
        if len(nobodys) > 0:
            warn(
                f"No client has the labels {listed(names[i] for i in nobodys)} of "
                f"column {self.label!r}: their {counts[nobodys].sum()} examples are "
                "left out. More clients, or `choice='first-deterministic'` with as "
                "many clients as labels, leave none."
            )
