"""What is wrong with the methods whose clients have a model of their own."""

import equifed as eqf

from .algorithms import POSITIVE, RATE
from .criteria import GIVEN, PROTO
from .memories import cases, SHARE
from .parts import counts
from .shared import BATCHING, LOSS, MODEL, one_round, SGD


PFEDME = {"lam": 1.0, "own_learning_rate": 0.1}
KINDS = {
    eqf.Ditto: ({"lam": 0.1}, {"lam": RATE}),
    eqf.APFL: (
        {"alpha_learning_rate": 0.1},
        {"alpha": SHARE, "alpha_learning_rate": RATE},
    ),
    eqf.PFedMe: (PFEDME, {"lam": POSITIVE, "own_learning_rate": POSITIVE}),
    eqf.PerFedAvg: ({"alpha": 0.1}, {"alpha": RATE}),
    eqf.FedALA: (
        {},
        {
            "weight_learning_rate": RATE,
            "share": {**POSITIVE, 1.5: "at most 1, got 1.5"},
        },
    ),
}


def own_rate(kind, others):
    """A learning rate where an optimiser is asked for."""
    return {
        "a rate for the own optimiser": (
            lambda: kind(LOSS, SGD, BATCHING, own_optim=0.1, **others),
            TypeError,
            ("an Optax optimiser", "optax.sgd(learning_rate)", "got 0.1"),
        )
    }


def begun(algorithm):
    return algorithm.init(MODEL, num_clients=2)


def parts(name, make):
    """What is wrong with a function that names a part of the model."""
    return {
        f"a number for {name}": (
            lambda: make(3),
            TypeError,
            f"`{name}` must be a function",
        ),
        "a part that is not there": (
            lambda: begun(make(lambda m: m[-1])),
            ValueError,
            (f"`{name}` could not be found in the model", "lambda m: m.head"),
        ),
        "a part that is none": (
            lambda: begun(make(lambda m: ())),
            ValueError,
            (f"`{name}` names no array of the model", "trained and shared"),
        ),
        "a part of another model": (
            lambda: begun(make(lambda m: 3)),
            ValueError,
            f"`{name}` must name parts of the model, got 3",
        ),
    }


TABLE = {kind.__name__: cases(kind, *how) for kind, how in KINDS.items()}
for kind in (eqf.Ditto, eqf.APFL):
    TABLE[kind.__name__] |= own_rate(kind, KINDS[kind][0])
TABLE["PFedMe"] |= counts(
    lambda x: eqf.PFedMe(LOSS, SGD, BATCHING, own_steps=x, **PFEDME),
    name="own_steps",
    least=1,
)
TABLE["PerFedAvg"] |= {
    "no such form": (
        lambda: eqf.PerFedAvg(LOSS, SGD, BATCHING, alpha=0.1, form="SO"),  # pyright: ignore
        ValueError,
        ("`form` must be 'FO' or 'HF'", "'SO'"),
    ),
    "fewer batches than a step takes": (
        lambda: eqf.PerFedAvg(
            LOSS, SGD, eqf.data.Steps(2, batch_size=4), alpha=0.1, form="HF"
        ),
        ValueError,
        ("`batching` must plan at least 3 batches", "Give `Steps(3, ...)` or more"),
    ),
}
TABLE["FedALA"] |= {
    **parts("adapts", lambda x: eqf.FedALA(LOSS, SGD, BATCHING, adapts=x)),
    **counts(
        lambda x: eqf.FedALA(LOSS, SGD, BATCHING, first_passes=x),
        name="first_passes",
        least=1,
    ),
}
TABLE["FedRoD"] = parts(
    "head", lambda x: eqf.FedRoD(LOSS, SGD, BATCHING, head=x, **GIVEN)
)


def proto(**kwargs):
    return eqf.FedProto(LOSS, SGD, BATCHING, **{**PROTO, **kwargs})


def with_personal(algorithm):
    """One that gives each client a whole model, and is asked for a personal leaf."""
    roles = eqf.roles(MODEL, personal=lambda m: m.bias)
    return lambda: algorithm.init(MODEL, num_clients=2, roles=roles)


TABLE["Ditto"] |= {
    "personal leaves": (
        with_personal(eqf.Ditto(LOSS, SGD, BATCHING, lam=0.1)),
        ValueError,
        ("`Ditto` cannot keep personal leaves", "a whole model of its own"),
    )
}
TABLE["FedProto"] = {
    **counts(lambda x: proto(num_classes=x), name="num_classes", least=1),
    **counts(lambda x: proto(num_features=x), name="num_features", least=1),
    "representations of another length": (
        lambda: one_round(proto(num_features=3)),
        ValueError,
        "`num_features` must be the length of what `representation` makes, 2, got 3",
    ),
    "personal leaves": (
        with_personal(proto()),
        ValueError,
        ("`FedProto` cannot keep personal leaves", "whole model to itself"),
    ),
}
