"""Methods that tell shared leaves from personal ones, against their papers' pseudo-code
in NumPy: a line with a shared slope and a personal offset, by least squares.

The references read the plans of the cohorts, and follow each batch.
"""

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


SIZES = (5, 3, 0, 8, 1)
RATE, OWN_RATE = 0.1, 0.2
MODEL = testing.Linear()
DATA = testing.ragged_clients(SIZES)
BATCHING = eqf.data.Epochs(3, batch_size=2)
LOADER = eqf.data.Loader(DATA, eqf.data.UniformSampler(3), BATCHING)
SGD = optax.sgd(RATE)


def loss(model, example, key):
    y = example["x"] @ model.weight + model.bias
    return 0.5 * (y - example["y"]) ** 2


def clients_of(plan):
    """Who takes part, with how many examples, and the batches of each."""
    examples = {n: np.asarray(x, np.float64)[0] for n, x in plan.examples.items()}
    for slot, i in enumerate(np.asarray(plan.index)[0]):
        count = int(plan.num_examples[0, slot])
        steps = slice(int(plan.start[0, slot]), int(plan.stop[0, slot]))
        batches = [x[x >= 0] for x in np.asarray(plan.order)[0, steps]]
        batches = [(examples["x"][x], examples["y"][x]) for x in batches]
        if i < 2**31 - 1 and count > 0:
            yield int(i), count, batches


def simultaneous(k, count):
    return True, True


def in_numpy(
    loader,
    num_rounds,
    phases=simultaneous,
    *,
    uniform=False,
    own_rate=RATE,
    alone=False,
):
    """The shared weight and the clients' own biases.

    `phases(k, count)` says whether step `k` of `count` moves the weight, and whether it
    moves the bias; `alone` clients keep a weight of their own as well.
    """
    num_clients = len(loader.dataset)
    shared = np.asarray(MODEL.weight, np.float64)
    own = np.full(num_clients, float(MODEL.bias))
    weights = np.tile(shared, (num_clients, 1))
    for t in range(num_rounds):
        total, count_of_all = np.zeros_like(shared), 0.0
        for i, count, batches in clients_of(loader(t)):
            w, b = (weights[i] if alone else shared).copy(), own[i]
            for k, (x, y) in enumerate(batches):
                moves_w, moves_b = phases(k, len(batches))
                error = x @ w + b - y
                slope, offset = (error[:, None] * x).mean(0), error.mean()
                w = w - RATE * moves_w * slope
                b = b - own_rate * moves_b * offset
            own[i], weights[i] = b, w
            share = 1 if uniform else count
            total, count_of_all = total + share * (w - shared), count_of_all + share
        shared = shared + total / count_of_all
    return (weights if alone else shared), own


PERSONAL = eqf.roles(MODEL, personal=lambda m: m.bias)


def run(algorithm, roles: eqf.Roles | None = PERSONAL, num_rounds=3):
    state = algorithm.init(MODEL, num_clients=len(DATA), roles=roles)
    for t in range(num_rounds):
        state, metrics = algorithm.round(state, LOADER(t), key=jr.key(0))
    return state, metrics


def check(state, expected):
    weight, bias = expected
    np.testing.assert_allclose(state.params.weight, weight, rtol=1e-5)
    np.testing.assert_allclose(state.clients.personal.bias, bias, rtol=1e-5)


@pytest.mark.parametrize("kind", (eqf.FedPer, eqf.LGFedAvg, eqf.FedBN))
def test_at_once(kind):
    state, _ = run(kind(loss, SGD, BATCHING))
    check(state, in_numpy(LOADER, 3, uniform=kind is eqf.FedBN))


def test_fedrep():
    # Two epochs of the offset, then one of the slope.
    state, _ = run(eqf.FedRep(loss, SGD, BATCHING, personal_parts=2))

    def phases(k, count):
        return k >= 2 * count // 3, k < 2 * count // 3

    check(state, in_numpy(LOADER, 3, phases, uniform=True))


def test_fedalt():
    algorithm = eqf.FedAlt(
        loss, SGD, BATCHING, personal_optim=optax.sgd(OWN_RATE), shared_parts=2
    )

    def phases(k, count):
        return k >= count // 3, k < count // 3

    state, _ = run(algorithm)
    check(state, in_numpy(LOADER, 3, phases, own_rate=OWN_RATE))


def test_fedbabu():
    roles = eqf.roles(MODEL, frozen=lambda m: m.bias)
    state, metrics = run(eqf.FedBABU(loss, SGD, BATCHING), roles)
    weight, _ = in_numpy(LOADER, 3, lambda k, count: (True, False))
    np.testing.assert_allclose(state.params.weight, weight, rtol=1e-5)
    np.testing.assert_array_equal(state.model.bias, MODEL.bias)
    # The head is nobody's message.
    assert int(metrics["bits_down"]) == 3 * 32 * 3


def test_local_only():
    algorithm = eqf.LocalOnly(loss, SGD, BATCHING)
    state, metrics = run(algorithm, None)
    weights, biases = in_numpy(LOADER, 3, alone=True)
    for i in range(len(DATA)):
        kept = jtu.tree_map(lambda x: x[i], state.clients)  # noqa: B023
        own = algorithm.own_model(state, kept)
        np.testing.assert_allclose(own.weight, weights[i], rtol=1e-5)
        np.testing.assert_allclose(own.bias, biases[i], rtol=1e-5)
    assert eqx.tree_equal(state.params, MODEL)
    assert int(metrics["bits_up"]) == int(metrics["bits_down"]) == 0
    assert algorithm.model(state) is None


def test_a_rate_over_rounds():
    def make(t):
        return eqf.FedPer(loss, optax.sgd(RATE + 0.0 * t.astype(float)), BATCHING)

    assert eqf.OverRounds(make).needs == ("personal",)
    state, _ = run(eqf.OverRounds(make))
    check(state, in_numpy(LOADER, 3))
