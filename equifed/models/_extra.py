"""The libraries of the extra `llm`, imported where they are first needed."""

import importlib
from typing import Any


def safetensors() -> Any:
    return _imported("safetensors")


def gguf() -> Any:
    return _imported("gguf")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Reading this file needs the package `{module}`. Install it with "
            "`pip install 'equifed[llm]'`."
        ) from error
