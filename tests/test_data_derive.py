"""Datasets that are made from others: filtered, joined, dealt anew, and split."""

import datasets
import numpy as np
import pytest

import equifed.data as eqd


X = np.arange(12.0).reshape(6, 2)


def three():
    return eqd.FederatedDataset.from_mapping(
        {
            "a": {"x": X[:1], "y": np.array([7])},
            "b2": {"x": X[:0], "y": np.zeros(0, np.int64)},
            "b10": {"x": X[1:4], "y": np.array([0, 1, 2])},
        }
    )


def mapped(tmp_path, sizes=(40, 30, 50)):
    """From a memory-mapped file."""
    ids = np.repeat(np.arange(len(sizes)), sizes)
    table = datasets.Dataset.from_dict({"who": ids, "x": np.arange(len(ids))})
    table.save_to_disk(tmp_path / "mapped")
    loaded = datasets.load_from_disk(tmp_path / "mapped")
    assert isinstance(loaded, datasets.Dataset)
    return eqd.FederatedDataset.from_huggingface(loaded, by="who")


def pieces(column):
    return column.chunks if isinstance(column, eqd.ChunkedColumn) else [column]


def test_items():
    dataset = three()
    pairs = dataset.items()
    assert next(pairs)[0] == "a"
    got = dict(dataset.items())
    assert list(got) == dataset.client_ids
    assert got["b10"]["y"].tolist() == [0, 1, 2]
    assert got["b2"]["x"].shape == (0, 2)
    again = eqd.FederatedDataset.from_mapping(got)
    assert again.client_ids == dataset.client_ids


# Filter.


def test_split_first():
    dataset = three()
    first, rest = dataset.split_first(2)
    assert first.client_ids == rest.client_ids == ["a", "b2", "b10"]
    assert first.client_sizes.tolist() == [1, 0, 2]
    assert rest.client_sizes.tolist() == [0, 0, 1]
    assert list(first.columns["y"][:]) == [7, 0, 1]
    assert list(rest.columns["y"][:]) == [2]
    np.testing.assert_array_equal(rest.columns["x"], X[3:4])
    # Of some clients they are the same as of all.
    alone, _ = dataset.select(["b10"]).split_first(2)
    assert list(alone.columns["y"][:]) == [0, 1]
    with pytest.raises(ValueError, match="is 3, which leaves no example of any client"):
        dataset.split_first(3)


def test_filter_by_size_and_by_a_function():
    dataset = three()
    assert dataset.filter(min_examples=1).client_ids == ["a", "b10"]
    asked = []

    def keep(client, examples):
        asked.append((client, len(examples["y"])))
        return (examples["y"] > 6).any()

    assert dataset.filter(keep).client_ids == ["a"]
    assert asked == [("a", 1), ("b2", 0), ("b10", 3)]
    asked.clear()
    some = dataset.filter(lambda c, e: not keep(c, e), min_examples=1)
    assert some.client_ids == ["b10"]
    assert [client for client, _ in asked] == ["a", "b10"]
    assert np.shares_memory(some["b10"]["x"], dataset["b10"]["x"])


def test_filter_copies_nothing_that_is_memory_mapped(tmp_path):
    dataset = mapped(tmp_path)
    some = dataset.filter(lambda client, examples: client != "1")
    assert some.client_ids == ["0", "2"]
    assert np.asarray(some.columns["x"]).tolist() == [*range(40), *range(70, 120)]
    for piece in pieces(some.columns["x"]):
        assert any(np.shares_memory(piece, p) for p in pieces(dataset.columns["x"]))


def test_an_error_of_a_filter_says_with_whom():
    with pytest.raises(ZeroDivisionError) as error:
        three().filter(lambda client, e: 1 // (client != "b2") > 0)
    assert error.value.__notes__ == ["This was in `filter`, with client 'b2'."]


# Concatenate.


def test_concatenate_keeps_the_order_and_copies_nothing(tmp_path):
    whole = mapped(tmp_path)
    parts = whole.select(["2"]), whole.select(["0", "1"])
    both = eqd.FederatedDataset.concatenate(parts)
    assert both.client_ids == ["2", "0", "1"]
    assert both.client_sizes.tolist() == [50, 40, 30]
    for client_id, examples in both.items():
        np.testing.assert_array_equal(examples["x"], whole[client_id]["x"])
        assert np.shares_memory(examples["x"], whole[client_id]["x"])


def test_concatenate_with_prefixes_and_other_orders_of_columns():
    dataset = three()
    turned = dataset.select_columns(["y", "x"])
    both = eqd.FederatedDataset.concatenate([dataset, turned], prefixes=["l/", "r/"])
    assert both.client_ids == ["l/a", "l/b2", "l/b10", "r/a", "r/b2", "r/b10"]
    assert list(both.columns) == ["x", "y"]
    assert both["r/b10"]["y"].tolist() == [0, 1, 2]
    assert both["r/b2"]["x"].shape == (0, 2)
    alone = eqd.FederatedDataset.concatenate([dataset])
    assert alone.client_ids == dataset.client_ids


def test_concatenated_text_is_as_wide_as_the_widest():
    def text(client, *words):
        return eqd.FederatedDataset.from_mapping({client: {"t": np.array(words)}})

    both = eqd.FederatedDataset.concatenate([text("a", "x"), text("b", "longer")])
    assert both["b"]["t"].tolist() == ["longer"]
    assert both["a"]["t"].dtype == both.columns["t"].dtype == np.dtype("<U6")
    taken, _ = eqd.FederatedDataset.concatenate(
        [text("a", "x", "y"), text("b", "longer", "longest")]
    ).split_examples(0.5)
    assert taken["b"]["t"][0] in ("longer", "longest")


def test_concatenate_refuses_two_that_differ():
    concatenate = eqd.FederatedDataset.concatenate
    d, other = three(), three().select(["a"])
    with pytest.raises(ValueError, match="'a'.* dataset 1, and 2 more clients"):
        concatenate([d, three()])
    renamed = eqd.FederatedDataset.concatenate([other], prefixes=["z"])
    with pytest.raises(ValueError, match="'a' is in dataset 0 and in dataset 2; ids"):
        concatenate([d, renamed, other])
    with pytest.raises(ValueError, match="Dataset 1 has the columns x, but dataset 0"):
        concatenate([d, renamed.select_columns(["x"])])
    cast = renamed.map(lambda c: {**c, "x": c["x"].astype(np.float32)})
    with pytest.raises(ValueError, match="'x' of dataset 1 has dtype float32, but"):
        concatenate([d, cast])
    flat = renamed.map(lambda c: {**c, "x": c["x"][:, 0]})
    with pytest.raises(
        ValueError, match=r"'x' of dataset 1 has examples of shape \(\)"
    ):
        concatenate([d, flat])
    turned = renamed.map(lambda c: {**c, "x": c["x"].astype(">f8")})
    with pytest.raises(ValueError, match="dtype >f8, but that of dataset 0"):
        concatenate([d, turned])


# Repartition.


class Blocks(eqd.AbstractPartition):
    """Adjacent rows, in an order of the clients' own."""

    @property
    def column_names(self):
        return ()

    def __call__(self, columns, num_examples):
        half = num_examples // 2
        nobody = np.arange(0)
        return {
            "late": np.arange(half, num_examples),
            "none": nobody,
            "early": np.arange(half),
        }


def test_repartition_deals_every_example_with_all_its_columns():
    dataset = eqd.digits()
    dealt = dataset.repartition(eqd.IIDPartition(5, seed=1))
    assert (dealt.num_clients, dealt.num_examples) == (5, dataset.num_examples)
    assert {n: (c.dtype, c.shape) for n, c in dealt.columns.items()} == {
        n: (c.dtype, c.shape) for n, c in dataset.columns.items()
    }
    for name in dataset.columns:
        one, two = (np.asarray(d.columns[name]) for d in (dataset, dealt))
        assert sorted(map(bytes, one)) == sorted(map(bytes, two))
    again = eqd.FederatedDataset.from_arrays(
        {n: np.asarray(c) for n, c in dataset.columns.items()},
        eqd.IIDPartition(5, seed=1),
    )
    np.testing.assert_array_equal(dealt["3"]["image"], again["3"]["image"])
    skewed = dataset.repartition(eqd.ShardPartition(5, 2))
    assert max(len(np.unique(e["label"])) for _, e in skewed.items()) < 6


def test_repartition_into_adjacent_rows_copies_nothing(tmp_path):
    dataset = mapped(tmp_path)
    dealt = dataset.repartition(Blocks())
    assert dealt.client_ids == ["late", "none", "early"]
    assert dealt.client_sizes.tolist() == [60, 0, 60]
    assert dealt["late"]["x"].tolist() == list(range(60, 120))
    assert dealt["early"]["x"].tolist() == list(range(60))
    for piece in pieces(dealt.columns["x"]):
        assert any(np.shares_memory(piece, p) for p in pieces(dataset.columns["x"]))


# Stratified splits.


def labelled(**labels):
    return eqd.FederatedDataset.from_mapping(
        {c: {"label": np.array(v), "row": np.arange(len(v))} for c, v in labels.items()}
    )


def test_a_stratified_split_has_the_exact_counts():
    dataset = eqd.digits()
    train, test = dataset.split_examples(0.2, stratify="label", seed=3)
    _, plain = dataset.split_examples(0.2, seed=3)
    assert test.client_sizes.tolist() == plain.client_sizes.tolist()
    assert train.client_ids == test.client_ids == dataset.client_ids
    for client, examples in dataset.items():
        size = np.bincount(examples["label"], minlength=10)
        held = np.bincount(test[client]["label"], minlength=10)
        left = np.bincount(train[client]["label"], minlength=10)
        assert (held + left == size).all()
        total = int(held.sum())
        quota, rest = np.divmod(total * size, size.sum())
        assert ((held == quota) | ((held == quota + 1) & (rest > 0))).all()
        up = held > quota
        if up.any() and not up.all():
            assert rest[up].min() >= rest[~up].max()


def test_a_stratified_split_depends_on_the_client_alone():
    dataset = labelled(a=list("xxyyyyzz") * 3, b=list("qqxx") * 5)
    train, test = dataset.split_examples(0.5, stratify="label", seed=1)
    assert sorted(test["a"]["label"]) == ["x"] * 3 + ["y"] * 6 + ["z"] * 3
    rows = [*train["b"]["row"], *test["b"]["row"]]
    assert sorted(rows) == list(range(20))
    _, alone = dataset.select(["b"]).split_examples(0.5, stratify="label", seed=1)
    assert alone["b"]["row"].tolist() == test["b"]["row"].tolist()
    seeds = {
        tuple(dataset.split_examples(0.5, stratify="label", seed=s)[1]["a"]["row"])
        for s in range(8)
    }
    assert len(seeds) == 8


def test_equal_remainders_are_drawn():
    # One of four is held out: half an example of each label.
    clients = {f"c{i}": [0, 0, 1, 1] for i in range(100)}
    _, test = labelled(**clients).split_examples(0.25, stratify="label")
    ones = np.asarray(test.columns["label"]).sum()
    assert len(test.columns["label"]) == 100
    assert 30 < ones < 70


def test_the_only_example_of_a_client_is_for_training_by_label_too():
    dataset = labelled(a=[3], b=[], c=[1, 2, 1, 2])
    train, test = dataset.split_examples(0.9, stratify="label")
    assert train.client_sizes.tolist() == [1, 0, 1]
    assert test.client_sizes.tolist() == [0, 0, 3]
