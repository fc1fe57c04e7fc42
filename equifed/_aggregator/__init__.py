from .base import (
    AbstractAggregator as AbstractAggregator,
    Aggregate as Aggregate,
)
from .mean import (
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
