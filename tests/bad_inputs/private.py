"""Bad inputs of what makes a training private."""

import functools
import math

import datasets
import equinox as eqx
import jax.numpy as jnp
import numpy as np

import equifed as eqf
import equifed.attacks as eqa
import equifed.privacy as eqp
from equifed import recipes, testing

from .shared import BATCHING, DATASET, KEY, LOSS, SGD


TABLE: dict[str, dict[str, tuple]] = {}
COUNT = 8


def mechanism(**kwargs):
    kwargs = {"noise_multiplier": 1.0, "expected_clients": 4.0, **kwargs}
    return eqp.PrivateMean(eqp.FlatClip(1.0), **kwargs)


def plan(sampler=None, mech=None, **kwargs):
    sampler = eqf.data.PoissonSampler(0.5) if sampler is None else sampler
    mech = mechanism() if mech is None else mech
    kwargs = {"num_clients": COUNT, "num_rounds": 5, "delta": 1e-3, **kwargs}
    return eqp.PrivacyPlan(sampler, mech, **kwargs)


def trained(
    made, *, sampler=None, count=COUNT, num_rounds=1, algorithm=eqf.FedAvg, **kwargs
):
    kwargs = {"aggregator": made.mechanism, **kwargs}
    algorithm = algorithm(LOSS, SGD, BATCHING, **kwargs)
    dataset = testing.ragged_clients((4,) * count)
    loader = eqf.data.Loader(dataset, sampler or made.sampler, BATCHING)
    model = testing.Linear()
    return eqf.train(
        algorithm, model, loader, num_rounds=num_rounds, key=KEY, privacy=made
    )


def chosen(*parts, **kwargs):
    return eqf.PowerOfChoice(eqf.FedAvg(*parts, **kwargs), 2)


def attacked(*parts, **kwargs):
    return eqa.Attacked(eqf.FedAvg(*parts, **kwargs), eqa.Mimic(), [1])


def trusting(*parts, aggregator):
    return eqf.FLTrust(*parts, root=0)


def swept(made, privacy):
    """A sweep of one algorithm, called `a`, with the mechanism of a plan."""
    loader = eqf.data.Loader(
        testing.ragged_clients((4,) * COUNT), made.sampler, BATCHING
    )
    algorithm = eqf.FedAvg(LOSS, SGD, BATCHING, aggregator=made.mechanism)
    return eqf.sweep(
        *({"a": algorithm}, lambda key: testing.Linear(), loader),
        num_rounds=1,
        keys=[KEY],
        privacy=privacy,
    )


def of_stream(made):
    """A training on a stream, of which nobody knows how many clients it has."""
    rows = datasets.Dataset.from_dict({"who": [0, 1], "x": [[0.0] * 3] * 2})
    stream = eqf.data.ClientStream(rows.to_iterable_dataset(), by="who")
    loader = eqf.data.StreamLoader(stream, 2, BATCHING)
    algorithm = eqf.FedAvg(LOSS, SGD, BATCHING, aggregator=made.mechanism)
    state = algorithm.init(testing.Linear(), num_clients=COUNT)
    return made.check(algorithm, state, loader, num_rounds=1)


def promised(**kwargs):
    return recipes.Privacy(
        **{"epsilon": 2.0, "delta": 1e-6, "clip_norm": 1.0, **kwargs}
    )


TABLE["recipes.Privacy"] = {
    "no epsilon": (
        lambda: promised(epsilon=0.0),
        ValueError,
        "`epsilon` must be more than 0, got 0",
    ),
    "a delta of 1": (
        lambda: promised(delta=1.0),
        ValueError,
        "`delta` must be less than 1, got 1",
    ),
    "a norm of 0": (
        lambda: promised(clip_norm=0.0),
        ValueError,
        "`clip_norm` must be more than 0, got 0",
    ),
    "half a deployment": (
        lambda: promised(population=10),
        ValueError,
        ("population=10 and noise_cohort_size=None", "both or neither"),
    ),
    "more in a round than there are": (
        lambda: promised(population=10, noise_cohort_size=11),
        ValueError,
        "`noise_cohort_size` must be",
    ),
}
TABLE["recipes.Privacy.sampler"] = {
    "more in a round than train": (
        lambda: promised().sampler(num_clients=5, clients_per_round=6, seed=0),
        ValueError,
        "`clients_per_round` must be",
    ),
}
TABLE["recipes.Privacy.plan"] = {
    "no rounds": (
        lambda: promised().plan(num_clients=9, clients_per_round=3, rounds=0, seed=0),
        ValueError,
        "`num_rounds` must be at least 1, got 0",
    ),
}
TABLE["recipes.Recipe.plan"] = {
    "of a recipe that promises nothing": (
        lambda: recipes.recipe("digits-fedavg").plan(DATASET, seed=0),
        ValueError,
        ("'digits-fedavg' promises nothing", "without a plan"),
    ),
}
TABLE["recipes.Recipe.build"] = {
    "a plan that it does not have": (
        lambda: recipes.recipe("digits-fedavg").build(plan()),
        ValueError,
        ("promises nothing, but a `plan` was given", "Leave it out"),
    ),
}
TABLE["sweep"] = {
    "a plan for what there is not": (
        lambda: swept(plan(), {"b": plan()}),
        ValueError,
        ("`privacy` names 'b'", "a"),
    ),
    "a plan of another mechanism": (
        lambda: swept(plan(), plan(mech=mechanism(noise_multiplier=2.0))),
        ValueError,
        "`aggregator=plan.mechanism`",
    ),
    "a number for a plan": (
        lambda: swept(plan(), 8.0),
        TypeError,
        "`privacy`",
    ),
}
TABLE["FixedDenominatorMean"] = {
    "nobody expected": (
        lambda: eqf.FixedDenominatorMean(0.0),
        ValueError,
        "`expected_clients` must be more than 0, got 0",
    ),
}
TABLE["privacy.FlatClip"] = {
    "norm 0": (lambda: eqp.FlatClip(0.0), ValueError, "`max_norm` must be more than 0"),
    "NaN": (lambda: eqp.FlatClip(math.nan), ValueError, "`max_norm` must be finite"),
    "noise, and no bound": (
        lambda: eqp.PrivateMean(
            eqp.FlatClip(math.inf), noise_multiplier=1.0, expected_clients=4.0
        ),
        ValueError,
        "`max_norm` is infinite, of which no multiple is noise",
    ),
    "negative": (lambda: eqp.FlatClip(-1), ValueError, "`max_norm` must be more than"),
}
TABLE["privacy.GroupClip"] = {
    "norm 0": (lambda: eqp.GroupClip(0.0), ValueError, "`max_norm` must be more than"),
    "no function": (
        lambda: eqp.GroupClip(1.0, group="layer"),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`group` must be a function",
    ),
    "no share": (
        lambda: eqp.GroupClip(1.0, shares={"a": 0.0}),
        ValueError,
        "`shares['a']` must be more than 0",
    ),
    "an unknown group": (
        lambda: eqp.GroupClip(1.0, shares={"a": 1.0}).init({"b": np.ones(2)}),
        ValueError,
        "`shares` names the group 'a', of which no array is",
    ),
}
TABLE["privacy.AdaptiveClip"] = {
    "norm 0": (
        lambda: eqp.AdaptiveClip(0.0, indicator_stddev=1.0),
        ValueError,
        "`initial_norm` must be more than 0",
    ),
    "beyond all norms": (
        lambda: eqp.AdaptiveClip(1.0, indicator_stddev=1.0, quantile=1.5),
        ValueError,
        "`quantile` must be at most 1",
    ),
    "an indicator beyond the budget": (
        lambda: eqp.PrivateMean(
            eqp.AdaptiveClip(1.0, indicator_stddev=0.5),
            noise_multiplier=1.0,
            expected_clients=4.0,
        ),
        ValueError,
        "`indicator_stddev` must be more than half of the noise multiplier 1, got 0.5",
    ),
    "correlated noise": (
        lambda: eqp.PrivateMean(
            eqp.AdaptiveClip(1.0, indicator_stddev=2.0),
            noise_multiplier=1.0,
            expected_clients=4.0,
            noise=eqp.TreeNoise(),
        ),
        ValueError,
        "`TreeNoise` is correlated over rounds",
    ),
}
TABLE["privacy.TreeNoise"] = {
    "random samples": (
        lambda: plan(mech=mechanism(noise=eqp.TreeNoise())),
        ValueError,
        "Of Poisson sampling with `TreeNoise` no bound is known",
    ),
}
TABLE["privacy.BandedNoise"] = {
    "no bands": (
        lambda: eqp.BandedNoise(0, 10),
        ValueError,
        "`num_bands` must be at least 1, got 0",
    ),
    "more bands than rounds": (
        lambda: eqp.BandedNoise(11, 10),
        ValueError,
        "`num_bands` must be at most 10, got 11",
    ),
    "more rounds": (
        lambda: plan(
            eqf.data.ShuffledSampler(4), mechanism(noise=eqp.BandedNoise(1, 4))
        ),
        ValueError,
        "`num_rounds` must be at most 4, got 5",
    ),
}
TABLE["privacy.BufferedToeplitzNoise"] = {
    "no buffers": (
        lambda: eqp.BufferedToeplitzNoise(0, 10, min_separation=2),
        ValueError,
        "`num_buffers` must be at least 1, got 0",
    ),
    "a single round": (
        lambda: eqp.BufferedToeplitzNoise(1, 1, min_separation=2),
        ValueError,
        "`num_rounds` must be at least 2, got 1",
    ),
    "no separation": (
        lambda: eqp.BufferedToeplitzNoise(1, 10, min_separation=0),
        ValueError,
        "`min_separation` must be at least 1, got 0",
    ),
    "nobody takes part": (
        lambda: eqp.BufferedToeplitzNoise(
            1, 10, min_separation=2, max_participations=0
        ),
        ValueError,
        "`max_participations` must be at least 1, got 0",
    ),
}
TABLE["privacy.PrivateMean"] = {
    "no clipping": (
        lambda: eqp.PrivateMean(1.0, noise_multiplier=1.0, expected_clients=1.0),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`clipping` must be",
    ),
    "less than no noise": (
        lambda: mechanism(noise_multiplier=-1.0),
        ValueError,
        "`noise_multiplier` must be at least 0",
    ),
    "nobody expected": (
        lambda: mechanism(expected_clients=0),
        ValueError,
        "`expected_clients` must be more than 0",
    ),
    "no noise": (
        lambda: mechanism(noise=1.0),
        TypeError,
        "`noise` must be",
    ),
    "several passes": (
        lambda: trained(plan(), algorithm=eqf.Mime),
        ValueError,
        "`Mime` makes 2 passes over its clients",
    ),
    "more than a payload": (
        lambda: trained(plan(), algorithm=eqf.FedNova),
        ValueError,
        "sends `stats` as well",
    ),
    "a number of messages": (
        lambda: trained(plan(), algorithm=eqf.Scaffold),
        ValueError,
        "The server of `Scaffold` makes use of the number of messages",
    ),
}
TABLE["privacy.ModularMean"] = {
    "no step": (
        lambda: eqp.ModularMean(step=0.0),
        ValueError,
        "`step` must be more than 0",
    ),
    "too many bits": (
        lambda: eqp.ModularMean(step=1.0, num_bits=33),
        ValueError,
        "`num_bits` must be at most 32, got 33",
    ),
    "nobody expected": (
        lambda: eqp.ModularMean(step=1.0, expected_clients=0.0),
        ValueError,
        "`expected_clients` must be more than 0",
    ),
}


def distributed(**kwargs):
    kwargs = {
        "max_norm": 1.0,
        "noise_multiplier": 1.0,
        "expected_clients": 4.0,
        "step": 0.01,
        "num_params": 3,
        **kwargs,
    }
    return eqp.DistributedDiscreteGaussian(**kwargs)


TABLE["privacy.DistributedDiscreteGaussian"] = {
    "a large step": (
        lambda: distributed(step=2.0),
        ValueError,
        "`step` must be at most 1, got 2",
    ),
    "beta 1": (
        lambda: distributed(beta=1.0),
        ValueError,
        "`beta` must be less than 1",
    ),
    "one bit": (
        lambda: distributed(num_bits=1),
        ValueError,
        "`num_bits` must be at least 2, got 1",
    ),
    "noise beyond the range": (
        lambda: distributed(num_bits=9),
        ValueError,
        ("= 100 steps, of which 4 must be within the 256", "at least 0.015625"),
    ),
    "another size": (
        lambda: distributed(num_params=3).init({"a": np.ones(4)}),
        ValueError,
        "Give `num_params=4`",
    ),
    "a Poisson sample": (
        lambda: plan(mech=distributed()),
        ValueError,
        "a Poisson sample of fewer clients than expected would have too little",
    ),
}


def private_sgd(loss=LOSS, batching=BATCHING, **kwargs):
    kwargs = {"max_norm": 1.0, "noise_multiplier": 1.0, **kwargs}
    return eqp.PrivateSGD(loss, SGD, batching, **kwargs)


def of_examples(client=None, **kwargs):
    sampler = kwargs.pop("sampler", eqf.data.UniformSampler(4))
    kwargs = {"num_clients": COUNT, "num_rounds": 5, "delta": 1e-3, **kwargs}
    return eqp.ExampleLevelPlan(sampler, client or private_sgd(), **kwargs)


TABLE["privacy.PrivateSGD"] = {
    "norm 0": (
        lambda: private_sgd(max_norm=0.0),
        ValueError,
        "`max_norm` must be more than 0",
    ),
    "less than no noise": (
        lambda: private_sgd(noise_multiplier=-1.0),
        ValueError,
        "`noise_multiplier` must be at least 0",
    ),
    "a loss of a batch": (
        lambda: private_sgd(eqf.Stateful(LOSS)),
        ValueError,
        "no example has a gradient of its own",
    ),
}
TABLE["privacy.ExampleLevelPlan"] = {
    "delta 0": (
        lambda: of_examples(delta=0),
        ValueError,
        "`delta` must be more than 0",
    ),
    "batches that are filled up": (
        lambda: of_examples(private_sgd(batching=eqf.data.Steps(3, batch_size=4))),
        ValueError,
        "batches that are filled up may have one twice",
    ),
    "weights": (
        lambda: of_examples(
            sampler=eqf.data.WeightedSampler(4, np.ones(COUNT))
        ).epsilon(),
        ValueError,
        "weights make some clients likelier than others",
    ),
}


def held(made, *, own=None, sampler=None, num_rounds=5, batching=BATCHING):
    """What a plan of examples says of a run."""
    algorithm = eqf.FedAvg(LOSS, SGD, batching)
    own = made.client if own is None else own
    algorithm = eqx.tree_at(lambda a: a.client, algorithm, own)
    state = algorithm.init(testing.Linear(), num_clients=COUNT)
    dataset = testing.ragged_clients((4,) * COUNT)
    loader = eqf.data.Loader(dataset, sampler or made.sampler, batching)
    return made.check(algorithm, state, loader, num_rounds=num_rounds)


TABLE["privacy.ExampleLevelPlan.check"] = {
    "another client": (
        lambda: held(of_examples(), own=private_sgd(noise_multiplier=0.5)),
        ValueError,
        "The clients must train as the plan's client does",
    ),
    "another sampler": (
        lambda: held(of_examples(), sampler=eqf.data.UniformSampler(3)),
        ValueError,
        "Make the loader with `plan.sampler`",
    ),
    "more rounds": (
        lambda: held(of_examples(), num_rounds=6),
        ValueError,
        "`num_rounds` must be at most 5, got 6",
    ),
    "another batching": (
        lambda: held(of_examples(), batching=eqf.data.Epochs(3, batch_size=2)),
        ValueError,
        "examples are visited another number of times",
    ),
}
TABLE["privacy.ExampleLevelPlan.epsilon"] = {
    "more rounds": (
        lambda: of_examples().epsilon(6),
        ValueError,
        "must be at most 5, got 6",
    ),
}
TABLE["privacy.ExampleLevelPlan.for_epsilon"] = {
    "0": (
        lambda: of_examples().for_epsilon(0.0),
        ValueError,
        "`epsilon` must be more than 0",
    ),
}
for _kind in (eqp.LocalGaussian, eqp.LocalLaplace):
    TABLE[f"privacy.{_kind.__name__}"] = {
        "norm 0": (
            lambda k=_kind: k(0.0, noise_multiplier=1.0, expected_clients=1.0),
            ValueError,
            "`max_norm` must be more than 0",
        ),
        "less than no noise": (
            lambda k=_kind: k(1.0, noise_multiplier=-1.0, expected_clients=1.0),
            ValueError,
            "`noise_multiplier` must be at least 0",
        ),
        "nobody expected": (
            lambda k=_kind: k(1.0, noise_multiplier=1.0, expected_clients=0.0),
            ValueError,
            "`expected_clients` must be more than 0",
        ),
    }
TABLE["privacy.Deployment"] = {
    "a cohort beyond the population": (
        lambda: eqp.Deployment(num_clients=10, cohort_size=11),
        ValueError,
        "`cohort_size` must be at most 10, got 11",
    ),
}
TABLE["privacy.PrivacyPlan"] = {
    "delta 0": (lambda: plan(delta=0), ValueError, "`delta` must be more than 0"),
    "delta 1": (lambda: plan(delta=1.0), ValueError, "`delta` must be less than 1"),
    "no rounds": (lambda: plan(num_rounds=0), ValueError, "`num_rounds` must be at"),
    "weights": (
        lambda: plan(eqf.data.WeightedSampler(4, np.ones(COUNT))),
        ValueError,
        "weights make some clients likelier than others",
    ),
    "another expected cohort": (
        lambda: plan(eqf.data.UniformSampler(3)),
        ValueError,
        "Give `expected_clients=3`",
    ),
    "a cohort beyond the population": (
        lambda: plan(eqf.data.UniformSampler(9)),
        ValueError,
        "`cohort_size` is 9, but the population has only 8",
    ),
    "no mechanism": (
        lambda: plan(mech=eqf.WeightedMean()),
        TypeError,
        "`mechanism` must be",
    ),
    "a metric that has no name": (
        lambda: plan(unprotected=(1,)),
        TypeError,
        "`unprotected` must be",
    ),
    "another aggregator": (
        lambda: trained(plan(), aggregator=eqf.WeightedMean()),
        ValueError,
        "Make the algorithm with `aggregator=plan.mechanism`",
    ),
    "the mechanism inside of another aggregator": (
        lambda: trained(made := plan(), aggregator=eqf.DropNonfinite(made.mechanism)),
        ValueError,
        "`PrivateMean` is inside of `DropNonfinite`",
    ),
    "clients chosen by their losses": (
        lambda: trained(plan(), algorithm=chosen),
        ValueError,
        (
            "`PowerOfChoice` around `FedAvg` makes another pass beside",
            "aggregated by `UniformMean`",
        ),
    ),
    "weights of losses": (
        lambda: trained(plan(), algorithm=functools.partial(eqf.TERM, t=1.0)),
        ValueError,
        "`TERM` makes another pass beside that of the plan's `PrivateMean`",
    ),
    "attackers": (
        lambda: trained(plan(), algorithm=attacked),
        ValueError,
        "`Attacked` around `FedAvg` does with the clients' messages",
    ),
    "a rule that has no aggregator": (
        lambda: trained(plan(), algorithm=trusting),
        ValueError,
        "`FLTrust` does with the clients' messages",
    ),
    "another sampler": (
        lambda: trained(plan(), sampler=eqf.data.PoissonSampler(0.5, seed=1)),
        ValueError,
        "Make the loader with `plan.sampler`",
    ),
    "another population": (
        lambda: trained(plan(), count=9),
        ValueError,
        "The plan is for 8 clients, but the loader has 9",
    ),
    "a stream": (
        lambda: of_stream(plan()),
        ValueError,
        ("a loader of a stream", "Use a `Loader` of a `FederatedDataset`"),
    ),
    "who takes part least": (
        lambda: plan(
            eqf.data.LeastOftenSampler(4, lambda round, clients: clients >= 0)
        ),
        ValueError,
        (
            "Nothing is known of how `LeastOftenSampler` hides who takes part",
            "who is chosen by anything but a draw is not hidden",
        ),
    ),
    "more rounds": (
        lambda: trained(plan(), num_rounds=6),
        ValueError,
        "`num_rounds` must be at most 5, got 6",
    ),
}
TABLE["privacy.PrivacyPlan.epsilon"] = {
    "more rounds": (lambda: plan().epsilon(6), ValueError, "must be at most 5, got 6"),
}
TABLE["privacy.PrivacyPlan.deployed_epsilon"] = {
    "of none": (
        lambda: plan().deployed_epsilon(),
        ValueError,
        "This plan has no deployment",
    ),
}
TABLE["privacy.PrivacyPlan.for_epsilon"] = {
    "0": (lambda: plan().for_epsilon(0.0), ValueError, "`epsilon` must be more than 0"),
    "infinite": (
        lambda: plan().for_epsilon(math.inf),
        ValueError,
        "`epsilon` must be finite",
    ),
    "of another": (
        lambda: plan().for_epsilon(1.0, of="paper"),  # pyright: ignore[reportArgumentType]
        ValueError,
        "`of` must be 'run' or 'deployment'",
    ),
    "of no deployment": (
        lambda: plan().for_epsilon(1.0, of="deployment"),
        ValueError,
        "This plan has no deployment",
    ),
}


def audit(**kwargs):
    return eqp.Audit(testing.ragged_clients((4, 4)), **{"num_canaries": 4, **kwargs})


def reported(model=None, *, canaries=True, num_rounds=0, size=39, **kwargs):
    found, start = audit(), testing.Linear(size)
    algorithm = eqf.FedAvg(LOSS, SGD, BATCHING)
    algorithm = found.algorithm(algorithm) if canaries else algorithm
    state = algorithm.init(start, num_clients=6)
    if num_rounds:
        rounds = jnp.full(6, num_rounds, jnp.int32)
        state = eqx.tree_at(lambda s: s.clients.rounds, state, rounds)
    model = start if model is None else model
    return found.report(model, state, **{"delta": 1e-3, **kwargs})


def audited(algorithm):
    found = audit()
    loader = found.loader(eqf.data.AllClients(), BATCHING)
    algorithm = found.algorithm(algorithm)
    return eqf.train(algorithm, testing.Linear(), loader, num_rounds=1, key=KEY)


TABLE["privacy.Audit"] = {
    "one canary": (
        lambda: audit(num_canaries=1),
        ValueError,
        "`num_canaries` must be at least 2, got 1",
    ),
    "no norm": (lambda: audit(norm=0.0), ValueError, "`norm` must be more than 0"),
    "no dataset": (
        lambda: eqp.Audit([1, 2], num_canaries=4),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`dataset` must be",
    ),
}
TABLE["privacy.Audit.loader"] = {
    "an info": (
        lambda: audit().loader(
            eqf.data.AllClients(), BATCHING, info=lambda round, clients: clients
        ),
        ValueError,
        "An audit's `info` says which clients are canaries",
    ),
}
TABLE["privacy.Audit.algorithm"] = {
    "no client": (
        lambda: audit().algorithm(eqf.Mime(LOSS, SGD, BATCHING)),
        TypeError,
        "An audit needs an algorithm with a `client`",
    ),
    "clients that keep nothing": (
        lambda: audited(eqf.TERM(LOSS, SGD, BATCHING, t=1.0)),
        ValueError,
        "the clients of this algorithm keep nothing",
    ),
}
TABLE["privacy.Audit.report"] = {
    "delta 0": (lambda: reported(delta=0), ValueError, "`delta` must be more than 0"),
    "confidence 1": (
        lambda: reported(confidence=1.0),
        ValueError,
        "`confidence` must be less than 1",
    ),
    "no canaries": (
        lambda: reported(canaries=False),
        ValueError,
        "This training had no canaries of the audit",
    ),
    "no training": (
        lambda: reported(),
        ValueError,
        "took part in any of its 0 rounds",
    ),
    "no change": (
        lambda: reported(num_rounds=1),
        ValueError,
        "The change of the model is 0 or not finite",
    ),
    "a small model": (
        lambda: reported(size=38),
        ValueError,
        "Make the audit with at most 3 canaries, or train at least 40 numbers",
    ),
    "another model": (
        lambda: reported(model={"a": np.ones(2)}),
        ValueError,
        "`before` must be the model with which the training began",
    ),
}
TABLE["privacy.Audit.scores"] = {
    "another model": (
        lambda: audit().scores(
            {"a": np.ones(2)},
            eqf.FedAvg(LOSS, SGD, BATCHING).init(testing.Linear(), num_clients=6),
        ),
        ValueError,
        "`before` must be the model with which the training began",
    ),
}
