"""The libraries of the extra `llm`, imported where they are first needed."""

from typing import Any

from .._extras import imported


def safetensors() -> Any:
    return _imported("safetensors")


def gguf() -> Any:
    return _imported("gguf")


def tokenizers() -> Any:
    return _imported("tokenizers")


def _imported(module: str) -> Any:
    return imported(module, by="Reading this file", package=module, extra="llm")
