"""What a clock costs: rounds with one beside rounds without, on one model.

Both train the CNN or the perceptron of `overhead.py` on the same clients, in the same
plan of steps, with the loader's thread beside it as `train` has it; the clock draws
every quantity anew in each round, but waits for all, so that the rounds are the same.
The two take turns, some rounds each, in changing order, and the median of the ratios is
printed. Beside it is the ratio of the shortest turns, and the median of that of the
processors' time, both of which other programs on the machine disturb less; and what
one thread of the host computes for a round: the plan of a cohort, and the clock's part
(with days and a deadline), which a resume computes of each round before.

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
from overhead import CNN, loss, MLP, mnist_like

import equifed as eqf
import equifed.clock as eqt
from equifed._stepper.stepper import Stepper


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


def turns(steppers, loaders, repeats, rounds):
    """The seconds of some rounds of each, in turns, after one turn to warm up; and
    those of all its threads."""
    times = {name: [] for name in steppers}
    spent = {name: [] for name in steppers}
    for repeat in range(repeats + 1):
        order = list(steppers.items())
        for name, step in order if repeat % 2 else order[::-1]:
            cohorts = loaders[name].cohorts(repeat * rounds, (repeat + 1) * rounds)
            begin, cpu = time.perf_counter(), time.process_time()
            for _, cohort in cohorts:
                out = step(cohort)
            jax.block_until_ready(out)
            if repeat > 0:
                times[name].append(time.perf_counter() - begin)
                spent[name].append(time.process_time() - cpu)
    return times, spent


def ratio(of):
    return float(np.median(np.asarray(of["with"]) / np.asarray(of["without"])))


def host_ms(call, count):
    """The milliseconds of this thread that one call takes."""
    call(0)
    begin = time.thread_time()
    for i in range(count):
        call(i + 1)
    return 1e3 * (time.thread_time() - begin) / count


def compared(data, model, cohort_size, repeats, rounds):
    batching = eqf.data.Epochs(1, batch_size=20)
    sampler = eqf.data.UniformSampler(cohort_size)
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
    times, spent = turns(steppers, loaders, repeats, rounds)
    days = eqt.SynchronousClock(
        eqt.SystemModel(
            speed=eqt.LogNormal(1e9, 1.0), availability=eqt.DailyAvailability(0.3)
        ),
        made.work,
        deadline=3600.0,
    )
    walked = eqf.data.Loader(data, sampler, batching, clock=days)
    return {
        "model": type(model).__name__,
        "clients": len(data),
        "cohort": cohort_size,
        "round_ms": 1e3 * statistics.median(times["without"]) / rounds,
        "ratio": ratio(times),
        "least_ratio": min(times["with"]) / min(times["without"]),
        "cpu_ratio": ratio(spent),
        "plan_ms": host_ms(plain._plan, 100),
        "clock_ms": host_ms(walked.report, 1000),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", default="clock.json")
    args = parser.parse_args()
    images = mnist_like()
    rows = [
        compared(images, CNN(jr.key(0)), len(images), args.repeats, rounds=1),
        *(
            compared(dataset(n), MLP(jr.key(0)), size, args.repeats, rounds)
            for n, size, rounds in [(14, 10, 200), (500, 20, 200), (10_000, 100, 40)]
        ),
    ]
    print_table("Rounds with a clock beside rounds without", rows)
    write_json(args.output, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
