"""The algorithms, and what goes wrong when one is initialised or run for one round."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing

from .shared import (
    aggregator_round,
    BATCHING,
    client_round,
    DATASET,
    fresh_loss,
    INF,
    LOSS,
    mesh_of,
    MODEL,
    NAN,
    one_round,
    SERVER,
    server_round,
    SGD,
    TWO,
    WHOLE,
)


def common(make):
    """What all that take a loss, an optimiser and a batching refuse."""
    rate = ("an Optax optimiser", "optax.sgd(learning_rate)")
    return {
        "a loss that is a number": (
            lambda: make(3, SGD, BATCHING),
            TypeError,
            "`loss` must be a function, got 3",
        ),
        "no loss": (
            lambda: make(None, SGD, BATCHING),
            TypeError,
            "`loss` must be a function, got None",
        ),
        "a rate for an optimiser": (
            lambda: make(LOSS, 0.1, BATCHING),
            TypeError,
            (*rate, "got 0.1"),
        ),
        "an optimiser that was not called": (
            lambda: make(LOSS, optax.sgd, BATCHING),
            TypeError,
            (*rate, "the function `sgd`"),
        ),
        "swapped": (
            lambda: make(LOSS, BATCHING, SGD),
            TypeError,
            (*rate, "an `Epochs`"),
        ),
        "a number for a batching": (
            lambda: make(LOSS, SGD, 4),
            TypeError,
            ("`batching`", "`Epochs(1, batch_size=20)` for example", "got 4"),
        ),
        "a class for a batching": (
            lambda: make(LOSS, SGD, eqf.data.Epochs),
            TypeError,
            ("`batching`", "the class `Epochs`", "Call it first"),
        ),
        "no batching": (
            lambda: make(LOSS, SGD),
            TypeError,
            "missing a required argument: 'batching'",
        ),
        "a typing mistake": (
            lambda: make(LOSS, SGD, BATCHING, agregator=None),
            TypeError,
            "unexpected keyword argument 'agregator'",
        ),
        "a class for an aggregator": (
            lambda: make(LOSS, SGD, BATCHING, aggregator=eqf.Median),
            TypeError,
            ("`aggregator`", "the class `Median`", "Call it first"),
        ),
    }


def numbers(make, bad, *, name):
    """What a number outside of its domain gives; `bad` maps it to the words."""
    more = {NAN: "finite", INF: "finite", "0.1": "a number"}
    cases = {}
    for value, words in {**more, **bad}.items():
        error = TypeError if isinstance(value, str | bool) else ValueError
        call = lambda value=value: make(value)  # noqa: E731
        cases[f"{name}={value!r}"] = (call, error, (f"`{name}`", words))
    several = (
        lambda: make(TWO),
        ValueError,
        (f"`{name}`", "one number", "filter_vmap"),
    )
    return {**cases, f"{name} several": several}


RATE = {-0.1: "at least 0, got -0.1", True: "a number, got True"}
MOMENT = {-0.1: "at least 0", 1.0: "less than 1, got 1", 1.5: "less than 1, got 1.5"}
POSITIVE = {0.0: "more than 0, got 0", -1.0: "more than 0, got -1"}


def with_number(kind, name, bad, **kwargs):
    call = lambda x: kind(LOSS, SGD, BATCHING, **{name: x}, **kwargs)  # noqa: E731
    return numbers(call, bad, name=name)


def sends(payload):
    return lambda p, d, s: (eqf.Message(payload(p), d.weight), s, {})


def reports(name):
    return lambda p, d, s: (
        eqf.Message(p, d.weight),
        s,
        {name: eqf.Average(d.weight)},
    )


def with_weight(params, weight):
    return eqx.tree_at(lambda p: p.weight, params, weight)


TABLE = {
    "FedAvg": {
        **common(eqf.FedAvg),
        "a rate for the server": (
            lambda: eqf.FedAvg(LOSS, SGD, BATCHING, server_optim=1.0),
            TypeError,
            ("`server_optim`", "optax.sgd(learning_rate)"),
        ),
    },
    "FedAvgM": {
        **common(eqf.FedAvgM),
        **with_number(eqf.FedAvgM, "momentum", {**MOMENT, 2.0: "less than 1, got 2"}),
        **with_number(eqf.FedAvgM, "server_learning_rate", RATE),
    },
    "FedAdagrad": {
        **with_number(eqf.FedAdagrad, "server_learning_rate", RATE),
        **with_number(eqf.FedAdagrad, "b1", MOMENT),
        **with_number(eqf.FedAdagrad, "tau", POSITIVE),
    },
    "FedAdam": {
        **common(eqf.FedAdam),
        **with_number(eqf.FedAdam, "b1", MOMENT),
        **with_number(eqf.FedAdam, "b2", MOMENT),
        **with_number(eqf.FedAdam, "tau", POSITIVE),
        **with_number(eqf.FedAdam, "server_learning_rate", RATE),
    },
    "FedYogi": {
        **with_number(eqf.FedYogi, "b2", MOMENT),
        **with_number(eqf.FedYogi, "server_learning_rate", RATE),
    },
    "FedProx": {
        "no mu": (
            lambda: eqf.FedProx(LOSS, SGD, BATCHING),
            TypeError,
            "missing a required argument: 'mu'",
        ),
        **with_number(eqf.FedProx, "mu", RATE),
    },
    "FedDyn": with_number(eqf.FedDyn, "alpha", POSITIVE),
    "FedEP": {
        **with_number(eqf.FedEP, "prior_precision", POSITIVE),
        **with_number(eqf.FedEP, "damping", {**POSITIVE, 1.5: "at most 1, got 1.5"}),
        "no such curvature": (
            lambda: eqf.FedEP(LOSS, SGD, BATCHING, curvature="full"),
            ValueError,
            "`curvature` must be 'fisher' or 'hessian', got 'full'",
        ),
    },
    "FedNova": {
        **common(eqf.FedNova),
        "a class for a correction": (
            lambda: eqf.FedNova(LOSS, SGD, BATCHING, correction=eqf.Proximal),
            TypeError,
            ("`correction`", "the class `Proximal`"),
        ),
        "a control variate": (
            lambda: eqf.FedNova(LOSS, SGD, BATCHING, correction=eqf.ControlVariate()),
            ValueError,
            "remembers a gradient",
        ),
        "a regulariser that remembers": (
            lambda: eqf.FedNova(
                LOSS, SGD, BATCHING, correction=eqf.DynamicRegularizer()
            ),
            ValueError,
            "remembers a gradient",
        ),
    },
    "FedSGD": {
        "swapped": (
            lambda: eqf.FedSGD(LOSS, BATCHING, SGD),
            TypeError,
            ("`server_optim`", "an `Epochs`"),
        ),
        "an optimiser that was not called": (
            lambda: eqf.FedSGD(LOSS, optax.sgd, BATCHING),
            TypeError,
            ("`server_optim`", "the function `sgd`"),
        ),
        "a loss that is text": (
            lambda: eqf.FedSGD("mse", SGD, BATCHING),
            TypeError,
            ("`loss`", "'mse'"),
        ),
    },
    "Scaffold": {
        **common(eqf.Scaffold),
        "option 3": (
            lambda: eqf.Scaffold(LOSS, SGD, BATCHING, option=3),
            ValueError,
            "`option` must be 1 or 2, got 3",
        ),
        "option 1.0": (
            lambda: eqf.Scaffold(LOSS, SGD, BATCHING, option=1.0),
            TypeError,
            ("`option`", "1.0"),
        ),
        "option True": (
            lambda: eqf.Scaffold(LOSS, SGD, BATCHING, option=True),
            TypeError,
            ("`option`", "True"),
        ),
    },
    "FedPA": {
        "an optimiser for a sampler": (
            lambda: eqf.FedPA(LOSS, SGD, BATCHING),
            TypeError,
            ("`sampler`", "`IASG(optax.sgd(0.1))` for example"),
        ),
        "a class for a sampler": (
            lambda: eqf.FedPA(LOSS, eqp.IASG, BATCHING),
            TypeError,
            ("`sampler`", "the class `IASG`"),
        ),
        "a number for a batching": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), 20),
            TypeError,
            "`batching`",
        ),
        "a class for rho": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, rho=eqp.Shrinkage),
            TypeError,
            ("`rho`", "the class `Shrinkage`"),
        ),
        "rho and an estimator": (
            lambda: eqf.FedPA(
                LOSS, eqp.IASG(SGD), BATCHING, rho=0.1, estimator=eqp.Shrinkage(0.1)
            ),
            ValueError,
            ("`rho`", "`estimator`", "got both"),
        ),
        "a number for an estimator": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, estimator=0.1),
            TypeError,
            "`estimator`",
        ),
        "text for rho": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, rho="0.1"),
            TypeError,
            ("`rho`", "a number", "'0.1'"),
        ),
        "negative rho": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, rho=-0.1),
            ValueError,
            "`rho` must be at least 0, got -0.1",
        ),
        "half a round": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, start_round=2.5),
            TypeError,
            "`start_round` must be an integer, got 2.5",
        ),
        "a round before the first": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD), BATCHING, start_round=-1),
            ValueError,
            "`start_round` must be at least 0, got -1",
        ),
        "Gaussian moments": (
            lambda: eqf.FedPA(
                LOSS,
                eqp.ExactGaussian(4),
                WHOLE,
                estimator=eqp.GaussianMoments(1.0),
            ),
            TypeError,
            "not a Gaussian",
        ),
        "the product of posteriors": (
            lambda: eqf.FedPA(
                LOSS,
                eqp.ExactGaussian(4),
                WHOLE,
                aggregator=eqp.PosteriorProduct(),
            ),
            TypeError,
            "not a Gaussian",
        ),
        "no room for a sample": (
            lambda: eqf.FedPA(LOSS, eqp.IASG(SGD, burnin=1), BATCHING),
            ValueError,
            "leaves no room for a sample",
        ),
        "mini-batches for an exact sampler": (
            lambda: eqf.FedPA(
                LOSS, eqp.ExactGaussian(4), eqf.data.Steps(3, batch_size=4)
            ),
            ValueError,
            "takes no mini-batches",
        ),
    },
}


def local(correction=None):
    correction = eqf.NoCorrection() if correction is None else correction
    return eqf.LocalSGD(LOSS, SGD, BATCHING, correction)


def bound(client, server, aggregator=None):
    return eqf.Algorithm(client, aggregator or eqf.WeightedMean(), server)


def posterior(estimator, server, aggregator=None):
    client = eqp.PosteriorClient(fresh_loss(), eqp.ExactGaussian(4), WHOLE, estimator)
    return one_round(bound(client, server, aggregator))


GAUSSIANS = eqp.GaussianMoments(1.0)


def on_both():
    return eqf.data.cohort(DATASET, BATCHING, mesh=mesh_of("clients", 2))


MISFIT = "does not understand the messages of"

TABLE |= {
    "Algorithm": {
        "a class for a client": (
            lambda: bound(eqf.LocalSGD, SERVER),
            TypeError,
            ("`client`", "the class `LocalSGD`"),
        ),
        "a class for an aggregator": (
            lambda: bound(local(), SERVER, eqf.Median),
            TypeError,
            ("`aggregator`", "the class `Median`"),
        ),
        "an optimiser for a server": (
            lambda: bound(local(), SGD),
            TypeError,
            ("`server`", "`OptaxServer(optax.sgd(1.0))` for example"),
        ),
        "in another order": (
            lambda: eqf.Algorithm(local(), SERVER, eqf.Median()),
            TypeError,
            ("`aggregator`", "an `OptaxServer`"),
        ),
        "SCAFFOLD's server without its correction": (
            lambda: bound(local(), eqf.ScaffoldServer(SERVER)),
            TypeError,
            ("`ScaffoldServer`", MISFIT, "`NoCorrection`"),
        ),
        "SCAFFOLD's correction without its server": (
            lambda: bound(local(eqf.ControlVariate()), SERVER),
            TypeError,
            ("`OptaxServer`", MISFIT, "`ScaffoldServer`"),
        ),
        "FedNova's server without its client": (
            lambda: bound(local(), eqf.NovaServer(SERVER)),
            TypeError,
            ("`NovaServer`", MISFIT),
        ),
        "FedNova's client without its server": (
            lambda: bound(eqf.Normalized(local()), SERVER),
            TypeError,
            (MISFIT, "`NovaServer`"),
        ),
        "FedDyn's server without its correction": (
            lambda: bound(local(), eqf.DynServer(1.0)),
            TypeError,
            ("`DynServer`", MISFIT),
        ),
        "FedDyn's correction without its server": (
            lambda: bound(local(eqf.DynamicRegularizer()), SERVER),
            TypeError,
            (MISFIT, "`DynServer`"),
        ),
        "FedEP's server without its client": (
            lambda: bound(local(), eqp.EPServer(1.0)),
            TypeError,
            ("`EPServer`", MISFIT),
        ),
        "FedEP's client without its server": (
            lambda: bound(eqp.EPClient(LOSS, SGD, BATCHING), SERVER),
            TypeError,
            (MISFIT, "`EPServer`"),
        ),
        "a burn-in without samples": (
            lambda: bound(local(), eqp.BurnInServer(SERVER, 3)),
            TypeError,
            ("`BurnInServer`", MISFIT),
        ),
        "FedEP's server for samples": (
            lambda: posterior(eqp.Shrinkage(0.1), eqp.EPServer(1.0)),
            TypeError,
            ("`EPServer`", MISFIT),
        ),
        "Gaussians for a mean": (
            lambda: posterior(GAUSSIANS, SERVER),
            TypeError,
            "got a `Gaussian`",
        ),
        "Gaussians for a median": (
            lambda: posterior(GAUSSIANS, SERVER, eqf.Median()),
            TypeError,
            "got a `Gaussian`",
        ),
        "Gaussians that are clipped": (
            lambda: posterior(GAUSSIANS, SERVER, eqf.Clip(eqp.PosteriorProduct(), 0.1)),
            TypeError,
            ("`Clip`", "mean something only together"),
        ),
        "Gaussians in a burn-in": (
            lambda: posterior(
                GAUSSIANS,
                eqp.BurnInServer(SERVER, 1),
                eqp.PosteriorProduct(),
            ),
            TypeError,
            "makes a Gaussian",
        ),
        "changes for a product of Gaussians": (
            lambda: posterior(eqp.Shrinkage(0.1), SERVER, eqp.PosteriorProduct()),
            TypeError,
            "got a change of the params",
        ),
        "FedAvg's changes for a product of Gaussians": (
            lambda: one_round(
                eqf.FedAvg(
                    fresh_loss(),
                    SGD,
                    BATCHING,
                    aggregator=eqp.PosteriorProduct(),
                )
            ),
            TypeError,
            "got a change of the params",
        ),
        "a burn-in that has more to say": (
            lambda: posterior(
                eqp.Shrinkage(0.1),
                eqp.BurnInServer(eqp.EPServer(1.0), 1),
            ),
            TypeError,
            "`EPServer` has more to say",
        ),
    },
    "AbstractAlgorithm": {
        "abstract": (lambda: eqf.AbstractAlgorithm(), TypeError, "abstract"),
    },
    "AbstractAlgorithm.init": {
        "no clients": (
            lambda: avg().init(MODEL, num_clients=0),
            ValueError,
            "`num_clients` must be at least 1, got 0",
        ),
        "half a client": (
            lambda: avg().init(MODEL, num_clients=2.5),
            TypeError,
            "`num_clients` must be an integer, got 2.5",
        ),
        "a flag for a number": (
            lambda: avg().init(MODEL, num_clients=True),
            TypeError,
            "`num_clients` must be an integer, got True",
        ),
        "no number": (
            lambda: avg().init(MODEL),
            TypeError,
            "missing a required argument: 'num_clients'",
        ),
        "no model": (
            lambda: avg().init(None, num_clients=4),
            ValueError,
            "nothing to train",
        ),
        "a model without arrays": (
            lambda: avg().init({"f": jnp.tanh, "size": 3}, num_clients=4),
            ValueError,
            ("nothing to train", "got a `dict` of 2"),
        ),
        **{
            f"a model that holds {x}": (
                lambda x=x: avg().init({"w": jnp.asarray([1.0, x])}, num_clients=4),
                ValueError,
                f"`model['w']` holds {x}",
            )
            for x in (NAN, INF)
        },
        "a model of integers": (
            lambda: avg().init({"x": jnp.arange(3), "rate": 0.1}, num_clients=4),
            ValueError,
            ("nothing to train", "Integer arrays and Python floats"),
        ),
        "a model of NumPy's": (
            lambda: avg().init({"w": np.ones(3, np.float32)}, num_clients=4),
            TypeError,
            ("NumPy's", "['w']", "jax.tree.map(jnp.asarray, model)"),
        ),
        "an array of NumPy's among others": (
            lambda: avg().init({"w": jnp.ones(3), "b": np.ones(3)}, num_clients=4),
            TypeError,
            ("NumPy's", "['b']"),
        ),
    },
    "AbstractAlgorithm.round": {
        "an integer for a key": (
            lambda: one_round(key=0),
            TypeError,
            ("`key` must be one random key, got 0", "jax.random.key(0)"),
        ),
        "several keys": (
            lambda: one_round(key=jr.split(jr.key(0))),
            TypeError,
            "`key` must be one random key",
        ),
        "a loader for a cohort": (
            lambda: one_round(cohort=DATASET),
            TypeError,
            ("`cohort`", "a `FederatedDataset`", "`Loader`"),
        ),
        "a model for a state": (
            lambda: one_round(state=MODEL),
            TypeError,
            ("`state`", "a `Linear`"),
        ),
        "a mesh for an executor": (
            lambda: one_round(executor=mesh_of("clients")),
            TypeError,
            ("`executor`", "a `Mesh`"),
        ),
        "a block to be measured": (
            lambda: one_round(executor=eqf.Executor(block_size="auto")),
            ValueError,
            ("'auto'", "needs a number"),
        ),
        "a cohort that lost its mesh": (
            lambda: one_round(cohort=dataclasses.replace(on_both(), mesh=None)),
            ValueError,
            ("slots on 2 devices", "its mesh has 1", "Loader(..., mesh=mesh)"),
        ),
        "a mesh for a cohort of one device": (
            lambda: one_round(
                cohort=dataclasses.replace(
                    eqf.data.cohort(DATASET, BATCHING), mesh=on_both().mesh
                )
            ),
            ValueError,
            ("slots on 1 devices", "its mesh has 2"),
        ),
        "another batch size": (
            lambda: one_round(cohort=eqf.data.cohort(DATASET, WHOLE)),
            ValueError,
            ("batch size of 8", "algorithm.batching"),
        ),
        "a state of another algorithm": (
            lambda: one_round(scaffold(), avg().init(MODEL, num_clients=4)),
            ValueError,
            ("not of this algorithm", "state.server"),
        ),
        "the other way round": (
            lambda: one_round(state=scaffold().init(MODEL, num_clients=4)),
            ValueError,
            ("not of this algorithm", "state.server"),
        ),
        "a state of another model": (
            lambda: one_round(scaffold(), swapped(scaffold())),
            ValueError,
            ("not of this algorithm and model", "float32[3] instead of float32[5]"),
        ),
        "a state of fewer clients": (
            lambda: one_round(scaffold(), scaffold().init(MODEL, num_clients=2)),
            ValueError,
            ("client number 3", "2 clients", "num_clients="),
        ),
        "a state of another aggregator": (
            lambda: one_round(
                eqx.tree_at(lambda a: a.aggregator, avg(), own_aggregator()),
                avg().init(MODEL, num_clients=4),
            ),
            ValueError,
            "state.aggregator",
        ),
    },
    "AbstractClient": {
        "abstract": (lambda: eqf.AbstractClient(), TypeError, "abstract"),
        "nothing": (
            lambda: client_round(lambda p, d, s: None),
            TypeError,
            ("`Client.round` must return", "got None"),
        ),
        "a message alone": (
            lambda: client_round(lambda p, d, s: eqf.Message(p, d.weight)),
            TypeError,
            ("`Client.round` must return", "a `Message`"),
        ),
        "no message": (
            lambda: client_round(lambda p, d, s: (p, s, {})),
            TypeError,
            ("a `Message` first", "a `Linear`"),
        ),
        "a Python number for a weight": (
            lambda: client_round(lambda p, d, s: (eqf.Message(p, 1), s, {})),
            TypeError,
            ("`weight`", "floating-point", "got 1"),
        ),
        "an integer for a weight": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p, d.num_examples), s, {})
            ),
            TypeError,
            ("`weight`", "int32[]"),
        ),
        "a vector for a weight": (
            lambda: client_round(lambda p, d, s: (eqf.Message(p, s), s, {})),
            TypeError,
            ("`weight`", "float32[3]"),
        ),
        "a payload that is no array": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message({"a": 1.0}, d.weight), s, {})
            ),
            TypeError,
            ("holds arrays", "payload['a']"),
        ),
        "a state of another dtype": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p, d.weight), s.astype(jnp.float16), {})
            ),
            TypeError,
            ("`state`", "float16[3] instead of float32[3]"),
        ),
        "a state of another shape": (
            lambda: client_round(lambda p, d, s: (eqf.Message(p, d.weight), s[:2], {})),
            TypeError,
            ("`state`", "float32[2] instead of float32[3]"),
        ),
        "a state of another structure": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p, d.weight), (s, s), {})
            ),
            TypeError,
            "`state",
        ),
        "no state": (
            lambda: client_round(lambda p, d, s: (eqf.Message(p, d.weight), None, {})),
            TypeError,
            "`state` is missing",
        ),
        "metrics that are no dictionary": (
            lambda: client_round(lambda p, d, s: (eqf.Message(p, d.weight), s, 1.0)),
            TypeError,
            "a dictionary of metrics last, got 1.0",
        ),
        "a number for a metric": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p, d.weight), s, {"a": d.weight})
            ),
            TypeError,
            ("metrics['a']", "`Average(x)` for example"),
        ),
        "half a payload": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p.weight, d.weight), s, {})
            ),
            TypeError,
            "of another structure",
        ),
        "a payload of another shape": (
            lambda: client_round(sends(lambda p: with_weight(p, jnp.ones(2)))),
            TypeError,
            "`payload.weight` is float32[2] instead of float32[3]",
        ),
        "a payload of integers": (
            lambda: client_round(
                sends(lambda p: jtu.tree_map(lambda x: x.astype(jnp.int32), p))
            ),
            TypeError,
            ("`Client.round`", "`payload.weight` is int32[3]"),
        ),
        "a complex payload": (
            lambda: client_round(sends(lambda p: with_weight(p, 1j * p.weight))),
            TypeError,
            ("`Client.round`", "`payload.weight`, complex64[3]"),
        ),
        "complex stats": (
            lambda: client_round(
                lambda p, d, s: (eqf.Message(p, d.weight, d.weight * 1j), s, {})
            ),
            TypeError,
            ("`Client.round`", "`stats`, complex64[]"),
        ),
        "a metric whose name is no text": (
            lambda: client_round(reports(1)),
            TypeError,
            ("`Client.round` must name its metrics by text", "got 1"),
        ),
        **{
            f"a metric called {name}": (
                lambda name=name: client_round(reports(name)),
                ValueError,
                (f"`Client.round` reports a metric called '{name}'", "another name"),
            )
            for name in ("round", "clients", "nonfinite", "nonfinite_model")
        },
    },
    "AbstractAggregator": {
        "abstract": (lambda: eqf.AbstractAggregator(), TypeError, "abstract"),
        "encodes nothing": (
            lambda: aggregator_round(up=lambda x: (None, {})),
            TypeError,
            "`Aggregator.encode` must return a tree of arrays, got None",
        ),
        "encodes without metrics": (
            lambda: aggregator_round(up=lambda x: x),
            TypeError,
            ("`Aggregator.encode` must return", "and its metrics"),
        ),
        "encodes metrics that are none": (
            lambda: aggregator_round(up=lambda x: (x, {"a": x.weight})),
            TypeError,
            ("metrics['a']", "`Average(x)` for example"),
        ),
        "encodes no array": (
            lambda: aggregator_round(up=lambda x: ("sum", {})),
            TypeError,
            "`Aggregator.encode` must return arrays, got 'sum'",
        ),
        "decodes nothing": (
            lambda: aggregator_round(down=lambda a, s: None),
            TypeError,
            ("`Aggregator.decode` must return", "got None"),
        ),
        "decodes no aggregate": (
            lambda: aggregator_round(down=lambda a, s: (a.payload, s, {})),
            TypeError,
            ("an `Aggregate` first", "a `Linear`"),
        ),
        "forgets its state": (
            lambda: aggregator_round(down=lambda a, s: (a, None, {})),
            TypeError,
            "`state` is missing",
        ),
        "changes its state's dtype": (
            lambda: aggregator_round(down=lambda a, s: (a, s.astype(jnp.int32), {})),
            TypeError,
            "int32[2] instead of float32[2]",
        ),
    },
    "AbstractServer": {
        "abstract": (lambda: eqf.AbstractServer(), TypeError, "abstract"),
        "nothing": (
            lambda: server_round(lambda p, a, s: None),
            TypeError,
            ("`Server.round` must return", "got None"),
        ),
        "params alone": (
            lambda: server_round(lambda p, a, s: p),
            TypeError,
            ("`Server.round` must return", "a `Linear`"),
        ),
        "other params": (
            lambda: server_round(lambda p, a, s: (p.weight, s)),
            TypeError,
            "`params",
        ),
        "params of another dtype": (
            lambda: server_round(
                lambda p, a, s: (
                    eqx.tree_at(lambda p: p.bias, p, jnp.ones((), jnp.float16)),
                    s,
                )
            ),
            TypeError,
            ("params.bias", "float16[] instead of float32[]"),
        ),
        "a state of another shape": (
            lambda: server_round(lambda p, a, s: (p, s[:2])),
            TypeError,
            ("`state`", "float32[2] instead of float32[4]"),
        ),
        "no state": (
            lambda: server_round(lambda p, a, s: (p, None)),
            TypeError,
            "`state` is missing",
        ),
    },
}


def avg():
    return eqf.FedAvg(fresh_loss(), SGD, BATCHING)


def scaffold():
    return eqf.Scaffold(fresh_loss(), SGD, BATCHING)


def swapped(algorithm):
    """A state in which the model is another one."""
    state = algorithm.init(MODEL, num_clients=4)
    return eqx.tree_at(lambda s: s.params, state, testing.Linear(5))


def own_aggregator():
    from .shared import Aggregator

    return Aggregator()
