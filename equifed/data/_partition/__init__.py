"""How the examples of a centralised set are given to clients.

A partition reads some columns of the set and answers with the row numbers of each
client. The same seed gives the same clients on every machine.

The sizes and the labels of the clients are what makes federated learning hard, so
they are what the partitions control: `IIDPartition` neither, `QuantityPartition` the
sizes, `ShardPartition` and `DirichletPartition` the labels, `ColumnPartition` follows
the data's own clients.
"""

from .base import AbstractPartition as AbstractPartition
from .column import ColumnPartition as ColumnPartition
from .dirichlet import DirichletPartition as DirichletPartition
from .iid import IIDPartition as IIDPartition
from .quantity import QuantityPartition as QuantityPartition
from .shard import ShardPartition as ShardPartition
