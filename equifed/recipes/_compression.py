"""The compressors by name, with their plain numbers: what a file and a command line
have of them.

Which numbers a kind has, and what they mean, its own class says.
"""

import dataclasses
from typing import Any, get_args, Literal

import equinox as eqx

from .. import compress
from .._aggregator import AbstractAggregator
from .._algorithm import (
    AbstractAlgorithm,
    AbstractAsynchronous,
    AbstractOnePass,
    CompressDown,
)
from .._check import check_choice, check_kind
from ..compress import AbstractCompressor, AbstractLeafwise, CountSketch
from ._numbers import (
    check_given,
    given,
    Number,
    numbers_of_class,
    numbers_of_fields,
)
from ._privacy import Privacy


Feedback = Literal["error-feedback", "ef21"]
KINDS: dict[str, type[AbstractCompressor] | type[CountSketch]] = {
    "uniform-quantizer": compress.UniformQuantizer,
    "qsgd": compress.QSGD,
    "terngrad": compress.TernGrad,
    "sign": compress.Sign,
    "drive": compress.DRIVE,
    "eden": compress.EDEN,
    "top-k": compress.TopK,
    "random-k": compress.RandomK,
    "powersgd": compress.PowerSGD,
    "count-sketch": CountSketch,
}
UP_ALONE = ("count-sketch",)
_FEEDBACK = {"error-feedback": compress.ErrorFeedback, "ef21": compress.EF21}
# What is not a plain number, or is said elsewhere.
_LEFT = ("bounds", "seed", "aggregator")
# The scale for a vector that was rotated before: with it the sign is DRIVE.
_NOT_OF = {"sign": ("rotated",)}
_ROTATE = ("drive", "eden")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """How messages are compressed, by name.

    **Arguments:**

    - `kind`: a class of [`equifed.compress`](compress.md): `"uniform-quantizer"`,
        `"qsgd"`, `"terngrad"`, `"sign"`, `"drive"`, `"eden"`, `"top-k"`, `"random-k"`,
        `"powersgd"` or, of messages to the server alone, `"count-sketch"`.
    - `num_levels`, `clip`, `num_bits`, `fraction`, `scaled`, `rank`, `num_rows`,
        `num_columns`, `num_kept`, `momentum`: the numbers of the kind, as its class has
        them; its defaults if not given.
    - `rotated`: whether each array is rotated at random before.
    - `seed`: of a rotation (`rotated`, `"drive"` or `"eden"`): the number that all
        clients of a round have theirs from, which is one; each has its own by default.
    - `whole`: whether all arrays of a message are compressed as one.
    - `feedback`: what becomes of that which a message loses: it is added to the next
        one by `"error-feedback"` or `"ef21"`, and lost by default.
    """

    kind: str
    num_levels: int | None = None
    clip: float | None = None
    num_bits: int | None = None
    fraction: float | None = None
    scaled: bool | None = None
    rank: int | None = None
    num_rows: int | None = None
    num_columns: int | None = None
    num_kept: int | None = None
    momentum: float | None = None
    rotated: bool = False
    seed: int | None = None
    whole: bool = False
    feedback: Feedback | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, tuple(KINDS))
        check_given(self, _OF_KINDS, numbers_of(self.kind))
        for name in ("rotated", "whole"):
            check_kind(name, getattr(self, name), bool)
        if self.feedback is not None:
            check_choice("feedback", self.feedback, get_args(Feedback))
        self._check_around()
        self.build()  # which looks at all numbers

    def _check_around(self) -> None:
        apart = issubclass(KINDS[self.kind], AbstractLeafwise)
        for name in ("rotated", "whole"):
            if getattr(self, name) and not apart:
                raise ValueError(
                    f"`{name}` is of a compressor that takes each array for itself, "
                    f"and {self.kind!r} does not. Leave it out."
                )
        if self.seed is not None and not (self.rotated or self.kind in _ROTATE):
            raise ValueError(
                f"`seed` is of a rotation, and {self.kind!r} has none, got "
                f"seed={self.seed}. Say `rotated=True`, or leave `seed` out."
            )
        if self.feedback is None:
            return
        if self.kind == "count-sketch":
            raise ValueError(
                "`feedback` is of clients that remember what they lost, and of a "
                "'count-sketch' the server does. Leave it out."
            )
        if self.kind == "random-k" and self.scaled is not False:
            raise ValueError(
                "`feedback` needs a compressor that makes vectors shorter, and "
                "'random-k' scales what it sends. Say `scaled=False`, or leave "
                "`feedback` out."
            )

    @property
    def remembers(self) -> bool:
        """Whether a client keeps something from one message to the next."""
        return self.feedback is not None or self.kind == "powersgd"

    def build(self) -> AbstractCompressor | CountSketch:
        """The compressor, or the aggregator of sketches."""
        seed = given(self, ("seed",))
        own = seed if self.kind in _ROTATE else {}
        made: Any = KINDS[self.kind](**given(self, numbers_of(self.kind)), **own)
        made = compress.Rotated(made, **seed) if self.rotated else made
        made = compress.Whole(made) if self.whole else made
        return made if self.feedback is None else _FEEDBACK[self.feedback](made)

    def as_json(self) -> dict[str, Any]:
        """What is given, as JSON has it."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        values = dataclasses.asdict(self)
        return {name: x for name, x in values.items() if x != defaults[name]}


_AROUND = ("rotated", "seed", "whole", "feedback")
_OF_KINDS = tuple(
    field.name
    for field in dataclasses.fields(Compression)
    if field.name not in ("kind", *_AROUND)
)


def numbers_of(kind: str) -> dict[str, Number]:
    """The numbers of a kind alone, as its class has them."""
    left = (*_LEFT, *_NOT_OF.get(kind, ()))
    found = numbers_of_class(KINDS[kind])
    return {name: number for name, number in found.items() if name not in left}


def all_numbers_of(kind: str) -> dict[str, Number]:
    """Those, and what may go around the kind."""
    names = _AROUND if issubclass(KINDS[kind], AbstractLeafwise) else ()
    names = ("feedback",) if kind == "powersgd" else names
    return numbers_of(kind) | numbers_of_fields(Compression, names)


def check_compressed(
    privacy: Privacy | None, up: Compression | None, down: Compression | None
) -> None:
    """Refuses what cannot be compressed, or not so."""
    if privacy is not None and (up is not None or down is not None):
        raise ValueError(
            "This recipe promises privacy, whose noise is for messages as they are. "
            "Leave `compress` and `compress_down` out, or take one without privacy."
        )
    if down is None:
        return
    if down.kind in UP_ALONE:
        kinds = ", ".join(kind for kind in KINDS if kind not in UP_ALONE)
        raise ValueError(
            f"`compress_down` cannot be a {down.kind!r}, which is a way to sum up what "
            f"clients send. Take one of: {kinds}."
        )
    if down.feedback is not None:
        raise ValueError(
            f"`compress_down` has no `feedback`, got {down.feedback!r}: what a message "
            "of the server loses is in its next one anyway. Leave it out."
        )


def compressed(
    algorithm: AbstractAlgorithm, up: Compression | None, down: Compression | None
) -> AbstractAlgorithm:
    """The algorithm with compressed messages.

    **Arguments:**

    - `up`: of what clients send; as it is, if `None`.
    - `down`: of what they are sent, likewise.
    """
    out = algorithm if up is None else _compressed_up(algorithm, up)
    if down is None:
        return out
    if not isinstance(out, AbstractOnePass):
        raise ValueError(
            f"`compress_down` is of algorithms of one pass, and `{_name(algorithm)}` "
            "is not one. Leave it out, or take another algorithm."
        )
    return CompressDown(out, _compressor(down))


def _compressed_up(algorithm: AbstractAlgorithm, up: Compression) -> AbstractAlgorithm:
    if isinstance(algorithm, AbstractAsynchronous):
        inside = _compressed_up(algorithm.algorithm, up)
        return eqx.tree_at(lambda a: a.algorithm, algorithm, inside)
    if up.remembers:
        if not isinstance(algorithm, AbstractOnePass):
            what = up.feedback or up.kind
            raise ValueError(
                f"{what!r} remembers something of each client, for which an algorithm "
                f"of one pass has room, and `{_name(algorithm)}` is not one. Compress "
                "without it, or take another algorithm."
            )
        client = compress.CompressedClient(algorithm.client, _compressor(up))
        return eqx.tree_at(lambda a: a.client, algorithm, client)
    names = [
        field.name
        for field in dataclasses.fields(algorithm)
        if isinstance(getattr(algorithm, field.name), AbstractAggregator)
    ]
    if not names:
        raise ValueError(
            f"`compress` goes around an aggregator, and `{_name(algorithm)}` has none: "
            "it takes messages as they are. Leave it out, or take another algorithm."
        )

    def aggregators(tree: Any) -> list[AbstractAggregator]:
        return [getattr(tree, name) for name in names]

    around = [_around(x, up) for x in aggregators(algorithm)]
    return eqx.tree_at(aggregators, algorithm, around)


def _around(aggregator: AbstractAggregator, up: Compression) -> AbstractAggregator:
    made = up.build()
    if isinstance(made, CountSketch):
        return eqx.tree_at(lambda a: a.aggregator, made, aggregator)
    return compress.Compress(aggregator, made)


def _compressor(compression: Compression) -> AbstractCompressor:
    made = compression.build()
    assert isinstance(made, AbstractCompressor)
    return made


def _name(algorithm: AbstractAlgorithm) -> str:
    return type(algorithm).__name__
