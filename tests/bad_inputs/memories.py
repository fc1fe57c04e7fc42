"""What is wrong with the methods that keep something from round to round."""

import numpy as np
import optax

import equifed as eqf

from .algorithms import MOMENT, numbers, POSITIVE, RATE
from .parts import counts
from .passes import PARTS
from .shared import BATCHING, LOSS, MODEL, one_round, SGD


SHARE = {**RATE, 1.5: "at most 1, got 1.5"}
KINDS = {
    eqf.FedCM: ({"server_optim": SGD}, {"alpha": SHARE}),
    eqf.MoFedSAM: ({"server_optim": SGD}, {"alpha": SHARE, "rho": RATE}),
    eqf.FedVARP: ({}, {}),
    eqf.FedACG: (
        {"momentum": 0.5, "beta": 0.1},
        {"momentum": MOMENT, "beta": RATE},
    ),
    eqf.FedDC: ({"alpha": 0.1}, {"alpha": RATE}),
    eqf.FedSpeed: (
        {"lam": 1.0, "rho": 0.1},
        {"lam": POSITIVE, "rho": RATE, "alpha": SHARE},
    ),
    eqf.FedLESAM: ({"rho": 0.1}, {"rho": RATE}),
    eqf.DiLoCo: ({}, {}),
    eqf.StreamingDiLoCo: (
        {"fragments": 1, "delay": 0, "alpha": 0.5},
        {"alpha": {-0.1: "at least 0", 1.0: "less than 1, got 1"}},
    ),
    eqf.AFL: ({"weight_learning_rate": 0.1}, {"weight_learning_rate": RATE}),
    eqf.TERM: ({"t": 0.5}, {"t": {True: "a number, got True"}}),
    eqf.AgnosticFedAvg: (
        {"num_domains": 2, "domain_learning_rate": 0.1},
        {"domain_learning_rate": RATE},
    ),
}


def cases(kind, others, bad):
    found = {
        case: (lambda call=call: call(lambda *x: kind(*x, **others)), TypeError, words)
        for case, (call, words) in PARTS.items()
    }
    for name, values in bad.items():

        def call(x, name=name):
            return kind(LOSS, SGD, BATCHING, **{**others, name: x})

        found |= numbers(call, values, name=name)
    for name in others:
        rest = {other: x for other, x in others.items() if other != name}
        found[f"no {name}"] = (
            lambda rest=rest: kind(LOSS, SGD, BATCHING, **rest),
            TypeError,
            (f"`{kind.__name__}`", f"missing a required argument: '{name}'"),
        )
    return found


def agnostic(**kwargs):
    given = {"num_domains": 2, "domain_learning_rate": 0.1, **kwargs}
    return eqf.AgnosticFedAvg(LOSS, SGD, BATCHING, **given)


TABLE = {kind.__name__: cases(kind, *how) for kind, how in KINDS.items()}


def streaming(**kwargs):
    given = {"fragments": 1, "delay": 0, "alpha": 0.5, **kwargs}
    algorithm = eqf.StreamingDiLoCo(LOSS, SGD, BATCHING, **given)
    return algorithm.init(MODEL, num_clients=4)


TABLE["StreamingDiLoCo"] |= {
    **counts(lambda x: streaming(fragments=x), name="fragments", least=1),
    **counts(lambda x: streaming(delay=x), name="delay", least=0),
    "more fragments than arrays": (
        lambda: streaming(fragments=99),
        ValueError,
        ("`fragments` must each have something to train, got 99", "has nothing"),
    ),
    "an array in no fragment": (
        lambda: streaming(fragments=lambda m: [m.weight]),
        ValueError,
        ("`fragments` must name each array that is trained once", "0 times"),
    ),
    "an array in two": (
        lambda: streaming(fragments=lambda m: [m, m.weight]),
        ValueError,
        "name `.weight` 2 times",
    ),
    "fragments that are no part": (
        lambda: streaming(fragments=lambda m: [m["head"]]),
        ValueError,
        "`fragments` could not be found in the model",
    ),
    "one part for the list of them": (
        lambda: streaming(fragments=lambda m: m.weight),
        ValueError,
        "`fragments` must return a list, with a part of the model for each",
    ),
    "a compressor with a memory": (
        lambda: streaming(
            compressor=eqf.compress.ErrorFeedback(eqf.compress.TopK(0.5))
        ),
        TypeError,
        "`ErrorFeedback` remembers something of each client",
    ),
    "a number for the compressor": (
        lambda: streaming(compressor=4),
        TypeError,
        "`compressor`",
    ),
}
TABLE["AgnosticFedAvg"] |= {
    "no domain": (
        lambda: agnostic(num_domains=0),
        ValueError,
        "`num_domains` must be at least 1, got 0",
    ),
    "no round in the window": (
        lambda: agnostic(window=0),
        ValueError,
        "`window` must be at least 1, got 0",
    ),
    "a number for the column": (
        lambda: agnostic(domain=3),
        TypeError,
        "`domain` must be",
    ),
    "a domain that fails": (
        lambda: one_round(agnostic(domain=lambda example: example["z"])),
        ValueError,
        ("`domain` failed with KeyError: 'z'; it is given ONE", "`domain(example)`"),
    ),
    "a domain that is no integer": (
        lambda: one_round(agnostic(domain="y")),
        TypeError,
        "`domain` must give one integer for an example, the number of its domain, got "
        "float32[]",
    ),
    "weights of another number": (
        lambda: agnostic(domain_weights=[0.2, 0.3, 0.5]),
        ValueError,
        "`domain_weights` must be a number for each of 2 domains, got [0.2, 0.3, 0.5]",
    ),
    "names for weights": (
        lambda: agnostic(domain_weights=["a", "b"]),
        TypeError,
        "`domain_weights` must be an array of numbers, got ['a', 'b']",
    ),
    "weights of more than all": (
        lambda: agnostic(domain_weights=np.array([0.6, 0.5])),
        ValueError,
        ("`domain_weights` must be at least 0 and sum to 1, got",),
    ),
    "a negative weight": (
        lambda: agnostic(domain_weights=np.array([1.5, -0.5])),
        ValueError,
        ("`domain_weights` must be at least 0 and sum to 1, got",),
    ),
}


def with_a_rate(kind, **others):
    """Of those that take a rate in place of an optimiser."""
    return {
        "a number for the loss": (
            lambda: kind(1.0, 0.1, BATCHING, **others),
            TypeError,
            "`loss`",
        ),
        "a size for the batching": (
            lambda: kind(LOSS, 0.1, 8, **others),
            TypeError,
            "`batching` must be",
        ),
        "an optimiser for the rate": (
            lambda: kind(LOSS, optax.sgd(0.1), BATCHING, **others),
            TypeError,
            "`learning_rate` must be",
        ),
        **numbers(
            lambda x: kind(LOSS, x, BATCHING, **others), POSITIVE, name="learning_rate"
        ),
    }


TABLE["MIFA"] = with_a_rate(eqf.MIFA)
TABLE["QFedAvg"] = with_a_rate(eqf.QFedAvg, q=1.0) | numbers(
    lambda q: eqf.QFedAvg(LOSS, 0.1, BATCHING, q=q), RATE, name="q"
)
