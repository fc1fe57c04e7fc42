"""Whether a client has the algorithm and the model that the server has: the numbers and
functions that do not travel are on both sides, and have to be the same.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._algorithm import AbstractAlgorithm
from .._checkpoint.content import content
from .._checkpoint.digest import digest
from .._checkpoint.fingerprint import differences, outlined, PYTHON, python
from .._json import from_json, to_json
from .._round import State
from .._tree import leaves_by_path
from .._words import shown
from ._arrays import WrongReply


def made_of(algorithm: AbstractAlgorithm, state: State) -> str:
    """What an algorithm is made of, and what of its model is not trained, in words and
    digits that are the same wherever they are made."""
    found = outlined("algorithm", algorithm)
    others = eqx.filter(state.rest, eqx.is_array, inverse=True)
    found["model"] = f"{type(state.rest).__name__} #{digest(others)}"
    frozen = leaves_by_path(eqx.filter(state.rest, eqx.is_array))
    if frozen:
        found["model.frozen"] = content({n: _numbers(x) for n, x in frozen.items()})
    return to_json({PYTHON: python()} | found)


def unlike(theirs: str, ours: str) -> list[str]:
    """What differs, each in a few words.

    The code of one function has other digits in another Python, where its name and its
    numbers alone are compared.
    """
    there, here = from_json(theirs), from_json(ours)
    if not isinstance(there, dict):
        raise WrongReply(f"`made_of` must name its parts, got {shown(there)}")
    if there.get(PYTHON) != here[PYTHON]:
        there, here = (
            {name: _words(x) for name, x in one.items() if name != PYTHON}
            for one in (there, here)
        )
    return differences(there, here)


def _words(x: object) -> object:
    return x.partition(" #")[0] if isinstance(x, str) else x


def _numbers(x: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jr.key_data(x) if is_key else x
