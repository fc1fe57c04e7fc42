"""How a centralised set is given to clients."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd
from equifed.data._random import dirichlet, generator


@st.composite
def labelled(draw):
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=60))
    clients = draw(st.integers(1, len(labels)))
    return np.array(labels), clients, draw(st.integers(0, 2**32))


@settings(deadline=None)
@given(labelled())
def test_every_example_is_given_to_exactly_one_client(case):
    labels, num_clients, seed = case
    for partition in (
        eqd.IIDPartition(num_clients, seed=seed),
        eqd.QuantityPartition(num_clients, 1.3, seed=seed),
        eqd.ShardPartition(num_clients, 1, seed=seed),
        eqd.DirichletPartition(num_clients, 0.3, seed=seed),
        eqd.DirichletPartition(num_clients, 0.01, balanced=True, seed=seed),
    ):
        clients = partition({"label": labels}, len(labels))
        assert list(clients) == [str(i) for i in range(num_clients)]
        rows = np.concatenate(list(clients.values()))
        assert sorted(rows) == list(range(len(labels)))
        again = partition({"label": labels}, len(labels))
        for one, two in zip(clients.values(), again.values(), strict=True):
            np.testing.assert_array_equal(one, two)


def sizes_of(partition, labels):
    clients = partition({"label": labels}, len(labels))
    return [len(rows) for rows in clients.values()]


def test_sizes():
    labels = np.arange(103) % 10
    assert set(sizes_of(eqd.IIDPartition(10), labels)) == {10, 11}
    balanced = eqd.DirichletPartition(10, 0.1, balanced=True)
    assert set(sizes_of(balanced, labels)) == {10, 11}
    by_law = sizes_of(eqd.QuantityPartition(4, 1.0, min_size=2), labels)
    assert sum(by_law) == 103
    shares = (np.array(by_law) - 2) / (103 - 8)
    np.testing.assert_allclose(shares, np.array([12, 6, 4, 3]) / 25, atol=0.01)
    equal = sizes_of(eqd.QuantityPartition(4, 0.0), labels)
    assert max(equal) - min(equal) <= 1


def test_shards_hold_few_labels():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    clients = eqd.ShardPartition(100, 2)({"label": labels}, 600)
    assert max(len(np.unique(labels[rows])) for rows in clients.values()) == 2
    assert {len(rows) for rows in clients.values()} == {6}


@pytest.mark.parametrize("balanced", [False, True])
def test_alpha_sets_the_skew(balanced):
    labels = np.repeat(np.arange(10), 500)

    def skew(alpha):
        """The mean share of a client's most frequent label."""
        partition = eqd.DirichletPartition(20, alpha, balanced=balanced, seed=1)
        clients = partition({"label": labels}, len(labels))
        counts = [np.bincount(labels[rows], minlength=10) for rows in clients.values()]
        return np.mean([c.max() / c.sum() for c in counts if c.sum() > 0])

    assert skew(1e5) < 0.16
    assert 0.2 < skew(1.0) < 0.8
    assert skew(0.01) > 0.8


def test_min_size_holds():
    labels = np.repeat(np.arange(10), 50)
    assert min(sizes_of(eqd.DirichletPartition(10, 0.1, min_size=8), labels)) >= 8
    with pytest.raises(ValueError, match="Raise `alpha`, or lower `min_size`"):
        sizes_of(eqd.DirichletPartition(10, 0.01, min_size=50), labels)


def test_clients_that_have_enough_get_no_more():
    labels = np.repeat(np.arange(10), 50)
    for seed in range(20):
        partition = eqd.DirichletPartition(10, 0.1, self_balancing=True, seed=seed)
        clients = partition({"label": labels}, len(labels))
        rows = np.concatenate(list(clients.values()))
        assert sorted(rows) == list(range(500))
        for own in clients.values():
            # Of the labels before the last one it had less than its share, 50.
            before = labels[own] < labels[own].max() if len(own) else np.zeros(0, bool)
            assert before.sum() < 50
    loose = np.max(sizes_of(eqd.DirichletPartition(10, 0.1, seed=0), labels))
    tight = np.max(sizes_of(partition, labels))
    assert tight < 100 < loose


def test_dirichlet_has_the_right_moments():
    alphas = np.array([0.2, 1.0, 3.0, 0.0])
    draws = np.stack([dirichlet(generator(0, 9, i), alphas) for i in range(4000)])
    np.testing.assert_allclose(draws.sum(1), 1)
    mean = alphas / alphas.sum()
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.01)
    variance = mean * (1 - mean) / (alphas.sum() + 1)
    np.testing.assert_allclose(draws.var(0), variance, atol=0.004)


def test_tiny_alphas_are_exact_enough():
    draws = dirichlet(generator(0, 9), np.full(5, 1e-6))
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(draws.sum(), 1)


def test_a_column_makes_clients_in_natural_order():
    column = np.array(["w10", "w2", "w10", "w1"])
    clients = eqd.ColumnPartition("writer")({"writer": column}, 4)
    assert {c: rows.tolist() for c, rows in clients.items()} == {
        "w1": [3],
        "w2": [1],
        "w10": [0, 2],
    }
    assert list(clients) == ["w1", "w2", "w10"]


def test_a_partition_is_that_of_all_time():
    clients = eqd.IIDPartition(2, seed=7)({}, 5)
    assert [rows.tolist() for rows in clients.values()] == [[2, 3, 0], [4, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: eqd.IIDPartition(0), "`num_clients` must be at least 1"),
        (lambda: eqd.IIDPartition(6)({}, 5), "`num_clients` is 6, but.* 5 examples"),
        (lambda: eqd.DirichletPartition(2, 0.0), "`alpha` must be more than 0"),
        (
            lambda: eqd.DirichletPartition(2, 1.0, balanced=True, self_balancing=True),
            "`self_balancing` is for clients of different sizes",
        ),
        (
            lambda: eqd.DirichletPartition(2, 1.0, min_size=-1),
            "`min_size` must be at le",
        ),
        (lambda: eqd.QuantityPartition(2, -1.0), "`exponent` must be at least 0"),
        (lambda: eqd.ShardPartition(2, 0), "`shards_per_client` must be at least 1"),
        (
            lambda: eqd.ShardPartition(3, 2)({"label": np.zeros(5)}, 5),
            "`num_clients [*] shards_per_client` is 6",
        ),
        (
            lambda: eqd.ShardPartition(1, 1)({"label": np.zeros((5, 2))}, 5),
            r"'label' has rows of shape \(2,\)",
        ),
        (
            lambda: eqd.ShardPartition(1, 1)({"label": np.array([0.0, np.nan])}, 2),
            "'label' has 1 nulls among its 2 rows",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_alpha_as_large_as_can_be_is_the_same_for_all_without_a_warning():
    columns = {"label": np.arange(40) % 4}
    dataset = eqd.FederatedDataset.from_arrays(
        columns, by=eqd.DirichletPartition(5, 1e308)
    )
    assert set(dataset.client_sizes.tolist()) == {8}
