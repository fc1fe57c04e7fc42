"""Clients that come by once."""

import itertools

import datasets
import jax.tree_util as jtu
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import equifed.data as eqd
from equifed._cohort import NO_CLIENT
from equifed.data._random import generator, shuffle_buffer

from .test_data_loader import contents, dataset_of, mesh_of


SIZES = [3, 1500, 1, 8, 5, 2, 9]


@pytest.fixture
def stream_of(tmp_path):
    def make(ids, **columns):
        path = str(tmp_path / "rows.parquet")
        pq.write_table(pa.table({"who": ids, **columns}), path, row_group_size=100)
        return datasets.load_dataset(
            "parquet",
            data_files=path,
            split="train",
            streaming=True,
            cache_dir=str(tmp_path / "cache"),
        )

    return make


@pytest.fixture
def stream(stream_of):
    dataset = dataset_of(SIZES)
    ids = np.repeat(dataset.client_ids, SIZES)
    return stream_of(ids, x=np.asarray(dataset.columns["x"]))


def test_clients_come_whole_and_in_order(stream):
    dataset = dataset_of(SIZES)
    for _ in range(2):  # it may be repeated
        clients = list(eqd.ClientStream(stream, by="who"))
        assert [c.client_id for c in clients] == dataset.client_ids
        assert [c.number for c in clients] == list(range(7))
        assert [c.num_examples for c in clients] == SIZES
        for client in clients:
            expected = dataset[client.client_id]["x"]
            np.testing.assert_array_equal(client.examples["x"], expected)
            assert client.examples["x"].dtype == np.int32


def clients_of(cohort):
    index = np.asarray(cohort.index)
    return index[index != NO_CLIENT].tolist()


@pytest.mark.parametrize("buffer_size", [1, 3, 100])
def test_a_pass_visits_everyone_once(stream, buffer_size):
    loader = eqd.StreamLoader(
        eqd.ClientStream(stream, by="who"),
        3,
        eqd.Epochs(batch_size=4),
        buffer_size=buffer_size,
    )
    assert loader.num_clients is None
    cohorts = [cohort for _, cohort in loader.cohorts(0, 6)]
    for one_pass in (cohorts[:3], cohorts[3:]):
        assert [len(clients_of(c)) for c in one_pass] == [3, 3, 1]
        assert sorted(sum(map(clients_of, one_pass), [])) == list(range(7))


def test_a_streamed_client_does_as_a_resident_one(stream):
    batching = eqd.Epochs(2, batch_size=4)
    source = eqd.ClientStream(stream, by="who")
    for mesh in (None, mesh_of(2)):
        loader = eqd.StreamLoader(source, 4, batching, seed=5, mesh=mesh)
        for round, cohort in loader.cohorts(0, 3):
            expected = eqd.cohort(
                dataset_of(SIZES),
                batching,
                clients=clients_of(cohort),
                round=round,
                seed=5,
            )
            assert contents(cohort) == contents(expected)


def test_beginning_later_is_skipping(stream):
    loader = eqd.StreamLoader(
        eqd.ClientStream(stream, by="who"), 3, eqd.Epochs(batch_size=4), seed=1
    )
    straight = dict(loader.cohorts(0, 6))
    for round, cohort in loader.cohorts(4, 6):
        for a, b in zip(
            jtu.tree_leaves(cohort), jtu.tree_leaves(straight[round]), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_the_buffer_shuffles_evenly():
    passes = [
        list(shuffle_buffer(range(20), 5, generator(0, 9, i))) for i in range(3000)
    ]
    assert all(sorted(p) == list(range(20)) for p in passes)
    # The first is any of the first five, the last any at all of the buffer's.
    first = np.bincount([p[0] for p in passes], minlength=20)
    assert abs(first[:5] - 600).max() < 5 * np.sqrt(600)
    assert first[5:].sum() == 0
    last = np.bincount([p[-1] for p in passes], minlength=20)
    assert last.max() < 1000


def test_transform_and_columns(stream):
    source = eqd.ClientStream(
        stream,
        by="who",
        columns=["x"],
        transform=lambda client, e: {"z": e["x"][:1] * 2.0},
    )
    assert [c.examples["z"].tolist() for c in itertools.islice(source, 2)] == [
        [0],
        [2000],
    ]


def test_text_becomes_numbers_by_a_transform(shared_data, tmp_path):
    path = shared_data / "shakespeare_by_speaker" / "all.parquet"
    table = pq.read_table(path).sort_by("client_id").slice(0, 2000)
    pq.write_table(table, tmp_path / "sorted.parquet")
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "sorted.parquet"),
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )

    def windows(client, examples):
        text = np.frombuffer(" ".join(examples["text"]).encode(), np.uint8)
        return {"text": text[: len(text) // 20 * 20].reshape(-1, 20)}

    source = eqd.ClientStream(rows, by="client_id", columns=["text"], transform=windows)
    loader = eqd.StreamLoader(source, 4, eqd.Steps(3, batch_size=2), buffer_size=8)
    for _, cohort in loader.cohorts(0, 3):
        assert cohort.examples["text"].shape[2:] == (20,)
        assert cohort.examples["text"].dtype == np.uint8


# Bad input.


def test_bad_streams(stream_of):
    batching = eqd.Epochs(batch_size=2)
    source = eqd.ClientStream(stream_of(["a", "b", "a"], x=[1, 2, 3]), by="who")
    with pytest.raises(ValueError, match="not grouped by 'who': client 'a' comes back"):
        list(source)
    source = eqd.ClientStream(stream_of(["a", "b"], x=["s", "t"]), by="who")
    with pytest.raises(ValueError, match="'x' of client '\\w' holds text or objects"):
        next(iter(eqd.StreamLoader(source, 2, batching).cohorts()))
    source = eqd.ClientStream(
        stream_of(["a", "bb"], x=[1, 2]),
        by="who",
        transform=lambda c, e: {"x": np.zeros((1, len(c)))},
    )
    with pytest.raises(ValueError, match=r"of client '\w+' has examples of float64"):
        next(iter(eqd.StreamLoader(source, 2, batching).cohorts()))
    source = eqd.ClientStream(stream_of(["a", None], x=[1, 2]), by="who")
    with pytest.raises(ValueError, match="client column 'who' has 1 nulls"):
        list(source)
    with pytest.raises(ValueError, match="no column 'writer'"):
        list(eqd.ClientStream(stream_of(["a"], x=[1]), by="writer"))
    with pytest.raises(ValueError, match="`buffer_size` must be at least 1"):
        eqd.StreamLoader(source, 2, batching, buffer_size=0)
    with pytest.raises(ValueError, match="`cohort_size` must be at least 1"):
        eqd.StreamLoader(source, 0, batching)
    with pytest.raises(TypeError, match="by"):
        eqd.ClientStream(stream_of(["a"], x=[1]), by=eqd.IIDPartition(2))  # pyright: ignore


def test_errors_of_a_stream_name_whose_row_it_was(stream_of):
    batching = eqd.Epochs(batch_size=2)
    ids = ["a", "b", "b", "c"]

    def first(transform=None, **columns):
        source = eqd.ClientStream(
            stream_of(ids, **columns), by="who", transform=transform
        )
        return next(eqd.StreamLoader(source, 3, batching).cohorts())

    with pytest.raises(
        ValueError, match="`transform` of client 'b' failed: ZeroDivisionError: int"
    ):
        first(lambda c, e: {"x": e["x"] * (1 // (c != "b"))}, x=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="2147483648, is of client 'c'"):
        first(x=np.array([1, 2, 3, 2**31]))
    with pytest.raises(ValueError, match=r"'x' of client '.' .* float32\[\], but that"):
        first(lambda c, e: {"x": np.ones(1, "df"[c == "b"])}, x=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"'y' of client '.' .* (of none|none\.)"):
        first(lambda c, e: {**e, "y": e["x"]} if c == "b" else e, x=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="'x' of client 'c' holds text"):
        first(lambda c, e: {"x": e["x"].astype("iU"[c == "c"])}, x=[1, 2, 3, 4])
