"""Every algorithm obeys every law: see `equifed.testing`."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import equifed as eqf
from equifed import testing

from .algorithms import ALGORITHMS


@pytest.mark.parametrize("law", testing.LAWS.values(), ids=testing.LAWS.keys())
@pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS.keys())
def test_law(make, law):
    law(make)


def test_a_broken_algorithm_is_caught():
    # A client that looks at its slot's place in the plan, as none may.
    class Peeks(eqf.AbstractClient):
        client: eqf.LocalSGD

        def __init__(self, client):
            self.client = client

        @property
        def loss(self):
            return self.client.loss

        @property
        def batching(self):
            return self.client.batching

        def init(self, params):
            return None

        def round(self, broadcast, data, state, *, key):
            message, state, metrics = self.client.round(
                broadcast, data, state, key=jr.fold_in(key, data.start)
            )
            return message, state, metrics

    def make(loss, batching):
        client = eqf.LocalSGD(loss, optax.sgd(0.05), batching)
        server = eqf.OptaxServer(optax.sgd(1.0))
        return eqf.Algorithm(Peeks(client), eqf.WeightedMean(), server)

    with pytest.raises(AssertionError, match="The law 'devices' fails"):
        testing.check_laws(make)


def test_a_sweep_over_hyper_parameters_is_the_loop():
    dataset = testing.ragged_clients((5, 3, 8))
    batching = eqf.data.Epochs(1, batch_size=4)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    cohort = loader(0)
    model = testing.Linear()

    def final(rate, mu, momentum):
        algorithm = eqf.FedProx(
            testing.noisy_loss,
            optax.sgd(rate, momentum=0.9),
            batching,
            mu=mu,
            server_optim=optax.sgd(1.0, momentum=momentum),
        )
        state = algorithm.init(model, num_clients=3)
        for _ in range(2):
            state, _ = algorithm.round(state, cohort, key=jr.key(0))
        return state.model.weight

    values = (
        jnp.array([0.1, 0.01]),
        jnp.array([0.0, 1.0]),
        jnp.array([0.5, 0.9]),
    )
    together = eqx.filter_vmap(final)(*values)
    for i in range(2):
        alone = final(*(v[i] for v in values))
        assert jnp.allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_changing_a_hyper_parameter_does_not_retrace():
    traces = 0

    def loss(model, example, key):
        nonlocal traces
        traces += 1
        return testing.noisy_loss(model, example, key)

    dataset = testing.ragged_clients((5, 3))
    batching = eqf.data.Epochs(1, batch_size=4)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    counts = []
    for rate in (0.1, 0.2, 0.3):
        algorithm = eqf.FedAdam(
            loss, optax.sgd(rate, momentum=rate), batching, server_learning_rate=rate
        )
        state = algorithm.init(testing.Linear(), num_clients=2)
        algorithm.round(state, loader(0), key=jr.key(0))
        counts.append(traces)
    assert counts[0] == counts[1] == counts[2]
