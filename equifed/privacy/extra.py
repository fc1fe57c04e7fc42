"""The libraries of the extra `privacy`, imported where they are first needed."""

from typing import Any

from .._extras import imported


def dp_accounting() -> Any:
    return _imported("dp_accounting", "dp-accounting")


def jax_privacy(module: str) -> Any:
    return _imported(f"jax_privacy.{module}", "jax-privacy")


def _imported(module: str, package: str) -> Any:
    by = "This part of `equifed.privacy`"
    return imported(module, by=by, package=package, extra="privacy")
