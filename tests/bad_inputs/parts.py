"""Clients, corrections, aggregators, servers and samplers as they are made."""

import re

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

import equifed as eqf
import equifed.posterior as eqp

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
    remedy = re.compile("Call it first|Write `")
    return {
        "a class for a part": (
            lambda: make(example),
            TypeError,
            (f"`{name}`", f"the class `{example.__name__}`", remedy),
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
            lambda: eqf.Normalized(eqf.MeanGradient(LOSS, BATCHING)),
            TypeError,
            ("`client`", "a `MeanGradient`"),
        ),
        "a correction that remembers": (
            lambda: eqf.Normalized(
                eqf.LocalSGD(LOSS, SGD, BATCHING, eqf.ControlVariate())
            ),
            ValueError,
            "remembers a gradient",
        ),
    },
    "MeanGradient": {
        "swapped": (
            lambda: eqf.MeanGradient(BATCHING, LOSS),
            TypeError,
            ("`loss`", "an `Epochs`"),
        ),
        "a number for a batching": (
            lambda: eqf.MeanGradient(LOSS, 4),
            TypeError,
            ("`batching`", "got 4"),
        ),
    },
    "posterior.PosteriorClient": {
        "an optimiser for a sampler": (
            lambda: eqp.PosteriorClient(LOSS, SGD, BATCHING, eqp.Shrinkage(0.1)),
            TypeError,
            "`sampler`",
        ),
        "a number for an estimator": (
            lambda: eqp.PosteriorClient(LOSS, eqp.IASG(SGD), BATCHING, 0.1),
            TypeError,
            ("`estimator`", "`Shrinkage(0.01)` for example"),
        ),
        "no loss": (
            lambda: eqp.PosteriorClient(
                None, eqp.IASG(SGD), BATCHING, eqp.Shrinkage(0.1)
            ),
            TypeError,
            "`loss` must be a function",
        ),
        "chains that cannot share": (
            lambda: eqp.PosteriorClient(
                LOSS,
                eqp.IASG(SGD, chains=2),
                BATCHING,
                eqp.Shrinkage(0.1),
            ),
            ValueError,
            "2 chains cannot share",
        ),
    },
    "posterior.EPClient": {
        **without_aggregator(eqp.EPClient),
        **numbers(
            lambda x: eqp.EPClient(LOSS, SGD, BATCHING, damping=x),
            POSITIVE,
            name="damping",
        ),
    },
    "AbstractCorrection": {
        "abstract": (lambda: eqf.AbstractCorrection(), TypeError, "abstract")
    },
    "posterior.AbstractPosteriorSampler": {
        "abstract": (
            lambda: eqp.AbstractPosteriorSampler(),
            TypeError,
            "abstract",
        )
    },
    "posterior.AbstractChainSampler": {
        "abstract": (
            lambda: eqp.AbstractChainSampler(),
            TypeError,
            "abstract",
        )
    },
    "posterior.AbstractMomentEstimator": {
        "abstract": (
            lambda: eqp.AbstractMomentEstimator(),
            TypeError,
            "abstract",
        )
    },
    "AbstractMetric": {
        "abstract": (lambda: eqf.AbstractMetric(), TypeError, "abstract")
    },
    "AbstractLogger": {
        "abstract": (lambda: eqf.AbstractLogger(), TypeError, "abstract")
    },
    "Proximal": numbers(eqf.Proximal, RATE, name="mu"),
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
    "posterior.EPServer": numbers(eqp.EPServer, POSITIVE, name="prior_precision"),
    "NovaServer": wrong_parts(eqf.NovaServer, "server", example=eqf.OptaxServer),
    "ScaffoldServer": wrong_parts(
        eqf.ScaffoldServer, "server", example=eqf.OptaxServer
    ),
    "posterior.BurnInServer": {
        **wrong_parts(
            lambda x: eqp.BurnInServer(x, 1),
            "server",
            example=eqf.OptaxServer,
        ),
        **counts(lambda x: eqp.BurnInServer(SERVER, x), name="start_round", least=0),
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
    "posterior.Windows": {
        **counts(lambda x: eqp.Windows(x, 1, 0, 1), name="burnin", least=0),
        **counts(lambda x: eqp.Windows(0, x, 0, 1), name="average", least=1),
        **counts(lambda x: eqp.Windows(0, 1, x, 1), name="discard", least=0),
        **counts(lambda x: eqp.Windows(0, 1, 0, x), name="chains", least=1),
    },
    "posterior.IASG": {
        "a rate for an optimiser": (
            lambda: eqp.IASG(0.1),
            TypeError,
            ("`optim`", "got 0.1", "optax.sgd("),
        ),
        **counts(lambda x: eqp.IASG(SGD, burnin=x), name="burnin", least=0),
        **counts(lambda x: eqp.IASG(SGD, chains=x), name="chains", least=1),
    },
    "posterior.SGLD": {
        "an optimiser for a rate": (
            lambda: eqp.SGLD(SGD),
            TypeError,
            ("`learning_rate`", NO_OPTIMISER),
        ),
        "a named optimiser for a rate": (
            lambda: eqp.SGLD(eqf.Optim(SGD)),
            TypeError,
            ("`learning_rate`", NO_OPTIMISER),
        ),
        "text for a rate": (
            lambda: eqp.SGLD("0.1"),
            TypeError,
            ("`learning_rate`", "'0.1'"),
        ),
        "no rate": (
            lambda: eqp.SGLD(0.0),
            ValueError,
            "`learning_rate` must be more than 0, got 0",
        ),
        "NaN": (
            lambda: eqp.SGLD(NAN),
            ValueError,
            "`learning_rate` must be finite",
        ),
        "several rates": (
            lambda: eqp.SGLD(TWO),
            ValueError,
            ("`learning_rate`", "filter_vmap"),
        ),
        **sgld(eqp.SGLD, "temperature", RATE),
    },
    "posterior.PreconditionedSGLD": {
        "an optimiser for a rate": (
            lambda: eqp.PreconditionedSGLD(SGD),
            TypeError,
            NO_OPTIMISER,
        ),
        **sgld(eqp.PreconditionedSGLD, "decay", MOMENT),
        **sgld(eqp.PreconditionedSGLD, "eps", POSITIVE),
    },
    "posterior.ExactGaussian": {
        **counts(eqp.ExactGaussian, name="num_samples", least=1),
        **numbers(
            lambda x: eqp.ExactGaussian(3, temperature=x),
            POSITIVE,
            name="temperature",
        ),
    },
    "posterior.Laplace": {
        "a rate for an optimiser": (
            lambda: eqp.Laplace(0.1, 3),
            TypeError,
            ("`optim`", "got 0.1"),
        ),
        **counts(lambda x: eqp.Laplace(SGD, x), name="num_samples", least=1),
        **numbers(lambda x: eqp.Laplace(SGD, 3, damping=x), POSITIVE, name="damping"),
        "no such curvature": (
            lambda: eqp.Laplace(SGD, 3, curvature="full"),
            ValueError,
            "`curvature` must be 'fisher' or 'hessian', got 'full'",
        ),
    },
    "posterior.HMC": {
        **counts(eqp.HMC, name="num_samples", least=1),
        **counts(
            lambda x: eqp.HMC(3, num_integration_steps=x),
            name="num_integration_steps",
            least=1,
        ),
        **counts(lambda x: eqp.HMC(3, num_warmup=x), name="num_warmup", least=0),
        **numbers(lambda x: eqp.HMC(3, step_size=x), POSITIVE, name="step_size"),
        **numbers(
            lambda x: eqp.HMC(3, target_acceptance=x),
            {0.0: "more than 0", 1.0: "less than 1"},
            name="target_acceptance",
        ),
    },
    "posterior.NUTS": {
        **counts(eqp.NUTS, name="num_samples", least=1),
        **numbers(lambda x: eqp.NUTS(3, temperature=x), POSITIVE, name="temperature"),
    },
    "posterior.Shrinkage": {
        **numbers(eqp.Shrinkage, {-0.1: "at least 0, got -0.1"}, name="rho"),
        "no such method": (
            lambda: eqp.Shrinkage(0.1, method="sparse"),
            ValueError,
            ("`method`", "'woodbury', 'dynamic' or 'dense'", "'sparse'"),
        ),
        "a number for a flag": (
            lambda: eqp.Shrinkage(0.1, joint=1),
            TypeError,
            "`joint` must be True or False, got 1",
        ),
        "samples of two lengths": (
            lambda: eqp.Shrinkage(0.1)({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}),
            ValueError,
            "The samples need a leading axis",
        ),
    },
    "posterior.GaussianMoments": {
        **numbers(eqp.GaussianMoments, POSITIVE, name="rho"),
        "no such covariance": (
            lambda: eqp.GaussianMoments(1.0, covariance="full"),
            ValueError,
            "`covariance` must be 'diagonal' or 'dense', got 'full'",
        ),
    },
    "posterior.effective_sample_size": {
        "a matrix": (
            lambda: eqp.effective_sample_size(np.ones((2, 2))),
            ValueError,
            ("one vector", "(2, 2)"),
        ),
        "a number": (
            lambda: eqp.effective_sample_size(1.0),
            ValueError,
            "one vector",
        ),
        "text": (
            lambda: eqp.effective_sample_size("ab"),
            TypeError,
            ("`log_weights`", "'ab'"),
        ),
        "nothing": (
            lambda: eqp.effective_sample_size(None),
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
