"""Methods that give each client a model of its own, or let it keep its last one,
against their papers' pseudo-code in NumPy: the quadratics of `test_papers.py`, and the
classifier of `test_criteria.py`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_criteria import DATA, Linear, logits, loss, of_loss, softmax, W, X, Y
from .test_papers import A, B, BATCHING, COHORTS, ETA, PROBLEM, ROUNDS, SAMPLER, STEPS


SGD = optax.sgd(ETA)
LOADER = eqf.data.Loader(PROBLEM.dataset(), SAMPLER, BATCHING)


def grad(i, y):
    return A[i] * (y - B[i])


def ran(make):
    """The server's number after each round, and every client's own after the last."""
    algorithm = make(testing.quadratic_loss, BATCHING)
    state, x = algorithm.init(testing.Point(3.0), num_clients=3), [3.0]
    first = own_numbers(algorithm, state)
    np.testing.assert_array_equal(first, [3.0] * 3)
    for state, _ in eqf.rounds(  # noqa: B020
        algorithm, state, LOADER, num_rounds=ROUNDS, key=jr.key(0)
    ):
        x.append(float(state.model.x))
    return np.array(x), own_numbers(algorithm, state)


def own_numbers(algorithm, state):
    own = eqx.filter_vmap(algorithm.own_model, in_axes=(None, 0), axis_size=3)
    return np.asarray(eqx.filter_jit(own)(state, state.clients).x)


def check(make, server, own):
    x, models = ran(make)
    np.testing.assert_allclose(x, server, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(models, own, rtol=2e-5, atol=2e-5)


def of_fedavg():
    x = [3.0]
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                y -= ETA * grad(i, y)
            ends.append(y)
        x.append(float(np.mean(ends)))
    return x


def test_not_everybody_takes_part():
    # There is a round before which somebody was absent, and one after it.
    assert len(COHORTS[0]) < 3
    assert len({i for cohort in COHORTS for i in cohort}) == 3


@pytest.mark.parametrize("lam", (0.0, 0.8))
def test_ditto(lam):
    rate, x, v = 0.07, of_fedavg(), np.full(3, 3.0)
    for w, cohort in zip(x, COHORTS, strict=False):
        for i in cohort:
            for _ in range(STEPS[i]):
                v[i] -= rate * (grad(i, v[i]) + lam * (v[i] - w))
    own = optax.sgd(rate)
    check(lambda f, b: eqf.Ditto(f, SGD, b, lam=lam, own_optim=own), x, v)


@pytest.mark.parametrize("first, alpha_rate", ((0.0, 0.0), (0.6, 0.0), (0.6, 0.02)))
def test_apfl(first, alpha_rate):
    rate, x = 0.07, [3.0]
    v, alpha = np.full(3, 3.0), np.full(3, first)
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            w = x[-1]
            for k in range(STEPS[i]):
                slope = grad(i, alpha[i] * v[i] + (1 - alpha[i]) * w)
                new = alpha[i] - alpha_rate * (v[i] - w) * slope
                w, v[i] = w - ETA * grad(i, w), v[i] - rate * alpha[i] * slope
                alpha[i] = np.clip(new, 0, 1) if k == 0 else alpha[i]
            ends.append(w)
        x.append(float(np.mean(ends)))
    np.testing.assert_allclose(x, of_fedavg())
    assert (len(set(alpha)) > 1) == (alpha_rate > 0)
    check(
        lambda f, b: eqf.APFL(
            *(f, SGD, b),
            alpha=first,
            alpha_learning_rate=alpha_rate,
            own_optim=optax.sgd(rate),
        ),
        x,
        alpha * v + (1 - alpha) * x[-1],
    )


def test_pfedme():
    lam, rate, steps, beta = 1.5, 0.1, 3, 0.7
    x, own = [3.0], np.full(3, 3.0)
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            w, theta = x[-1], x[-1]
            for _ in range(STEPS[i]):
                for _ in range(steps):
                    theta -= rate * (grad(i, theta) + lam * (theta - w))
                w -= ETA * lam * (w - theta)
            own[i] = theta
            ends.append(w)
        x.append((1 - beta) * x[-1] + beta * float(np.mean(ends)))
    check(
        lambda f, b: eqf.PFedMe(
            *(f, SGD, b),
            lam=lam,
            own_learning_rate=rate,
            own_steps=steps,
            server_optim=optax.sgd(beta),
        ),
        x,
        own,
    )


@pytest.mark.parametrize("form, size", (("FO", 2), ("HF", 3)))
@pytest.mark.parametrize("alpha", (0.0, 0.1))
def test_perfedavg(form, size, alpha):
    x = [3.0]
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            w, scale = x[-1], 1 - alpha * A[i] if form == "HF" else 1.0
            for _ in range(STEPS[i] // size):
                adapted = w - alpha * grad(i, w)
                w -= ETA * scale * grad(i, adapted)
            # One with fewer batches than a step takes counts as absent.
            ends += [w] if STEPS[i] >= size else []
        x.append(float(np.mean(ends)))
    assert (min(STEPS) < size) == (form == "HF")
    check(lambda f, b: eqf.PerFedAvg(f, SGD, b, alpha=alpha, form=form), x, [x[-1]] * 3)


@pytest.mark.parametrize("form, size", (("FO", 2), ("HF", 3)))
def test_perfedavg_takes_a_batch_for_each_gradient(form, size):
    # Every batch is one example, with a curvature and a centre of its own.
    alpha, batching = 0.1, eqf.data.Steps(7, batch_size=1, shuffle=False)
    a, b = np.linspace(0.5, 2, 7), np.linspace(-1, 2, 7) ** 3
    columns = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    data = eqf.data.FederatedDataset.from_arrays(columns, np.zeros(7, int))
    w = 3.0
    for k in range(0, 7 - size + 1, size):
        adapted = w - alpha * a[k] * (w - b[k])
        slope = a[k + 1] * (adapted - b[k + 1])
        w -= ETA * (slope if form == "FO" else (1 - alpha * a[k + 2]) * slope)
    algorithm = eqf.PerFedAvg(
        testing.quadratic_loss, SGD, batching, alpha=alpha, form=form
    )
    state = algorithm.init(testing.Point(3.0), num_clients=1)
    cohort = eqf.data.cohort(data, batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    np.testing.assert_allclose(state.model.x, w, rtol=1e-5)


# A linear classifier, of two clients.


ROUNDS_OF = ([0, 1], [1], [0], [1, 0])
PASSES = eqf.data.Epochs(2, batch_size=3, shuffle=False)
BATCHES = ([slice(0, 3), slice(3, 6)] * 2, [slice(6, 9)] * 2)
SIZES = np.array([6, 3])
RATE = 0.3


class Given(eqf.data.AbstractSampler):
    """The clients of each round are written above."""

    seed: int = 0

    def __call__(self, round, num_clients):
        return np.array(ROUNDS_OF[round])

    def max_clients(self, num_clients):
        return 2


class Halves(eqx.Module):
    """The same classifier, in two arrays."""

    first: jax.Array
    second: jax.Array

    def __init__(self, weight):
        self.first, self.second = weight[:2], weight[2:]

    def __call__(self, x):
        return jnp.concatenate([self.first @ x, self.second @ x])


def as_one(model):
    if isinstance(model, Halves):
        return np.concatenate([model.first, model.second])
    return np.asarray(model.weight)


def classified(make, first=W, model: Callable = Linear, batching=PASSES):
    """An algorithm, and its state after these rounds."""
    algorithm = make(loss, batching)
    state = algorithm.init(model(jnp.asarray(first)), num_clients=2)
    loader = eqf.data.Loader(DATA, Given(), batching)
    run = eqf.rounds(algorithm, state, loader, num_rounds=4, key=jr.key(0))
    for state, metrics in run:  # noqa: B007
        assert np.isfinite(metrics["loss"])
        assert metrics["nonfinite"] == 0
    return algorithm, state


def own_models(algorithm, state):
    rows = (jax.tree.map(lambda x, i=i: x[i], state.clients) for i in range(2))
    return [algorithm.own_model(state, row) for row in rows]


def own_weights(algorithm, state):
    return list(map(as_one, own_models(algorithm, state)))


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("momentum", (0.0, 0.9))
def test_centralised(momentum):
    """One client that has everything: plain SGD, begun anew in each round."""
    data = DATA.pooled()
    algorithm = eqf.FedAvg(loss, optax.sgd(RATE, momentum=momentum), PASSES)
    state = algorithm.init(Linear(jnp.asarray(W)), num_clients=1)
    loader = eqf.data.Loader(data, eqf.data.AllClients(), PASSES)
    run = eqf.rounds(algorithm, state, loader, num_rounds=3, key=jr.key(0))
    w, count = W.astype(np.float64), 0
    for state, metrics in run:
        v, losses = 0.0, []
        for rows in [slice(0, 3), slice(3, 6), slice(6, 9)] * 2:
            inputs, labels = X[rows].astype(np.float64), Y[rows]
            right = softmax(inputs @ w.T)[np.arange(3), labels]
            losses.append(-np.log(right).mean())
            v = momentum * v + of_loss(w, inputs, labels)
            w = w - RATE * v
            count += 1
        close(state.model.weight, w)
        assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert count == 18


def curved(w, v, inputs):
    """The Hessian of the loss at `w`, times `v`."""
    p = softmax(inputs @ w.T)
    along = inputs @ v.T
    return (p * (along - (p * along).sum(1, keepdims=True))).T @ inputs / len(inputs)


@pytest.mark.parametrize("form, size", (("FO", 2), ("HF", 3)))
def test_perfedavg_where_the_curvature_changes(form, size):
    """The Hessian is that of the third batch, where the step begins."""
    alpha, plans = 0.4, ([slice(0, 3), slice(3, 6)] * 3, [slice(6, 9)] * 3)
    x, elsewhere = W.astype(np.float64), []
    for cohort in ROUNDS_OF:
        ends = []
        for i in cohort:
            w = x.copy()
            data = [(X[rows].astype(np.float64), Y[rows]) for rows in plans[i]]
            for k in range(0, len(data) - size + 1, size):
                slope = of_loss(w - alpha * of_loss(w, *data[k]), *data[k + 1])
                if form == "HF":
                    inputs, _ = data[k + 2]
                    product = curved(w, slope, inputs)
                    elsewhere.append(curved(x, slope, inputs) - product)
                    slope = slope - alpha * product
                w -= RATE * slope
            ends.append(w)
        x = np.mean(ends, axis=0)
    # It is another one after a step.
    assert (np.abs(elsewhere).max(initial=0) > 1e-3) == (form == "HF")
    _, state = classified(
        lambda f, b: eqf.PerFedAvg(f, optax.sgd(RATE), b, alpha=alpha, form=form),
        batching=eqf.data.Epochs(3, batch_size=3, shuffle=False),
    )
    close(state.model.weight, x)


def lengths(z):
    return np.linalg.norm(z, axis=-1, keepdims=True)


def cosines(z, other):
    """And their derivative along `z`."""
    unit, direction = other / lengths(other), z / lengths(z)
    cosine = (unit * direction).sum(-1, keepdims=True)
    return cosine, (unit - cosine * direction) / lengths(z)


@pytest.mark.parametrize("mu", (0.0, 2.0))
def test_moon(mu):
    tau, x, last = 0.5, W.astype(np.float64), [W.astype(np.float64)] * 2
    for cohort in ROUNDS_OF:
        ends = []
        for i in cohort:
            w = x.copy()
            for rows in BATCHES[i]:
                inputs = X[rows].astype(np.float64)
                near, up = cosines(inputs @ w.T, inputs @ x.T)
                far, down = cosines(inputs @ w.T, inputs @ last[i].T)
                share = np.exp(far / tau) / (np.exp(near / tau) + np.exp(far / tau))
                apart = share / tau * (down - up)
                slope = of_loss(w, inputs, Y[rows])
                w -= RATE * (slope + mu * apart.T @ inputs / len(inputs))
            last[i] = w
            ends.append(w)
        x = np.average(ends, axis=0, weights=SIZES[cohort])
    algorithm, state = classified(
        lambda f, b: eqf.MOON(f, optax.sgd(RATE), b, representation=logits, mu=mu)
    )
    close(state.model.weight, x)
    close(own_weights(algorithm, state), [x, x])
    close(state.clients.weight, last)


def test_moon_of_a_representation_of_length_0():
    # The first model's are.
    _, state = classified(
        lambda f, b: eqf.MOON(f, optax.sgd(RATE), b, representation=logits, mu=2.0),
        first=np.zeros_like(W),
    )
    assert np.isfinite(state.model.weight).all()
    assert np.abs(state.model.weight).max() < 10


@pytest.mark.parametrize("part, eta", ((None, 0.5), (None, 0.0), (2, 0.5)))
def test_fedala(part, eta):
    share, passes = 0.6, 3
    x = W.astype(np.float64)
    own, weights, rounds = [x, x], [np.ones_like(x)] * 2, [0, 0]
    # Of the first rows alone, or of all of them.
    adapted = np.arange(len(W))[:, None] < (len(W) if part is None else part)
    for cohort in ROUNDS_OF:
        ends = []
        for i in cohort:

            def mixed(w, i=i, x=x):
                return np.where(adapted, own[i] + (x - own[i]) * w, x)

            count = int(np.ceil(share * SIZES[i] / 3))
            for _ in range((0, passes, 1)[min(rounds[i], 2)]):
                for rows in BATCHES[i][:count]:
                    inputs = X[rows].astype(np.float64)
                    slope = of_loss(mixed(weights[i]), inputs, Y[rows])
                    new = weights[i] - eta * slope * (x - own[i])
                    weights[i] = np.clip(new, 0, 1)
            w = x.copy() if rounds[i] == 0 else mixed(weights[i])
            for rows in BATCHES[i]:
                w -= RATE * of_loss(w, X[rows].astype(np.float64), Y[rows])
            own[i], rounds[i] = w, rounds[i] + 1
            ends.append(w)
        x = np.average(ends, axis=0, weights=SIZES[cohort])

    def make(f, b):
        return eqf.FedALA(
            *(f, optax.sgd(RATE), b),
            adapts=None if part is None else lambda m: m.first,
            weight_learning_rate=eta,
            share=share,
            first_passes=passes,
        )

    algorithm, state = classified(make, model=Linear if part is None else Halves)
    # Where they stay at 1 this is FedAvg.
    assert any((w < 1).any() for w in weights) == (eta > 0)
    close(as_one(state.model), x)
    close(own_weights(algorithm, state), own)


class TwoLayers(eqx.Module):
    """A body that is trained too, and a linear head without a bias."""

    body: jax.Array
    head: jax.Array

    def __init__(self, weight):
        self.body, self.head = 0.5 + jnp.eye(3), weight

    def __call__(self, x):
        return self.head @ jnp.tanh(self.body @ x)


def head_of(model):
    return model.head


def slopes(body, head, z_slope, inputs):
    """From the derivative along the logits to those along both layers."""
    hidden = np.tanh(inputs @ body.T)
    of_hidden = (z_slope @ head) * (1 - hidden**2)
    return of_hidden.T @ inputs, z_slope.T @ hidden


@pytest.mark.parametrize("gamma", (1.0, 0.0))
def test_fedrod(gamma):
    body, head = 0.5 + np.eye(3), W.astype(np.float64)
    own = [np.zeros_like(head)] * 2
    counts = [np.bincount(Y[rows], minlength=4) for rows in (slice(6), slice(6, 9))]
    assert min(map(min, counts)) == 0
    for cohort in ROUNDS_OF:
        ends = []
        for i in cohort:
            b, h = body.copy(), head.copy()
            for rows in BATCHES[i]:
                inputs, hot = X[rows].astype(np.float64), np.eye(4)[Y[rows]]
                hidden = np.tanh(inputs @ b.T)
                prior = counts[i] ** gamma
                both = (softmax(hidden @ (h + own[i]).T) - hot) / len(inputs)
                p = prior * np.exp(hidden @ h.T)
                z = (p / p.sum(1, keepdims=True) - hot) / len(inputs)
                of_body, of_head = slopes(b, h, z, inputs)
                own[i] = own[i] - RATE * both.T @ hidden
                b, h = b - RATE * of_body, h - RATE * of_head
            ends.append((b, h))
        body, head = (
            np.average(x, axis=0, weights=SIZES[cohort])
            for x in zip(*ends, strict=True)
        )
    algorithm, state = classified(
        lambda f, b: eqf.FedRoD(
            *(f, optax.sgd(RATE), b),
            logits=logits,
            head=head_of,
            gamma=gamma,
        ),
        model=TwoLayers,
    )
    close(state.model.body, body)
    close(state.model.head, head)
    for model, o in zip(own_models(algorithm, state), own, strict=True):
        close(model.head, head + o)
        close(model.body, body)


def hidden(model, example, key):
    return jnp.tanh(model.body @ example["x"])


@pytest.mark.parametrize("lam", (0.0, 0.7))
def test_fedproto(lam):
    bodies, heads = [0.5 + np.eye(3)] * 2, [W.astype(np.float64)] * 2
    means, known = np.zeros((5, 3)), np.zeros(5)
    for number, cohort in enumerate(ROUNDS_OF):
        sums, counts = np.zeros((5, 3)), np.zeros(5)
        for i in cohort:
            b, h = bodies[i].copy(), heads[i].copy()
            for rows in BATCHES[i]:
                inputs, labels = X[rows].astype(np.float64), Y[rows]
                z = np.tanh(inputs @ b.T)
                p = (softmax(z @ h.T) - np.eye(4)[labels]) / len(inputs)
                of_body, of_head = slopes(b, h, p, inputs)
                apart = known[labels, None] * (z - means[labels])
                along = 2 * lam * apart / z.size * (1 - z**2)
                b = b - RATE * (of_body + along.T @ inputs)
                h = h - RATE * of_head
            bodies[i], heads[i] = b, h
            rows = slice(0, 6) if i == 0 else slice(6, 9)
            hot = np.eye(5)[Y[rows]]
            sums += hot.T @ np.tanh(X[rows] @ b.T)
            counts += hot.sum(0)
        there = counts > 0
        means[there] = sums[there] / counts[there][:, None]
        known = np.maximum(known, there)
        # Not every class is there in each round.
        assert there[:4].all() == (number in (0, 3))
    algorithm, state = classified(
        lambda f, b: eqf.FedProto(
            *(f, optax.sgd(RATE), b),
            representation=hidden,
            num_classes=5,
            num_features=3,
            lam=lam,
        ),
        model=TwoLayers,
    )
    for model, b, h in zip(own_models(algorithm, state), bodies, heads, strict=True):
        close(model.body, b)
        close(model.head, h)
    # Nobody has the last class.
    np.testing.assert_array_equal(state.server.known, [1, 1, 1, 1, 0])
    close(state.server.mean, means)
    assert algorithm.model(state) is None


class Either(eqx.Module):
    """A network of one of two kinds; what they say of an example is of one length."""

    small: eqx.nn.Linear
    large: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 3)
        self.small = eqx.nn.Linear(3, 2, key=keys[0])
        self.large = eqx.nn.MLP(3, 2, 5, 1, key=keys[1])
        self.head = eqx.nn.Linear(2, "scalar", key=keys[2])

    def features(self, example, key):
        del key
        kinds = [lambda x: self.small(x), lambda x: self.large(x)]
        return jax.lax.switch(example["kind"], kinds, example["x"])


@pytest.mark.parametrize("block_size", (1, 2))
def test_fedproto_with_networks_of_two_kinds(block_size):
    """Each client trains its own kind, drawn to prototypes of both kinds."""
    plain = testing.ragged_clients((5, 3, 6, 8))
    kinds = np.repeat([0, 1, 0, 1], plain.client_sizes).astype(np.int32)
    label = (np.asarray(plain.columns["y"]) > 0).astype(np.int32)
    data = eqf.data.FederatedDataset.from_arrays(
        {"x": np.asarray(plain.columns["x"]), "label": label, "kind": kinds},
        by=np.repeat(np.arange(4), plain.client_sizes),
    )
    batching = eqf.data.Epochs(1, batch_size=4)

    def loss(model, example, key):
        z = model.features(example, key)
        return (model.head(z) - example["label"].astype(z.dtype)) ** 2

    algorithm = eqf.FedProto(
        *(loss, optax.sgd(0.1), batching),
        representation=Either.features,
        num_classes=2,
        num_features=2,
    )
    model = Either(jr.key(0))
    state = algorithm.init(model, num_clients=4)
    cohort = eqf.data.cohort(data, batching)
    executor = eqf.Executor(block_size=block_size)
    for _ in range(2):
        state, _ = algorithm.round(state, cohort, key=jr.key(1), executor=executor)
    sums, counts = np.zeros((2, 2)), np.zeros(2)
    for i in range(4):
        kept = jax.tree.map(lambda x: x[i], state.clients)  # noqa: B023
        own = algorithm.own_model(state, kept)
        trained, idle = (own.small, own.large) if i % 2 == 0 else (own.large, own.small)
        begun = model.large if i % 2 == 0 else model.small
        assert eqx.tree_equal(idle, begun)
        examples = data.client(i)
        z = np.asarray(jax.vmap(trained)(examples["x"]))
        hot = np.eye(2)[examples["label"]]
        sums, counts = sums + hot.T @ z, counts + hot.sum(0)
    assert not np.allclose(state.server.mean[0], state.server.mean[1])
    close(state.server.mean, sums / counts[:, None])


def test_fedproto_with_a_class_that_there_is_not():
    columns = {"x": np.ones((3, 3), np.float32), "label": np.array([0, 2, 1])}
    data = eqf.data.FederatedDataset.from_arrays(columns, by=np.zeros(3, int))
    batching = eqf.data.Epochs(1, batch_size=4)
    algorithm = eqf.FedProto(
        *(lambda model, example, key: model @ example["x"], optax.sgd(0.1), batching),
        representation=lambda model, example, key: model * example["x"],
        num_classes=2,
        num_features=3,
    )
    loader = eqf.data.Loader(data, eqf.data.AllClients(), batching)
    words = "`label` gives 2 for row 1 of client '0', by column 'label', but there are "
    words += "`num_classes=2`, from 0 to 1. Give `num_classes=3`"
    with pytest.raises(ValueError, match=words):
        eqf.train(algorithm, jnp.ones(3), loader, num_rounds=1, key=jr.key(0))
