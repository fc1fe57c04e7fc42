"""The libraries of the extra `privacy`, imported where they are first needed."""

import importlib
from typing import Any


def dp_accounting() -> Any:
    return _imported("dp_accounting", "dp-accounting")


def jax_privacy(module: str) -> Any:
    return _imported(f"jax_privacy.{module}", "jax-privacy")


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This part of `equifed.privacy` needs the package `{package}`. Install it "
            "with `pip install 'equifed[privacy]'`."
        ) from error
