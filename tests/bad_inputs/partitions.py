"""Partitions by sizes, by numbers of labels and by groups, and files of others."""

import numpy as np

import equifed as eqf

from .data import arrays, LOOKUP, seeds, shares
from .parts import counts
from .running import EITHER
from .shared import DATASET, NAN


data = eqf.data

TABLE = {
    "data.SizePartition": {
        "sizes of fractions": (
            lambda: data.SizePartition([1.5, 2.0]),
            TypeError,
            "`sizes` must be a list of integers",
        ),
        "no sizes": (lambda: data.SizePartition([]), TypeError, "`sizes`"),
        "a negative size": (
            lambda: data.SizePartition([7, -1]),
            ValueError,
            "`sizes` must be at least 0, got -1",
        ),
        "sizes of fewer than all": (
            lambda: arrays(data.SizePartition([2, 3])),
            ValueError,
            ("`sizes` add up to 5", "6 examples", "client of 1"),
        ),
        **seeds(lambda x: data.SizePartition([6], seed=x)),
    },
    "data.SharesPartition": {
        **counts(data.SharesPartition, name="num_clients", least=1),
        "share='cubic'": (
            lambda: data.SharesPartition(2, "cubic"),
            ValueError,
            ("`share`", "'square'", "'cubic'"),
        ),
        "share=2.0": (lambda: data.SharesPartition(2, 2.0), TypeError, "`share`"),
        "a share of 0": (
            lambda: arrays(data.SharesPartition(2, lambda i: 0 * i)),
            ValueError,
            ("`share`", "positive"),
        ),
        **seeds(lambda x: data.SharesPartition(2, seed=x)),
    },
    "data.InnerDirichletPartition": {
        "inner sizes": (
            lambda: data.InnerDirichletPartition("66", 1.0),
            TypeError,
            "`sizes`",
        ),
        **{
            f"inner alpha={x!r}": (
                lambda x=x: data.InnerDirichletPartition([6], x),
                EITHER,
                "`alpha`",
            )
            for x in (0.0, NAN, "1", None, [1.0, -1.0], [], [[1.0]])
        },
        "an alpha for each of others": (
            lambda: arrays(data.InnerDirichletPartition([6], [1.0, 1.0, 1.0])),
            ValueError,
            ("`alpha` has 3", "'label' has 2"),
        ),
    },
    "data.PathologicalPartition": {
        **counts(data.PathologicalPartition, name="num_clients", least=1),
        **counts(
            lambda x: data.PathologicalPartition(2, x),
            name="labels_per_client",
            least=1,
        ),
        "choice='first'": (
            lambda: data.PathologicalPartition(2, choice="first"),
            ValueError,
            ("`choice`", "'first-deterministic'", "'first'"),
        ),
        "more labels than there are": (
            lambda: arrays(data.PathologicalPartition(2, 3)),
            ValueError,
            ("`labels_per_client` is 3", "2 labels"),
        ),
    },
    "data.DistributionPartition": {
        "shares in a list": (
            lambda: data.DistributionPartition([[1.0, 1.0]]),
            TypeError,
            "`shares`",
        ),
        "a row of zeros": (
            lambda: data.DistributionPartition(np.array([[1.0, 1], [0, 0]])),
            ValueError,
            "`shares`",
        ),
        "shares that are NaN": (
            lambda: data.DistributionPartition(np.full((2, 2), NAN)),
            ValueError,
            "`shares`",
        ),
        "columns that do not suit": (
            lambda: data.DistributionPartition(np.ones((2, 3)), 2),
            ValueError,
            ("`labels_per_client` is 2", "3 columns"),
        ),
        **counts(
            lambda x: data.DistributionPartition(np.ones((2, 2)), min_size=x),
            name="min_size",
            least=0,
        ),
    },
    "data.ContinuousPartition": {
        **counts(
            lambda x: data.ContinuousPartition(x, "x", 1.0),
            name="num_clients",
            least=1,
        ),
        **shares(lambda x: data.ContinuousPartition(2, "x", x), name="strictness"),
        "nothing to sort by": (
            lambda: arrays(data.ContinuousPartition(2, "who", 1.0)),
            ValueError,
            ("'who'", "sorted"),
        ),
    },
    "data.GroupedPartition": {
        **counts(lambda x: data.GroupedPartition("who", x), name="group_size", least=1),
        "remainder='keep'": (
            lambda: data.GroupedPartition("who", 2, remainder="keep"),
            ValueError,
            ("`remainder`", "'drop'", "'keep'"),
        ),
        "no such column of groups": (
            lambda: arrays(data.GroupedPartition("whom", 2)),
            LOOKUP,
            ("'whom'", "who"),
        ),
    },
    "data.batches": {
        **counts(lambda x: data.batches(DATASET, x), name="batch_size", least=1),
        "no data set for batches": (
            lambda: data.batches({"x": np.ones(3)}, 2),
            TypeError,
            ("`dataset`", "from_arrays"),
        ),
        "no epochs of batches": (
            lambda: data.batches(DATASET, 2, num_epochs=0),
            ValueError,
            "`num_epochs` must be at least 1",
        ),
        "last='fill' of batches": (
            lambda: data.batches(DATASET, 2, last="fill"),
            ValueError,
            ("`last`", "'short' or 'drop'", "'fill'"),
        ),
        "no whole batch": (
            lambda: data.batches(DATASET, 17, last="drop", num_epochs=None),
            ValueError,
            ("`batch_size` is 17", "16 examples"),
        ),
        **seeds(lambda x: data.batches(DATASET, 2, seed=x)),
    },
    "data.FederatedDataset.pooled": {
        "a number for an id of all": (
            lambda: DATASET.pooled(3),
            TypeError,
            "`client_id` must be text",
        ),
    },
    "data.from_fedjax_sqlite": {
        "no such file of FedJAX": (
            lambda: data.from_fedjax_sqlite("no.sqlite"),
            ValueError,
            ("`path`", "'no.sqlite'", "no file"),
        ),
        "a number for a file of FedJAX": (
            lambda: data.from_fedjax_sqlite(3),
            TypeError,
            "`path`",
        ),
        "a name for features of FedJAX": (
            lambda: data.from_fedjax_sqlite("no.sqlite", columns="x"),
            TypeError,
            ("`columns`", "['x']"),
        ),
        "no database for FedJAX": (
            lambda: data.from_fedjax_sqlite(__file__),
            ValueError,
            ("partitions.py", "SQLite"),
        ),
    },
    "data.from_tff_sqlite": {
        "no such file of TFF": (
            lambda: data.from_tff_sqlite("no.sqlite"),
            ValueError,
            ("`path`", "'no.sqlite'", "no file"),
        ),
        "shapes in a list": (
            lambda: data.from_tff_sqlite("no.sqlite", shapes=[(28, 28)]),
            TypeError,
            ("`shapes`", "{'pixels': (28, 28)}"),
        ),
        "a shape of a number": (
            lambda: data.from_tff_sqlite("no.sqlite", shapes={"x": 28}),
            TypeError,
            ("`shapes`", "'x'", "28"),
        ),
        "no database for TFF": (
            lambda: data.from_tff_sqlite(__file__, split="train"),
            ValueError,
            ("partitions.py", "SQLite"),
        ),
    },
}
