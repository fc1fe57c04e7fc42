"""More of what `equifed.data` is given, one thing after another."""

import re
from typing import Any

import datasets
import jax
import jax.random as jr
import numpy as np

import equifed.data as eqd


NAN = float("nan")
X = np.arange(24.0).reshape(24, 1)
D: Any = eqd.FederatedDataset
DATASET: Any = D.from_arrays({"x": X, "y": X[:, 0]}, by=np.repeat(np.arange(8), 3))
BATCHING: Any = eqd.Epochs(1, batch_size=2)
ALL: Any = eqd.AllClients()
HF: Any = datasets.Dataset.from_dict({"who": ["a", "b"], "x": [1, 2]})
STREAM: Any = HF.to_iterable_dataset()
E: Any = eqd  # nothing that it is given is of the type that it should be


class Draws(eqd.AbstractSampler):
    drawn: Any
    seed: int = 0
    most: int = 8

    def __call__(self, round, num_clients):
        return self.drawn

    def max_clients(self, num_clients):
        return self.most


class LaysOut(eqd.AbstractBatching):
    rows: Any
    steps: Any = 1
    batch_size: int = 2

    def order(self, num_examples, rng):
        return np.asarray(self.rows)

    def num_steps(self, num_examples):
        return np.full(len(num_examples), self.steps)


class Gives(eqd.AbstractPartition):
    clients: Any

    @property
    def column_names(self):
        return ()

    def __call__(self, columns, num_examples):
        return self.clients


def draws(drawn, **kwargs: Any):
    return Draws(drawn=drawn, **kwargs)


def loader(
    sampler: Any = ALL, batching: Any = BATCHING, dataset: Any = DATASET, **kwargs
) -> Any:
    return eqd.Loader(dataset, sampler, batching, **kwargs)


def made(rows, steps: Any = 1, batch_size: Any = 2):
    loader(batching=LaysOut(rows, steps, batch_size))(0)


def arrays(by: Any = None, **columns):
    by = ["a", "b"] if by is None else by
    return D.from_arrays(columns or {"x": X[:2]}, by=by)


def given(clients):
    return arrays(by=Gives(clients))


V, T = ValueError, TypeError
MASKED = np.ma.array([1.0, 2.0], mask=[False, True])

CASES = {
    "data.FederatedDataset.select": {
        "a mask that is short": (
            lambda: DATASET.select([True, False]),
            V,
            "2 booleans.* 8",
        ),
        "a short array": (
            lambda: DATASET.select(np.array([True])),
            V,
            "1 booleans for 8",
        ),
        "a mask of nobody": (lambda: DATASET.select([False] * 8), V, "no True"),
        "flags and numbers": (lambda: DATASET.select([True, 3]), T, "client numbers"),
        "fractions": (lambda: DATASET.select(np.array([0.0, 1.0])), T, "integers"),
        "a list of fractions": (lambda: DATASET.select([0.0, 1.0]), T, r"\[0.0, 1.0\]"),
        "not a number": (lambda: DATASET.select([NAN]), T, "integers"),
        "nothing": (lambda: DATASET.select(None), T, "list of client ids.*None"),
        "a list of nothing": (lambda: DATASET.select([None]), T, r"integers.*\[None\]"),
        "text": (
            lambda: DATASET.select("012"),
            T,
            "list of client ids.*'012'.*list of one",
        ),
        "a number": (lambda: DATASET.select(3), T, "list of client ids.*got 3"),
        "twice by number": (
            lambda: DATASET.select([1, 1]),
            V,
            "client '1' more than once",
        ),
        "twice by id": (
            lambda: DATASET.select(["1", 1]),
            V,
            "client '1' more than once",
        ),
        "below": (lambda: DATASET.select([-1]), V, "no client number -1.* 0 to 7"),
        "beyond": (lambda: DATASET.select([8]), V, "no client number 8"),
        "far beyond": (lambda: DATASET.select([2**70]), T, "integers"),
        "a table of numbers": (
            lambda: DATASET.select(np.zeros((2, 2), int)),
            T,
            "integers",
        ),
        "an unknown id": (
            lambda: DATASET.select(["z"]),
            V,
            "no client 'z' among the 8",
        ),
        "none": (lambda: DATASET.select([]), V, "`clients` is empty"),
    },
    "data.FederatedDataset.client": {
        "client True": (
            lambda: DATASET.client(True),
            T,
            "`index` must be an integer.*True",
        ),
        "client 1.0": (
            lambda: DATASET.client(1.0),
            T,
            "`index` must be an integer, got 1.0",
        ),
        "client by id": (
            lambda: DATASET.client("1"),
            T,
            r"'1'.*`dataset\[client_id\]`",
        ),
        "client -1": (lambda: DATASET.client(-1), V, "no client number -1"),
        "client None": (
            lambda: DATASET.client(None),
            T,
            "must be an integer, got None",
        ),
    },
    "data.FederatedDataset.index": {
        "index 3": (lambda: DATASET.index(3), T, "`client_id` must be text, got 3"),
        "index []": (lambda: DATASET.index([]), T, "`client_id` must be text"),
    },
    "data.FederatedDataset": {
        "dataset[3]": (lambda: DATASET[3], T, r"got 3.*dataset.client\(number\)"),
        "dataset[True]": (lambda: DATASET[True], T, "ids, which are strings, got True"),
        "dataset[None]": (lambda: DATASET[None], T, "got None"),
        "offsets of fractions": (
            lambda: D({"x": X}, [0, 23.5], ["a"]),
            T,
            "`offsets`.*int",
        ),
        "offsets empty": (lambda: D({"x": X}, [], ["a"]), V, "0 entries for 1 clients"),
        "offsets falling": (
            lambda: D({"x": X}, [0, 25, 24], ["a", "b"]),
            V,
            "decrease",
        ),
        "ids text": (lambda: D({"x": X[:2]}, [0, 1, 2], "ab"), T, "`client_ids`.*list"),
        "ids numbers": (
            lambda: D({"x": X}, [0, 24], [1]),
            T,
            "`client_ids`.*text, got 1",
        ),
        "columns list": (lambda: D([X], [0, 24], ["a"]), T, "`columns`"),
    },
    "data.FederatedDataset.split_clients": {
        "split True": (lambda: DATASET.split_clients(True), T, "`held_out`.*got True"),
        "split NaN": (lambda: DATASET.split_clients(NAN), V, "`held_out`.*finite"),
        "split text": (lambda: DATASET.split_clients("0.5"), T, "`held_out`.*'0.5'"),
        "split None": (lambda: DATASET.split_clients(None), T, "`held_out`.*None"),
        "split -1": (lambda: DATASET.split_clients(-1), V, "`held_out` is -1"),
        "split 2.0": (lambda: DATASET.split_clients(2.0), V, r"fraction in \(0, 1\)"),
        "split all": (lambda: DATASET.split_clients(8), V, "0 seen and 8 unseen"),
        "split 0.001": (lambda: DATASET.split_clients(0.001), V, "0 unseen of 8"),
        "split of a vector": (
            lambda: DATASET.split_clients(np.ones(2)),
            V,
            "one number",
        ),
        "split seed": (lambda: DATASET.split_clients(2, seed=1.5), T, "`seed`.*1.5"),
        "split seed -1": (lambda: DATASET.split_clients(2, seed=-1), V, "`seed`.*-1"),
        "split seed True": (
            lambda: DATASET.split_clients(2, seed=True),
            T,
            "`seed`.*True",
        ),
        "split a key": (
            lambda: DATASET.split_clients(2, seed=jr.key(0)),
            T,
            "random key",
        ),
    },
    "data.FederatedDataset.split_examples": {
        "examples 1": (
            lambda: DATASET.split_examples(1),
            V,
            r"fraction in \(0, 1\), got 1",
        ),
        "examples True": (lambda: DATASET.split_examples(True), T, "`held_out`.*True"),
        "examples NaN": (lambda: DATASET.split_examples(NAN), V, "`held_out`.*finite"),
        "examples seed": (
            lambda: DATASET.split_examples(0.5, seed="0"),
            T,
            "`seed`.*'0'",
        ),
        "no examples": (
            lambda: DATASET.split_examples(0.01),
            V,
            "no example of any client",
        ),
    },
    "data.FederatedDataset.max_examples": {
        "max True": (lambda: DATASET.max_examples(True), T, "`num_examples`.*True"),
        "max 1.5": (lambda: DATASET.max_examples(1.5), T, "`num_examples`.*1.5"),
        "max 0": (lambda: DATASET.max_examples(0), V, "`num_examples`.*at least 1"),
        "max NaN": (lambda: DATASET.max_examples(NAN), T, "`num_examples`.*nan"),
        "max seed": (lambda: DATASET.max_examples(1, seed=2**64), V, "`seed`"),
    },
    "data.FederatedDataset.select_columns": {
        "columns text": (
            lambda: DATASET.select_columns("x"),
            T,
            r"list of names.*\['x'\]",
        ),
        "columns number": (
            lambda: DATASET.select_columns(3),
            T,
            "list of names, got 3",
        ),
        "columns numbers": (
            lambda: DATASET.select_columns([3]),
            T,
            "must be text, got 3",
        ),
        "columns none": (lambda: DATASET.select_columns([]), V, "`names` is empty"),
        "columns unknown": (lambda: DATASET.select_columns(["z"]), V, "no column 'z'"),
    },
    "data.FederatedDataset.rename": {
        "rename text": (lambda: DATASET.rename("x"), T, "{old: new}"),
        "rename pairs": (lambda: DATASET.rename([("x", "z")]), T, "{old: new}"),
        "rename clash": (lambda: DATASET.rename({"x": "y"}), V, "two columns one name"),
        "rename two": (
            lambda: DATASET.rename({"x": "z", "y": "z"}),
            V,
            "two columns one",
        ),
        "rename number": (lambda: DATASET.rename({"x": 3}), T, "must be text, got 3"),
        "rename unknown": (lambda: DATASET.rename({"q": "z"}), V, "no column 'q'"),
    },
    "data.FederatedDataset.map": {
        "map nothing": (lambda: DATASET.map(lambda c: None), T, "`fn` returns.*None"),
        "map an array": (
            lambda: DATASET.map(lambda c: c["x"]),
            T,
            "`fn` returns.*array",
        ),
        "map no columns": (lambda: DATASET.map(lambda c: {}), V, "`columns` is empty"),
        "map numbers": (
            lambda: DATASET.map(lambda c: {3: X}),
            T,
            "name of a column.*3",
        ),
        "map a scalar": (
            lambda: DATASET.map(lambda c: {"x": 1.0}),
            V,
            "'x' with shape",
        ),
        "map too few": (lambda: DATASET.map(lambda c: {"x": X[:3]}), V, "24 rows"),
        "map no function": (
            lambda: DATASET.map(3),
            T,
            "`fn` must be a function, got 3",
        ),
    },
    "data.FederatedDataset.map_clients": {
        "map_clients nothing": (
            lambda: DATASET.map_clients(lambda c, e: None),
            T,
            "`fn` returns of client '0'.*None",
        ),
        "map_clients other columns": (
            lambda: DATASET.map_clients(lambda c, e: {c: e["x"]}),
            V,
            "Client '1' has the columns 1, but",
        ),
    },
    "data.FederatedDataset.from_arrays": {
        "masked": (lambda: arrays(x=MASKED), V, "'x' is masked in 1 places"),
        "ragged": (lambda: arrays(x=[[1], [2, 3]]), V, "'x'.*one shape"),
        "text and numbers": (lambda: arrays(x=["a", 1]), T, "'x' mixes text"),
        "a generator": (lambda: arrays(x=(i for i in X)), V, "'x' is a single value"),
        "a string": (lambda: arrays(x="ab"), V, "'x' is a single value"),
        "a key": (lambda: arrays(x=jr.split(jr.key(0))), V, "'x'"),
        "columns in a list": (
            lambda: D.from_arrays([X], by="x"),
            T,
            "dictionary of arrays",
        ),
        "no columns at all": (lambda: D.from_arrays({}, by="x"), V, "no columns"),
        "unnamed": (
            lambda: D.from_arrays({None: X}, by=[1] * 24),
            T,
            "name of a column",
        ),
        "lengths": (lambda: arrays(x=[1, 2], y=[1]), V, "'x' has 2, 'y' has 1"),
        "by short": (lambda: arrays(by=["a"]), V, "1 entries for 2 examples"),
        "by None": (lambda: D.from_arrays({"x": X[:2]}, by=None), T, "`by`.*None"),
        "by 3": (lambda: arrays(by=3), T, "`by` must be the name.*got 3"),
        "by text and numbers": (lambda: arrays(by=[1, "1"]), T, "'by' mixes text"),
        "by objects": (
            lambda: arrays(by=np.array([1, "1"], object)),
            V,
            "different types: int, str",
        ),
        "by bytes and text": (
            lambda: arrays(by=np.array([b"a", "a"], object)),
            V,
            "types",
        ),
        "by nulls": (lambda: arrays(by=["a", None]), V, "1 nulls.*row 1"),
        "by NaN": (lambda: arrays(by=[NAN, 1.0]), V, "1 nulls.*row 0"),
        "by NaT": (lambda: arrays(by=np.array(["NaT", "2020"], "M8[D]")), V, "1 nulls"),
        "by empty": (lambda: arrays(by=["a", ""]), V, "empty id"),
        "by two columns": (lambda: arrays(by=X[:2]), V, r"rows of shape \(1,\)"),
        "by unknown": (lambda: arrays(by="z"), V, "no column 'z'"),
        "by the only column": (
            lambda: arrays(by="x", x=[1, 2]),
            V,
            "`columns` is empty",
        ),
    },
    "data.FederatedDataset.from_mapping": {
        "a list of clients": (
            lambda: D.from_mapping([{"x": X}]),
            T,
            "dictionary of the",
        ),
        "no clients": (lambda: D.from_mapping({}), V, "no clients"),
        "client of nothing": (lambda: D.from_mapping({"a": None}), T, "'a'.*got None"),
        "client of an array": (lambda: D.from_mapping({"a": X}), T, "'a'.*array"),
        "id None": (lambda: D.from_mapping({None: {"x": X}}), T, "id must be.*None"),
        "id 1.0": (lambda: D.from_mapping({1.0: {"x": X}}), T, "id must be.*1.0"),
        "id True": (lambda: D.from_mapping({True: {"x": X}}), T, "id must be.*True"),
        "id empty": (lambda: D.from_mapping({"": {"x": X}}), T, "id must be.*empty"),
        "ids alike": (
            lambda: D.from_mapping({1: {"x": X}, "1": {"x": X}}),
            V,
            "'1' occurs more than once",
        ),
        "client masked": (
            lambda: D.from_mapping({"a": {"x": MASKED}}),
            V,
            "'x'.*'a'.*mask",
        ),
    },
    "data.FederatedDataset.from_huggingface": {
        "hf columns": (
            lambda: D.from_huggingface(HF, by="who", columns="x"),
            T,
            r"`columns` must be a list of names, got 'x'. Write `\['x'\]`",
        ),
        "hf no columns": (
            lambda: D.from_huggingface(HF, by="who", columns=[]),
            V,
            "empty",
        ),
        "hf by": (lambda: D.from_huggingface(HF, by=None), T, "`by` must be.*None"),
        "hf by a class": (lambda: D.from_huggingface(HF, by=E.IIDPartition), T, "`by`"),
        "hf none": (lambda: D.from_huggingface(None, by="who"), T, "`dataset` must be"),
        "hf splits": (
            lambda: D.from_huggingface(datasets.DatasetDict({"a": HF}), by="who"),
            T,
            r"dataset\['a'\]",
        ),
    },
    "data.FederatedDataset.from_parquet": {
        "no files": (lambda: D.from_parquet([], by="who"), V, "`files` is empty"),
        "files None": (lambda: D.from_parquet(None, by="who"), T, "`files`.*None"),
        "file missing": (
            lambda: D.from_parquet("no.parquet", by="a"),
            V,
            "no file 'no.par",
        ),
        "a folder": (lambda: D.from_parquet(".", by="a"), V, "is a folder"),
    },
    "data.AbstractPartition": {
        "partition of nothing": (lambda: given(None), T, "partition.*dictionary.*None"),
        "partition empty": (lambda: given({}), V, "made no clients"),
        "partition beyond": (
            lambda: given({"a": [0, 2]}),
            V,
            "client 'a' the row number 2",
        ),
        "partition below": (lambda: given({"a": [0], "b": [-1]}), V, "client 'b'.*-1"),
        "partition fractions": (
            lambda: given({"a": [0.0, 1.0]}),
            T,
            "client 'a'.*integers",
        ),
        "partition flags": (
            lambda: given({"a": [True, False]}),
            T,
            "client 'a'.*integers",
        ),
        "partition a number": (lambda: given({"a": 1}), T, "client 'a' 1"),
    },
    "data.IIDPartition": {
        "iid 2.5": (lambda: E.IIDPartition(2.5), T, "`num_clients`.*2.5"),
        "iid True": (lambda: E.IIDPartition(True), T, "`num_clients`.*True"),
        "iid seed": (lambda: E.IIDPartition(2, seed=-1), V, "`seed`.*-1"),
        "iid no seed": (lambda: E.IIDPartition(2, seed=None), T, "`seed`"),
    },
    "data.DirichletPartition": {
        "alpha of several": (
            lambda: E.DirichletPartition(2, np.ones(2)),
            V,
            "`alpha` must be one number",
        ),
        "alpha NaN": (lambda: E.DirichletPartition(2, NAN), V, "`alpha`.*finite"),
        "alpha True": (lambda: E.DirichletPartition(2, True), T, "`alpha`.*True"),
        "alpha 0": (lambda: E.DirichletPartition(2, 0), V, "`alpha`.*more than 0"),
        "alpha text": (lambda: E.DirichletPartition(2, "1"), T, "`alpha`"),
        "min_size 1.5": (
            lambda: E.DirichletPartition(2, 1.0, min_size=1.5),
            T,
            "`min_size` must be an integer",
        ),
    },
    "data.QuantityPartition": {
        "min_size -1": (
            lambda: E.QuantityPartition(2, min_size=-1),
            V,
            "`min_size`.*-1",
        ),
        "exponent": (lambda: E.QuantityPartition(2, -1.0), V, "`exponent`.*at least 0"),
        "exponent True": (lambda: E.QuantityPartition(2, True), T, "`exponent`.*True"),
    },
    "data.ShardPartition": {
        "shards": (lambda: E.ShardPartition(2, 1.5), T, "`shards_per_client`"),
        "shards True": (
            lambda: E.ShardPartition(2, True),
            T,
            "`shards_per_client`.*True",
        ),
        "shards 0": (lambda: E.ShardPartition(2, 0), V, "`shards_per_client`.*1"),
        "label": (lambda: E.ShardPartition(2, label=3), T, "`label` must be text"),
    },
    "data.ColumnPartition": {
        "column": (lambda: E.ColumnPartition(3), T, "`column` must be text"),
    },
    "data.UniformSampler": {
        "cohort 2.5": (lambda: E.UniformSampler(2.5), T, "`cohort_size`.*2.5"),
        "cohort True": (lambda: E.UniformSampler(True), T, "`cohort_size`.*True"),
        "sampler seed": (lambda: E.UniformSampler(2, seed=0.5), T, "`seed`.*0.5"),
    },
    "data.ShuffledSampler": {
        "cohort 0": (lambda: E.ShuffledSampler(0), V, "`cohort_size`.*at least 1"),
        "cohort None": (
            lambda: E.ShuffledSampler(None),
            T,
            "`cohort_size`.*None",
        ),
    },
    "data.AllClients": {
        "sampler seed True": (lambda: E.AllClients(seed=True), T, "`seed`.*True"),
        "sampler seed -1": (lambda: E.AllClients(seed=-1), V, "`seed`.*-1"),
    },
    "data.PoissonSampler": {
        "rate True": (lambda: E.PoissonSampler(True), T, "`rate`.*True"),
        "rate NaN": (lambda: E.PoissonSampler(NAN), V, "`rate`.*finite"),
        "rate 0": (lambda: E.PoissonSampler(0.0), V, "`rate` must be a probability"),
        "rate 2": (lambda: E.PoissonSampler(2), V, "`rate` must be a probability"),
        "rate text": (lambda: E.PoissonSampler("0.1"), T, "`rate`.*'0.1'"),
    },
    "data.WeightedSampler": {
        "weights NaN": (
            lambda: E.WeightedSampler(1, [1.0, NAN]),
            V,
            "finite, got nan for client 1",
        ),
        "weights None": (
            lambda: E.WeightedSampler(1, None),
            T,
            "`weights`.*None",
        ),
        "weights of None": (
            lambda: E.WeightedSampler(1, [1.0, None]),
            V,
            "`weights`.*object",
        ),
        "weights flags": (
            lambda: E.WeightedSampler(1, np.array([True])),
            V,
            "`weights`.*bool",
        ),
        "weights negative": (
            lambda: E.WeightedSampler(1, [1, -2]),
            V,
            "-2.0 for client 1",
        ),
        "weights text": (lambda: E.WeightedSampler(1, "12"), V, "`weights`"),
        "replace": (
            lambda: E.WeightedSampler(1, [1.0], replace=1),
            T,
            "`replace` must be True or False, got 1",
        ),
    },
    "data.Epochs": {
        "epochs 1.5": (
            lambda: E.Epochs(1.5, batch_size=2),
            T,
            "`num_epochs`.*1.5",
        ),
        "epochs True": (lambda: E.Epochs(True, batch_size=2), T, "`num_epochs`.*True"),
        "batch 0": (lambda: E.Epochs(batch_size=0), V, "`batch_size`.*at least 1"),
        "batch None": (
            lambda: E.Epochs(batch_size=None),
            T,
            "`batch_size`.*None",
        ),
        "last": (lambda: E.Epochs(batch_size=2, last="pad"), V, "`last`.*'pad'"),
    },
    "data.Steps": {
        "shuffle": (lambda: E.Steps(2, batch_size=2, shuffle=1), T, "`shuffle`"),
        "steps NaN": (lambda: E.Steps(NAN, batch_size=2), T, "`num_steps`.*nan"),
    },
    "data.Loader": {
        "prefetch 1.5": (lambda: loader(prefetch=1.5), T, "`prefetch`.*1.5"),
        "prefetch True": (lambda: loader(prefetch=True), T, "`prefetch`.*True"),
        "prefetch -1": (lambda: loader(prefetch=-1), V, "`prefetch`.*at least 0"),
        "resident": (lambda: loader(resident="no"), T, "`resident`.*'no'"),
        "mesh": (lambda: loader(mesh=jax.devices()), T, "`mesh`"),
        "sampler a number": (
            lambda: loader(6),
            T,
            r"`sampler`.*got 6.*UniformSampler\(10\)",
        ),
        "sampler a class": (lambda: loader(E.AllClients), T, "`sampler`.*the class"),
        "swapped": (lambda: loader(BATCHING, ALL), T, "`sampler`.*got an `Epochs`"),
        "batching a number": (lambda: loader(batching=20), T, "`batching`.*got 20"),
        "columns for a dataset": (
            lambda: loader(dataset={"x": X}),
            T,
            "`dataset`.*dict",
        ),
        "round 1.5": (lambda: loader()(1.5), T, "`round`.*1.5"),
        "round True": (lambda: loader()(True), T, "`round`.*True"),
        "round -1": (lambda: loader()(-1), V, "`round`.*at least 0"),
        "text to a device": (
            lambda: loader(dataset=arrays(x=["a", "b"])),
            V,
            "'x' holds text",
        ),
        "a structure to a device": (
            lambda: loader(dataset=arrays(x=np.zeros(2, [("a", int)]))),
            V,
            "'x' holds no numbers",
        ),
    },
    "data.AbstractSampler": {
        "drawn fractions": (
            lambda: loader(draws(np.array([0.0]))),
            T,
            "`Draws`.*integers",
        ),
        "drawn flags": (
            lambda: loader(draws(np.ones(8, bool))),
            T,
            r"`Draws`.*array bool\[8\].*flatnonzero",
        ),
        "drawn nothing": (lambda: loader(draws(None)), T, "`Draws`.*None in round 0"),
        "drawn beyond": (
            lambda: loader(draws([0, 8])),
            V,
            "`Draws` drew client number 8",
        ),
        "drawn below": (lambda: loader(draws([-1])), V, "client number -1 in round 0"),
        "drawn too many": (
            lambda: loader(draws([0] * 9)),
            V,
            "9 clients.*`max_clients` is 8",
        ),
        "a sampler's seed": (
            lambda: loader(draws([0], seed=0.5)),
            T,
            "`seed`.*0.5",
        ),
    },
    "data.AbstractBatching": {
        "laid out beyond": (
            lambda: made([[0, 3]]),
            V,
            "example 3 for client '0', who has 3",
        ),
        "laid out below": (lambda: made([[0, -2]]), V, "`LaysOut.order`.* example -2"),
        "laid out fractions": (
            lambda: made([[0.0, 1.0]]),
            T,
            "integers.*float64.*client '0'",
        ),
        "laid out flags": (lambda: made([[True, False]]), T, "integers.*bool"),
        "laid out short": (lambda: made([[0, 1]], steps=2), V, r"\(1, 2\).*\(2, 2\)"),
        "steps below": (lambda: made([[0, 1]], steps=-1), V, "`LaysOut.num_steps`"),
        "steps of fractions": (
            lambda: made([[0, 1]], steps=1.0),
            V,
            "`LaysOut.num_steps`",
        ),
        "a batching's size": (
            lambda: made([[0]], batch_size=1.0),
            T,
            "`batch_size`",
        ),
    },
    "data.cohort": {
        "cohort of flags": (
            lambda: E.cohort(DATASET, BATCHING, clients=[True]),
            T,
            "integers",
        ),
        "cohort of fractions": (
            lambda: E.cohort(DATASET, BATCHING, clients=[0.5]),
            T,
            "`clients`.*0.5",
        ),
        "cohort of text": (
            lambda: E.cohort(DATASET, BATCHING, clients="01"),
            T,
            "`clients`",
        ),
        "cohort beyond": (
            lambda: E.cohort(DATASET, BATCHING, clients=[8]),
            V,
            "no client number 8",
        ),
        "cohort round": (
            lambda: E.cohort(DATASET, BATCHING, round=1.5),
            T,
            "round",
        ),
        "cohort seed": (
            lambda: E.cohort(DATASET, BATCHING, clients=[0], seed=0.5),
            T,
            "`seed`",
        ),
    },
    "data.ClientStream": {
        "stream of a dataset": (
            lambda: E.ClientStream(HF, by="who"),
            T,
            r"`dataset`.*to_iterable_dataset\(\)",
        ),
        "stream of nothing": (lambda: E.ClientStream(None, by="who"), T, "None"),
        "stream by": (lambda: E.ClientStream(STREAM, by=3), T, "`by`.*got 3"),
        "stream columns": (
            lambda: E.ClientStream(STREAM, by="who", columns="x"),
            T,
            r"Write `\['x'\]`",
        ),
        "stream transform": (
            lambda: E.ClientStream(STREAM, by="who", transform=3),
            T,
            "`transform` must be a function, got 3",
        ),
        "transform to nothing": (
            lambda: list(E.ClientStream(STREAM, by="who", transform=lambda c, e: None)),
            T,
            "`transform` returns of client 'a'.*None",
        ),
    },
    "data.StreamLoader": {
        "stream as it is": (
            lambda: E.StreamLoader(STREAM, 2, BATCHING),
            T,
            r"`stream`.*ClientStream\(dataset, by=...\)",
        ),
        **{
            f"stream {name}": (
                lambda name=name, x=x: E.StreamLoader(
                    E.ClientStream(STREAM, by="who"),
                    **{"cohort_size": 2, "batching": BATCHING, name: x},
                ),
                kind,
                f"`{name}`",
            )
            for name, x, kind in (
                ("cohort_size", 2.5, T),
                ("cohort_size", 0, V),
                ("buffer_size", True, T),
                ("prefetch", 1.5, T),
                ("seed", -1, V),
                ("batching", 2, T),
            )
        },
    },
}

# Their words are patterns.
TABLE = {
    name: {
        case: (call, error, re.compile(words))
        for case, (call, error, words) in cases.items()
    }
    for name, cases in CASES.items()
}
