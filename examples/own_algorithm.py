"""An algorithm of one's own: FedExP, from outside the package.

FedExP (Jhunjhunwala et al., 2023, arXiv 2301.09604) is FedAvg whose server steps
further when the clients disagree: with M clients, it scales their mean change by

    max(1, sum_i ||delta_i||^2 / (2 M (||mean delta||^2 + eps))).

So the client sends the squared norm of its change beside it, and the server uses their
mean. Everything between the two rulers is the algorithm; below it is put through the
library's laws, and against FedAvg.

    python examples/own_algorithm.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf


# ----------------------------------------------------------------------------------
def square_norm(tree):
    return sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))


class SendsNorm(eqf.AbstractClient):
    client: eqf.LocalSGD
    loss = property(lambda self: self.client.loss)
    batching = property(lambda self: self.client.batching)

    def init(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        message, state, metrics = self.client.round(broadcast, data, state, key=key)
        norm = square_norm(message.payload)
        return eqf.Message(message.payload, message.weight, norm), state, metrics


class Extrapolates(eqf.AbstractServer):
    eps: jax.Array = eqx.field(converter=eqf.floating)

    def init(self, params, *, num_clients):
        return None

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state):
        mean = square_norm(aggregate.payload)
        scale = jnp.maximum(1, aggregate.stats / (2 * (mean + self.eps)))
        return jax.tree.map(lambda p, d: p + scale * d, params, aggregate.payload), None


def fed_exp(loss, batching, learning_rate=0.1, eps=1e-3):
    client = SendsNorm(eqf.LocalSGD(loss, optax.sgd(learning_rate), batching))
    return eqf.Algorithm(client, eqf.UniformMean(), Extrapolates(eps))


# ----------------------------------------------------------------------------------
def loss(model, example, key):
    logits = model(example["image"].reshape(-1).astype(jnp.float32) / 16)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def main():
    eqf.testing.check_laws(fed_exp)
    print("FedExP obeys all laws:", ", ".join(eqf.testing.LAWS))

    batching = eqf.data.Epochs(1, batch_size=16)
    writers = eqf.data.digits()
    loader = eqf.data.Loader(writers, eqf.data.UniformSampler(7, seed=0), batching)
    model = eqx.nn.MLP(64, 10, 64, 1, key=jr.key(0))
    fed_avg = eqf.FedAvg(loss, optax.sgd(0.1), batching, aggregator=eqf.UniformMean())
    for name, algorithm in {
        "FedAvg": fed_avg,
        "FedExP": fed_exp(loss, batching),
    }.items():
        solution = eqf.train(algorithm, model, loader, num_rounds=30, key=jr.key(0))
        rounds, losses = solution.values("loss")
        row = "  ".join(
            f"round {rounds[i]:2}: {losses[i]:.3f}" for i in (0, 4, 9, 19, 29)
        )
        print(f"{name}  training loss  {row}")


if __name__ == "__main__":
    main()
