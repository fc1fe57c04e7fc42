"""A converted model is the same function of the same parameters.

Compared in float64, as in `test_nn.py`; inputs are random, so that no maxima tie, but
for the test that ties them.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

from equifed.nn import canonicalize, Conv2d

from .shared import drawn


# Arguments of a layer that takes 4 channels, of an image of 9 x 10 pixels.
convs = {
    "plain": {},
    "no-bias": {"use_bias": False},
    "strided-same": {"stride": 2, "padding": "SAME"},
    "same-lower": {"kernel_size": 2, "padding": "SAME_LOWER"},
    "valid": {"padding": "VALID"},
    "padded": {"padding": ((1, 2), (0, 3))},
    "dilated": {"dilation": (2, 1)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4},
    "reflect": {"padding": 2, "padding_mode": "REFLECT"},
    "replicate": {"padding": "SAME", "padding_mode": "REPLICATE", "stride": (2, 1)},
    "circular": {
        "padding": ((1, 0), (2, 1)),
        "padding_mode": "CIRCULAR",
        "dilation": 2,
    },
    "all-at-once": {"stride": (3, 2), "padding": 2, "dilation": (2, 3), "groups": 2},
}
pools = {
    "max": eqx.nn.MaxPool2d(2, 2),
    "max-rectangular": eqx.nn.MaxPool2d((3, 2), (3, 2)),
    "average": eqx.nn.AvgPool2d((2, 3), (2, 3)),
}
left_alone = {
    "max-stride-1": eqx.nn.MaxPool2d(2),
    "max-overlapping": eqx.nn.MaxPool2d(3, 2),
    "average-padded": eqx.nn.AvgPool2d(2, 2, padding=1),
    "max-ceil": eqx.nn.MaxPool2d(2, 2, use_ceil=True),
    "max-adaptive": eqx.nn.AdaptiveMaxPool2d(3),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):  # noqa: FBT003
        yield


def _assert_close(ours, theirs):
    ours, theirs = jtu.tree_leaves(ours), jtu.tree_leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def _value_and_grad(model, x):
    def loss(both):
        model, x = both
        out = jax.vmap(model)(x)
        return jnp.sum(jnp.sin(out)), out

    return eqx.filter_value_and_grad(loss, has_aux=True)((model, x))


def _assert_same(theirs, *shape, x=None):
    """The same value and gradients for a batch of images, by the converted model."""
    x = np.random.default_rng(0).normal(size=shape) if x is None else x
    ours = canonicalize(theirs)
    got, expected = eqx.filter_jit(lambda *ms: [_value_and_grad(m, x) for m in ms])(
        ours, theirs
    )
    _assert_close(got, expected)


def _made(make):
    """A model of NumPy's numbers, for which nothing is compiled."""
    return drawn(make, 0, 0.3)


def _kinds(model):
    """The names of the layers' classes."""

    def is_layer(x):
        return isinstance(x, eqx.nn.Conv | eqx.nn.Pool)

    leaves = jtu.tree_leaves(model, is_leaf=is_layer)
    return [type(x).__name__ for x in leaves if is_layer(x)]


@functools.cache
def _layers():
    def convolution(options):
        options = {"kernel_size": 3, **options}
        return _made(lambda key: eqx.nn.Conv2d(4, 8, **options, key=key))

    return {name: convolution(options) for name, options in convs.items()} | pools


@functools.cache
def _by_both():
    """What each layer and the converted one give, in one program; and the images."""
    x = np.random.default_rng(0).normal(size=(3, 4, 9, 10))

    @eqx.filter_jit
    def run(layers, x):
        return {
            name: [_value_and_grad(m, x) for m in (canonicalize(layer), layer)]
            for name, layer in layers.items()
        }

    return run(_layers(), x), x


@pytest.mark.parametrize("name", convs)
def test_convolution(name):
    assert _kinds(canonicalize(_layers()[name])) == ["CanonicalConv2d"]
    _assert_close(*_by_both()[0][name])


@pytest.mark.parametrize("name", pools)
def test_pooling(name):
    assert _kinds(canonicalize(pools[name]))[0].startswith("Canonical")
    _assert_close(*_by_both()[0][name])


@pytest.mark.parametrize("name", ["plain", "circular", "groups", "max", "average"])
def test_a_layer_that_is_not_compiled_as_a_whole(name):
    both, images = _by_both()
    out = canonicalize(_layers()[name])(jnp.asarray(images[0]))
    _assert_close(out, both[name][1][0][1][0])


@pytest.mark.parametrize("name", left_alone)
def test_what_is_left_alone(name):
    layer = left_alone[name]
    assert type(canonicalize(layer)) is type(layer)


def test_other_convolutions_are_left_alone():
    class Scaled(eqx.nn.Conv2d):
        def __call__(self, x, *, key=None):
            return 2 * eqx.nn.Conv2d.__call__(self, x, key=key)

    def layers(key):
        return (
            eqx.nn.Conv1d(2, 3, 3, key=key),
            eqx.nn.Conv3d(2, 3, 3, key=key),
            eqx.nn.Conv(1, 2, 3, 3, key=key),
            eqx.nn.ConvTranspose2d(2, 3, 3, key=key),
            Scaled(2, 3, 3, key=key),  # pyright: ignore
            Conv2d(2, 3, 3, key=key),
            eqx.nn.Conv(2, 2, 3, 3, key=key),
        )

    *others, general = _made(layers)
    for layer in others:
        assert type(canonicalize(layer)) is type(layer)
    assert isinstance(canonicalize(general), eqx.nn.Conv2d)


@pytest.mark.parametrize("name", ["max", "average"])
def test_an_image_smaller_than_the_window(name):
    both = [
        jax.eval_shape(f, np.ones((4, 1, 6)))
        for f in (canonicalize(pools[name]), pools[name])
    ]
    assert both[0] == both[1]
    assert 0 in both[0].shape


class CNN(eqx.Module):
    """What a user wrote, with a flattening of (channels, height, width)."""

    convs: list
    pool: eqx.nn.MaxPool2d
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 3)
        self.convs = [
            eqx.nn.Conv2d(2, 4, 3, padding="SAME", key=keys[0]),
            eqx.nn.Conv2d(4, 6, 3, groups=2, key=keys[1]),
        ]
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.dense = eqx.nn.Linear(6 * 3 * 4, 5, key=keys[2])

    def __call__(self, x):
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        assert self.convs[1].out_channels == x.shape[0]
        return self.dense(jnp.ravel(self.pool(x)))


def test_model_that_flattens():
    model = _made(CNN)
    assert _kinds(canonicalize(model)) == 2 * ["CanonicalConv2d"] + [
        "CanonicalMaxPool2d"
    ]
    _assert_same(model, 3, 2, 9, 10)


def test_nested_sequential():
    sequential, relu = eqx.nn.Sequential, eqx.nn.Lambda(jax.nn.relu)

    def make(key):
        keys = jr.split(key, 3)
        first = [eqx.nn.Conv2d(1, 4, 3, key=keys[0]), relu, eqx.nn.AvgPool2d(2, 2)]
        return sequential(
            [
                sequential([eqx.nn.GroupNorm(1, 1), sequential(first)]),
                eqx.nn.Conv2d(4, 2, 3, padding="SAME", key=keys[1]),
                eqx.nn.MaxPool2d(3, 1),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(2 * 1 * 2, 3, key=keys[2]),
            ]
        )

    model = _made(make)
    kinds = ["CanonicalConv2d", "CanonicalAvgPool2d", "CanonicalConv2d", "MaxPool2d"]
    assert _kinds(canonicalize(model)) == kinds
    _assert_same(model, 3, 1, 8, 10)


def test_parameters_stay_what_they_were(getkey):
    model = _made(CNN)
    ours = canonicalize(model)
    for a, b in zip(jtu.tree_leaves(ours), jtu.tree_leaves(model), strict=True):
        assert a is b
    assert ours.convs[0].weight is model.convs[0].weight
    assert ours.convs[0].kernel_size == (3, 3)
    shapes = eqx.filter_eval_shape(CNN, getkey())
    assert _kinds(canonicalize(shapes)) == _kinds(ours)


def test_checkpoint_of_the_other_model(tmp_path):
    model, other = (drawn(CNN, mean, 0.3) for mean in (0, 0.1))
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", canonicalize(other))
    # What that computes is what `model` does: see above.
    assert eqx.tree_equal(loaded, canonicalize(model))
    assert not eqx.tree_equal(loaded, canonicalize(other))


def test_converting_twice():
    model = _made(CNN)
    once = canonicalize(model, lowering="im2col")
    assert eqx.tree_equal(canonicalize(once, lowering="im2col"), once)
    assert canonicalize(once).convs[0].lowering == "auto"


def test_clients_side_by_side():
    models = _made(lambda key: eqx.filter_vmap(CNN)(jr.split(key, 3)))
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 9, 10))

    def loss(model, x):
        return jnp.mean(jnp.sin(jax.vmap(model)(x)))

    @eqx.filter_jit
    def run(models):
        f = eqx.filter_vmap(eqx.filter_grad(loss))
        ways = [canonicalize(models, lowering=way) for way in ("auto", "im2col")]
        return [f(m, x) for m in (models, *ways)]

    expected, *ours = run(models)
    for got in ours:
        _assert_close(got, expected)


def test_every_convolution_is_canonical():
    model = canonicalize(_made(CNN))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def grads(params, x):
        model = eqx.combine(params, static)
        return jax.grad(
            lambda p: jnp.sum(jax.vmap(eqx.combine(p, static))(x)), allow_int=True
        )(eqx.filter(model, eqx.is_inexact_array))

    lowered = jax.jit(grads).lower(params, jnp.ones((3, 2, 9, 10)))
    text = lowered.as_text().splitlines()
    convolutions = [s for s in text if "stablehlo.convolution(" in s]
    assert len(convolutions) >= 4
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in s for s in convolutions)
    assert not any("reduce_window" in s for s in text)


def test_tied_maxima():
    # As in Equinox, the first of them has the gradient.
    x = np.random.default_rng(0).integers(0, 2, (5, 2, 6, 9)).astype(float)
    pool = eqx.nn.MaxPool2d(3, 3)
    _assert_same(pool, x=x)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(canonicalize(pool)(x))))
    expected = np.zeros((1, 3, 3))
    expected[0, 0, 0] = 1
    _assert_close(grad(np.ones((1, 3, 3))), expected)


_SMALL = [
    jax.jit(canonicalize(pool)) for pool in (pools["max"], eqx.nn.AvgPool2d(2, 2))
]


@pytest.mark.parametrize("place", range(4))
def test_a_nan_is_not_pooled_away(place):
    x = np.arange(4.0)
    x[place] = np.nan
    for pool in _SMALL:
        assert np.isnan(pool(x.reshape(1, 2, 2))).all()


def test_an_image_of_another_shape():
    layer = canonicalize(_made(lambda key: eqx.nn.Conv2d(1, 2, 3, key=key)))
    with pytest.raises(ValueError, match="rank 3"):
        layer(jnp.ones((2, 1, 8, 8)))
    with pytest.raises(AssertionError, match="spatial"):
        canonicalize(pools["max"])(jnp.ones((2, 1, 8, 8)))


def test_dtype():
    model = _made(lambda key: eqx.nn.Conv2d(2, 3, 3, dtype=jnp.bfloat16, key=key))

    def run(x):
        x = canonicalize(model)(x)
        return [canonicalize(pool)(x) for pool in pools.values()]

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for out in jax.eval_shape(run, np.ones((2, 8, 8), jnp.bfloat16)):
            assert out.dtype == jnp.bfloat16


def test_bad_lowering():
    with pytest.raises(Exception, match="lowering"):
        canonicalize(_made(CNN), lowering="fast")  # pyright: ignore
