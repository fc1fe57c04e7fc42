"""Arrays to a directory and back, by Orbax."""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


def write_arrays(path: pathlib.Path, leaves: list[Any]) -> None:
    import orbax.checkpoint as ocp  # slow to import

    arrays = _numbered(leaves)
    # Its threads print an error that they cannot handle, at length; it is raised, too.
    log = logging.getLogger("absl")
    disabled, log.disabled = log.disabled, True
    try:
        if arrays:
            with ocp.Checkpointer(_handler()) as checkpointer:
                checkpointer.save(path, args=ocp.args.StandardSave(arrays))
    finally:
        log.disabled = disabled


def read_arrays(path: pathlib.Path, likes: list[Any]) -> list[Any]:
    import orbax.checkpoint as ocp

    targets = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        if isinstance(x, jax.Array)
        else x
        for name, x in _numbered(likes).items()
    }
    read: dict[str, Any] = {}
    if targets:
        try:
            with ocp.Checkpointer(_handler()) as checkpointer:
                args = ocp.args.StandardRestore(targets)
                read = checkpointer.restore(path, args=args)
        except Exception as error:
            raise OSError(
                f"The arrays of the checkpoint `{path.parent}` could not be read. "
                "Restore with the version of Orbax that saved it, or move it away to "
                "go on from the one before."
            ) from error
    restored = []
    for i, like in enumerate(likes):
        x = read.get(_number(i), like)
        if x is not like and isinstance(like, jax.Array):
            x = jnp.asarray(x)
            if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
                x = jr.wrap_key_data(x, impl=jr.key_impl(like))
        restored.append(x)
    return restored


def _handler() -> Any:
    """Orbax's, with a file for each array: where it would put them into one, it looks
    for them by a pattern, which a directory named like `run [2]` does not match."""
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointHandler(use_ocdbt=False)


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    # Orbax refuses empty arrays. Nothing is lost: `leaves.json` has their shapes.
    # What all clients keep may lie elsewhere, see `journal.py`.
    return {
        _number(i): _data(x)
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array | np.ndarray) and x.size > 0
    }


def _number(i: int) -> str:
    return f"{i:05d}"


def _data(x: Any) -> Any:
    """What Orbax is given for an array leaf: numbers instead of keys, and on the host
    what was not put on a device on purpose (restored there, JAX would not move it).
    """
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jr.key_data(x)
    else:
        data = x
    return data if isinstance(x, jax.Array) and x.committed else np.asarray(data)
