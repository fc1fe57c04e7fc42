"""FedBuff's events a second: compiled rounds beside a plain loop over events.

All have the same clients, the same tape of arrivals and the same compiled training of
one client, a perceptron on the digits. The loop is what a simulator in Python does: it
takes the next arrival, lays out the client's batches, calls the compiled client on the
model that it had begun from, adds what comes back to the buffer, and takes the server's
step when that is full; with `jax.numpy`, or with that compiled as well. They alternate,
and end in the same model. The time that the tape itself takes is in all, and is shown
alone. What comes before the first rounds (tracing, compiling, laying the data out) is
in none: a side's time begins when its first 20 rounds are done.

    python benchmarks/arrivals.py [--repeats 5] [--output arrivals.json]
"""

import argparse
import itertools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _report import machine, print_table, write_json
from overhead import loss, MLP

import equifed as eqf
import equifed.clock as eqt
from equifed._client import LocalSGD
from equifed._cohort import ClientData
from equifed._wire import Broadcast
from equifed.data._random import generator, ORDER


BUFFER, CONCURRENCY, MOST, SEED = 10, 14, 8, 0
EACH = 20  # rounds that are waited for together, and in a call
SYSTEM = eqt.SystemModel(
    speed=eqt.LogNormal(10.0, 1.0), downlink=eqt.LogNormal(1e6, 0.5), uplink=1e6
)
WORK = eqt.Work(flops=1.0, bits_down=1e5, bits_up=1e5)  # a speed in steps a second


def populations():
    """The writers, and the same digits dealt to more clients."""
    writers = eqf.data.digits()
    yield "14 writers", writers, 16
    yield "100 clients", writers.repartition(eqf.data.IIDPartition(100)), 16


def loader_of(dataset, batching):
    clock = eqt.AsynchronousClock(SYSTEM, WORK, buffer_size=BUFFER, max_staleness=MOST)
    sampler = eqf.data.UniformSampler(CONCURRENCY, seed=SEED)
    return eqf.data.Loader(dataset, sampler, batching, clock=clock)


def tape_of(dataset, batching):
    walk = loader_of(dataset, batching)._walk
    assert walk is not None
    return walk


def add(total, change, age):
    weight = 1 / (1 + age) ** 0.5
    return jax.tree.map(lambda t, c: t + weight * c, total, change)


def step(params, total):
    return jax.tree.map(lambda p, t: p + t / BUFFER, params, total)


class Plain:
    """The loop over events."""

    def __init__(self, model, dataset, batching, jit):
        self.client = LocalSGD(loss, optax.sgd(0.1), batching)
        self.batching, self.dataset = batching, dataset
        self.params, self.rest = eqx.partition(model, eqx.is_inexact_array)
        self.examples = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x)), dict(dataset.columns)
        )
        sizes = dataset.client_sizes
        self.longest = int(np.max(batching.num_steps(sizes)))
        self.train = jax.jit(self._train)
        self.add, self.step = jit(add), jit(step)
        self.zeros = jax.tree.map(jnp.zeros_like, self.params)

    def _train(self, params, examples, order, numbers, key):
        steps, first, size = numbers
        data = ClientData(examples, order, 0 * steps, steps, first, size)
        message, _, _ = self.client.round(
            Broadcast(params, self.rest), data, None, key=key
        )
        return message.payload

    def run(self, num_rounds):
        """The model after every `EACH` rounds."""
        walk, params = tape_of(self.dataset, self.batching), self.params
        versions, offsets, key = [params], self.dataset.offsets, jr.key(SEED)
        for r in range(num_rounds):
            clients, _, _, info = walk(r)
            total = self.zeros
            for i, age in zip(
                clients.tolist(), (info or {})["staleness"].tolist(), strict=True
            ):
                size = int(offsets[i + 1] - offsets[i])
                own = self.batching.order(size, generator(SEED, ORDER, i, r))
                order = np.full((self.longest, own.shape[1]), -1, np.int32)
                order[: len(own)] = np.where(own < 0, -1, own + offsets[i])
                numbers = np.array([len(own), offsets[i], size], np.int32)
                began = versions[r - age]
                change = self.train(began, self.examples, order, numbers, key)
                total = self.add(total, change, np.float32(age))
            params = self.step(params, total)
            versions.append(params)
            if (r + 1) % EACH == 0:
                yield params


def compiled(model, dataset, batching, rounds_per_call, block_size=1):
    algorithm = eqf.FedBuff(loss, optax.sgd(0.1), batching, max_staleness=MOST)

    def run(num_rounds):
        loader = loader_of(dataset, batching)
        state = algorithm.init(model, num_clients=loader.num_clients)
        pairs = eqf.rounds(
            *(algorithm, state, loader),
            num_rounds=num_rounds,
            key=jr.key(SEED),
            executor=eqf.Executor(block_size=block_size),
            rounds_per_call=rounds_per_call,
        )
        calls = EACH // rounds_per_call
        for state, _ in itertools.islice(pairs, calls - 1, None, calls):  # noqa: B020
            yield state.params

    return run


def tape_alone(dataset, batching):
    def run(num_rounds):
        walk = tape_of(dataset, batching)
        for r in range(EACH - 1, num_rounds, EACH):
            yield walk(r)

    return run


def timed(run, num_rounds):
    """Where a run ends, and the seconds of all its rounds but the first `EACH`: by the
    wall, and of all threads."""
    reached = run(EACH + num_rounds)
    end = jax.block_until_ready(next(reached))
    start, cpu = time.perf_counter(), time.process_time()
    for end in reached:  # noqa: B007
        pass
    jax.block_until_ready(end)
    return end, (time.perf_counter() - start, time.process_time() - cpu)


def measure(name, dataset, batch_size, num_rounds, repeats):
    model = MLP(jr.key(0))
    batching = eqf.data.Epochs(1, batch_size=batch_size)
    sides = {
        "loop": Plain(model, dataset, batching, lambda f: f).run,
        "compiled loop": Plain(model, dataset, batching, jax.jit).run,
        "one a call": compiled(model, dataset, batching, 1),
        "20 a call": compiled(model, dataset, batching, EACH),
        "20 a call, 5 at once": compiled(model, dataset, batching, EACH, 5),
        "tape": tape_alone(dataset, batching),
    }
    ends = {side: timed(run, num_rounds)[0] for side, run in sides.items()}
    del ends["tape"]
    leaves = [jax.tree.leaves(end) for end in ends.values()]
    for one, other in itertools.pairwise(leaves):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    times = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            times[side].append(timed(run, num_rounds)[1])
    events = BUFFER * num_rounds
    each = {side: np.array(t) for side, t in times.items()}
    return [
        {
            "clients": name,
            "side": side,
            "events/s": events / np.median(t[:, 0]),
            "most events/s": events / t[:, 0].min(),
            **{
                f"by the {loop}{by}": np.median(each[loop][:, i] / t[:, i])
                for loop in ("loop", "compiled loop")
                for i, by in enumerate(("", ", processors' time"))
            },
        }
        for side, t in each.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--output", default="arrivals.json")
    args = parser.parse_args()
    found = [measure(*which, args.rounds, args.repeats) for which in populations()]
    rows = list(itertools.chain(*found))
    print_table("events a second", rows)
    write_json(args.output, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
