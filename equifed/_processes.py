"""Agreement between the processes of one program (`jax.distributed`).

Every process runs the same program, and must come to the same decisions: where one of
them takes another way, the others wait for it in a collective that never comes. What a
process cannot know of the others (their free memory, what they see on disk) is settled
here. All processes must call these functions, in the same order; where there is only
one they do nothing.
"""

import jax
import numpy as np
from jax.sharding import Mesh


_ROOM = 64  # what process 0 says is sent in multiples of so many bytes


def is_first(mesh: Mesh | None) -> bool:
    """Whether this process is the first of a mesh: the one that writes for all."""
    if mesh is None:
        return True
    return jax.process_index() == min(d.process_index for d in mesh.devices.flat)


def any_process(*, value: bool) -> bool:
    """Whether it is so on any process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))


def wait_for_all() -> None:
    """Nobody goes on before all are here."""
    any_process(value=False)


def said_by_first(text: str | None) -> str | None:
    """What process 0 says, on all of them; an empty string is `None`."""
    if jax.process_count() == 1:
        return text or None
    from jax.experimental import multihost_utils

    said = (text or "").encode()
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(said), np.int32)))
    if length == 0:
        return None
    # Nobody but process 0 knows how long it is, and all must send as much.
    room = -(-length // _ROOM) * _ROOM
    sent = np.frombuffer(said[:room].ljust(room, b"\0"), np.uint8)
    heard = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    return heard.astype(np.uint8).tobytes()[:length].decode()
