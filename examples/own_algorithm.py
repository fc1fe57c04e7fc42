"""An algorithm of one's own: FedLin, written as from outside the package.

The package has it too (`equifed.FedLin`); here nothing of that is used.
FedLin (Mitra et al., 2021, arXiv 2102.07053) removes client drift without memory over
rounds. All clients send their gradients at the server's model x, whose mean is g. Then
client i takes its t_i local steps, of a size of its own,

    y <- y - (eta / t_i) (grad f_i(y) - grad f_i(x) + g),

and the new x is the mean of their models. So a round makes two passes, and between
them a client keeps its gradient. Everything between the two rulers is the algorithm;
below it is put through the library's laws, and against FedAvg. (The paper's clients
compute exact gradients: here too, where one batch holds all their examples.)

    python examples/own_algorithm.py
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf


# ----------------------------------------------------------------------------------
class SendsGradient(eqf.AbstractClient):
    client: eqf.MeanGradient
    loss = property(lambda self: self.client.loss)
    batching = property(lambda self: self.client.batching)

    def init(self, params):
        return params  # like its gradient

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        message, _, metrics = self.client.round(broadcast, data, None, key=key)
        gradient = jax.tree.map(jnp.negative, message.payload)
        return eqf.Message(gradient, message.weight), gradient, metrics


class Corrected(eqf.AbstractCorrection):
    def init(self, params):
        return params

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return state, jax.tree.map(jnp.subtract, shared, state)  # g - grad f_i(x)

    def correct(self, grads, params, carry, gradient):
        return jax.tree.map(jnp.add, grads, carry[1]), carry

    def end(self, delta, num_steps, carry):
        return delta, carry[0]


class Descends(eqf.AbstractClient):
    loss: Callable
    batching: eqf.data.AbstractBatching
    rate: jax.Array

    def init(self, params):
        return params

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        sgd = optax.sgd(self.rate / jnp.maximum(data.num_steps, 1))
        client = eqf.LocalSGD(self.loss, sgd, self.batching, Corrected())
        return client.round(broadcast, data, state, key=key)


class FedLin(eqf.AbstractAlgorithm):
    loss: Callable
    batching: eqf.data.AbstractBatching
    rate: jax.Array = eqx.field(converter=eqf.floating)

    def begin(self, params, *, num_clients, key):
        return eqf.Beginning(params)

    def step(self, state, clients, *, key):
        first_key, second_key = jr.split(key)
        x, mean = state.params, eqf.UniformMean()
        asks = SendsGradient(eqf.MeanGradient(self.loss, self.batching))
        seats = clients.index.shape
        kept = jax.tree.map(lambda x: jnp.zeros((*seats, *x.shape), x.dtype), x)
        full = clients(asks, mean, eqf.Broadcast(x, state.rest), kept, key=first_key)

        local = Descends(self.loss, self.batching, self.rate)
        sent = eqf.Broadcast(x, state.rest, full.aggregate.payload)
        out = clients(local, mean, sent, full.clients, key=second_key)
        x = jax.tree.map(jnp.add, x, out.aggregate.payload)
        state = dataclasses.replace(state, params=x)
        metrics = eqf.add_bits(out.metrics, full.metrics)
        return state, metrics, out.aggregate.accept

    def model(self, state):
        return state.model


def fed_lin(loss, batching, rate=0.1):
    return FedLin(loss, batching, rate)


# ----------------------------------------------------------------------------------
def loss(model, example, key):
    logits = model(example["image"].reshape(-1).astype(jnp.float32) / 16)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def fed_avg(loss, batching, rate=0.01):
    uniform = eqf.UniformMean()
    return eqf.FedAvg(loss, optax.sgd(rate), batching, aggregator=uniform)


def main():
    eqf.testing.check_laws(fed_lin)

    batching = eqf.data.Epochs(10, batch_size=150)  # all examples of any writer
    writers = eqf.data.digits()
    loader = eqf.data.Loader(writers, eqf.data.UniformSampler(7, seed=0), batching)
    model = eqx.nn.MLP(64, 10, 64, 1, key=jr.key(0))
    for name, make, rate in ("FedAvg", fed_avg, 0.3), ("FedLin", fed_lin, 3.0):
        last = eqf.testing.run(make, num_rounds=100)[-1]
        print(f"{name}: two clients whose minimum is at -0.600 end at {last:.3f}")
        solution = eqf.train(
            make(loss, batching, rate),
            model,
            loader,
            num_rounds=30,
            key=jr.key(0),
            evaluation={"digits": writers},
            eval_every=10,
        )
        values = zip(*solution.values("digits/loss"), strict=True)
        print("  digits", *(f"  round {t}: {x:.3f}" for t, x in values))


if __name__ == "__main__":
    main()
