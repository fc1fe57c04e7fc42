"""Clients, corrections, aggregators, servers and samplers as they are made."""

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

import equifed as eqf

from .algorithms import common, MOMENT, numbers, POSITIVE, RATE
from .shared import BATCHING, LOSS, NAN, SERVER, SGD, TWO


def without_aggregator(make):
    """[`common`][], for what has no choice of an aggregator."""
    cases = common(make)
    return {k: v for k, v in cases.items() if "aggregator" not in k}


def noise(updates, params):
    """From a key that all clients have."""
    return jtu.tree_map(lambda x: x + jr.normal(jr.key(0), x.shape), updates)


def counts(make, *, name, least):
    """What a count that is none gives."""
    small = least - 1
    return {
        f"{name}=1.5": (
            lambda: make(1.5),
            TypeError,
            (f"`{name}` must be an integer", "got 1.5"),
        ),
        f"{name}, an array of a fraction": (
            lambda: make(np.asarray(1.5)),
            TypeError,
            (f"`{name}` must be an integer", "got 1.5"),
        ),
        f"{name}, an array of several": (
            lambda: make(np.asarray([1, 2])),
            TypeError,
            (f"`{name}` must be an integer", "an array int64[2]"),
        ),
        f"{name}=True": (
            lambda: make(True),
            TypeError,
            (f"`{name}` must be an integer", "got True"),
        ),
        f"{name}={small}": (
            lambda: make(small),
            ValueError,
            f"`{name}` must be at least {least}, got {small}",
        ),
    }


def wrong_parts(make, name, *, example):
    """What a part of the wrong kind gives."""
    return {
        "a class for a part": (
            lambda: make(example),
            TypeError,
            (f"`{name}`", f"the class `{example.__name__}`", "Call it first"),
        ),
        "a number for a part": (lambda: make(0.1), TypeError, (f"`{name}`", "got 0.1")),
        "no part": (lambda: make(None), TypeError, (f"`{name}`", "got None")),
    }


def sgld(kind, name, bad):
    return numbers(lambda x: kind(0.1, **{name: x}), bad, name=name)


NO_OPTIMISER = "makes its own steps: give a number"

TABLE = {
    "LocalSGD": {
        **without_aggregator(eqf.LocalSGD),
        "a class for a correction": (
            lambda: eqf.LocalSGD(LOSS, SGD, BATCHING, eqf.NoCorrection),
            TypeError,
            ("`correction`", "the class `NoCorrection`"),
        ),
        "a number for a correction": (
            lambda: eqf.LocalSGD(LOSS, SGD, BATCHING, 0.1),
            TypeError,
            ("`correction`", "`Proximal(0.1)` for example", "got 0.1"),
        ),
    },
    "Normalized": {
        "a class for a client": (
            lambda: eqf.Normalized(eqf.LocalSGD),
            TypeError,
            ("`client`", "the class `LocalSGD`"),
        ),
        "another client": (
            lambda: eqf.Normalized(eqf.FullGradient(LOSS, BATCHING)),
            TypeError,
            ("`client`", "a `FullGradient`"),
        ),
        "a correction that remembers": (
            lambda: eqf.Normalized(
                eqf.LocalSGD(LOSS, SGD, BATCHING, eqf.ControlVariate())
            ),
            ValueError,
            "remembers a gradient",
        ),
    },
    "FullGradient": {
        "swapped": (
            lambda: eqf.FullGradient(BATCHING, LOSS),
            TypeError,
            ("`loss`", "an `Epochs`"),
        ),
        "a number for a batching": (
            lambda: eqf.FullGradient(LOSS, 4),
            TypeError,
            ("`batching`", "got 4"),
        ),
    },
    "PosteriorClient": {
        "an optimiser for a sampler": (
            lambda: eqf.PosteriorClient(LOSS, SGD, BATCHING, eqf.Shrinkage(0.1)),
            TypeError,
            "`sampler`",
        ),
        "a number for an estimator": (
            lambda: eqf.PosteriorClient(LOSS, eqf.IASG(SGD), BATCHING, 0.1),
            TypeError,
            ("`estimator`", "`Shrinkage(0.01)` for example"),
        ),
        "no loss": (
            lambda: eqf.PosteriorClient(
                None, eqf.IASG(SGD), BATCHING, eqf.Shrinkage(0.1)
            ),
            TypeError,
            "`loss` must be a function",
        ),
        "chains that cannot share": (
            lambda: eqf.PosteriorClient(
                LOSS, eqf.IASG(SGD, chains=2), BATCHING, eqf.Shrinkage(0.1)
            ),
            ValueError,
            "2 chains cannot share",
        ),
    },
    "EPClient": {
        **without_aggregator(eqf.EPClient),
        **numbers(
            lambda x: eqf.EPClient(LOSS, SGD, BATCHING, damping=x),
            POSITIVE,
            name="damping",
        ),
    },
    "AbstractCorrection": {
        "abstract": (lambda: eqf.AbstractCorrection(), TypeError, "abstract")
    },
    "AbstractPosteriorSampler": {
        "abstract": (lambda: eqf.AbstractPosteriorSampler(), TypeError, "abstract")
    },
    "AbstractChainSampler": {
        "abstract": (lambda: eqf.AbstractChainSampler(), TypeError, "abstract")
    },
    "AbstractMomentEstimator": {
        "abstract": (lambda: eqf.AbstractMomentEstimator(), TypeError, "abstract")
    },
    "AbstractMetric": {
        "abstract": (lambda: eqf.AbstractMetric(), TypeError, "abstract")
    },
    "AbstractLogger": {
        "abstract": (lambda: eqf.AbstractLogger(), TypeError, "abstract")
    },
    "Proximal": numbers(eqf.Proximal, RATE, name="mu"),
    "DynamicRegularizer": numbers(eqf.DynamicRegularizer, POSITIVE, name="alpha"),
    "ControlVariate": {
        "option 0": (
            lambda: eqf.ControlVariate(0),
            ValueError,
            "`option` must be 1 or 2, got 0",
        ),
        "option 1.0": (
            lambda: eqf.ControlVariate(1.0),
            ValueError,
            "`option` must be 1 or 2, got 1.0",
        ),
        "option True": (
            lambda: eqf.ControlVariate(True),
            ValueError,
            "`option` must be 1 or 2, got True",
        ),
        "option text": (
            lambda: eqf.ControlVariate("II"),
            ValueError,
            "`option` must be 1 or 2, got 'II'",
        ),
    },
    "Clip": {
        **numbers(lambda x: eqf.Clip(eqf.WeightedMean(), x), POSITIVE, name="max_norm"),
        **wrong_parts(lambda x: eqf.Clip(x, 1.0), "aggregator", example=eqf.Median),
    },
    "DropNonfinite": wrong_parts(
        eqf.DropNonfinite, "aggregator", example=eqf.WeightedMean
    ),
    "TrimmedMean": numbers(
        eqf.TrimmedMean,
        {-0.1: "at least 0", 0.5: "less than 0.5, got 0.5"},
        name="trim",
    ),
    "OptaxServer": {
        "a rate": (lambda: eqf.OptaxServer(1.0), TypeError, ("1.0", "optax.sgd(")),
        "an optimiser that was not called": (
            lambda: eqf.OptaxServer(optax.sgd),
            TypeError,
            ("sgd", "optax.sgd("),
        ),
        "nothing": (lambda: eqf.OptaxServer(None), TypeError, "None"),
    },
    "Optim": {
        "a rate": (lambda: eqf.Optim(0.1), TypeError, ("0.1", "optax.sgd(")),
        "nothing": (lambda: eqf.Optim(None), TypeError, "None"),
        "an optimiser that was not called": (
            lambda: eqf.Optim(optax.adam),
            TypeError,
            "adam",
        ),
        "noise that all clients would share": (
            lambda: eqf.Optim(optax.stateless(noise)),
            ValueError,
            ("noise` draws noise from a key that it makes itself", "in its state"),
        ),
    },
    "DynServer": numbers(eqf.DynServer, POSITIVE, name="alpha"),
    "EPServer": numbers(eqf.EPServer, POSITIVE, name="prior_precision"),
    "NovaServer": wrong_parts(eqf.NovaServer, "server", example=eqf.OptaxServer),
    "ScaffoldServer": wrong_parts(
        eqf.ScaffoldServer, "server", example=eqf.OptaxServer
    ),
    "BurnInServer": {
        **wrong_parts(
            lambda x: eqf.BurnInServer(x, 1), "server", example=eqf.OptaxServer
        ),
        **counts(lambda x: eqf.BurnInServer(SERVER, x), name="start_round", least=0),
    },
    "server_adagrad": {
        **numbers(eqf.server_adagrad, RATE, name="learning_rate"),
        **numbers(lambda x: eqf.server_adagrad(0.1, tau=x), POSITIVE, name="tau"),
    },
    "server_adam": {
        **numbers(eqf.server_adam, RATE, name="learning_rate"),
        **numbers(lambda x: eqf.server_adam(0.1, b1=x), MOMENT, name="b1"),
    },
    "server_yogi": numbers(lambda x: eqf.server_yogi(0.1, b2=x), MOMENT, name="b2"),
    "Windows": {
        **counts(lambda x: eqf.Windows(x, 1, 0, 1), name="burnin", least=0),
        **counts(lambda x: eqf.Windows(0, x, 0, 1), name="average", least=1),
        **counts(lambda x: eqf.Windows(0, 1, x, 1), name="discard", least=0),
        **counts(lambda x: eqf.Windows(0, 1, 0, x), name="chains", least=1),
    },
    "IASG": {
        "a rate for an optimiser": (
            lambda: eqf.IASG(0.1),
            TypeError,
            ("`optim`", "got 0.1", "optax.sgd("),
        ),
        **counts(lambda x: eqf.IASG(SGD, burnin=x), name="burnin", least=0),
        **counts(lambda x: eqf.IASG(SGD, chains=x), name="chains", least=1),
    },
    "SGLD": {
        "an optimiser for a rate": (
            lambda: eqf.SGLD(SGD),
            TypeError,
            ("`learning_rate`", NO_OPTIMISER),
        ),
        "a named optimiser for a rate": (
            lambda: eqf.SGLD(eqf.Optim(SGD)),
            TypeError,
            ("`learning_rate`", NO_OPTIMISER),
        ),
        "text for a rate": (
            lambda: eqf.SGLD("0.1"),
            TypeError,
            ("`learning_rate`", "'0.1'"),
        ),
        "no rate": (
            lambda: eqf.SGLD(0.0),
            ValueError,
            "`learning_rate` must be more than 0, got 0",
        ),
        "NaN": (lambda: eqf.SGLD(NAN), ValueError, "`learning_rate` must be finite"),
        "several rates": (
            lambda: eqf.SGLD(TWO),
            ValueError,
            ("`learning_rate`", "filter_vmap"),
        ),
        **sgld(eqf.SGLD, "temperature", RATE),
    },
    "PreconditionedSGLD": {
        "an optimiser for a rate": (
            lambda: eqf.PreconditionedSGLD(SGD),
            TypeError,
            NO_OPTIMISER,
        ),
        **sgld(eqf.PreconditionedSGLD, "decay", MOMENT),
        **sgld(eqf.PreconditionedSGLD, "eps", POSITIVE),
    },
    "ExactGaussian": {
        **counts(eqf.ExactGaussian, name="num_samples", least=1),
        **numbers(
            lambda x: eqf.ExactGaussian(3, temperature=x), POSITIVE, name="temperature"
        ),
    },
    "Laplace": {
        "a rate for an optimiser": (
            lambda: eqf.Laplace(0.1, 3),
            TypeError,
            ("`optim`", "got 0.1"),
        ),
        **counts(lambda x: eqf.Laplace(SGD, x), name="num_samples", least=1),
        **numbers(lambda x: eqf.Laplace(SGD, 3, damping=x), POSITIVE, name="damping"),
        "no such curvature": (
            lambda: eqf.Laplace(SGD, 3, curvature="full"),
            ValueError,
            "`curvature` must be 'fisher' or 'hessian', got 'full'",
        ),
    },
    "HMC": {
        **counts(eqf.HMC, name="num_samples", least=1),
        **counts(
            lambda x: eqf.HMC(3, num_integration_steps=x),
            name="num_integration_steps",
            least=1,
        ),
        **counts(lambda x: eqf.HMC(3, num_warmup=x), name="num_warmup", least=0),
        **numbers(lambda x: eqf.HMC(3, step_size=x), POSITIVE, name="step_size"),
        **numbers(
            lambda x: eqf.HMC(3, target_acceptance=x),
            {0.0: "more than 0", 1.0: "less than 1"},
            name="target_acceptance",
        ),
    },
    "NUTS": {
        **counts(eqf.NUTS, name="num_samples", least=1),
        **numbers(lambda x: eqf.NUTS(3, temperature=x), POSITIVE, name="temperature"),
    },
    "Shrinkage": {
        **numbers(eqf.Shrinkage, {-0.1: "at least 0, got -0.1"}, name="rho"),
        "no such method": (
            lambda: eqf.Shrinkage(0.1, method="sparse"),
            ValueError,
            ("`method`", "'woodbury', 'dynamic' or 'dense'", "'sparse'"),
        ),
        "a number for a flag": (
            lambda: eqf.Shrinkage(0.1, joint=1),
            TypeError,
            "`joint` must be True or False, got 1",
        ),
        "samples of two lengths": (
            lambda: eqf.Shrinkage(0.1)({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}),
            ValueError,
            "The samples need a leading axis",
        ),
    },
    "GaussianMoments": {
        **numbers(eqf.GaussianMoments, POSITIVE, name="rho"),
        "no such covariance": (
            lambda: eqf.GaussianMoments(1.0, covariance="full"),
            ValueError,
            "`covariance` must be 'diagonal' or 'dense', got 'full'",
        ),
    },
    "effective_sample_size": {
        "a matrix": (
            lambda: eqf.effective_sample_size(np.ones((2, 2))),
            ValueError,
            ("one vector", "(2, 2)"),
        ),
        "a number": (lambda: eqf.effective_sample_size(1.0), ValueError, "one vector"),
        "text": (
            lambda: eqf.effective_sample_size("ab"),
            TypeError,
            ("`log_weights`", "'ab'"),
        ),
        "nothing": (
            lambda: eqf.effective_sample_size(None),
            TypeError,
            "`log_weights`",
        ),
    },
    "floating": {
        "text": (lambda: eqf.floating("0.1"), TypeError, "must be a number, got '0.1'"),
        "nothing": (
            lambda: eqf.floating(None),
            TypeError,
            "must be a number, got None",
        ),
        "a complex number": (
            lambda: eqf.floating(1j),
            TypeError,
            "must be a number, got 1j",
        ),
        "a function": (
            lambda: eqf.floating(jr.normal),
            TypeError,
            "the function `normal`",
        ),
    },
}
