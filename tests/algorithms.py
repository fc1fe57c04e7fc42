"""The table of algorithms: a new one is one line here, and every law is tested.

Methods of adapters have a table, as they have a model, of their own.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf
import equifed.posterior as eqp


SGD = optax.sgd(0.05)


def decaying(loss, batching):
    return eqf.OverRounds(Decaying(loss, batching))


class Decaying(eqx.Module):
    """FedProx whose rate and pull change from round to round."""

    loss: Callable = eqx.field(static=True)
    batching: eqf.data.AbstractBatching

    def __call__(self, t):
        t = t.astype(float)
        rate, mu = 0.05 * 0.9**t, 0.1 / (1 + t)
        return eqf.FedProx(self.loss, optax.sgd(rate), self.batching, mu=mu)


def sign(example):
    return (example["y"] > 0).astype(int)


def scores(model, example, key):
    """Two logits, for the two signs."""
    score = model.weight @ example["x"].astype(model.bias.dtype) + model.bias
    return jnp.stack([-score, score])


def noisy_scores(model, example, key):
    noise = 0.1 * jr.normal(key, (2,), model.bias.dtype)
    return scores(model, example, key) + noise


def features(model, example, key):
    """A vector that is not near 0, where its direction changes fast."""
    return model.weight * example["x"].astype(model.bias.dtype) + model.bias + 2


def noisy_features(model, example, key):
    noise = 0.1 * jr.normal(key, model.weight.shape, model.bias.dtype)
    return features(model, example, key) + noise


def weight_of(model):
    return model.weight


SCORES = {"logits": scores, "label": sign}


ALGORITHMS = {
    "FedSGD": lambda loss, batching: eqf.FedSGD(loss, optax.sgd(0.05), batching),
    "FedAvg": lambda loss, batching: eqf.FedAvg(loss, SGD, batching),
    "FedAvg-adam": lambda loss, batching: eqf.FedAvg(
        loss, optax.adam(0.01), batching, server_optim=optax.sgd(0.5, momentum=0.9)
    ),
    "FedAvgM": lambda loss, batching: eqf.FedAvgM(loss, SGD, batching),
    "FedAdagrad": lambda loss, batching: eqf.FedAdagrad(loss, SGD, batching),
    "FedAdam": lambda loss, batching: eqf.FedAdam(loss, SGD, batching),
    "FedYogi": lambda loss, batching: eqf.FedYogi(loss, SGD, batching),
    "FedProx": lambda loss, batching: eqf.FedProx(loss, SGD, batching, mu=0.1),
    "Scaffold-1": lambda loss, batching: eqf.Scaffold(loss, SGD, batching, option=1),
    "Scaffold-2": lambda loss, batching: eqf.Scaffold(loss, SGD, batching),
    "FedNova": lambda loss, batching: eqf.FedNova(
        loss, optax.sgd(0.05, momentum=0.9), batching, correction=eqf.Proximal(0.1)
    ),
    "FedDyn": lambda loss, batching: eqf.FedDyn(loss, SGD, batching, alpha=0.5),
    "Mime": lambda loss, batching: eqf.Mime(
        loss, optax.sgd(0.05, momentum=0.9), batching
    ),
    "MimeLite": lambda loss, batching: eqf.MimeLite(loss, optax.adam(0.01), batching),
    "FedSAM": lambda loss, batching: eqf.FedSAM(loss, SGD, batching, rho=0.1),
    "FedExP": lambda loss, batching: eqf.FedExP(loss, SGD, batching),
    "FedCM": lambda loss, batching: eqf.FedCM(
        loss, SGD, batching, server_optim=optax.sgd(0.1), alpha=0.3
    ),
    "MoFedSAM": lambda loss, batching: eqf.MoFedSAM(
        loss, SGD, batching, server_optim=optax.sgd(0.1), alpha=0.3, rho=0.1
    ),
    "FedVARP": lambda loss, batching: eqf.FedVARP(loss, SGD, batching),
    "MIFA": lambda loss, batching: eqf.MIFA(loss, 0.05, batching),
    "FedACG": lambda loss, batching: eqf.FedACG(
        loss, SGD, batching, momentum=0.5, beta=0.1
    ),
    "FedSpeed": lambda loss, batching: eqf.FedSpeed(
        loss, SGD, batching, lam=2.0, rho=0.1
    ),
    "FedDC": lambda loss, batching: eqf.FedDC(loss, SGD, batching, alpha=0.2),
    "FedLESAM": lambda loss, batching: eqf.FedLESAM(loss, SGD, batching, rho=0.1),
    "FedSMOO": lambda loss, batching: eqf.FedSMOO(
        loss, SGD, batching, alpha=0.5, rho=0.1
    ),
    "FedLin": lambda loss, batching: eqf.FedLin(loss, 0.1, batching),
    "Scaffnew": lambda loss, batching: eqf.Scaffnew(
        loss, 0.05, batching, probability=0.5
    ),
    "FedNTD": lambda loss, batching: eqf.FedNTD(loss, SGD, batching, **SCORES),
    "FedLC": lambda loss, batching: eqf.FedLC(
        loss, SGD, batching, logits=noisy_scores, label=sign, tau=0.5
    ),
    "FedDecorr": lambda loss, batching: eqf.FedDecorr(
        loss, SGD, batching, representation=noisy_scores
    ),
    "FedSophia": lambda loss, batching: eqf.FedSophia(
        loss, 0.05, batching, logits=scores, rho=0.1, interval=2
    ),
    "DiLoCo": lambda loss, batching: eqf.DiLoCo(loss, optax.adam(0.01), batching),
    "StreamingDiLoCo": lambda loss, batching: eqf.StreamingDiLoCo(
        *(loss, optax.adam(0.01), batching),
        fragments=2,
        delay=1,
        alpha=0.4,
        compressor=eqf.compress.RandomK(0.5, scaled=False),
    ),
    "Ditto": lambda loss, batching: eqf.Ditto(
        loss, SGD, batching, lam=0.5, own_optim=optax.sgd(0.1)
    ),
    "APFL": lambda loss, batching: eqf.APFL(
        loss, SGD, batching, alpha=0.4, alpha_learning_rate=0.1
    ),
    "PFedMe": lambda loss, batching: eqf.PFedMe(
        loss, SGD, batching, lam=1.0, own_learning_rate=0.1, own_steps=2
    ),
    "PerFedAvg": lambda loss, batching: eqf.PerFedAvg(loss, SGD, batching, alpha=0.1),
    "MOON": lambda loss, batching: eqf.MOON(
        loss, SGD, batching, representation=noisy_features, mu=1.0
    ),
    "FedPer": lambda loss, batching: eqf.FedPer(loss, SGD, batching),
    "LGFedAvg": lambda loss, batching: eqf.LGFedAvg(loss, SGD, batching),
    "FedBN": lambda loss, batching: eqf.FedBN(loss, SGD, batching),
    "FedBABU": lambda loss, batching: eqf.FedBABU(loss, SGD, batching),
    "FedRep": lambda loss, batching: eqf.FedRep(
        loss, SGD, batching, personal_parts=2, shared_parts=1
    ),
    "FedAlt": lambda loss, batching: eqf.FedAlt(
        loss, SGD, batching, personal_optim=optax.sgd(0.1)
    ),
    "LocalOnly": lambda loss, batching: eqf.LocalOnly(loss, SGD, batching),
    "FedALA": lambda loss, batching: eqf.FedALA(
        loss, SGD, batching, adapts=weight_of, weight_learning_rate=0.1, first_passes=2
    ),
    "FedRoD": lambda loss, batching: eqf.FedRoD(
        loss, SGD, batching, logits=noisy_scores, label=sign, head=weight_of
    ),
    "FedProto": lambda loss, batching: eqf.FedProto(
        *(loss, SGD, batching),
        representation=features,
        label=sign,
        num_classes=3,
        num_features=3,
        lam=0.5,
    ),
    "AgnosticFedAvg": lambda loss, batching: eqf.AgnosticFedAvg(
        loss, SGD, batching, num_domains=2, domain=sign, domain_learning_rate=0.1
    ),
    "AFL": lambda loss, batching: eqf.AFL(
        loss, SGD, batching, weight_learning_rate=0.1
    ),
    "TERM": lambda loss, batching: eqf.TERM(loss, SGD, batching, t=0.5),
    "QFedAvg": lambda loss, batching: eqf.QFedAvg(loss, 0.05, batching, q=1.5),
    "FLTrust": lambda loss, batching: eqf.FLTrust(loss, SGD, batching, root=0),
    "IFCA": lambda loss, batching: eqf.IFCA(loss, SGD, batching, num_clusters=2),
    "HypCluster": lambda loss, batching: eqf.HypCluster(
        loss, SGD, batching, num_clusters=2, server_optim=optax.adam(0.05)
    ),
    "PowerOfChoice": lambda loss, batching: eqf.PowerOfChoice(
        eqf.Scaffold(loss, SGD, batching), num_chosen=3
    ),
    "FedBuff": lambda loss, batching: eqf.FedBuff(
        loss, SGD, batching, max_staleness=2, correction=eqf.Proximal(0.1)
    ),
    "FedAsync": lambda loss, batching: eqf.FedAsync(
        *(loss, SGD, batching),
        max_staleness=2,
        alpha=0.6,
        weight=eqf.HingeStaleness(2.0, 0.5),
        mu=0.1,
    ),
    "CA2FL": lambda loss, batching: eqf.CA2FL(loss, SGD, batching, max_staleness=2),
    "FADAS": lambda loss, batching: eqf.FADAS(
        *(loss, SGD, batching),
        max_staleness=2,
        server_learning_rate=0.05,
        epsilon=0.1,
        threshold=0.0,
    ),
    "Oort": lambda loss, batching: eqf.Oort(
        eqf.FedAvg(loss, SGD, batching), 3, preferred_seconds=None, window=1
    ),
    "Diagnose": lambda loss, batching: eqf.Diagnose(eqf.Mime(loss, SGD, batching)),
    "Attacked": lambda loss, batching: eqf.attacks.Attacked(
        eqf.Mime(loss, SGD, batching), eqf.attacks.MinMax(), [0, 3]
    ),
    "OverRounds": lambda loss, batching: decaying(loss, batching),
    "FedPA": lambda loss, batching: eqf.FedPA(
        loss, eqp.IASG(SGD, burnin=1), batching, rho=0.1, start_round=1
    ),
    "FedEP": lambda loss, batching: eqf.FedEP(
        loss, optax.sgd(0.01), batching, prior_precision=10.0
    ),
    "PosteriorProduct": lambda loss, batching: eqf.Algorithm(
        eqp.PosteriorClient(
            loss,
            eqp.SGLD(0.01, chains=2),
            batching,
            eqp.GaussianMoments(1.0),
        ),
        eqp.PosteriorProduct(),
        eqf.OptaxServer(optax.sgd(1.0)),
    ),
    "Median": lambda loss, batching: eqf.FedAvg(
        loss, SGD, batching, aggregator=eqf.Median()
    ),
    "wrappers": lambda loss, batching: eqf.FedAvg(
        loss,
        SGD,
        batching,
        aggregator=eqf.DropNonfinite(eqf.Clip(eqf.TrimmedMean(0.2), max_norm=0.5)),
    ),
    "robust": lambda loss, batching: eqf.FedAvg(
        loss,
        SGD,
        batching,
        aggregator=eqf.robust.NearestNeighbourMixing(
            eqf.robust.Bucketing(eqf.robust.CentredClipping(0.5), 2), 1
        ),
    ),
    "OptimalClientSampling": lambda loss, batching: eqf.FedAvg(
        loss, SGD, batching, aggregator=eqf.OptimalClientSampling(2.5)
    ),
    "Compress": lambda loss, batching: eqf.FedAvg(
        loss,
        SGD,
        batching,
        aggregator=eqf.compress.Compress(
            eqf.WeightedMean(), eqf.compress.Rotated(eqf.compress.RandomK(0.5), seed=1)
        ),
    ),
    "CompressDown": lambda loss, batching: eqf.CompressDown(
        eqf.FedAvg(loss, SGD, batching), eqf.compress.RandomK(0.5, scaled=False)
    ),
    "EF21": lambda loss, batching: eqf.Algorithm(
        eqf.compress.CompressedClient(
            eqf.LocalSGD(loss, SGD, batching),
            eqf.compress.EF21(eqf.compress.RandomK(0.5, scaled=False)),
        ),
        eqf.WeightedMean(),
        eqf.OptaxServer(optax.sgd(0.5)),
    ),
}


class Adapted(eqx.Module):
    """A frozen layer that learns a change of low rank, and what is made of it."""

    layer: eqf.nn.LoRA

    def __init__(self):
        layer = eqx.nn.Linear(3, 3, key=jr.key(0))
        layer = eqf.nn.lora(layer, 2, alpha=1, key=jr.key(1))
        # It has learnt something, or its B would not depend on its A.
        b = jnp.linspace(-0.5, 0.5, 6).reshape(3, 2)
        self.layer = eqx.tree_at(lambda x: x.b, layer, b)

    def __call__(self, x):
        return jnp.tanh(self.layer(x)).sum()


OF_ADAPTERS = {
    "FedExLoRA": lambda loss, batching: eqf.FedExLoRA(loss, SGD, batching),
    "FLoRA": lambda loss, batching: eqf.FLoRA(loss, SGD, batching),
    "FlexLoRA": lambda loss, batching: eqf.FlexLoRA(loss, SGD, batching),
    "HetLoRA": lambda loss, batching: eqf.HetLoRA(
        loss, SGD, batching, lam=0.5, gamma=0.5
    ),
    "RoLoRA": lambda loss, batching: eqf.RoLoRA(loss, SGD, batching),
}
