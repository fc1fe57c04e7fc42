"""Counts from fractions, for every fraction of every number that matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equifed as eqf
from equifed._share import floor_share, round_share


MOST = 2000
COUNT = np.concatenate([np.full(n + 1, n) for n in range(1, MOST + 1)])
PART = np.concatenate([np.arange(n + 1) for n in range(1, MOST + 1)])
DECIMALS = np.arange(1000)


@pytest.fixture(params=[False, True], ids=["32 bits", "64 bits"])
def x64(request):
    with jax.enable_x64(request.param):
        yield request.param


def floors(share, count):
    share = jnp.asarray(share, jnp.result_type(float))
    return np.asarray(jax.jit(floor_share)(share, jnp.asarray(count, jnp.int32)))


def test_a_fraction_of_its_denominator_is_its_numerator(x64):
    np.testing.assert_array_equal(floors(PART / COUNT, COUNT), PART)
    # Which is not so of the product.
    dtype = np.float64 if x64 else np.float32
    product = (PART / COUNT).astype(dtype) * COUNT.astype(dtype)
    assert (np.floor(product) != PART).sum() > 10_000


def test_decimals_are_rounded_down_as_they_are_written(x64):
    count = np.arange(1, MOST + 1)
    share, number = np.meshgrid(DECIMALS, count)
    got = floors(share.ravel() / 1000, number.ravel())
    np.testing.assert_array_equal(got, (share * number // 1000).ravel())


def test_fractions_are_rounded_to_the_nearest_and_halves_up():
    count = np.arange(1, MOST + 1)
    for share in DECIMALS.tolist():
        got = round_share(share / 1000, count)
        np.testing.assert_array_equal(got, (2 * share * count + 1000) // 2000)
    for part, number in ((1, 3), (2, 3), (29, 58), (7, 12)):
        assert round_share(part / number, number) == part
    assert round_share(0.145, 100) == 15  # not `int(0.145 * 100 + 0.5)`
    assert round_share(np.float32(0.145), 100) == 15  # pyright: ignore


def test_splits_count_as_they_are_written():
    clients = {f"c{i}": {"x": np.zeros(100)} for i in range(100)}
    dataset = eqf.data.FederatedDataset.from_mapping(clients)
    for share, count in ((0.145, 15), (0.285, 29), (0.5, 50)):
        assert dataset.split_clients(share)[1].num_clients == count
        assert dataset.split_clients(count)[1].num_clients == count
        _, test = dataset.split_examples(share)
        assert set(test.client_sizes) == {count}
    with pytest.raises(ValueError, match="`held_out` is 0.004, .* no example"):
        dataset.split_examples(0.004)
