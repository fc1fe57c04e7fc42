"""The aggregators by name, with their plain numbers: what a table, a file and a command
line have of them.
"""

import dataclasses
from collections.abc import Callable

from .._aggregator import (
    AbstractAggregator,
    Clip,
    DropNonfinite,
    Median,
    NonzeroMean,
    TrimmedMean,
    UniformMean,
    WeightedMean,
)
from .._check import check_choice, check_kind, check_number
from .._words import shown


_TRIMMED = "trimmed-mean"
_PLAIN: dict[str, Callable[[], AbstractAggregator]] = {
    "weighted-mean": WeightedMean,
    "uniform-mean": UniformMean,
    "nonzero-mean": NonzeroMean,
    "median": Median,
}
KINDS = (*_PLAIN, _TRIMMED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregator:
    """How messages are summed up, by name.

    **Arguments:**

    - `kind`: `"weighted-mean"`, `"uniform-mean"`, `"nonzero-mean"`, `"median"` or
        `"trimmed-mean"`.
    - `trim`: the share that a trimmed mean takes away at each end, below a half.
    - `clip_norm`: the norm that each message is scaled down to; none, by default.
    - `drop_nonfinite`: whether messages with a NaN or an infinity are left out.
    """

    kind: str
    trim: float | None = None
    clip_norm: float | None = None
    drop_nonfinite: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        if (self.kind == _TRIMMED) != (self.trim is not None):
            raise ValueError(
                f"`trim` must be given for {_TRIMMED!r}, and for nothing else, got "
                f"trim={shown(self.trim)} for {self.kind!r}."
            )
        if self.trim is not None:
            check_number("trim", self.trim, least=0, below=0.5)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, least=0, strict=True)
        check_kind("drop_nonfinite", self.drop_nonfinite, bool)

    def build(self) -> AbstractAggregator:
        """The aggregator; messages that are not finite are left out before others are
        clipped."""
        trim = self.trim
        aggregator = _PLAIN[self.kind]() if trim is None else TrimmedMean(trim)
        if self.clip_norm is not None:
            aggregator = Clip(aggregator, self.clip_norm)
        return DropNonfinite(aggregator) if self.drop_nonfinite else aggregator
