"""Methods of adapters, against their rounds in NumPy: which mean each of them takes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed.nn import adapters, LoRA, lora, lora_a, lora_b, merge


KEY = jr.key(0)
SIZES, RATE, STEPS, ROUNDS = (2, 6, 4), 0.1, 3, 2
INPUTS, OUTPUTS, RANK, SCALE = 4, 3, 2, 0.5
RNG = np.random.default_rng(0)
X = [RNG.normal(size=(n, INPUTS)) for n in SIZES]
Y = [RNG.normal(size=(n, OUTPUTS)) for n in SIZES]
PART = np.array(SIZES) / sum(SIZES)
ALL = range(len(SIZES))


def loss(model, example, key):
    error = model(example["x"].astype(jnp.float32)) - example["y"].astype(jnp.float32)
    return 0.5 * jnp.sum(error**2)


def begun(seed=0) -> Any:
    """A layer whose adapters have learnt something."""
    layer = lora(
        eqx.nn.Linear(INPUTS, OUTPUTS, key=KEY), RANK, alpha=SCALE * RANK, key=KEY
    )
    b = np.random.default_rng(seed).normal(size=(OUTPUTS, RANK))
    return eqx.tree_at(lambda x: x.b, layer, jnp.asarray(b, jnp.float32))


def trained(make, where=adapters, ranks=None, rounds=ROUNDS, model=None, **roles):
    """The model after some rounds of all clients, each batch all that one has; and the
    last round's metrics and the state."""
    clients = {str(i): {"x": X[i], "y": Y[i]} for i in ALL}
    data = eqf.data.FederatedDataset.from_mapping(clients)
    batching = eqf.data.Epochs(STEPS, batch_size=max(SIZES))
    info = None if ranks is None else lambda _, clients: {"rank": ranks[clients]}
    loader = eqf.data.Loader(data, eqf.data.AllClients(), batching, info=info)
    model = begun() if model is None else model
    algorithm = make(loss, optax.sgd(RATE), batching)
    roles = eqf.roles(model, shared=where, **roles)
    state = algorithm.init(model, num_clients=len(SIZES), roles=roles, key=KEY)
    metrics = {}
    for i in range(rounds):
        state, metrics = algorithm.round(state, loader(i), key=KEY)
    return algorithm.model(state), metrics, state


def local(w, bias, a, b, i, *, moves="ab"):
    """A client's steps, on A or B or both."""
    a, b = a.copy(), b.copy()
    for _ in range(STEPS):
        error = X[i] @ (w + SCALE * b @ a).T + bias - Y[i]
        g = error.T @ X[i] / SIZES[i]
        step_a, step_b = SCALE * b.T @ g, SCALE * g @ a.T
        a -= RATE * step_a * ("a" in moves)
        b -= RATE * step_b * ("b" in moves)
    return a, b


def parts(model):
    base = model.base
    arrays = (base.weight, base.bias, model.a, model.b)
    return tuple(np.asarray(x, np.float64) for x in arrays)


def mean(xs):
    return np.tensordot(PART, np.stack(xs), axes=1)


def bits(numbers):
    """With the weight of each client's message."""
    return 32 * (numbers + 1) * len(SIZES)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("where", "moves"), [(adapters, "ab"), (lora_b, "b")], ids=["FedIT", "FFA-LoRA"]
)
def test_means_of_adapters(where, moves):
    w, bias, a, b = parts(begun())
    for _ in range(ROUNDS):
        pairs = [local(w, bias, a, b, i, moves=moves) for i in ALL]
        a, b = mean([p[0] for p in pairs]), mean([p[1] for p in pairs])
    model, metrics, _ = trained(eqf.FedAvg, where)
    close(model.a, a)
    close(model.b, b)
    close(model.base.weight, w)
    sent = OUTPUTS * RANK + ("a" in moves) * RANK * INPUTS
    assert int(metrics["bits_up"]) == bits(sent)


def test_fedsa_lora():
    w, bias, a, b = parts(begun())
    own = [b for _ in ALL]
    for _ in range(ROUNDS):
        pairs = [local(w, bias, a, own[i], i) for i in ALL]
        a, own = mean([p[0] for p in pairs]), [p[1] for p in pairs]
    model, metrics, state = trained(eqf.FedPer, lora_a, personal=lora_b)
    close(model.a, a)
    kept = jax.tree.leaves(state.clients)
    assert len(kept) == 1
    close(kept[0], np.stack(own))
    assert int(metrics["bits_up"]) == bits(RANK * INPUTS)


def test_rolora():
    w, bias, a, b = parts(begun())
    for t in range(3):
        pairs = [local(w, bias, a, b, i, moves="ba"[t % 2]) for i in ALL]
        a, b = mean([p[0] for p in pairs]), mean([p[1] for p in pairs])
    for rounds, sent in ((2, RANK * INPUTS), (3, OUTPUTS * RANK)):
        model, metrics, _ = trained(eqf.RoLoRA, rounds=rounds)
        assert int(metrics["bits_up"]) == bits(sent)
    close(model.a, a)
    close(model.b, b)


def test_fedex_lora():
    w, bias, a, b = parts(begun())
    for _ in range(ROUNDS):
        pairs = [local(w, bias, a, b, i) for i in ALL]
        models = [w + SCALE * y @ x for x, y in pairs]
        a, b = mean([p[0] for p in pairs]), mean([p[1] for p in pairs])
        w = mean(models) - SCALE * b @ a
    model, metrics, _ = trained(eqf.FedExLoRA)
    close(model.a, a)
    close(model.b, b)
    close(model.base.weight, w)
    close(merge(model).weight, mean(models))
    sent = RANK * (INPUTS + OUTPUTS)
    assert int(metrics["bits_up"]) == bits(sent)
    down = sent + INPUTS * OUTPUTS
    assert int(metrics["bits_down"]) == 32 * down * len(SIZES)


@pytest.mark.parametrize("ranks", [None, np.array([2, 1, 2])])
def test_flora(monkeypatch, ranks):
    """The A of all clients is one that is known here; that they are random is below."""
    first = np.random.default_rng(3).normal(size=(RANK, INPUTS))

    def known(layer, key):
        return jnp.asarray(first, jnp.float32)

    monkeypatch.setattr("equifed._algorithm.adapters.fresh_a", known)
    w, bias, a, b = parts(begun())
    w = w + SCALE * b @ a
    for _ in range(ROUNDS):
        products = []
        for i in ALL:
            r = RANK if ranks is None else ranks[i]
            x, y = local(w, bias, first[:r], np.zeros((OUTPUTS, r)), i)
            products.append(SCALE * y @ x)
        w = w + mean(products)
    model, metrics, _ = trained(eqf.FLoRA, ranks=ranks)
    close(model.b, 0 * b)
    close(model.base.weight, w)
    sent = RANK * (INPUTS + OUTPUTS)
    assert int(metrics["bits_up"]) == bits(sent)


def test_adapters_of_flora_are_drawn_anew():
    drawn = []

    def record(a):
        drawn.append(np.asarray(a))

    def spying(model, example, key):
        jax.debug.callback(record, model.a)
        return 0.0 * loss(model, example, key)

    def make(_, optim, batching):
        return eqf.FLoRA(spying, optim, batching)

    trained(make)
    different = {a.tobytes() for a in drawn}
    assert len(different) == len(SIZES) * ROUNDS
    every = np.concatenate([a.ravel() for a in drawn])
    assert abs(every.std() - INPUTS**-0.5) < 0.2


@pytest.mark.parametrize("ranks", [None, np.array([2, 1, 2])])
def test_flexlora(ranks):
    w, bias, a, b = parts(begun())
    for _ in range(ROUNDS):
        products = []
        for i in ALL:
            r = RANK if ranks is None else ranks[i]
            x, y = local(w, bias, a[:r], b[:, :r], i)
            products.append(y @ x)
        left, values, right = np.linalg.svd(mean(products), full_matrices=False)
        b, a = left[:, :RANK] * values[:RANK], right[:RANK]
    model, _, _ = trained(eqf.FlexLoRA, ranks=ranks)
    close(model.b @ model.a, b @ a)
    close(np.abs(model.a), np.abs(a))
    close(model.base.weight, w)


GAMMA = 0.5


def pruning(lam):
    def make(loss, optim, batching):
        return eqf.HetLoRA(loss, optim, batching, lam=lam, gamma=GAMMA)

    return make


def plain_hetlora(loss, optim, batching):
    return eqf.HetLoRA(loss, optim, batching, lam=0.0, gamma=1.0)


def uniform(loss, optim, batching):
    return eqf.FedAvg(loss, optim, batching, aggregator=eqf.UniformMean())


def pulled(w, bias, a, b, i, last, lam):
    """A client's steps, with the gradient of lam |B_last| |A_last| by hand."""
    a, b = a.copy(), b.copy()
    for _ in range(STEPS):
        error = X[i] @ (w + SCALE * b @ a).T + bias - Y[i]
        g = error.T @ X[i] / SIZES[i]
        step_a, step_b = SCALE * b.T @ g, SCALE * g @ a.T
        of_a, of_b = np.linalg.norm(a[last:]), np.linalg.norm(b[:, last:])
        if last < len(a):
            step_a[last:] += lam * of_b * a[last:] / of_a
            step_b[:, last:] += lam * of_a * b[:, last:] / of_b
        a, b = a - RATE * step_a, b - RATE * step_b
    return a, b


# Some clients prune, and others do not.
@pytest.mark.parametrize(("told", "lam"), [(None, 0.1), (np.array([2, 1, 2]), 0.5)])
def test_hetlora(told, lam):
    w, bias, a, b = parts(begun())
    kept = [RANK for _ in ALL]
    for _ in range(ROUNDS):
        sent = []
        for i in ALL:
            r = kept[i] if told is None else min(kept[i], told[i])
            last = max(1, int(GAMMA * r))
            x, y = pulled(w, bias, a[:r], b[:, :r], i, last, lam)

            def size(x, y, last=last):
                return np.linalg.norm(x[last:]) * np.linalg.norm(y[:, last:])

            if size(x, y) < size(a[:r], b[:, :r]):
                r = kept[i] = last
                x, y = x[:r], y[:, :r]
            padded = np.zeros_like(a), np.zeros_like(b)
            padded[0][:r], padded[1][:, :r] = x, y
            sent.append((r, *padded))
        z = np.array([np.linalg.norm(y @ x) for _, x, y in sent])
        z /= z.sum()
        a, b = (np.tensordot(z, np.stack([x[j] for x in sent]), 1) for j in (1, 2))
    model, metrics, state = trained(pruning(lam), ranks=told)
    close(model.a, a)
    close(model.b, b)
    close(model.base.weight, w)
    np.testing.assert_array_equal(state.clients[0], kept)
    assert set(kept) == {1, 2}
    numbers = sum(r for r, _, _ in sent) * (INPUTS + OUTPUTS) + len(SIZES)
    assert int(metrics["bits_up"]) == 32 * numbers


def test_ranks_of_hetlora():
    """Rounded down, one at least; where nothing is learnt, nothing is moved."""
    make = pruning(0.5)
    last = make(loss, optax.sgd(RATE), eqf.data.Epochs(1, batch_size=1)).client.last
    for gamma, rank, left in ((0.99, 50, 49), (0.7, 10, 7), (0.5, 1, 1), (1.0, 3, 3)):
        less = eqx.tree_at(lambda x: x.gamma, last, jnp.float32(gamma))
        assert int(less.smaller(jnp.int32(rank))) == left
    still = eqx.tree_at(lambda m: (m.a, m.b), begun(), replace_fn=jnp.zeros_like)
    model, _, state = trained(make, model=still)
    np.testing.assert_array_equal(model.a, 0)
    np.testing.assert_array_equal(state.clients[0], RANK)


def test_where_the_product_of_means_is_not_the_mean_of_products():
    """In closed form for two clients of equal weight, and which methods are exact."""
    w, bias, a, b = parts(begun())
    (a1, b1), (a2, b2) = (local(w, bias, a, b, i) for i in (0, 1))
    of_means = (b1 + b2) / 2 @ (a1 + a2) / 2
    missed = (b1 @ a1 + b2 @ a2) / 2 - of_means
    np.testing.assert_allclose(missed, (b1 - b2) @ (a1 - a2) / 4, rtol=1e-12)

    def weight(make, where=adapters):
        model, _, _ = trained(make, where, rounds=1)
        return np.asarray(merge(model).weight)

    pairs = [local(w, bias, a, b, i) for i in ALL]
    exact = mean([w + SCALE * y @ x for x, y in pairs])
    one = [local(w, bias, a, b, i, moves="b") for i in ALL]
    exact_of_one = mean([w + SCALE * y @ x for x, y in one])

    def missing(parts):
        mean_x, mean_y = (
            sum(p * q[j] for p, q in zip(parts, pairs, strict=True)) for j in (0, 1)
        )
        return sum(
            p * (y - mean_y) @ (x - mean_x)
            for p, (x, y) in zip(parts, pairs, strict=True)
        )

    gap = missing(PART)
    assert np.abs(gap).max() > 1e-3
    close(weight(eqf.FedAvg), exact - SCALE * gap)
    # HetLoRA's weights are others, and what a product of means misses is there too.
    z = np.array([np.linalg.norm(y @ x) for x, y in pairs])
    z /= z.sum()
    products = sum(p * y @ x for p, (x, y) in zip(z, pairs, strict=True))
    close(weight(plain_hetlora), w + SCALE * (products - missing(z)))
    close(weight(eqf.FedExLoRA), exact)
    left, values, right = np.linalg.svd((exact - w) / SCALE)
    lost = SCALE * values[RANK] * np.outer(left[:, RANK], right[RANK])
    assert np.abs(lost).max() > 1e-3
    close(weight(eqf.FlexLoRA), exact - lost)
    close(weight(eqf.FedAvg, lora_b), exact_of_one)
    close(weight(eqf.RoLoRA), exact_of_one)


@pytest.mark.parametrize(
    "make", [eqf.FedExLoRA, eqf.FLoRA, eqf.FlexLoRA, eqf.RoLoRA, plain_hetlora]
)
def test_a_bias_that_is_trained_beside_them_is_averaged(make):
    def where(model):
        return *adapters(model), model.base.bias

    model, _, _ = trained(make, where, rounds=1)
    assert isinstance(model, LoRA)
    assert np.abs(parts(model)[1] - parts(begun())[1]).max() > 1e-3
    # FedAvg of the bias alone, where no adapter can move.
    frozen = eqx.tree_at(lambda m: (m.a, m.b), begun(), replace_fn=jnp.zeros_like)
    alike = uniform if make is plain_hetlora else eqf.FedAvg
    alone, _, _ = trained(alike, lambda m: m.base.bias, rounds=1, model=frozen)
    still, _, _ = trained(make, where, rounds=1, model=frozen)
    if make is not eqf.FLoRA:  # whose A is random
        close(still.base.bias, alone.base.bias)


@pytest.mark.parametrize("make", [eqf.FedExLoRA, eqf.RoLoRA])
def test_ranks_that_would_not_be_heeded(make):
    words = f"`{make.__name__}` has one rank for all clients"
    with pytest.raises(ValueError, match=words):
        trained(make, ranks=np.array([1, 2, 1]))


def test_ranks_that_are_none():
    with pytest.raises(ValueError, match="must be a whole number for each client"):
        trained(eqf.FLoRA, ranks=np.array([1.0, 2.0, 1.5]))
    for rank in (0, -1, RANK + 1):
        _, metrics, _ = trained(eqf.FLoRA, ranks=np.array([1, rank, 2]), rounds=1)
        assert int(metrics["nonfinite"]) == 1
