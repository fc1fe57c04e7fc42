"""Who takes part in a round."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd


@st.composite
def sized(draw):
    population = draw(st.integers(1, 40))
    return draw(st.integers(1, population)), population


def samplers(cohort_size, population, seed=0):
    weights = np.arange(1.0, population + 1)
    return [
        eqd.UniformSampler(cohort_size, seed=seed),
        eqd.WeightedSampler(cohort_size, weights, seed=seed),
        eqd.WeightedSampler(cohort_size, weights, replace=True, seed=seed),
        eqd.PoissonSampler(cohort_size / population, seed=seed),
        eqd.AllClients(seed=seed),
        eqd.ShuffledSampler(cohort_size, seed=seed),
    ]


@settings(deadline=None)
@given(sized(), st.integers(0, 50), st.integers(0, 2**64 - 1))
def test_every_sampler_is_pure_and_stays_in_the_population(sizes, round, seed):
    for sampler in samplers(*sizes, seed=seed):
        clients = sampler(round, sizes[1])
        np.testing.assert_array_equal(clients, sampler(round, sizes[1]))
        assert ((clients >= 0) & (clients < sizes[1])).all()
        assert len(clients) <= sampler.max_clients(sizes[1])
        if not getattr(sampler, "replace", False):
            assert len(np.unique(clients)) == len(clients)
        if hasattr(sampler, "cohort_size"):
            assert len(clients) == sizes[0]


def test_rounds_and_seeds_differ():
    for one, two in zip(samplers(10, 100), samplers(10, 100, seed=1), strict=True):
        if not isinstance(one, eqd.AllClients):
            assert not np.array_equal(one(0, 100), one(1, 100))
            assert not np.array_equal(one(0, 100), two(0, 100))


@pytest.mark.parametrize("cohort_size", [3, 15])  # by rejection, by permutation
def test_uniform_takes_everyone_equally_often(cohort_size):
    sampler = eqd.UniformSampler(cohort_size)
    counts = np.zeros(20)
    for round in range(4000):
        counts[sampler(round, 20)] += 1
    p = cohort_size / 20
    assert abs(counts - 4000 * p).max() < 5 * np.sqrt(4000 * p * (1 - p))


@pytest.mark.parametrize("cohort_size", [3, 15, 20, 30])
@pytest.mark.parametrize("most", [1, 2, 14, 40])
def test_who_is_wanted_under_a_clock_are_the_first_of_those_drawn(cohort_size, most):
    sampler = eqd.UniformSampler(cohort_size, seed=3)
    draws, rng = sampler.under_clock(), np.random.default_rng(0)
    for round in range(30):
        there = rng.random(40) < 0.6
        drawn, all_drawn = draws(round, there, most), sampler.among(round, there)
        np.testing.assert_array_equal(drawn[:most], all_drawn[:most])
        np.testing.assert_array_equal(draws(round, there, None), all_drawn)
        assert len(np.unique(drawn)) == len(drawn)


def test_poisson_takes_everyone_with_the_same_probability():
    sampler = eqd.PoissonSampler(0.3)
    rounds = [sampler(round, 20) for round in range(4000)]
    counts = np.bincount(np.concatenate(rounds), minlength=20)
    assert abs(counts - 1200).max() < 5 * np.sqrt(4000 * 0.3 * 0.7)
    sizes = np.array([len(clients) for clients in rounds])
    # The clients are independent: the variance is that of a binomial variable.
    np.testing.assert_allclose(sizes.var(), 20 * 0.3 * 0.7, rtol=0.1)


def test_poisson_takes_all_or_none():
    assert list(eqd.PoissonSampler(1.0)(0, 5)) == [0, 1, 2, 3, 4]
    assert len(eqd.PoissonSampler(1e-12)(0, 5)) == 0


def test_weights_are_odds():
    weights = np.array([1.0, 0.0, 3.0, 6.0])
    for replace in (False, True):
        sampler = eqd.WeightedSampler(1, weights, replace=replace)
        drawn = np.concatenate([sampler(round, 4) for round in range(4000)])
        shares = np.bincount(drawn, minlength=4) / 4000
        np.testing.assert_allclose(shares, weights / 10, atol=0.04)
        assert shares[1] == 0


@settings(deadline=None)
@given(sized())
def test_shuffled_visits_everyone_once_a_pass_and_no_one_twice_a_round(sizes):
    cohort_size, population = sizes
    sampler = eqd.ShuffledSampler(cohort_size, seed=3)
    rounds = [
        sampler(round, population) for round in range(-(-4 * population // cohort_size))
    ]
    assert all(len(np.unique(clients)) == cohort_size for clients in rounds)
    stream = np.concatenate(rounds)[: 4 * population].reshape(4, population)
    for clients in stream:
        assert sorted(clients) == list(range(population))


def test_shuffled_needs_no_earlier_round():
    late = eqd.ShuffledSampler(30, seed=9)(12345, 47)
    assert len(np.unique(late)) == 30
    np.testing.assert_array_equal(late, eqd.ShuffledSampler(30, seed=9)(12345, 47))


def test_uniform_is_that_of_all_time():
    assert eqd.UniformSampler(3, seed=7)(5, 1000).tolist() == [435, 472, 411]


def test_a_cohort_larger_than_the_population_is_refused():
    for sampler in (eqd.UniformSampler(5), eqd.ShuffledSampler(5)):
        with pytest.raises(
            ValueError, match="`cohort_size` is 5, but.* only 4 clients"
        ):
            sampler(0, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: eqd.UniformSampler(0), "`cohort_size` must be at least 1, got 0"),
        (lambda: eqd.UniformSampler(3, seed=-1), "`seed` must be between 0"),
        (lambda: eqd.ShuffledSampler(-3), "`cohort_size` must be at least 1"),
        (lambda: eqd.PoissonSampler(0.0), r"`rate` must be a probability in \(0, 1\]"),
        (lambda: eqd.PoissonSampler(1.5), "`rate` must be a probability"),
        (lambda: eqd.WeightedSampler(1, np.array([1.0, -2.0])), "-2.0 for client 1"),
        (
            lambda: eqd.WeightedSampler(1, np.array([1.0, np.nan])),
            "got nan for client 1",
        ),
        (lambda: eqd.WeightedSampler(2, np.array([1.0, 0.0])), "only 1 of the"),
        (
            lambda: eqd.WeightedSampler(1, np.array([1.0, 2.0]))(0, 3),
            "2 entries, but the population has 3",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(deadline=None, max_examples=40)
@given(sized(), st.booleans(), st.integers(0, 99))
def test_a_client_takes_part_as_rarely_as_it_is_said(sizes, reshuffle, seed):
    cohort_size, population = sizes
    sampler = eqd.ShuffledSampler(cohort_size, reshuffle=reshuffle, seed=seed)
    there = sampler.participation(population)
    rounds = [[] for _ in range(population)]
    for round in range(24):
        for client in sampler(round, population):
            rounds[client].append(round)
        assert max(map(len, rounds)) <= there.most_rounds(round + 1)
    gaps = [b - a for r in rounds for a, b in zip(r, r[1:], strict=False)]
    assert min(gaps, default=there.min_separation) >= there.min_separation
    if not reshuffle:
        assert there.min_separation == population // cohort_size
        assert gaps == [] or min(gaps) == there.min_separation


def test_truncated_poisson_sampling_keeps_a_random_part_of_too_many():
    plain, cut = (
        eqd.PoissonSampler(0.5, seed=2),
        eqd.PoissonSampler(0.5, most=5, seed=2),
    )
    times = np.zeros(10)
    for round in range(2000):
        all_of_them, drawn = plain(round, 10), cut(round, 10)
        assert set(drawn) <= set(all_of_them)
        assert len(drawn) == min(len(all_of_them), 5)
        times[drawn] += 1
    assert cut.max_clients(10) == 5
    assert cut.max_clients(3) == 3
    # No client is favoured: each is kept as often as any other.
    expected = times.sum() / 10
    assert np.abs(times - expected).max() < 4 * np.sqrt(expected)


def test_what_is_known_of_how_clients_are_drawn():
    poisson = eqd.PoissonSampler(0.1, most=8).participation(50)
    assert poisson == eqd.PoissonParticipation(0.1, 50, 8)
    assert poisson.expected == 5.0
    # A limit that cannot be reached is none.
    unlimited = eqd.PoissonParticipation(0.1, 50)
    assert eqd.PoissonSampler(0.1, most=50).participation(50) == unlimited
    everyone = eqd.OrderedParticipation(50, 50, min_separation=1)
    assert eqd.AllClients().participation(50) == everyone
    assert eqd.PoissonSampler(1.0).participation(50) == everyone
    fixed = eqd.UniformSampler(5).participation(50)
    assert fixed == eqd.FixedSizeParticipation(5, 50)
    assert eqd.WeightedSampler(1, np.ones(50)).participation(50) is None


def test_some_take_part_in_every_round_and_the_others_are_drawn():
    sampler = eqd.Including(eqd.UniformSampler(3, seed=4), [5, 0])
    assert sampler.max_clients(9) == 5
    assert sampler.seed == 4
    counts = np.zeros(9)
    for round in range(3000):
        clients = sampler(round, 9)
        assert len(np.unique(clients)) == 5
        counts[clients] += 1
    assert (counts[[0, 5]] == 3000).all()
    others = counts[[1, 2, 3, 4, 6, 7, 8]]
    p = 3 / 7
    assert abs(others - 3000 * p).max() < 5 * np.sqrt(3000 * p * (1 - p))
    # Of the others it is the sampler itself.
    drawn = np.array([1, 2, 3, 4, 6, 7, 8])[sampler.sampler(7, 7)]
    np.testing.assert_array_equal(sampler(7, 9), [0, 5, *drawn])
    assert sampler.participation(9) is None
