"""What is wrong with asynchronous methods, and with when their messages arrive."""

# pyright: reportArgumentType=false

import dataclasses

import jax.numpy as jnp

import equifed as eqf
import equifed.clock as eqt

from . import clocks
from .algorithms import MOMENT, numbers, POSITIVE, RATE
from .clocks import under, WORK
from .compression import count
from .parts import wrong_parts
from .passes import PARTS
from .shared import BATCHING, DATASET, fresh_loss, LOSS, MODEL, one_round, SGD


KINDS = {
    eqf.FedBuff: ({}, {}),
    eqf.FedAsync: (
        {"alpha": 0.5},
        {"alpha": {**POSITIVE, 1.5: "at most 1, got 1.5"}, "mu": RATE},
    ),
    eqf.CA2FL: ({}, {}),
    eqf.FADAS: (
        {"server_learning_rate": 0.1},
        {
            "server_learning_rate": RATE,
            "b1": MOMENT,
            "b2": MOMENT,
            "epsilon": POSITIVE,
            "threshold": RATE,
        },
    ),
}


def cases(kind, others, bad):
    others = {"max_staleness": 2, **others}
    found = {
        case: (lambda call=call: call(lambda *x: kind(*x, **others)), TypeError, words)
        for case, (call, words) in PARTS.items()
    }
    for name, values in bad.items():

        def call(x, name=name):
            return kind(LOSS, SGD, BATCHING, **{**others, name: x})

        found |= numbers(call, values, name=name)
    found["no old model"] = (
        lambda: kind(LOSS, SGD, BATCHING, **{**others, "max_staleness": 0}),
        ValueError,
        "`max_staleness` must be at least 1, got 0",
    )
    found["a number of old models not given"] = (
        lambda: kind(LOSS, SGD, BATCHING),
        TypeError,
        (f"`{kind.__name__}`", "missing a required argument: 'max_staleness'"),
    )
    return found


def fedbuff(**options):
    return eqf.FedBuff(fresh_loss(), SGD, BATCHING, **{"max_staleness": 2, **options})


def asynchronous(system=None, **options):
    system = eqt.SystemModel() if system is None else system
    return eqt.AsynchronousClock(system, WORK, **{"buffer_size": 2, **options})


def with_info(info):
    cohort = eqf.data.cohort(DATASET, BATCHING)
    return dataclasses.replace(cohort, info=info)


TABLE = {kind.__name__: cases(kind, *how) for kind, how in KINDS.items()}
TABLE["FedBuff"] |= {
    "a cohort that does not say how stale": (
        lambda: one_round(fedbuff()),
        ValueError,
        (
            "`FedBuff` trains clients from old models",
            "`info` has no 'staleness', got None",
            "equifed.clock.AsynchronousClock",
        ),
    ),
    "other information": (
        lambda: one_round(fedbuff(), cohort=with_info({"domain": jnp.zeros((1, 4))})),
        ValueError,
        "`info` has no 'staleness', got 'domain' alone",
    ),
    "a staleness that is no integer": (
        lambda: one_round(
            fedbuff(), cohort=with_info({"staleness": jnp.zeros((1, 4))})
        ),
        ValueError,
        "`info['staleness']` must be integers",
    ),
    "a function for the weight": (
        lambda: fedbuff(weight=lambda t: 1.0),
        TypeError,
        "`weight` must be",
    ),
    "a client that sends two things": (
        lambda: fedbuff(correction=eqf.ControlVariate()),
        TypeError,
        "`OptaxServer` does not understand the messages",
    ),
}
TABLE["Asynchronous"] = {
    "a loss": (
        lambda: eqf.Asynchronous(LOSS, max_staleness=2),
        TypeError,
        "`algorithm` must be",
    ),
    "one of two passes": (
        lambda: eqf.Asynchronous(eqf.Mime(LOSS, SGD, BATCHING), max_staleness=2),
        TypeError,
        "`algorithm` must be an `AbstractOnePass`, got a `Mime`",
    ),
    "one with a step of its own": (
        lambda: eqf.Asynchronous(
            eqf.Scaffnew(LOSS, 0.1, BATCHING, probability=0.5), max_staleness=2
        ),
        TypeError,
        "`algorithm` must",
    ),
    "one that sends more than a model": (
        lambda: eqf.Asynchronous(
            eqf.Scaffold(LOSS, SGD, BATCHING), max_staleness=2
        ).init(MODEL, num_clients=4),
        ValueError,
        ("`ScaffoldServer` sends the clients more than a model", "`FedVARP`, say"),
    ),
    "no old model": (
        lambda: eqf.Asynchronous(eqf.FedAvg(LOSS, SGD, BATCHING), max_staleness=0),
        ValueError,
        "`max_staleness` must be at least 1, got 0",
    ),
    "a fraction of them": (
        lambda: eqf.Asynchronous(eqf.FedAvg(LOSS, SGD, BATCHING), max_staleness=1.5),
        TypeError,
        "`max_staleness` must be an integer, got 1.5",
    ),
    "a loss that carries a state": (
        lambda: eqf.Asynchronous(
            eqf.FedAvg(eqf.Stateful(lambda m, e, k, s: (0.0, s)), SGD, BATCHING),
            max_staleness=1,
        ).init(MODEL, num_clients=4),
        ValueError,
        "`Asynchronous` does not carry the state of a `Stateful` loss",
    ),
}
TABLE["PolynomialStaleness"] = numbers(eqf.PolynomialStaleness, RATE, name="a")
TABLE["HingeStaleness"] = {
    **numbers(lambda a: eqf.HingeStaleness(a, 1.0), POSITIVE, name="a"),
    **numbers(lambda b: eqf.HingeStaleness(1.0, b), RATE, name="b"),
}
TABLE["clock.AsynchronousClock"] = {
    **wrong_parts(asynchronous, "system", example=eqt.SystemModel),
    **wrong_parts(
        lambda x: eqt.AsynchronousClock(eqt.SystemModel(), x, buffer_size=2),
        "work",
        example=eqt.Work,
    ),
    **count(lambda x: asynchronous(buffer_size=x), "buffer_size"),
    **clocks.numbers(lambda x: asynchronous(time_limit=x), "time_limit", POSITIVE),
    "a negative staleness": (
        lambda: asynchronous(max_staleness=-1),
        ValueError,
        "`max_staleness` must be at least 0, got -1",
    ),
}
TABLE["data.Loader"] = {
    "a buffer larger than the concurrency": (
        lambda: under(asynchronous(buffer_size=3)),
        ValueError,
        ("`buffer_size` is 3, but the sampler has at most 2 clients under way",),
    ),
    "a buffer larger than the clients that train": (
        lambda: under(asynchronous(buffer_size=4), eqf.data.AllClients()),
        ValueError,
        ("`buffer_size` is 4, but only 3 of the 4 clients take a step",),
    ),
    "a concurrency larger than the population": (
        lambda: under(asynchronous(), eqf.data.UniformSampler(5)),
        ValueError,
        ("`cohort_size` is 5, but the population has only 4 clients",),
    ),
    "an asynchronous clock that knows fewer clients": (
        lambda: under(asynchronous(eqt.SystemModel(speed=[1.0]))),
        ValueError,
        ("`speed` of the `SystemModel` has 1 clients",),
    ),
    "nobody is ever there to be sent out": (
        lambda: under(
            asynchronous(eqt.SystemModel(availability=eqt.DailyAvailability(0.0)))
        )(0),
        ValueError,
        ("No client is ever available again",),
    ),
    "all are lost": (
        lambda: under(asynchronous(eqt.SystemModel(drops_before=1.0)))(0),
        ValueError,
        ("10,000 clients in a row were lost or too stale", "`drops_before`"),
    ),
    "a domain that is not by name beside the staleness": (
        lambda: eqf.data.Loader(
            DATASET,
            eqf.data.UniformSampler(2),
            BATCHING,
            clock=asynchronous(),
            info=lambda round, clients: clients,
        )(0),
        ValueError,
        ("`info` must return a dictionary without 'staleness', which the clock says",),
    ),
}
