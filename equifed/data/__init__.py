"""The host's side: who takes part in a round, with which examples, in which order."""

from . import sets as sets
from ._batches import batches as batches
from ._batching import (
    AbstractBatching as AbstractBatching,
    Epochs as Epochs,
    Steps as Steps,
)
from ._clock import (
    AbstractClock as AbstractClock,
    ClockedRound as ClockedRound,
    Population as Population,
)
from ._cohorts import AbstractLoader as AbstractLoader
from ._column import ChunkedColumn as ChunkedColumn
from ._dataset import FederatedDataset as FederatedDataset
from ._digits import digits as digits
from ._given import cohort as cohort
from ._loader import Loader as Loader
from ._partition import (
    AbstractPartition as AbstractPartition,
    ColumnPartition as ColumnPartition,
    ContinuousPartition as ContinuousPartition,
    DirichletPartition as DirichletPartition,
    DistributionPartition as DistributionPartition,
    GroupedPartition as GroupedPartition,
    IIDPartition as IIDPartition,
    InnerDirichletPartition as InnerDirichletPartition,
    PachinkoPartition as PachinkoPartition,
    PathologicalPartition as PathologicalPartition,
    QuantityPartition as QuantityPartition,
    ShardPartition as ShardPartition,
    SharesPartition as SharesPartition,
    SizePartition as SizePartition,
)
from ._sampler import (
    AbstractSampler as AbstractSampler,
    AllClients as AllClients,
    ClusteredSampler as ClusteredSampler,
    FixedSizeParticipation as FixedSizeParticipation,
    Including as Including,
    LeastOftenSampler as LeastOftenSampler,
    OrderedParticipation as OrderedParticipation,
    PoissonParticipation as PoissonParticipation,
    PoissonSampler as PoissonSampler,
    RoundRobinSampler as RoundRobinSampler,
    ShuffledSampler as ShuffledSampler,
    UniformSampler as UniformSampler,
    WeightedSampler as WeightedSampler,
)
from ._sqlite import (
    from_fedjax_sqlite as from_fedjax_sqlite,
    from_tff_sqlite as from_tff_sqlite,
)
from ._stream import ClientStream as ClientStream, StreamLoader as StreamLoader
from ._vocabulary import Vocabulary as Vocabulary
