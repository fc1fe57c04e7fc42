"""The order in which a client visits its examples."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd
from equifed.data._random import generator, ORDER

from .orders import FEDJAX


sizes = st.integers(0, 40)
batch_sizes = st.integers(1, 50)
epochs = st.integers(1, 4)


def rng(client=3, round=5, seed=0):
    return generator(seed, ORDER, client, round)


def visits(order):
    return np.bincount(order[order >= 0]) if (order >= 0).any() else np.zeros(0, int)


@settings(deadline=None)
@given(sizes, batch_sizes, epochs, st.booleans())
def test_short_visits_every_example_once_an_epoch(
    size, batch_size, num_epochs, shuffle
):
    batching = eqd.Epochs(num_epochs, batch_size=batch_size, shuffle=shuffle)
    order = batching.order(size, rng())
    assert order.shape == (num_epochs * -(-size // batch_size), batch_size)
    for epoch in np.split(order, num_epochs):
        rows = epoch[epoch >= 0]
        assert sorted(rows) == list(range(size))
        # Only the end of the last batch is empty.
        assert (epoch.reshape(-1)[: len(rows)] >= 0).all()
        if not shuffle:
            assert list(rows) == list(range(size))


@settings(deadline=None)
@given(sizes, batch_sizes, epochs)
def test_drop_leaves_only_full_batches_without_repeats(size, batch_size, num_epochs):
    batching = eqd.Epochs(num_epochs, batch_size=batch_size, last="drop")
    order = batching.order(size, rng())
    assert order.shape == (num_epochs * (size // batch_size), batch_size)
    assert (order >= 0).all()
    for epoch in np.split(order, num_epochs):
        assert len(np.unique(epoch)) == epoch.size


@settings(deadline=None)
@given(sizes, batch_sizes, epochs)
def test_fill_visits_every_example_at_least_once_an_epoch(size, batch_size, num_epochs):
    batching = eqd.Epochs(num_epochs, batch_size=batch_size, last="fill")
    order = batching.order(size, rng())
    assert order.shape == (-(-size * num_epochs // batch_size), batch_size)
    flat = order.reshape(-1)
    for i in range(len(flat) // max(size, 1)):
        assert sorted(flat[i * size : (i + 1) * size]) == list(range(size))
    tail = flat[len(flat) // max(size, 1) * size :]
    assert len(np.unique(tail)) == len(tail)


@settings(deadline=None)
@given(sizes, batch_sizes, st.integers(1, 9), st.booleans())
def test_steps_are_exactly_so_many_and_even(size, batch_size, num_steps, shuffle):
    batching = eqd.Steps(num_steps, batch_size=batch_size, shuffle=shuffle)
    order = batching.order(size, rng())
    assert order.shape == (num_steps if size else 0, batch_size)
    if size:
        counts = np.bincount(order.reshape(-1), minlength=size)
        assert counts.max() - counts.min() <= 1


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            eqd.Epochs(3, batch_size=7),
            eqd.Epochs(3, batch_size=7, last="drop"),
            eqd.Epochs(3, batch_size=7, last="fill"),
            eqd.Steps(4, batch_size=7),
        ]
    ),
    st.lists(sizes, min_size=1, max_size=5),
)
def test_num_steps_agrees_with_order(batching, many):
    expected = [len(batching.order(n, rng())) for n in many]
    assert list(batching.num_steps(np.array(many))) == expected


def test_epochs_differ_and_more_epochs_only_add():
    one = eqd.Epochs(1, batch_size=10).order(100, rng())
    two = eqd.Epochs(2, batch_size=10).order(100, rng())
    np.testing.assert_array_equal(one, two[:10])
    assert not np.array_equal(two[:10], two[10:])


def test_the_order_is_that_of_all_time():
    # A change of NumPy, or of this library, must not change anyone's experiment.
    order = eqd.Epochs(1, batch_size=4).order(6, rng(client=3, round=5, seed=7))
    assert order.tolist() == [[2, 1, 4, 0], [3, 5, -1, -1]]


def test_every_order_is_equally_likely():
    batching = eqd.Epochs(1, batch_size=3)
    seen = [tuple(batching.order(3, rng(c, 0))[0]) for c in range(3000)]
    _, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: eqd.Epochs(0, batch_size=2), "`num_epochs` must be at least 1, got 0"),
        (lambda: eqd.Epochs(1, batch_size=0), "`batch_size` must be at least 1, got 0"),
        (lambda: eqd.Epochs(-1, batch_size=2), "`num_epochs` must be at least 1"),
        (lambda: eqd.Steps(0, batch_size=2), "`num_steps` must be at least 1, got 0"),
        (lambda: eqd.Steps(3, batch_size=-2), "`batch_size` must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_rule_for_the_last_batch_is_refused():
    with pytest.raises((ValueError, TypeError), match="last"):
        eqd.Epochs(1, batch_size=2, last="pad")  # pyright: ignore


def test_a_fractional_batch_size_is_refused():
    with pytest.raises(TypeError, match="batch_size"):
        eqd.Epochs(1, batch_size=2.5)  # pyright: ignore


def test_orders_can_be_given_row_by_row():
    # What comes of them is in `conformance/test_fedjax.py`.
    x = np.array([2.0, 4, 6, 8, 10], np.float32)
    dataset = eqd.FederatedDataset.from_arrays({"x": x}, by=[0, 0, 0, 1, 1])
    cohort = eqd.cohort(dataset, FEDJAX)
    rows = np.asarray(cohort.order)[0]
    bounds = zip(np.asarray(cohort.start)[0], np.asarray(cohort.stop)[0], strict=True)
    steps = [rows[a:b].tolist() for a, b in bounds]
    assert steps == [[[2, 1], [0, 0]], [[4, 3]]]
