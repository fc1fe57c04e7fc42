"""Bad inputs of what counts bits, and of what saves them."""

import jax.numpy as jnp

import equifed as eqf
import equifed.compress as eqc

from .algorithms import MOMENT, numbers
from .shared import aggregator_round, BATCHING, KEY, LOSS, one_round, SGD


TABLE: dict[str, dict[str, tuple]] = {}


def fedavg():
    return eqf.FedAvg(LOSS, SGD, BATCHING)


TABLE["Bits"] = {
    "a fraction": (
        lambda: eqf.Bits(1.5),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`total` must be an integer, got 1.5",
    ),
    "less than none": (lambda: eqf.Bits(-1), ValueError, "`total` must be at least 0"),
    "too many": (lambda: eqf.Bits(2**53), ValueError, "`total` must be at most"),
    "an array of fractions": (
        lambda: eqf.Bits(jnp.ones(2)),
        TypeError,
        "`total` must be an integer",
    ),
    "a sum instead": (
        lambda: aggregator_round(up=lambda x: (x, {"bits_up": eqf.Sum(jnp.ones(()))})),
        TypeError,
        "`metrics['bits_up']` must be a `Bits`",
    ),
}

SHARE = {0.0: "more than 0, got 0", 1.5: "at most 1, got 1.5"}


def count(make, name, least=1):
    """What is no count."""
    return {
        f"{name} too small": (
            lambda: make(least - 1),
            ValueError,
            f"`{name}` must be at least {least}",
        ),
        f"{name} a fraction": (lambda: make(2.5), TypeError, f"`{name}` must be"),
    }


TABLE["compress.UniformQuantizer"] = {
    **count(eqc.UniformQuantizer, "num_levels", 2),
    "no range": (
        lambda: eqc.UniformQuantizer(4, bounds=(1.0, 1.0)),
        ValueError,
        "`bounds` must be a lower and a higher number, got 1 and 1",
    ),
    "one bound": (
        lambda: eqc.UniformQuantizer(4, bounds=1.0),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`bounds` must be",
    ),
    "an endless range": (
        lambda: eqc.UniformQuantizer(4, bounds=(0.0, float("inf"))),
        ValueError,
        "`bounds` must be finite",
    ),
}
TABLE["compress.QSGD"] = count(eqc.QSGD, "num_levels")
TABLE["compress.TernGrad"] = {
    "nothing left": (lambda: eqc.TernGrad(0.0), ValueError, "`clip` must be more than"),
    "text": (
        lambda: eqc.TernGrad("2"),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`clip` must be a number",
    ),
}
TABLE["compress.Sign"] = {
    "a number": (
        lambda: eqc.Sign(rotated=1),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`rotated` must be True or False",
    )
}
TABLE["compress.Rotated"] = {
    "one with a memory": (
        lambda: eqc.Rotated(eqc.PowerSGD(1)),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`compressor` must be an `AbstractLeafwise`",
    ),
    "a negative seed": (
        lambda: eqc.Rotated(eqc.Sign(), seed=-1),
        ValueError,
        "`seed` must be between",
    ),
}
TABLE["compress.DRIVE"] = {
    "a negative seed": (
        lambda: eqc.DRIVE(seed=-1),
        ValueError,
        "`seed` must be between",
    ),
}
TABLE["compress.EDEN"] = {
    "no bits": (lambda: eqc.EDEN(0), ValueError, "`num_bits` must be from 1 to 8"),
    "many": (lambda: eqc.EDEN(9), ValueError, "`num_bits` must be from 1 to 8, got 9"),
}
TABLE["compress.TopK"] = {
    f"fraction={x}": (lambda x=x: eqc.TopK(x), ValueError, ("`fraction`", words))
    for x, words in SHARE.items()
}
TABLE["compress.RandomK"] = {
    f"fraction={x}": (lambda x=x: eqc.RandomK(x), ValueError, ("`fraction`", words))
    for x, words in SHARE.items()
}
TABLE["compress.PowerSGD"] = count(eqc.PowerSGD, "rank")
for _kind in (eqc.ErrorFeedback, eqc.EF21):
    TABLE[f"compress.{_kind.__name__}"] = {
        "a fraction": (
            lambda kind=_kind: kind(0.1),  # pyright: ignore[reportArgumentType]
            TypeError,
            "`compressor` must be an `AbstractCompressor`, `TopK(0.01)` for example",
        )
    }
TABLE["compress.Whole"] = {
    "one with a memory": (
        lambda: eqc.Whole(eqc.ErrorFeedback(eqc.Sign())),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`compressor` must be an `AbstractLeafwise`",
    )
}
TABLE["compress.Compress"] = {
    "the other way round": (
        lambda: eqc.Compress(eqc.Sign(), eqf.WeightedMean()),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`aggregator` must be an `AbstractAggregator`",
    ),
    "one with a memory": (
        lambda: one_round(
            eqf.FedAvg(
                LOSS,
                SGD,
                BATCHING,
                aggregator=eqc.Compress(
                    eqf.WeightedMean(), eqc.ErrorFeedback(eqc.Sign())
                ),
            )
        ),
        TypeError,
        ("`ErrorFeedback` remembers", "CompressedClient(client, compressor)"),
    ),
}
TABLE["compress.CompressedClient"] = {
    "an algorithm": (
        lambda: eqc.CompressedClient(
            eqf.FedAvg(LOSS, SGD, BATCHING),  # pyright: ignore[reportArgumentType]
            eqc.Sign(),
        ),
        TypeError,
        "`client` must be an `AbstractClient`",
    ),
}
TABLE["compress.CountSketch"] = {
    **count(lambda x: eqc.CountSketch(x, 9, num_kept=1), "num_rows"),
    **count(lambda x: eqc.CountSketch(3, x, num_kept=1), "num_columns"),
    **count(lambda x: eqc.CountSketch(3, 9, num_kept=x), "num_kept"),
    **numbers(
        lambda x: eqc.CountSketch(3, 9, num_kept=1, momentum=x),
        MOMENT,
        name="momentum",
    ),
}
TABLE["compress.packed_bits"] = {
    **count(lambda x: eqc.packed_bits(x, 3), "count", 0),
    **count(lambda x: eqc.packed_bits(3, x), "kinds"),
}
TABLE["compress.arithmetic_bits"] = {
    "fractions": (
        lambda: eqc.arithmetic_bits(jnp.ones(3)),
        TypeError,
        "`counts` must be an array of integers",
    ),
}
TABLE["compress.walsh_hadamard"] = {
    "three": (
        lambda: eqc.walsh_hadamard(jnp.ones(3)),
        ValueError,
        ("`x` must be a vector whose length is a power of two", "(3,)"),
    ),
}
TABLE["compress.rotate"] = {
    "nothing": (
        lambda: eqc.rotate(jnp.ones(0), KEY),
        ValueError,
        "`x` must be a vector of at least one number",
    ),
}
TABLE["compress.rotate_back"] = {
    "three": (
        lambda: eqc.rotate_back(jnp.ones(3), KEY, size=3),
        ValueError,
        "`y` must be a vector whose length is a power of two",
    ),
    "more than there are": (
        lambda: eqc.rotate_back(jnp.ones(4), KEY, size=5),
        ValueError,
        "`size` must be at most 4",
    ),
}

TABLE["CompressDown"] = {
    "an algorithm of two passes": (
        lambda: eqf.CompressDown(eqf.Mime(LOSS, SGD, BATCHING), eqc.Sign()),  # pyright: ignore[reportArgumentType]
        TypeError,
        ("`algorithm` must be", "got a `Mime`"),
    ),
    "an aggregator's compressor": (
        lambda: eqf.CompressDown(fedavg(), eqf.WeightedMean()),  # pyright: ignore[reportArgumentType]
        TypeError,
        ("`compressor` must be", "WeightedMean"),
    ),
    "feedback of its own": (
        lambda: eqf.CompressDown(fedavg(), eqc.ErrorFeedback(eqc.Sign())),
        TypeError,
        ("`compressor` must be without feedback", "got `ErrorFeedback`"),
    ),
}
