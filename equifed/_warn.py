"""Warnings that point at the user's line.

Between the line that a user wrote and the one that finds something to warn of lie an
entry point, its decorators, and as many functions as there happen to be. So the frames
are looked at, rather than counted.
"""

import os
import sys
import warnings


# Whose frames may stand between: ours, and those that call our functions for the user.
_PACKAGES = ("equifed", "beartype", "jaxtyping", "equinox", "jax")
_FILES = ("contextlib.py", "functools.py")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns, at the innermost line that is the user's."""
    level, frame = 1, sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        # The code that a decorator makes has a name such as `<@beartype(...)>`.
        between = is_ours(file) or file.startswith("<@")
        if not between and os.path.basename(file) not in _FILES:
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def is_ours(file: str) -> bool:
    """Whether it is a file of this package, or of one that it is built on."""
    folders = (_folder(name) for name in _PACKAGES if name in sys.modules)
    return file.startswith(tuple(folders))


def _folder(package: str) -> str:
    return os.path.dirname(sys.modules[package].__file__ or "") + os.sep
