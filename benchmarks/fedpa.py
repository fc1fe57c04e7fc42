"""What posterior averaging costs: beside FedAvg, and beside research code.

The first part times a round of FedPA beside a round of FedAvg on the same batches of
MNIST: two host devices, 20 clients of five epochs, five samples each. The sides take
turns on the same cohorts, and a ratio is the median over the turns.

The second part runs 1,000 rounds of 100 clients with least squares of 100 parameters,
ten samples of ten steps each, beside two plain programs for the same thing. One is
written as research code is: Python loops over clients and samples, a compiled loop of
SGD steps for a sample, and the dynamic programming of the paper operation by
operation. In the other a client's whole update is one compiled call. Both are given
their batches beforehand, and run only a few rounds, as every round does the same. All
three must agree before any time is taken.

    python benchmarks/fedpa.py [--quick] [--data DIR] [--output fedpa.json]

`DIR` holds `train.parquet` of `examples/mnist_by_writer.py`; without it images are
random bytes.
"""

import argparse
import functools
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _report import print_table, stepper, write_json
from overhead import CNN, loss, mnist_like, seconds

import equifed as eqf


DEVICES, CLIENTS, DIM, EXAMPLES = 2, 100, 100, 500
SAMPLES, LENGTH, BATCH = 10, 10, 10
RATE, RHO = 0.01, 0.1


def cnn_rounds(data: pathlib.Path | None, turns: int) -> list[dict]:
    """FedPA beside FedAvg, on the same steps of the CNN."""
    if data is None:
        dataset = mnist_like(100)
    else:
        dataset = eqf.data.FederatedDataset.from_parquet(
            data / "train.parquet", by="client_id", columns=["image", "label"]
        )
    mesh = jax.make_mesh((DEVICES,), ("clients",))
    batching = eqf.data.Epochs(5, batch_size=20)
    sampler = eqf.data.UniformSampler(20, seed=0)
    loader = eqf.data.Loader(dataset, sampler, batching, mesh=mesh)
    optim = optax.sgd(0.02, momentum=0.9)

    def fedpa(method="woodbury", **options):
        rho = eqf.posterior.Shrinkage(0.01, method=method)
        return eqf.FedPA(loss, eqf.posterior.IASG(optim), batching, rho=rho, **options)

    sides = {
        "FedAvg": eqf.FedAvg(loss, optim, batching),
        "FedPA": fedpa(),
        "FedPA, before its start round": fedpa(start_round=10**6),
        "FedPA, dynamic programming": fedpa("dynamic"),
    }
    model = CNN(jr.key(0))
    steps = {name: stepper(side, model, loader) for name, side in sides.items()}
    cohorts = [loader(r) for r in range(min(turns, 5))]
    for step in steps.values():
        for cohort in cohorts:  # Their shapes may differ: all are compiled for.
            jax.block_until_ready(step(cohort))
    times = {name: [] for name in sides}
    names = list(sides)
    for turn in range(turns):
        cohort = cohorts[turn % len(cohorts)]
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(functools.partial(steps[name], cohort)))
    num_steps = [int(np.asarray(c.stop - c.start).sum()) for c in cohorts]
    return [
        {
            "side": name,
            "steps": int(np.median(num_steps)),
            "round_ms": 1e3 * statistics.median(times[name]),
            "ratio": float(np.median(np.divide(times[name], times["FedAvg"]))),
            "turns": turns,
        }
        for name in names
    ]


@jax.jit
def walk(params, features, targets, order):
    """SGD steps on one client's arrays; the last iterate, and the mean of all."""

    def step(i, carry):
        params, total = carry
        x, y = features[order[i]], targets[order[i]]
        params = params - RATE * (x.T @ (x @ params - y)) / BATCH
        return params, total + params

    carry = (params, jnp.zeros_like(params))
    params, total = jax.lax.fori_loop(0, order.shape[0], step, carry)
    return params, total / order.shape[0]


def delta(samples, start):
    """The paper's dynamic programming; minus what the server adds to its model."""
    mean, answer, known = samples[0], start - samples[0], []
    for t, sample in enumerate(samples[1:], 2):
        u = sample - mean
        v = u
        for gamma, w, q in known:
            v = v - gamma * jnp.dot(w, u) / (1 + gamma * q) * w
        gamma, q = RHO * (t - 1) / t, jnp.dot(u, v)
        c = gamma * (t * jnp.dot(u, answer) - q) / (1 + gamma * q)
        answer = answer - (1 + c) * v / t
        mean = mean + u / t
        known.append((gamma, v, q))
    return (1 + (len(samples) - 1) * RHO) * answer


def research_client(start, features, targets, orders):
    params, samples = start, []
    for order in orders:
        params, sample = walk(params, features, targets, order)
        samples.append(sample)
    return delta(samples, start)


def research_round(client, start, data, orders):
    """All clients one after another, and the server's step."""
    deltas = [client(start, *arrays, orders[i]) for i, arrays in enumerate(data)]
    return start - sum(deltas) / len(deltas), deltas


def own_deltas(algorithm, start, cohort):
    """The messages of equifed's clients, in the order of the clients' numbers."""
    pool = jax.tree.map(lambda x: x[0], cohort.examples)

    @jax.jit
    def deltas(slots):
        def one(slot):
            data = eqf.ClientData(pool, cohort.order[0], *slot)
            broadcast = eqf.Broadcast.of(start, jnp.asarray(True))
            message, _, _ = algorithm.client.round(broadcast, data, None, key=jr.key(0))
            return message.payload

        return jax.lax.map(one, slots)

    slots = (cohort.start, cohort.stop, cohort.first, cohort.num_examples)
    payloads = deltas(tuple(x[0] for x in slots))
    return np.asarray(payloads)[np.argsort(cohort.index[0])]


def by_sample(cohort):
    """The same batches for the plain programs, as row numbers within each client."""
    order = np.asarray(cohort.order[0])
    slots = (cohort.index, cohort.start, cohort.stop, cohort.first)
    places = zip(*(np.asarray(x[0]).tolist() for x in slots), strict=True)
    rows = {i: order[begin:end] - first for i, begin, end, first in places}
    return [
        list(jnp.asarray(rows[i].reshape(SAMPLES, LENGTH, BATCH)))
        for i in range(CLIENTS)
    ]


def check(name, got, expected):
    """Refuses to time what computes something else."""
    apart = float(np.abs(got - expected).max() / np.abs(expected).max())
    print(f"{name}: apart by {apart:.1e} of the largest number")
    if not apart < 1e-4:
        raise SystemExit(f"{name} differ: nothing was timed.")
    return apart


def own_rounds(algorithm, loader, num_rounds, *, block_size, rounds_per_call=1):
    """Seconds that rounds take, those that compile aside; and the last model."""
    executor = eqf.Executor(block_size=block_size)
    options = {"key": jr.key(0), "executor": executor}
    options["rounds_per_call"] = rounds_per_call

    def run(num_rounds):
        state = algorithm.init(jnp.zeros(DIM), num_clients=loader.num_clients)
        rounds = eqf.rounds(algorithm, state, loader, num_rounds=num_rounds, **options)
        for state, _ in rounds:  # noqa: B007 (the last one is wanted)
            pass
        return jax.block_until_ready(state.model)

    run(2 * rounds_per_call)  # compiles
    begin = time.perf_counter()
    model = run(num_rounds)
    return time.perf_counter() - begin, model


def by_options(algorithm, loaders, num_rounds) -> list[dict]:
    """A few rounds by each way of running them."""
    rows = []
    for devices, loader in loaders.items():
        for block_size in (1, 10, 50, 100):
            for per_call in (1, 10):
                options = {"block_size": block_size, "rounds_per_call": per_call}
                taken, _ = own_rounds(algorithm, loader, num_rounds, **options)
                row = {"devices": devices} | options
                rows.append(row | {"round_ms": 1e3 * taken / num_rounds})
    return rows


def least_squares(num_rounds: int, *, quick: bool) -> tuple[list[dict], dict]:
    """Many rounds of many small clients, beside the plain programs."""
    problem = eqf.objectives.random_least_squares(
        CLIENTS, DIM, num_examples=EXAMPLES, noise=1.0, key=jr.key(0)
    )
    batching = eqf.data.Steps(SAMPLES * LENGTH, batch_size=BATCH)
    sampler = eqf.posterior.IASG(optax.sgd(RATE), average=LENGTH)
    algorithm = eqf.FedPA(problem.loss, sampler, batching, rho=RHO)
    mesh = jax.make_mesh((DEVICES,), ("clients",))
    dataset, everyone = problem.dataset(), eqf.data.AllClients()
    loaders = {
        1: eqf.data.Loader(dataset, everyone, batching),
        DEVICES: eqf.data.Loader(dataset, everyone, batching, mesh=mesh),
    }

    cohort, start = loaders[1](0), jnp.zeros(DIM)
    orders = by_sample(cohort)
    arrays = [(o.features, o.targets) for o in problem.objectives]
    own = own_deltas(algorithm, start, cohort)
    checks, plain = {}, {}
    for name, client, count in (
        ("Python loops", research_client, 5),
        ("a compiled call for each client", jax.jit(research_client), 50),
    ):
        model, deltas = research_round(client, start, arrays, orders)
        checks[f"deltas, {name}"] = check(f"deltas, {name}", -np.stack(deltas), own)
        state = algorithm.init(start, num_clients=CLIENTS)
        state, _ = algorithm.round(state, cohort, key=jr.key(0))
        checks[f"models, {name}"] = check(f"models, {name}", model, state.model)
        count = 1 if quick else count
        run = functools.partial(research_round, client, model, arrays, orders)
        times = [seconds(run) for _ in range(count)]
        plain[name] = (statistics.median(times), count)

    rows = by_options(algorithm, loaders, 10 if quick else 40)
    best = min(rows, key=lambda row: row["round_ms"])
    options = {k: best[k] for k in ("block_size", "rounds_per_call")}
    loader = loaders[best["devices"]]
    taken, model = own_rounds(algorithm, loader, num_rounds, **options)
    optimum = problem.optimum()

    def row(name, round_s, timed):
        ratio = round_s * num_rounds / taken
        figures = {
            "round_ms": 1e3 * round_s,
            f"{num_rounds}_rounds_s": round_s * num_rounds,
        }
        return {"program": name, "rounds_timed": timed} | figures | {"ratio": ratio}

    table = [row("equifed", taken / num_rounds, num_rounds)]
    table += [row(name, *figures) for name, figures in plain.items()]
    plan = statistics.median(seconds(functools.partial(loader, r)) for r in range(20))
    executor = eqf.Executor(block_size=best["block_size"])
    step = stepper(algorithm, start, loader, executor)
    cohort = loader(0)
    device = statistics.median(seconds(lambda: step(cohort)) for _ in range(20))
    return table, {
        "options": rows,
        "best": best,
        "checks": checks,
        "host_ms": 1e3 * plan,
        "device_ms": 1e3 * device,
        "distance_to_optimum": float(
            jnp.linalg.norm(model - optimum) / jnp.linalg.norm(optimum)
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--output", default="fedpa.json")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)

    cnn = cnn_rounds(args.data, 4 if args.quick else 16)
    print_table("A round of the MNIST CNN", cnn)
    rounds, figures = least_squares(50 if args.quick else 1000, quick=args.quick)
    print_table("Least squares: equifed's options", figures["options"])
    print_table("Least squares: rounds, the plain programs' scaled", rounds)
    print(
        "\nIn a round of equifed laying out the batches on the host takes "
        f"{figures['host_ms']:.1f} ms, and what is compiled {figures['device_ms']:.1f} "
        "ms; they overlap."
    )
    write_json(args.output, {"cnn": cnn, "rounds": rounds, **figures})


if __name__ == "__main__":
    main()
