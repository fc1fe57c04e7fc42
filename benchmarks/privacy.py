"""What privacy costs: rounds of each mechanism beside FedAvg's, on one model.

All train the CNN of `overhead.py` on the same clients, in the same plan of steps, in
turns. Printed are the quartiles of the ratios of a round's time to that of the round of
FedAvg right before it. What the aggregator keeps between rounds is counted beside them.
The last two are DP-SGD within the clients, as it is here and with Optax's aggregation.

    python benchmarks/privacy.py [--repeats 20] [--output privacy.json]
"""

import argparse
import time

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from _report import machine, print_table, write_json
from overhead import CNN, loss, mnist_like

import equifed as eqf
import equifed.privacy as eqp
from equifed._client.loss import example_metrics
from equifed._metrics import masked_sum
from equifed._stepper.stepper import Stepper
from equifed._tree import tree_where, tree_zeros_like


SGD = optax.sgd(0.1)
ROUNDS = 200


class OptaxSGD(eqp.PrivateSGD):
    """DP-SGD by `optax.contrib.differentially_private_aggregate`."""

    def gradient(self, params, rest, examples, mask, *, key, noise_key):
        def one(example, key):
            def value(params):
                model = eqx.combine(params, rest)
                return example_metrics(self.loss, model, example, key)

            return jax.grad(value, has_aux=True)(params)

        keys = jr.split(key, mask.shape[0])
        grads, metrics = jax.vmap(one)(examples, keys)
        rule = optax.contrib.differentially_private_aggregate(
            self.max_norm, self.noise_multiplier, noise_key
        )
        grads = jax.vmap(lambda there, x: tree_where(there, x, tree_zeros_like(x)))(
            mask, grads
        )
        mean, _ = rule.update(grads, rule.init(params))
        return mean, masked_sum(metrics, mask)


def means(num_clients, num_params):
    """The aggregators by their names."""
    expected = {"expected_clients": float(num_clients)}

    def mean(clipping, noise):
        return eqp.PrivateMean(clipping, noise_multiplier=1.0, noise=noise, **expected)

    flat, alone = eqp.FlatClip(1.0), eqp.IndependentNoise()
    adaptive = eqp.AdaptiveClip(1.0, indicator_stddev=1.0)
    buffered = eqp.BufferedToeplitzNoise(3, ROUNDS, min_separation=ROUNDS)
    # A client's share of the noise has a standard deviation of 2.2 steps.
    discrete = eqp.DistributedDiscreteGaussian(
        *(1.0,), noise_multiplier=1.0, step=0.1, num_params=num_params, **expected
    )
    modular = eqp.ModularMean(step=1e-4, num_bits=24)
    return {
        "FedAvg": None,
        "flat clipping, Gaussian": mean(flat, alone),
        "by groups, Gaussian": mean(eqp.GroupClip(1.0), alone),
        "adaptive clipping, Gaussian": mean(adaptive, alone),
        "flat clipping, tree": mean(flat, eqp.TreeNoise()),
        "flat clipping, 8 bands": mean(flat, eqp.BandedNoise(8, ROUNDS)),
        "flat clipping, 3 buffers": mean(flat, buffered),
        "local Gaussian": eqp.LocalGaussian(1.0, noise_multiplier=1.0, **expected),
        "local Laplace": eqp.LocalLaplace(1.0, noise_multiplier=1.0, **expected),
        "distributed discrete Gaussian": discrete,
        "clipping, modular sum": eqf.Clip(modular, max_norm=1.0),
    }


def algorithms(batching, num_clients, num_params):
    """What is measured, by name."""
    found = {
        name: eqf.FedAvg(loss, SGD, batching, aggregator=mean)
        for name, mean in means(num_clients, num_params).items()
    }
    kinds = {"DP-SGD": eqp.PrivateSGD, "DP-SGD, Optax's": OptaxSGD}
    for name, kind in kinds.items():
        client = kind(loss, SGD, batching, max_norm=1.0, noise_multiplier=1.0)
        found[name] = eqx.tree_at(lambda a: a.client, found["FedAvg"], client)
    return found


def on_the_host(delta=1e-5):
    """What is computed before a training, and for each of its rounds: seconds."""

    def plan(sampler):
        mechanism = eqp.PrivateMean(
            eqp.FlatClip(1.0), noise_multiplier=1.0, expected_clients=20.0
        )
        sizes = {"num_clients": 1000, "num_rounds": ROUNDS, "delta": delta}
        return eqp.PrivacyPlan(sampler, mechanism, **sizes)

    samplers = {
        "Poisson samples": eqf.data.PoissonSampler(0.02),
        "truncated ones": eqf.data.PoissonSampler(0.02, most=40),
        "samples of a fixed size": eqf.data.UniformSampler(20),
        "passes": eqf.data.ShuffledSampler(20, reshuffle=False),
    }
    # Of one round more: those of the other table are kept from before.
    buffers = {"min_separation": ROUNDS + 1}
    work = {
        "coefficients of 8 bands": lambda: eqp.BandedNoise(8, ROUNDS + 1),
        "coefficients of 3 buffers": lambda: eqp.BufferedToeplitzNoise(
            3, ROUNDS + 1, **buffers
        ),
    }
    for name, sampler in samplers.items():
        plan(sampler).epsilon(1)  # The library is imported.
        work[f"epsilon of {name}"] = lambda s=sampler: plan(s).epsilon()
    return [{"what": name, "seconds": timed(make)} for name, make in work.items()]


def timed(step):
    start = time.perf_counter()
    jax.block_until_ready(step())
    return time.perf_counter() - start


def alternate(steps, base, repeats):
    """The times of each, and of the base right before it, after two to warm up."""
    times = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            pair = timed(base), timed(step)
            if repeat >= 2:
                times[name].append(pair)
    return {name: np.asarray(pairs).T for name, pairs in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", default="privacy.json")
    args = parser.parse_args()
    batching = eqf.data.Epochs(1, batch_size=20)
    loader = eqf.data.Loader(mnist_like(), eqf.data.AllClients(), batching)
    model, cohort = CNN(jr.key(0)), loader(0)
    size = sum(x.size for x in jtu.tree_leaves(eqx.filter(model, eqx.is_array)))
    steps, kept = {}, {}
    for name, algorithm in algorithms(batching, loader.num_clients, size).items():
        state = algorithm.init(model, num_clients=loader.num_clients)
        leaves = jtu.tree_leaves(state.aggregator)
        kept[name] = sum(x.nbytes for x in leaves) / 1e3
        step = Stepper(
            algorithm, state, key=jr.key(0), executor=eqf.Executor(), mesh=None
        )
        steps[name] = lambda step=step: step(cohort)
    host = on_the_host()
    print_table(f"On the host, {ROUNDS} rounds", host)
    rows = []
    for name, (base, own) in alternate(steps, steps["FedAvg"], args.repeats).items():
        low, middle, high = np.quantile(own / base, (0.25, 0.5, 0.75))
        row = {"mechanism": name, "round_ms": 1e3 * float(np.median(own))}
        row |= {"ratio": middle, "from": low, "to": high, "kept_kB": kept[name]}
        rows.append(row)
    print_table(f"Rounds of {loader.num_clients} clients, {size} numbers each", rows)
    write_json(
        args.output, {"machine": machine(), "numbers": size, "rows": rows, "host": host}
    )


if __name__ == "__main__":
    main()
