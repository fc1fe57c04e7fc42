"""Data sets, partitions, samplers, batchings and loaders."""

import datasets
import numpy as np

import equifed as eqf

from .parts import counts
from .running import EITHER
from .shared import BATCHING, DATASET, INF, mesh_of, MODEL, NAN


data = eqf.data
LOOKUP = (KeyError, IndexError, *EITHER)
COLUMNS = {"x": np.arange(6.0), "label": np.arange(6) % 2}
TABLE_OF_ROWS = datasets.Dataset.from_dict({"x": [1.0, 2.0], "who": ["a", "b"]})


def arrays(by="who", **columns):
    columns = {**COLUMNS, "who": np.array(["a", "b"] * 3), **columns}
    return data.FederatedDataset.from_arrays(columns, by)


def seeds(make):
    return {
        "a fraction for a seed": (
            lambda: make(1.5),
            TypeError,
            "`seed` must be an integer, got 1.5",
        ),
        "a flag for a seed": (
            lambda: make(True),
            TypeError,
            "`seed` must be an integer, got True",
        ),
        "a negative seed": (lambda: make(-1), ValueError, ("`seed`", "got -1")),
    }


def shares(make, *, name):
    return {
        f"{name}={x!r}": (lambda x=x: make(x), EITHER, f"`{name}`")
        for x in (-0.1, 1.5, NAN, INF, "half", None, True)
    }


def flags(make, *, name):
    return {
        f"{name}={x!r}": (lambda x=x: make(x), TypeError, f"`{name}`")
        for x in (1, "no")
    }


def stream():
    return data.ClientStream(TABLE_OF_ROWS.to_iterable_dataset(), by="who")


TABLE = {
    "data.Epochs": {
        **counts(lambda x: data.Epochs(x, batch_size=4), name="num_epochs", least=1),
        **counts(lambda x: data.Epochs(1, batch_size=x), name="batch_size", least=1),
        "last='keep'": (
            lambda: data.Epochs(1, batch_size=4, last="keep"),
            ValueError,
            ("`last`", "'short', 'drop' or 'fill'", "'keep'"),
        ),
        **flags(lambda x: data.Epochs(1, batch_size=4, shuffle=x), name="shuffle"),
        "no batch size": (lambda: data.Epochs(1), TypeError, "batch_size"),
    },
    "data.Steps": {
        **counts(lambda x: data.Steps(x, batch_size=4), name="num_steps", least=1),
        **counts(lambda x: data.Steps(1, batch_size=x), name="batch_size", least=1),
        **flags(lambda x: data.Steps(1, batch_size=4, shuffle=x), name="shuffle"),
    },
    "data.AllClients": seeds(lambda x: data.AllClients(seed=x)),
    "data.UniformSampler": {
        **counts(lambda x: data.UniformSampler(x, seed=0), name="cohort_size", least=1),
        **seeds(lambda x: data.UniformSampler(2, seed=x)),
    },
    "data.Including": {
        "no sampler": (
            lambda: data.Including(3, [0]),
            TypeError,
            ("`sampler` must be", "got 3"),
        ),
        "nobody": (
            lambda: data.Including(data.AllClients(), []),
            ValueError,
            "`clients` must name at least one client, and each once, got []",
        ),
        "one twice": (
            lambda: data.Including(data.AllClients(), [2, 2]),
            ValueError,
            ("each once", "got [2, 2]"),
        ),
        "a negative one": (
            lambda: data.Including(data.AllClients(), [-1]),
            ValueError,
            "`clients` must be at least 0, got -1",
        ),
        "one that there is not": (
            lambda: data.Loader(
                DATASET, data.Including(data.AllClients(), [4]), BATCHING
            ),
            ValueError,
            ("of the 4 clients", "from 0 to 3, got [4]"),
        ),
        "all": (
            lambda: data.Loader(
                DATASET, data.Including(data.AllClients(), range(4)), BATCHING
            ),
            ValueError,
            "`clients` must be some, not all",
        ),
    },
    "data.ShuffledSampler": {
        **counts(data.ShuffledSampler, name="cohort_size", least=1),
        **seeds(lambda x: data.ShuffledSampler(2, seed=x)),
    },
    "data.PoissonSampler": {
        **shares(data.PoissonSampler, name="rate"),
        **seeds(lambda x: data.PoissonSampler(0.5, seed=x)),
    },
    "data.WeightedSampler": {
        **counts(
            lambda x: data.WeightedSampler(x, np.ones(4)), name="cohort_size", least=1
        ),
        "negative weights": (
            lambda: data.WeightedSampler(2, np.array([-1.0, 2.0])),
            ValueError,
            "`weights`",
        ),
        "no weights": (
            lambda: data.WeightedSampler(2, np.zeros(4)),
            ValueError,
            "`weights`",
        ),
        "weights that are NaN": (
            lambda: data.WeightedSampler(2, np.array([NAN, 1.0])),
            ValueError,
            "`weights`",
        ),
        "weights of others": (
            lambda: data.Loader(DATASET, data.WeightedSampler(2, np.ones(7)), BATCHING),
            ValueError,
            ("7", "4"),
        ),
        **flags(
            lambda x: data.WeightedSampler(2, np.ones(4), replace=x), name="replace"
        ),
    },
    "data.IIDPartition": {
        **counts(data.IIDPartition, name="num_clients", least=1),
        **seeds(lambda x: data.IIDPartition(2, seed=x)),
    },
    "data.DirichletPartition": {
        **counts(
            lambda x: data.DirichletPartition(x, 1.0), name="num_clients", least=1
        ),
        **{
            f"alpha={x!r}": (
                lambda x=x: data.DirichletPartition(2, x),
                EITHER,
                "`alpha`",
            )
            for x in (0.0, -1.0, NAN, "1", None)
        },
        **counts(
            lambda x: data.DirichletPartition(2, 1.0, min_size=x),
            name="min_size",
            least=0,
        ),
        "no such label": (
            lambda: arrays(data.DirichletPartition(2, 1.0, label="y")),
            LOOKUP,
            ("'y'", "x"),
        ),
        **flags(lambda x: data.DirichletPartition(2, 1.0, balanced=x), name="balanced"),
        **flags(
            lambda x: data.DirichletPartition(2, 1.0, self_balancing=x),
            name="self_balancing",
        ),
    },
    "data.ShardPartition": {
        **counts(lambda x: data.ShardPartition(x), name="num_clients", least=1),
        **counts(
            lambda x: data.ShardPartition(2, x), name="shards_per_client", least=1
        ),
        "more shards than examples": (
            lambda: arrays(data.ShardPartition(4, 2)),
            ValueError,
            ("8", "6"),
        ),
    },
    "data.QuantityPartition": {
        **counts(data.QuantityPartition, name="num_clients", least=1),
        **{
            f"exponent={x!r}": (
                lambda x=x: data.QuantityPartition(2, x),
                EITHER,
                "`exponent`",
            )
            for x in (-1.0, NAN, "1")
        },
    },
    "data.ColumnPartition": {
        "no such column": (
            lambda: arrays(data.ColumnPartition("whom")),
            LOOKUP,
            ("'whom'", "who"),
        ),
        "a number for a name": (lambda: arrays(data.ColumnPartition(3)), LOOKUP, "3"),
    },
    "data.AbstractBatching": {
        "abstract": (lambda: data.AbstractBatching(), TypeError, "abstract")
    },
    "data.AbstractSampler": {
        "abstract": (lambda: data.AbstractSampler(), TypeError, "abstract")
    },
    "data.AbstractPartition": {
        "abstract": (lambda: data.AbstractPartition(), TypeError, "abstract")
    },
    "data.FederatedDataset": {
        "offsets that go down": (
            lambda: data.FederatedDataset(
                {"x": np.ones(3)}, np.array([0, 2, 1]), ["a", "b"]
            ),
            ValueError,
            "rows",
        ),
        "two clients of a name": (
            lambda: data.FederatedDataset(
                {"x": np.ones(2)}, np.array([0, 1, 2]), ["a", "a"]
            ),
            ValueError,
            "a",
        ),
        "no such client": (
            lambda: DATASET["nobody"],
            LOOKUP,
            ("'nobody'", "client000"),
        ),
        "a number for an id": (
            lambda: DATASET[0],
            TypeError,
            ("client ids", "got 0", "dataset.client(number)"),
        ),
    },
    "data.FederatedDataset.from_arrays": {
        "no such column": (lambda: arrays("whom"), LOOKUP, ("'whom'", "who")),
        "columns of two lengths": (
            lambda: arrays(x=np.ones(5)),
            ValueError,
            ("5", "6"),
        ),
        "no columns": (
            lambda: data.FederatedDataset.from_arrays({}, "who"),
            ValueError,
            "no columns",
        ),
        "a number for who": (lambda: arrays(3), EITHER, "3"),
        "a class for a partition": (
            lambda: arrays(data.IIDPartition),
            EITHER,
            "IIDPartition",
        ),
        "owners of fewer rows": (lambda: arrays(["a", "b"]), ValueError, ("2", "6")),
    },
    "data.FederatedDataset.from_mapping": {
        "columns of two lengths": (
            lambda: data.FederatedDataset.from_mapping(
                {"a": {"x": np.ones(2), "y": np.ones(3)}}
            ),
            ValueError,
            ("'a'", "2", "3"),
        ),
        "clients of other columns": (
            lambda: data.FederatedDataset.from_mapping(
                {"a": {"x": np.ones(2)}, "b": {"y": np.ones(2)}}
            ),
            ValueError,
            "'b'",
        ),
    },
    "data.FederatedDataset.from_huggingface": {
        "no such column": (
            lambda: data.FederatedDataset.from_huggingface(TABLE_OF_ROWS, by="whom"),
            LOOKUP,
            ("'whom'", "who"),
        ),
        "arrays": (
            lambda: data.FederatedDataset.from_huggingface(COLUMNS, by="who"),
            TypeError,
            "`dataset` is a dictionary of splits",
        ),
    },
    "data.FederatedDataset.from_parquet": {
        "no such file": (
            lambda: data.FederatedDataset.from_parquet("nowhere.parquet", by="who"),
            (*LOOKUP, OSError),
            "nowhere.parquet",
        ),
        "no parquet": (
            lambda: data.FederatedDataset.from_parquet("taken", by="who"),
            (*LOOKUP, OSError),
            "taken",
        ),
    },
    "data.FederatedDataset.select": {
        "nobody": (lambda: DATASET.select([]), ValueError, "at least one client"),
        "too few booleans": (lambda: DATASET.select([True, False]), EITHER, ("2", "4")),
        "a number too large": (lambda: DATASET.select([4]), LOOKUP, ("4", "3")),
        "a fraction": (lambda: DATASET.select([0.5]), EITHER, "0.5"),
        "no such client": (lambda: DATASET.select(["nobody"]), LOOKUP, "'nobody'"),
        "a number alone": (lambda: DATASET.select(3), EITHER, "3"),
    },
    "data.FederatedDataset.split_clients": shares(
        DATASET.split_clients, name="held_out"
    ),
    "data.FederatedDataset.split_examples": shares(
        DATASET.split_examples, name="held_out"
    ),
    "data.FederatedDataset.split_first": counts(
        DATASET.split_first, name="num_examples", least=1
    ),
    "data.FederatedDataset.max_examples": counts(
        DATASET.max_examples, name="num_examples", least=1
    ),
    "data.FederatedDataset.select_columns": {
        "no such column": (lambda: DATASET.select_columns(["z"]), LOOKUP, ("'z'", "x")),
    },
    "data.FederatedDataset.rename": {
        "no such column": (lambda: DATASET.rename({"z": "x"}), LOOKUP, ("'z'", "x")),
        "two of a name": (lambda: DATASET.rename({"x": "y"}), ValueError, "one name"),
    },
    "data.FederatedDataset.client": {
        "a number too large": (lambda: DATASET.client(4), LOOKUP, ("4", "3")),
        "a fraction": (lambda: DATASET.client(0.5), EITHER, "0.5"),
    },
    "data.Loader": {
        "a model for a data set": (
            lambda: data.Loader(MODEL, data.AllClients(), BATCHING),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "a number for a sampler": (
            lambda: data.Loader(DATASET, 6, BATCHING),
            TypeError,
            ("`sampler`", "`UniformSampler(10, seed=0)`", "got 6"),
        ),
        "a class for a sampler": (
            lambda: data.Loader(DATASET, data.AllClients, BATCHING),
            TypeError,
            ("`sampler`", "the class `AllClients`"),
        ),
        "a number for a batching": (
            lambda: data.Loader(DATASET, data.AllClients(), 4),
            TypeError,
            ("`batching`", "got 4"),
        ),
        **counts(
            lambda x: data.Loader(DATASET, data.AllClients(), BATCHING, prefetch=x),
            name="prefetch",
            least=0,
        ),
        **flags(
            lambda x: data.Loader(DATASET, data.AllClients(), BATCHING, resident=x),
            name="resident",
        ),
        "a cohort larger than the population": (
            lambda: data.Loader(DATASET, data.UniformSampler(5, seed=0), BATCHING),
            ValueError,
            ("5", "4"),
        ),
        "a mesh without clients": (
            lambda: data.Loader(
                DATASET, data.AllClients(), BATCHING, mesh=mesh_of("data")
            ),
            ValueError,
            ("'clients'", "('data',)"),
        ),
        "a column of text": (
            lambda: data.Loader(
                arrays(text=np.array(["a"] * 6)), data.AllClients(), BATCHING
            ),
            EITHER,
            "'text'",
        ),
        "a round before the first": (
            lambda: data.Loader(DATASET, data.AllClients(), BATCHING)(-1),
            ValueError,
            ("`round`", "-1"),
        ),
        "half a round": (
            lambda: data.Loader(DATASET, data.AllClients(), BATCHING)(1.5),
            TypeError,
            ("`round`", "1.5"),
        ),
    },
    "data.cohort": {
        "a model for a data set": (
            lambda: data.cohort(MODEL, BATCHING),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "a number too large": (
            lambda: data.cohort(DATASET, BATCHING, clients=[4]),
            ValueError,
            ("client number 4", "0 to 3"),
        ),
        "a fraction of a client": (
            lambda: data.cohort(DATASET, BATCHING, clients=[0.5]),
            EITHER,
            "`clients`",
        ),
        "a number for a batching": (
            lambda: data.cohort(DATASET, 4),
            TypeError,
            ("`batching`", "got 4"),
        ),
        **seeds(lambda x: data.cohort(DATASET, BATCHING, seed=x)),
    },
    "data.ClientStream": {
        "a data set in memory": (
            lambda: data.ClientStream(TABLE_OF_ROWS, by="who"),
            EITHER,
            "`dataset`",
        ),
        "no such column": (
            lambda: data.ClientStream(TABLE_OF_ROWS.to_iterable_dataset(), by="whom"),
            LOOKUP,
            "'whom'",
        ),
        "a number for a name": (
            lambda: data.ClientStream(TABLE_OF_ROWS.to_iterable_dataset(), by=3),
            EITHER,
            "3",
        ),
    },
    "data.StreamLoader": {
        "a data set for a stream": (
            lambda: data.StreamLoader(DATASET, 2, BATCHING),
            TypeError,
            ("`stream`", "a `FederatedDataset`"),
        ),
        **counts(
            lambda x: data.StreamLoader(stream(), x, BATCHING),
            name="cohort_size",
            least=1,
        ),
        **counts(
            lambda x: data.StreamLoader(stream(), 2, BATCHING, buffer_size=x),
            name="buffer_size",
            least=1,
        ),
        **counts(
            lambda x: data.StreamLoader(stream(), 2, BATCHING, prefetch=x),
            name="prefetch",
            least=0,
        ),
        "a number for a batching": (
            lambda: data.StreamLoader(stream(), 2, 4),
            TypeError,
            "`batching`",
        ),
    },
    "data.ChunkedColumn": {
        "no chunks": (
            lambda: data.ChunkedColumn([]),
            ValueError,
            "`chunks` must be at least one array",
        ),
        "chunks of two shapes": (
            lambda: data.ChunkedColumn([np.ones((2, 3)), np.ones((2, 4))]),
            ValueError,
            ("rows of one shape", "float64[2,3]", "float64[2,4]"),
        ),
    },
}
