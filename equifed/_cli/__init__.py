"""The command line: trainings by name, their tables and their figures.

`equifed run`, `list`, `plot`, `table` and `resume`. It alone prints.
"""

import importlib
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit status.

    **Arguments:**

    - `args`: the command and its arguments; those of the program if not given.
    """
    try:
        importlib.import_module("tyro")
    except ImportError:
        print(
            "The command line needs the package `tyro`, which is not installed. Run "
            '`pip install "equifed[cli]"`.',
            file=sys.stderr,
        )
        return 1
    from .commands import run_command  # it needs tyro

    return run_command(list(sys.argv[1:] if args is None else args))
