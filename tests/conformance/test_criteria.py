"""Methods that change what a client minimises, and Fed-Sophia, against their papers'
formulas in NumPy: a linear classifier, whose gradients are a few lines.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf


ETA, FEATURES, CLASSES = 0.3, 3, 4
SIZES = (6, 3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(sum(SIZES), FEATURES)).astype(np.float32)
# The first client has no example of class 3, the second none of 0 and 2.
Y = np.array([0, 1, 1, 2, 0, 1, 3, 3, 1], np.int32)
W = (0.5 * RNG.normal(size=(CLASSES, FEATURES))).astype(np.float32)
DATA = eqf.data.FederatedDataset.from_arrays(
    {"x": X, "label": Y}, np.repeat(["a", "b"], SIZES)
)
STEPS = eqf.data.Steps(3, batch_size=6, shuffle=False)
KEY = jr.key(0)


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def logits(model, example, key):
    return model(example["x"])


def loss(model, example, key):
    return eqf.cross_entropy(logits(model, example, key), example["label"])


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def trained(make, num_rounds=2):
    """The weights after some rounds in which both clients take part."""
    cohort = eqf.data.cohort(DATA, STEPS)
    algorithm = make(loss, STEPS)
    state = algorithm.init(Linear(jnp.asarray(W)), num_clients=2)
    for _ in range(num_rounds):
        state, metrics = algorithm.round(state, cohort, key=KEY)
    return np.asarray(state.model.weight), metrics


def expected(gradient, num_rounds=2):
    """Full-batch gradient descent at both clients, and the mean by their sizes."""
    x = W.astype(np.float64)
    for _ in range(num_rounds):
        ends = []
        for rows in (slice(0, 6), slice(6, 9)):
            w = x.copy()
            for _ in range(3):
                w -= ETA * gradient(w, x, X[rows].astype(np.float64), Y[rows])
            ends.append(w)
        x = (6 * ends[0] + 3 * ends[1]) / 9
    return x


def of_loss(w, inputs, labels):
    p = softmax(inputs @ w.T) - np.eye(CLASSES)[labels]
    return p.T @ inputs / len(labels)


SGD = optax.sgd(ETA)


def test_the_batches_are_all_of_a_clients_examples():
    weights, _ = trained(lambda f, b: eqf.FedAvg(f, SGD, b))
    by_hand = expected(lambda w, x, a, y: of_loss(w, a, y))
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5, atol=1e-6)


def test_fedntd():
    beta, tau = 0.7, 2.0

    def gradient(w, x, inputs, labels):
        others = 1 - np.eye(CLASSES)[labels]
        mine, theirs = (
            softmax(np.where(others > 0, inputs @ v.T / tau, -np.inf)) for v in (w, x)
        )
        # The derivative of KL(theirs, mine) along the logits is their difference.
        apart = (mine - theirs).T @ inputs / tau / len(labels)
        return of_loss(w, inputs, labels) + beta * apart

    weights, metrics = trained(
        lambda f, b: eqf.FedNTD(
            f, SGD, b, logits=logits, label="label", beta=beta, temperature=tau
        )
    )
    by_hand = expected(gradient)
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5, atol=1e-6)
    plain = expected(lambda w, x, a, y: of_loss(w, a, y))
    assert np.abs(by_hand - plain).max() > 1e-3
    assert set(metrics) == set(trained(lambda f, b: eqf.FedAvg(f, SGD, b))[1])


def test_fedlc():
    tau = 0.8

    def gradient(w, x, inputs, labels):
        counts = np.bincount(labels, minlength=CLASSES)
        with np.errstate(divide="ignore"):
            margins = tau / counts**0.25
        p = softmax(inputs @ w.T - margins) - np.eye(CLASSES)[labels]
        return p.T @ inputs / len(labels)

    weights, _ = trained(
        lambda f, b: eqf.FedLC(f, SGD, b, logits=logits, tau=tau), num_rounds=1
    )
    by_hand = expected(gradient, num_rounds=1)
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5, atol=1e-6)


def test_fedlc_reports_the_loss():
    # It is measured on the way; before the first step it is that of the model sent.
    one = eqf.data.Steps(1, batch_size=6, shuffle=False)
    cohort = eqf.data.cohort(DATA, one)
    algorithm = eqf.FedLC(loss, SGD, one, logits=logits, tau=0.8)
    state = algorithm.init(Linear(jnp.asarray(W)), num_clients=2)
    _, metrics = algorithm.round(state, cohort, key=KEY)
    losses = -np.log(softmax(X.astype(np.float64) @ W.T)[np.arange(9), Y])
    # The second client's batch holds each of its three examples twice.
    mean = (losses[:6].mean() + losses[6:].mean()) / 2
    np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-5)


def correlation_penalty(w, inputs):
    z = jnp.asarray(inputs) @ jnp.asarray(w).T
    z = (z - z.mean(0, keepdims=True)) / (z.std(0, keepdims=True))
    k = z.T @ z / len(inputs)
    return (k**2).sum() / CLASSES**2


def test_feddecorr():
    beta = 0.4
    slope = jax.jit(jax.grad(correlation_penalty))

    def gradient(w, x, inputs, labels):
        penalty = slope(w.astype(np.float32), inputs.astype(np.float32))
        return of_loss(w, inputs, labels) + beta * np.asarray(penalty)

    weights, _ = trained(
        lambda f, b: eqf.FedDecorr(f, SGD, b, representation=logits, beta=beta),
        num_rounds=1,
    )
    by_hand = expected(gradient, num_rounds=1)
    np.testing.assert_allclose(weights, by_hand, rtol=1e-4, atol=1e-5)
    plain = expected(lambda w, x, a, y: of_loss(w, a, y), num_rounds=1)
    assert np.abs(by_hand - plain).max() > 1e-3


def test_the_correlation_is_one_where_two_numbers_are_the_same():
    criterion = eqf.Decorrelation(lambda model, example, key: example, beta=1.0)
    z = jnp.asarray(RNG.normal(size=(5, 1)), jnp.float32)
    keys, mask = jr.split(KEY, 5), jnp.array([True] * 4 + [False])

    def penalty(z):
        return criterion.value(jnp.zeros(()), None, z, mask, None, keys=keys)

    same = penalty(jnp.concatenate([z, -2 * z + 3], axis=1))
    np.testing.assert_allclose(same, 1.0, rtol=1e-5)
    # A number that does not vary, and a batch of one example, add nothing.
    still = penalty(jnp.concatenate([z, jnp.ones_like(z)], axis=1))
    np.testing.assert_allclose(still, 0.25, rtol=1e-5)
    alone = criterion.value(jnp.zeros(()), None, z, jnp.arange(5) == 2, None, keys=keys)
    assert alone == 0


@pytest.mark.parametrize("interval", (2, 5))
def test_fedsophia(interval):
    # The logits are far apart, so that the label that is drawn is known.
    rate, rho, b1, b2, decay = 0.05, 0.3, 0.6, 0.8, 0.1
    sure = 200.0

    def steep(model, example, key):
        return sure * jax.nn.one_hot(jnp.argmax(example["x"]), CLASSES) + logits(
            model, example, key
        )

    def make(f, b):
        return eqf.FedSophia(
            *(f, rate, b),
            **{"logits": steep, "rho": rho, "beta1": b1, "beta2": b2},
            **{"weight_decay": decay, "interval": interval, "eps": 1e-6},
        )

    x, kept = W.astype(np.float64), [(0.0, 0.0, 0), (0.0, 0.0, 0)]
    for _ in range(2):
        ends = []
        for i, rows in enumerate((slice(0, 6), slice(6, 9))):
            w, (m, h, t) = x.copy(), kept[i]
            inputs = X[rows].astype(np.float64)
            for _ in range(3):
                m = b1 * m + (1 - b1) * of_loss(w, inputs, Y[rows])
                if t % interval == 0:
                    drawn = inputs.argmax(1)
                    z = sure * np.eye(CLASSES)[drawn] + inputs @ w.T
                    p = softmax(z) - np.eye(CLASSES)[drawn]
                    g = p.T @ inputs / len(inputs)
                    h = b2 * h + (1 - b2) * len(inputs) * g**2
                w -= rate * decay * w
                w -= rate * np.clip(m / np.maximum(h, 1e-6), -rho, rho)
                t += 1
            kept[i] = (m, h, t)
            ends.append(w)
        x = (ends[0] + ends[1]) / 2
    weights, _ = trained(make)
    np.testing.assert_allclose(weights, x, rtol=1e-4, atol=1e-5)


def test_sophias_curvature_is_that_of_the_loss_in_the_mean():
    # Over labels that the model draws, the mean is the diagonal of Gauss and Newton.
    algorithm = eqf.FedSophia(loss, 0.1, STEPS, logits=logits, rho=1.0)
    params, rest = eqx.partition(Linear(jnp.asarray(W)), eqx.is_array)
    examples = {"x": jnp.asarray(X), "label": jnp.asarray(Y)}
    mask = jnp.arange(9) < 7

    @jax.jit
    @jax.vmap
    def estimates(key):
        return algorithm.client._curvature(params, rest, examples, mask, key=key)

    got = np.asarray(estimates(jr.split(KEY, 4000)).weight)
    inputs = X[:7].astype(np.float64)
    p = softmax(inputs @ W.T.astype(np.float64))
    wanted = (p * (1 - p)).T @ inputs**2 / 7
    error = got.std(0) / np.sqrt(len(got))
    assert np.all(np.abs(got.mean(0) - wanted) < 5 * error)


@pytest.mark.parametrize(
    "make",
    [
        eqf.FedNTD,
        lambda *x, **y: eqf.FedLC(*x, tau=1, **y),
        lambda *x, **y: eqf.FedRoD(*x, head=lambda m: m.weight, **y),
    ],
)
@pytest.mark.parametrize("labels", [(-1, 3, 1), (4, 4, 4)])
def test_a_label_without_a_logit_is_found_out(make, labels):
    # The loss does not look at it: nothing but the criterion can say so. It makes the
    # second client's change NaN, and that of the other is as it was.
    def f(model, example, key):
        return jnp.sum(logits(model, example, key) ** 2)

    label = np.concatenate([Y[:6], np.array(labels, np.int32)])
    data = eqf.data.FederatedDataset.from_arrays(
        {"x": X, "label": label}, np.repeat(["a", "b"], SIZES)
    )
    keep = eqf.DropNonfinite(eqf.UniformMean())
    algorithm = make(f, SGD, STEPS, logits=logits, aggregator=keep)
    state = algorithm.init(Linear(jnp.asarray(W)), num_clients=2)
    new, metrics = algorithm.round(state, eqf.data.cohort(data, STEPS), key=KEY)
    assert metrics["nonfinite"] == 1
    assert metrics["clients"] == 1
    assert np.isfinite(new.model.weight).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_numbers_that_are_the_same_for_all_have_no_correlation(dtype):
    # Rounding must not make a correlation of them: 1000.1 has no exact mean.
    criterion = eqf.Decorrelation(lambda model, example, key: model * example, beta=1)
    examples = jnp.full((7, 2), 1000.1, dtype)
    keys, mask = jr.split(KEY, 7), jnp.ones(7, bool)

    def value(model):
        zero = jnp.zeros((), dtype)
        return criterion.value(zero, model, examples, mask, None, keys=keys)

    penalty, slope = jax.value_and_grad(value)(jnp.ones(2, dtype))
    assert penalty == 0
    assert jnp.all(slope == 0)


@jax.jit
def of_two_classes(model):
    """The criteria's values with labels that are truth values, and with integers."""
    examples = {"x": jnp.asarray(X), "label": jnp.asarray(Y)}
    parts = model, examples, jnp.ones(9, bool)
    other = eqx.partition(Linear(-model.weight), eqx.is_array)
    counts = jnp.asarray([5.0, 4.0])
    out = {}
    for kind in (bool, jnp.int8):
        given = {
            "logits": lambda model, example, key: logits(model, example, key)[:2],
            "label": lambda example, kind=kind: (example["label"] > 1).astype(kind),
        }
        fedntd = eqf.NotTrueDistillation(**given, beta=1)
        fedlc = eqf.CalibratedCrossEntropy(**given, tau=1)
        out[kind.__name__] = [
            criterion.value(jnp.zeros(()), *parts, extra, keys=jr.split(KEY, 9))
            for criterion, extra in ((fedntd, other), (fedlc, counts))
        ]
    return out


def test_truth_values_are_labels():
    values = of_two_classes(Linear(jnp.asarray(W)))
    np.testing.assert_array_equal(values["bool"], values["int8"])
    assert values["bool"][1] > 0


def test_fedsophia_in_half_precision():
    dtype = jnp.float16
    # The last feature is 0, and so are its gradient and its curvature. The gradients'
    # squares are too small for float16; `eps` is 0 there.
    data = eqf.data.FederatedDataset.from_arrays(
        {"x": 1e-2 * X * [1, 1, 0], "label": Y}, np.repeat(["a", "b"], SIZES)
    )

    def half(model, example, key):
        return model(example["x"].astype(dtype))

    def f(model, example, key):
        return eqf.cross_entropy(half(model, example, key), example["label"])

    algorithm = eqf.FedSophia(f, 0.25, STEPS, logits=half, rho=0.5)
    state = algorithm.init(Linear(jnp.asarray(W, dtype)), num_clients=2)
    for _ in range(2):
        state, _ = algorithm.round(state, eqf.data.cohort(data, STEPS), key=KEY)
    moved = np.asarray(state.model.weight, np.float32) - np.asarray(W, dtype)
    assert state.model.weight.dtype == dtype
    np.testing.assert_array_equal(moved[:, 2], 0)
    # Where the curvature is this small, steps are as long as they may be.
    assert 0.5 < np.abs(moved[:, :2]).max() < 2 * 3 * 0.25 * 0.51
    _, curvature, _ = state.clients
    assert 0 < np.abs(np.asarray(curvature.weight)[..., 0]).min() < 1e-5


def test_what_is_no_label_and_no_representation_is_refused():
    def nothing(*x):
        return logits(*x)[:0]

    with pytest.raises(TypeError, match="`label` must.*got a `dict` of 2"):
        trained(lambda *x: eqf.FedLC(x[0], SGD, x[1], logits=logits, label=dict, tau=1))
    with pytest.raises(ValueError, match="`representation` must make a vector"):
        trained(lambda *x: eqf.FedDecorr(x[0], SGD, x[1], representation=nothing))
