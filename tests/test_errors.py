"""Bad input is refused before anything is compiled, with what to do about it."""

import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 3, 0, 8))
MODEL = testing.Linear()
KEY = jr.key(0)


def loader_of(dataset=DATASET, batching: Any = BATCHING, **kwargs):
    return eqf.data.Loader(dataset, eqf.data.AllClients(), batching, **kwargs)


def fresh_loss():
    """One that nothing was compiled for."""
    return lambda model, example, key: testing.noisy_loss(model, example, key)


def train(loss=None, *, model: Any = MODEL, **kwargs):
    algorithm = eqf.FedAvg(loss or fresh_loss(), SGD, BATCHING)
    kwargs = {"loader": loader_of(), "num_rounds": 3, "key": KEY, **kwargs}
    return eqf.train(algorithm, model, **kwargs)


def returns(value):
    return lambda model, example, key: value(model, example)


def mesh_of(axis):
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((2,), (axis,), axis_types=kind, devices=jax.devices()[:2])


def other_columns():
    return eqf.data.FederatedDataset.from_mapping(
        {"held out": {"x": np.ones((2, 7), np.float32), "y": np.ones(2, np.float32)}}
    )


def run_rounds(num_clients):
    algorithm = eqf.Scaffold(fresh_loss(), SGD, BATCHING)
    state = algorithm.init(MODEL, num_clients=num_clients)
    next(iter(eqf.rounds(algorithm, state, loader_of(), num_rounds=1, key=KEY)))


def run_round(batching=BATCHING, mesh=None, executor_mesh=None):
    algorithm = eqf.FedAvg(fresh_loss(), SGD, BATCHING)
    state = algorithm.init(MODEL, num_clients=4)
    cohort = eqf.data.cohort(DATASET, batching, mesh=mesh)
    executor = eqf.Executor(mesh=executor_mesh)
    algorithm.round(state, cohort, key=KEY, executor=executor)


LOSSES = {
    "a vector": (
        returns(lambda m, e: m.weight * e["x"]),
        r"one floating-point number.*float32\[3\].*client 'client000'.*take its mean",
    ),
    "a vector and metrics": (
        returns(lambda m, e: (m.weight, {})),
        r"one floating-point number.*float32\[3\]",
    ),
    "an integer": (
        returns(lambda m, e: jnp.asarray(1)),
        r"one floating-point number.*int32\[\]",
    ),
    "a boolean": (
        returns(lambda m, e: e["y"] > 0),
        r"one floating-point number.*bool\[\]",
    ),
    "a complex number": (
        returns(lambda m, e: m.bias * 1j),
        r"one floating-point number.*complex64\[\]",
    ),
    "a Python number": (returns(lambda m, e: 1.0), "one floating-point number.*float"),
    "nothing": (returns(lambda m, e: None), "one floating-point number.*NoneType"),
    "three things": (
        returns(lambda m, e: (m.bias, {}, {})),
        "one floating-point number, or a pair.*tuple",
    ),
    "metrics that are no dictionary": (
        returns(lambda m, e: (m.bias, m.bias)),
        "must be a dictionary",
    ),
    "a metric with the name of the loss": (
        returns(lambda m, e: (m.bias, {"loss": m.bias})),
        "'loss'.*another name",
    ),
    "a metric with a name of the library": (
        returns(lambda m, e: (m.bias, {"clients": m.bias})),
        "'clients'.*another name",
    ),
    "a metric with the name of the round": (
        returns(lambda m, e: (m.bias, {"round": m.bias})),
        "'round'.*another name",
    ),
    "an error of its own": (
        returns(lambda m, e: e["label"]),
        r"client 'client000'.*float32\[3\].*KeyError: 'label'",
    ),
    "too few arguments": (
        lambda model, example: model.bias,
        r"loss\(model, example, key\)",
    ),
}

# What to call, and what the error must say.
ERRORS = {
    "model without arrays": (
        lambda: train(model={"f": jnp.tanh, "size": 3}),
        "nothing to train",
    ),
    "model of integers": (
        lambda: train(model={"x": jnp.arange(3), "rate": 0.1}),
        "nothing to train.*Integer arrays and Python floats",
    ),
    "model that refuses the examples": (
        lambda: train(model=testing.Linear(5)),
        r"client 'client000'.*float32\[3\].*without a batch axis",
    ),
    "evaluation with other examples": (
        lambda: train(evaluation={"test": other_columns()}),
        r"'test'.*float32\[7\]",
    ),
    "evaluation with a metric of a vector": (
        lambda: eqf.evaluate(MODEL, DATASET, returns(lambda m, e: m.weight)),
        r"float32\[3\]",
    ),
    "another mesh than the cohort's": (
        lambda: run_round(mesh=mesh_of("clients")),
        r"planned for 2 devices.*runs on 1.*Executor\(mesh=mesh\)",
    ),
    "another mesh than the executor's": (
        lambda: run_round(executor_mesh=mesh_of("clients")),
        r"planned for 1 devices.*runs on 2.*Loader\(..., mesh=mesh\)",
    ),
    "executor's mesh without clients": (
        lambda: eqf.Executor(mesh=mesh_of("data")),
        r"'clients'.*\('data',\).*jax.make_mesh",
    ),
    "loader's mesh without clients": (
        lambda: loader_of(mesh=mesh_of("data")),
        r"'clients'.*\('data',\).*jax.make_mesh",
    ),
    "another batch size": (
        lambda: run_round(batching=eqf.data.Epochs(1, batch_size=8)),
        r"batch size of 8.*batch_size=4.*algorithm.batching",
    ),
    "another batch size in training": (
        lambda: train(loader=loader_of(batching=eqf.data.Steps(2, batch_size=8))),
        "batch(_size=| size of )8",
    ),
    "another batching in training": (
        lambda: train(loader=loader_of(batching=eqf.data.Steps(2, batch_size=4))),
        "Steps.*Epochs",
    ),
    "state of a smaller population": (lambda: run_rounds(3), "3 clients.*4"),
    "state of a larger population": (lambda: run_rounds(9), "9 clients.*4"),
    "no clients": (
        lambda: eqf.FedAvg(testing.noisy_loss, SGD, BATCHING).init(
            MODEL, num_clients=0
        ),
        "`num_clients` must be at least 1, got 0",
    ),
    "negative rounds": (
        lambda: train(num_rounds=-1),
        "`num_rounds` must be at least 0, got -1",
    ),
    "evaluation never": (
        lambda: train(eval_every=0),
        "`eval_every` must be at least 1, got 0",
    ),
    "empty evaluation batch": (
        lambda: eqf.evaluate(MODEL, DATASET, testing.noisy_loss, batch_size=0),
        "`batch_size` must be at least 1, got 0",
    ),
    "empty block": (
        lambda: eqf.Executor(block_size=0),
        "`block_size` must be at least 1, got 0",
    ),
    "empty batch": (lambda: eqf.data.Epochs(1, batch_size=0), "batch_size.*0"),
    "negative steps": (lambda: eqf.data.Steps(-1, batch_size=4), "num_steps.*-1"),
    "cohort larger than the population": (
        lambda: eqf.data.Loader(DATASET, eqf.data.UniformSampler(5, seed=0), BATCHING),
        "5.*4",
    ),
    "option of SCAFFOLD": (
        lambda: eqf.Scaffold(testing.noisy_loss, SGD, BATCHING, option=3),
        "`option` must be 1 or 2, got 3",
    ),
    "all trimmed": (lambda: eqf.TrimmedMean(0.5), "`trim`.*less than 0.5, got 0.5"),
    "negative trim": (lambda: eqf.TrimmedMean(-0.1), "`trim`.*got -0.1"),
    "no top": (
        lambda: eqf.top_k_accuracy(jnp.ones(3), 0, k=0),
        "`k` must be at least 1, got 0",
    ),
    "clip to nothing": (
        lambda: eqf.Clip(eqf.WeightedMean(), max_norm=0.0),
        "`max_norm`.*0",
    ),
    "negative clip": (
        lambda: eqf.Clip(eqf.WeightedMean(), max_norm=-1.0),
        "`max_norm`.*-1",
    ),
    "FedDyn without regularisation": (
        lambda: eqf.FedDyn(testing.noisy_loss, SGD, BATCHING, alpha=0.0),
        "`alpha`.*0",
    ),
    "FedDyn with a negative one": (
        lambda: eqf.FedDyn(testing.noisy_loss, SGD, BATCHING, alpha=-1.0),
        "`alpha`.*-1",
    ),
    "FedProx pushing away": (
        lambda: eqf.FedProx(testing.noisy_loss, SGD, BATCHING, mu=-0.1),
        "`mu`.*-0.1",
    ),
    "metric that was not measured": (
        lambda: train(num_rounds=0).values("loss"),
        "'loss'",
    ),
}
for _name, (_loss, _message) in LOSSES.items():
    ERRORS[f"loss: {_name}"] = (lambda loss=_loss: train(loss), _message)


@pytest.mark.parametrize("name", ERRORS)
def test_error(name, caplog):
    call, message = ERRORS[name]
    with jax.log_compiles(), pytest.raises(ValueError, match=f"(?s){message}") as error:
        call()
    assert len(str(error.value)) < 1500
    assert not compiled(caplog)


def compiled(caplog):
    """What was compiled of that which trains or evaluates."""
    lines = [r.getMessage() for r in caplog.records if "XLA" in r.getMessage()]
    names = {"_one", "round_step", "fold"}
    return {name for name in names if any(f"jit({name})" in line for line in lines)}


def test_compilation_would_be_seen(caplog):
    with jax.log_compiles():
        train(num_rounds=1, evaluation={"all": DATASET})
        run_round()
    assert compiled(caplog) == {"_one", "round_step", "fold"}


TYPES = {
    "a dataset for a loader": lambda: train(loader=DATASET),
    "an integer for a key": lambda: train(key=0),
    "several keys": lambda: train(key=jr.split(KEY, 2)),
    "a fraction of a round": lambda: train(num_rounds=1.5),
    "a mapping for a dataset": lambda: train(evaluation={"test": {"x": np.ones(3)}}),
    "a loss for an algorithm": lambda: eqf.train(
        testing.noisy_loss,  # pyright: ignore[reportArgumentType]
        MODEL,
        loader_of(),
        num_rounds=1,
        key=KEY,
    ),
    "a model for a dataset": lambda: eqf.evaluate(
        MODEL,
        MODEL,  # pyright: ignore[reportArgumentType]
        testing.noisy_loss,
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_type_error(name):
    with pytest.raises(TypeError):
        TYPES[name]()


PROGRAM = """
import equifed as eqf, jax.random as jr, numpy as np, optax
from equifed import testing

batching = eqf.data.Epochs(1, batch_size=4)
loss, sgd = testing.noisy_loss, optax.sgd(0.1)
loader = eqf.data.Loader(
    testing.ragged_clients((5, 3)), eqf.data.AllClients(), batching
)
calls = {
    "rate": lambda: eqf.FedAvg(loss, 0.1, batching),
    "server": lambda: eqf.FedAvg(loss, sgd, batching, server_optim=1.0),
    "function": lambda: eqf.FedSGD(loss, optax.sgd, batching),
    "swapped": lambda: eqf.Scaffold(loss, batching, sgd),
    "batching": lambda: eqf.FedAvg(loss, sgd, 4),
    "aggregator": lambda: eqf.FedAvg(loss, sgd, batching, aggregator=eqf.Median),
    "loader": lambda: eqf.train(
        eqf.FedAvg(loss, sgd, batching), testing.Linear(), loader.dataset,
        num_rounds=1, key=jr.key(0),
    ),
    "key": lambda: eqf.train(
        eqf.FedAvg(loss, sgd, batching), testing.Linear(), loader, num_rounds=1, key=0
    ),
    "optimiser": lambda: eqf.FedPA(loss, sgd, batching),
    "sampler": lambda: eqf.FedPA(loss, eqf.IASG, batching),
    "estimator": lambda: eqf.PosteriorClient(loss, eqf.IASG(sgd), batching, 0.1),
    "epochs": lambda: eqf.FedPA(loss, eqf.IASG(sgd), 20),
    "rho": lambda: eqf.FedPA(loss, eqf.IASG(sgd), batching, rho=eqf.Shrinkage),
    "text": lambda: eqf.FedPA(loss, eqf.IASG(sgd), batching, rho="0.1"),
    "start": lambda: eqf.FedPA(loss, eqf.IASG(sgd), batching, start_round=2.5),
    "langevin": lambda: eqf.SGLD(sgd),
}
for name, call in calls.items():
    try:
        call()
        print(name, False, "no error")
    except Exception as error:
        print(name, isinstance(error, TypeError), " ".join(str(error).split()))
"""

PLAIN = {
    "rate": r"Optax optimiser.*got 0.1.*`optax.sgd\(learning_rate\)`",
    "server": r"Optax optimiser.*got 1.0.*`optax.sgd\(learning_rate\)`",
    "function": "must be an Optax optimiser.*got the function `sgd`",
    "swapped": "must be an Optax optimiser.*got an `Epochs`",
    "batching": "batching.*4",
    "aggregator": "aggregator.*Median",
    "loader": "`loader` must be a `Loader`.*FederatedDataset",
    "key": "`key` must be one random key, got 0",
    "optimiser": r"`sampler` must be an `Abs.*`IASG\(optax.sgd\(0.1\)\)` for example",
    "sampler": "`sampler` must be an `AbstractPosteriorSampler`",
    "estimator": r"`estimator` must be an.*`Shrinkage\(0.01\)` for example",
    "epochs": r"`batching` must be an.*`Epochs\(1, batch_size=20\)` for example",
    "rho": "`rho` must be a number or an.*got the class `Shrinkage`",
    "text": "`rho` must be a number or an.*got '0.1'",
    "start": "`start_round` must be an integer, got 2.5",
    "langevin": "Langevin dynamics makes its own steps: give a number",
}


@pytest.fixture(scope="module")
def without_the_hook():
    """What a user sees, whose program does not check all types as the tests do."""
    root = pathlib.Path(eqf.__file__).parents[1]
    command = [sys.executable, "-c", PROGRAM]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in out.stdout.splitlines())


@pytest.mark.parametrize("name", PLAIN)
def test_type_error_without_the_hook(name, without_the_hook):
    kind, message = without_the_hook[name].split(" ", 1)
    assert kind == "True", message
    assert re.search(PLAIN[name], message)


@pytest.mark.parametrize(
    "correction", (eqf.ControlVariate(), eqf.DynamicRegularizer(0.5))
)
def test_fednova_refuses_corrections_that_remember(correction):
    with pytest.raises(ValueError, match="remembers a gradient"):
        eqf.FedNova(
            testing.quadratic_loss,
            optax.sgd(0.1),
            eqf.data.Epochs(1, batch_size=2),
            correction=correction,
        )
