"""`equifed list`: the names that `run` takes, with a line on each."""

from typing import Annotated, get_args, Literal

from .._words import either
from ..recipes import algorithm, algorithms, recipes, tasks
from ..recipes._compression import KINDS
from ..recipes._helps import first_sentence
from .asked import parsed
from .attacking import ATTACKS


Kind = Literal["tasks", "algorithms", "attacks", "compressors", "recipes"]
_OF = f"of what: {either(get_args(Kind))}."


def list_names(args: list[str]) -> int:
    """Prints the names of a kind."""
    import tyro

    def arguments(
        kind: Annotated[tyro.conf.Positional[Kind], tyro.conf.arg(help=_OF)],
    ) -> str:
        return kind

    kind = parsed(arguments, args, "equifed list")
    if kind == "tasks":
        rows = [(task.name, f"{task.partition}; {task.data}") for task in tasks()]
    elif kind == "algorithms":
        rows = [(name, first_sentence(algorithm(name))) for name in algorithms()]
    elif kind == "attacks":
        rows = [(n, f"equifed.attacks.{x.__name__}") for n, x in ATTACKS.items()]
    elif kind == "compressors":
        rows = [(name, first_sentence(cls)) for name, cls in KINDS.items()]
    else:
        rows = [(x.name, f"{x.algorithm.__name__} on {x.task.name}") for x in recipes()]
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        print(f"{name.ljust(width)}  {words}")
    return 0
