"""Bad inputs of attacks."""

import numpy as np

import equifed as eqf
import equifed.attacks as eqa

from .algorithms import numbers, POSITIVE
from .compression import count
from .parts import wrong_parts
from .passes import POSTERIORS
from .shared import BATCHING, fresh_loss, one_round, SGD


IMAGES = eqf.data.FederatedDataset.from_mapping(
    {
        name: {"image": np.zeros((3, 2, 2)), "label": np.array([0, 1, 4])}
        for name in ("a", "b")
    }
)


def fedavg():
    return eqf.FedAvg(fresh_loss(), SGD, BATCHING)


def trusting():
    return eqf.FLTrust(fresh_loss(), SGD, BATCHING, root=1)


def attacked(clients, algorithm=None, **kwargs):
    return eqa.Attacked(algorithm or fedavg(), eqa.Mimic(), clients, **kwargs)


def same(examples):
    return examples


def backdoored(clients=(0,), share=0.5, **kwargs):
    return eqa.backdoored(IMAGES, clients, same, 0, share=share, **kwargs)


def choice(kind):
    words = ("`perturbation`", "'unit', 'std' or 'sign'", "got 'sgn'")
    return {"perturbation": (lambda: kind(perturbation="sgn"), ValueError, words)}


NO_CLIENT = ("`clients` must be", "at most 1, got 2")
NO_COLUMN = ("`label` must name one of the columns ['image', 'label'], got 'y'",)
TABLE = {
    "attacks.byzantine_clients": {
        **count(lambda x: eqa.byzantine_clients(x, 0), "num_clients"),
        **count(lambda x: eqa.byzantine_clients(5, x), "num_byzantine", 0),
        "more than there are": (
            lambda: eqa.byzantine_clients(5, 6),
            ValueError,
            ("`num_byzantine` must be", "at most 5, got 6"),
        ),
    },
    "attacks.Attacked": {
        **wrong_parts(
            lambda x: eqa.Attacked(x, eqa.Mimic(), [0]), "algorithm", example=eqf.FedAvg
        ),
        **wrong_parts(
            lambda x: eqa.Attacked(fedavg(), x, [0]), "attack", example=eqa.Mimic
        ),
        "no such client": (
            lambda: one_round(attacked([4])),
            ValueError,
            ("`clients` must be", "at most 3, got 4"),
        ),
        "a negative one": (
            lambda: attacked([-1]),
            ValueError,
            ("`clients` must be", "at least 0, got -1"),
        ),
        "all of them": (
            lambda: one_round(attacked([0, 1, 2, 3])),
            ValueError,
            ("`clients` names all of the 4 clients: there is no honest one",),
        ),
        "most of them": (
            lambda: one_round(eqa.Attacked(fedavg(), eqa.ALIE(), [0, 1, 2])),
            ValueError,
            ("`ALIE` is defined for attackers", "most half", "got 3 of 4"),
        ),
        "one twice": (
            lambda: attacked([1, 1]),
            ValueError,
            ("`clients` must name each attacker once, got [1, 1]",),
        ),
        "knows": (
            lambda: attacked([1], knows="some"),
            ValueError,
            ("`knows`", "'all' or 'own'", "got 'some'"),
        ),
        "one within another": (
            lambda: attacked([1], eqf.PowerOfChoice(attacked([0]), 1)),
            TypeError,
            ("`algorithm` has an `Attacked` in it", "Name all attackers in one"),
        ),
        "diagnosed before it is attacked": (
            lambda: attacked([1], eqf.Diagnose(fedavg())),
            TypeError,
            "Write `Diagnose(Attacked(...))`",
        ),
        "the root client": (
            lambda: attacked([0, 1], trusting()),
            ValueError,
            ("`clients` has 1 in it, the root client of `FLTrust`", "Name others"),
        ),
        "nothing is sent": (
            lambda: one_round(
                attacked([1], eqf.LocalOnly(fresh_loss(), SGD, BATCHING))
            ),
            ValueError,
            ("those of `LocalOnly` send nothing", "Leave it out"),
        ),
        "moments": (
            lambda: one_round(attacked([1], POSTERIORS)),
            TypeError,
            ("`Attacked` works on each number of a message apart",),
        ),
    },
    "attacks.SignFlip": numbers(eqa.SignFlip, POSITIVE, name="scale"),
    "attacks.Noise": numbers(eqa.Noise, POSITIVE, name="std"),
    "attacks.IPM": numbers(eqa.IPM, POSITIVE, name="epsilon"),
    "attacks.MinMax": choice(eqa.MinMax),
    "attacks.MinSum": choice(eqa.MinSum),
    "attacks.Adaptive": {
        **numbers(eqa.Adaptive, POSITIVE, name="radius"),
        **count(lambda x: eqa.Adaptive(num_steps=x), "num_steps"),
    },
    "attacks.flip_labels": {
        **count(lambda x: eqa.flip_labels(IMAGES, [0], x), "num_classes"),
        "no such client": (
            lambda: eqa.flip_labels(IMAGES, [2], 5),
            ValueError,
            NO_CLIENT,
        ),
        "no such column": (
            lambda: eqa.flip_labels(IMAGES, [0], 5, label="y"),
            ValueError,
            NO_COLUMN,
        ),
        "no such class": (
            lambda: eqa.flip_labels(IMAGES, [0], 4),
            ValueError,
            ("`num_classes` is 4, but client 0 has labels from 0 to 4",),
        ),
    },
    "attacks.backdoored": {
        "no such client": (lambda: backdoored([2]), ValueError, NO_CLIENT),
        "no such column": (lambda: backdoored(label="y"), ValueError, NO_COLUMN),
        "no share": (
            lambda: backdoored(share=0.0),
            ValueError,
            ("`share` must be", "got 0"),
        ),
        "too large a share": (
            lambda: backdoored(share=1.5),
            ValueError,
            ("`share` must be", "got 1.5"),
        ),
    },
    "attacks.triggered": {
        "no such column": (
            lambda: eqa.triggered(IMAGES, same, 0, label="y"),
            ValueError,
            NO_COLUMN,
        ),
    },
}
