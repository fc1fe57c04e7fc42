"""Bad inputs of the robust aggregators."""

import equifed as eqf
import equifed.robust as eqr

from .algorithms import GAUSSIANS, numbers, POSITIVE, posterior
from .compression import count
from .parts import without_aggregator, wrong_parts
from .shared import BATCHING, LOSS, one_round, SERVER, SGD


def training(aggregator):
    """A round of four clients."""
    return lambda: one_round(eqf.FedAvg(LOSS, SGD, BATCHING, aggregator=aggregator))


def gaussians(aggregator):
    """Clients that send the moments of a posterior."""
    return {
        "moments": (
            lambda: posterior(GAUSSIANS, SERVER, aggregator),
            TypeError,
            (f"`{type(aggregator).__name__}` works on each number", "`Gaussian`"),
        )
    }


def too_few(aggregator, least):
    name = type(aggregator).__name__
    return {
        "a small cohort": (
            training(aggregator),
            ValueError,
            (
                f"`{name}` with num_byzantine={aggregator.num_byzantine}",
                f"{least} mess",
            ),
        )
    }


TABLE = {
    "FLTrust": {
        **without_aggregator(lambda *args: eqf.FLTrust(*args, root=0)),
        **count(lambda x: eqf.FLTrust(LOSS, SGD, BATCHING, root=x), "root", 0),
        "no such client": (
            lambda: one_round(eqf.FLTrust(LOSS, SGD, BATCHING, root=4)),
            ValueError,
            "`root` must be at most 3, got 4",
        ),
        "no root": (
            lambda: eqf.FLTrust(LOSS, SGD, BATCHING),  # pyright: ignore[reportCallIssue]
            TypeError,
            "root",
        ),
    },
    "robust.Krum": {
        **count(eqr.Krum, "num_byzantine", 0),
        **count(lambda x: eqr.Krum(1, x), "num_selected"),
        **too_few(eqr.Krum(1), 5),
        **gaussians(eqr.Krum(0)),
        "many selected": (
            training(eqr.Krum(0, num_selected=5)),
            ValueError,
            ("at least 5 messages", "m <= n - f"),
        ),
    },
    "robust.Bulyan": {
        **count(eqr.Bulyan, "num_byzantine", 0),
        **too_few(eqr.Bulyan(1), 7),
        **gaussians(eqr.Bulyan(0)),
    },
    "robust.GeometricMedian": {
        **count(eqr.GeometricMedian, "num_iterations"),
        **numbers(lambda x: eqr.GeometricMedian(3, x), POSITIVE, name="nu"),
        **gaussians(eqr.GeometricMedian(3)),
    },
    "robust.CentredClipping": {
        **numbers(eqr.CentredClipping, POSITIVE, name="max_norm"),
        **count(lambda x: eqr.CentredClipping(1.0, x), "num_iterations"),
        **gaussians(eqr.CentredClipping(1.0)),
    },
    "robust.DnC": {
        **count(lambda x: eqr.DnC(x, 3), "num_byzantine", 0),
        **count(lambda x: eqr.DnC(1, x), "num_coordinates"),
        **numbers(lambda x: eqr.DnC(1, 3, x), POSITIVE, name="filter_share"),
        **count(lambda x: eqr.DnC(1, 3, num_iterations=x), "num_iterations"),
        **too_few(eqr.DnC(2, 3), 5),
        **gaussians(eqr.DnC(0, 3)),
        "more numbers than there are": (
            training(eqr.DnC(1, 10**6)),
            ValueError,
            ("`num_coordinates` must be at most the", "got 1000000"),
        ),
    },
    "robust.NearestNeighbourMixing": {
        **count(
            lambda x: eqr.NearestNeighbourMixing(eqf.Median(), x), "num_byzantine", 0
        ),
        **wrong_parts(
            lambda x: eqr.NearestNeighbourMixing(x, 1), "aggregator", example=eqf.Median
        ),
        **too_few(eqr.NearestNeighbourMixing(eqf.Median(), 2), 5),
        **gaussians(eqr.NearestNeighbourMixing(eqf.Median(), 1)),
    },
    "robust.Bucketing": {
        **count(lambda x: eqr.Bucketing(eqf.Median(), x), "bucket_size"),
        **wrong_parts(lambda x: eqr.Bucketing(x, 1), "aggregator", example=eqf.Median),
        **gaussians(eqr.Bucketing(eqf.Median(), 2)),
        "too few buckets": (
            training(eqr.Bucketing(eqr.Krum(0), 2)),
            ValueError,
            ("`Krum`", "at least 3 messages"),
        ),
    },
    "robust.DropLarge": {
        **numbers(lambda x: eqr.DropLarge(eqf.Median(), x), POSITIVE, name="max_norm"),
        **wrong_parts(
            lambda x: eqr.DropLarge(x, 1.0), "aggregator", example=eqf.Median
        ),
        **gaussians(eqr.DropLarge(eqf.Median(), 1.0)),
    },
}
