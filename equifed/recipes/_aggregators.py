"""The aggregators by name, with their plain numbers: what a table, a file and a command
line have of them.

Which numbers a kind has, and what they mean, its own class says.
"""

import dataclasses
from typing import Any

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
from ..robust import (
    Bucketing,
    Bulyan,
    CentredClipping,
    DnC,
    GeometricMedian,
    Krum,
    NearestNeighbourMixing,
)
from ._numbers import (
    check_given,
    given,
    Number,
    numbers_of_class,
    numbers_of_fields,
)


KINDS: dict[str, type[AbstractAggregator]] = {
    "weighted-mean": WeightedMean,
    "uniform-mean": UniformMean,
    "nonzero-mean": NonzeroMean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "bulyan": Bulyan,
    "geometric-median": GeometricMedian,
    "centred-clipping": CentredClipping,
    "dnc": DnC,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregator:
    """How messages are summed up, by name.

    **Arguments:**

    - `kind`: `"weighted-mean"`, `"uniform-mean"`, `"nonzero-mean"`, `"median"`,
        `"trimmed-mean"`, or a rule of [`equifed.robust`](robust.md): `"krum"`,
        `"bulyan"`, `"geometric-median"`, `"centred-clipping"` or `"dnc"`.
    - `trim`, `num_byzantine`, `num_selected`, `num_iterations`, `nu`, `max_norm`,
        `num_coordinates`, `filter_share`: the numbers of the kind, as its class has
        them; its defaults if not given.
    - `mixing`: for how many Byzantine clients messages are mixed with their nearest
        neighbours first; they are not, by default.
    - `bucket_size`: how many messages make a bucket, whose means are summed up in their
        place; there are none, by default.
    - `clip_norm`: the norm that each message is scaled down to; none, by default.
    - `drop_nonfinite`: whether messages with a NaN or an infinity are left out.
    """

    kind: str
    trim: float | None = None
    num_byzantine: int | None = None
    num_selected: int | None = None
    num_iterations: int | None = None
    nu: float | None = None
    max_norm: float | None = None
    num_coordinates: int | None = None
    filter_share: float | None = None
    mixing: int | None = None
    bucket_size: int | None = None
    clip_norm: float | None = None
    drop_nonfinite: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, tuple(KINDS))
        check_given(self, _OF_KINDS, numbers_of(self.kind))
        if self.mixing is not None and self.bucket_size is not None:
            raise ValueError(
                f"`mixing={self.mixing}` and `bucket_size={self.bucket_size}` are two "
                "ways to average messages first. Give one."
            )
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, least=0, strict=True)
        check_kind("drop_nonfinite", self.drop_nonfinite, bool)
        self.build()  # which looks at all numbers

    def build(self) -> AbstractAggregator:
        """The aggregator. Messages that are not finite are left out before others are
        clipped, and these before they are mixed or put into buckets."""
        aggregator = KINDS[self.kind](**given(self, numbers_of(self.kind)))
        if self.mixing is not None:
            aggregator = NearestNeighbourMixing(aggregator, self.mixing)
        if self.bucket_size is not None:
            aggregator = Bucketing(aggregator, self.bucket_size)
        if self.clip_norm is not None:
            aggregator = Clip(aggregator, self.clip_norm)
        return DropNonfinite(aggregator) if self.drop_nonfinite else aggregator

    def as_json(self) -> dict[str, Any]:
        """What is given, as JSON has it."""
        values = dataclasses.asdict(self)
        return {name: x for name, x in values.items() if x is not None}


_AROUND = ("mixing", "bucket_size", "clip_norm", "drop_nonfinite")
_OF_KINDS = tuple(
    field.name
    for field in dataclasses.fields(Aggregator)
    if field.name not in ("kind", *_AROUND)
)


def numbers_of(kind: str) -> dict[str, Number]:
    """The numbers of a kind alone, as its class has them."""
    return numbers_of_class(KINDS[kind])


def all_numbers_of(kind: str) -> dict[str, Number]:
    """Those, and what may go around any kind."""
    return numbers_of(kind) | numbers_of_fields(Aggregator, _AROUND)
