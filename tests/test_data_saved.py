"""Datasets that are saved, and read again to the same bits."""

import json
import os
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd
from equifed.data import _write


def bits(x):
    """What an array is, to the bit."""
    if x.dtype == object:
        return [bits(v) if isinstance(v, np.ndarray) else v for v in x.flat]
    return x.dtype.str, x.shape, np.ascontiguousarray(x).tobytes()


def same(one, two):
    assert one.client_ids == two.client_ids
    np.testing.assert_array_equal(one.offsets, two.offsets)
    assert list(one.columns) == list(two.columns)
    for name in one.columns:
        a, b = np.asarray(one.columns[name]), np.asarray(two.columns[name])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert bits(a) == bits(b), name


def read(path, by: str | eqd.AbstractPartition = "client_id", **kwargs):
    return eqd.FederatedDataset.from_parquet(path, by=by, **kwargs)


def saved(dataset, path, by="client_id"):
    dataset.to_parquet(path, by=by)
    return read(path, by)


def of(values, **more):
    """A dataset of three clients, of whom one has no row, in no natural order."""
    columns = {"v": values, **more}
    n = len(values)
    offsets = np.array([0, 2, 2, n])
    return eqd.FederatedDataset(columns, offsets, ["z9", "empty", "b10"])


def objects(*values):
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out


ODD = np.array(
    [0x7FF8000000000001, 0xFFF8000000000002, 0x7FF0000000000001, 1 << 63, 0, 1],
    np.uint64,
).view(np.float64)

VALUES = {
    **{d: np.arange(6).astype(d) for d in ("u1", "i2", "u8", "i8", "f2", "f4")},
    "bool": np.arange(6) % 2 == 0,
    "odd numbers": ODD,
    "the other byte order": ODD.astype(">f8"),
    "integers in the other byte order": np.arange(12).reshape(6, 2).astype(">i2"),
    "largest": np.full(6, 2**64 - 1, np.uint64),
    "images": np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 3, 2),
    "strided": np.arange(6 * 12, dtype=np.float32).reshape(6, 12)[:, ::3],
    "flags in rows": np.arange(12).reshape(6, 2) % 3 == 0,
    "text": np.array(["a", "", "bcd", "ü", "e\n", "f"]),
    "wide text": np.array(["a", "b"] * 3, "<U9"),
    "text in rows": np.array([["a", "bc"]] * 6),
    "bytes": np.array([b"a", b"\xff", b"bcd", b"", b"e", b"f"]),
    "text objects": objects("a", "", "bcd", "ü", "long" * 9, "f"),
    "bytes objects": objects(b"a", b"\x00", b"", b"c", b"d\x00", b"e"),
    "ragged": objects(*(np.arange(i, dtype=np.int16) for i in range(6))),
    "ragged, as it happens not": objects(*(np.full(3, i, np.float32) for i in [1] * 6)),
    "ragged, of nothing": objects(*(np.zeros(0, np.float32) for _ in range(6))),
    **{f"times {u}": np.arange(6).astype(f"M8[{u}]") for u in ("D", "s", "ms", "ns")},
    **{f"spans {u}": np.arange(6).astype(f"m8[{u}]") for u in ("s", "us", "ns")},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("rows", [2**16, 2, 1])
def test_values_come_back_to_the_bit(name, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(_write, "_ROWS", rows)
    dataset = of(VALUES[name], other=np.arange(6))
    same(saved(dataset, tmp_path / "a.parquet"), dataset)
    assert os.listdir(tmp_path) == ["a.parquet"]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(sum), st.data())
def test_clients_come_back_in_their_order(tmp_path_factory, sizes, data):
    path = tmp_path_factory.mktemp("saved") / "a.parquet"
    names = [f"c{i}" for i in range(len(sizes))]
    names = data.draw(st.permutations(names))
    offsets = np.append(0, np.cumsum(sizes))
    dataset = eqd.FederatedDataset({"x": np.arange(sum(sizes))}, offsets, names)
    same(saved(dataset, path, "who"), dataset)
    only = read(path, "who", columns=["x"])
    same(only, dataset)


def test_ids_are_text_as_they_were(tmp_path):
    ids = ["007", "7", " a", "ü/\n", "1.0", "None", "x" * 5000]
    dataset = eqd.FederatedDataset({"x": np.arange(7)}, np.arange(8), ids)
    same(saved(dataset, tmp_path / "a.parquet"), dataset)


def test_a_memory_mapped_dataset_of_chunks(tmp_path):
    source = datasets.Dataset.from_dict(
        {"who": np.repeat([5, 3, 11], [4, 3, 6]), "x": np.arange(13)}
    )
    source.save_to_disk(tmp_path / "mapped")
    loaded = datasets.load_from_disk(tmp_path / "mapped")
    dataset = eqd.FederatedDataset.from_huggingface(loaded, by="who")  # pyright: ignore
    assert isinstance(dataset.columns["x"], eqd.ChunkedColumn)
    path = tmp_path / "a.parquet"
    same(saved(dataset, path), dataset)
    # Over the file of which it is made.
    again = read(path)
    again.to_parquet(path)
    same(read(path), dataset)


def test_other_programs_read_it(tmp_path):
    path = tmp_path / "a.parquet"
    of(np.arange(12.0).reshape(6, 2), t=np.array(list("abcdef"))).to_parquet(path)
    table = pq.read_table(path)
    assert table.column_names == ["client_id", "v", "t"]
    assert table["client_id"].to_pylist() == ["z9"] * 2 + ["b10"] * 4
    assert table["v"].to_pylist()[1] == [2.0, 3.0]
    cache = str(tmp_path / "cache")
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=cache)
    assert isinstance(loaded, datasets.Dataset)
    dataset = eqd.FederatedDataset.from_huggingface(loaded, by="client_id")
    assert dataset.client_ids == ["b10", "z9"]
    assert dataset["z9"]["t"].tolist() == ["a", "b"]


def test_what_is_told_of_other_rows_is_not_believed(tmp_path):
    path, changed = tmp_path / "a.parquet", tmp_path / "b.parquet"
    of(np.array(list("abcdef"))).to_parquet(path)
    table = pq.read_table(path)
    for rows in ([0, 1, 2], [0, 2, 1, 3, 4, 5]):
        pq.write_table(table.take(rows), changed)
        assert read(changed).client_ids == ["b10", "z9"]
    longer = table.set_column(1, "v", pa.array(["long"] * 6, pa.large_string()))
    pq.write_table(longer, changed)
    assert read(changed)["z9"]["v"].tolist() == ["long"] * 2
    # As several files, and by a partition, it is a table like any other.
    by = eqd.ColumnPartition("client_id")
    assert read(path, by).client_ids == ["b10", "z9"]
    os.remove(changed)
    of(np.array(list("xyzuvw"))).to_parquet(changed)
    both = read([path, changed])
    assert both.client_ids == ["b10", "z9"]
    assert both["z9"]["v"].tolist() == ["a", "b", "x", "y"]


@pytest.mark.parametrize("words", ["{", "[]", "{}", {"empty": [[9, "a"]]}, {"by": 3}])
def test_damaged_words(words, tmp_path):
    path = tmp_path / "a.parquet"
    of(np.arange(6)).to_parquet(path)
    table = pq.read_table(path)
    if isinstance(words, dict):
        told = json.loads(table.schema.metadata[b"equifed"])
        words = json.dumps({**told, "num_clients": "many", **words})
    pq.write_table(table.replace_schema_metadata({"equifed": words}), path)
    with pytest.raises(ValueError, match="metadata in .*a.parquet'.* is damaged"):
        read(path)


# All or nothing.


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    first = of(np.arange(6))
    first.to_parquet(path)
    before = path.read_bytes()
    monkeypatch.setattr(_write, "_ROWS", 2)
    bad = of(objects("a", "b", "c", "d", 5, "f"))
    with pytest.raises(ValueError, match="'v' of client 'b10' holds 5, but its first"):
        bad.to_parquet(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.parquet"]

    class Stopped(BaseException):
        pass

    def stop(*args):
        raise Stopped

    monkeypatch.setattr(_write.os, "replace", stop)
    with pytest.raises(Stopped):
        of(np.arange(6.0)).to_parquet(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.parquet"]
    of(np.arange(6.0)).to_parquet(str(path))
    same(read(path), of(np.arange(6.0)))


def test_a_link_is_written_through(tmp_path):
    path, link = tmp_path / "a.parquet", tmp_path / "link.parquet"
    path.write_bytes(b"")
    os.symlink(path, link)
    of(np.arange(6)).to_parquet(link)
    assert link.is_symlink()
    same(read(path), of(np.arange(6)))


def test_the_memory_does_not_grow_with_the_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(_write, "_BYTES", 2**16)

    def peak(rows):
        # One client has nearly all of the rows; they are there once only.
        chunk = np.random.default_rng(0).random((2**12, 16))
        x = eqd.ChunkedColumn([chunk] * (rows // 2**12))
        dataset = eqd.FederatedDataset({"x": x}, np.array([0, 1, rows]), ["a", "b"])
        tracemalloc.start()
        dataset.to_parquet(tmp_path / "a.parquet")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2**12)
    few, many = peak(2**13), peak(2**16)
    assert many < few + 2**20 < 2**16 * 16 * 8 / 2
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 128


# Real data.


def test_the_writers_of_mnist_come_back(shared_data, tmp_path):
    path = shared_data / "mnist_by_writer" / "test.parquet"
    dataset = read(path).filter(min_examples=20)
    dataset = dataset.select(dataset.client_ids[::-3])
    dataset = dataset.map(lambda c: {**c, "image": c["image"].reshape(-1, 28, 28)})
    same(saved(dataset, tmp_path / "a.parquet"), dataset)


def test_the_speakers_of_shakespeare_come_back(shared_data, tmp_path):
    path = shared_data / "shakespeare_by_speaker" / "all.parquet"
    dataset = read(path).filter(min_examples=40)
    same(saved(dataset, tmp_path / "a.parquet"), dataset)
    rows = saved(dataset.repartition(eqd.IIDPartition(7)), tmp_path / "b.parquet", "n")
    assert rows.client_ids == list("0123456")
    assert rows.num_examples == dataset.num_examples
