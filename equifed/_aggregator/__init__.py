from .base import AbstractAggregator as AbstractAggregator
from .mean import (
    NonzeroMean as NonzeroMean,
    UniformMean as UniformMean,
    WeightedMean as WeightedMean,
)
from .robust import (
    Median as Median,
    TrimmedMean as TrimmedMean,
)
from .wrap import (
    Clip as Clip,
    DropNonfinite as DropNonfinite,
)
