"""Bad inputs of a deployment, of what is known before a message is sent. (What clients
and nodes get wrong is in `test_deployed.py`.)"""

import numpy as np

import equifed as eqf
from equifed import deploy

from .compression import count
from .parts import wrong_parts
from .shared import BATCHING, fresh_loss, KEY, MODEL, SGD


def fedavg():
    return eqf.FedAvg(fresh_loss(), SGD, BATCHING)


def data(node):
    return {}


def client(algorithm=None, data=data, **kwargs):
    return deploy.Client(algorithm or fedavg(), MODEL, data, **kwargs)


def server(sampler=None, algorithm=None, **kwargs):
    kwargs = {"num_clients": 4, "num_rounds": 3, "key": KEY, **kwargs}
    sampler = eqf.data.AllClients() if sampler is None else sampler
    return deploy.Server(algorithm or fedavg(), MODEL, sampler, **kwargs)


class Others(eqf.data.AbstractSampler):
    seed: int = 0

    def __call__(self, round, num_clients):
        return np.array([num_clients])

    def max_clients(self, num_clients):
        return 1


TABLE = {
    "deploy.Client": {
        **wrong_parts(
            lambda x: deploy.Client(x, MODEL, data), "algorithm", example=eqf.FedAvg
        ),
        "examples for a function": (
            lambda: client(data={"x": [1.0]}),
            TypeError,
            "`data` must be",
        ),
        "test data for a function": (
            lambda: client(test_data=0),
            TypeError,
            "`test_data` must be",
        ),
    },
    "deploy.Server": {
        **count(lambda x: server(num_clients=x), "num_clients"),
        **count(lambda x: server(num_rounds=x), "num_rounds", 0),
        **count(lambda x: server(evaluate_every=x), "evaluate_every", 0),
        **count(lambda x: server(min_clients=x), "min_clients"),
        "more than there are": (
            lambda: server(min_clients=5),
            ValueError,
            "`min_clients` must be at most 4",
        ),
        "too large a cohort": (
            lambda: server(eqf.data.UniformSampler(5)),
            ValueError,
            "`cohort_size` is 5, but the population has only 4 clients",
        ),
        "a sampler of others": (
            lambda: server(Others()),
            ValueError,
            "`Others` drew client number 4 in round 0, but they go from 0 to 3",
        ),
        "no patience": (
            lambda: server(patience=-1.0),
            ValueError,
            "`patience` must be at least 0",
        ),
        "a class for a sampler": (
            lambda: server(eqf.data.AllClients),
            TypeError,
            ("`sampler`", "AllClients()"),
        ),
        "a number for a key": (lambda: server(key=0), TypeError, "`key`"),
        "a path for a checkpointer": (
            lambda: server(checkpointer="runs"),
            TypeError,
            "`checkpointer`",
        ),
        "an asynchronous algorithm": (
            lambda: server(
                algorithm=eqf.FedBuff(fresh_loss(), SGD, BATCHING, max_staleness=2)
            ),
            ValueError,
            "`FedBuff` is asynchronous",
        ),
        "an asynchronous algorithm over rounds": (
            lambda: server(
                algorithm=eqf.OverRounds(
                    lambda t: eqf.FedBuff(fresh_loss(), SGD, BATCHING, max_staleness=2)
                )
            ),
            ValueError,
            "`FedBuff` is asynchronous",
        ),
        "several models to evaluate": (
            lambda: server(
                algorithm=eqf.IFCA(fresh_loss(), SGD, BATCHING, num_clusters=2),
                evaluate_every=1,
            ),
            ValueError,
            ("`IFCA` trains several models", "Leave `evaluate_every` out"),
        ),
    },
    "deploy.flower.client_app": {
        "a server": (
            lambda: deploy.flower.client_app(server()),
            TypeError,
            "`client` must be",
        ),
    },
    "deploy.flower.server_app": {
        "a client": (
            lambda: deploy.flower.server_app(client()),
            TypeError,
            "`server` must be",
        ),
        "no time": (
            lambda: deploy.flower.server_app(server(), timeout=0.0),
            ValueError,
            "`timeout` must be more than 0",
        ),
    },
    "deploy.nvflare.answer": {
        "a server": (
            lambda: deploy.nvflare.answer(server(), {"partition-id": 0}),
            TypeError,
            "`client` must be",
        ),
    },
    "deploy.nvflare.serve": {
        "a client": (
            lambda: deploy.nvflare.serve(None, client()),
            TypeError,
            "`server` must be",
        ),
        "no time": (
            lambda: deploy.nvflare.serve(None, server(), timeout=0.0),
            ValueError,
            "`timeout` must be more than 0",
        ),
    },
}
