"""Streaming DiLoCo against its paper's pseudo-code in NumPy, on the paper's clock of
steps, and what is made of clients that are away."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf


KEY = jr.key(0)
STEPS, ROUNDS = 3, 7
RATE, INNER, OUTER_RATE, OUTER = 0.1, 0.5, 0.7, 0.9
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 4))
Y = RNG.normal(size=(3, 5))
ALL = range(len(X))
# The numbers of each array of the model, and of each fragment.
LEAVES = {"a": [0, 1], "b": [2], "c": [3]}
PARTS = {1: [[0, 1, 2, 3]], 2: [[0, 1, 3], [2]], 3: [[0, 1], [2], [3]]}
FIRST = RNG.normal(size=4)


def model_of(x):
    return {name: jnp.asarray(x[i], jnp.float32) for name, i in LEAVES.items()}


def numbers_of(model):
    return np.concatenate([np.asarray(model[name]) for name in LEAVES])


def loss(model, example, key):
    x = jnp.concatenate([model[name] for name in LEAVES])
    error = example["x"].astype(jnp.float32) @ x - example["y"].astype(jnp.float32)
    return 0.5 * error**2


class Replicas:
    """Clients that go on from where they are, and the server's optimiser."""

    def __init__(self, fragments):
        self.parts, self.x = fragments, FIRST.copy()
        self.own = [FIRST.copy() for _ in ALL]
        self.traces, self.velocity = np.zeros((len(X), 4)), np.zeros(4)

    def step(self, i):
        gradient = X[i].T @ (X[i] @ self.own[i] - Y[i]) / len(X[i])
        self.traces[i] = INNER * self.traces[i] + gradient
        self.own[i] = self.own[i] - RATE * self.traces[i]

    def outer(self, part, g):
        self.velocity[part] = OUTER * self.velocity[part] + g
        self.x[part] -= OUTER_RATE * (g + OUTER * self.velocity[part])

    def mix(self, i, part, alpha):
        self.own[i][part] = alpha * self.own[i][part] + (1 - alpha) * self.x[part]


def by_steps(fragments, delay, alpha):
    """Algorithm 2, in which all are there: fragment p is sent at the steps that are
    (p + 1) K of a period of P K, and received `delay` steps later."""
    here, waiting = Replicas(fragments), {}
    period = len(fragments) * STEPS
    for t in range(1, ROUNDS * STEPS + 1):
        for i in ALL:
            here.step(i)
        for p, part in enumerate(fragments):
            if (t - (p + 1) * STEPS) % period == 0:
                outer = [here.x[part] - here.own[i][part] for i in ALL]
                waiting[t + delay] = part, np.mean(outer, axis=0)
        if t in waiting:
            part, g = waiting.pop(t)
            here.outer(part, g)
            for i in ALL:
                here.mix(i, part, alpha)
    for part, g in waiting.values():  # the last one, which nobody has received
        here.outer(part, g)
    return here


def by_rounds(fragments, delay, alpha, cohorts):
    """What is said of clients that are away."""
    here, seen = Replicas(fragments), [-1 for _ in ALL]
    for t, cohort in enumerate(cohorts):
        for i in cohort:
            turns = {r % len(fragments) for r in range(max(seen[i], 0), t)}
            if seen[i] < 0:
                here.own[i], turns = here.x.copy(), set()
            for k in range(STEPS):
                if k == delay:
                    for p in turns:
                        here.mix(i, fragments[p], alpha)
                here.step(i)
            seen[i] = t
        part = fragments[t % len(fragments)]
        outer = [here.x[part] - here.own[i][part] for i in cohort]
        here.outer(part, np.mean(outer, axis=0))
    return here


def trained(fragments, delay, alpha, sampler=None, kind: Any = None, **more):
    clients = {str(i): {"x": X[i], "y": Y[i]} for i in ALL}
    data = eqf.data.FederatedDataset.from_mapping(clients)
    batching = eqf.data.Epochs(STEPS, batch_size=len(X[0]))
    sampler = eqf.data.AllClients() if sampler is None else sampler
    loader = eqf.data.Loader(data, sampler, batching)
    if kind is None:
        kind = eqf.StreamingDiLoCo
        more |= {"fragments": fragments, "delay": delay, "alpha": alpha}
    outer = optax.sgd(OUTER_RATE, momentum=OUTER, nesterov=True)
    inner = optax.sgd(RATE, momentum=INNER)
    algorithm = kind(loss, inner, batching, server_optim=outer, **more)
    state = algorithm.init(model_of(FIRST), num_clients=len(X), key=KEY)
    metrics = []
    for t in range(ROUNDS):
        state, now = algorithm.round(state, loader(t), key=KEY)
        metrics.append(now)
    return state, metrics


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("count", "delay", "alpha"), [(2, 1, 0.5), (3, 2, 0.0)])
def test_as_the_paper_counts_steps(count, delay, alpha):
    expected = by_steps(PARTS[count], delay, alpha)
    state, metrics = trained(count, delay, alpha)
    close(numbers_of(state.model), expected.x)
    for i in ALL:
        own = {name: x[i] for name, x in state.clients.params.items()}
        close(numbers_of(own), expected.own[i])
    for t, now in enumerate(metrics):
        sent = len(PARTS[count][t % count]) + 1  # and the message's weight
        assert int(now["bits_up"]) == 32 * len(X) * sent


def test_a_delay_of_a_whole_round():
    """What is received at the step at which another fragment is sent."""
    expected = by_steps(PARTS[2], STEPS, 0.5)
    state, _ = trained(lambda m: [(m["a"], m["c"]), m["b"]], STEPS, 0.5)
    close(numbers_of(state.model), expected.x)
    more, _ = trained(2, STEPS + 4, 0.5)  # is cut to it
    close(numbers_of(more.model), expected.x)


def test_clients_that_were_away():
    sampler = eqf.data.UniformSampler(1, seed=3)
    cohorts = [sampler(t, len(X)) for t in range(ROUNDS)]
    assert any(a != b for a, b in zip(cohorts, cohorts[1:], strict=False))
    expected = by_rounds(PARTS[3], 1, 0.5, cohorts)
    state, _ = trained(3, 1, 0.5, sampler)
    close(numbers_of(state.model), expected.x)


def test_of_one_fragment_it_is_diloco():
    state, _ = trained(1, 0, 0.0)
    plain, _ = trained(1, 0, 0.0, kind=eqf.DiLoCo)
    close(numbers_of(state.model), numbers_of(plain.model))


def test_a_fragment_that_is_compressed():
    """Each number of it to 4 bits, and each array's norm; nothing of the others."""
    compressor = eqf.compress.QSGD(7)
    _, metrics = trained(2, 1, 0.5, compressor=compressor)
    for t, arrays in enumerate((("a", "c"), ("b",))):
        numbers = sum(len(LEAVES[name]) for name in arrays)
        sent = 4 * numbers + 32 * len(arrays) + 32
        assert int(metrics[t]["bits_up"]) == len(X) * sent
    sent, _ = trained(2, 1, 0.5, compressor=eqf.compress.TopK(1.0))
    plain, _ = trained(2, 1, 0.5)
    assert eqx.tree_equal(sent.params, plain.params, rtol=1e-5, atol=1e-6)
