"""Data sets that are made from others, and files that are made of them."""

import re
from typing import Any

import numpy as np

import equifed.data as eqd


D: Any = eqd.FederatedDataset
X = np.arange(6.0)
DATASET: Any = D.from_arrays({"x": X, "label": X % 2}, by=list("aabbbc"))
OTHER: Any = D.from_arrays({"x": X, "label": X}, by=list("ddddde"))
V, T = ValueError, TypeError


def holding(*values, dtype: Any = object):
    column = np.empty(len(values), dtype)
    for i, value in enumerate(values):
        column[i] = value
    return D({"x": column}, np.array([0, 1, len(values)]), ["a", "b"])


def save(dataset: Any = DATASET, path: Any = "new.parquet", **kwargs: Any):
    dataset.to_parquet(path, **kwargs)


def others(**columns):
    return D.from_arrays(columns, by=list("ddddde"))


CASES = {
    "data.FederatedDataset.filter": {
        "no condition": (lambda: DATASET.filter(), V, "no condition; write a function"),
        "a number to keep": (
            lambda: DATASET.filter(3),
            T,
            "`keep` must be a function, got 3",
        ),
        "ids to keep": (lambda: DATASET.filter(["a"]), T, r"`keep`.*got \['a'\]"),
        "kept None": (
            lambda: DATASET.filter(lambda c, e: None),
            T,
            "`keep` must return True or False, got None for client 'a'",
        ),
        "kept a number": (
            lambda: DATASET.filter(lambda c, e: 1),
            T,
            "True or False, got 1 for client 'a'",
        ),
        "kept an array": (
            lambda: DATASET.filter(lambda c, e: e["x"] > 1),
            T,
            r"got an array bool\[2\] for client 'a'. Of an array write `.any\(\)`",
        ),
        "nobody kept": (
            lambda: DATASET.filter(lambda c, e: False),
            V,
            "none of the 3 clients.*1 to 3 examples",
        ),
        "too many examples": (
            lambda: DATASET.filter(min_examples=4),
            V,
            "none of the 3 clients",
        ),
        "min 1.5": (
            lambda: DATASET.filter(min_examples=1.5),
            T,
            "`min_examples` must be an integer, got 1.5",
        ),
        "min -1": (
            lambda: DATASET.filter(min_examples=-1),
            V,
            "`min_examples` must be at least 0, got -1",
        ),
        "min True": (
            lambda: DATASET.filter(min_examples=True),
            T,
            "`min_examples` must be an integer, got True",
        ),
    },
    "data.FederatedDataset.concatenate": {
        "one dataset": (
            lambda: D.concatenate(DATASET),
            T,
            r"list of datasets, got a `FederatedDataset`. Write .*\[first, second\]",
        ),
        "no datasets": (lambda: D.concatenate([]), V, "`datasets` is empty"),
        "nothing joined": (lambda: D.concatenate(None), T, "list of datasets.*None"),
        "columns": (
            lambda: D.concatenate([DATASET, {"x": X}]),
            T,
            "list of datasets, got a `dict` of 1 as number 1",
        ),
        "one client in two": (
            lambda: D.concatenate([OTHER, DATASET, DATASET.select(["b"])]),
            V,
            "Client 'b' is in dataset 1 and in dataset 2; .*`prefixes=",
        ),
        "several clients in two": (
            lambda: D.concatenate([DATASET, DATASET]),
            V,
            "Client 'a' is in dataset 0 and in dataset 1, and 2 more clients",
        ),
        "prefixes of fewer": (
            lambda: D.concatenate([DATASET, DATASET], prefixes=["a"]),
            V,
            "`prefixes` has 1 texts for 2 datasets",
        ),
        "equal prefixes": (
            lambda: D.concatenate([DATASET, DATASET], prefixes=["a/", "a/"]),
            V,
            "Client 'a/a' is in dataset 0 and in dataset 1",
        ),
        "text for prefixes": (
            lambda: D.concatenate([DATASET, DATASET], prefixes="ab"),
            T,
            "`prefixes` must be a list of texts, one for each dataset, got 'ab'",
        ),
        "numbers for prefixes": (
            lambda: D.concatenate([DATASET, DATASET], prefixes=[1, 2]),
            T,
            "`prefixes`.*text, got 1",
        ),
        "other columns": (
            lambda: D.concatenate([DATASET, OTHER.select_columns(["x"])]),
            V,
            "Dataset 1 has the columns x, but dataset 0 has label, x",
        ),
        "another dtype": (
            lambda: D.concatenate([DATASET, others(x=X, label=X > 1)]),
            V,
            "'label' of dataset 1 has dtype bool, but that of dataset 0 has float64",
        ),
        "another shape": (
            lambda: D.concatenate([DATASET, others(x=X[:, None], label=X)]),
            V,
            r"'x' of dataset 1 has examples of shape \(1,\), .* dataset 0 have.* \(\)",
        ),
    },
    "data.FederatedDataset.repartition": {
        "a name": (
            lambda: DATASET.repartition("label"),
            T,
            r"`partition` must be an `AbstractPartition`, got 'label'. Write one such",
        ),
        "a class": (
            lambda: DATASET.repartition(eqd.IIDPartition),
            T,
            "`partition`.*got the class `IIDPartition`",
        ),
        "too many clients": (
            lambda: DATASET.repartition(eqd.IIDPartition(7)),
            V,
            "`num_clients` is 7, but there are only 6 examples",
        ),
        "no such label": (
            lambda: DATASET.repartition(eqd.ShardPartition(2, label="y")),
            V,
            "no column 'y'; the columns are: x, label",
        ),
    },
    "data.FederatedDataset.split_examples": {
        "no such label": (
            lambda: DATASET.split_examples(0.5, stratify="y"),
            V,
            "no column 'y'; the columns are: x, label",
        ),
        "a number for a label": (
            lambda: DATASET.split_examples(0.5, stratify=3),
            T,
            "`stratify` must be text, got 3. Name a column of labels",
        ),
        "rows for labels": (
            lambda: others(x=X[:, None]).split_examples(0.5, stratify="x"),
            V,
            r"'x' has rows of shape \(1,\)",
        ),
        "labels that are NaN": (
            lambda: others(x=X / 0.0 * 0.0).split_examples(0.5, stratify="x"),
            V,
            "'x' has 6 nulls among its 6 rows",
        ),
    },
    "data.FederatedDataset.to_parquet": {
        "a number for a path": (lambda: save(path=3), T, "`path` must be .*got 3"),
        "bytes for a path": (lambda: save(path=b"a"), T, "`path` must be .*got b'a'"),
        "a folder": (lambda: save(path="."), V, "`path` must be a file.*folder '.'"),
        "no folder": (
            lambda: save(path="none/a.parquet"),
            V,
            "`path` must be a file in a folder that is there, got 'none/a.parquet'",
        ),
        "no ordinary file": (
            lambda: save(path="/dev/null"),
            V,
            "`path` must be a file, got '/dev/null'",
        ),
        "a column's name": (
            lambda: save(by="x"),
            V,
            "`by` is 'x', which is a column already",
        ),
        "a number for by": (lambda: save(by=3), T, "`by` must be text, got 3"),
        "an empty id": (
            lambda: save(D({"x": X}, np.array([0, 6]), [""])),
            V,
            "empty id ''",
        ),
        "an id that is no text": (
            lambda: save(D({"x": X}, np.array([0, 6]), ["\ud800"])),
            V,
            "client's id is no text that a file can hold",
        ),
        "complex numbers": (
            lambda: save(holding(1, 2, dtype=complex), "taken"),
            V,
            r"'x' holds the dtype complex128, for which .*`dataset.map\(...\)`",
        ),
        "structures": (
            lambda: save(holding((1,), (2,), dtype=[("a", int)])),
            V,
            "'x' holds the dtype .*for which a parquet file has no form",
        ),
        "days as a span": (
            lambda: save(holding(1, 2, dtype="m8[D]")),
            V,
            r"'x' holds the dtype timedelta64\[D\]",
        ),
        "missing times": (
            lambda: save(holding(0, "NaT", dtype="M8[s]"), "taken"),
            V,
            r"'x' of client 'b' has missing times \(NaT\)",
        ),
        "rows of nothing": (
            lambda: save(others(x=np.zeros((6, 0)))),
            V,
            r"'x' holds rows of shape \(0,\), without values",
        ),
        "numbers as objects": (
            lambda: save(holding(1, 2)),
            V,
            "'x' holds objects such as 1",
        ),
        "rows of two dimensions and no one shape": (
            lambda: save(holding(np.ones((2, 2)), np.ones((3, 3)))),
            V,
            r"'x' holds objects such as an array float64\[2,2\]",
        ),
        "a number among text": (
            lambda: save(holding("a", 2), "taken"),
            V,
            "'x' of client 'b' holds 2, but its first row holds text",
        ),
        "another dtype among rows": (
            lambda: save(holding(np.ones(2), np.ones(3, int)), "taken"),
            V,
            r"'x' of client 'b' holds an array int64\[3\], but its first row .*float64",
        ),
        "text that is none": (
            lambda: save(holding("a", "\ud800"), "taken"),
            V,
            "'x' holds text that a parquet file cannot",
        ),
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
