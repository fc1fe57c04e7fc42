"""What is wrong with roles, and with clients' own models."""

import jax.numpy as jnp

import equifed as eqf

from .parts import counts
from .passes import ifca, parts
from .shared import BATCHING, DATASET, KEY, LOSS, MODEL, SGD, train
from .stops import sweep


ROLES = eqf.roles(MODEL, personal=lambda m: m.bias)


def named(**kwargs):
    return lambda: eqf.roles({"a": jnp.ones(2), "n": jnp.arange(3)}, **kwargs)


def in_parts(kind):
    """Those that take the personal leaves and the shared ones in turn."""

    def make(name):
        return lambda x: kind(LOSS, SGD, BATCHING, **{name: x})

    cases = {}
    for name in ("personal_parts", "shared_parts"):
        cases |= counts(make(name), name=name, least=1)
    return cases


def needs(kind, role):
    return {
        f"a model without {role} leaves": (
            lambda: kind(LOSS, SGD, BATCHING).init(MODEL, num_clients=4),
            ValueError,
            (f"`{kind.__name__}` needs {role} leaves", "roles=equifed.roles(model"),
        )
    }


def alternating(loss, optim, batching, **kwargs):
    return eqf.Alternating(loss, optim, optim, batching, **kwargs)


PERSONAL = (eqf.FedPer, eqf.LGFedAvg, eqf.FedBN, eqf.FedRep, eqf.FedAlt)
FEDPER = eqf.FedPer(LOSS, SGD, BATCHING)
STATE = FEDPER.init(MODEL, num_clients=4, roles=ROLES)
TUNE = eqf.FineTune(LOSS, SGD, BATCHING)
STRANGERS = eqf.data.FederatedDataset(DATASET.columns, DATASET.offsets, list("abcd"))


def evaluated(algorithm=FEDPER, state=STATE, test=DATASET, metrics=LOSS, **kwargs):
    kwargs = {"clients": DATASET, **kwargs}
    return eqf.evaluate_personal(algorithm, state, test, metrics, **kwargs)


def trained(**kwargs):
    return train(algorithm=FEDPER, roles=ROLES, **kwargs)


TABLE = {
    "FineTune": {
        "a number for the loss": (
            lambda: eqf.FineTune(1.0, SGD, BATCHING),
            TypeError,
            "`loss`",
        ),
        "a rate": (
            lambda: eqf.FineTune(LOSS, 0.1, BATCHING),
            TypeError,
            "optax.sgd(learning_rate)",
        ),
        "a size": (
            lambda: eqf.FineTune(LOSS, SGD, 8),
            TypeError,
            "`batching` must be",
        ),
        "no roles": (
            lambda: eqf.FineTune(LOSS, SGD, BATCHING, roles="head"),
            TypeError,
            ("`roles` must be", "'head'"),
        ),
        "roles of another model": (
            lambda: evaluated(
                fine_tune=eqf.FineTune(
                    *(LOSS, SGD, BATCHING), roles=eqf.roles({"a": jnp.ones(2)})
                )
            ),
            ValueError,
            "`roles` are of another model",
        ),
    },
    "FineTune.split": {
        "roles of another model": (
            lambda: eqf.FineTune(LOSS, SGD, BATCHING, roles=ROLES).split(
                {"a": jnp.ones(2)}
            ),
            ValueError,
            "`roles` are of another model",
        ),
    },
    "Personal": {
        "a list": (
            lambda: eqf.Personal([DATASET]),
            TypeError,
            ("`of` must be", "Give a dataset, or a `ClientQuantiles`"),
        ),
        "no steps of fine-tuning": (
            lambda: eqf.Personal(DATASET, fine_tune=3),
            TypeError,
            ("`fine_tune` must be", "got 3"),
        ),
        "nobody to tune": (
            lambda: trained(
                evaluation={"test": eqf.Personal(STRANGERS, fine_tune=TUNE)}
            ),
            ValueError,
            ("no examples of 3 of the clients", "'a'", "`support`"),
        ),
    },
    "evaluate_personal": {
        "a model for the state": (
            lambda: evaluated(state=MODEL),
            TypeError,
            "`state` must be",
        ),
        "an array for the test set": (
            lambda: evaluated(test=jnp.ones(3)),
            TypeError,
            ("`test` must be", "FederatedDataset"),
        ),
        "another population": (
            lambda: evaluated(clients=DATASET.select([0, 1])),
            ValueError,
            ("The state is of 4 clients, and `clients` has 2",),
        ),
        "several models": (
            lambda: evaluated(*(ifca(), ifca().init(MODEL, num_clients=4, key=KEY))),
            ValueError,
            ("`IFCA` trains several models", "algorithm.models(state)"),
        ),
        "nobody to tune": (
            lambda: evaluated(test=STRANGERS, fine_tune=TUNE),
            ValueError,
            ("no examples of 3 of the clients", "`support`"),
        ),
        "examples for no tuning": (
            lambda: evaluated(support=DATASET),
            ValueError,
            ("there is no `fine_tune`", "equifed.FineTune"),
        ),
        "metrics that fail": (
            lambda: evaluated(metrics=lambda m, e, k: e["x"]),
            ValueError,
            "one floating-point number",
        ),
    },
    "train": {
        "one model of personal leaves": (
            lambda: trained(evaluation={"test": DATASET}),
            ValueError,
            ("no one model is what a client uses", "{'test': Personal(dataset)}"),
        ),
        "one model of those who train alone": (
            lambda: train(
                algorithm=eqf.LocalOnly(LOSS, SGD, BATCHING),
                evaluation={"test": DATASET},
            ),
            ValueError,
            ("no one model is what a client uses", "Personal"),
        ),
        "the best of personal leaves": (
            lambda: trained(stop=eqf.Patience("loss", rounds=2, mode="min")),
            ValueError,
            ("`stop` keeps the best model", "each client's own"),
        ),
    },
    "sweep": {
        "roles of another label": (
            lambda: sweep(roles={"b": ROLES}),
            ValueError,
            ("`roles` names 'b'", "one of the algorithms: a"),
        ),
    },
    **{x.__name__: {**parts(x), **needs(x, "personal")} for x in PERSONAL},
    "FedBABU": {**parts(eqf.FedBABU), **needs(eqf.FedBABU, "frozen")},
    "LocalOnly": parts(eqf.LocalOnly),
    "Alternating": {**parts(alternating), **in_parts(alternating)},
    "roles": {
        "nothing to train": (
            lambda: eqf.roles({"n": jnp.arange(3)}),
            ValueError,
            "Nothing is trained",
        ),
        "all is frozen": (
            named(frozen=lambda m: m),
            ValueError,
            "Nothing is trained",
        ),
        "a part that is not there": (
            named(personal=lambda m: m["head"]),
            ValueError,
            ("`personal` could not be found", "KeyError", "lambda m: m.head"),
        ),
        "whole numbers": (
            named(personal=lambda m: m["n"]),
            ValueError,
            "`personal` names no floating-point array",
        ),
        "a function of a leaf": (
            named(frozen=lambda x: True),
            ValueError,
            ("`frozen` must name parts of the model, got True", "`by=`"),
        ),
        "a number": (
            named(shared=3),
            ValueError,
            ("`shared` must be a function of the model", "got 3"),
        ),
        "an array with two roles": (
            named(personal=lambda m: m["a"], frozen=lambda m: m),
            ValueError,
            ("`['a']` is named by `personal` and by `frozen`", "one role"),
        ),
        "two ways to say it": (
            named(personal=lambda m: m["a"], by=lambda path, x: "shared"),
            ValueError,
            ("`by` says the role of every array, and `personal` that of some",),
        ),
        "a role of one's own": (
            named(by=lambda path, x: "local"),
            ValueError,
            ("The role of `['a']` must be 'shared', 'personal' or", "'local'"),
        ),
        "a function of the path alone": (
            named(by=lambda path: "shared"),
            ValueError,
            ("`by` could not be asked of `['a']`: TypeError:", "a path and what is"),
        ),
        "a function that fails": (
            named(by=lambda path, x: {}[path]),
            ValueError,
            "`by` could not be asked of `['a']`: KeyError:",
        ),
        "an array for a role": (
            named(by=lambda path, x: x),
            ValueError,
            "The role of `['a']` must be 'shared', 'personal' or",
        ),
        "nothing for a role": (
            named(by=lambda path, x: None),
            ValueError,
            ("The role of `['a']` must be 'shared', 'personal' or", "got None"),
        ),
        "names of another tree": (
            named(by={"b": "shared"}),
            ValueError,
            "`by` must be a function of a path and a leaf",
        ),
    },
    "Roles.of": {
        "no role": (lambda: ROLES.of("local"), ValueError, ("`role`", "'local'")),
    },
    "Roles.split": {
        "another model": (
            lambda: ROLES.split({"a": jnp.ones(2)}),
            ValueError,
            ("`roles` are of another model", "equifed.roles(model, ...)"),
        ),
    },
}
for _kind in (eqf.FedRep, eqf.FedAlt):
    TABLE[_kind.__name__] |= in_parts(_kind)
