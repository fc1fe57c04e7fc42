"""What the loss does not reach stays as it is, whatever the server's optimiser does to
what it is given: weight decay moves a leaf whose change is zero."""

import dataclasses
import inspect

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import recipes
from equifed._executor.mapping import run_pass


BATCHING = eqf.data.Epochs(4, batch_size=4)
DATASET = eqf.data.FederatedDataset.from_arrays(
    {"x": np.ones((8, 2), np.float32), "domain": np.arange(8) % 2},
    np.arange(8) // 4,
)
CLIENT = optax.sgd(0.1)
SERVER = optax.adamw(0.1, weight_decay=0.5)


def loss(model, example, key):
    return jnp.sum((model["used"] + model["own"] - example["x"]) ** 2)


def outputs(model, example, key):
    return model["used"] * example["x"]


# What an algorithm needs beside loss, optimiser and batching.
NEEDED = {
    "logits": outputs,
    "representation": outputs,
    "label": "domain",
    "head": lambda model: model["used"],
    "mu": 0.1,
    "lam": 0.1,
    "own_learning_rate": 0.1,
    "alpha_learning_rate": 0.1,
    "alpha": 0.3,
    "rho": 0.1,
    "tau": 0.5,
    "weight_learning_rate": 0.1,
    "t": 0.5,
    "num_domains": 2,
    "domain_learning_rate": 0.1,
    "num_clusters": 2,
    "fragments": 1,
    "delay": 0,
}
# In place of the clients' optimiser.
SECOND = {
    eqf.FedSophia: 0.1,
    eqf.FedPA: eqp.IASG(CLIENT, burnin=1),
    eqf.FedSGD: None,
}


def made(cls):
    parameters = inspect.signature(cls).parameters
    second = SECOND.get(cls, CLIENT)
    first = (loss, BATCHING) if second is None else (loss, second, BATCHING)
    given = {
        name: NEEDED[name]
        for name, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and name in NEEDED
    }
    if "label" in parameters:
        given["label"] = "domain"
    if second is None:
        return cls(loss, SERVER, BATCHING)
    return cls(*first, server_optim=SERVER, **given)


CLASSES = [
    cls
    for cls in map(recipes.algorithm, recipes.algorithms())
    if cls is not eqf.FLTrust  # whose server reads the root client's change as well
    if not issubclass(cls, eqf.AbstractAsynchronous)  # whose cohorts say more
    if "server_optim" in inspect.signature(cls).parameters
]
ALGORITHMS = {cls.__name__: made(cls) for cls in CLASSES}
ALGORITHMS |= {
    "Algorithm": eqf.Algorithm(
        eqf.compress.CompressedClient(
            eqf.LocalSGD(loss, CLIENT, BATCHING),
            eqf.compress.EF21(eqf.compress.TopK(0.5)),
        ),
        eqf.Median(),
        eqf.OptaxServer(SERVER),
    ),
    "PowerOfChoice": eqf.PowerOfChoice(ALGORITHMS["FedAvg"], num_chosen=1),
    "CompressDown": eqf.CompressDown(
        eqf.FedAvg(loss, CLIENT, BATCHING, server_optim=SERVER),
        eqf.compress.RandomK(0.5, scaled=False),
    ),
    "OverRounds": eqf.OverRounds(lambda t: made(eqf.FedVARP)),
}


def without_clients(work, executor, cohort, states):
    """A pass in which clients send ones, and compute nothing."""
    shapes, _ = eqx.filter_eval_shape(run_pass, work, executor, cohort, states)
    return jtu.tree_map(lambda x: jnp.ones(x.shape, x.dtype), shapes), states


@eqx.filter_jit
def steps(states, cohort, key):
    """A step of every algorithm, in one program."""
    clients = eqf.Participants(
        eqf.Executor(), cohort, jnp.zeros((), jnp.int32), without_clients
    )
    return {
        name: ALGORITHMS[name].step(state, clients, key=key)[0]
        for name, state in states.items()
    }


@pytest.fixture(scope="module")
def models():
    model = {"used": jnp.ones(2), "own": jnp.ones(2), "unused": jnp.ones(2)}
    cohort = eqf.data.cohort(DATASET, BATCHING)
    states = {}
    for name, algorithm in ALGORITHMS.items():
        where = dict.fromkeys(algorithm.needs, lambda m: m["own"])
        roles = eqf.roles(model, **where) if where else None
        state = algorithm.init(model, num_clients=2, key=jr.key(0), roles=roles)
        # The slots of the one device are the two clients.
        rows = jtu.tree_map(lambda x: x[None], state.clients)
        states[name] = dataclasses.replace(state, clients=rows)
    after = steps(states, cohort, jr.key(1))
    return {name: (states[name].params, after[name].params) for name in ALGORITHMS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_server_leaves_alone_what_the_loss_does_not_reach(name, models):
    before, after = models[name]
    assert np.isfinite(after["used"]).all()
    assert not np.array_equal(before["used"], after["used"])
    np.testing.assert_array_equal(before["unused"], after["unused"])
