"""What is trained, what stays as it is, and where an optimiser's noise comes from."""

# Optax's annotations name their arguments.
# pyright: reportArgumentType=false

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed._client.reach import reached

from .collect import Collect
from .shared import line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATA = testing.ragged_clients((4, 4, 4))
EXAMPLE = {
    name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    for name, x in DATA.client(0).items()
}
cohort = functools.cache(lambda batching: eqf.data.cohort(DATA, batching))
KEY, RAW = jr.key(7), jr.PRNGKey(0)
DECAY = optax.adamw(0.1, weight_decay=0.5)


class Two(eqx.Module):
    """A frozen weight in front of a linear layer."""

    frozen: jax.Array
    head: testing.Linear


MODEL = Two(jnp.array([1.0, 2.0, 3.0]), testing.Linear())
SENT = eqf.Broadcast.of(MODEL)


def plain(model, example, key):
    scaled = {**example, "x": example["x"] * jax.lax.stop_gradient(model.frozen)}
    return line_loss(model.head, scaled, key)[0]


def inside(wrap):
    """The same loss, stopped inside a transformation of the user's."""

    def loss(model, example, key):
        def body(frozen, head):
            return plain(Two(frozen, head), example, key)

        return wrap(body)(model.frozen, model.head)

    return loss


def scanned(body):
    def run(frozen, head):
        def step(total, _):
            return total + body(frozen, head), None

        return jax.lax.scan(step, jnp.zeros(()), None, length=2)[0]

    return run


def mapped(body):
    def run(frozen, head):
        both = jtu.tree_map(lambda x: jnp.stack([x, x]), (frozen, head))
        return jax.vmap(body)(*both).sum()

    return run


def branched(body):
    def run(frozen, head):
        return jax.lax.cond(
            head.bias > 0, body, lambda f, h: 2 * body(f, h), frozen, head
        )

    return run


def looped(body):
    def run(frozen, head):
        add = lambda i, total: total + body(frozen, head)  # noqa: E731
        return jax.lax.fori_loop(0, 2, add, jnp.zeros(()))

    return run


@pytest.mark.parametrize(
    "wrap",
    (jax.jit, eqx.filter_jit, jax.checkpoint, scanned, mapped, branched, looped),
    ids=("jit", "filter_jit", "checkpoint", "scan", "vmap", "cond", "fori_loop"),
)
def test_what_the_loss_reaches(wrap):
    where = reached(inside(wrap), SENT, EXAMPLE)
    assert not where.frozen
    assert where.head.weight
    assert where.head.bias


def test_what_cannot_be_told_is_trained():
    @jax.custom_vjp
    def own(x, y):
        return x * y

    own.defvjp(lambda x, y: (x * y, y), lambda y, g: (jnp.zeros(()), g))

    def loss(model, example, key):
        return own(model.frozen.sum(), model.head.bias)

    where = reached(loss, SENT, EXAMPLE)
    assert where.frozen
    assert where.head.bias
    # Used by nothing.
    assert not where.head.weight


ALGORITHMS = {
    "client": lambda: eqf.FedAvg(plain, DECAY, BATCHING),
    "server": lambda: eqf.FedAvg(
        plain,
        optax.sgd(0.1),
        BATCHING,
        server_optim=optax.chain(optax.add_noise(1.0, 0.5, jr.key(0)), DECAY),
    ),
    "FedSGD": lambda: eqf.FedSGD(plain, DECAY, BATCHING),
    "Scaffold": lambda: eqf.Scaffold(plain, DECAY, BATCHING, server_optim=DECAY),
    "FedNova": lambda: eqf.FedNova(plain, DECAY, BATCHING),
    "FedDyn": lambda: eqf.FedDyn(plain, DECAY, BATCHING, alpha=0.1),
    "IASG": lambda: eqf.FedPA(plain, eqp.IASG(DECAY), BATCHING, rho=0.1),
    "SGLD": lambda: eqf.FedPA(plain, eqp.SGLD(0.01), BATCHING, rho=0.1),
    "ExactGaussian": lambda: eqf.FedPA(plain, eqp.ExactGaussian(2), BATCHING, rho=0.1),
    "FedEP": lambda: eqf.FedEP(plain, DECAY, BATCHING, prior_precision=1.0),
    "Ditto": lambda: eqf.Ditto(plain, DECAY, BATCHING, lam=0.1),
    "APFL": lambda: eqf.APFL(plain, DECAY, BATCHING, alpha_learning_rate=0.1),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_the_loss_does_not_reach_keeps_its_bits(name):
    algorithm = ALGORITHMS[name]()
    state = algorithm.init(MODEL, num_clients=3)
    state, metrics = algorithm.round(state, cohort(BATCHING), key=jr.key(0))
    kept = jax.tree.map(lambda x: x[0], state.clients)
    for model in (state.model, algorithm.own_model(state, kept)):
        np.testing.assert_array_equal(model.frozen, MODEL.frozen)
        weight = np.asarray(model.head.weight)
        assert (weight != np.asarray(MODEL.head.weight)).all()
    assert int(metrics["nonfinite"]) == 0


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm
    layer: testing.Linear

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        linear = eqx.nn.Linear(3, 3, key=jr.key(0))
        self.spectral = eqx.nn.SpectralNorm(linear, "weight", key=jr.key(1))
        self.layer = testing.Linear()


stateful = functools.cache(eqx.filter_jit(eqx.nn.make_with_state(Stateful)))


def stateful_loss(layers, *, inference):
    def loss(both, example, key):
        model, state = both
        model = eqx.nn.inference_mode(model, inference)
        x = example["x"]
        for name in layers:
            x, state = getattr(model, name)(x, state)
        return line_loss(model.layer, {**example, "x": x}, key)[0]

    return loss


def test_a_state_is_not_trained():
    loss = stateful_loss(("norm", "spectral"), inference=True)
    algorithm = eqf.FedAvg(loss, DECAY, BATCHING, server_optim=DECAY)
    state = algorithm.init(stateful(), num_clients=3)
    with jax.numpy_dtype_promotion("standard"):  # Equinox's layers need it
        state, _ = algorithm.round(state, cohort(BATCHING), key=jr.key(0))
    (model, after), (old, before) = state.model, stateful()
    for x, y in zip(jtu.tree_leaves(after), jtu.tree_leaves(before), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (np.asarray(model.layer.weight) != np.asarray(old.layer.weight)).all()


@pytest.mark.parametrize("layer", ("norm", "spectral"))
def test_statistics_of_a_batch_are_refused(layer):
    loss = stateful_loss((layer,), inference=False)
    algorithm = eqf.FedAvg(loss, DECAY, BATCHING)
    state = algorithm.init(stateful(), num_clients=3)
    with pytest.raises(ValueError, match="BatchNorm.*GroupNorm.*inference_mode") as e:
        algorithm.round(state, cohort(BATCHING), key=jr.key(0))
    assert len(str(e.value)) < 600


def test_complex_params_are_refused():
    algorithm = eqf.FedAvg(plain, DECAY, BATCHING)
    with pytest.raises(ValueError, match=r"\['w'\] is complex \(complex64\)"):
        algorithm.init({"w": jnp.zeros(2, jnp.complex64)}, num_clients=3)


def noise_only(model, example, key):
    """Reaches every param, with a gradient of 0."""
    return 0.0 * (model.weight.sum() + model.bias)


def sent(optim, *, seed=0, num_rounds=2, batching=BATCHING, permute=False):
    """What each client sends in each of some rounds."""
    client = eqf.LocalSGD(noise_only, optim, batching)
    algorithm = eqf.Algorithm(client, Collect(3), eqf.OptaxServer(optax.sgd(1.0)))
    clients = cohort(batching)
    if permute:
        where = lambda c: (c.start, c.stop, c.first, c.num_examples, c.index)  # noqa: E731
        clients = eqx.tree_at(where, clients, [x[:, ::-1] for x in where(clients)])
    state, seen = algorithm.init(testing.Linear(), num_clients=3), []
    for _ in range(num_rounds):
        state, _ = algorithm.round(state, clients, key=jr.key(seed))
        seen.append(np.asarray(state.aggregator[0].weight))
    return np.stack(seen)


@pytest.mark.parametrize(
    "make",
    (
        lambda: optax.chain(optax.add_noise(4.0, 0.0, jr.key(7)), optax.scale(-1.0)),
        lambda: optax.chain(optax.add_noise(4.0, 0.0, 7), optax.scale(-1.0)),
        lambda: optax.stateless(
            lambda grads, params, key=KEY: jtu.tree_map(
                lambda x: 2 * jr.normal(key, x.shape), grads
            )
        ),
    ),
    ids=("key", "seed", "closure"),
)
def test_noise_of_the_clients_optimiser_follows_from_their_keys(make):
    noise = sent(make())
    rows = noise.reshape(-1, noise.shape[-1])
    # Two rounds of three clients: six draws.
    assert len(np.unique(rows, axis=0)) == 6
    np.testing.assert_array_equal(noise, sent(make()))
    np.testing.assert_array_equal(noise, sent(make(), permute=True))
    assert (noise != sent(make(), seed=1)).all()


def test_noise_has_the_variance_that_was_asked_for():
    optim = optax.chain(optax.add_noise(4.0, 0.0, jr.key(7)), optax.scale(-1.0))
    noise = sent(optim, num_rounds=100)
    # 900 draws: six standard errors.
    assert abs(noise.mean()) < 6 * 2 / 30
    assert abs(noise.var() - 4) < 6 * 4 * np.sqrt(2 / 900)


def test_noise_of_the_servers_optimiser_follows_from_the_experiments_key():
    optim = optax.chain(optax.add_noise(1.0, 0.0, jr.key(7)), optax.scale(-1.0))

    def moves(seed):
        algorithm = eqf.FedAvg(noise_only, optax.sgd(0.0), BATCHING, server_optim=optim)
        state, seen = algorithm.init(testing.Linear(), num_clients=3), []
        for _ in range(2):
            before = np.asarray(state.model.weight)
            state, _ = algorithm.round(state, cohort(BATCHING), key=jr.key(seed))
            seen.append(np.asarray(state.model.weight) - before)
        return np.stack(seen)

    first = moves(0)
    assert (first[0] != first[1]).all()
    np.testing.assert_array_equal(first, moves(0))
    assert (first != moves(1)).all()


def test_noise_of_chains_is_their_own():
    optim = optax.chain(optax.add_noise(1.0, 0.0, jr.key(7)), optax.scale(-1.0))
    sampler = eqp.IASG(optim, chains=2)
    batching = eqf.data.Steps(2, batch_size=4)
    share = cohort(batching).client(0)
    broadcast = eqf.Broadcast.of(testing.Linear())
    sample = eqx.filter_jit(sampler.sample)
    samples, _ = sample(noise_only, broadcast, share, batching, key=jr.key(0))
    weight = np.asarray(samples.values.weight)
    assert (weight[0] != weight[1]).all()


def test_an_old_style_key_is_refused():
    for transformation in (
        optax.stateless(lambda g, p, key=RAW: g),
        optax.GradientTransformation(lambda p: jr.PRNGKey(0), lambda g, s, p: (g, s)),
    ):
        with pytest.raises(TypeError, match=r"jax.random.key\(0\)"):
            eqf.Optim(transformation).init(MODEL)
