"""Clocks: devices, their networks, and when they are there."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import equifed.clock as eqt
from equifed.clock.draws import words
from equifed.data._random import CLOCK, generator, raw, uniforms


EVERYONE = np.arange(2000)
WORK = {"flops": 3e9, "bits_down": 2e6, "bits_up": 1e6}
QUANTITIES = [
    eqt.Constant(3),
    eqt.PerClient(np.linspace(1, 2, 2000)),
    eqt.Uniform(1, 2),
    eqt.Uniform(1, 2, each="round"),
    eqt.LogNormal(2, 0.5),
    eqt.Exponential(0.5, each="round"),
    eqt.Mixture([1, eqt.Uniform(2, 3, each="round")], shares=[0.3, 0.7]),
    eqt.Wave(eqt.LogNormal(1, 0.1), mean=1, amplitude=0.5, period=24),
]
AVAILABILITIES = [
    eqt.DailyAvailability(0.3),
    eqt.DailyAvailability(eqt.Uniform(0.1, 0.9), phase=0.7, day=1000.0),
    eqt.SlottedAvailability(0.4, slot=600),
    eqt.SlottedAvailability(
        eqt.Wave(eqt.Uniform(0.05, 1), mean=0.5, amplitude=0.4, period=24), slot=3600
    ),
]


def test_words_are_those_of_a_generator_however_they_are_drawn():
    seed, purpose = 2**63 + 5, CLOCK
    whole = raw(generator(seed, purpose, 7, 2**40), 2**16).reshape(-1, 2)
    small, many = np.array([0, 3, 1999]), np.arange(0, 2**15, 7)
    few = np.array([2**15 - 1, 5, 8])  # one too large to draw all up to it
    for clients in (small, many, few, many[:0]):
        drawn = words(seed, purpose, clients, 7, 2**40)
        np.testing.assert_array_equal(drawn, whole[clients])
        counts = np.where(clients % 3 == 0, 7, 9)
        drawn = words(seed, purpose, clients, counts, 2**40)
        mine = counts == 7
        np.testing.assert_array_equal(drawn[mine], whole[clients[mine]])


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda q: repr(q)[:40])
def test_a_client_has_its_numbers_in_any_company(quantity):
    draws = eqt.Draws(3, 99)
    all_ = quantity(draws, EVERYONE, 5)
    some = np.array([1500, 3, 77])
    np.testing.assert_array_equal(quantity(draws, some, 5), all_[some])
    counts = np.array([4, 5, 6])
    one_by_one = [quantity(draws, some[i : i + 1], int(counts[i]))[0] for i in range(3)]
    np.testing.assert_array_equal(quantity(draws, some, counts), one_by_one)
    again = quantity(draws, EVERYONE, 6)
    changes = getattr(quantity, "each", "client") == "round"
    if isinstance(quantity, eqt.Mixture | eqt.Wave):
        changes = True
    assert (again != all_).any() == changes


def test_distributions_are_what_they_say():
    draws, many = eqt.Draws(0, 99), np.arange(40_000)
    x = eqt.Uniform(2, 6)(draws, many, 0)
    assert (x.min() >= 2) & (x.max() <= 6)
    assert x.mean() == pytest.approx(4, abs=0.03)
    x = np.log(eqt.LogNormal(5, 0.7)(draws, many, 0))
    assert x.mean() == pytest.approx(math.log(5), abs=0.02)
    assert x.std() == pytest.approx(0.7, abs=0.02)
    assert eqt.Exponential(3)(draws, many, 0).mean() == pytest.approx(3, abs=0.08)
    x = eqt.Mixture([1, 2, 5], shares=[0.5, 0.3, 0.2])(draws, many, 0)
    shares = [(x == v).mean() for v in (1, 2, 5)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.01)
    # By hand, of one client: the draws of the generator that its place has.
    u = uniforms(generator(0, 99, 0, 0), 26)[24:]
    assert eqt.Uniform(2, 6)(draws, many, 0)[12] == 2 + 4 * u[0]
    u = uniforms(generator(0, 99, 8, 0), 26)[24:]
    z = np.sqrt(-2 * np.log(u[0])) * np.cos(2 * np.pi * u[1])
    drawn = eqt.LogNormal(5, 0.7, each="round")(draws, many, 7)[12]
    assert drawn == pytest.approx(5 * math.exp(0.7 * z), rel=1e-12)


@pytest.mark.parametrize("availability", AVAILABILITIES, ids=lambda q: repr(q)[:40])
def test_availability_agrees_with_itself(availability):
    system = eqt.SystemModel(availability=availability, seed=4)
    for time in (0.0, 12_345.6, 1e6):
        there = system.available(EVERYONE, time)
        until = system.until(EVERYONE, time)
        come = system.next_available(EVERYONE, time)
        assert there.any()
        assert not there.all()
        assert (until[~there] == time).all()
        assert (come[there] == time).all()
        here, gone = EVERYONE[there], EVERYONE[~there]
        for share in (0.01, 0.5, 0.99):
            stay = time + share * (until[there] - time)
            assert system.available(here, stay).all()
            wait = time + share * (come[~there] - time)
            assert not system.available(gone, wait).any()
        assert not system.available(here, until[there] + 1e-3).any()
        assert system.available(gone, come[~there] + 1e-3).all()


class Cycle(eqt.AbstractQuantity):
    """FLGo's `YC`, of clients with labels between a least and a greatest."""

    def __init__(self, least, most, labels, beta):
        self.bounds, self.beta = (least / (labels - 1), most / (labels - 1)), beta

    def __call__(self, draws, clients, count):
        now = (1 + np.asarray(count) % 24) / 24
        its = (now >= self.bounds[0][clients]) & (now <= self.bounds[1][clients])
        return self.beta * its + 1 - self.beta


SIZES = np.array([3, 10, 30, 7])
LEAST, MOST = np.array([0, 2, 5, 9]), np.array([4, 2, 9, 9])
KINDS = np.array([3, 1, 5, 1])
Q = np.array([0.2, 1.0, 0.6, 0.4])
# Of each of its modes the quantity of the docs' table, and the probability of its
# `default_simulator.py` of a client in a round.
FLGO = {
    "HOMO": (1 - 0.2, lambda i, r: 1 - 0.2),
    "MDF": (SIZES**0.7 / max(SIZES**0.7), lambda i, r: (SIZES[i] / 30) ** 0.7),
    "LDF": (SIZES**-0.7 / max(SIZES**-0.7), lambda i, r: (3 / SIZES[i]) ** 0.7),
    "YMF": (0.9 * LEAST / 9 + 0.1, lambda i, r: 0.9 * LEAST[i] / 9 + (1 - 0.9)),
    "YFF": (0.9 * KINDS / 10 + 0.1, lambda i, r: 0.9 * KINDS[i] / 10 + (1 - 0.9)),
    "YC": (
        Cycle(LEAST, MOST, 10, 0.8),
        lambda i, r: (
            0.8 * (LEAST[i] / 9 <= (1 + r % 24) / 24 <= MOST[i] / 9) + (1 - 0.8)
        ),
    ),
    "LN": (Q, lambda i, r: Q[i]),
    "SLN": (
        eqt.Wave(Q, mean=0.5, amplitude=0.4, period=24),
        lambda i, r: (0.4 * np.sin(r % 24 / 24 * 2 * np.pi) + 0.5) * Q[i],
    ),
}


@pytest.mark.parametrize("mode", FLGO)
def test_availability_has_the_probabilities_of_flgo(mode):
    quantity, probability = FLGO[mode]
    availability = eqt.SlottedAvailability(quantity, slot=60.0)
    system = eqt.SystemModel(availability=availability, seed=2)
    days = 400
    for i in range(4):
        times = 60.0 * (np.arange(24 * days) + 0.5)
        there = system.available(np.full(24 * days, i), times).reshape(days, 24)
        expected = np.array([probability(i, r) for r in range(24)])
        assert there.mean() == pytest.approx(expected.mean(), abs=0.025)
        np.testing.assert_allclose(there.mean(0), expected, atol=0.12)


def test_completeness_has_the_shares_of_flgo():
    planned, many = np.full(20_000, 20), np.arange(20_000)
    once, anew = eqt.Uniform(0, 1), eqt.Uniform(0, 1, each="round")
    some = eqt.Mixture([anew, 1], shares=[0.3, 0.7], each="round")
    for quantity, share in ((some, 0.3), (once, 1.0)):
        system = eqt.SystemModel(completeness=quantity)
        steps = system.steps(many, 0, planned)
        # As many as a whole number below that of the plan, of at least one.
        found = np.bincount(steps, minlength=21) / len(many)
        expected = np.array([0, 2, *[1] * 18, 0]) * share / 20
        expected[20] = 1 - share
        np.testing.assert_allclose(found, expected, atol=0.012)
        changes = (system.steps(many, 1, planned) != steps).any()
        assert changes == (quantity is some)
    # Between one and four epochs of five steps.
    system = eqt.SystemModel(completeness=eqt.Uniform(1 / 4, 1))
    steps = system.steps(many, 0, planned)
    assert (steps.min(), steps.max()) == (5, 19)


def test_who_never_comes_and_who_never_goes():
    ends = eqt.PerClient([0.0, 1.0])
    for availability in (
        eqt.DailyAvailability(ends),
        eqt.SlottedAvailability(ends, slot=10),
    ):
        system = eqt.SystemModel(availability=availability)
        np.testing.assert_array_equal(system.available([0, 1], 5.0), [False, True])
        np.testing.assert_array_equal(system.until([0, 1], 5.0), [5, np.inf])
        np.testing.assert_array_equal(system.next_available([0, 1], 5.0), [np.inf, 5])
    always = eqt.SystemModel()
    assert always.until([0], 5.0)[0] == np.inf


def test_the_time_of_a_round_is_the_sum_of_its_parts():
    system = eqt.SystemModel(
        speed=[1e9, 2e9], downlink=1e6, uplink=[1e6, 5e5], latency=0.5
    )
    times = system.times([0, 1], 3, **WORK)
    np.testing.assert_allclose(times.wait, [0.5, 0.5])
    np.testing.assert_allclose(times.download, [2, 2])
    np.testing.assert_allclose(times.compute, [3, 1.5])
    np.testing.assert_allclose(times.upload, [1, 2])
    np.testing.assert_allclose(times.total, [6.5, 6])
    np.testing.assert_array_equal(system.seconds([0, 1], 3, **WORK), times.total)
    # What is not given takes no time.
    np.testing.assert_array_equal(eqt.SystemModel().seconds([7], 0, **WORK), [0])


@pytest.mark.parametrize(
    "number",
    [np.float32(np.inf), np.array(np.inf), jnp.asarray(np.inf), [np.inf, np.inf]],
)
def test_infinity_is_that_of_any_library(number):
    assert (eqt.SystemModel(speed=number).seconds([0, 1], 0, **WORK) == 0).all()


def test_numbers_are_those_of_any_dtype():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32):
        system = eqt.SystemModel(speed=jnp.asarray([1, 2], dtype))
        times = system.times([1, 0], 0, flops=2, bits_down=0, bits_up=0)
        np.testing.assert_array_equal(times.compute, [1, 2])
    half = eqt.Mixture([1, 2], shares=np.array([0.5, 0.5], np.float32))
    assert half.shares == (0.5, 0.5)


def test_losses_have_their_probabilities_and_exclude_each_other():
    system = eqt.SystemModel(drops_before=0.2, drops_after=0.25)
    before, after = system.drops(EVERYONE, np.arange(2000) % 7)
    assert before.mean() == pytest.approx(0.2, abs=0.03)
    assert after.mean() == pytest.approx(0.8 * 0.25, abs=0.03)
    assert not (before & after).any()
    other, _ = system.drops(EVERYONE, 1)
    assert (other != before).any()


def test_completeness_is_a_share_of_the_planned_steps():
    system = eqt.SystemModel(completeness=[0.5, 0.01, 1, 0.3])
    steps = system.steps([0, 1, 2, 3], 0, np.array([9, 20, 4, 0]))
    np.testing.assert_array_equal(steps, [4, 1, 4, 0])


def test_the_quantities_of_a_system_do_not_share_their_randomness():
    rate = eqt.LogNormal(1, 1)
    system = eqt.SystemModel(speed=rate, downlink=rate, uplink=rate)
    times = system.times(EVERYONE, 0, flops=1, bits_down=1, bits_up=1)
    parts = np.log([times.download, times.compute, times.upload])
    np.testing.assert_allclose(np.corrcoef(parts), np.eye(3), atol=0.06)
    other = eqt.SystemModel(speed=rate, seed=1).seconds(EVERYONE, 0, **WORK)
    assert (other != eqt.SystemModel(speed=rate).seconds(EVERYONE, 0, **WORK)).all()
