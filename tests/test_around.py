"""What an algorithm demands, whatever is around it: one law for all wrappers."""

import equinox as eqx
import optax
import pytest

import equifed as eqf
import equifed.attacks as eqa
import equifed.compress as eqc
from equifed import testing


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
LOSS = testing.noisy_loss
PARTS = (LOSS, SGD, BATCHING)


def filled(algorithm):
    """One that makes what is inside of it from a loss, with another inside."""
    return lambda inner: eqx.tree_at(lambda a: a.algorithm, algorithm, inner)


WRAPPERS = {
    "Attacked": lambda a: eqa.Attacked(a, eqa.IPM(1.0), [1]),
    "Asynchronous": lambda a: eqf.Asynchronous(a, max_staleness=2),
    "CA2FL": filled(eqf.CA2FL(*PARTS, max_staleness=2)),
    "CompressDown": lambda a: eqf.CompressDown(a, eqc.DRIVE()),
    "Diagnose": eqf.Diagnose,
    "FADAS": filled(eqf.FADAS(*PARTS, max_staleness=2, server_learning_rate=0.1)),
    "FedAsync": filled(eqf.FedAsync(*PARTS, max_staleness=2, alpha=0.5)),
    "FedBuff": filled(eqf.FedBuff(*PARTS, max_staleness=2)),
    "Ledger": eqf.Ledger,
    "Oort": lambda a: eqf.Oort(a, 1, preferred_seconds=None),
    "OverRounds": lambda a: eqf.OverRounds(lambda t: a),
    "PowerOfChoice": lambda a: eqf.PowerOfChoice(a, 1),
}


def kinds(cls):
    for kind in cls.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_all_wrappers_are_here():
    found = {
        kind.__name__
        for kind in kinds(eqf.AbstractAlgorithm)
        if kind.__module__.startswith("equifed.")
        and {"algorithm", "first"} & {*getattr(kind, "__annotations__", {})}
        and not kind.__name__.startswith(("_", "Abstract"))
    }
    assert found == WRAPPERS.keys()


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_an_algorithm_demands_its_wrapper_demands(name):
    personal = eqf.FedPer(*PARTS)
    wrapped = WRAPPERS[name](personal)
    assert wrapped.needs == personal.needs
    assert wrapped.loss is personal.loss
    assert wrapped.batching == personal.batching
    with pytest.raises(ValueError, match="needs personal leaves"):
        wrapped.init(testing.Linear(), num_clients=4)
    # Of statistics only `LocalOnly` says that they stay with each client.
    assert not wrapped.keeps_statistics
    if name in ("Attacked", "Diagnose", "Ledger", "Oort", "OverRounds"):
        assert WRAPPERS[name](eqf.LocalOnly(*PARTS)).keeps_statistics
