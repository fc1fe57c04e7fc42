"""Everything that Optax exports works as with Optax alone, or is refused by name."""

# Optax's annotations ask for less than Optax takes.
# pyright: reportArgumentType=false

import functools
import inspect

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import optax.contrib
import pytest

import equifed as eqf
from equifed._optim import as_optim

from .test_optim import enable_x64


C = optax.contrib
PARAMS = {
    "w": np.array([[1.0, -2.0, 0.3], [0.5, 3.0, -0.7]]),
    "b": np.array([0.1, 0.2, -0.4]),
}


def matrices(params):
    return jtu.tree_map(lambda x: x.ndim > 1, params)


def labels(params):
    return jtu.tree_map(lambda x: "a" if x.ndim > 1 else "b", params)


def early(step):
    return step < 2


def at(rate):
    return lambda: optax.sgd(rate)


PARTS = {"a": optax.sgd(0.1), "b": optax.sgd(0.2, momentum=0.9)}

# What is not built by `f(0.1)`, or `f()` where it needs nothing.
MAKE = {
    "adamw": lambda: optax.adamw(0.1, mask=matrices),
    "add_decayed_weights": lambda: optax.add_decayed_weights(0.1, matrices),
    "add_noise": lambda: optax.add_noise(0.1, 0.5, jax.random.key(0)),
    "apply_every": lambda: optax.apply_every(2),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 2),
    "chain": lambda: optax.chain(optax.clip(0.5), optax.sgd(0.1)),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.sgd(0.1), early),
    "conditionally_transform": lambda: optax.conditionally_transform(
        optax.sgd(0.1), early
    ),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "freeze": lambda: optax.chain(optax.sgd(0.1), optax.freeze(matrices)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.sgd)(
        optax.linear_schedule(0.1, 0.0, 3)
    ),
    "lamb": lambda: optax.lamb(0.1, mask=matrices),
    "lookahead": lambda: optax.lookahead(optax.sgd(0.1), 2, 0.5),
    "masked": lambda: optax.masked(optax.sgd(0.1), matrices),
    "measure_with_ema": lambda: optax.measure_with_ema(optax.global_norm, 0.9),
    "monitor": lambda: optax.monitor({"norm": optax.global_norm}),
    "nadamw": lambda: optax.nadamw(0.1, mask=matrices),
    "multi_transform": lambda: optax.multi_transform(PARTS, labels),
    "named_chain": lambda: optax.named_chain(
        ("clip", optax.clip(0.5)), ("sgd", optax.sgd(0.1))
    ),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=1),
    "partition": lambda: optax.partition(PARTS, labels),
    "scale_by_schedule": lambda: optax.scale_by_schedule(
        optax.exponential_decay(0.1, 2, 0.5)
    ),
    "selective_transform": lambda: optax.selective_transform(
        optax.sgd(0.1), freeze_mask=matrices
    ),
    "snapshot": lambda: optax.snapshot("norm", optax.global_norm),
    "stateless": lambda: optax.stateless(
        lambda g, p: jtu.tree_map(lambda x: -0.1 * x, g)
    ),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(
        lambda g, p: -0.1 * g
    ),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.sgd(0.1)),
    "contrib.differentially_private_aggregate": lambda: (
        C.differentially_private_aggregate(1.0, 1.0, jax.random.key(0))
    ),
    "contrib.dpsgd": lambda: C.dpsgd(0.1, 1.0, 1.0, 0),
    "contrib.hutchinson_estimator_diag_hessian": lambda: (
        C.hutchinson_estimator_diag_hessian(jax.random.key(0))
    ),
    "contrib.mechanize": lambda: C.mechanize(optax.sgd(0.1)),
    "contrib.sam": lambda: C.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2),
    "contrib.schedule_free": lambda: C.schedule_free(optax.sgd(0.1), 0.1),
    "contrib.split_real_and_imaginary": lambda: C.split_real_and_imaginary(
        optax.adam(0.1)
    ),
}

# What cannot work, and a word of the error that says why.
REFUSED = {
    "lookahead": "lookahead",
    "lbfgs": "`value_fn`",
    "measure_with_ema": "measure_with_ema",
    "monitor": "monitor",
    "scale_by_backtracking_linesearch": "`value_fn`",
    "scale_by_zoom_linesearch": "`value_fn`",
    "contrib.differentially_private_aggregate": "differentially_private",
    "contrib.dpsgd": "differentially_private",
    "contrib.hutchinson_estimator_diag_hessian": "hutchinson",
    "contrib.scale_by_muon": "muon",
    "contrib.sophia": "sophia",
}

# What an update is given at the clients and not at the server.
WANTS_THE_LOSS = (
    "polyak_sgd",
    "scale_by_polyak",
    "contrib.momo",
    "contrib.momo_adam",
    "contrib.reduce_on_plateau",
)

# Exported functions without an annotation that are no transformations.
OTHERS = (
    "matrix_inverse_pth_root",
    "sigmoid_binary_cross_entropy",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "contrib.schedule_free_eval_params",
)


def exported():
    for prefix, module in (("", optax), ("contrib.", C)):
        for name, value in sorted(vars(module).items()):
            function = value
            while isinstance(function, functools.partial):  # as `nadam` is
                function = function.func
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            returns = function.__annotations__.get("return")
            is_one = inspect.isclass(returns) and issubclass(
                returns, optax.GradientTransformation
            )
            makes_one = name.startswith("inject_")
            unknown = returns is None and prefix + name not in OTHERS
            if is_one or makes_one or unknown:
                yield prefix + name, value


EXPORTED = dict(exported())


def build(name):
    if name in MAKE:
        return MAKE[name]()
    needed = [
        p
        for p in inspect.signature(EXPORTED[name]).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return EXPORTED[name](*[0.1] * len(needed))


# Their loops and branches would be compiled anew at each call.
WITH_LOOPS = {
    *("apply_if_finite", "conditionally_mask", "conditionally_transform", "novograd"),
    *("scale_by_lbfgs", "scale_by_novograd", "contrib.galore", "contrib.mechanize"),
    *("contrib.muon", "contrib.reduce_on_plateau", "contrib.scale_by_galore"),
}


def compiled(name, update):
    whole = jax.jit(lambda *given, **more: update(*given, **more))
    return whole if name in WITH_LOOPS else update


def three_steps(init, update, params, *, loss=False):
    state = init(params)
    for i in range(3):
        grads = jtu.tree_map(lambda p: jnp.cos(3 * p + i), params)  # noqa: B023
        extra = {"value": jnp.asarray(1.0 / (i + 1))} if loss else {}
        updates, state = update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


def at_a_client(raw, params):
    optim = as_optim(raw, gives=("value",))
    return three_steps(optim.init, optim.update, params, loss=True)


def at_the_server(name, server, params):
    def one_round(params, aggregate, state):
        return server.round(params, aggregate, state, key=jr.key(0))

    one_round, state = compiled(name, one_round), server.init(params, num_clients=3)
    one = jnp.asarray(1.0)
    for i in range(3):
        change = jtu.tree_map(lambda p: -jnp.cos(3 * p + i), params)  # noqa: B023
        aggregate = eqf.Aggregate(change, None, one, one, one > 0)
        params, state = one_round(params, aggregate, state)
    return params


def assert_close(got, expected):
    jtu.tree_map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6),
        got,
        expected,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", EXPORTED)
def test_as_with_optax_alone_or_refused_by_name(name):
    # In float64: where Optax computes 1 - b2 before rounding, a traced b2 rounds first.
    with enable_x64():
        params = jtu.tree_map(jnp.asarray, PARAMS)
        raw = build(name)
        if name in REFUSED:
            with pytest.raises((TypeError, ValueError), match=REFUSED[name]) as error:
                jax.eval_shape(lambda: at_a_client(raw, params))
            assert len(str(error.value)) < 600
            return
        optim = as_optim(raw, gives=("value",))
        alone = optax.with_extra_args_support(raw)
        server = None
        if name == "contrib.momo" and not optim.needs:
            value = inspect.signature(raw.update).parameters["value"]
            assert value.default is None
            pytest.skip("Optax 0.2.6 has it want the loss without saying so.")
        if name in WANTS_THE_LOSS:
            assert optim.needs == ("value",)
            with pytest.raises(TypeError, match="wants `value`"):
                eqf.OptaxServer(raw)
        else:
            server = eqf.OptaxServer(build(name))
        # Built anew it is the same program.
        again = server.optim if server else as_optim(build(name), gives=("value",))
        assert again.static == optim.static

        # Few are compiled as a whole: single operations are compiled once for all.
        loss = name in WANTS_THE_LOSS
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            update = compiled(name, alone.update)
            expected = three_steps(alone.init, update, params, loss=loss)
        update = compiled(name, optim.update)
        got = three_steps(optim.init, update, params, loss=True)
        assert_close(got, expected)
        if server is not None:
            assert_close(at_the_server(name, server, params), expected)


def test_every_export_is_placed():
    assert {"nadam", "nadamw"} <= set(EXPORTED)
    for module in (optax, C):
        for name, value in vars(module).items():
            if isinstance(value, functools.partial):
                assert name in EXPORTED


def test_multi_steps_is_taken_as_it_is():
    def make():
        return optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)

    params = jtu.tree_map(np.float32, PARAMS)
    optim, raw = as_optim(make()), make().gradient_transformation()
    batching = eqf.data.Epochs(1, batch_size=4)
    fedavg = eqf.FedAvg(eqf.testing.noisy_loss, make(), batching, server_optim=make())
    for taken in (eqf.Optim(make()), fedavg.client.optim, fedavg.server.optim):
        assert taken.static == optim.static

    got = jax.jit(lambda p: three_steps(optim.init, optim.update, p))(params)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(lambda p: three_steps(raw.init, raw.update, p))(params)
    assert_close(got, expected)
    assert optim.static == as_optim(make()).static
