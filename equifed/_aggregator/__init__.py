from .base import AbstractAggregator as AbstractAggregator
from .fixed import FixedDenominatorMean as FixedDenominatorMean
from .mean import (
    NonzeroMean as NonzeroMean,
    UniformMean as UniformMean,
    WeightedMean as WeightedMean,
)
from .optimal import OptimalClientSampling as OptimalClientSampling
from .robust import (
    Median as Median,
    TrimmedMean as TrimmedMean,
)
from .wrap import (
    AbstractEach as AbstractEach,
    Clip as Clip,
    DropNonfinite as DropNonfinite,
)
