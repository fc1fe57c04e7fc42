"""Truncated Poisson samples: what a client changes, and what is accounted for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom

import equifed as eqf
import equifed.privacy as eqp

from .test_privacy import aggregated


dpa = pytest.importorskip("dp_accounting")
DELTA = 1e-3


def plan(clients, rate, most, noise, num_rounds=1):
    sampler = eqf.data.PoissonSampler(rate, most=most)
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(1.0), noise_multiplier=noise, expected_clients=rate * clients
    )
    sizes = {"num_clients": clients, "num_rounds": num_rounds}
    return eqp.PrivacyPlan(sampler, mechanism, delta=DELTA, **sizes)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_one_client_more_moves_a_cohort_by_two_messages_at_most(data):
    clients, bound = 6, data.draw(st.floats(0.25, 4.0))
    most = data.draw(st.integers(1, clients + 1))
    seed = data.draw(st.integers(0, 99))
    sampler = eqf.data.PoissonSampler(0.7, most=most, seed=seed)
    kept = [int(i) for i in sampler(0, clients)]
    rng = np.random.default_rng(seed)
    messages = rng.normal(size=(clients + 1, 3)).astype(np.float32) * 10
    # Who is drawn beside them is let in, and one of a full cohort for it is not. The
    # worst is one who had sent the opposite.
    joined = [*kept, clients]
    if len(joined) > most:
        left = joined.pop(int(rng.integers(len(kept))))
        messages[left] = -messages[clients]
    assert len(joined) <= most
    mech = eqp.PrivateMean(
        eqp.FlatClip(bound), noise_multiplier=0.0, expected_clients=1.0
    )

    def total(who):  # All the others are not there.
        there = np.isin(np.arange(clients + 1), who)
        return np.asarray(aggregated(mech, {"a": messages}, there)[0].payload["a"])

    change = np.linalg.norm(total(joined) - total(kept))
    full = len(kept) == most
    assert change <= (2 if full else 1) * bound * (1 + 1e-4) + 1e-6
    if full:
        np.testing.assert_allclose(change, 2 * bound, rtol=1e-4)


def hidden(clients, rate, most, noise, epsilon):
    """The delta of one round at that epsilon, where one client sends 1 and all others
    -1: numerically, by all numbers of them that may be drawn."""
    x = np.linspace(-clients - 30 * noise, clients + 30 * noise, 100_001)
    without = with_it = np.zeros_like(x)

    def density(mean):
        z = (x - mean) / noise
        return np.exp(-0.5 * z**2) / (noise * math.sqrt(2 * math.pi))

    for others in range(clients):
        weight = binom.pmf(others, clients - 1, rate)
        alone = density(-min(others, most))
        joined = density(1 - min(others, most - 1))
        there = rate * min(1, most / (others + 1))
        without = without + weight * alone
        with_it = with_it + weight * (there * joined + (1 - there) * alone)
    pairs = ((without, with_it), (with_it, without))
    step = x[1] - x[0]
    return max(np.maximum(p - math.exp(epsilon) * q, 0).sum() * step for p, q in pairs)


@pytest.mark.parametrize(
    ("rate", "most", "noise"),
    ((0.9, 1, 1.0), (0.9, 2, 1.0), (0.5, 2, 2.0), (0.9, 5, 0.7), (0.5, 6, 1.0)),
)
def test_what_is_accounted_for_hides_the_worst_client(rate, most, noise):
    epsilon = plan(6, rate, most, noise).epsilon()
    assert hidden(6, rate, most, noise, epsilon) <= DELTA


def test_as_if_nobody_were_left_out_it_would_not():
    # Of a full cohort a client takes the place of another: twice as large a change.
    rate, most, noise = 0.9, 1, 1.0
    plain = plan(6, rate, None, noise).epsilon()
    assert hidden(6, rate, most, noise, plain) > 5 * DELTA


def library(event, num_rounds):
    accountant = dpa.pld.PLDAccountant(value_discretization_interval=1e-3)
    return accountant.compose(event, num_rounds).get_epsilon(DELTA)


@pytest.mark.parametrize("rounds", (1, 4))
def test_a_limit_that_the_population_reaches_or_not(rounds):
    # With the client there are six: a limit of six leaves nobody out, one of five may.
    truncated = dpa.TruncatedSubsampledGaussianDpEvent
    epsilons = {}
    for most in (5, 6, 7):
        epsilons[most] = plan(6, 0.8, most, 1.0, rounds).epsilon()
        theirs = library(truncated(6, 0.8, most, 1.0), rounds)
        np.testing.assert_allclose(epsilons[most], theirs, rtol=1e-9)
    never = plan(6, 0.8, None, 1.0, rounds).epsilon()
    assert epsilons[5] > 1.2 * never
    assert epsilons[6] == epsilons[7] == never


def test_the_divisor_is_that_of_all_who_are_drawn():
    # A constant, which tells nothing: that of the draw before anyone is left out.
    made = plan(6, 0.5, 2, 1.0)
    assert made.participation.expected == 3.0
    few = eqf.data.PoissonSampler(0.5, most=2)
    drawn = np.mean([len(few(r, 6)) for r in range(500)])
    exact = sum(min(k, 2) * binom.pmf(k, 6, 0.5) for k in range(7))
    np.testing.assert_allclose(drawn, exact, rtol=0.05)
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(1.0), noise_multiplier=1.0, expected_clients=exact
    )
    sizes = {"num_clients": 6, "num_rounds": 1, "delta": DELTA}
    with pytest.raises(ValueError, match="3 of the 6 clients are drawn .* before any"):
        eqp.PrivacyPlan(few, mechanism, **sizes)
