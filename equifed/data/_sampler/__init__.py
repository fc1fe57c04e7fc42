"""Who takes part in a round.

A sampler is a pure function of the round (and of its own seed), so a run may be
resumed at any round, rounds may be prepared ahead by another thread, and several
processes agree on the cohort without talking to each other. Samplers draw client
*numbers*, from 0 to `num_clients - 1`, and know nothing else of the clients.
"""

from .all import AllClients as AllClients
from .available import (
    LeastOftenSampler as LeastOftenSampler,
    RoundRobinSampler as RoundRobinSampler,
)
from .base import AbstractSampler as AbstractSampler
from .clustered import ClusteredSampler as ClusteredSampler
from .including import Including as Including
from .participation import (
    FixedSizeParticipation as FixedSizeParticipation,
    OrderedParticipation as OrderedParticipation,
    Participation as Participation,
    PoissonParticipation as PoissonParticipation,
)
from .poisson import PoissonSampler as PoissonSampler
from .shuffled import ShuffledSampler as ShuffledSampler
from .uniform import UniformSampler as UniformSampler
from .weighted import WeightedSampler as WeightedSampler
