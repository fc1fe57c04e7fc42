"""Algorithms around another one, whose rounds stay as they were and tell more."""

from .around import _AbstractAround
from .inside import layers


class _AbstractWatching(_AbstractAround):
    """Its state is that of the algorithm in it, and its step adds metrics alone."""

    def __check_init__(self):
        kind = type(self)
        if any(isinstance(layer, kind) for layer in layers(self.algorithm)):
            raise TypeError(
                f"`algorithm` has a `{kind.__name__}` in it. One is enough."
            )

    @property
    def carries_state(self) -> bool:
        return self.algorithm.carries_state

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def keep(self, params, personal, begun):
        return self.algorithm.keep(params, personal, begun)

    def model(self, state):
        return self.algorithm.model(state)

    def models(self, state):
        return self.algorithm.models(state)

    def own_model(self, state, kept):
        return self.algorithm.own_model(state, kept)
