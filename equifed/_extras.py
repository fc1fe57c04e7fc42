"""Libraries of extras, imported where they are first needed."""

import importlib
from typing import Any


def imported(module: str, *, by: str, package: str, extra: str) -> Any:
    """The module.

    **Arguments:**

    - `by`: what needs it, at the beginning of a sentence.
    - `package`: the package that has it.
    - `extra`: the extra of `equifed` that installs it.

    **Raises:**

    `ImportError`, which names both, if it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{by} needs the package `{package}`. Install it with "
            f"`pip install 'equifed[{extra}]'`."
        ) from error
