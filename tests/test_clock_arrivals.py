"""Asynchronous rounds under a clock, against a loop in plain Python."""

import math
import threading
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.clock as eqt
import equifed.data as eqd
import equifed.privacy as eqp
from equifed import testing
from equifed.data._random import generator, permutation, PLACE

from .shared import line_loss


BATCHING = eqd.Epochs(1, batch_size=2)
DATASET = testing.ragged_clients((5, 3, 0, 8, 12, 7, 2, 9))
WORK = eqt.Work(flops=10.0, bits_down=100.0, bits_up=50.0)
RATES = {
    "speed": eqt.LogNormal(10.0, 1.0),
    "downlink": eqt.LogNormal(100.0, 0.5, each="round"),
    "uplink": eqt.Uniform(20.0, 80.0),
    "latency": 0.25,
}
LOST = {"drops_before": 0.2, "drops_after": 0.2}
DAYS = {"availability": eqt.DailyAvailability(0.5, day=40.0)}
CLOCKS = {
    "plain": (RATES, {}),
    "one by one": (RATES, {"buffer_size": 1}),
    "full": (RATES, {"buffer_size": 4}),
    "stale": (RATES, {"max_staleness": 1}),
    "losses": (RATES | LOST, {"max_staleness": 2}),
    "days": (RATES | LOST | DAYS, {}),
    "less": (RATES | {"completeness": eqt.Uniform(0, 1, each="round")}, {}),
    "limit": (RATES, {"time_limit": 6.0}),
    "at once": ({}, {}),
}
KEY = jr.key(0)
SGD = optax.sgd(0.1)
FEDBUFF = eqf.FedBuff(line_loss, SGD, BATCHING, max_staleness=4)


def clock(name):
    system, options = CLOCKS[name]
    model = eqt.SystemModel(**system, seed=3)
    return eqt.AsynchronousClock(model, WORK, **{"buffer_size": 2, **options})


def loader(name="losses", **kwargs):
    sampler = eqd.UniformSampler(4, seed=1)
    return eqd.Loader(DATASET, sampler, BATCHING, clock=clock(name), **kwargs)


def flight(it, i, number, start, planned):
    """When client i is back that was sent the model, or lost, and with what steps."""
    one = np.array([i])
    steps = int(it.system.steps(one, number, np.array([planned]))[0])
    costs = {"bits_down": WORK.bits_down, "bits_up": WORK.bits_up}
    parts = it.system.times(one, number, flops=WORK.flops * steps, **costs)
    wait, down, compute, up = (float(x[0]) for x in parts)
    if it.time_limit is not None:
        each = compute / steps
        fit = math.floor((it.time_limit - wait - down - up) / each)
        steps = max(1, min(steps, fit))
        compute = each * steps
    before, after = (bool(x[0]) for x in it.system.drops(one, number))
    end, lost = wait + down + compute + up, False
    if before:
        end, lost = wait + down, True
    elif after:
        end, lost = wait + down + compute, True
    end, leaves = start + end, float(it.system.until(one, start)[0])
    return min(end, leaves), lost or leaves < end, steps


def by_hand(name, num_rounds):
    """The events, one after the other."""
    it, sampler = clock(name), eqd.UniformSampler(4, seed=1)
    planned = BATCHING.num_steps(DATASET.client_sizes)
    now, version, draws, made = 0.0, 0, 0, 0
    flying, buffer, flights, found = [], [], np.zeros(8, int), []
    sent = lost_so_far = stale = 0

    def send():
        nonlocal draws, made, sent
        places = 4 - len(flying)
        while places > 0:
            away = {f[2] for f in flying} | {f[2] for f in buffer}
            free = [i for i in range(8) if planned[i] > 0 and i not in away]
            there = [i for i in free if it.system.available([i], now)[0]]
            if not there:
                return free
            mask = np.isin(np.arange(8), there)
            drawn = sampler.among(draws, mask)
            if len(drawn) == len(there):
                order = permutation(generator(1, PLACE, draws), len(there))
                drawn = drawn[order]
            for i in drawn[:places].tolist():
                end, lost, steps = flight(it, i, int(flights[i]), now, int(planned[i]))
                flying.append((end, made, i, version, steps, lost))
                flights[i] += 1
                made += 1
                sent += 1
                places -= 1
            draws += 1
        return []

    while len(found) < num_rounds:
        free = send()
        comes = min(
            (float(it.system.next_available([i], now)[0]) for i in free),
            default=math.inf,
        )
        if comes < min((end for end, *_ in flying), default=math.inf):
            now = comes
            continue
        first = min(flying)
        flying.remove(first)
        now, _, i, began, steps, lost = first
        age = version - began
        if lost:
            lost_so_far += 1
        elif it.max_staleness is not None and age > it.max_staleness:
            stale += 1
        else:
            buffer.append(first)
        if len(buffer) == it.buffer_size:
            found.append(
                {
                    "clients": [f[2] for f in buffer],
                    "steps": [f[4] for f in buffer],
                    "ages": [version - f[3] for f in buffer],
                    "seconds": now,
                    "drawn": sent,
                    "lost": lost_so_far,
                    "stale": stale,
                    "partial": sum(f[4] < planned[f[2]] for f in buffer),
                    "bits_wasted": 100 * lost_so_far + 150 * stale,
                }
            )
            version, buffer, sent, lost_so_far, stale = version + 1, [], 0, 0, 0
    return found


def seated(cohort):
    """Who sits in a cohort, by number: the steps, and the staleness."""
    c = cohort
    slots = (c.index, c.stop - c.start, c.info["staleness"])
    rows = zip(*(np.asarray(x).ravel().tolist() for x in slots), strict=True)
    return {i: rest for i, *rest in rows if i < 8}


@pytest.mark.parametrize("name", CLOCKS)
def test_rounds_are_those_of_a_plain_loop(name):
    made, expected = loader(name), by_hand(name, 15)
    for r, row in enumerate(expected):
        report = made.report(r)
        for key in ("drawn", "lost", "stale", "partial", "bits_wasted"):
            assert report[key] == row[key], (r, key)
        assert report["seconds"] == pytest.approx(row["seconds"])
        each = zip(row["steps"], row["ages"], strict=True)
        wanted = dict(zip(row["clients"], map(list, each), strict=True))
        assert seated(made(r)) == wanted
        assert len(wanted) == clock(name).buffer_size  # Nobody is twice in it.
    total = {k: sum(r[k] for r in expected) for k in ("lost", "stale", "partial")}
    assert (total["lost"] > 0) == (name in ("losses", "days"))
    assert (total["stale"] > 0) == (name in ("stale", "losses"))
    assert (total["partial"] > 0) == (name in ("less", "limit"))
    if name != "at once":
        assert max(max(r["ages"]) for r in expected) > (name != "stale")


def test_a_round_does_not_depend_on_where_one_starts():
    straight = {r: seated(c) for r, c in loader().cohorts(0, 6)}
    late = loader()
    assert {r: seated(c) for r, c in late.cohorts(4, 6)} == {
        r: straight[r] for r in (4, 5)
    }
    assert late.report(1) == loader().report(1)


def train(num_rounds=6, *, executor=None, mesh=None, **kwargs):
    return eqf.train(
        FEDBUFF,
        testing.Linear(),
        loader(mesh=mesh),
        num_rounds=num_rounds,
        key=KEY,
        executor=eqf.Executor() if executor is None else executor,
        **kwargs,
    )


def same(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_history_has_time_and_staleness():
    solution = train()
    for r, row in enumerate(solution.history):
        report = loader().report(r)
        assert {k: row[k] for k in report} == dict(report)
        ages = [age for _, age in seated(loader()(r)).values()]
        assert row["staleness"] == pytest.approx(np.mean(ages))
        assert row["clients"] == 2
    assert max(row["staleness"] for row in solution.history) > 0


def test_a_resumed_training_has_the_same_bits(tmp_path):
    straight = train(checkpointer=eqf.Checkpointer(tmp_path / "a"))
    train(3, checkpointer=eqf.Checkpointer(tmp_path / "b"))
    resumed = train(checkpointer=eqf.Checkpointer(tmp_path / "b"))
    same(resumed.state, straight.state)
    assert resumed.history == straight.history


def test_several_rounds_in_a_call_are_the_same_rounds():
    one, several = train(), train(rounds_per_call=3)
    for x, y in zip(
        jax.tree.leaves(one.state), jax.tree.leaves(several.state), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    for row, other in zip(one.history, several.history, strict=True):
        for name in ("seconds", "staleness", "lost", "clients", "bits_down"):
            assert row[name] == other[name]


def test_the_same_bits_on_any_devices():
    ordered = eqf.Executor(ordered=True)
    alone = train(3, executor=ordered)
    # A device has its own program, and of two there is a seat on each.
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh(
        (2,), ("clients",), axis_types=kinds, devices=jax.devices()[:2]
    )
    shared = train(3, executor=ordered, mesh=mesh)
    same(shared.model, alone.model)
    same(shared.state.server.old, alone.state.server.old)


def test_what_the_clock_lets_through_the_algorithm_has():
    """With one `max_staleness` for both nothing is left to drop."""
    it = loader("losses")
    algorithm = eqf.FedBuff(line_loss, SGD, BATCHING, max_staleness=2)
    state = algorithm.init(testing.Linear(), num_clients=8)
    for r in range(8):
        state, metrics = algorithm.round(state, it(r), key=KEY)
        assert float(metrics["too_stale"]) == 0
        assert float(metrics["clients"]) == 2


def test_delays_and_rates_are_swept_over():
    """What a clock says is data: tapes whose clients are as many are one program."""
    clocks = [
        eqt.AsynchronousClock(
            eqt.SystemModel(speed=eqt.LogNormal(10.0, sigma), seed=3),
            WORK,
            buffer_size=2,
        )
        for sigma in (0.1, 2.0)
    ]
    steps = eqd.Steps(2, batch_size=2)
    sampler = eqd.UniformSampler(4, seed=1)
    tapes = [
        [eqd.Loader(DATASET, sampler, steps, clock=c)(r) for r in range(4)]
        for c in clocks
    ]

    def final(cohorts, rate):
        algorithm = eqf.FedBuff(line_loss, optax.sgd(rate), steps, max_staleness=8)
        state = algorithm.init(testing.Linear(), num_clients=8)
        for cohort in cohorts:
            state, _ = algorithm.round(state, cohort, key=KEY)
        return state.model.weight

    rates = jnp.array([0.1, 0.05])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tapes)
    together = eqx.filter_vmap(final)(stacked, rates)
    for got, tape, rate in zip(together, tapes, rates, strict=True):
        np.testing.assert_allclose(got, final(tape, rate), rtol=1e-4, atol=1e-6)
    assert any(seated(x) != seated(y) for x, y in zip(*tapes, strict=True))


def test_info_of_ones_own_stays():
    names = lambda round, clients: {"number": clients.astype(np.int32)}  # noqa: E731
    cohort = loader(info=names)(3)
    assert set(cohort.info) == {"number", "staleness"}
    there = np.asarray(cohort.index) < 8
    np.testing.assert_array_equal(
        np.asarray(cohort.info["number"])[there], np.asarray(cohort.index)[there]
    )


def test_streamed_is_resident():
    for r in range(3):
        assert seated(loader(resident=False)(r)) == seated(loader()(r))


@pytest.mark.parametrize("concurrency", (4, 8))
def test_equals_take_part_about_as_often(concurrency):
    """Also where there are fewer left than the sampler would draw."""
    system = eqt.SystemModel(latency=eqt.Exponential(1.0, each="round"))
    it = eqt.AsynchronousClock(system, WORK, buffer_size=2)
    dataset = testing.ragged_clients((4,) * 10)
    sampler = eqd.UniformSampler(concurrency, seed=0)
    made = eqd.Loader(dataset, sampler, BATCHING, clock=it)
    counts = np.zeros(10)
    for r in range(200):
        counts[[i for i in np.asarray(made(r).index).ravel() if i < 10]] += 1
    assert counts.min() > 0.6 * counts.mean()


def test_who_comes_back_is_there():
    """Whatever rounding does to the moment at which a stretch begins."""
    times = np.linspace(0.0, 1e6, 400)
    clients = np.arange(400)
    for availability in (
        eqt.DailyAvailability(0.3, day=40.0),
        eqt.SlottedAvailability(0.3, slot=0.7),
    ):
        system = eqt.SystemModel(availability=availability)
        comes = system.next_available(clients, times)
        assert (comes >= times).all()
        assert system.available(clients, comes).all()
        goes = system.until(clients, comes)
        assert (goes > comes).all()
        assert not system.available(clients, goes).any()


def test_a_private_buffer_of_secure_aggregation():
    """The messages are integers, summed in a modulus: the same bits on any devices."""
    mean = eqp.ModularMean(step=1e-3, num_bits=20, expected_clients=2.0)
    algorithm = eqf.FedBuff(line_loss, SGD, BATCHING, max_staleness=4, aggregator=mean)
    plain = eqf.FedBuff(line_loss, SGD, BATCHING, max_staleness=4)

    def run(algorithm, mesh=None):
        it = loader("plain", mesh=mesh)
        return eqf.train(algorithm, testing.Linear(), it, num_rounds=5, key=KEY)

    one, expected = run(algorithm), run(plain)
    assert all(row["wrapped"] == 0 for row in one.history)
    np.testing.assert_allclose(one.model.weight, expected.model.weight, atol=5e-3)
    assert max(row["staleness"] for row in one.history) > 0


def test_a_private_mean_clips_what_is_weighted():
    mean = eqp.PrivateMean(
        eqp.FlatClip(1e-3), noise_multiplier=0.5, expected_clients=2.0
    )
    algorithm = eqf.FedBuff(line_loss, SGD, BATCHING, max_staleness=4, aggregator=mean)
    it = loader("plain")
    solution = eqf.train(algorithm, testing.Linear(), it, num_rounds=4, key=KEY)
    moved = np.asarray(solution.model.weight) - np.asarray(testing.Linear().weight)
    assert 0 < np.linalg.norm(moved) < 4 * (1e-3 + 5 * 0.5e-3)


def test_no_plan_accounts_for_it():
    """Who is in a buffer depends on who was under way, and for how long."""
    sampler = eqd.UniformSampler(4, seed=1)
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(1.0), noise_multiplier=1.0, expected_clients=4.0
    )
    plan = eqp.PrivacyPlan(sampler, mechanism, num_clients=8, num_rounds=6, delta=1e-3)
    with pytest.raises(ValueError, match="asynchronous buffer"):
        train(privacy=plan)


def test_who_waits_for_a_place_is_not_counted_as_sent_out():
    """One place is free at a time: of those that a sampler draws one is sent out, and
    only its turn is over."""

    def always(round, clients):
        return np.ones(len(clients), bool)

    dataset = testing.ragged_clients((4,) * 8)
    it = eqd.Loader(
        *(dataset, eqd.RoundRobinSampler(3, always, seed=0), BATCHING),
        clock=eqt.AsynchronousClock(
            eqt.SystemModel(speed=eqt.Uniform(1.0, 1.1)), WORK, buffer_size=1
        ),
    )
    drawn = [int(np.asarray(it(r).index).min()) for r in range(40)]
    assert np.ptp(np.bincount(drawn, minlength=8)) <= 1


def test_who_is_drawn_twice_is_under_way_once():
    """Three clients of equal speed: no buffer of two holds one of them twice."""
    dataset = testing.ragged_clients((4, 4, 4))
    it = eqd.Loader(
        *(dataset, eqd.WeightedSampler(3, [1.0, 1.0, 1.0], replace=True), BATCHING),
        clock=eqt.AsynchronousClock(eqt.SystemModel(speed=1.0), WORK, buffer_size=2),
    )
    for r in range(40):
        assert len(set(np.asarray(it(r).index).ravel().tolist())) == 2


def test_a_round_that_was_made_is_told_while_a_later_one_is():
    """The training reports its round, and does not wait for the thread that is at
    work on the next one."""
    going_on = threading.Event()

    class Slow(eqd.AbstractClock):
        @property
        def independent(self):
            return False

        def check(self, population):
            pass

        def rounds(self, population):
            one = np.array([0]), np.array([1]), {"seconds": 1.0}
            yield eqd.ClockedRound(*one)
            assert going_on.wait(60)
            yield eqd.ClockedRound(*one)

    it = eqd.Loader(DATASET, eqd.UniformSampler(4), BATCHING, clock=Slow())
    told, later = [it.report(0)], threading.Thread(target=it.report, args=(1,))
    later.start()
    again = threading.Thread(target=lambda: told.append(it.report(0)), daemon=True)
    again.start()
    again.join(20)
    going_on.set()
    later.join()
    assert told == [{"seconds": 1.0}] * 2


def under_way(algorithm, **options):
    clock = eqt.AsynchronousClock(eqt.SystemModel(), WORK, buffer_size=2, **options)
    it = eqd.Loader(DATASET, eqd.UniformSampler(4), BATCHING, clock=clock)
    eqf.train(algorithm, testing.Linear(), it, num_rounds=1, key=KEY)


AROUND = {
    "alone": lambda algorithm: algorithm,
    "whose step is shown": eqf.Diagnose,
    "over rounds": lambda algorithm: eqf.OverRounds(lambda t: algorithm),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_clock_and_an_algorithm_that_do_not_fit_are_refused(name):
    around = AROUND[name]
    with pytest.raises(ValueError, match="`max_staleness` of 5 .*keeps 4 old models"):
        under_way(around(FEDBUFF), max_staleness=5)
    fedavg = around(eqf.FedAvg(line_loss, SGD, BATCHING))
    trains = f"`{type(fedavg).__name__}` trains every client from the newest"
    with pytest.raises(ValueError, match=trains):
        under_way(fedavg)


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: eqf.PowerOfChoice(x, 2),
        lambda x: eqf.Diagnose(eqf.Oort(x, 2, preferred_seconds=None)),
    ],
    ids=["PowerOfChoice", "Oort"],
)
def test_nobody_is_asked_before_a_round_whose_messages_are_there(choose):
    with pytest.raises(ValueError, match="asks clients by the newest model before"):
        under_way(choose(FEDBUFF))


class OwnStep(eqf.AbstractAlgorithm):
    """One of the user's own, that may look at the staleness itself."""

    algorithm: eqf.FedAvg
    loss: Callable
    batching: eqd.AbstractBatching

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        return self.algorithm.step(state, clients, key=key)

    def model(self, state):
        return self.algorithm.model(state)


def test_a_step_of_ones_own_may_look_at_the_staleness_itself():
    fedavg = eqf.FedAvg(line_loss, SGD, BATCHING)
    under_way(OwnStep(algorithm=fedavg, loss=fedavg.loss, batching=BATCHING))


@pytest.mark.parametrize("waits", [True, False])
def test_a_client_that_is_never_there_is_never_drawn(waits):
    system = eqt.SystemModel(
        availability=eqt.DailyAvailability([0.0] + [0.5] * 7, day=40.0), **RATES
    )
    it = eqt.SynchronousClock(system, WORK)
    if not waits:
        it = eqt.AsynchronousClock(system, WORK, buffer_size=2)
    made = eqd.Loader(DATASET, eqd.UniformSampler(4, seed=1), BATCHING, clock=it)
    seen = [i for r in range(40) for i in np.asarray(made(r).index).ravel().tolist()]
    sent = {1, 3, 4, 5, 6, 7} | ({2} if waits else set())  # who has no examples
    assert {i for i in seen if i < 8} == sent


def test_a_buffer_that_too_few_are_there_to_fill_is_said():
    alone = [[(0.0, 10.0)], *[[]] * 7]
    trace = eqt.AvailabilityTrace(alone, period=10.0)
    system = eqt.SystemModel(availability=trace, **RATES)
    it = eqt.AsynchronousClock(system, WORK, buffer_size=2)
    made = eqd.Loader(DATASET, eqd.UniformSampler(4, seed=1), BATCHING, clock=it)
    with pytest.raises(ValueError, match="has 1 of 2 messages, and no client without"):
        made(0)
