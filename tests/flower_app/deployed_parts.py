"""A federation of two clients, by any of three methods, whatever carries its messages;
as a program, simulated.
"""

import os
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
from equifed import deploy


SIZES = (13, 6)
BATCHING = eqf.data.Epochs(2, batch_size=4)
KEY = jr.key(1)
SGD = optax.sgd(0.1, momentum=0.9)


class Model(eqx.Module):
    layers: list

    def __init__(self):
        one, two = jr.split(jr.key(0))
        self.layers = [eqx.nn.Linear(4, 8, key=one), eqx.nn.Linear(8, 3, key=two)]

    def __call__(self, x):
        return self.layers[1](jnp.tanh(self.layers[0](x)))


def loss(model, example, key):
    logits = model(example["x"] + 0.01 * jr.normal(key, example["x"].shape))
    return jax.nn.logsumexp(logits) - logits[example["y"]]


METHODS = {
    "FedAvg": lambda: eqf.FedAvg(loss, SGD, BATCHING),
    "Scaffold": lambda: eqf.Scaffold(loss, SGD, BATCHING),
    "FedAdam": lambda: eqf.FedAdam(loss, SGD, BATCHING),
}


def examples_of(client):
    rng = np.random.default_rng(client)
    x = rng.normal(size=(SIZES[client], 4)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 3, SIZES[client]).astype(np.int32)}


def save(output, model, history):
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    rows = {n: [row[n] for row in history] for n in ("loss", "clients")}
    dropped = [row.get("dropped", 0) for row in history]
    unfinished = pathlib.Path(output).with_suffix(".unfinished.npz")
    np.savez(unfinished, *arrays, allow_pickle=False, dropped=dropped, **rows)
    unfinished.replace(output)


def make_client(config):
    method = METHODS[config["method"]]()
    return deploy.Client(
        method, Model(), lambda node: examples_of(node["partition-id"])
    )


def make_server(config):
    output, checkpoints = config["output"], config["checkpoints"]
    pathlib.Path(output).with_suffix(".pid").write_text(str(os.getpid()))
    return deploy.Server(
        METHODS[config["method"]](),
        Model(),
        eqf.data.AllClients(),
        num_clients=2,
        num_rounds=config["rounds"],
        key=KEY,
        checkpointer=eqf.Checkpointer(checkpoints, every=1) if checkpoints else None,
        logger=eqf.JSONLines(pathlib.Path(output).with_suffix(".jsonl")),
        on_end=lambda model, history: save(output, model, history),
    )


if __name__ == "__main__":
    name, path = sys.argv[1:]
    clients = {str(i): examples_of(i) for i in range(len(SIZES))}
    loader = eqf.data.Loader(
        eqf.data.FederatedDataset.from_mapping(clients),
        eqf.data.AllClients(),
        BATCHING,
    )
    solution = eqf.train(
        METHODS[name](),
        Model(),
        loader,
        num_rounds=3,
        key=KEY,
        executor=eqf.Executor(ordered=True),
    )
    save(path, solution.model, solution.history)
