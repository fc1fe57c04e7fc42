"""The arguments of an algorithm that a table, a file or a command line may give: its
numbers and choices, as its own `__init__` has them.

What is left are the loss, logits and the like, which are the task's, and the batching,
which the loader has as well.
"""

import dataclasses
import inspect
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, Literal

import optax
from jaxtyping import ArrayLike

from .. import _algorithm
from .._aggregator import AbstractAggregator
from .._algorithm import AbstractAlgorithm
from .._check import check_kind, check_number
from .._client import AbstractCorrection
from .._words import either, shown
from ..posterior import AbstractPosteriorSampler
from ._aggregators import Aggregator, KINDS
from ._helps import elsewhere, helps
from ._names import check_name, found
from ._optimizers import Decay, Optimizer, OPTIMIZERS


# What a task brings along, and the batching.
OF_THE_TASK = ("loss", "logits", "representation", "head", "label", "batching", "root")
ROOT = 0  # which client holds the server's examples, if there is one
MISSING = dataclasses.MISSING
NUMBERS = tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument: `kind` is a number's type, the choices, or what it is made of."""

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is MISSING

    def checked(self, value: Any) -> Any:
        """The value, if it is one of this argument."""
        if value is None and self.default is None:
            return None
        if self.kind is float:
            number: Any = value
            check_number(self.name, number)
            return float(number)
        if self.kind == NUMBERS:
            check_kind(self.name, value, (list, tuple))
            several: Any = value
            for number in several:
                check_number(self.name, number)
            return tuple(map(float, several))
        if self.kind in (int, bool, str):
            if self.kind is int and isinstance(value, bool):
                raise TypeError(f"`{self.name}` must be an integer, got {value}.")
            check_kind(self.name, value, self.kind)
        elif self.kind is Optimizer:
            check_kind(self.name, value, get_args(Optimizer))
        elif self.kind is Aggregator:
            return value if isinstance(value, Aggregator) else self._named(value)
        elif value not in get_args(self.kind):
            choices = either(map(repr, get_args(self.kind)))
            raise ValueError(f"`{self.name}` must be {choices}, got {shown(value)}.")
        return value

    def _named(self, kind: Any) -> Aggregator:
        """An aggregator by its name alone."""
        if kind not in KINDS:
            choices = either([*map(repr, KINDS), "an `Aggregator`"])
            raise ValueError(f"`{self.name}` must be {choices}, got {shown(kind)}.")
        return Aggregator(kind=kind)


def arguments_of(cls: type[AbstractAlgorithm]) -> dict[str, Argument]:
    """The arguments by name, in the order of the `__init__`."""
    words = helps(cls)
    out = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name in OF_THE_TASK:
            continue
        for name, kind, default in _kinds(parameter):
            text = words.get(name, "")
            if other := elsewhere(text):
                text = helps(vars(_algorithm)[other]).get(name, "")
            text = text if len(text) > 3 else _COMMON.get(name, text)
            out[name] = Argument(name=name, kind=kind, default=default, help=text)
    return out


_COMMON = {
    "client_optim": "the clients' optimiser.",
    "server_optim": "the server's optimiser; the algorithm's own if not given.",
    "aggregator": "how messages are summed up; the algorithm's own way if not given.",
    "gradient_aggregator": "the same for gradients.",
    "mu": "the strength of a pull to the server's model; none if not given.",
    "burnin": "epochs of a client that come before its first sample.",
    "momentum": "the server's momentum.",
    "optim": "the optimiser, whose state the server keeps and the clients apply.",
    "server_learning_rate": "the server's learning rate.",
    "num_domains": "how many domains there are.",
    "num_clusters": "how many models there are.",
}


def _kinds(parameter: inspect.Parameter) -> list[tuple[str, Any, Any]]:
    name, hint = parameter.name, parameter.annotation
    default = MISSING if parameter.default is parameter.empty else parameter.default
    members = get_args(hint) if _is_union(hint) else (hint,)
    if AbstractPosteriorSampler in members:  # an `IASG`, by its two numbers
        return [("client_optim", Optimizer, MISSING), ("burnin", int, 0)]
    if optax.GradientTransformation in members:
        return [(name, Optimizer, default)]
    if AbstractAggregator in members:
        return [(name, Aggregator, default)]
    if AbstractCorrection in members:  # `Proximal`, by its number
        return [("mu", float, None)]
    if set(get_args(ArrayLike)) <= set(members):
        return [(name, NUMBERS if name == "domain_weights" else float, default)]
    if get_origin(hint) is Literal:
        return [(name, hint, default)]
    for kind in (bool, int, str):
        if kind in members:
            return [(name, kind, default)]
    return []  # a part that has no short form: the algorithm's own is taken


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is types.UnionType or str(hint).startswith("typing.Union")


def checked_numbers(
    cls: type[AbstractAlgorithm], numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """What is given to a class, each of its kind; what is not given is left out.

    **Raises:**

    `ValueError` or `TypeError` for an argument that there is not, one that is missing,
    or one of another kind.
    """
    arguments = arguments_of(cls)
    for name in numbers:
        check_name(f"numbers of {cls.__name__}", name, arguments)
    for name, argument in arguments.items():
        if argument.required and name not in numbers:
            raise ValueError(
                f"`{cls.__name__}` needs `{name}`, {argument.help.rstrip('.')}: the "
                f"numbers given are {', '.join(numbers) or 'none'}."
            )
    return {name: arguments[name].checked(x) for name, x in numbers.items()}


def as_json(value: Any) -> Any:
    """A number or a choice as JSON has it; an optimiser or an aggregator with its
    kind."""
    if type(value) in OPTIMIZERS.values():
        return {"kind": value.kind, **dataclasses.asdict(value)}
    return value.as_json() if isinstance(value, Aggregator) else value


def from_json(argument: Argument, value: Any) -> Any:
    """The same, back."""
    if argument.kind is Optimizer and isinstance(value, Mapping):
        return optimizer_of(argument.name, value)
    if argument.kind is Aggregator and isinstance(value, Mapping):
        known = {f.name: f for f in dataclasses.fields(Aggregator)}
        for field in value:
            check_name(f"numbers of {argument.name}", field, known)
        return Aggregator(**{"kind": None, **value})
    return value if value is None else argument.checked(value)


def optimizer_of(name: str, value: Mapping[str, Any]) -> Any:
    """An optimiser, by its kind and its numbers."""
    fields = dict(value)
    cls = found(f"{name}.kind", fields.pop("kind", None), OPTIMIZERS)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for field in fields:
        check_name(f"numbers of {name}", field, known)
    for field in known.values():
        if field.default is dataclasses.MISSING and field.name not in fields:
            raise ValueError(f"`{name}` needs `{field.name}`, which is missing.")
    if "decay" in fields:
        check_kind(f"{name}.decay", fields["decay"], (Decay, Mapping))
    if isinstance(fields.get("decay"), Mapping):
        decays = {f.name: f for f in dataclasses.fields(Decay)}
        for field in fields["decay"]:
            check_name(f"numbers of {name}.decay", field, decays)
        fields["decay"] = Decay(**fields["decay"])
    return cls(**fields)
