"""All clients' examples, for baselines without clients."""

import itertools

import numpy as np
import pytest

import equifed as eqf
import equifed.data as eqd


X = np.arange(23)
DATASET = eqd.FederatedDataset.from_arrays({"x": X, "y": -X}, by=X % 4)


def epoch_of(batches, num_batches):
    return [batch["x"].tolist() for batch in itertools.islice(batches, num_batches)]


def test_an_epoch_has_each_example_once():
    batches = list(eqd.batches(DATASET, 5, num_epochs=3, seed=1))
    assert [len(batch["x"]) for batch in batches] == [5, 5, 5, 5, 3] * 3
    for batch in batches:
        np.testing.assert_array_equal(batch["y"], -batch["x"])
    epochs = [sum((b["x"].tolist() for b in batches[i : i + 5]), []) for i in (0, 5)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == X.tolist()
    assert epochs[0] != epochs[1]
    again = eqd.batches(DATASET, 5, num_epochs=None, seed=1)
    assert epoch_of(again, 15) == [b["x"].tolist() for b in batches]
    other = eqd.batches(DATASET, 5, num_epochs=None, seed=2)
    assert epoch_of(other, 1) != epoch_of(eqd.batches(DATASET, 5, seed=1), 1)
    dropped = list(eqd.batches(DATASET, 5, last="drop", num_epochs=2, seed=1))
    assert [len(batch["x"]) for batch in dropped] == [5] * 8


def test_without_shuffling_they_come_client_by_client():
    batches = eqd.batches(DATASET, 10, shuffle=False)
    rows = np.concatenate([batch["x"] for batch in batches])
    np.testing.assert_array_equal(rows, DATASET.columns["x"])


def test_every_place_is_drawn_fairly():
    # The last place as the first: each example comes there as often as any other.
    one = eqd.FederatedDataset.from_arrays({"x": np.arange(8)}, by=np.arange(8) // 2)
    orders = np.stack(
        [b["x"] for b in eqd.batches(one, 8, num_epochs=4000, seed=0)]
    )  # epochs, places
    for place in range(8):
        counts = np.bincount(orders[:, place], minlength=8)
        assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi2 of 7, 0.1%


def test_pooled_is_one_client_with_everything():
    pooled = DATASET.pooled()
    assert pooled.client_ids == ["all"]
    assert pooled.client_sizes.tolist() == [23]
    assert np.shares_memory(pooled.columns["x"], DATASET.columns["x"])
    assert DATASET.pooled("everybody").client_ids == ["everybody"]
    cohort = eqf.data.cohort(pooled, eqd.Epochs(1, batch_size=5))
    rows = np.asarray(cohort.order)
    assert sorted(rows[rows >= 0]) == list(range(23))


def test_a_batch_size_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="`batch_size` is 24, but .* 23 examples"):
        eqd.batches(DATASET, 24, last="drop", num_epochs=None)
