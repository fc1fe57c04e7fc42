"""Which command, and what becomes of an error: one sentence, without a traceback."""

import sys
from collections.abc import Callable

from .listing import list_names
from .plotting import plot_runs
from .running import INTERRUPTED, resume, run
from .tables import print_table


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (run, "train, and keep everything in a folder"),
    "resume": (resume, "go on with a run that was interrupted"),
    "list": (
        list_names,
        "the names of tasks, algorithms, attacks, compressors or recipes",
    ),
    "table": (print_table, "the figures of runs, beside those that others report"),
    "plot": (plot_runs, "the curves of runs, in one figure"),
}


def run_command(args: list[str]) -> int:
    """Runs a command with its arguments; 2 if there is none of that name."""
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    name, *rest = args
    if name not in COMMANDS:
        print(f"There is no command {name!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    command, _ = COMMANDS[name]
    try:
        return command(rest)
    except KeyboardInterrupt:  # before there was anything to go on with
        print(f"equifed {name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # of `equifed list recipes | head`
        sys.stderr.close()  # or Python complains of the same at its end
        return 1
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"equifed {name}: {error}", file=sys.stderr)
        return 1


def _usage() -> str:
    lines = [f"  {name:8}{words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: equifed COMMAND ...",
            "",
            *lines,
            "",
            "`equifed run --task digits-dense --algorithm fedavg --help` lists what "
            "can be set.",
        ]
    )
