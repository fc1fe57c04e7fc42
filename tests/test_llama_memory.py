"""What of a Llama lies where: spread over devices, and once on each, in half precision.

No two sizes are alike, so that each array is known by its shape in a compiled program.
"""

import collections
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed._compiled import compiled
from equifed._round.step import one_round
from equifed._stepper.stepper import Stepper
from equifed.nn import adapters

from .shared import drawn


KEY = jr.key(0)
SIZES = {
    "vocab_size": 52,
    "dim": 24,
    "num_layers": 1,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_size": 10,
    "mlp_size": 36,
    "max_length": 8,
}
RNG = np.random.default_rng(0)
TEXT = RNG.integers(0, 52, (14, 9)).astype(np.int32)
DATA = eqf.data.FederatedDataset.from_arrays(
    {"x": TEXT[:, :-1], "y": TEXT[:, 1:]}, by=np.arange(14) % 4
)
BATCHING = eqf.data.Epochs(2, batch_size=2)


def loss(model, example, key):
    tokens = eqf.token_cross_entropy(model(example["x"]), example["y"])
    return tokens.total / example["y"].size


@functools.cache
def llama(dtype=jnp.float32, **changes):
    """One with adapters that have learnt something."""
    config = eqf.models.LlamaConfig(**{**SIZES, **changes})

    def make(key):
        model = eqf.models.Llama(config, dtype=dtype, key=key)
        return eqf.nn.lora(model, 3, where=lambda m: m, key=key)

    return drawn(make, 0, 0.4)


def stepper(model, mesh=None, optim=None, block_size=1, sampler=None, **roles):
    """The compiled round as `train` calls it, and its loader."""
    optim = optax.sgd(0.1) if optim is None else optim
    sampler = eqf.data.AllClients() if sampler is None else sampler
    algorithm = eqf.FedAvg(loss, optim, BATCHING, server_optim=optax.sgd(1.0, 0.9))
    loader = eqf.data.Loader(DATA, sampler, BATCHING, mesh=mesh)
    state = algorithm.init(model, num_clients=4, roles=eqf.roles(model, **roles))
    executor = eqf.Executor(block_size=block_size)
    step = Stepper(algorithm, state, key=KEY, executor=executor, mesh=loader.mesh)
    return step, loader


def program(step, cohort):
    lowered = compiled(one_round, step._fixed, step._state, donate=(1,)).lower(
        step._fixed.arrays, step._last[-1][0], cohort
    )
    return lowered.compile()


def arrays(tree):
    return [x for x in jtu.tree_leaves(tree) if eqx.is_array(x)]


def bytes_of(tree):
    """On each device."""
    count = collections.Counter()
    for x in arrays(tree):
        for shard in x.addressable_shards:
            count[shard.device] += shard.data.nbytes
    return count


def matrices(model):
    """The shapes of the base's."""
    return {x.shape for x in arrays(eqx.tree_at(adapters, model, replace_fn=jnp.size))}


def clients_and_model(clients=2, model=2):
    return jax.make_mesh((clients, model), ("clients", "model"))


WAYS = {
    "LoRA": ({}, adapters),
    "all, with remainders": (
        {"num_heads": 3, "num_kv_heads": 1, "vocab_size": 53, "tied": True},
        lambda m: m,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_spread_over_two_devices(way):
    """Two clients at a time on two devices each: the numbers of one device, with half
    of each matrix on each, and of what the server keeps of those that are trained."""
    changes, shared = WAYS[way]
    model, mesh = llama(**changes), clients_and_model()
    step, loader = stepper(model, shared=shared)
    expected, metrics = step(loader(0))
    step, loader = stepper(model.sharded(mesh), mesh, shared=shared)
    got, others = step(loader(0))
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-5)
    for x, y in zip(arrays(got.model), arrays(expected.model), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert moved(got.model, model)
    layers = jtu.tree_leaves(got.model, is_leaf=is_lora)
    for layer in filter(is_lora, layers):
        assert share(layer.base.weight) == 0.5
        assert sorted(map(share, (layer.a, layer.b))) == [0.5, 1]
    # What the server keeps of the params lies as they do.
    kept = [x for x in arrays(got.server) if x.ndim]
    for x, y in zip(kept, arrays(got.params), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


def moved(model, before):
    """Whether all adapters have."""
    pairs = zip(adapters(model), adapters(before), strict=True)
    return all(np.abs(np.asarray(x) - np.asarray(y)).max() > 1e-4 for x, y in pairs)


def is_lora(x):
    return isinstance(x, eqf.nn.LoRA)


def share(x):
    """How much of it is on a device."""
    [size] = {shard.data.size for shard in x.addressable_shards}
    return size / x.size


def test_memory_is_halved():
    model = llama()
    base = eqx.tree_at(adapters, model, replace_fn=jnp.size)
    whole = bytes_of(base)
    share = bytes_of(
        eqx.tree_at(adapters, model.sharded(clients_and_model()), replace_fn=jnp.size)
    )
    assert len(whole) == 1
    assert len(share) == 4
    norms = sum(x.nbytes for x in arrays(base) if x.ndim == 1)
    [total] = whole.values()
    assert set(share.values()) == {(total + norms) // 2}
    assert norms < 0.03 * total


def test_no_device_gathers_a_weight():
    """No array of the compiled round is a weight's, whole; nor is anything gathered."""
    model, mesh = llama(), clients_and_model()
    for spread in (False, True):
        given = model.sharded(mesh) if spread else model
        step, loader = stepper(given, mesh if spread else None, shared=adapters)
        text = program(step, loader(0)).as_text()
        found = set(re.findall(r"\w+\[([\d,]+)\]", text))
        shapes = {x for x in matrices(model) if len(x) == 2}
        whole = {s for s in shapes if ",".join(map(str, s)) in found}
        turned = {s for s in shapes if ",".join(map(str, s[::-1])) in found}
        if spread:
            assert not whole | turned
            assert "all-gather" not in text
            assert "all-reduce" in text
        else:
            assert whole == shapes  # It can be seen.


def test_a_base_in_half_precision():
    """The base stays as it is, in bfloat16 and once for all clients of a block; what is
    trained, kept and sent is of float32."""
    model = llama(jnp.bfloat16)
    kwargs = {"optim": optax.adam(1e-2), "block_size": 2, "shared": adapters}
    step, loader = stepper(model, **kwargs)
    text = str(step._trace(loader(0)))
    state, first = step(loader(0))
    state, second = step(loader(0))
    assert second["loss"] < first["loss"]
    start, base = (
        eqx.tree_at(adapters, x, replace_fn=jnp.size) for x in (model, state.model)
    )
    for x, y in zip(arrays(base), arrays(start), strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_array_equal(x, y)
    assert moved(state.model, model)
    assert {x.dtype for x in adapters(state.model)} == {jnp.dtype("float32")}
    assert {x.dtype for x in arrays(state.server)} == {jnp.dtype("float32")}
    logits = eqx.filter_eval_shape(state.model, jnp.asarray(TEXT[0, :-1]))
    assert logits.dtype == jnp.bfloat16
    for shape in matrices(model):
        sizes = ",".join(map(str, shape))
        assert f"bf16[{sizes}]" in text
        assert f"bf16[2,{sizes}]" not in text
    # Moments, changes and sums have the shapes of adapters.
    for x in adapters(model):
        sizes = ",".join(map(str, x.shape))
        assert f"f32[2,{sizes}]" in text
        assert f"bf16[2,{sizes}]" not in text
        assert f"bf16[{sizes}]" not in text


def test_the_base_does_not_grow_with_the_cohort():
    """What a compiled round takes, arguments and all, of 2 clients and of 4."""
    model = llama()
    base = sum(
        x.nbytes for x in arrays(eqx.tree_at(adapters, model, replace_fn=jnp.size))
    )
    taken = []
    for count in (2, 4):
        sampler = eqf.data.UniformSampler(count)
        step, loader = stepper(model, sampler=sampler, shared=adapters)
        memory = program(step, loader(0)).memory_analysis()
        taken.append(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    assert taken[0] > base
    assert abs(taken[1] - taken[0]) < 0.05 * base
