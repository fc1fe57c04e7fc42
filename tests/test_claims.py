"""What the guides say is so, where no other test asks it."""

# Optax's annotations do not know of modules.
# pyright: reportArgumentType=false

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

import equifed as eqf
from equifed import testing


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATA = testing.ragged_clients((4, 3))
COHORT = eqf.data.cohort(DATA, BATCHING)


def plain(model, example, key):
    return testing.noisy_loss(model, example, key)[0]


def after_a_round(loss, optim):
    algorithm = eqf.FedAvg(loss, optim, BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=2)
    return algorithm.round(state, COHORT, key=jr.key(0))[0].model


def test_an_l2_regulariser_is_a_term_of_the_loss_or_decayed_weights():
    # FedJAX's is `weight` times the sum of squares, without a half.
    weight = 0.3

    def regularised(model, example, key):
        squares = jnp.sum(model.weight**2) + model.bias**2
        return plain(model, example, key) + weight * squares

    decayed = optax.chain(optax.add_decayed_weights(2 * weight), optax.sgd(0.1))
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        after_a_round(regularised, optax.sgd(0.1)),
        after_a_round(plain, decayed),
    )


def test_equinox_serialises_a_state(tmp_path):
    algorithm = eqf.Scaffold(plain, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=2)
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    again = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", state)
    assert eqx.tree_equal(again, state)


def test_a_server_optimiser_sees_minus_the_mean_change():
    # FedJAX's FedAvg with `optimizers.adam` is Optax's Adam on it.
    server = optax.adam(0.1, eps=1e-4)
    model = testing.Linear()
    moved = after_a_round(plain, optax.sgd(0.1))
    minus = jtu.tree_map(lambda old, new: old - new, model, moved)
    updates, _ = server.update(minus, server.init(model), model)
    algorithm = eqf.FedAvg(plain, optax.sgd(0.1), BATCHING, server_optim=server)
    state = algorithm.init(model, num_clients=2)
    state, _ = algorithm.round(state, COHORT, key=jr.key(0))
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        state.model,
        optax.apply_updates(model, updates),
    )
