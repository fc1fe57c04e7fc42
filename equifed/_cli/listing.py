"""`equifed list`: the names that `run` takes, with a line on each."""

from typing import Annotated, Literal

from ..recipes import algorithm, algorithms, recipes, tasks
from .attacking import ATTACKS


Kind = Literal["tasks", "algorithms", "attacks", "recipes"]


def list_names(args: list[str]) -> int:
    """Prints the names of a kind."""
    import tyro

    def arguments(
        kind: Annotated[tyro.conf.Positional[Kind], tyro.conf.arg(help="of what.")],
    ) -> str:
        return kind

    kind = tyro.cli(arguments, args=args, prog="equifed list")
    if kind == "tasks":
        rows = [(task.name, f"{task.partition}; {task.data}") for task in tasks()]
    elif kind == "algorithms":
        rows = [(name, _first_sentence(algorithm(name))) for name in algorithms()]
    elif kind == "attacks":
        rows = [(n, f"equifed.attacks.{x.__name__}") for n, x in ATTACKS.items()]
    else:
        rows = [(x.name, f"{x.algorithm.__name__} on {x.task.name}") for x in recipes()]
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        print(f"{name.ljust(width)}  {words}")
    return 0


def _first_sentence(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())
