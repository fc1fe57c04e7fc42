from .alternating import Alternating as Alternating
from .base import AbstractClient as AbstractClient
from .correction import (
    AbstractCorrection as AbstractCorrection,
    AbstractMemoryless as AbstractMemoryless,
    NoCorrection as NoCorrection,
    Proximal as Proximal,
)
from .criterion import (
    AbstractCriterion as AbstractCriterion,
    MeanLoss as MeanLoss,
)
from .gradient import (
    batch_gradient as batch_gradient,
    full_gradient as full_gradient,
    full_metrics as full_metrics,
    merge_metrics as merge_metrics,
    zero_metrics as zero_metrics,
)
from .keeping import AbstractKeeping as AbstractKeeping, Kept as Kept
from .local_sgd import LocalSGD as LocalSGD
from .loss import check_loss as check_loss, traced_loss as traced_loss
from .mean_gradient import MeanGradient as MeanGradient
from .measures_loss import MeasuresLoss as MeasuresLoss
from .measures_utility import MeasuresUtility as MeasuresUtility
from .microbatched import Microbatched as Microbatched
from .stateful import Stateful as Stateful
from .wrapper import AbstractWrapper as AbstractWrapper
