"""All ways to compute a convolution agree, in values and in gradients, in float64.

The reference is Equinox's layer, whose gradients are JAX's own.
"""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AxisType, PartitionSpec as P

from equifed.nn import Conv2d
from equifed.nn._lowering import grouped, im2col, one_by_one

from .shared import drawn


LOWERINGS = ["auto", "grouped", "one-by-one", "im2col"]
WAYS = [grouped, im2col, one_by_one]
CLIENTS, EXAMPLES = 3, 2
# Arguments of a layer that takes 4 channels, of an image of 9 x 10 pixels.
convs = {
    "plain": {"kernel_size": 3},
    "first-layer": {"kernel_size": 3, "groups": 4, "use_bias": False},
    "pointwise": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "stride": (2, 3), "padding": "SAME"},
    "cropped": {"kernel_size": 2, "padding": ((-1, 1), (0, -2))},
    "all-at-once": {
        "kernel_size": (3, 2),
        "stride": (3, 2),
        "padding": 2,
        "dilation": (2, 3),
        "groups": 2,
    },
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):  # noqa: FBT003
        yield


def _assert_close(ours, theirs):
    ours, theirs = jtu.tree_leaves(ours), jtu.tree_leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def _one_loss(layer, x):
    return jnp.sum(jnp.sin(layer(x)))


def _total(layer, x):
    """Of one client's images, and what the layer makes of them."""
    out = jax.vmap(layer)(x)
    return jnp.sum(jnp.sin(out)), out


def _vmap_grad(layers, x):
    """The gradients of each client's sum over its examples, and the values."""

    def client(both):
        return _total(*both)

    grads, values = eqx.filter_vmap(eqx.filter_grad(client, has_aux=True))((layers, x))
    return *grads, values


def _grad_vmap(layers, x):
    """The gradients of the sum over all clients."""

    def total(both):
        return jnp.sum(eqx.filter_vmap(lambda *args: _total(*args)[0])(*both))

    return eqx.filter_grad(total)((layers, x))


def _vmap_vmap_grad(layers, x):
    """The gradient of each example, for each client."""
    each = eqx.filter_vmap(eqx.filter_grad(_one_loss), in_axes=(None, 0))
    return eqx.filter_vmap(each)(layers, x)


def _local_steps(layers, x):
    """A few steps of gradient descent at each client, in a compiled loop."""

    def client(layer, x):
        params, static = eqx.partition(layer, eqx.is_inexact_array)

        def body(_, params):
            grads = jax.grad(
                lambda p: jnp.mean(
                    jax.vmap(lambda x: _one_loss(eqx.combine(p, static), x))(x)
                )
            )(params)
            return jtu.tree_map(lambda p, g: p - 0.1 * g, params, grads)

        return jax.lax.fori_loop(0, 3, body, params)

    return eqx.filter_vmap(client)(layers, x)


transforms = {
    "vmap-grad": _vmap_grad,
    "grad-vmap": _grad_vmap,
    "vmap-vmap-grad": _vmap_vmap_grad,
    "local-steps": _local_steps,
}
# A loop differentiates as what is no loop does: two convolutions are enough for it.
LOOPED = ("plain", "all-at-once")


class _First(eqx.Module):
    """Equinox's layer on images whose channels are last."""

    conv: eqx.nn.Conv2d

    def __call__(self, x):
        return jnp.moveaxis(self.conv(jnp.moveaxis(x, -1, 0)), 0, -1)


@cache
def _equinox(name):
    """Equinox's layer, one for each client, and images of each."""

    def make(key):
        keys = jr.split(key, CLIENTS)
        return eqx.filter_vmap(lambda k: eqx.nn.Conv2d(4, 8, **convs[name], key=k))(
            keys
        )

    images = np.random.default_rng(0).normal(size=(CLIENTS, EXAMPLES, 9, 10, 4))
    return drawn(make, 0, 0.2), images


def _ours(layers, lowering):
    return eqx.filter_vmap(lambda conv: Conv2d.from_equinox(conv, lowering=lowering))(
        layers
    )


def _in_our_layout(tree):
    """Their gradients, with weights and biases as we store them."""

    def convert(x):
        if not isinstance(x, _First):
            return x
        weight, bias = x.conv.weight, x.conv.bias
        weight = np.moveaxis(np.asarray(weight), (-2, -1, -3, -4), (-4, -3, -2, -1))
        return weight, None if bias is None else bias[..., 0, 0]

    return jtu.tree_map(convert, tree, is_leaf=lambda x: isinstance(x, _First))


@cache
def _program(name):
    """Equinox's values and gradients, of each example for each client."""

    def each(layer, x):
        def loss(both):
            layer, x = both
            out = layer(x)
            return jnp.sum(jnp.sin(out)), out

        (grads, images), out = eqx.filter_grad(loss, has_aux=True)((layer, x))
        return grads, images, out

    over = eqx.filter_vmap(eqx.filter_vmap(each, in_axes=(None, 0)))
    return eqx.filter_jit(lambda layers, x: over(_First(layers), x))


@cache
def _expected(name):
    """What any transformation must give is arithmetic on one program's results."""
    layers, x = _equinox(name)
    grads, images, values = _program(name)(layers, x)
    each = _in_our_layout(grads)
    summed = jtu.tree_map(lambda g: np.sum(g, 1), each)

    def step(layers):
        (grads, _, _) = _program(name)(layers, x)
        new = [
            a - 0.1 * np.mean(g, 1)
            for a, g in zip(_leaves(layers), _leaves(grads), strict=True)
        ]
        return jtu.tree_unflatten(jtu.tree_structure(layers), new)

    for _ in range(3 * (name in LOOPED)):
        layers = step(layers)
    return {
        "vmap-grad": (summed, images, values),
        "grad-vmap": (summed, images),
        "vmap-vmap-grad": each,
        "local-steps": _in_our_layout(_First(layers)),
    }


def _leaves(tree):
    return [np.asarray(x) for x in jtu.tree_leaves(tree)]


@cache
def _found(name):
    """What each transformation gives of each way, in one program."""
    names = [n for n in transforms if n != "local-steps" or name in LOOPED]

    @eqx.filter_jit
    def run(theirs, x):
        layers = [_ours(theirs, lowering) for lowering in LOWERINGS[1:]]
        return {n: [transforms[n](layer, x) for layer in layers] for n in names}

    return run(*_equinox(name))


@pytest.mark.parametrize(
    ("name", "transform"),
    [(n, t) for n in convs for t in transforms if t != "local-steps" or n in LOOPED],
)
def test_agrees_with_equinox(name, transform):
    for ours in _found(name)[transform]:
        _assert_close(ours, _expected(name)[transform])


@pytest.mark.parametrize("lowering", ["auto", "grouped", "im2col"])
def test_without_jit(lowering):
    """Here "auto" is "one-by-one"."""
    layers, x = _equinox("plain")
    found = _vmap_grad(_ours(layers, lowering), jnp.asarray(x))
    _assert_close(found, _expected("plain")["vmap-grad"])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(
        st.tuples(st.integers(-1, 3), st.integers(0, 3)),
        st.tuples(st.integers(0, 3), st.integers(-1, 3)),
    ),
    x_dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    kernel_dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.integers(2, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 3)),
)
def test_any_shape(size, kernel_size, groups, channels, **params):
    with jax.enable_x64(True):  # noqa: FBT003
        in_channels, out_channels = channels
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, *size, groups * in_channels))
        kernel = rng.normal(size=(*kernel_size, in_channels, groups * out_channels))
        ways = [partial(way, groups=groups, **params) for way in WAYS]
        if 0 in jax.eval_shape(ways[0], x, kernel).shape:
            return
        expected, *others = jax.jit(lambda *args: [way(*args) for way in ways])(
            x, kernel
        )
        for other in others:
            _assert_close(other, expected)


def _text(lowering):
    layers, x = _equinox("plain")
    params, static = eqx.partition(_ours(layers, lowering), eqx.is_inexact_array)

    def f(params, x):
        grads = _vmap_grad(eqx.combine(params, static), x)[0]
        return eqx.filter(grads, eqx.is_array)

    return jax.jit(f).lower(params, x).as_text()


def test_each_way_is_the_one_asked_for():
    # Gradients included: the choice is handed on to them.
    counts = {}
    for lowering in LOWERINGS:
        text = _text(lowering)
        convolutions = [s for s in text.splitlines() if "stablehlo.convolution(" in s]
        plain = sum("feature_group_count = 1 " in s for s in convolutions)
        several = len(convolutions) - plain
        counts[lowering] = plain, several, text.count("stablehlo.dot_general")
    # The value's convolution, and the kernel's gradient; those of the images are not
    # needed.
    assert counts["grouped"] == (0, 2, 0)
    assert counts["one-by-one"] == counts["auto"] == (2, 0, 0)
    assert counts["im2col"] == (0, 0, 2)


@pytest.mark.parametrize("lowering", LOWERINGS[1:])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma, lowering):
    layers, x = _equinox("plain")
    layers = _ours(layers, lowering)
    params, static = eqx.partition(layers, eqx.is_inexact_array)
    # One more, for two devices: the first client once again.
    params, x = jtu.tree_map(lambda x: np.concatenate([x, x[:1]]), (params, x))
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def f(params, x):
        return _local_steps(eqx.combine(params, static), x)

    sharded = jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(P("clients"), P("clients")),
        out_specs=P("clients"),
        check_vma=check_vma,
    )
    expected = _expected("plain")["local-steps"]
    got = jtu.tree_leaves(jax.jit(sharded)(params, x))
    _assert_close([x[:CLIENTS] for x in got], expected)
    _assert_close([x[CLIENTS] for x in got], [x[0] for x in got])


def test_without_examples():
    x, kernel = np.ones((0, 5, 5, 4)), np.ones((3, 3, 2, 6))
    params = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 2}
    params |= {"x_dilation": (1, 1), "kernel_dilation": (1, 1)}
    for out in jax.jit(lambda *args: [way(*args, **params) for way in WAYS])(x, kernel):
        assert out.shape == (0, 3, 3, 6)


def test_it_is_part_of_the_layer(getkey):
    layer = Conv2d(1, 2, 3, lowering="im2col", key=getkey())
    assert layer.lowering == "im2col"
    assert "im2col" in repr(layer)
    with pytest.raises(Exception, match="lowering"):
        Conv2d(1, 2, 3, lowering="fast", key=getkey())  # pyright: ignore
