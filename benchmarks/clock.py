"""What a clock costs: rounds with one beside rounds without, on one model.

Both train the perceptron of `overhead.py` on the same clients, in the same plan of
steps, with the loader's thread beside it as `train` has it; the clock has every axis
(speeds, bandwidths, days, losses), but waits for all, so that the rounds are the same.
The two take turns, some rounds each, and the median of the ratios is printed. Beside it
is the time to make one cohort with each, which is what a clock adds to, and the time of
a walk over a thousand rounds, which is what a resume waits for.

    python benchmarks/clock.py [--repeats 20] [--output clock.json]
"""

import argparse
import statistics
import time

import jax
import jax.random as jr
import numpy as np
import optax
from _report import machine, print_table, write_json
from overhead import loss, MLP

import equifed as eqf
import equifed.clock as eqt
from equifed._stepper.stepper import Stepper


ROUNDS = 40


def dataset(num_clients):
    """Clients with 20 to 200 digits each."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 201, num_clients)
    ids = np.repeat(np.arange(num_clients), sizes)
    return eqf.data.FederatedDataset.from_arrays(
        {
            "image": rng.integers(0, 17, (len(ids), 8, 8), dtype=np.uint8),
            "label": rng.integers(0, 10, len(ids), dtype=np.int32),
        },
        by=[f"{i:06d}" for i in ids],
    )


def clock(algorithm, model, loader):
    system = eqt.SystemModel(
        speed=eqt.LogNormal(1e9, 1.0),
        downlink=eqt.LogNormal(2e7, 0.5, each="round"),
        uplink=eqt.LogNormal(5e6, 0.5, each="round"),
        latency=eqt.Exponential(1.0, each="round"),
        drops_before=1e-12,
        drops_after=1e-12,
    )
    return eqt.SynchronousClock(system, eqt.Work.of(algorithm, model, loader))


def turns(steppers, loaders, repeats):
    """The seconds of `ROUNDS` rounds of each, in turns, after one to warm up."""
    times = {name: [] for name in steppers}
    for repeat in range(repeats + 1):
        for name, step in steppers.items():
            cohorts = loaders[name].cohorts(repeat * ROUNDS, (repeat + 1) * ROUNDS)
            begin = time.perf_counter()
            for _, cohort in cohorts:
                out = step(cohort)
            jax.block_until_ready(out)
            if repeat > 0:
                times[name].append(time.perf_counter() - begin)
    return times


def milliseconds(call, count):
    """Of one call, the median."""
    times = []
    for i in range(count):
        begin = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def compared(num_clients, cohort_size, repeats):
    batching = eqf.data.Epochs(1, batch_size=20)
    sampler = eqf.data.UniformSampler(cohort_size)
    data, model = dataset(num_clients), MLP(jr.key(0))
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
    plain = eqf.data.Loader(data, sampler, batching)
    made = clock(algorithm, model, plain)
    loaders = {
        "without": plain,
        "with": eqf.data.Loader(data, sampler, batching, clock=made),
    }
    steppers = {}
    for name, loader in loaders.items():
        state = algorithm.init(model, num_clients=loader.num_clients)
        steppers[name] = Stepper(
            algorithm, state, key=jr.key(0), executor=eqf.Executor(), mesh=None
        )
    times = turns(steppers, loaders, repeats)
    ratios = np.asarray(times["with"]) / np.asarray(times["without"])
    cohort = {n: milliseconds(x._plan, 200) for n, x in loaders.items()}
    days = eqt.SynchronousClock(
        eqt.SystemModel(
            speed=eqt.LogNormal(1e9, 1.0), availability=eqt.DailyAvailability(0.3)
        ),
        made.work,
        deadline=3600.0,
    )
    walked = eqf.data.Loader(data, sampler, batching, clock=days)
    begin = time.perf_counter()
    walked.report(999)
    return {
        "clients": num_clients,
        "cohort": cohort_size,
        "round_ms": 1e3 * statistics.median(times["without"]) / ROUNDS,
        "ratio": float(np.median(ratios)),
        "plan_ms": cohort["without"],
        "plan_clock_ms": cohort["with"],
        "walk_days_s_1000": time.perf_counter() - begin,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", default="clock.json")
    args = parser.parse_args()
    sizes = [(14, 10), (500, 20), (10_000, 100)]
    rows = [compared(*size, args.repeats) for size in sizes]
    print_table("Rounds with a clock beside rounds without", rows)
    write_json(args.output, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
