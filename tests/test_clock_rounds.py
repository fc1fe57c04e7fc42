"""Synchronous rounds under a clock, against a loop in plain Python."""

import functools
import math
import re

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
from equifed.clock.operations import flops_of
from equifed.clock.tries import tries, whole

from .shared import compilations, line_loss


SGD = optax.sgd(0.1)
BATCHING = eqd.Epochs(1, batch_size=2)
DATASET = testing.ragged_clients((5, 3, 0, 8, 12, 7, 2, 9))
SIZES = DATASET.client_sizes
WORK = eqt.Work(flops=10.0, bits_down=100.0, bits_up=50.0)
RATES = {
    "speed": eqt.LogNormal(10.0, 1.0),
    "downlink": eqt.LogNormal(100.0, 0.5, each="round"),
    "uplink": eqt.Uniform(20.0, 80.0),
    "latency": 0.25,
}
LOST = {"drops_before": 0.2, "drops_after": 0.2}
DAYS = {"availability": eqt.DailyAvailability(0.5, day=40.0)}


def timely(round, times):
    """By when the first three have been able to take half of their steps, and more
    time in each round."""
    return np.sort(times.total - times.compute / 2)[:3][-1] + round / 8


CLOCKS = {
    "plain": (RATES, {}),
    "deadline": (RATES, {"deadline": 6.0}),
    "partial": (RATES, {"deadline": 6.0, "stragglers": "partial"}),
    "goal": (RATES, {"goal": 3}),
    "waits": (RATES | LOST, {}),
    "losses": (RATES | LOST, {"deadline": 8.0, "goal": 3}),
    "days": (RATES | LOST | DAYS, {"deadline": 8.0}),
    "adapted": (RATES, {"deadline": timely}),
    "timely": (RATES | LOST, {"deadline": timely, "stragglers": "partial"}),
    "timely days": (RATES | DAYS, {"deadline": timely, "stragglers": "partial"}),
    "less": (RATES | {"completeness": eqt.Uniform(0, 1, each="round")}, {}),
}
KEY = jr.key(0)
FEDAVG = eqf.FedAvg(line_loss, SGD, BATCHING)


def clock(name):
    system, options = CLOCKS[name]
    return eqt.SynchronousClock(eqt.SystemModel(**system, seed=3), WORK, **options)


def loader(name, **kwargs):
    sampler = eqd.UniformSampler(5, seed=1)
    return eqd.Loader(DATASET, sampler, BATCHING, clock=clock(name), **kwargs)


def by_hand(name, num_rounds):
    """The clock, client by client."""
    it, sampler = clock(name), eqd.UniformSampler(5, seed=1)
    system, goal = it.system, it.goal or 99
    now, found = 0.0, []
    for r in range(num_rounds):
        there = [i for i in range(8) if system.available([i], now)[0]]
        if not there:
            now = min(system.next_available([i], now)[0] for i in range(8))
            there = [i for i in range(8) if system.available([i], now)[0]]
        drawn = there if len(there) <= 5 else np.array(there)[sampler(r, len(there))]
        back, lost, steps, each = {}, {}, {}, {}
        for i in map(int, drawn):
            planned = math.ceil(SIZES[i] / 2)
            steps[i] = int(system.steps([i], r, np.array([planned]))[0])
            one = system.times([i], r, flops=10.0, bits_down=100.0, bits_up=50.0)
            each[i] = [float(x[0]) for x in one]
        if not callable(it.deadline):
            end = it.deadline or math.inf
        else:
            halves = sorted(
                w + d + steps[i] * s / 2 + u for i, (w, d, s, u) in each.items()
            )
            end = halves[:3][-1] + r / 8 if halves else math.inf
        for i, (wait, down, step, up) in each.items():
            if it.stragglers == "partial":
                while steps[i] > 1 and wait + down + steps[i] * step + up > end + 1e-9:
                    steps[i] -= 1
            total = wait + down + steps[i] * step + up
            drops = system.drops([i], r)
            gone = math.inf
            if drops.after[0]:
                gone = total - up
            if drops.before[0]:
                gone = wait + down
            gone = min(gone, system.until([i], now)[0] - now)
            if gone < total:
                lost[i] = gone
            else:
                back[i] = total
        order = sorted(back, key=back.__getitem__)
        in_time = [i for i in order if back[i] <= end + 1e-9][:goal]
        if len(in_time) == goal:
            length = back[in_time[-1]]
        else:
            every = [*back.values(), *lost.values()]
            length = max((min(x, end) for x in every), default=0.0)
        now += length
        short = sum(steps[i] < math.ceil(SIZES[i] / 2) for i in in_time)
        noticed = sum(x <= length for x in lost.values())
        late = len(drawn) - len(in_time) - noticed
        counts = (len(drawn), late, noticed, short)
        found.append((now, {i: steps[i] for i in in_time}, counts))
    return found


def cohort_of(cohort):
    """The steps of each client."""
    index, steps = np.asarray(cohort.index), np.asarray(cohort.stop - cohort.start)
    there = index != np.iinfo(np.int32).max
    return dict(zip(index[there].tolist(), steps[there].tolist(), strict=True))


@pytest.mark.parametrize("name", CLOCKS)
def test_rounds_are_those_of_a_loop_by_hand(name):
    under = loader(name)
    expected = by_hand(name, 25)
    for r, (seconds, steps, counts) in enumerate(expected):
        report = under.report(r)
        assert cohort_of(under(r)) == steps
        assert report["seconds"] == pytest.approx(seconds, rel=1e-9)
        assert tuple(report[n] for n in ("drawn", "late", "lost", "partial")) == counts
        assert report["bits_wasted"] == 100 * (counts[0] - len(steps))
    whole = np.array([counts for *_, counts in expected])
    interesting = {
        "deadline": 1,
        "goal": 1,
        "waits": 2,
        "losses": 2,
        "days": 2,
        "partial": 3,
        "adapted": 1,
        "timely": 3,
        "timely days": 3,
    }
    if name in interesting:
        assert whole[:, interesting[name]].sum() > 0


def test_without_waiting_rounds_are_those_without_a_clock():
    under = loader("plain")
    plain = eqd.Loader(DATASET, eqd.UniformSampler(5, seed=1), BATCHING)
    for r in range(5):
        for x, y in zip(
            jax.tree.leaves(under(r)), jax.tree.leaves(plain(r)), strict=True
        ):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["days", "partial", "timely"])
def test_a_cohort_does_not_depend_on_the_start(name):
    first = [cohort_of(c) for _, c in loader(name).cohorts(0, 12)]
    last = [cohort_of(c) for _, c in loader(name).cohorts(9, 12)]
    assert first[9:] == last
    under = loader(name)
    seconds = [under.report(r)["seconds"] for r in (11, 3, 11)]
    assert seconds[0] == seconds[2] > seconds[1]


def trained(name, num_rounds=8, **kwargs):
    return eqf.train(
        FEDAVG,
        testing.Linear(),
        loader(name, **kwargs.pop("loading", {})),
        num_rounds=num_rounds,
        key=KEY,
        **kwargs,
    )


@pytest.fixture(scope="module")
def straight():
    return trained("losses")


def same(a, b):
    assert a.history == b.history
    for x, y in zip(jax.tree.leaves(a.model), jax.tree.leaves(b.model), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_history_has_the_time(straight):
    expected = [seconds for seconds, *_ in by_hand("losses", 8)]
    np.testing.assert_allclose([r["seconds"] for r in straight.history], expected)
    assert [r["clients"] for r in straight.history] == [
        sum(steps > 0 for steps in found.values())
        for _, found, _ in by_hand("losses", 8)
    ]


def test_a_resume_goes_on_to_the_same_bits(straight, tmp_path):
    with eqf.Checkpointer(tmp_path, every=3) as saves:
        trained("losses", num_rounds=5, checkpointer=saves)
    with eqf.Checkpointer(tmp_path, every=3) as saves:
        same(trained("losses", checkpointer=saves), straight)
    for other in ("goal", "timely"):
        with pytest.raises(ValueError, match="clock"):
            with eqf.Checkpointer(tmp_path, every=3) as saves:
                trained(other, checkpointer=saves)


def test_several_rounds_in_a_call_and_a_stream_report_the_same(straight):
    several = trained("losses", rounds_per_call=3)
    assert several.history == straight.history
    streamed = trained("losses", loading={"resident": False})
    assert streamed.history == straight.history


def test_a_training_ends_at_a_time(straight):
    seconds = [row["seconds"] for row in straight.history]
    limit = (seconds[3] + seconds[4]) / 2
    stop = eqf.Target("seconds", limit, mode="max")
    ended = trained("losses", stop=stop, eval_every=1)
    assert ended.result == eqf.RESULTS.stopped
    assert [row["seconds"] for row in ended.history] == seconds[:5]


def test_rounds_and_sweeps_report_the_time(straight):
    seconds = [r["seconds"] for r in straight.history]
    state = FEDAVG.init(testing.Linear(), num_clients=8)
    calls = eqf.rounds(
        FEDAVG, state, loader("losses"), num_rounds=8, key=KEY, rounds_per_call=3
    )
    found = np.concatenate([metrics["seconds"] for _, metrics in calls])
    np.testing.assert_array_equal(found, seconds)
    runs = eqf.sweep(
        {"FedAvg": FEDAVG},
        lambda key: testing.Linear(),
        loader("losses"),
        num_rounds=3,
        keys=jr.split(KEY, 2),
    )
    for run in runs["FedAvg"]:
        assert [row["seconds"] for row in run.history] == seconds[:3]


def test_a_rejected_round_takes_its_time():
    # A client's numbers overflow: rounds that it is in change nothing.
    expected, rejected = by_hand("goal", 12), 0
    often = [sum(i in steps for _, steps, _ in expected) for i in range(8)]
    who = next(i for i in range(8) if 0 < often[i] < 12 and SIZES[i] > 0)
    clients = {x: DATASET.client(i) for i, x in enumerate(DATASET.client_ids)}
    name = DATASET.client_ids[who]
    clients[name] = clients[name] | {"y": np.full(SIZES[who], 3e38, np.float32)}
    data = eqd.FederatedDataset.from_mapping(clients)
    sampler = eqd.UniformSampler(5, seed=1)
    under = eqd.Loader(data, sampler, BATCHING, clock=clock("goal"))
    state = FEDAVG.init(testing.Linear(), num_clients=8)
    pairs = eqf.rounds(FEDAVG, state, under, num_rounds=12, key=KEY)
    for (after, metrics), (seconds, steps, _) in zip(pairs, expected, strict=True):
        assert metrics["seconds"] == pytest.approx(seconds)
        bad = float(metrics["nonfinite_model"]) + float(metrics["nonfinite"]) > 0
        assert bad == (who in steps)
        rejected += int(bad)
        state = after
    assert 0 < rejected < 12
    assert int(state.round) == 12
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_a_deadline_that_nobody_meets_is_said():
    never = eqt.SynchronousClock(eqt.SystemModel(uplink=1.0), WORK, deadline=5.0)
    under = eqd.Loader(DATASET, eqd.UniformSampler(5), BATCHING, clock=never)
    with pytest.warns(UserWarning, match="of the 5 that were drawn none was in time"):
        out = eqf.train(FEDAVG, testing.Linear(), under, num_rounds=3, key=KEY)
    assert out.result == eqf.RESULTS.no_messages
    assert [row["seconds"] for row in out.history] == [5.0, 10.0, 15.0]
    assert [row["late"] for row in out.history] == [5, 5, 5]
    assert all(row["clients"] == 0 for row in out.history)
    start = jax.tree.leaves(eqx.filter(testing.Linear(), eqx.is_array))
    for x, y in zip(jax.tree.leaves(out.model), start, strict=True):
        np.testing.assert_array_equal(x, y)


def test_as_many_steps_as_fit_are_in_time():
    """Whatever rounding does: in tenths of a second it often fits exactly."""
    tenths = np.random.default_rng(0).integers(1, 20, (500, 4)) / 10
    ends, many = np.linspace(1, 20, 39), np.full(500, 1000)
    wait, one, down, up = tenths.T
    system = eqt.SystemModel(
        latency=wait, speed=1 / one, downlink=1 / down, uplink=1 / up
    )
    work = eqt.Work(flops=1, bits_down=1, bits_up=1)
    asked, exactly = whole(system, work, np.arange(500), 0, many), 0
    for end in ends:
        made = tries(system, asked, limit=end)
        able = wait + one + down + up < end
        assert (made.back[able] <= end).all()
        room = end - wait - down - up - made.steps * one
        assert (room[able] < one[able] - 1e-9).all()
        exactly += int((np.abs(room[able]) < 1e-9).sum())
    assert exactly > 100


def test_nobody_is_ever_there_again():
    away = eqt.SynchronousClock(
        eqt.SystemModel(availability=eqt.DailyAvailability(0.0)), WORK
    )
    under = eqd.Loader(DATASET, eqd.UniformSampler(5), BATCHING, clock=away)
    for _ in range(2):
        with pytest.raises(ValueError, match="No client is ever available again"):
            under(0)


def test_samplers_draw_from_those_that_are_there():
    there = np.array([True, False, True, True, False, False, True, True])
    sizes = np.array([0, 5, 1, 2, 3, 4, 5, 6])
    samplers = [
        eqd.UniformSampler(3),
        eqd.UniformSampler(7),
        eqd.WeightedSampler(3, sizes),
        eqd.WeightedSampler(7, sizes),
        eqd.WeightedSampler(5, sizes, replace=True),
        eqd.PoissonSampler(0.5),
        eqd.AllClients(),
        eqd.ShuffledSampler(4),
    ]
    for sampler in samplers:
        for r in range(20):
            drawn = sampler.among(r, there)
            assert there[drawn].all()
            assert len(drawn) <= sampler.max_clients(8)
            nobody = sampler.among(r, np.zeros(8, bool))
            assert len(nobody) == 0
    assert len(samplers[0].among(0, there)) == 3
    assert sorted(samplers[1].among(0, there)) == [0, 2, 3, 6, 7]
    one, counts = eqd.WeightedSampler(1, sizes), np.zeros(8)
    for r in range(3000):
        counts[one.among(r, there)] += 1
    np.testing.assert_allclose(counts / 3000, there * sizes / 14, atol=0.03)


def test_work_is_counted():
    dense = eqx.nn.Linear(30, 20, key=KEY)
    data = eqd.FederatedDataset.from_mapping(
        {f"{i}": {"x": np.ones((64, 30), np.float32)} for i in range(3)}
    )

    def loss(model, example, key):
        return jnp.sum(model(example["x"]) ** 2)

    batching = eqd.Epochs(1, batch_size=64)
    fedavg = eqf.FedAvg(loss, SGD, batching)
    under = eqd.Loader(data, eqd.AllClients(), batching)
    work = eqt.Work.of(fedavg, dense, under)
    # Forward and the gradient of the matrix: two products of 2 * 64 * 30 * 20.
    products = 2 * 2 * 64 * 30 * 20
    assert products < work.flops < 1.3 * products
    numbers = 30 * 20 + 20
    assert work.bits_down == 32 * numbers
    out = eqf.train(fedavg, dense, under, num_rounds=1, key=KEY)
    assert out.history[0]["bits_up"] == 3 * work.bits_up
    assert out.history[0]["bits_down"] == 3 * work.bits_down
    # What was compiled for it is used again, but not for another form of the model.
    with compilations() as found:
        again = eqt.Work.of(eqf.FedAvg(loss, optax.sgd(0.2), batching), dense, under)
    assert found == []
    assert vars(again) == vars(work)
    with compilations() as found:
        other = eqt.Work.of(fedavg, eqx.nn.Linear(30, 40, key=KEY), under)
    assert len(found) > 0
    assert (other.bits_up, other.bits_down) == (2 * work.bits_up - 32, 32 * 31 * 40)


def as_written(body, carry, xs):
    """A scan, written out."""
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, _ = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
    return carry, None


@functools.cache
def flops_of_layers(scan, in_parts):
    """Of layers, at each of the places of a sequence, of parts of a batch."""
    data = eqd.FederatedDataset.from_mapping({"0": {"x": np.ones((8, 5, 20), "f4")}})

    def loss(weights, example, key):
        def layer(h, weight):
            return jnp.tanh(weight @ h), None

        def place(h, x):
            return scan(layer, h + x, weights)[0], None

        return jnp.sum(scan(place, jnp.zeros(20), example["x"])[0])

    batching = eqd.Epochs(1, batch_size=8)
    made = eqf.Microbatched(loss, size=2) if in_parts else loss
    fedavg = eqf.FedAvg(made, SGD, batching)
    under = eqd.Loader(data, eqd.AllClients(), batching)
    return eqt.Work.of(fedavg, jnp.ones((4, 20, 20)), under).flops


@pytest.mark.parametrize("split", [False, True])
def test_loops_of_a_step_are_counted_as_often_as_they_run(split):
    expected = flops_of_layers(as_written, in_parts=False)
    # Forward, and two products of the derivative, but for the first layer's input.
    assert expected > 2.9 * 2 * 8 * 5 * 4 * 20 * 20
    got = flops_of_layers(jax.lax.scan, in_parts=split)
    assert got == pytest.approx(expected, rel=0.15)


def test_a_loop_over_steps_is_counted_once():
    """Also where a sampler makes several of them."""

    def product(x):
        return x @ x

    def steps(x, count):
        return jax.lax.fori_loop(0, count, lambda i, x: product(x), x)

    def chains(x, count):
        return jax.lax.scan(lambda x, _: (steps(x, count), None), x, length=9)[0]

    def counted(program):
        traced = jax.jit(program).trace(jnp.ones((20, 20)), 3)
        return flops_of(traced.jaxpr.jaxpr, traced.lower().compile())

    one = counted(lambda x, count: product(x))
    assert one == pytest.approx(2 * 20**3, rel=0.1)
    for program in (steps, chains):
        assert counted(program) == pytest.approx(one, rel=0.1)


def test_a_privacy_plan_refuses_a_clock_by_which_clients_depend_on_each_other():
    sampler = eqd.UniformSampler(5, seed=1)
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(1.0), noise_multiplier=1.0, expected_clients=5.0
    )
    plan = eqp.PrivacyPlan(sampler, mechanism, num_clients=8, num_rounds=9, delta=0.1)
    private = eqf.FedAvg(line_loss, SGD, BATCHING, aggregator=mechanism)
    state = private.init(testing.Linear(), num_clients=8)
    plan.check(private, state, loader("deadline"), num_rounds=9)
    for name in ("goal", "days", "adapted"):
        with pytest.raises(ValueError, match="depends on what others do"):
            plan.check(private, state, loader(name), num_rounds=9)
    out = eqf.train(
        private,
        testing.Linear(),
        loader("deadline"),
        num_rounds=2,
        key=KEY,
        privacy=plan,
    )
    # The time is one of what clients have: the noise does not cover it.
    assert "seconds" not in out.history[0]


def test_a_loader_shows_its_clock():
    assert re.search(r"clock=SynchronousClock\(", repr(loader("goal")))


def always(round, clients):
    return np.ones(len(clients), bool)


@pytest.mark.parametrize("kind", [eqd.LeastOftenSampler, eqd.RoundRobinSampler])
def test_who_is_away_is_not_counted_as_drawn(kind):
    """Half of the clients are there at a time, by turns: each has its share all the
    same, and whoever is there goes before those who have been drawn already."""
    dataset = testing.ragged_clients((4,) * 8)
    days = eqt.PerClient(np.arange(8) % 2 / 2)
    away = eqt.DailyAvailability(0.5, phase=days, day=4.0)
    system = eqt.SystemModel(latency=1.0, availability=away)
    it = eqd.Loader(
        *(dataset, kind(2, always, seed=0), BATCHING),
        clock=eqt.SynchronousClock(system, WORK),
    )
    rounds = [np.asarray(it(r).index) for r in range(24)]
    drawn = np.concatenate([x[x < 8] for x in rounds])
    assert it.report(23)["seconds"] == 24.0
    counts = np.bincount(drawn, minlength=8)
    assert counts.sum() > 20
    assert np.ptp(counts) <= 1
    # Another loader's clock begins with nobody drawn.
    again = eqd.Loader(
        *(dataset, it.sampler, BATCHING), clock=eqt.SynchronousClock(system, WORK)
    )
    assert all(np.array_equal(again(r).index, x) for r, x in enumerate(rounds))
