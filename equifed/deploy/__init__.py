"""The same algorithm object, where the clients are somewhere else."""

from ._client import Client as Client
from ._server import Server as Server


def __getattr__(name: str):
    if name in ("flower", "nvflare"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
