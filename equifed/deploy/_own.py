"""A client's own examples, and its share of a round: planned as a loader with all
clients' examples would plan it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from .._algorithm import AbstractAlgorithm
from .._check import check_kind
from .._cohort import Cohort, NO_CLIENT
from .._words import shown
from ..data import FederatedDataset
from ..data._placement import check_numeric, make_cohort, on_device_dtype, Placement
from ..data._plan import ladder, make_plan, Plan
from ._plan import Columns


# Given a node's settings by name, its columns of examples.
Data = Callable[[Mapping[str, Any]], Mapping[str, Shaped[np.ndarray, "..."]]]
_LEAST_ROWS = 256


def client_number(node: Mapping[str, Any], num_clients: int) -> int:
    """Which client a node is."""
    number = node.get("partition-id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(
            "A node must say which client it is, by `--node-config 'partition-id=0'`, "
            f"got {shown(number)}."
        )
    said = node.get("num-partitions", num_clients)
    if said != num_clients or not 0 <= number < num_clients:
        raise ValueError(
            f"The server has {num_clients} clients, numbered from 0, but this node is "
            f"number {number} of {said}. Correct its `partition-id` or "
            "`num-partitions`, or the server's `num_clients`."
        )
    return number


def columns_of(dataset: FederatedDataset) -> Columns:
    """The shapes and dtypes of its examples, as they lie on a device."""
    return {
        name: [list(x.shape[1:]), str(jax.dtypes.canonicalize_dtype(x.dtype))]
        for name, x in sorted(dataset.columns.items())
    }


def dataset_of(data: Data, node: Mapping[str, Any], name: str) -> FederatedDataset:
    given = data(node)
    check_kind(name, given, Mapping, "Return one array for each column.")
    dataset = FederatedDataset.from_mapping({"this": given})
    check_numeric(dataset.columns)
    return dataset


def cohort_of(
    algorithm: AbstractAlgorithm,
    dataset: FederatedDataset,
    number: int,
    config: Mapping[str, Any],
) -> Cohort:
    """The client's round, as a loader with all clients' data would plan it."""
    plan = make_plan(
        np.asarray([number]),
        np.asarray([dataset.num_examples]),
        np.asarray([0]),
        algorithm.batching,
        seed=config["seed"],
        round=config["round"],
        num_devices=1,
        num_clients=None,
        max_slots=1,
        whose=lambda _: f"client {number}",
    )
    if config["slots"] > 1:
        plan = _with_empty_slot(plan)
    placement = Placement(None)
    pools = {n: placement.replicate(_pool(n, x)) for n, x in dataset.columns.items()}
    return make_cohort(plan, pools, placement, None)


def _pool(name: str, column: Any) -> np.ndarray:
    """A column with rows of zeros after it, which nobody visits: few sizes to compile
    for, none of them so small that XLA rounds in another way than in a larger one."""
    x = on_device_dtype(name, np.asarray(column), lambda _: "this client")
    out = np.zeros((ladder(max(len(x), _LEAST_ROWS)), *x.shape[1:]), x.dtype)
    out[: len(x)] = x
    return out


def _with_empty_slot(plan: Plan) -> Plan:
    """Beside the client's. XLA drops axes of one element, and then fuses, and rounds,
    in another way than in a round of several clients."""
    empty = {"start": 0, "stop": 0, "first": 0, "num_examples": 0, "index": NO_CLIENT}
    filled = {
        name: np.pad(getattr(plan, name), ((0, 0), (0, 1)), constant_values=fill)
        for name, fill in empty.items()
    }
    return plan._replace(**filled)
