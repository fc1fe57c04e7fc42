"""What is wrong with criteria, with the methods that have one, and with those that take
a learning rate in place of an optimiser."""

import jax.numpy as jnp
import optax

import equifed as eqf

from .algorithms import MOMENT, numbers, POSITIVE, RATE
from .parts import counts
from .passes import PARTS
from .shared import BATCHING, LOSS, one_round, SGD


def logits(model, example, key):
    return jnp.stack([model.bias, -model.bias])


def label(example):
    return (example["y"] > 0).astype(jnp.int32)


def scalar(model, example, key):
    return model.bias


def failing(model, example, key):
    raise KeyError("z")


def head(model):
    return model.weight


GIVEN = {"logits": logits, "label": label}
PROTO = {
    **{"representation": logits, "label": label},
    **{"num_classes": 2, "num_features": 2},
}
KINDS = {
    eqf.FedNTD: (GIVEN, {"beta": RATE, "temperature": POSITIVE}),
    eqf.FedLC: ({**GIVEN, "tau": 0.5}, {"tau": RATE}),
    eqf.FedDecorr: ({"representation": logits}, {"beta": RATE}),
    eqf.FedSMOO: ({"alpha": 0.1, "rho": 0.1}, {"alpha": RATE, "rho": RATE}),
    eqf.FedRoD: ({**GIVEN, "head": head}, {"gamma": RATE}),
    eqf.FedProto: (PROTO, {"lam": RATE}),
    eqf.MOON: (
        {"representation": logits, "mu": 1.0},
        {"mu": RATE, "temperature": POSITIVE},
    ),
}
OUTPUTS = {
    eqf.FedNTD: "logits",
    eqf.FedLC: "logits",
    eqf.FedDecorr: "representation",
    eqf.FedRoD: "logits",
    eqf.FedProto: "representation",
    eqf.MOON: "representation",
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
    if kind in OUTPUTS:
        found |= outputs(lambda **kw: kind(LOSS, SGD, BATCHING, **kw), kind, others)
    return found


def outputs(make, kind, others):
    """What is wrong with a function of the model's outputs, and with a label."""
    name = OUTPUTS.get(kind, "logits")

    def run(**kwargs):
        return lambda: one_round(make(**{**others, **kwargs}))

    wanted = f"`{name}` must make a vector of floating-point numbers of ONE example"
    found = {
        f"no {name}": (
            lambda: make(**{k: v for k, v in others.items() if k != name}),
            TypeError,
            f"missing a required argument: '{name}'",
        ),
        f"a number for {name}": (
            lambda: make(**{**others, name: 3}),
            TypeError,
            f"`{name}` must be a function, got 3",
        ),
        f"{name} that are one number": (run(**{name: scalar}), ValueError, wanted),
        f"{name} that fail": (
            run(**{name: failing}),
            ValueError,
            (
                f"`{name}` failed with KeyError: 'z'; it is given ONE example, "
                "{'x': 'float32[3]', 'y': 'float32[]'}, by a call "
                f"`{name}(model, example, key)`."
            ),
        ),
    }
    if "label" not in others:
        return found
    return found | {
        "a label of no column": (
            run(label="digit"),
            ValueError,
            ("`label` must be the name of a column", "'digit'"),
        ),
        "a label that is a number": (
            run(label=3),
            TypeError,
            "`label` must be",
        ),
        "a label that is no integer": (
            run(label=lambda example: example["y"]),
            TypeError,
            ("`label` must give one integer", "got float32[]"),
        ),
        "a label that fails": (
            run(label=lambda example: example["z"]),
            ValueError,
            ("`label` failed with KeyError: 'z'", "call `label(example)`"),
        ),
    }


def by_rate(kind, others, bad):
    """What a method with a learning rate refuses."""

    def make(loss=LOSS, rate=0.1, batching=BATCHING, **kwargs):
        return kind(loss, rate, batching, **{**others, **kwargs})

    found = {
        "a number for the loss": (lambda: make(loss=1.0), TypeError, "`loss`"),
        "a size for the batching": (
            lambda: make(batching=8),
            TypeError,
            "`batching` must be",
        ),
        "an optimiser for the rate": (
            lambda: make(rate=optax.sgd(0.1)),
            TypeError,
            "`learning_rate` must be",
        ),
        **numbers(lambda x: make(rate=x), POSITIVE, name="learning_rate"),
    }
    for name, values in bad.items():
        found |= numbers(lambda x, n=name: make(**{n: x}), values, name=name)
    return found


class OnlyThis(eqf.AbstractCriterion):
    """Minimises what is given."""

    what: object

    def begin(self, broadcast, data):
        return None

    def value(self, loss, model, examples, mask, given, *, keys):
        return self.what(loss, mask)  # pyright: ignore


def minimising(what):
    client = eqf.LocalSGD(LOSS, SGD, BATCHING, criterion=OnlyThis(what))
    return lambda: one_round(
        eqf.Algorithm(client, eqf.UniformMean(), eqf.OptaxServer(SGD))
    )


NUMBER = "`OnlyThis.value` must return one floating-point number"
SOPHIA = {"logits": logits, "rho": 0.1}
IN_PARTS = eqf.Microbatched(LOSS, size=2)
TABLE = {kind.__name__: cases(kind, *how) for kind, how in KINDS.items()}
TABLE |= {
    "FedLin": by_rate(eqf.FedLin, {}, {}),
    "Scaffnew": by_rate(
        eqf.Scaffnew,
        {"probability": 0.5},
        {"probability": {**POSITIVE, 1.5: "at most 1, got 1.5"}},
    ),
    "FedSophia": {
        **by_rate(
            eqf.FedSophia,
            SOPHIA,
            {
                "rho": POSITIVE,
                "beta1": MOMENT,
                "beta2": MOMENT,
                "eps": POSITIVE,
                "weight_decay": RATE,
            },
        ),
        **outputs(
            lambda **kw: eqf.FedSophia(LOSS, 0.1, BATCHING, **kw),
            eqf.FedSophia,
            SOPHIA,
        ),
        "no step between": (
            lambda: eqf.FedSophia(LOSS, 0.1, BATCHING, interval=0, **SOPHIA),
            ValueError,
            "`interval` must be at least 1, got 0",
        ),
    },
    "NotTrueDistillation": {
        **numbers(
            lambda x: eqf.NotTrueDistillation(logits, label, beta=x), RATE, name="beta"
        ),
        "a number for logits": (
            lambda: eqf.NotTrueDistillation(3),  # pyright: ignore[reportArgumentType]
            TypeError,
            "`logits` must be a function, got 3",
        ),
    },
    "CalibratedCrossEntropy": numbers(
        lambda x: eqf.CalibratedCrossEntropy(logits, label, tau=x), RATE, name="tau"
    ),
    "AbstractCriterion": {
        "a vector": (
            minimising(lambda loss, mask: jnp.where(mask, loss, 0.0)),
            TypeError,
            (NUMBER, "Take a mean"),
        ),
        "an integer": (
            minimising(lambda loss, mask: mask.sum()),
            TypeError,
            NUMBER,
        ),
        "nothing": (
            minimising(lambda loss, mask: None),
            TypeError,
            (NUMBER, "got None"),
        ),
    },
    "Decorrelation": numbers(
        lambda x: eqf.Decorrelation(logits, beta=x), RATE, name="beta"
    ),
    "Microbatched": {
        **counts(lambda x: eqf.Microbatched(LOSS, size=x), name="size", least=1),
        "no function": (
            lambda: eqf.Microbatched(3, size=2),
            TypeError,
            ("`loss` must be", "got 3"),
        ),
        "a loss with a state": (
            lambda: eqf.Microbatched(eqf.Stateful(LOSS), size=2),
            ValueError,
            "A `Stateful` loss cannot be `Microbatched`",
        ),
        "under a criterion": (
            lambda: eqf.MOON(IN_PARTS, SGD, BATCHING, representation=logits, mu=1.0),
            ValueError,
            ("`_ModelContrast` needs all of a batch", "Give it the plain loss"),
        ),
        "of private steps": (
            lambda: eqf.privacy.PrivateSGD(
                IN_PARTS, SGD, BATCHING, max_norm=1.0, noise_multiplier=1.0
            ),
            ValueError,
            "`PrivateSGD` needs all of a batch",
        ),
    },
}
