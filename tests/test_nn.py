"""The layers of `equifed.nn` compute what Equinox's do, with the channels last.

Everything is compared in float64: another convolution kernel adds up in another order.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AxisType, PartitionSpec as P
from jaxtyping import TypeCheckError

from equifed.nn import AvgPool2d, Conv2d, MaxPool2d

from .shared import descent, drawn, over_two_devices


# in_channels, out_channels, kernel_size, then keyword options.
convs = {
    "plain": (3, 4, 3, {}),
    "rectangular": (2, 3, (3, 2), {"use_bias": False}),
    "pointwise": (3, 2, 1, {}),
    "strided": (2, 4, 3, {"stride": (2, 3)}),
    "strided-same": (2, 4, 3, {"stride": 2, "padding": "SAME"}),
    "same-lower": (2, 4, 2, {"padding": "SAME_LOWER"}),
    "valid": (2, 4, 2, {"padding": "VALID"}),
    "padded": (2, 4, 3, {"padding": 1}),
    "padded-wide": (2, 4, 2, {"padding": (4, 3)}),
    "padded-pairs": (2, 4, 3, {"padding": ((1, 2), (0, 3))}),
    "cropped": (2, 4, 2, {"padding": ((-1, 1), (0, -2))}),
    "dilated": (2, 4, 3, {"dilation": (2, 1)}),
    "groups": (4, 6, 3, {"groups": 2}),
    "depthwise": (4, 8, 2, {"groups": 4, "padding": "SAME"}),
    "all-at-once": (
        4,
        6,
        (3, 2),
        {"stride": (3, 2), "padding": 2, "dilation": (2, 3), "groups": 2},
    ),
}
few = ["plain", "all-at-once"]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):  # noqa: FBT003
        yield


CLIENTS, EXAMPLES = 4, 2


@functools.cache
def _all_layers():
    @eqx.filter_jit
    def make(key):
        return {
            name: [of(*args, **options, key=key) for of in (Conv2d, eqx.nn.Conv2d)]
            for name, (*args, options) in convs.items()
        }

    return make(jr.key(0))


def _layers(name) -> Any:
    """The layers of both libraries, made with the same key."""
    return _all_layers()[name]


def _first(x):
    """Images with the channels in front, as in Equinox."""
    return jnp.moveaxis(x, -1, -3)


def _last(x):
    return jnp.moveaxis(x, -3, -1)


def _with_params(layer, params):
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        layer,
        params,
        is_leaf=lambda x: x is None,
    )


class _Pair:
    """The same function of (weight, bias, x) by either library, in our layout."""

    def __init__(self, name):
        ours, theirs = _layers(name)
        self.in_channels = ours.in_channels
        self.params = (ours.weight, ours.bias)

        def our_conv(params, x):
            return _with_params(ours, params)(x)

        def their_conv(params, x):
            weight, bias = params
            weight = jnp.transpose(weight, (3, 2, 0, 1))
            bias = None if bias is None else bias[:, None, None]
            return _last(_with_params(theirs, (weight, bias))(_first(x)))

        self.convs = (our_conv, their_conv)

    def losses(self):
        return tuple(
            lambda params, x, conv=conv: jnp.sum(jnp.sin(conv(params, x)))
            for conv in self.convs
        )

    def image(self, *batch):
        rng = np.random.default_rng(0)
        return rng.normal(size=(*batch, 9, 10, self.in_channels))

    def clients(self):
        """These parameters, and those of three clients who are elsewhere."""
        rng = np.random.default_rng(1)

        def of_all(x):
            others = rng.normal(size=(CLIENTS - 1, *x.shape))
            return np.concatenate([np.asarray(x)[None], others])

        return jtu.tree_map(of_all, self.params)


def _assert_close(ours, theirs):
    assert jtu.tree_structure(ours) == jtu.tree_structure(theirs)
    for a, b in zip(jtu.tree_leaves(ours), jtu.tree_leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def _assert_same(transform, functions, *args):
    """`transform(f)(*args)`, compiled, is the same for both functions."""
    both = [transform(function) for function in functions]
    ours, theirs = jax.jit(lambda *args: [f(*args) for f in both])(*args)
    _assert_close(ours, theirs)


@functools.cache
def _values_and_gradients():
    """By either library, of every convolution; in one program."""
    pairs = {name: _Pair(name) for name in convs}

    def of(conv):
        def loss(params, x):
            out = conv(params, x)
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(loss, (0, 1), has_aux=True)

    @jax.jit
    def run(args):
        return {n: [of(f)(*args[n]) for f in pair.convs] for n, pair in pairs.items()}

    return run({name: (pair.params, pair.image()) for name, pair in pairs.items()})


@pytest.mark.parametrize("name", convs)
def test_same_key_same_layer(name):
    ours, theirs = _layers(name)
    (_, mine), (_, reference) = _values_and_gradients()[name]
    _assert_close(mine, reference)
    assert (ours.bias is None) == (theirs.bias is None)


@pytest.mark.parametrize("name", few)
def test_not_compiled_as_a_whole(name):
    ours, _ = _layers(name)
    expected = _values_and_gradients()[name][1][1]
    _assert_close(ours(jnp.asarray(_Pair(name).image())), expected)


@pytest.mark.parametrize("name", convs)
def test_gradients(name):
    (ours, _), (theirs, _) = _values_and_gradients()[name]
    _assert_close(ours, theirs)


def _sum_over(axes):
    def transform(f):
        return jax.grad(lambda *args: jnp.sum(jax.vmap(f, axes)(*args)), (0, 1))

    return transform


def _cos(args):
    return jtu.tree_map(jnp.cos, args)


def _jvp(f):
    return lambda *args: jax.jvp(f, args, _cos(args))


def _grad_of_grad(f):
    def inner(params, x):
        grads = jax.grad(f, (0, 1))(params, x)
        return sum(jnp.sum(jnp.square(g)) for g in jtu.tree_leaves(grads))

    return jax.grad(inner, (0, 1))


transforms = {
    "linearize": lambda f: lambda *a: jax.linearize(f, *a)[1](*_cos(a)),
    "grad-of-grad": _grad_of_grad,
    "hessian-vector": lambda f: _jvp(jax.grad(f, (0, 1))),
    "remat": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "grad-vmap": _sum_over((None, 0)),
    "vmap-last": lambda f: jax.vmap(jax.grad(f), (None, 0), -1),
    "vmap-jvp": lambda f: jax.vmap(_jvp(f), (None, 0)),
    "vmap-grad-of-grad": lambda f: jax.vmap(_grad_of_grad(f), (None, 0)),
    "kernels-grad-vmap": _sum_over((0, None)),
    "kernels-vmap-grad": lambda f: jax.vmap(jax.grad(f, (0, 1)), (0, None)),
    "clients-grad-vmap": lambda f: jax.vmap(_sum_over((None, 0))(f)),
    "clients-vmap-grad": lambda f: jax.vmap(jax.vmap(jax.grad(f, (0, 1)), (None, 0))),
    "clients-loop": lambda f: jax.vmap(descent(f)),
}


def _args(name, pair):
    """One client or all of them, one image or all of them."""
    params, x = pair.clients(), pair.image(CLIENTS, EXAMPLES)
    if not name.startswith(("kernels", "clients")):
        params, x = jtu.tree_map(lambda a: a[0], (params, x))
    if name.startswith("kernels"):
        x = x[0, 0]
    elif "vmap" not in name and "loop" not in name and "last" not in name:
        x = x[0]
    return params, x


@functools.cache
def _found(name):
    pair = _Pair(name)
    loss = pair.losses()[0]
    args = {key: _args(key, pair) for key in transforms}

    @jax.jit
    def run(args):
        return {key: of(loss)(*args[key]) for key, of in transforms.items()}

    return jax.device_get(run(args))


@functools.cache
def _their_program(name):
    loss = _Pair(name).losses()[1]

    def each(params, x, direction):
        grad = jax.value_and_grad(loss, (0, 1))
        (value, grads), (_, curved) = jax.jvp(grad, (params, x), direction)
        return value, grads, curved

    return jax.jit(jax.vmap(jax.vmap(each, (None, 0, 0))))


def _truth(name, params, x, direction=None):
    """Equinox's losses, gradients and products with the Hessian, of each client and
    image.

    What any transformation must give is arithmetic on these: they are compiled once.
    """
    if direction is None:
        direction = jtu.tree_map(np.zeros_like, (_each(params), x))
    return jax.device_get(_their_program(name)(params, x, direction))


def _each(params):
    """The parameters of each client, once for each image."""
    return jtu.tree_map(lambda p: np.stack([p] * EXAMPLES, 1), params)


def _descent(name, params, x):
    """Where `descent` must end."""
    for _ in range(3):
        grads = _truth(name, params, x)[1][0]
        params = jtu.tree_map(lambda p, g: p - 0.1 * g.mean(1), params, grads)
    return params


@functools.cache
def _expected(name):
    pair = _Pair(name)
    params, x = pair.clients(), pair.image(CLIENTS, EXAMPLES)
    cos = jtu.tree_map(np.cos, (_each(params), x))
    values, grads, along = _truth(name, params, x, cos)
    curved = jtu.tree_map(lambda h: 2 * h, _truth(name, params, x, grads)[2])
    # The kernels of each client on the first image of the first.
    kernels = _truth(name, params, np.broadcast_to(x[:1, :1], x.shape))[1]
    kernels = jtu.tree_map(lambda g: g[:, 0], kernels)
    pairs = zip(jtu.tree_leaves(grads), jtu.tree_leaves(cos), strict=True)
    changes: Any = sum(
        np.sum((g * c).reshape(CLIENTS, EXAMPLES, -1), 2) for g, c in pairs
    )

    def at(tree, *index):
        return jtu.tree_map(lambda a: a[index], tree)

    def summed(tree, axis):
        return jtu.tree_map(lambda a: a.sum(axis), tree)

    mine = at(grads, 0)
    return {
        "linearize": changes[0, 0],
        "grad-of-grad": at(curved, 0, 0),
        "hessian-vector": (at(mine, 0), at(along, 0, 0)),
        "remat": at(mine, 0),
        "grad-vmap": (summed(mine[0], 0), mine[1]),
        "vmap-last": jtu.tree_map(lambda a: np.moveaxis(a, 0, -1), mine[0]),
        "vmap-jvp": (values[0], changes[0]),
        "vmap-grad-of-grad": at(curved, 0),
        "kernels-grad-vmap": (kernels[0], summed(kernels[1], 0)),
        "kernels-vmap-grad": kernels,
        "clients-grad-vmap": (summed(grads[0], 1), grads[1]),
        "clients-vmap-grad": grads,
        "clients-loop": _descent(name, params, x),
    }


@pytest.mark.parametrize("transform", transforms)
@pytest.mark.parametrize("name", few)
def test_transformations(name, transform):
    _assert_close(_found(name)[transform], _expected(name)[transform])


@pytest.mark.parametrize("transform", ["clients-loop", "clients-vmap-grad"])
def test_every_convolution_is_canonical(transform):
    # What makes it fast: no other layout reaches the compiler, gradients included.
    pair = _Pair("strided")
    params, x = _args(transform, pair)
    f = transforms[transform](pair.losses()[0])
    text = jax.jit(f).lower(params, x).as_text()
    convolutions = [s for s in text.splitlines() if "stablehlo.convolution(" in s]
    assert len(convolutions) >= 2
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in s for s in convolutions)
    assert all("feature_group_count = 1 " in s for s in convolutions)


@pytest.mark.parametrize("name", few)
def test_jacobians(name):
    # The cotangents are batched, and the images are not.
    pair = _Pair(name)
    x = pair.image()[:7, :6]

    def both(f):
        return lambda *args: [d(f, (0, 1))(*args) for d in (jax.jacrev, jax.jacfwd)]

    _assert_same(both, pair.convs, pair.params, x)


@pytest.mark.parametrize("name", few)
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma, name):
    pair = _Pair(name)
    x = pair.image(CLIENTS, EXAMPLES)
    sharded = over_two_devices(descent(pair.losses()[0]), check_vma=check_vma)
    same = jtu.tree_map(lambda p: np.stack([p] * CLIENTS), pair.params)
    _assert_close(sharded(pair.params, x), _descent(name, same, x))


def test_shard_map_with_a_replicated_kernel():
    # The images vary over the devices and the kernel does not: its gradient is summed.
    pair = _Pair("groups")
    x = pair.image(4)
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))
    ours, theirs = pair.losses()
    sharded = jax.shard_map(
        lambda params, x: jax.grad(lambda p: jnp.sum(jax.vmap(ours, (None, 0))(p, x)))(
            params
        ),
        mesh=mesh,
        in_specs=(P(), P("clients")),
        out_specs=P(),
    )
    expected = jax.grad(lambda p: jnp.sum(jax.vmap(theirs, (None, 0))(p, x)))
    _assert_close(jax.jit(sharded)(pair.params, x), jax.jit(expected)(pair.params))


def _numpy(weight, x, stride, padding, dilation, groups):
    """The definition of a convolution of images, place by place of the kernel."""
    (low, high), (left, right) = padding
    x = np.pad(x, ((0, 0), (low, high), (left, right), (0, 0)))
    height, width, per_group, _ = weight.shape
    rows, columns = (
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(
            x.shape[1:3], dilation, (height, width), stride, strict=True
        )
    )
    out = np.zeros((len(x), rows, columns, weight.shape[3]))
    for i in range(height):
        for j in range(width):
            top, side = i * dilation[0], j * dilation[1]
            seen = x[:, top:, side:][:, :: stride[0], :: stride[1]][:, :rows, :columns]
            parts = zip(
                np.split(seen, groups, 3),
                np.split(weight[i, j], groups, 1),
                strict=True,
            )
            out = out + np.concatenate([a @ w for a, w in parts], 3)
    return out


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(
        st.tuples(st.integers(0, 4), st.integers(0, 4)),
        st.tuples(st.integers(0, 4), st.integers(0, 4)),
    ),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_any_shape(size, kernel_size, stride, padding, dilation, groups, channels):
    with jax.enable_x64(True):  # noqa: FBT003
        in_channels, out_channels = (groups * c for c in channels)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, *size, in_channels))
        args = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        layer = drawn(lambda key: Conv2d(*args, groups, key=key), 0, 1)

        @eqx.filter_jit
        @eqx.filter_value_and_grad
        def loss(layer, x):
            return jnp.sum(jnp.sin(jax.vmap(layer)(x)))

        def conv(weight, bias):
            how = (stride, padding, dilation, groups)
            return _numpy(np.asarray(weight), x, *how) + np.asarray(bias)

        value, grads = loss(layer, x)
        out = conv(layer.weight, layer.bias)
        _assert_close(value, np.sum(np.sin(out)))
        # A convolution is linear in its parameters.
        for _ in range(5):
            weight, bias = (
                rng.normal(size=p.shape) for p in (layer.weight, layer.bias)
            )
            change = np.sum(np.asarray(grads.weight) * weight)
            change += np.sum(np.asarray(grads.bias) * bias)
            _assert_close(change, np.sum(np.cos(out) * conv(weight, bias)))


@pytest.mark.parametrize("name", convs)
def test_from_equinox(name):
    ours, theirs = _layers(name)
    assert eqx.tree_equal(ours, Conv2d.from_equinox(theirs))


def test_dtype(getkey):
    def run(key, x):
        layer = Conv2d(1, 2, 3, dtype=jnp.bfloat16, key=key)
        return layer.weight, layer.bias, layer(x)

    x = np.ones((5, 5, 1), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        out = jax.eval_shape(run, getkey(), x)
    assert {x.dtype for x in out} == {jnp.dtype(jnp.bfloat16)}


def test_in_sequential(getkey):
    model = eqx.nn.Sequential(
        [
            Conv2d(1, 4, 3, key=getkey()),
            eqx.nn.Lambda(jax.nn.relu),
            MaxPool2d(2),
            AvgPool2d(2),
            eqx.nn.Lambda(jnp.ravel),
        ]
    )
    run = jax.jit(lambda x: jax.vmap(model)(x))
    assert run(np.ones((3, 10, 10, 1))).shape == (3, 16)


def _value_and_grad(f):
    def loss(x):
        out = f(x)
        return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(loss, has_aux=True)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kind=st.sampled_from(["MaxPool2d", "AvgPool2d"]),
)
def test_pooling(window, size, kind):
    with jax.enable_x64(True):  # noqa: FBT003
        pool = {"MaxPool2d": MaxPool2d, "AvgPool2d": AvgPool2d}[kind](window)
        x = np.random.default_rng(0).normal(size=(*size, 2))
        (_, out), grad = jax.jit(_value_and_grad(pool))(x)
        (a, b), (rows, columns) = (
            window,
            (n // k for n, k in zip(size, window, strict=True)),
        )
        whole = x[: rows * a, : columns * b].reshape(rows, a, columns, b, 2)
        if kind == "MaxPool2d":
            expected = whole.max((1, 3), keepdims=True)
            share = whole == expected
        else:
            expected = whole.mean((1, 3), keepdims=True)
            share = np.full_like(whole, 1 / (a * b))
        _assert_close(out, expected[:, 0, :, 0])
        inside = (np.cos(expected) * share).reshape(rows * a, columns * b, 2)
        rest = [(0, n - m) for n, m in zip(x.shape, inside.shape, strict=True)]
        _assert_close(grad, np.pad(inside, rest))


def test_tied_maxima_share_the_gradient():
    grad = jax.grad(lambda x: jnp.sum(MaxPool2d(2)(x)))(jnp.ones((2, 2, 1)))
    _assert_close(grad, jnp.full((2, 2, 1), 0.25))


def test_bad_arguments(getkey):
    with pytest.raises(ValueError, match="REFLECT"):
        Conv2d(1, 2, 3, padding=1, padding_mode="REFLECT", key=getkey())
    with pytest.raises(ValueError, match="in_channels"):
        Conv2d(3, 4, 3, groups=2, key=getkey())
    with pytest.raises(ValueError, match="out_channels"):
        Conv2d(4, 3, 3, groups=2, key=getkey())
    with pytest.raises(ValueError, match="padding"):
        Conv2d(1, 2, 3, padding="WIDE", key=getkey())
    reflecting = eqx.nn.Conv2d(1, 2, 3, padding=1, padding_mode="REFLECT", key=getkey())
    with pytest.raises(ValueError, match="REFLECT"):
        Conv2d.from_equinox(reflecting)
    for pool in (MaxPool2d, AvgPool2d):
        with pytest.raises(ValueError, match=f"equinox.nn.{pool.__name__}"):
            pool(3, 2)
        with pytest.raises(ValueError, match="kernel_size"):
            pool(0)
        with pytest.raises(ValueError, match="kernel_size"):
            pool((2, 2, 2))
        assert pool(2, 2).kernel_size == pool((2, 2), (2, 2)).kernel_size == (2, 2)


def test_bad_images(getkey):
    # With jaxtyping's hook it is the annotation that complains first.
    errors = (ValueError, TypeCheckError)
    layer = Conv2d(3, 2, 3, key=getkey())
    with pytest.raises(ValueError, match="moveaxis"):
        layer(jnp.ones((3, 8, 8)))
    with pytest.raises(errors, match="height"):
        layer(jnp.ones((5, 8, 8, 3)))
    with pytest.raises(ValueError, match="float32"):
        layer(jnp.ones((8, 8, 3), jnp.float32))
    with pytest.raises(errors, match="uint8|u8"):
        layer(jnp.ones((8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="3 x 3"):
        layer(jnp.ones((2, 8, 3)))
    with pytest.raises(errors, match="Conv2d"):
        Conv2d.from_equinox(eqx.nn.Conv1d(1, 2, 3, key=getkey()))
    with pytest.raises(errors, match="height"):
        MaxPool2d(2)(jnp.ones((5, 8, 8, 3)))
    with pytest.raises(ValueError, match="2 x 2"):
        MaxPool2d(2)(jnp.ones((1, 8, 3)))
