"""What is frozen is on each device once, however long the training and whatever is kept
beside it: no round returns it, and none is given its memory.

No two arrays of the base have one shape, nor has anything else in these trainings.
"""

import collections
import functools
import json
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed.nn import adapters, lora, lora_a, lora_b


KEY = jr.key(0)
RNG = np.random.default_rng(0)
DATA = eqf.data.FederatedDataset.from_arrays(
    {
        "x": RNG.normal(size=(24, 17)).astype(np.float32),
        "y": RNG.normal(size=(24, 19)).astype(np.float32),
    },
    by=np.arange(24) % 4,
)
SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=3)


def loss(model, example, key):
    return ((model(example["x"]) - example["y"]) ** 2).mean()


def arrays(tree):
    return [x for x in jtu.tree_leaves(tree) if eqx.is_array(x)]


def lying(shapes):
    """All arrays of these shapes."""
    return [x for x in jax.live_arrays() if x.shape in shapes and not x.is_deleted()]


def bytes_on_devices(shapes, before):
    """Of all arrays of these shapes, what lies at one place counted once, but for what
    was there before."""
    others = set(map(id, before))
    places = {
        (shard.device, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for x in lying(shapes)
        if id(x) not in others
        for shard in x.addressable_shards
    }
    count = collections.Counter()
    for (device, _), size in places.items():
        count[device] += size
    return dict(count)


class Watch(eqf.AbstractLogger):
    """Looks after each call."""

    def __init__(self, shapes, before):
        self.about, self.seen = (shapes, before), []

    def start(self, num_rounds, first_round):
        pass

    def log(self, round, metrics):
        self.seen.append(bytes_on_devices(*self.about))

    def close(self):
        pass


@functools.cache
def mlp():
    return lora(eqx.nn.MLP(17, 19, 31, 1, key=KEY), 2, where=lambda m: m, key=KEY)


@functools.cache
def linear():
    return lora(eqx.nn.Linear(17, 19, key=KEY), 2, key=KEY)


STOP = eqf.Target("all/loss", -1.0, mode="min")
# What is done on one device is done on two, but for where things are put.
TRAININGS = {
    "one device": (1, eqf.FedAvg, {}),
    "the block is found": (1, eqf.FedAvg, {"executor": "auto"}),
    "personal": (1, eqf.FedPer, {}),
    "two devices, several rounds a call": (2, eqf.FedAvg, {"rounds_per_call": 2}),
    "two devices, in order": (2, eqf.FedAvg, {"executor": "ordered"}),
    "the best is kept": (2, eqf.FedAvg, {"stop": STOP, "evaluation": {"all": DATA}}),
}
EXECUTORS = {
    "auto": {"block_size": "auto"},
    "ordered": {"ordered": True},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_base_is_on_each_device_once(name, tmp_path):
    count, make, kwargs = TRAININGS[name]
    kwargs: dict[str, Any] = {"eval_every": 1, **kwargs}
    if "executor" in kwargs:
        kwargs["executor"] = eqf.Executor(**EXECUTORS[kwargs["executor"]])
    if "stop" in kwargs:
        kwargs["checkpointer"] = eqf.Checkpointer(tmp_path)
    model = mlp()
    kinds = {"shared": adapters}
    if make is eqf.FedPer:
        kinds = {"shared": lora_a, "personal": lora_b}
    roles = eqf.roles(model, **kinds)
    *_, base = roles.split(model)
    shapes, size = {x.shape for x in arrays(base)}, sum(x.nbytes for x in arrays(base))
    # Other tests may have left arrays of such shapes; to look for garbage takes long.
    ours = set(map(id, arrays(base)))
    before = [x for x in lying(shapes) if id(x) not in ours]
    mesh = jax.make_mesh((count,), ("clients",), devices=jax.devices()[:count])
    loader = eqf.data.Loader(
        DATA, eqf.data.AllClients(), BATCHING, mesh=mesh if count > 1 else None
    )
    once = dict.fromkeys(jax.devices()[:count], size)
    watch = Watch(shapes, before)
    solution = eqf.train(
        make(loss, optax.adam(1e-2), BATCHING),
        model,
        loader,
        num_rounds=4,
        key=KEY,
        roles=roles,
        logger=watch,
        **kwargs,
    )
    assert watch.seen == [once] * 4
    assert bytes_on_devices(shapes, before) == once
    # The trained one is another, and the user's is as it was.
    for x, y in zip(lora_a(solution.model), lora_a(model), strict=True):
        assert np.abs(x - y).max() > 1e-4
    *_, after = roles.split(solution.model)
    for x, y in zip(arrays(after), arrays(base), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_best_model_goes_on_without_its_base(tmp_path):
    """What a checkpoint has of the best model is what was trained; resumed, it is on
    the base that there is."""
    model = linear()
    kwargs: Any = {
        "key": KEY,
        "roles": eqf.roles(model, shared=adapters),
        "evaluation": {"all": DATA},
        "eval_every": 1,
        # The first round's is the largest.
        "stop": eqf.Patience("all/loss", rounds=9, mode="max"),
    }
    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
    whole = eqf.train(algorithm, model, loader, num_rounds=3, **kwargs)
    assert whole.best_round == 1
    kwargs["checkpointer"] = eqf.Checkpointer(tmp_path)
    eqf.train(algorithm, model, loader, num_rounds=2, **kwargs)
    (about,) = (json.loads(x.read_text()) for x in tmp_path.glob("*/leaves.json"))
    paths = {path for path, *_ in about["leaves"]}
    assert {x for x in paths if x.startswith(".best")} == {".best.a", ".best.b"}
    resumed = eqf.train(algorithm, model, loader, num_rounds=3, **kwargs)
    assert resumed.best_round == 1
    assert eqx.tree_equal(resumed.model, whole.model)
    assert not eqx.tree_equal(resumed.model, resumed.state.model)
    assert resumed.model.base.weight is model.base.weight


def test_a_round_is_given_what_is_frozen_and_returns_what_is_trained():
    model = linear()
    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    roles = eqf.roles(model, shared=adapters)
    state = algorithm.init(model, num_clients=4, roles=roles)
    assert state.rest.base.weight is model.base.weight
    assert state.params.a is not model.a
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
    after, _ = algorithm.round(state, loader(0), key=KEY)
    assert after.rest.base.weight is model.base.weight
    for later, _ in eqf.rounds(algorithm, after, loader, num_rounds=3, key=KEY):
        assert later.rest.base.weight is model.base.weight
    # What a round used up is not the base.
    assert not model.base.weight.is_deleted()
    assert not after.params.a.is_deleted()


def test_a_frozen_array_that_is_deleted_is_not_said_to_be_used_up():
    model = lora(eqx.nn.Linear(17, 19, key=KEY), 2, key=KEY)
    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    roles = eqf.roles(model, shared=adapters)
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
    state = algorithm.init(model, num_clients=4, roles=roles)
    model.base.weight.delete()
    for use in (
        lambda: algorithm.round(state, loader(0), key=KEY),
        lambda: eqf.rounds(algorithm, state, loader, num_rounds=1, key=KEY),
    ):
        with pytest.raises(ValueError, match=r"`state\.rest\.base\.weight` is frozen"):
            use()
    state.params.a.delete()
    with pytest.raises(ValueError, match=r"`state\.params\.a` was used up by the next"):
        algorithm.round(state, loader(0), key=KEY)
