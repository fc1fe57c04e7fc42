"""How the examples of a centralised set are given to clients.

A partition reads some columns of the set and answers with the row numbers of each
client. The same seed gives the same clients on every machine.

The sizes and the labels of the clients are what makes federated learning hard, so
they are what the partitions control: `IIDPartition` neither; `QuantityPartition`,
`SharesPartition` and `SizePartition` the sizes; `ShardPartition`,
`PathologicalPartition`, `DirichletPartition` and `PachinkoPartition` the labels;
`InnerDirichletPartition` and `DistributionPartition` both. `ContinuousPartition` sorts
by a number. `ColumnPartition` follows the data's own clients, and `GroupedPartition`
puts several of them together.
"""

from .base import AbstractPartition as AbstractPartition
from .column import ColumnPartition as ColumnPartition
from .continuous import ContinuousPartition as ContinuousPartition
from .dirichlet import DirichletPartition as DirichletPartition
from .distribution import DistributionPartition as DistributionPartition
from .foreign import (
    is_foreign as is_foreign,
    Partitioner as Partitioner,
    ROW as ROW,
    rows_by_partition as rows_by_partition,
)
from .grouped import GroupedPartition as GroupedPartition
from .iid import IIDPartition as IIDPartition
from .inner import InnerDirichletPartition as InnerDirichletPartition
from .pachinko import PachinkoPartition as PachinkoPartition
from .pathological import PathologicalPartition as PathologicalPartition
from .quantity import QuantityPartition as QuantityPartition
from .shard import ShardPartition as ShardPartition
from .shares import SharesPartition as SharesPartition
from .size import SizePartition as SizePartition
