"""Examples and their owners, wherever they come from."""

import io
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

import equifed.data as eqd


def three():
    return eqd.FederatedDataset.from_mapping(
        {
            "b10": {"x": np.arange(6.0).reshape(3, 2), "y": np.array([0, 1, 2])},
            "b2": {"x": np.zeros((0, 2)), "y": np.zeros(0, np.int64)},
            "a": {"x": np.ones((1, 2)), "y": np.array([7])},
        }
    )


def same(one, two):
    assert one.client_ids == two.client_ids
    np.testing.assert_array_equal(one.offsets, two.offsets)
    assert list(one.columns) == list(two.columns)
    for name in one.columns:
        a, b = np.asarray(one.columns[name]), np.asarray(two.columns[name])
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def table():
    """The rows of two of the clients are not adjacent."""
    return pa.table(
        {
            "who": ["u2", "u10", "u2", "u1", "u10", "u2"],
            "pixels": pa.FixedSizeListArray.from_arrays(
                pa.array(np.arange(24, dtype=np.uint8)), 4
            ),
            "label": pa.array(np.arange(6, dtype=np.int16)),
        }
    )


@pytest.fixture
def expected():
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 4)
    label = np.arange(6, dtype=np.int16)
    rows = {"u1": [3], "u2": [0, 2, 5], "u10": [1, 4]}
    return eqd.FederatedDataset.from_mapping(
        {c: {"pixels": pixels[r], "label": label[r]} for c, r in rows.items()}
    )


def as_huggingface(table, path):
    """Memory-mapped from disk, as `load_dataset` gives it."""
    datasets.Dataset(table).save_to_disk(path)
    loaded = datasets.load_from_disk(path)
    assert isinstance(loaded, datasets.Dataset)
    return loaded


# What is in it.


def test_clients_are_in_natural_order():
    dataset = three()
    assert dataset.client_ids == list(dataset) == ["a", "b2", "b10"]
    assert dataset.client_sizes.tolist() == [1, 0, 3]
    assert (dataset.num_clients, len(dataset), dataset.num_examples) == (3, 3, 4)
    assert "b2" in dataset
    assert "c" not in dataset
    assert dataset["b10"]["y"].tolist() == dataset.client(2)["y"].tolist() == [0, 1, 2]
    assert dataset["b2"]["x"].shape == (0, 2)
    assert dataset.example["x"].shape == (2,)
    assert dataset.nbytes == 4 * 3 * 8


def test_it_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        three()["a"]["y"][0] = 3


def test_its_repr_says_what_is_in_it():
    text = repr(three())
    for part in ("clients: 3", "examples: 4 (0 to 3 a client)", "x: float64[2]"):
        assert part in text


def test_from_arrays():
    ids = ["b10", "a", "b10", "b10"]
    x = np.array([[0.0, 1], [1, 1], [2, 3], [4, 5]])
    y = np.array([0, 7, 1, 2])
    for dataset in (
        eqd.FederatedDataset.from_arrays({"x": x, "y": y}, ids),
        eqd.FederatedDataset.from_arrays({"x": x, "y": y, "id": np.array(ids)}, "id"),
    ):
        same(dataset, three().select(["a", "b10"]))
    dataset = eqd.FederatedDataset.from_arrays({"x": x}, eqd.IIDPartition(2))
    assert dataset.client_ids == ["0", "1"]
    assert sorted(np.asarray(dataset.columns["x"])[:, 0]) == [0, 1, 2, 4]


def test_arrays_sorted_by_client_are_not_copied():
    x = np.arange(6.0)
    dataset = eqd.FederatedDataset.from_arrays({"x": x}, [1, 1, 2, 2, 2, 10])
    assert dataset.client_ids == ["1", "2", "10"]
    assert np.shares_memory(dataset["2"]["x"], x)


# From files and Hugging Face.


def test_from_huggingface_sorted_or_not(table, expected, tmp_path):
    dataset = as_huggingface(table, tmp_path / "a")
    same(eqd.FederatedDataset.from_huggingface(dataset, by="who"), expected)
    by = eqd.ColumnPartition("who")
    by_partition = eqd.FederatedDataset.from_huggingface(
        dataset, by=by, columns=["pixels", "label"]
    )
    same(by_partition, expected)


def test_from_huggingface_follows_selections_and_shuffles(table, expected, tmp_path):
    dataset = as_huggingface(table, tmp_path / "a")
    back = dataset.select([5, 4, 3, 2, 1, 0])
    reverse = eqd.FederatedDataset.from_huggingface(back, by="who")
    assert reverse["u2"]["label"].tolist() == [5, 2, 0]
    assert reverse["u2"]["pixels"].tolist() == expected["u2"]["pixels"][::-1].tolist()
    part = eqd.FederatedDataset.from_huggingface(dataset.select(range(2, 4)), by="who")
    assert part.client_ids == ["u1", "u2"]
    assert part["u2"]["label"].tolist() == [2]
    shuffled = dataset.shuffle(seed=1).filter(lambda row: row["label"] != 0)
    some = eqd.FederatedDataset.from_huggingface(shuffled, by="who")
    assert sorted(some["u2"]["label"]) == [2, 5]


def test_from_a_stream(table, expected, tmp_path):
    pq.write_table(table, tmp_path / "a.parquet")
    stream = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "a.parquet"),
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )
    same(eqd.FederatedDataset.from_huggingface(stream, by="who"), expected)


def test_from_parquet(table, expected, tmp_path):
    pq.write_table(table.slice(0, 2), tmp_path / "0.parquet")
    pq.write_table(table.slice(2), tmp_path / "1.parquet", row_group_size=2)
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    same(eqd.FederatedDataset.from_parquet(paths, by="who"), expected)
    pattern = str(tmp_path / "*.parquet")
    same(eqd.FederatedDataset.from_parquet(pattern, by="who"), expected)
    labels = eqd.FederatedDataset.from_parquet(paths, by="who", columns=["label"])
    same(labels, expected.select_columns(["label"]))


def grouped(num_clients, tmp_path, rows=100):
    ids = np.repeat(np.random.default_rng(0).permutation(num_clients), rows)
    table = pa.table(
        {
            "who": pa.array(ids),
            "image": pa.FixedSizeListArray.from_arrays(
                pa.array(np.repeat(ids, 784).astype(np.uint8)), 784
            ),
        }
    )
    return as_huggingface(table, tmp_path / "grouped")


def test_a_file_grouped_by_client_is_neither_copied_nor_slow(tmp_path):
    dataset = eqd.FederatedDataset.from_huggingface(grouped(200, tmp_path), by="who")
    image = dataset.columns["image"]
    assert isinstance(image, eqd.ChunkedColumn)
    assert not any(chunk.flags.owndata for chunk in image.chunks)
    assert image.shape == (20000, 784)
    assert image.dtype == np.uint8
    for client_id in dataset:
        assert (dataset[client_id]["image"] == int(client_id) % 256).all()
        assert len(dataset[client_id]["image"]) == 100
    times = []
    for i in range(200):
        start = time.perf_counter()
        dataset.client(i)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 1e-3  # 10 us; the tests' type checks cost more


def test_nested_numbers_become_arrays_and_text_stays_text(tmp_path):
    features = datasets.Features(
        {
            "who": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "grid": datasets.Array2D((2, 3), "float32"),
            "even": datasets.List(datasets.Value("int32")),
            "ragged": datasets.List(datasets.Value("int32")),
            "flag": datasets.Value("bool"),
            "text": datasets.Value("string"),
        }
    )
    rows = {
        "who": ["a", "b"],
        "label": [1, 0],
        "grid": [np.ones((2, 3)), np.zeros((2, 3))],
        "even": [[1, 2], [3, 4]],
        "ragged": [[1], [2, 3]],
        "flag": [True, False],
        "text": ["hello", "you"],
    }
    source = datasets.Dataset.from_dict(rows, features=features)
    for hf in (source, source.select([0, 1, 1]).select([0, 1])):
        dataset = eqd.FederatedDataset.from_huggingface(hf, by="who")
        a, b = dataset["a"], dataset["b"]
        assert a["label"].tolist() == [1]
        assert a["label"].dtype == np.int64
        assert (a["grid"].shape, a["grid"].dtype) == ((1, 2, 3), np.float32)
        assert (b["even"].tolist(), b["even"].dtype) == ([[3, 4]], np.int32)
        assert b["ragged"][0].tolist() == [2, 3]
        assert (a["flag"].tolist(), a["flag"].dtype) == ([True], bool)
        assert b["text"].tolist() == ["you"]
        with pytest.raises(ValueError, match="'ragged' holds text or objects"):
            eqd.Loader(dataset, eqd.AllClients(), eqd.Steps(1, batch_size=1))


def pictures(*shapes):
    images = []
    for i, shape in enumerate(shapes):
        file = io.BytesIO()
        Image.fromarray(np.full(shape, i, np.uint8)).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict(
        {"who": [str(i % 2) for i in range(len(shapes))], "image": images},
        features=datasets.Features(
            {"who": datasets.Value("string"), "image": datasets.Image()}
        ),
    )


def test_images_are_decoded(tmp_path):
    source = pictures(*[(5, 4)] * 6)
    source.to_parquet(tmp_path / "images.parquet")
    for dataset in (
        eqd.FederatedDataset.from_huggingface(source, by="who"),
        eqd.FederatedDataset.from_huggingface(source.to_iterable_dataset(), by="who"),
        eqd.FederatedDataset.from_parquet(tmp_path / "images.parquet", by="who"),
    ):
        image = dataset["1"]["image"]
        assert (image.shape, image.dtype) == ((3, 5, 4), np.uint8)
        assert image[:, 0, 0].tolist() == [1, 3, 5]
    colour = eqd.FederatedDataset.from_huggingface(pictures((5, 4, 3)), by="who")
    assert colour["0"]["image"].shape == (1, 5, 4, 3)
    with pytest.raises(ValueError, match="'image' has images of different sizes"):
        eqd.FederatedDataset.from_huggingface(pictures((5, 4), (4, 5)), by="who")


def test_images_without_pillow_name_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"equifed\[images\]"):
        eqd.FederatedDataset.from_huggingface(pictures_encoded(), by="who")


def pictures_encoded():
    images = [{"bytes": b"", "path": None}]
    features = datasets.Features(
        {"who": datasets.Value("string"), "image": datasets.Image()}
    )
    table = pa.table(
        {"who": ["a"], "image": pa.array(images, features["image"].pa_type)}
    )
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def test_the_writers_of_mnist(shared_data):
    path = shared_data / "mnist_by_writer" / "test.parquet"
    dataset = eqd.FederatedDataset.from_parquet(
        path, by="client_id", columns=["image", "label"]
    )
    assert (dataset.num_clients, dataset.num_examples) == (297, 10000)
    assert dataset.example["image"].shape == (784,)
    assert dataset.columns["image"].dtype == np.uint8


def test_rows_with_nulls_may_be_dropped_first():
    columns = {"who": ["a", None, "b"], "x": [1, 2, None], "p": [[1.0], [None], [3.0]]}
    source = datasets.Dataset.from_dict(
        columns,
        features=datasets.Features(
            {
                "who": datasets.Value("string"),
                "x": datasets.Value("int8"),
                "p": datasets.List(datasets.Value("float32"), length=1),
            }
        ),
    )
    dataset = eqd.FederatedDataset.from_huggingface(source.select([0]), by="who")
    assert dataset["a"]["x"].tolist() == [1]
    some = source.select([2, 0])
    dataset = eqd.FederatedDataset.from_huggingface(some, by="who", columns=["p"])
    assert dataset["b"]["p"].tolist() == [[3.0]]
    with pytest.raises(ValueError, match="'x' has nulls: 1 among 2"):
        eqd.FederatedDataset.from_huggingface(some, by="who")


# Some of it.


def test_select_by_id_number_mask_and_slice():
    dataset = three()
    for some in (
        dataset.select(["a", "b10"]),
        dataset.select([0, 2]),
        dataset.select(np.array([True, False, True])),
        dataset[::2],
    ):
        assert some.client_ids == ["a", "b10"]
        assert some["b10"]["y"].tolist() == [0, 1, 2]
        assert np.asarray(some.columns["y"]).tolist() == [7, 0, 1, 2]
    assert dataset.select(["b10", "a"]).client_ids == ["b10", "a"]
    assert np.shares_memory(dataset[1:]["b10"]["x"], dataset["b10"]["x"])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(sum),
    st.data(),
)
def test_any_selection_of_selections_reads_the_same(sizes, data):
    clients = {f"c{i}": {"x": 100 * i + np.arange(n)} for i, n in enumerate(sizes)}
    dataset = eqd.FederatedDataset.from_mapping(clients)
    for _ in range(3):
        ids = data.draw(st.lists(st.sampled_from(dataset.client_ids), unique=True))
        if sum(len(clients[c]["x"]) for c in ids) == 0:
            return
        dataset = dataset.select(ids)
        for client_id in ids:
            np.testing.assert_array_equal(
                dataset[client_id]["x"], clients[client_id]["x"]
            )
        whole = np.concatenate([clients[c]["x"] for c in ids])
        np.testing.assert_array_equal(np.asarray(dataset.columns["x"]), whole)


def test_split_clients():
    dataset = eqd.digits()
    seen, unseen = dataset.split_clients(2, seed=1)
    assert (seen.num_clients, unseen.num_clients) == (12, 2)
    assert sorted(seen.client_ids + unseen.client_ids) == dataset.client_ids
    assert seen.client_ids == sorted(seen.client_ids)
    again, _ = dataset.split_clients(2, seed=1)
    assert again.client_ids == seen.client_ids
    splits = {tuple(dataset.split_clients(2, seed=s)[1].client_ids) for s in range(9)}
    assert len(splits) > 5
    assert dataset.split_clients(0.5)[1].num_clients == 7


def test_split_examples():
    dataset = eqd.digits()
    train, test = dataset.split_examples(0.2, seed=3)
    assert train.client_ids == test.client_ids == dataset.client_ids
    assert test["writer00"]["label"].shape == (26,)
    for i in range(14):
        whole = [tuple(x.ravel()) for x in dataset.client(i)["image"]]
        parts = [tuple(x.ravel()) for d in (train, test) for x in d.client(i)["image"]]
        assert sorted(whole) == sorted(parts)
    # The split of a client does not depend on the others.
    alone, _ = dataset.select(["writer05"]).split_examples(0.2, seed=3)
    np.testing.assert_array_equal(
        alone["writer05"]["image"], train["writer05"]["image"]
    )


def test_the_only_example_is_for_training():
    train, test = three().split_examples(0.9)
    assert train.client_sizes.tolist() == [1, 0, 1]
    assert test.client_sizes.tolist() == [0, 0, 2]


def test_max_examples():
    few = eqd.digits().max_examples(10, seed=1)
    assert set(few.client_sizes) == {10}
    assert few["writer03"]["label"].shape == (10,)
    assert three().max_examples(5).client_sizes.tolist() == [1, 0, 3]


# Other columns.


def test_columns():
    dataset = three().rename({"x": "features"})
    assert list(dataset.columns) == ["features", "y"]
    assert list(dataset.select_columns(["y"]).columns) == ["y"]
    doubled = dataset.map(lambda c: {"z": c["y"] * 2.0})
    assert doubled["b10"]["z"].tolist() == [0, 2, 4]
    text = eqd.FederatedDataset.from_mapping({"a": {"text": np.array(["abc", "d"])}})
    chars = text.map_clients(
        lambda client, examples: {
            "char": np.frombuffer("".join(examples["text"]).encode(), np.uint8)
        }
    )
    assert chars["a"]["char"].tolist() == [97, 98, 99, 100]


def test_map_clients_is_told_the_client():
    who = three().map_clients(
        lambda client, e: {"n": np.full(len(e["y"]), len(client))}
    )
    assert who["b10"]["n"].tolist() == [3, 3, 3]
    assert who["b2"]["n"].tolist() == []


# Bad input.


def test_an_unknown_client():
    with pytest.raises(ValueError, match="There is no client 'zoe' among the 3: 'a'"):
        three()["zoe"]
    with pytest.raises(ValueError, match="no client number 3; they go from 0 to 2"):
        three().client(3)
    with pytest.raises(ValueError, match="no client number -1"):
        three().select([-1])
    with pytest.raises(TypeError, match="For a client's number use"):
        three()[0]  # pyright: ignore


X = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ({}, "it has no clients"),
        ({"a": {"x": X[:0]}}, "its 1 clients have no examples"),
        ({"a": {}}, "no columns of client 'a'"),
        ({"a": {"x": X}, "b": {"y": X}}, "Client 'b' has the columns y, but"),
        (
            {"a": {"x": X, "y": X[:1]}},
            "of client 'a' have different.*'x' has 2, 'y' has",
        ),
        (
            {"a": {"x": X}, "b": {"x": X.T}},
            r"'x' of client 'b' has.* \(2,\), but.*\(3,\)",
        ),
        ({"a": {"x": X}, "b": {"x": X > 0}}, "'x' of client 'b' has dtype bool, but"),
        ({"a": {"x": np.array(0.0)}}, "'x' of client 'a' is a single value"),
        ({1: {"x": X}, "1": {"x": X}}, "client id '1' occurs more than once"),
    ],
)
def test_clients_that_do_not_fit_together(clients, message):
    with pytest.raises(ValueError, match=message):
        eqd.FederatedDataset.from_mapping(clients)


@pytest.mark.parametrize(
    ("columns", "by", "message"),
    [
        ({}, "x", "There are no columns"),
        ({"x": X}, "who", "no column 'who'; the columns are: x"),
        ({"x": X}, eqd.ShardPartition(1), "no column 'label'"),
        ({"x": X, "y": X[:1]}, ["a", "b"], "'x' has 2, 'y' has 1"),
        ({"x": X}, ["a"], "`by` has 1 entries for 2 examples"),
        ({"x": X}, ["a", None], "'by' has 1 nulls among its 2 rows"),
        ({"x": X[:0]}, [], "its columns have no rows"),
        ({"x": X}, eqd.IIDPartition(3), "`num_clients` is 3, but.* only 2 examples"),
    ],
)
def test_arrays_that_do_not_fit_together(columns, by, message):
    with pytest.raises(ValueError, match=message):
        eqd.FederatedDataset.from_arrays(columns, by)


def test_a_bad_constructor_call():
    make = eqd.FederatedDataset
    with pytest.raises(ValueError, match="'y' has 1 rows, but the clients own 2"):
        make({"x": X, "y": X[:1]}, np.array([0, 2]), ["a"])
    with pytest.raises(ValueError, match="`offsets` must begin with 0"):
        make({"x": X}, np.array([0, 3, 2]), ["a", "b"])
    with pytest.raises(ValueError, match="`offsets` has 2 entries for 2 clients"):
        make({"x": X}, np.array([0, 2]), ["a", "b"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"who": ["a", None], "x": [1, 2]},
            "client column 'who' has 1 nulls among its 2",
        ),
        ({"who": ["a", "b"], "x": [1, None]}, "'x' has nulls: 1 among 2"),
        ({"who": ["a", "b"], "x": [[1], [None]]}, "'x' has nulls: 1 among 2"),
        ({"who": ["a"], "x": [{"y": 1}]}, "'x' holds struct<y: int64>.*Leave it out"),
        ({"who": [["a"]], "x": [1]}, "client column 'who' holds list"),
        ({"x": [1]}, "no column 'who'; the columns are: x"),
        ({"who": [], "x": []}, "it has no rows"),
    ],
)
def test_bad_tables(columns, message, tmp_path):
    source = datasets.Dataset.from_dict(columns)
    with pytest.raises(ValueError, match=message):
        eqd.FederatedDataset.from_huggingface(source, by="who")


def test_bad_sources(table, tmp_path):
    source = datasets.Dataset(table)
    with pytest.raises(ValueError, match="no column 'labels'; the columns are"):
        eqd.FederatedDataset.from_huggingface(source, by="who", columns=["labels"])
    with pytest.raises(
        TypeError, match=r"choose one of them, such as `dataset\['train'\]"
    ):
        eqd.FederatedDataset.from_huggingface(
            datasets.DatasetDict(train=source),  # pyright: ignore
            by="who",
        )
    with pytest.raises(TypeError, match="`dataset` must be a `datasets.Dataset`"):
        eqd.FederatedDataset.from_huggingface(table, by="who")
    with pytest.raises(TypeError, match="by"):
        eqd.FederatedDataset.from_huggingface(source, by=3)  # pyright: ignore
    with pytest.raises(ValueError, match="There is no file 'missing.parquet'"):
        eqd.FederatedDataset.from_parquet("missing.parquet", by="who")
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.drop_columns(["label"]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet' differ from those of .*a.parquet"):
        eqd.FederatedDataset.from_parquet(str(tmp_path / "*.parquet"), by="who")
    with pytest.raises(ValueError, match="no column 'label' in .*b.parquet"):
        eqd.FederatedDataset.from_parquet(
            str(tmp_path / "*.parquet"), by="who", columns=["label"]
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.select([]), "`clients` is empty"),
        (lambda d: d.split_clients(0), "`held_out` is 0, which leaves 3 seen and 0"),
        (lambda d: d.split_clients(3), "leaves 0 seen and 3 unseen of 3 clients"),
        (lambda d: d.split_clients(1.5), r"a fraction in \(0, 1\), got 1.5"),
        (lambda d: d.split_examples(0.0), r"a fraction in \(0, 1\), got 0.0"),
        (lambda d: d.max_examples(0), "`num_examples` must be at least 1"),
        (lambda d: d.select_columns(["z"]), "no column 'z'"),
        (lambda d: d.select_columns([]), "`names` is empty"),
        (lambda d: d.rename({"z": "x"}), "no column 'z'"),
        (lambda d: d.rename({"y": "x"}), "gives two columns one name"),
        (lambda d: d.map(lambda c: {"x": c["x"][:2]}), r"'x' with shape \(2, 2\), but"),
        (
            lambda d: d.map_clients(lambda c, e: {"x": np.zeros((len(c), len(c)))}),
            r"'x' of client 'b2' has examples of shape \(2,\), but those of client 'a'",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call(three())


def test_an_error_of_map_clients_says_with_whom():
    dataset = eqd.FederatedDataset.from_mapping({"a": {"x": X}, "b": {"x": X}})

    with pytest.raises(ZeroDivisionError) as error:
        dataset.map_clients(lambda c, e: {"x": 1 // (c != "b") * e["x"]})
    assert error.value.__notes__ == ["This was in `map_clients`, with client 'b'."]


@pytest.mark.parametrize("ids", [["a", "a\x00", "a"], [b"a", b"a\x00", b"a"]])
def test_a_zero_at_the_end_of_an_id_is_a_part_of_it(ids, tmp_path):
    # NumPy's arrays of text lose it, and two clients would have been one.
    dataset = eqd.FederatedDataset.from_arrays({"x": np.arange(3)}, by=ids)
    assert {c: e["x"].tolist() for c, e in dataset.items()} == {
        "a": [0, 2],
        "a\x00": [1],
    }
    columns = {"x": np.arange(3), "who": ids}
    again = eqd.FederatedDataset.from_arrays(columns, by="who")
    assert again.client_ids == ["a", "a\x00"]
    dataset.to_parquet(tmp_path / "a.parquet")
    saved = eqd.FederatedDataset.from_parquet(tmp_path / "a.parquet", by="client_id")
    assert saved.client_ids == ["a", "a\x00"]
    mapped = eqd.FederatedDataset.from_mapping(dict(dataset.items()))
    assert mapped.client_ids == ["a", "a\x00"]


def test_the_order_of_the_columns_does_not_matter():
    one, two = np.arange(2), np.arange(3.0)
    clients = {"a": {"x": one, "y": one * 2.0}, "b": {"y": two, "x": two.astype(int)}}
    dataset = eqd.FederatedDataset.from_mapping(clients)
    assert dataset["b"]["y"].tolist() == [0.0, 1.0, 2.0]
    assert dataset["b"]["x"].tolist() == [0, 1, 2]
