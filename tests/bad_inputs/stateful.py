"""What is wrong with the losses of models that have a state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import equifed as eqf

from .shared import BATCHING, Client, one_round, SGD


class Net(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.dense = eqx.nn.Linear(3, 1, key=jr.key(0))
        self.norm = eqx.nn.BatchNorm(1, "batch", mode="ema")

    def __call__(self, x, state):
        x, state = self.norm(self.dense(x), state)
        return x[0], state


PAIR = eqx.nn.make_with_state(Net)()


def good(model, state, example, key):
    out, state = model(example["x"], state)
    return (out - example["y"]) ** 2, state


def used_up(model, state, example, key):
    return good(model, state, example, key)[0], state


def of_one(model, state, example, key):
    mean = model.norm.ema_state_index
    state = state.set(mean, (example["x"][:1], example["x"][:1]))
    return jnp.sum(model.dense(example["x"])), state


def in_a_loop(model, state, example, key):
    value, state = good(model, state, example, key)
    pmean = lambda i, x: jax.lax.pmean(x, "batch")  # noqa: E731
    return jax.lax.fori_loop(0, 2, pmean, value), state


def gathered(model, state, example, key):
    return jnp.sum(jax.lax.all_gather(example["y"], "batch")), state


def counted(model, state, example, key):
    value, state = good(model, state, example, key)
    some = (example["y"] > 0).astype(int)
    return value * (jax.lax.psum(some, "batch") > 0), state


def trained(loss, model=PAIR, kind=eqf.FedAvg, roles=None, **kwargs):
    def call():
        algorithm = kind(eqf.Stateful(loss, **kwargs), SGD, BATCHING)
        state = algorithm.init(model, num_clients=4, roles=roles)
        return one_round(algorithm, state)

    return call


def own_client():
    def body(params, data, state):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return eqf.Message(zeros, data.weight), state, {"loss": eqf.Sum(jnp.ones(()))}

    client = Client(eqf.Stateful(good), BATCHING, body)
    eqf.Algorithm(client, eqf.WeightedMean(), eqf.OptaxServer(SGD)).init(
        PAIR, num_clients=4
    )


def plain(pair, example, key):
    model, state = pair
    return good(model, state, example, key)[0]


def on_a_plain_loss(roles=None):
    algorithm = eqf.FedAvg(plain, SGD, BATCHING)
    return one_round(algorithm, algorithm.init(PAIR, num_clients=4, roles=roles))


TABLE = {
    "Stateful": {
        "no function": (
            lambda: eqf.Stateful(3),
            TypeError,
            ("`loss` must be", "got 3"),
        ),
        "no name": (
            lambda: eqf.Stateful(good, axis_name=0),
            TypeError,
            ("`axis_name` must be text", "got 0"),
        ),
        "a plain loss in its place": (
            on_a_plain_loss,
            ValueError,
            ("`BatchNorm`", "`equifed.Stateful(loss)`", "`eqx.nn.GroupNorm`"),
        ),
        "personal statistics under a plain loss": (
            lambda: on_a_plain_loss(eqf.roles(PAIR, personal=eqf.statistics)),
            ValueError,
            ("`roles` make a part of the model's `eqx.nn.State` personal",),
        ),
        "a model without its state": (
            trained(good, PAIR[0]),
            ValueError,
            ("`Stateful` trains the pair `(model, state)`", "got a `Net`"),
        ),
        "a loss without the state": (
            trained(lambda *args: good(*args)[0]),
            ValueError,
            ("must return `(value, state)`, or `(value, state, metrics)`",),
        ),
        "something else for a state": (
            trained(lambda *args: (good(*args)[0], {"a": 1})),
            ValueError,
            ("with the `eqx.nn.State` second, got {'a': 1}",),
        ),
        "an old state": (trained(used_up), ValueError, "must return the newest state"),
        "a state of one example": (
            trained(of_one),
            ValueError,
            ("depends on one example", "jax.lax.pmean(x, 'batch')"),
        ),
        "another axis": (
            trained(good, axis_name="rows"),
            ValueError,
            ("no axis 'batch'", "`Stateful(loss, axis_name='batch')`"),
        ),
        "a mean in a loop": (
            trained(in_a_loop),
            ValueError,
            ("within a `scan`", "outside of loops"),
        ),
        "all examples gathered": (
            trained(gathered),
            ValueError,
            ("`all_gather` over the axis 'batch'", "`pmean`"),
        ),
        "a sum of whole numbers": (
            trained(counted),
            ValueError,
            ("adds up whole numbers (int32) over its batch", "Take the mean"),
        ),
        "an algorithm of several passes": (
            trained(good, kind=lambda *args: eqf.Mime(*args, server_learning_rate=1.0)),
            ValueError,
            ("`Mime` does not carry the state", "`FedAvg`", "`GroupNorm`"),
        ),
        "a criterion": (
            trained(
                good,
                kind=lambda loss, *args: eqf.FedNTD(
                    loss, *args, logits=lambda m, e, k: jnp.ones(2), label="y"
                ),
            ),
            ValueError,
            ("`FedNTD` does not carry the state",),
        ),
        "a client of one's own": (
            own_client,
            ValueError,
            ("`Algorithm` does not carry the state",),
        ),
    },
}
