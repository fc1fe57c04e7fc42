"""What a client has of its states in one round: from rounds before, from the passes
before this one, and from the server.
"""

from collections.abc import Mapping
from typing import Any

import jax.tree_util as jtu
import numpy as np

from .._round import State
from .._round.elsewhere import Elsewhere
from ._arrays import Wire
from ._memory import AbstractMemory, forget_before, name_of, NOW


class Held:
    """What a client has of its states in one round."""

    def __init__(
        self,
        parts: Elsewhere,
        state: State,
        arrays: Wire,
        config: Mapping[str, Any],
        memory: AbstractMemory,
    ):
        self._parts, self._arrays, self._memory = parts, arrays, memory
        self._round, since = config["round"], config["since"]
        if not parts.keeps:
            self._kept: Wire = {}
        elif since < 0:
            likes = jtu.tree_leaves(state.clients)
            self._kept = {f"kept{i}": arrays[f"kept{i}"] for i in range(len(likes))}
        else:
            found = memory.load(name_of(since))
            if found is None:
                raise ValueError(
                    f"This client no longer has what it kept in round {since + 1}. "
                    "Where a node may be started anew, name a folder in its settings: "
                    "`--node-config 'state=\"/var/lib/equifed\"'`."
                )
            self._kept = found
            forget_before(memory, config["oldest"])
        now = memory.load(NOW) if config["pass"] > 0 else None
        same = now is not None and int(now["round"]) == self._round
        self._now: Wire = now if now is not None and same else {}

    def find(self, source: str | None, sent: str) -> np.ndarray:
        """One of the states, as it travels."""
        if source is None:
            if sent not in self._arrays:
                raise ValueError(f"The server's message lacks `{sent}`.")
            return self._arrays[sent]
        if source in self._kept:
            return self._kept[source]
        if source in self._now:
            return self._now[source]
        # It was not asked in that pass, which left its state as it was.
        number, leaf = map(int, source.removeprefix("pass").split("."))
        return self.find(self._parts.passes[number].sources[leaf], f"state{leaf}")

    def keep(self, number: int, new: list[np.ndarray]) -> None:
        """Writes down what a pass has left."""
        self._now |= {f"pass{number}.{j}": x for j, x in enumerate(new)}
        if number + 1 < len(self._parts.passes):
            here = {"round": np.asarray(self._round)}
            self._memory.save(NOW, self._now | here)
        if self._parts.keeps:
            places = enumerate(self._parts.keeps)
            kept = {f"kept{i}": self.find(place, "") for i, place in places}
            self._memory.save(name_of(self._round), kept)
