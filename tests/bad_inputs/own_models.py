"""What is wrong with the methods whose clients have a model of their own."""

import equifed as eqf

from .algorithms import POSITIVE, RATE
from .memories import cases, SHARE
from .parts import counts
from .shared import BATCHING, LOSS, SGD


PFEDME = {"lam": 1.0, "own_learning_rate": 0.1}
KINDS = {
    eqf.Ditto: ({"lam": 0.1}, {"lam": RATE}),
    eqf.APFL: (
        {"alpha_learning_rate": 0.1},
        {"alpha": SHARE, "alpha_learning_rate": RATE},
    ),
    eqf.PFedMe: (PFEDME, {"lam": POSITIVE, "own_learning_rate": POSITIVE}),
    eqf.PerFedAvg: ({"alpha": 0.1}, {"alpha": RATE}),
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
