"""Files of FedJAX and of TensorFlow Federated, as their own writers lay them out."""

import sqlite3
import struct
import sys
import zlib
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

import equifed.data as eqd


# FedJAX's layout.


def pack(tree: Any, **kwargs: Any) -> Any:
    return msgpack.packb(tree, **kwargs)


def packed(tree):
    def default(x):
        if isinstance(x, np.ndarray) and x.dtype == object:
            content = (x.shape, x.ravel().tolist())
            return msgpack.ExtType(4, pack(content, use_bin_type=True))
        if isinstance(x, complex):
            return msgpack.ExtType(2, pack((x.real, x.imag)))
        content = (x.shape, x.dtype.name, x.tobytes("C"))
        code = 1 if isinstance(x, np.ndarray) else 3
        return msgpack.ExtType(code, pack(content, use_bin_type=True))

    return zlib.compress(pack(tree, default=default, strict_types=True))


def fedjax_file(path, clients):
    """`clients` are triples of an id, a blob and the number of examples."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, "
            "data BLOB NOT NULL, num_examples INTEGER NOT NULL);"
        )
        connection.executemany("INSERT INTO federated_data VALUES (?, ?, ?);", clients)
    connection.close()
    return path


def texts(*values):
    out = np.empty(len(values), object)
    out[:] = values
    return out


def test_fedjax_files_are_read(tmp_path):
    rng = np.random.default_rng(0)
    examples = {
        b"a10": {
            "pixels": rng.random((2, 3, 3), np.float32),
            "label": np.array([1, 2], np.int32),
            "text": texts(b"to be", b"\xff or not"),
            "half": np.array([1.5, -2], jnp.bfloat16),
            "deep": np.arange(4, dtype=np.uint8).reshape(2, 2),
        },
        b"a2": {
            "pixels": rng.random((1, 3, 3), np.float32),
            "label": np.array([7], np.int32),
            "text": texts(b""),
            "half": np.array([0.1], jnp.bfloat16),
            "deep": np.full((1, 2), 255, np.uint8),
        },
        # A trailing zero byte is a part of an id.
        b"a2\x00": {
            "pixels": np.zeros((0, 3, 3), np.float32),
            "label": np.zeros(0, np.int32),
            "text": texts(),
            "half": np.zeros(0, jnp.bfloat16),
            "deep": np.zeros((0, 2), np.uint8),
        },
    }
    rows = [(c, packed(e), len(e["label"])) for c, e in examples.items()]
    path = fedjax_file(tmp_path / "100%.sqlite", rows)
    dataset = eqd.from_fedjax_sqlite(path)
    assert dataset.client_ids == ["a2", "a2\x00", "a10"]
    assert dataset.client_sizes.tolist() == [1, 0, 2]
    for client, want in examples.items():
        got = dataset[client.decode()]
        for name, column in want.items():
            assert got[name].dtype == column.dtype
            np.testing.assert_array_equal(got[name], column)
    some = eqd.from_fedjax_sqlite(str(path), columns=["label"])
    assert set(some.columns) == {"label"}
    assert [p.name for p in tmp_path.iterdir()] == ["100%.sqlite"]


GOOD = packed({"x": np.arange(2.0)})


@pytest.mark.parametrize(
    ("blob", "size", "reason"),
    [
        (GOOD[:-4], 2, "cannot be decompressed"),
        (b"", 2, "cannot be decompressed"),
        (7, 2, "its data are 7, where a blob belongs"),
        (zlib.compress(b"\xc1"), 2, "cannot be unpacked"),
        (zlib.compress(zlib.decompress(GOOD)[:-3]), 2, "cannot be unpacked"),
        (zlib.compress(zlib.decompress(GOOD) + b"\x00"), 2, "cannot be unpacked"),
        (zlib.compress(pack([1, 2])), 2, "holds .1, 2., where"),
        (zlib.compress(pack({})), 2, "where examples by name belong"),
        (packed({"x": 2.5}), 2, "feature 'x' is 2.5, where an array belongs"),
        (packed({"x": np.float32(2.5)}), 2, "feature 'x' is 2.5"),
        (packed({"x": 1 + 2j}), 2, "feature 'x' is [(]1[+]2j[)]"),
        (packed({"x": np.arange(3.0)}), 2, "to have 2 examples, and has 3 of 'x'"),
        (
            zlib.compress(pack({"x": msgpack.ExtType(9, b"\x00")})),
            2,
            "cannot be unpacked .ValueError: extension 9 is unknown",
        ),
        (
            zlib.compress(
                pack({"x": msgpack.ExtType(1, pack(((2,), "object", b"0" * 16)))})
            ),
            2,
            "cannot be unpacked",
        ),
    ],
)
def test_a_damaged_row_is_named_with_its_client(tmp_path, blob, size, reason):
    rows = [(b"one", GOOD, 2), (b"two\x00", blob, size), (b"three", GOOD, 2)]
    path = fedjax_file(tmp_path / "a.sqlite", rows)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason) as caught:
        eqd.from_fedjax_sqlite(path)
    text = str(caught.value)
    assert "Row 2 (`rowid`)" in text
    assert r"client 'two\x00'" in text
    assert len(text) < 600
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_such_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "none.sqlite"
    with pytest.raises(ValueError, match="no file"):
        eqd.from_fedjax_sqlite(path)
    assert not path.exists()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match="cannot be read as an SQLite file"):
        eqd.from_tff_sqlite(path)
    path = fedjax_file(tmp_path / "a.sqlite", [(b"a", GOOD, 2)])
    with pytest.raises(ValueError, match="no table 'examples'.*TensorFlow.*federated_"):
        eqd.from_tff_sqlite(path)
    with pytest.raises(ValueError, match="no column 'z'; the columns are: x"):
        eqd.from_fedjax_sqlite(path, columns=["z"])
    with pytest.raises(ValueError, match="is empty: it has no clients"):
        eqd.from_fedjax_sqlite(fedjax_file(tmp_path / "b.sqlite", []))
    whole = path.read_bytes()
    # Cut amid the pages: what comes after the schema is missing.
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as an SQLite file"):
        eqd.from_fedjax_sqlite(path)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match="equifed.sqlite."):
        eqd.from_fedjax_sqlite(path)


# TensorFlow Federated's layout.


def varint(n):
    n &= 2**64 - 1
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values, *, one_by_one=False):
    values = list(values)
    if all(isinstance(v, bytes) for v in values):
        return field(1, b"".join(field(1, v) for v in values))
    if all(isinstance(v, float) for v in values):
        numbers = [struct.pack("<f", v) for v in values]
        if one_by_one:
            return field(2, b"".join(varint(1 << 3 | 5) + n for n in numbers))
        return field(2, field(1, b"".join(numbers)))
    numbers = [varint(v) for v in values]
    if one_by_one:
        return field(3, b"".join(varint(1 << 3) + n for n in numbers))
    return field(3, field(1, b"".join(numbers)))


def example(one_by_one=False, **features):
    pairs = [
        field(1, field(1, name.encode()) + field(2, feature(v, one_by_one=one_by_one)))
        for name, v in features.items()
    ]
    return field(1, b"".join(pairs))


def tff_file(path, rows, told=None):
    """`rows` are triples of a split, an id and an example."""
    if told is None:
        owners = [(client, split) for split, client, _ in rows]
        told = [(*o, owners.count(o)) for o in dict.fromkeys(owners)]
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, "
            "serialized_example_proto BLOB NOT NULL);"
            "CREATE INDEX idx_examples_client_id_split ON examples "
            "(split_name, client_id);"
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL, "
            "split_name TEXT NOT NULL, num_examples INTEGER NOT NULL);"
        )
        connection.executemany("INSERT INTO examples VALUES (?, ?, ?);", rows)
        connection.executemany("INSERT INTO client_metadata VALUES (?, ?, ?);", told)
    connection.close()
    return path


BIG = [0, 1, -1, 127, 128, 2**63 - 1, -(2**63), 300]


def test_tff_files_are_read(tmp_path):
    rows = [
        ("test", "w1", example(y=[9], x=[0.0] * 4, s=[b"?"], big=BIG)),
        ("train", "w10", example(y=[3], x=[0.5, 1.0, 1.5, 2.0], s=[b"\xffa"], big=BIG)),
        ("train", "w2", example(True, y=[-1], x=[1.0] * 4, s=[b""], big=BIG)),
        ("train", "w10", example(y=[4], x=[2.0] * 4, s=[b"b"], big=BIG[::-1])),
        ("train", "w2\x00", example(y=[5], x=[3.0] * 4, s=[b"c"], big=BIG)),
    ]
    path = tff_file(tmp_path / "a.sqlite", rows)
    dataset = eqd.from_tff_sqlite(path, split="train", shapes={"x": (2, 2)})
    assert dataset.client_ids == ["w2", "w2\x00", "w10"]
    assert dataset.client_sizes.tolist() == [1, 1, 2]
    w10 = dataset["w10"]
    assert w10["x"].dtype == np.float32
    assert w10["x"][0].tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert w10["y"].dtype == np.int64
    assert w10["y"].tolist() == [3, 4]
    assert w10["s"].tolist() == [b"\xffa", b"b"]
    assert w10["big"].tolist() == [BIG, BIG[::-1]]
    assert dataset["w2"]["y"].tolist() == [-1]
    assert dataset["w2"]["big"].tolist() == [BIG]
    test = eqd.from_tff_sqlite(path, split="test", columns=["y"])
    assert set(test.columns) == {"y"}
    with pytest.raises(ValueError, match="several splits: test, train. Choose one"):
        eqd.from_tff_sqlite(path)
    with pytest.raises(ValueError, match="no split 'valid'.*test, train"):
        eqd.from_tff_sqlite(path, split="valid")


PLAIN = example(x=[1.0, 2.0], y=[300])


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (PLAIN[:-1], "ends amid a field"),
        (PLAIN + b"\x0a", "ends amid a number"),
        (b"", "no features"),
        (b"\xff" * 20, "ends amid a number"),
        (b"\x0b\x00", "unknown kind 3"),
        (7, "its example is 7, where a blob belongs"),
        (example(x=[1.0, 2.0]), "no feature 'y', which row 1 has"),
        (example(x=[1.0, 2.0], y=[1], z=[1]), "features z, which row 1 has not"),
        (example(x=[1.0, 2.0, 3.0], y=[1]), r"'x' is float32 of shape \(3,\)"),
        (example(x=[1, 2], y=[1]), "'x' is int64.*row 1 float32"),
        (example(x=[1.0, 2.0], y=[b"a"]), "'y' is object"),
        (field(1, field(1, field(1, b"y") + field(2, b""))), "'y' has no values"),
        (
            field(1, field(1, field(1, b"y") + field(2, field(3, field(1, b"\x80"))))),
            "integers of feature 'y' end amid a number",
        ),
        (
            field(1, field(1, field(1, b"y") + field(2, field(2, field(1, b"abc"))))),
            "floats of feature 'y' end amid a number",
        ),
    ],
)
def test_a_damaged_example_is_named_with_its_client(tmp_path, blob, reason):
    rows = [("train", "a", PLAIN), ("train", "b\x00", PLAIN), ("train", "b\x00", blob)]
    path = tff_file(tmp_path / "a.sqlite", rows)
    with pytest.raises(ValueError, match=reason) as caught:
        eqd.from_tff_sqlite(path)
    text = str(caught.value)
    assert "Row 3 (`rowid`)" in text
    assert r"client 'b\x00'" in text
    assert len(text) < 600


def test_a_missing_example_is_noticed(tmp_path):
    rows = [("train", "a", PLAIN)]
    path = tff_file(tmp_path / "a.sqlite", rows, [("a", "train", 2)])
    with pytest.raises(ValueError, match="'a' .* has 1 examples.*said to have 2"):
        eqd.from_tff_sqlite(path)
    path = tff_file(tmp_path / "b.sqlite", rows, [("a", "train", 1), ("b", "train", 3)])
    with pytest.raises(ValueError, match="'b' .* has 0 examples.*said to have 3"):
        eqd.from_tff_sqlite(path)
    path = tff_file(tmp_path / "c.sqlite", rows, [])
    with pytest.raises(ValueError, match="'a' .* has 1 examples.*said to have None"):
        eqd.from_tff_sqlite(path)


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    path = tff_file(tmp_path / "a.sqlite", [("train", "a", PLAIN)])
    with pytest.raises(ValueError, match=r"'x' has 2 values, .* \(3,\)"):
        eqd.from_tff_sqlite(path, shapes={"x": (3,)})
    with pytest.raises(ValueError, match="no column 'z'"):
        eqd.from_tff_sqlite(path, shapes={"z": (3,)})
    one = eqd.from_tff_sqlite(path, shapes={"y": (1,)})
    assert one["a"]["y"].tolist() == [[300]]
