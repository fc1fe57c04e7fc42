"""Methods that keep something from round to round (momentum, what each client sent or
was sent, its optimiser), against their papers' pseudo-code in NumPy: the same
quadratics as in `test_papers.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_papers import A, B, BATCHING, check, COHORTS, ETA, local, STEPS


SGD, ALPHA, RHO, RATE = optax.sgd(ETA), 0.3, 0.2, 0.4


def grad(i, y):
    return A[i] * (y - B[i])


def with_momentum(rho):
    """FedCM, and MoFedSAM's gradient `rho` uphill."""
    x, momentum = [3.0], 0.0
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                g = grad(i, y + rho * np.sign(grad(i, y)))
                y -= ETA * (ALPHA * g + (1 - ALPHA) * momentum)
            ends.append((x[-1] - y) / (ETA * STEPS[i]))
        momentum = float(np.mean(ends))
        x.append(x[-1] - RATE * momentum)
    return x


def test_fedcm():
    server = optax.sgd(RATE)
    check(
        lambda f, b: eqf.FedCM(f, SGD, b, server_optim=server, alpha=ALPHA),
        with_momentum(0.0),
    )


def test_mofedsam():
    server = optax.sgd(RATE)
    check(
        lambda f, b: eqf.MoFedSAM(f, SGD, b, server_optim=server, alpha=ALPHA, rho=RHO),
        with_momentum(RHO),
    )


def test_without_momentum_and_steps_of_equal_number_fedcm_is_fedavg():
    steps = eqf.data.Steps(4, batch_size=2)
    runs = [
        testing.run(make, num_rounds=4, batching=steps)
        for make in (
            lambda f, b: eqf.FedCM(f, SGD, b, server_optim=optax.sgd(4 * ETA), alpha=1),
            lambda f, b: eqf.FedAvg(f, SGD, b, aggregator=eqf.UniformMean()),
        )
    ]
    np.testing.assert_allclose(*runs, rtol=1e-5)


def test_fedvarp():
    x, latest = [3.0], np.zeros(3)
    for cohort in COHORTS:
        deltas = np.array([local(i, x[-1])[0] - x[-1] for i in cohort])
        v = float(np.mean(deltas - latest[cohort]) + latest.mean())
        latest[cohort] = deltas
        x.append(x[-1] + RATE * v)
    check(lambda f, b: eqf.FedVARP(f, SGD, b, server_optim=optax.sgd(RATE)), x)


def test_mifa():
    x, latest = [3.0], np.zeros(3)
    for cohort in COHORTS:
        for i in cohort:
            latest[i] = sum(local(i, x[-1])[1])
        x.append(x[-1] - ETA * float(latest.mean()))
    check(lambda f, b: eqf.MIFA(f, ETA, b), x)


def test_mifa_at_a_rate_that_falls():
    # Latest gradients count at the rate of the round, not at that of when they came.
    x, latest = [3.0], np.zeros(3)
    for t, cohort in enumerate(COHORTS):
        eta = ETA / (1 + t)
        for i in cohort:
            y, latest[i] = x[-1], 0.0
            for _ in range(STEPS[i]):
                latest[i] += grad(i, y)
                y -= eta * grad(i, y)
        x.append(x[-1] - eta * float(latest.mean()))

    def make(f, b):
        return eqf.OverRounds(lambda t: eqf.MIFA(f, ETA / (1 + t.astype(float)), b))

    check(make, x)


def test_fedacg():
    lam, beta = 0.6, 0.5
    x, m = [3.0], 0.0
    for cohort in COHORTS:
        z, deltas = x[-1] + lam * m, []
        for i in cohort:
            y = z
            for _ in range(STEPS[i]):
                y -= ETA * (grad(i, y) + beta * (y - z))
            deltas.append(y - z)
        m = lam * m + float(np.mean(deltas))
        x.append(x[-1] + m)
    check(lambda f, b: eqf.FedACG(f, SGD, b, momentum=lam, beta=beta), x)


@pytest.mark.parametrize("alpha", (0.0, 0.4, 1.0))
def test_fedspeed(alpha):
    lam, hat, x = 1.5, np.zeros(3), [3.0]
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                up = grad(i, y + RHO * np.sign(grad(i, y)))
                mixed = (1 - alpha) * grad(i, y) + alpha * up
                y -= ETA * (mixed - hat[i] + (y - x[-1]) / lam)
            hat[i] -= (y - x[-1]) / lam
            sent.append(y - lam * hat[i])
        x.append(float(np.mean(sent)))
    check(lambda f, b: eqf.FedSpeed(f, SGD, b, lam=lam, rho=RHO, alpha=alpha), x)


def test_feddc():
    alpha, x = 0.3, [3.0]
    drift, last, mean = np.zeros(3), np.zeros(3), 0.0
    for cohort in COHORTS:
        # `last` and `mean` are g_i and g over K eta.
        sent, changes = [], []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                pull = alpha * (y + drift[i] - x[-1])
                y -= ETA * (grad(i, y) + pull + last[i] - mean)
            drift[i] += y - x[-1]
            last[i] = (y - x[-1]) / (ETA * STEPS[i])
            sent.append(y + drift[i])
            changes.append(last[i])
        x.append(float(np.mean(sent)))
        mean = float(np.mean(changes))
    check(lambda f, b: eqf.FedDC(f, SGD, b, alpha=alpha), x)


def test_fedlesam():
    x, received = [3.0], np.full(3, 3.0)
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            up, y = RHO * np.sign(received[i] - x[-1]), x[-1]
            for _ in range(STEPS[i]):
                y -= ETA * grad(i, y + up)
            received[i] = x[-1]
            ends.append(y)
        x.append(float(np.mean(ends)))
    check(lambda f, b: eqf.FedLESAM(f, SGD, b, rho=RHO), x)


def test_diloco():
    beta, rate, mu = 0.9, 0.7, 0.5
    x, traces, velocity = [3.0], np.zeros(3), 0.0
    for cohort in COHORTS:
        outer = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                traces[i] = beta * traces[i] + grad(i, y)
                y -= ETA * traces[i]
            outer.append(x[-1] - y)
        g = float(np.mean(outer))
        velocity = mu * velocity + g
        x.append(x[-1] - rate * (g + mu * velocity))
    inner = optax.sgd(ETA, momentum=beta)
    nesterov = optax.sgd(rate, momentum=mu, nesterov=True)
    check(lambda f, b: eqf.DiLoCo(f, inner, b, server_optim=nesterov), x)


def test_diloco_as_the_paper_sets_it():
    def made(**how):
        adam = optax.adamw(1e-3)
        return eqf.DiLoCo(testing.quadratic_loss, adam, BATCHING, **how)

    outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
    assert eqx.tree_equal(made(), made(server_optim=outer))


def test_muloco():
    """DiLoCo with Muon inside: a plain loop over Optax's, whose state is kept."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(2, 6, 4)).astype(np.float32)
    ys = rng.normal(size=(2, 6, 3)).astype(np.float32)

    def loss(weight, example, key):
        return jnp.sum((weight @ example["x"] - example["y"]) ** 2)

    def mean_loss(weight, x, y):
        return jnp.mean(jnp.sum((x @ weight.T - y) ** 2, axis=1))

    muon = optax.contrib.muon(0.05)
    outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
    first = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)

    @jax.jit
    def client(start, state, x, y):
        weight = start
        for _ in range(3):
            gradient = jax.grad(mean_loss)(weight, x, y)
            update, state = muon.update(gradient, state, weight)
            weight = weight + update
        return start - weight, state

    # Optax promotes in it.
    with jax.numpy_dtype_promotion("standard"):
        expected, outside = first, outer.init(first)
        inside = [muon.init(first)] * 2
        for _ in range(2):
            found = [client(expected, inside[i], xs[i], ys[i]) for i in range(2)]
            inside = [state for _, state in found]
            mean = (found[0][0] + found[1][0]) / 2
            update, outside = outer.update(mean, outside, expected)
            expected = optax.apply_updates(expected, update)

    batching = eqf.data.Epochs(3, batch_size=6)
    clients = {str(i): {"x": xs[i], "y": ys[i]} for i in range(2)}
    data = eqf.data.FederatedDataset.from_mapping(clients)
    loader = eqf.data.Loader(data, eqf.data.AllClients(), batching)
    solution = eqf.train(
        eqf.DiLoCo(loss, muon, batching), first, loader, num_rounds=2, key=jr.key(0)
    )
    np.testing.assert_allclose(
        np.asarray(solution.model), np.asarray(expected), rtol=1e-3, atol=1e-4
    )
