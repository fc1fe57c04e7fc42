"""Partitions by sizes, by numbers of labels, by groups, and those of flwr-datasets."""

from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 30))


def dealt(partition, labels=LABELS, **columns):
    """The clients' rows, each of which is a row of nobody else."""
    clients = partition({"label": labels, **columns}, len(labels))
    assert list(clients) == [str(i) for i in range(len(clients))]
    rows = np.concatenate(list(clients.values()))
    assert len(np.unique(rows)) == len(rows)
    again = partition({"label": labels, **columns}, len(labels))
    for one, two in zip(clients.values(), again.values(), strict=True):
        np.testing.assert_array_equal(one, two)
    return list(clients.values())


def sizes_of(partition, labels=LABELS, **columns):
    return [len(rows) for rows in dealt(partition, labels, **columns)]


def counts_of(partition, labels=LABELS):
    """How many examples of each label each client has."""
    rows = dealt(partition, labels)
    return np.stack([np.bincount(labels[r], minlength=labels.max() + 1) for r in rows])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_every_example_is_given_to_exactly_one_client(data):
    num_labels = data.draw(st.integers(1, 4))
    labels = np.tile(np.arange(num_labels), data.draw(st.integers(8, 15)))
    n, seed = len(labels), data.draw(st.integers(0, 2**32))
    parts = data.draw(st.integers(1, 4))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    sizes = np.diff([0, *cuts, n])
    alpha = data.draw(st.sampled_from([1e-4, 0.3, 10.0]))
    per_client = data.draw(st.integers(1, num_labels))
    shares = np.random.default_rng(seed).random((num_labels, 2 * per_client)) + 1e-6
    for partition in (
        eqd.SizePartition(sizes, seed=seed),
        eqd.SharesPartition(parts, lambda i: 1 + i % 2, seed=seed),
        eqd.InnerDirichletPartition(sizes, alpha, seed=seed),
        eqd.PathologicalPartition(num_labels + 2, per_client, seed=seed),
        eqd.DistributionPartition(shares, per_client, seed=seed),
        eqd.ContinuousPartition(parts, "label", 0.0, seed=seed),
        eqd.GroupedPartition("label", data.draw(st.integers(1, 5))),
    ):
        rows = np.concatenate(dealt(partition, labels))
        assert sorted(rows) == list(range(n)), partition


# Sizes.


def test_sizes_are_those_asked_for():
    assert sizes_of(eqd.SizePartition([250, 0, 49, 1])) == [250, 0, 49, 1]
    assert sizes_of(eqd.SizePartition(np.array([100, 200]))) == [100, 200]
    assert sizes_of(eqd.InnerDirichletPartition([7, 0, 293], 0.5)) == [7, 0, 293]


@pytest.mark.parametrize(
    ("share", "clients", "sizes"),
    [
        # Rounded down, and the rest is the last one's.
        ("linear", 4, [30, 60, 90, 120]),
        ("linear", 7, [10, 21, 32, 42, 53, 64, 78]),
        ("square", 4, [10, 40, 90, 160]),
        ("exponential", 4, [9, 26, 71, 194]),
        (lambda i: 1 / i, 3, [163, 81, 56]),
    ],
)
def test_shares(share, clients, sizes):
    partition = eqd.SharesPartition(clients, share)
    assert sizes_of(partition) == sizes


def test_a_share_of_a_whole_number_is_not_rounded_away():
    partition = eqd.SharesPartition(10, "linear")
    assert sizes_of(partition, np.zeros(55)) == list(range(1, 11))


# Labels.


def test_the_seed_draws_what_is_random_and_only_that():
    for make in (
        lambda seed: eqd.SizePartition([100, 200], seed=seed),
        lambda seed: eqd.SharesPartition(3, "square", seed=seed),
        lambda seed: eqd.InnerDirichletPartition([100, 200], 1.0, seed=seed),
        lambda seed: eqd.PathologicalPartition(10, 3, seed=seed),
        lambda seed: eqd.DistributionPartition(np.ones((10, 2)), 2, seed=seed),
        lambda seed: eqd.ContinuousPartition(3, "label", 0.5, seed=seed),
    ):
        one, two = dealt(make(0)), dealt(make(1))
        assert any(
            len(a) != len(b) or (a != b).any() for a, b in zip(one, two, strict=True)
        )


def test_inner_dirichlet_draws_each_clients_own_distribution():
    labels = np.tile(np.arange(4), 2000)
    sizes = [20] * 100 + [6000]  # so many that no label runs out before the last ones

    def share_of_first(alpha, seed=0):
        partition = eqd.InnerDirichletPartition(sizes, alpha, seed=seed)
        return counts_of(partition, labels)[:100, 0] / 20

    # Dirichlet-multinomial: of the mean 1/4, with the variance of its distribution and
    # that of the 20 draws from it.
    total = 4 * 0.5
    shares = share_of_first(0.5)
    variance = (1 / 4) * (3 / 4) * (1 / 20) * (20 + total) / (1 + total)
    assert abs(shares.mean() - 1 / 4) < 0.06
    assert abs(shares.var() / variance - 1) < 0.4
    assert share_of_first(1e5).var() < 0.02
    skewed = share_of_first([9.0, 1.0, 1.0, 1.0])
    assert abs(skewed.mean() - 0.75) < 0.06


def test_inner_dirichlet_goes_on_when_a_clients_labels_have_run_out():
    labels = np.repeat([0, 1], [3, 57])
    partition = eqd.InnerDirichletPartition([30, 30], [1e9, 1e-9])
    counts = counts_of(partition, labels)
    assert counts.sum(0).tolist() == [3, 57]
    assert counts.sum(1).tolist() == [30, 30]


def test_deterministic_labels_go_round():
    counts = counts_of(eqd.PathologicalPartition(12, 3, choice="deterministic"))
    for client, own in enumerate(counts):
        assert set(np.flatnonzero(own)) == {(client + i) % 10 for i in range(3)}
    # Three or four clients have a label, and differ by one example at most.
    assert {n for n in counts.ravel() if n > 0} == {6, 7, 8, 10}


def test_the_first_label_is_deterministic_and_the_others_are_not():
    counts = counts_of(eqd.PathologicalPartition(20, 3))
    assert ((counts > 0).sum(1) == 3).all()
    assert all(counts[client, client % 10] > 0 for client in range(20))
    assert counts.sum() == 300
    sets = {tuple(np.flatnonzero(own)) for own in counts}
    assert len(sets) > 12


def test_labels_need_not_be_numbers_from_0():
    names = np.array(["cat", "dog", "eel"])[np.arange(30) % 3]
    rows = dealt(eqd.PathologicalPartition(3, 1), names)
    assert [set(names[own]) for own in rows] == [{"cat"}, {"dog"}, {"eel"}]


def test_random_labels_may_leave_some_out_and_that_is_said():
    with pytest.warns(UserWarning, match="No client has the labels .* are left out"):
        counts = counts_of(eqd.PathologicalPartition(2, 2, choice="random"))
    assert ((counts > 0).sum(1) == 2).all()
    assert set(counts.ravel()) <= {0, 15, 30}


def test_distribution_gives_what_the_table_says():
    labels = np.repeat([0, 1, 2], [20, 40, 60])
    # 3 labels, 2 to a client, 4 columns: 6 clients.
    shares = np.array([[1, 2, 3, 4], [4, 0, 0, 4], [1, 1, 1, 1]])
    partition = eqd.DistributionPartition(shares, 2)
    assert partition.num_clients == 6
    # Client i has the labels i and i + 1; label 0 is that of clients 0, 2, 3 and 5.
    assert counts_of(partition, labels).tolist() == [
        [2, 20, 0],
        [0, 0, 15],
        [4, 0, 15],
        [6, 0, 0],
        [0, 20, 15],
        [8, 0, 15],
    ]
    partition = eqd.DistributionPartition(shares, 2, min_size=5)
    assert counts_of(partition, labels)[:, 0].tolist() == [5, 0, 5, 5, 0, 5]
    assert counts_of(partition, labels)[:, 1].tolist() == [15, 5, 0, 5, 15, 0]


# Groups, and numbers.


@pytest.mark.parametrize(
    ("size", "remainder", "groups"),
    [
        (2, "smaller", [[1, 2], [9, 10], [20]]),
        (2, "bigger", [[1, 2, 9], [10, 20]]),
        (2, "drop", [[1, 2], [9, 10]]),
        (5, "refuse", [[1, 2, 9, 10, 20]]),
        (9, "smaller", [[1, 2, 9, 10, 20]]),
    ],
)
def test_groups(size, remainder, groups):
    who = np.array(["w10", "w2", "w9", "w10", "w1", "w20"])
    partition = eqd.GroupedPartition("who", size, remainder=remainder)
    rows = dealt(partition, np.zeros(6), who=who)
    want = [[f"w{n}" for n in group for _ in range(1 + (n == 10))] for group in groups]
    assert [who[own].tolist() for own in rows] == want


def test_strictness():
    age = np.random.default_rng(0).permutation(np.arange(300.0))

    def ranges(strictness):
        partition = eqd.ContinuousPartition(3, "age", strictness)
        rows = dealt(partition, age=age)
        assert [len(own) for own in rows] == [100] * 3
        return np.array([[age[own].min(), age[own].max()] for own in rows])

    np.testing.assert_array_equal(ranges(1.0), [[0, 99], [100, 199], [200, 299]])
    assert (ranges(0.0)[:, 1] - ranges(0.0)[:, 0] > 270).all()
    between = ranges(0.7)
    assert (np.diff(between.mean(1)) > 30).all()
    assert (between[:-1, 1] > between[1:, 0]).all()


def test_partitions_are_those_of_all_time():
    labels = np.arange(8) % 2
    for partition, rows in (
        (eqd.SizePartition([3, 5], seed=7), [[2, 5, 7], [3, 0, 6, 4, 1]]),
        (
            eqd.InnerDirichletPartition([3, 5], 0.3, seed=7),
            [[3, 7, 5], [4, 6, 0, 2, 1]],
        ),
        (eqd.PathologicalPartition(2, 1, seed=7), [[2, 4, 0, 6], [1, 5, 3, 7]]),
    ):
        assert [own.tolist() for own in dealt(partition, labels)] == rows


# What does not fit the data.


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (eqd.SizePartition([100, 100]), r"add up to 200, .* 300 .* client of 100,.*-1"),
        (eqd.SizePartition([200, 101]), "add up to 301, but there are only 300"),
        (eqd.SharesPartition(301), "`num_clients` is 301, but.* 300 examples"),
        (eqd.SharesPartition(9, "exponential"), "3 of the 9 clients, .* number 0"),
        (eqd.SharesPartition(3, lambda i: i - 1), "positive, finite number"),
        (eqd.SharesPartition(3, lambda i: i[:2]), "each of the 3 clients, got an arr"),
        (eqd.InnerDirichletPartition([299], 1.0), "add up to 299"),
        (eqd.InnerDirichletPartition([300], [1.0] * 9), "has 9 numbers, .* 10 labels"),
        (eqd.PathologicalPartition(3, 11), "is 11, but column 'label' has 10 labels"),
        (
            eqd.PathologicalPartition(400, 1, choice="deterministic"),
            "40 clients are to have label '0' of column 'label', which has 30",
        ),
        (eqd.DistributionPartition(np.ones((3, 2))), "3 rows, but .* 10 labels"),
        (
            eqd.DistributionPartition(np.ones((10, 8)), min_size=4),
            "'0' .* 30 examples, too few to give 8 clients `min_size`, 4",
        ),
        (eqd.GroupedPartition("label", 3, remainder="refuse"), "10 values, .* 3. Wri"),
        (eqd.GroupedPartition("label", 11, remainder="drop"), "no multiple of"),
    ],
)
def test_what_does_not_fit_is_refused(partition, message):
    with pytest.raises(ValueError, match=message):
        dealt(partition)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(300, 2.5), "are 2.5: there is nothing to sort by"),
        (np.where(LABELS == 0, np.nan, 1.0), "30 values that are not finite"),
        (np.full(300, "a"), "cannot be sorted by"),
        (np.zeros((300, 2)), r"of shape \(2,\)"),
    ],
)
def test_what_cannot_be_sorted_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        dealt(eqd.ContinuousPartition(3, "age", 0.5), age=values)


# Partitioners of flwr-datasets: an object of the same protocol.


class Halves:
    """The rows of each value of a column, to two clients in turn; made when the first
    partition is asked for."""

    def __init__(self, column):
        self.column = column
        self._dataset = None
        self.loaded = []

    @property
    def dataset(self):
        if self._dataset is None:
            raise AttributeError("The dataset field should be set before using it.")
        return self._dataset

    @dataset.setter
    def dataset(self, value):
        if self._dataset is not None:
            raise Exception("The dataset should be assigned only once.")
        self._dataset = value

    @property
    def num_partitions(self):
        return 2 * len(self.dataset.unique(self.column))

    def load_partition(self, partition_id):
        self.loaded.append(partition_id)
        values = np.asarray(self.dataset[self.column])
        value = sorted(self.dataset.unique(self.column))[partition_id // 2]
        rows = np.flatnonzero(values == value)[partition_id % 2 :: 2]
        return self.dataset.select(rows)


TABLE = {"x": np.arange(12.0), "y": np.array([3, 1, 1, 3] * 3)}
WANTED = [[1, 5, 9], [2, 6, 10], [0, 4, 8], [3, 7, 11]]


def build(form, by, tmp_path, **kwargs):
    columns = {**TABLE, "image": np.arange(48.0).reshape(12, 2, 2)}
    if form == "arrays":
        return eqd.FederatedDataset.from_arrays(columns, by)
    if form == "repartitioned":
        whole = eqd.FederatedDataset.from_arrays(columns, np.zeros(12, int))
        return whole.repartition(by)
    rows: Any = datasets.Dataset.from_dict(columns)
    if form == "stream":
        rows = rows.to_iterable_dataset()
    if form == "selected":
        rows = datasets.concatenate_datasets([rows, rows]).select(range(11, -1, -1))
        rows = rows.select(range(11, -1, -1))
    if form == "parquet":
        rows.to_parquet(tmp_path / "a.parquet")
        return eqd.FederatedDataset.from_parquet(
            tmp_path / "a.parquet", by=by, **kwargs
        )
    return eqd.FederatedDataset.from_huggingface(rows, by=by, **kwargs)


@pytest.mark.parametrize(
    "form", ["arrays", "repartitioned", "dataset", "selected", "stream", "parquet"]
)
def test_a_partitioner_of_flwr_datasets_makes_the_clients(form, tmp_path):
    by = Halves("y")
    dataset = build(form, by, tmp_path)
    assert by.loaded == [0, 1, 2, 3]
    assert dataset.client_ids == ["0", "1", "2", "3"]
    assert [examples["x"].tolist() for _, examples in dataset.items()] == WANTED
    assert dataset["1"]["image"][0].tolist() == [[8.0, 9.0], [10.0, 11.0]]
    assert set(dataset.columns) == {"x", "y", "image"}


@pytest.mark.parametrize("form", ["dataset", "parquet", "stream"])
def test_a_partitioner_reads_what_is_not_kept(form, tmp_path):
    dataset = build(form, Halves("y"), tmp_path, columns=["x"])
    assert set(dataset.columns) == {"x"}
    assert [examples["x"].tolist() for _, examples in dataset.items()] == WANTED


def test_a_row_that_was_selected_twice_is_two_rows():
    rows = datasets.Dataset.from_dict(TABLE).select([0, 1, 0, 0, 1, 5])
    dataset = eqd.FederatedDataset.from_huggingface(rows, by=Halves("y"))
    assert [e["x"].tolist() for _, e in dataset.items()] == [
        [1.0, 5.0],
        [1.0],
        [0.0, 0.0],
        [0.0],
    ]


def test_a_table_of_shares_is_a_copy():
    shares = np.ones((10, 2))
    partition = eqd.DistributionPartition(shares)
    before = sizes_of(partition)
    shares[:] = [[1.0, 9.0]] * 10
    assert sizes_of(partition) == before


def test_what_a_partitioner_of_flwr_datasets_cannot_do_is_said(tmp_path):
    used = Halves("y")
    build("arrays", used, tmp_path)
    with pytest.raises(ValueError, match="assigned only once. Make a new `Halves`"):
        build("arrays", used, tmp_path)
    with pytest.raises(Exception, match="[(]z[)] not in table") as caught:
        build("arrays", Halves("z"), tmp_path)
    assert "asked for the number of its partitions" in caught.value.__notes__[0]

    class Vertical(Halves):
        def load_partition(self, partition_id):
            return super().load_partition(partition_id).select_columns(["x"])

    with pytest.raises(ValueError, match="Partition 0 of `Vertical`.*without the rows"):
        build("arrays", Vertical("y"), tmp_path)
