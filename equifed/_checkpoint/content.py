"""All bytes of arrays as a few hexadecimal digits.

What is frozen of a model is most of it, and comes from elsewhere: adapters mean nothing
beside another base, however near it is. So all of that is read, once in a training; of
what is trained, and changes anyway, a few numbers are enough.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def content(arrays: Mapping[str, Any]) -> str:
    """Twelve digits of the arrays and their names, wherever they lie.

    Of an array that several processes share, each of which has a part, the dtype and
    the shape count alone.
    """
    total = hashlib.blake2b(digest_size=16)
    for name, x in arrays.items():
        total.update(f"{name} {x.dtype} {x.shape}\n".encode())
        if has_all_numbers(x):
            # One after the other, so that the host has no more than one of them.
            numbers = np.ascontiguousarray(x).reshape(-1)
            total.update(numbers.view(np.uint8).data)
    return total.hexdigest()[:12]


def has_all_numbers(x: Any) -> bool:
    """Whether this process has all numbers of an array."""
    return not isinstance(x, jax.Array) or (
        x.is_fully_addressable or x.is_fully_replicated
    )
