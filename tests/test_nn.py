"""The layers of `equifed.nn` compute what Equinox's do, with the channels last.

Everything is compared in float64: another convolution kernel adds up in another order.
"""

import functools

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


@functools.cache
def _layers(name):
    """The layers of both libraries, made with the same key."""
    in_channels, out_channels, kernel_size, options = convs[name]
    args = (in_channels, out_channels, kernel_size)

    @eqx.filter_jit
    def make(key):
        ours = Conv2d(*args, **options, key=key)
        return ours, eqx.nn.Conv2d(*args, **options, key=key)

    return make(jr.key(0))


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

    def clients(self, num_clients):
        rng = np.random.default_rng(1)
        return jtu.tree_map(
            lambda x: rng.normal(size=(num_clients, *x.shape)), self.params
        )


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
def _values_and_gradients(name):
    pair = _Pair(name)

    @jax.jit
    def run(*args):
        values = [f(*args) for f in pair.convs]
        return values, [jax.grad(f, (0, 1))(*args) for f in pair.losses()]

    return run(pair.params, pair.image())


@pytest.mark.parametrize("name", convs)
def test_same_key_same_layer(name):
    ours, theirs = _layers(name)
    mine, reference = _values_and_gradients(name)[0]
    _assert_close(mine, reference)
    x = jnp.asarray(_Pair(name).image())
    _assert_close(ours(x), mine)  # not compiled as a whole
    assert (ours.bias is None) == (theirs.bias is None)


@pytest.mark.parametrize("name", convs)
def test_gradients(name):
    _assert_close(*_values_and_gradients(name)[1])


def _sum_over(axes):
    def transform(f):
        return jax.grad(lambda *args: jnp.sum(jax.vmap(f, axes)(*args)), (0, 1))

    return transform


def _jvp(f):
    return lambda *args: jax.jvp(f, args, jtu.tree_map(jnp.cos, args))


def _grad_of_grad(f):
    def inner(params, x):
        grads = jax.grad(f, (0, 1))(params, x)
        return sum(jnp.sum(jnp.square(g)) for g in jtu.tree_leaves(grads))

    return jax.grad(inner, (0, 1))


def _in_loop(f):
    """Some steps of gradient descent on the mean loss."""

    def mean_loss(params, x):
        return jnp.mean(jax.vmap(f, (None, 0))(params, x))

    def descend(params, x):
        def body(_, params):
            grads = jax.grad(mean_loss)(params, x)
            return jtu.tree_map(lambda p, g: p - 0.1 * g, params, grads)

        return jax.lax.fori_loop(0, 3, body, params)

    return descend


# transform, whether it takes many clients, whether it takes many examples.
transforms = {
    "jvp": (_jvp, False, False),
    "linearize": (lambda f: lambda *a: jax.linearize(f, *a)[1](*a), False, False),
    "grad-of-grad": (_grad_of_grad, False, False),
    "hessian-vector": (lambda f: _jvp(jax.grad(f)), False, False),
    "remat": (lambda f: jax.grad(jax.checkpoint(f), (0, 1)), False, False),
    "grad-vmap": (_sum_over((None, 0)), False, True),
    "vmap-grad": (lambda f: jax.vmap(jax.grad(f, (0, 1)), (None, 0)), False, True),
    "vmap-last": (lambda f: jax.vmap(jax.grad(f), (None, 0), -1), False, True),
    "vmap-jvp": (lambda f: jax.vmap(_jvp(f), (None, 0)), False, True),
    "vmap-grad-of-grad": (
        lambda f: jax.vmap(_grad_of_grad(f), (None, 0)),
        False,
        True,
    ),
    "kernels-grad-vmap": (_sum_over((0, None)), True, False),
    "kernels-vmap-grad": (
        lambda f: jax.vmap(jax.grad(f, (0, 1)), (0, None)),
        True,
        False,
    ),
    "clients-grad-vmap": (lambda f: jax.vmap(_sum_over((None, 0))(f)), True, True),
    "clients-vmap-grad": (
        lambda f: jax.vmap(jax.vmap(jax.grad(f, (0, 1)), (None, 0))),
        True,
        True,
    ),
    "loop": (_in_loop, False, True),
    "clients-loop": (lambda f: jax.vmap(_in_loop(f)), True, True),
}


@functools.cache
def _by_both(name, many_clients, many_examples):
    """What all transformations that take such arguments give, of our layer and of
    Equinox's; in one program."""
    pair = _Pair(name)
    params = pair.clients(3) if many_clients else pair.params
    batch = (2,) if many_examples else ()
    batch = (3, *batch) if many_clients and many_examples else batch

    def run(*args):
        return {
            key: [transform(loss)(*args) for loss in pair.losses()]
            for key, (transform, *takes) in transforms.items()
            if takes == [many_clients, many_examples]
        }

    return jax.jit(run)(params, pair.image(*batch))


@pytest.mark.parametrize("transform", transforms)
@pytest.mark.parametrize("name", few)
def test_transformations(name, transform):
    _assert_close(*_by_both(name, *transforms[transform][1:])[transform])


@pytest.mark.parametrize("transform", ["loop", "clients-loop", "clients-vmap-grad"])
def test_every_convolution_is_canonical(transform):
    # What makes it fast: no other layout reaches the compiler, gradients included.
    pair = _Pair("strided")
    transform, many_clients, _ = transforms[transform]
    params = pair.clients(3) if many_clients else pair.params
    x = pair.image(*([3, 2] if many_clients else [2]))
    text = jax.jit(transform(pair.losses()[0])).lower(params, x).as_text()
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
    x = pair.image(4, 2)
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def descend(f):
        return lambda params, x: jax.vmap(_in_loop(f), (None, 0))(params, x)

    def sharded(f):
        def local(params, x):
            if check_vma:
                params = jax.lax.pcast(params, "clients", to="varying")
            return descend(f)(params, x)

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P("clients")),
            out_specs=P("clients"),
            check_vma=check_vma,
        )

    ours, theirs = pair.losses()
    _assert_close(
        jax.jit(sharded(ours))(pair.params, x),
        jax.jit(descend(theirs))(pair.params, x),
    )


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
        options = (kernel_size, stride, padding, dilation, groups)
        x = np.random.default_rng(0).normal(size=(2, *size, in_channels))

        @eqx.filter_value_and_grad
        def loss(layer, x):
            return jnp.sum(jnp.sin(jax.vmap(layer)(x)))

        @eqx.filter_jit
        def both(x):
            theirs = eqx.nn.Conv2d(in_channels, out_channels, *options, key=jr.key(0))
            ours = Conv2d.from_equinox(theirs)
            return loss(ours, x), loss(theirs, _first(x))

        (value, grads), (value_, grads_) = both(x)
        _assert_close(value, value_)
        _assert_close(grads.weight, np.transpose(grads_.weight, (2, 3, 1, 0)))
        _assert_close(grads.bias, np.asarray(grads_.bias)[:, 0, 0])


@pytest.mark.parametrize("name", convs)
def test_from_equinox(name):
    ours, theirs = _layers(name)
    assert eqx.tree_equal(ours, Conv2d.from_equinox(theirs))


def test_dtype(getkey):
    layer = Conv2d(1, 2, 3, dtype=jnp.bfloat16, key=getkey())
    assert {x.dtype for x in jtu.tree_leaves(layer)} == {jnp.dtype(jnp.bfloat16)}
    assert layer(jnp.ones((5, 5, 1), jnp.bfloat16)).dtype == jnp.bfloat16
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        layer(jnp.ones((5, 5, 1), jnp.bfloat16))


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


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kind=st.sampled_from(["MaxPool2d", "AvgPool2d"]),
)
def test_pooling(window, size, kind):
    with jax.enable_x64(True):  # noqa: FBT003
        ours = {"MaxPool2d": MaxPool2d, "AvgPool2d": AvgPool2d}[kind](window)
        theirs = getattr(eqx.nn, kind)(window, window)
        x = np.random.default_rng(0).normal(size=(*size, 2))
        both = (ours, lambda x: _last(theirs(_first(x))))
        _assert_same(_value_and_grad, both, x)


def _value_and_grad(f):
    def loss(x):
        out = f(x)
        return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(loss, has_aux=True)


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
