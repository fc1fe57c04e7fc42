"""An aggregator that only listens."""

import jax.numpy as jnp
import jax.tree_util as jtu

import equifed as eqf


class Collect(eqf.AbstractAggregator):
    """Moves the model nowhere, and hands the messages on as its state."""

    num_clients: int

    @property
    def gathers(self):
        return True

    def init(self, payload):
        count = self.num_clients
        messages = jtu.tree_map(lambda x: jnp.zeros((count, *x.shape)), payload)
        return messages, jnp.zeros(count)

    def encode(self, message, state, *, key):
        return message, {}

    def decode(self, encoded, state, *, key):
        # Sorted by client; the empty slots of a device come last.
        count = self.num_clients
        payload = jtu.tree_map(lambda x: x[:count], encoded.payload)
        zero = jtu.tree_map(lambda x: jnp.zeros_like(x[0]), payload)
        one = jnp.ones(())
        state = (payload, encoded.weight[:count])
        return eqf.Aggregate(zero, None, one, one, one > 0), state, {}
