"""What is wrong with roles, and with clients' own models."""

import jax.numpy as jnp

import equifed as eqf

from .parts import counts
from .passes import parts
from .shared import BATCHING, LOSS, MODEL, SGD


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
TABLE = {
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
