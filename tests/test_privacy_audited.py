"""Which algorithms can be audited, and that the others say why they cannot: where no
canary could be found an audit would find nothing wrong."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import equifed as eqf
import equifed.privacy as eqp
from equifed import posterior, testing


pytest.importorskip("dp_accounting")

BATCHING = eqf.data.Epochs(1, batch_size=2)
DATASET = testing.ragged_clients((3, 2, 4, 1))


class Wide(eqx.Module):
    """A model of many params, of which its loss makes little use."""

    weight: jnp.ndarray
    bias: jnp.ndarray

    def __init__(self):
        self.weight, self.bias = jnp.zeros((32, 32)), jnp.zeros(())


def loss(model, example, key):
    return jnp.square(model.weight[0, 0] + model.bias - example["y"])


def trained(algorithm):
    """What an audit says of two rounds of it, with no privacy at all."""
    audit = eqp.Audit(DATASET, num_canaries=40, seed=3)
    loader = audit.loader(eqf.data.AllClients(), BATCHING)
    algorithm, model = audit.algorithm(algorithm), Wide()
    solution = eqf.train(algorithm, model, loader, num_rounds=2, key=jr.key(2))
    return audit.report(model, solution.state, delta=1e-5)


@pytest.mark.parametrize(
    "algorithm",
    (
        eqf.Scaffold(loss, optax.sgd(0.1), BATCHING),
        eqf.FedDC(loss, optax.sgd(0.1), BATCHING, alpha=0.1),
        eqf.StreamingDiLoCo(
            *(loss, optax.sgd(0.1), BATCHING), fragments=1, delay=1, alpha=0.5
        ),
    ),
    ids=lambda x: type(x).__name__,
)
def test_a_canary_is_found_whatever_is_sent_beside_it(algorithm):
    found = trained(algorithm)
    assert found.auroc > 0.99
    assert found.lower_bound > 1


def test_what_is_taken_away_is_told():
    with pytest.raises(ValueError, match="moved against the canaries"):
        trained(eqf.MIFA(loss, 0.1, BATCHING))


def test_what_is_no_change_of_the_params_is_told():
    sampler = posterior.SGLD(0.01)
    gaussians = posterior.GaussianMoments(1.0)
    algorithms = (
        eqf.Algorithm(
            posterior.PosteriorClient(loss, sampler, BATCHING, gaussians),
            posterior.PosteriorProduct(),
            eqf.OptaxServer(optax.sgd(1.0)),
        ),
        eqf.FedEP(loss, optax.sgd(0.01), BATCHING, prior_precision=10.0),
        eqf.FedProto(
            *(loss, optax.sgd(0.1), BATCHING),
            representation=lambda model, example, key: model.weight[0],
            label="label",
            num_classes=2,
            num_features=32,
        ),
    )
    audit = eqp.Audit(DATASET, num_canaries=40)
    for algorithm in map(audit.algorithm, algorithms):
        with pytest.raises(ValueError, match="there is none in what the clients"):
            algorithm.init(Wide(), num_clients=44, key=jr.key(0))
