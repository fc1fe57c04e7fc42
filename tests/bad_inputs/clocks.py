"""Bad inputs of clocks."""

import jax
import jax.numpy as jnp
import numpy as np

import equifed as eqf
import equifed.clock as eqt

from .algorithms import POSITIVE
from .compression import count
from .shared import BATCHING, DATASET, LOSS, MODEL, SGD


NUMBERS = {"0.1": "a number", True: "a number, got True"}


def numbers(make, name, bad):
    """What a number outside of its domain gives."""
    cases = {}
    for value, words in {**NUMBERS, float("nan"): "finite", **bad}.items():
        error = TypeError if isinstance(value, str | bool) else ValueError
        call = lambda value=value: make(value)  # noqa: E731
        words = (f"`{name}`", *([] if error is TypeError else [words]))
        cases[f"{name}={value!r}"] = (call, error, words)
    return cases


def quantities(make, name):
    """What is no quantity."""
    words = (f"`{name}` must be a quantity, a number, or one for each client",)
    return {
        "text": (lambda: make("fast"), TypeError, words),
        "a table": (lambda: make(np.ones((2, 2))), TypeError, words),
        "lists of two lengths": (lambda: make([[1.0], [1.0, 2.0]]), TypeError, words),
        "a hole": (
            lambda: make([1.0, float("nan")]),
            ValueError,
            (f"`{name}` has a NaN for client 1: fill the hole",),
        ),
        "a traced number": (
            lambda: jax.vmap(lambda x: make(x) and x)(jnp.ones(2)),
            TypeError,
            (f"`{name}` must be known when the clock is made",),
        ),
        "no number": (
            lambda: make(float("nan")),
            ValueError,
            (f"`{name}` must be finite, got nan",),
        ),
    }


def each(make):
    words = ("`each` must be 'client' or 'round', got 'step'",)
    return {"each": (lambda: make(each="step"), ValueError, words)}


def of(clients=(3,), count=0, flops=1, **kwargs):
    system = eqt.SystemModel(**kwargs)
    return system.times(list(clients), count, flops=flops, bits_down=1, bits_up=1)


class Of(eqt.AbstractQuantity):
    """One of the user's own."""

    def __init__(self, found):
        self.found = found

    def __call__(self, draws, clients, count):
        return self.found


class When(eqt.AbstractAvailability):
    """Likewise."""

    def __init__(self, found):
        self.found = found

    def available(self, draws, clients, time):
        return self.found

    until = next_available = available


def asked(**asked):
    """Cases of each of a system's questions about time."""
    return {
        f"clock.SystemModel.{name}": {
            "a time that is none": (
                lambda name=name: getattr(eqt.SystemModel(), name)([0], float("nan")),
                ValueError,
                ("`time` must be finite and at least 0, got nan",),
            ),
            "times of others": (
                lambda name=name: getattr(eqt.SystemModel(), name)([0], [1.0, 2.0]),
                TypeError,
                ("`time` must be a number, or one for each of the 1 clients",),
            ),
            "a client before the first": (
                lambda name=name: getattr(eqt.SystemModel(), name)([-1], 1.0),
                ValueError,
                ("`clients` must be numbers from 0 on, got -1",),
            ),
            "what the user's own says": (
                lambda name=name, x=x: getattr(
                    eqt.SystemModel(availability=When(x)), name
                )([0], 1.0),
                TypeError,
                (f"`{name}` of the `availability` must return an array with one",),
            ),
        }
        for name, x in asked.items()
    }


WORK = eqt.Work(flops=1, bits_down=1, bits_up=1)


FULL = eqf.data.Epochs(1, batch_size=50, last="drop")


def under(clock, sampler=None):
    sampler = eqf.data.UniformSampler(2) if sampler is None else sampler
    return eqf.data.Loader(DATASET, sampler, BATCHING, clock=clock)


def synchronous(**kwargs):
    return eqt.SynchronousClock(eqt.SystemModel(), WORK, **kwargs)


class Says(eqf.data.AbstractClock):
    """A clock of the user's own, whose rounds are all alike."""

    independent = True

    def __init__(self, *rounds):
        self.all = rounds

    def check(self, population):
        pass

    def rounds(self, population):
        return iter(self.all)


def said(clients=(0, 1), steps=(1, 1), report=None):
    report = {"seconds": 1.0} if report is None else report
    found = eqf.data.ClockedRound(np.array(clients), np.array(steps), report)
    return under(Says(found))(0)


OF_OWN = {
    "a clock that ends": (
        lambda: under(Says())(0),
        TypeError,
        ("of round 0, by the loader's clock, must be a `ClockedRound`, got None",),
    ),
    "a clock that says no round": (
        lambda: under(Says(([0], [1])))(0),
        TypeError,
        ("must be a `ClockedRound`, got ",),
    ),
    "a clock with others' clients": (
        lambda: said([0, 4]),
        ValueError,
        ("`clients` of round 0, by the loader's clock, must be from 0 to 3",),
    ),
    "a clock with a client before the first": (
        lambda: said([0, -1]),
        ValueError,
        ("`clients` of round 0", "from 0 to 3"),
    ),
    "a clock with fractions of clients": (
        lambda: said([0.0, 1.0]),
        TypeError,
        ("`clients` of round 0", "an array of integers"),
    ),
    "a clock with one number of steps": (
        lambda: said(steps=[1]),
        TypeError,
        ("`steps` of round 0", "one for each client"),
    ),
    "a clock with fewer steps than none": (
        lambda: said(steps=[1, -1]),
        ValueError,
        ("`steps` of round 0", "must be from 0, got"),
    ),
    "a clock with several times": (
        lambda: said(report={"seconds": np.ones(2)}),
        TypeError,
        ("`report` of round 0", "must have numbers by name"),
    ),
    "a clock without a report": (
        lambda: said(report=3.0),
        TypeError,
        ("`report` of round 0", "got 3.0"),
    ),
}


NONNEGATIVE = {-1.0: "at least 0, got -1"}
TABLE = {
    "data.Loader": {
        **OF_OWN,
        "no clock": (lambda: under(3.0), TypeError, ("`clock`", "got 3.0")),
        "a goal that is never met": (
            lambda: under(synchronous(goal=3)),
            ValueError,
            ("`goal` is 3, but the sampler draws at most 2 clients",),
        ),
        "clients that its clock does not know": (
            lambda: under(eqt.SynchronousClock(eqt.SystemModel(speed=[1.0]), WORK)),
            ValueError,
            ("`speed` of the `SystemModel` has 1 clients", "the population has 4"),
        ),
        "nobody is ever there": (
            lambda: under(
                eqt.SynchronousClock(
                    eqt.SystemModel(availability=eqt.DailyAvailability(0.0)), WORK
                )
            )(0),
            ValueError,
            ("No client is ever available again",),
        ),
    },
    "clock.SynchronousClock": {
        "no system": (
            lambda: eqt.SynchronousClock(0.1, WORK),
            TypeError,
            ("`system` must be a `SystemModel`, got 0.1", "Write `SystemModel("),
        ),
        "no work": (
            lambda: eqt.SynchronousClock(eqt.SystemModel(), eqt.Work),
            TypeError,
            ("`work` must be a `Work`, got the class `Work`", "Write `Work.of("),
        ),
        **count(lambda x: synchronous(goal=x), "goal"),
        **numbers(lambda x: synchronous(deadline=x), "deadline", POSITIVE),
        "a deadline that is none": (
            lambda: under(synchronous(deadline=lambda round, times: times.total.min()))(
                0
            ),
            ValueError,
            ("`deadline(0, times)` must be more than 0, got 0",),
        ),
        "a deadline for each client": (
            lambda: under(synchronous(deadline=lambda round, times: times.total))(0),
            ValueError,
            ("`deadline(0, times)` must be one number", "shape (2,)"),
        ),
        "no stragglers": (
            lambda: synchronous(stragglers="partial"),
            ValueError,
            ("`stragglers` is 'partial', but without a `deadline` there are none",),
        ),
        "stragglers": (
            lambda: synchronous(stragglers="wait"),
            ValueError,
            ("`stragglers` must be 'drop' or 'partial', got 'wait'",),
        ),
    },
    "clock.Work": {
        **numbers(
            lambda x: eqt.Work(flops=x, bits_down=1, bits_up=1), "flops", NONNEGATIVE
        ),
        **numbers(
            lambda x: eqt.Work(flops=1, bits_down=1, bits_up=x), "bits_up", NONNEGATIVE
        ),
    },
    "clock.Work.of": {
        "no steps": (
            lambda: eqt.Work.of(
                eqf.FedAvg(LOSS, SGD, FULL),
                MODEL,
                eqf.data.Loader(DATASET, eqf.data.AllClients(), FULL),
            ),
            ValueError,
            ("No client of the loader takes a step",),
        ),
    },
    "clock.SystemModel": {
        **quantities(lambda x: eqt.SystemModel(speed=x), "speed"),
        "no availability": (
            lambda: eqt.SystemModel(availability=0.5),
            TypeError,
            ("`availability`", "got 0.5"),
        ),
        "a seed": (lambda: eqt.SystemModel(seed=-1), ValueError, ("`seed`", "got -1")),
    },
    "clock.SystemModel.times": {
        "a speed": (
            lambda: of(speed=0.0),
            ValueError,
            ("`speed` must be more than 0, got 0.0 for client 3",),
        ),
        "a latency": (
            lambda: of(latency=-1.0),
            ValueError,
            ("`latency` must be finite and at least 0, got -1.0 for client 3",),
        ),
        "an operation that is none": (
            lambda: of(flops=float("nan")),
            ValueError,
            ("`flops` must be finite and at least 0, got nan",),
        ),
        "operations of others": (
            lambda: of(flops=[1.0, 2.0]),
            TypeError,
            ("`flops` must be a number, or one for each of the 1 clients",),
        ),
        "a round without end": (
            lambda: of(speed=1e-320),
            ValueError,
            ("`speed` is", "for client 3", "would take for ever", "`drops_after`"),
        ),
        "a count": (
            lambda: of(count=-1),
            ValueError,
            ("`count` must be at least 0, got -1",),
        ),
        "a count that is no number": (
            lambda: of(count=None),
            TypeError,
            ("`count` must be an integer, got None",),
        ),
        "counts of others": (
            lambda: of(count=np.array([0, 1])),
            TypeError,
            ("`count` must be an integer, or one for each of the 1 clients",),
        ),
        "a client before the first": (
            lambda: of([-1]),
            ValueError,
            ("`clients` must be numbers from 0 on, got -1",),
        ),
        "a client beyond the last": (
            lambda: of([3], speed=[1.0, 2.0]),
            ValueError,
            ("There are values of 2 clients, and client 3 is asked for",),
        ),
        "one number of a quantity of the user's own": (
            lambda: of([3], speed=Of(2.0)),
            TypeError,
            ("`speed`, a `Of`, must return an array with one number for each of",),
        ),
        "no numbers": (
            lambda: eqt.SystemModel().times([0.5], 0, flops=1, bits_down=1, bits_up=1),
            TypeError,
            ("`clients` must be an array of clients' numbers",),
        ),
    },
    "clock.SystemModel.drops": {
        "a probability": (
            lambda: eqt.SystemModel(drops_after=1.5).drops([3], 0),
            ValueError,
            ("`drops_after` must be between 0 and 1, got 1.5 for client 3",),
        ),
    },
    "clock.SystemModel.check_clients": {
        "too few": (
            lambda: eqt.SystemModel(uplink=[1.0, 2.0]).check_clients(3),
            ValueError,
            ("`uplink` of the `SystemModel` has 2 clients, but the population has 3",),
        ),
    },
    **asked(available=1.0, until=[1.0], next_available=np.zeros(2)),
    "clock.Constant": numbers(eqt.Constant, "value", {-np.inf: "finite"}),
    "clock.PerClient": {
        "none": (lambda: eqt.PerClient([]), ValueError, ("`values` must be one",)),
        "a hole": (
            lambda: eqt.PerClient([1.0, float("nan")]),
            ValueError,
            ("`values` has a NaN for client 1",),
        ),
    },
    "clock.Uniform": {
        **numbers(lambda x: eqt.Uniform(0, x), "high", {-1: "at least 0, got -1"}),
        **each(lambda **kwargs: eqt.Uniform(0, 1, **kwargs)),
    },
    "clock.LogNormal": {
        **numbers(lambda x: eqt.LogNormal(x, 1), "median", POSITIVE),
        **each(lambda **kwargs: eqt.LogNormal(1, 1, **kwargs)),
    },
    "clock.Exponential": {
        **numbers(eqt.Exponential, "mean", NONNEGATIVE),
        **each(lambda **kwargs: eqt.Exponential(1, **kwargs)),
    },
    "clock.Mixture": {
        "shares": (
            lambda: eqt.Mixture([1, 2], shares=[0.5, 0.6]),
            ValueError,
            ("`shares` must sum to 1, got 1.1",),
        ),
        "one share": (
            lambda: eqt.Mixture([1], shares=1.0),
            ValueError,
            ("`shares` must be one number for each",),
        ),
        "too few": (
            lambda: eqt.Mixture([1, 2], shares=[1.0]),
            ValueError,
            ("`parts` must be up to 7", "got 2 and 1"),
        ),
        **each(lambda **kwargs: eqt.Mixture([1], shares=[1], **kwargs)),
    },
    "clock.Wave": {
        **quantities(lambda x: eqt.Wave(x, mean=1, amplitude=0, period=1), "of"),
        **numbers(
            lambda x: eqt.Wave(1, mean=1, amplitude=0, period=x), "period", POSITIVE
        ),
    },
    "clock.AvailabilityTrace": {
        "a hole": (
            lambda: eqt.AvailabilityTrace([[(0, 1)], [(5, float("nan"))]], period=9),
            ValueError,
            ("Client 1 has an interval from 5 to nan", "Fill the hole"),
        ),
        "backwards": (
            lambda: eqt.AvailabilityTrace([[(3, 1)]], period=9),
            ValueError,
            ("Client 0 has an interval from 3 to 1",),
        ),
        "a period": (
            lambda: eqt.AvailabilityTrace([[(0, 1)]], period=0),
            ValueError,
            ("`period` must be finite and more than 0", "got 0"),
        ),
        "periods of others": (
            lambda: eqt.AvailabilityTrace([[(0, 1)]], period=[1.0, 2.0]),
            TypeError,
            ("`period` must be a number, or one for each of the 1 clients",),
        ),
        "another unit": (
            lambda: eqt.AvailabilityTrace([[(0, 1)], [(5000, 6000)]], period=9),
            ValueError,
            ("All intervals of client 1 begin after its period of 9 seconds", "unit"),
        ),
        "nobody": (
            lambda: eqt.AvailabilityTrace([[], []], period=9),
            ValueError,
            ("No client of the trace is ever there",),
        ),
    },
    "clock.read_devices": {
        "no file": (
            lambda: eqt.read_devices("none", num_clients=1, flops=1),
            FileNotFoundError,
            ("none",),
        ),
        **count(
            lambda x: eqt.read_devices("none", num_clients=x, flops=1), "num_clients"
        ),
        **numbers(
            lambda x: eqt.read_devices("none", num_clients=1, flops=x),
            "flops",
            POSITIVE,
        ),
    },
    "clock.read_availability": {
        "no file": (
            lambda: eqt.read_availability("none", num_clients=1),
            FileNotFoundError,
            ("none",),
        ),
        **count(lambda x: eqt.read_availability("none", num_clients=x), "num_clients"),
    },
    "clock.DailyAvailability": {
        **quantities(eqt.DailyAvailability, "share"),
        **numbers(lambda x: eqt.DailyAvailability(0.5, day=x), "day", POSITIVE),
    },
    "clock.SlottedAvailability": {
        **quantities(lambda x: eqt.SlottedAvailability(x, slot=1), "probability"),
        "slots beyond counting": (
            lambda: eqt.SystemModel(
                availability=eqt.SlottedAvailability(0.5, slot=1e-9)
            ).available([0], 1e12),
            ValueError,
            ("After 1e+12 seconds slots of 1e-09 seconds", "Make `slot` longer"),
        ),
        **numbers(lambda x: eqt.SlottedAvailability(0.5, slot=x), "slot", POSITIVE),
    },
}
