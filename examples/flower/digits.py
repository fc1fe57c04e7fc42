"""Writers of digits, each a client of its own: a Flower app.

`python examples/flower/run.py` starts a superlink and two supernodes on this machine,
runs the app on them, and ends them.
"""

import equinox as eqx
import jax.random as jr
import optax

import equifed as eqf
from equifed import deploy
from equifed.deploy import flower


NUM_CLIENTS = 2


def loss(model, example, key):
    logits = model(example["image"].reshape(-1).astype(float) / 16)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def data(node):
    """A client's examples. On a host of its own, those that lie there."""
    train, _ = eqf.data.digits().split_examples(0.2, seed=0)
    return train.client(node["partition-id"])


def test_data(node):
    _, test = eqf.data.digits().split_examples(0.2, seed=0)
    return test.client(node["partition-id"])


model = eqx.nn.MLP(64, 10, 32, 1, key=jr.key(0))
algorithm = eqf.Scaffold(
    loss, optax.sgd(0.1), eqf.data.Epochs(5, batch_size=16), server_optim=optax.sgd(1.0)
)


def make_server(config):
    checkpoints, output = config["checkpoints"], config["output"]

    def on_end(model, history):
        if output:
            eqx.tree_serialise_leaves(output, model)

    return deploy.Server(
        algorithm,
        model,
        eqf.data.AllClients(),
        num_clients=NUM_CLIENTS,
        num_rounds=config["rounds"],
        key=jr.key(1),
        evaluate_every=1,
        checkpointer=eqf.Checkpointer(checkpoints, every=1) if checkpoints else None,
        logger=eqf.Table(every=1),
        on_end=on_end,
    )


client = flower.client_app(deploy.Client(algorithm, model, data, test_data=test_data))
server = flower.server_app(make_server)
