"""Which arrays of a model travel, which stay with a client, which stay as they are.

FedAvg with a personal leaf is checked against its rounds in NumPy; what is said of
frozen ones (no message, no memory, no gradient) by the shapes of states.
"""

import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from jax.extend import core as jex

import equifed as eqf
from equifed import testing

from .algorithms import ALGORITHMS
from .conformance.test_partial import in_numpy
from .shared import compilations


SIZES = (5, 3, 0, 8)
BATCHING = eqf.data.Steps(3, batch_size=2)
SGD = optax.sgd(0.1)
KEY = jr.key(0)
DATA = testing.ragged_clients(SIZES)
MODEL = testing.Linear()
PERSONAL = eqf.roles(MODEL, personal=lambda m: m.bias)


def loss(model, example, key):
    y = example["x"] @ model.weight + model.bias
    return 0.5 * (y - example["y"]) ** 2


def loader_of(size):
    return eqf.data.Loader(DATA, eqf.data.UniformSampler(size), BATCHING)


@functools.cache
def run(make, roles=None, num_rounds=2, executor=None) -> Any:
    """The states before and after some rounds, with half of the clients in each."""
    algorithm = make(loss, BATCHING)
    loader = loader_of(3)
    state = first = algorithm.init(MODEL, num_clients=len(DATA), roles=roles, key=KEY)
    executor = eqf.Executor() if executor is None else executor
    for i in range(num_rounds):
        state, metrics = algorithm.round(state, loader(i), key=KEY, executor=executor)
    return algorithm, first, state, metrics


def fedavg(loss, batching):
    return eqf.FedAvg(loss, SGD, batching)


def test_a_personal_leaf_stays_with_its_client():
    algorithm, before, after, metrics = run(fedavg, PERSONAL)
    assert before.params.bias is None
    w, b = in_numpy(loader_of(3), 2)
    np.testing.assert_allclose(after.params.weight, w, rtol=1e-5)
    np.testing.assert_allclose(after.clients.personal.bias, b, rtol=1e-5)
    assert len(set(b.tolist())) > 2
    assert after.clients.personal.weight is None
    # Who has not taken part, or has no example, has what the model began with.
    np.testing.assert_array_equal(after.model.bias, MODEL.bias)
    assert after.clients.personal.bias[2] == MODEL.bias


def test_a_tree_like_a_model_that_can_be_called_is_no_function():
    model = eqx.nn.Linear(2, 1, key=KEY)
    assert callable(model)
    own = jtu.tree_map(lambda x: x is model.bias, model)
    found = eqf.roles(model, personal=own)
    assert found.of("personal") == (".bias",)
    names = jtu.tree_map(lambda x: "personal" if x else "shared", own)
    assert eqf.roles(model, by=names) == found


def test_the_shapes_of_a_model_will_do():
    make = functools.partial(eqx.nn.MLP, 2, 1, 3, 1)
    model, shapes = make(key=KEY), eqx.filter_eval_shape(make, key=KEY)
    own = jtu.tree_map(lambda x: False, model)
    own = eqx.tree_at(lambda m: m.layers[0].bias, own, True)
    for how in (
        {"personal": lambda m: m.layers[-1], "frozen": lambda m: m.layers[0].bias},
        {"personal": own},
        {"by": lambda path, x: "shared" if x.ndim == 2 else "frozen"},
    ):
        assert eqf.roles(shapes, **how) == eqf.roles(model, **how)
    with pytest.raises(ValueError, match="`personal` names no floating-point array"):
        eqf.roles(shapes, personal=lambda m: m.activation)


def test_a_client_has_its_own_model():
    algorithm, _, after, _ = run(fedavg, PERSONAL)
    for i in range(len(SIZES)):
        kept = jtu.tree_map(lambda x: x[i], after.clients)  # noqa: B023
        own = algorithm.own_model(after, kept)
        np.testing.assert_array_equal(own.weight, after.params.weight)
        np.testing.assert_array_equal(own.bias, after.clients.personal.bias[i])


def test_what_is_personal_is_not_counted_as_sent():
    whole, part = run(fedavg, None)[3], run(fedavg, PERSONAL)[3]
    number = 32 * 3  # of three clients, one has no example: it is sent the model
    assert int(whole["bits_down"]) - int(part["bits_down"]) == number
    assert int(part["bits_up"]) < int(whole["bits_up"])


def test_all_shared_is_the_same_to_the_bit():
    shared = eqf.roles(MODEL, shared=lambda m: m)
    assert shared == eqf.roles(MODEL)
    one, other = run(fedavg, None)[2], run(fedavg, shared)[2]
    assert eqx.tree_equal(one, other)


@pytest.mark.parametrize(
    "name",
    ("FedAvg-adam", "FedProx", "FedSAM", "DiLoCo", "MOON", "PerFedAvg", "wrappers"),
)
def test_other_algorithms_keep_them(name):
    _, before, after, _ = run(ALGORITHMS[name], PERSONAL)
    moved = np.asarray(after.clients.personal.bias) != np.asarray(MODEL.bias)
    assert moved.sum() >= 2
    assert before.server is None or not any(
        x.shape == () and x.dtype == jnp.float32 and "bias" in jtu.keystr(p)
        for p, x in jtu.tree_leaves_with_path(before.server)
    )


class Own(eqf.AbstractClient):
    """Local SGD, as who knows nothing of roles writes it."""

    loss: Any
    batching: Any
    sends = eqf.OptaxServer.understands

    def payload(self, params):
        return params

    def init(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        client = eqf.LocalSGD(self.loss, SGD, self.batching)
        return client.round(broadcast, data, state, key=key)


def own(loss, batching):
    server = eqf.OptaxServer(optax.sgd(1.0))
    return eqf.Algorithm(Own(loss, batching), eqf.WeightedMean(), server)


def test_a_client_of_ones_own_keeps_them():
    states = [run(make, PERSONAL)[2] for make in (own, fedavg)]
    here, wanted = ((x.params, x.clients.personal) for x in states)
    assert eqx.tree_equal(here, wanted)


def compressed(loss, batching):
    algorithm = eqf.FedAvg(loss, SGD, batching)
    client = eqf.compress.CompressedClient(
        algorithm.client, eqf.compress.ErrorFeedback(eqf.compress.TopK(0.4))
    )
    return eqf.Algorithm(client, algorithm.aggregator, algorithm.server)


def test_what_stays_is_not_compressed():
    plain = run(fedavg, PERSONAL, 1)[2].clients.personal.bias
    algorithm, _, after, _ = run(compressed, PERSONAL, 1)
    kept, _ = after.clients
    np.testing.assert_array_equal(kept.personal.bias, plain)
    own = algorithm.own_model(after, jtu.tree_map(lambda x: x[0], after.clients))
    assert own.bias == plain[0]


@pytest.mark.parametrize(
    "executor",
    (eqf.Executor(block_size=2), eqf.Executor(ordered=True), eqf.Executor(debug=True)),
    ids=("blocks", "ordered", "debug"),
)
def test_however_a_round_is_run(executor):
    count = 1 if executor.debug else 2  # It takes its time.
    plain, other = (run(fedavg, PERSONAL, count, e)[2] for e in (None, executor))
    jtu.tree_map(functools.partial(np.testing.assert_allclose, rtol=1e-5), plain, other)


def test_a_resumed_training_has_the_same_bits(tmp_path):
    loader = loader_of(3)

    def train(num_rounds, directory, roles: Any = PERSONAL):
        saves = eqf.Checkpointer(directory, every=1)
        parts = (fedavg(loss, BATCHING), MODEL, loader)
        return eqf.train(
            *parts, num_rounds=num_rounds, key=KEY, checkpointer=saves, roles=roles
        )

    straight = train(3, tmp_path / "a").state
    train(1, tmp_path / "b")
    assert eqx.tree_equal(straight, train(3, tmp_path / "b").state)
    with pytest.raises(ValueError, match="another algorithm, model or roles"):
        train(3, tmp_path / "b", roles=None)


# Others may send more than a change of the model, of which a part would mean nothing.
KEEP = {
    *("FedSGD", "FedAvg", "FedAvg-adam", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"),
    *("FedProx", "FedSAM", "FedNTD", "FedLC", "FedDecorr", "FedSophia", "DiLoCo"),
    *("PerFedAvg", "MOON", "FedPer", "LGFedAvg", "FedBN", "FedRep", "FedAlt"),
    *("LocalOnly", "OverRounds", "Median", "wrappers", "robust", "Compress", "EF21"),
}


def test_every_algorithm_keeps_personal_leaves_or_says_that_it_cannot():
    batching = eqf.data.Epochs(2, batch_size=4)
    cohort = eqf.data.cohort(DATA, batching)
    keep, refused = set(), {}
    for name, make in ALGORITHMS.items():
        algorithm = make(loss, batching)
        if "frozen" in algorithm.needs:
            continue  # Nothing of this model would be left to send.
        if name == "StreamingDiLoCo":
            continue  # Of two fragments one would have nothing: see `bad_inputs`.

        def one_round(algorithm, cohort, name=name):
            state = algorithm.init(MODEL, num_clients=4, key=KEY, roles=PERSONAL)
            own = algorithm.own_model(
                state, jtu.tree_map(lambda x: x[0], state.clients)
            )
            if name not in KEEP:  # Its rounds may need more than this cohort.
                return state, state, own
            return state, algorithm.round(state, cohort, key=KEY)[0], own

        try:
            before, after, own = eqx.filter_eval_shape(one_round, algorithm, cohort)
        except ValueError as error:
            refused[name] = str(error)
        else:
            keep.add(name)
            assert before.params.bias is None, name
            assert own.bias.shape == (), name
            assert eqx.tree_equal(before, after), name
    assert keep >= KEEP
    words = r"`\w+` cannot keep personal leaves: it"
    assert all(re.match(words, said) for said in refused.values())
    # By its own name, and not by that of what it is made of.
    assert refused["CA2FL"].startswith("`CA2FL` cannot")
    assert not any("_News" in said for said in refused.values())


class Backbone(eqx.Module):
    """A large layer that is not trained, and a head."""

    large: jax.Array
    head: testing.Linear


def test_what_is_frozen_costs_nothing():
    model = Backbone(jnp.ones((50, 40)), MODEL)
    roles = eqf.roles(model, frozen=lambda m: m.large, personal=lambda m: m.head.bias)
    assert roles.of("frozen") == (".large",)
    for name in ("FedAdam", "DiLoCo"):
        algorithm = ALGORITHMS[name](loss, BATCHING)
        state = algorithm.init(model, num_clients=7, roles=roles)
        carried = (state.params, state.server, state.clients)
        assert all(2000 > x.size for x in jtu.tree_leaves(carried))
        assert state.rest.large.shape == (50, 40)


class Adapted(eqx.Module):
    """A layer that is not trained, and a change of it of rank 1."""

    large: jax.Array
    down: jax.Array
    up: jax.Array

    def __call__(self, x):
        return self.large @ x + self.up @ (self.down @ x)


def made(jaxpr):
    """What a program computes, apart from what its parts hand on."""
    for eqn in jaxpr.eqns:
        parts = list(jex.jaxprs_in_params(eqn.params))
        for part in parts:
            yield from made(part)
        if not parts:
            yield from (x.aval for x in eqn.outvars)


@pytest.mark.parametrize("name", ("FedAdam", "Scaffold-2", "Mime", "Ditto", "FedPer"))
def test_adapters_of_a_large_layer_cost_what_they_are(name):
    """Of the large one there is no gradient, no state, no message and no copy, however
    many clients are trained side by side: nothing of its shape is ever computed."""
    model = Adapted(jnp.ones((50, 3)), jnp.ones((1, 3)), jnp.zeros((50, 1)))

    def squares(m, example, key):
        return (m(example["x"]).mean() - example["y"] + jr.normal(key)) ** 2

    algorithm = ALGORITHMS[name](squares, BATCHING)
    cohort = eqf.data.cohort(DATA, BATCHING)
    executor = eqf.Executor(block_size=2)

    def computed(**which):
        state = algorithm.init(model, num_clients=4, roles=eqf.roles(model, **which))

        def one_round(state):
            return algorithm.round(state, cohort, key=KEY, executor=executor)

        jaxpr, out, _ = eqx.filter_make_jaxpr(one_round)(state)
        kept = jtu.tree_leaves((state.params, state.server, state.clients))
        large = [
            x.shape for x in (*made(jaxpr.jaxpr), *kept) if x.shape[-2:] == (50, 3)
        ]
        return large, out

    adapters = {"shared": lambda m: m.down, "personal": lambda m: m.up}
    if name != "FedPer":
        adapters = {"shared": lambda m: (m.down, m.up)}
    assert computed(**adapters)[0] == []
    if name != "FedPer":
        assert computed()[0]


@pytest.mark.parametrize(
    "name", ("Ditto", "APFL", "PFedMe", "FedALA", "FedRoD", "FedProto", "MOON")
)
def test_clients_own_models_have_what_is_frozen_once(name):
    algorithm = ALGORITHMS[name](testing.noisy_loss, BATCHING)
    frozen = eqf.roles(MODEL, frozen=lambda m: m.bias)
    state = algorithm.init(MODEL, num_clients=len(DATA), roles=frozen)
    paths = [jtu.keystr(p) for p, _ in jtu.tree_leaves_with_path(state.clients)]
    assert paths
    assert not any("bias" in path for path in paths)
    cohort = loader_of(3)(0)
    state, _ = eqx.filter_eval_shape(algorithm.round, state, cohort, key=KEY)
    kept = jtu.tree_map(lambda x: x.update(shape=x.shape[1:]), state.clients)
    own = eqx.filter_eval_shape(algorithm.own_model, state, kept)
    assert own.weight.shape == (3,)
    assert own.bias.shape == ()


def test_ways_to_say_it():
    model = Backbone(jnp.ones((2, 2)), MODEL)
    wanted = eqf.roles(model, personal=lambda m: m.head.bias, frozen=lambda m: m.large)
    names = Backbone("frozen", testing.Linear())  # pyright: ignore[reportArgumentType]
    names = eqx.tree_at(
        lambda m: (m.head.weight, m.head.bias), names, ("shared", "personal")
    )
    flags = jtu.tree_map(lambda _: False, model)
    others = (
        eqf.roles(
            model, shared=lambda m: m.head.weight, personal=lambda m: m.head.bias
        ),
        eqf.roles(model, by=names),
        eqf.roles(
            model,
            by=lambda path, x: (
                "frozen" if x.ndim == 2 else "personal" if "bias" in path else "shared"
            ),
        ),
        eqf.roles(
            model,
            personal=eqx.tree_at(lambda m: m.head.bias, flags, replace=True),
            frozen=lambda m: m.large,
        ),
    )
    for other in others:
        assert other == wanted
        assert hash(other) == hash(wanted)
    shared, personal, rest = wanted.split(model)
    assert shared.large is None
    assert personal.head.weight is None
    assert rest.head.bias is None
    assert eqx.tree_equal(eqx.combine(shared, personal, rest), model)


def test_its_repr_is_a_table():
    text = repr(eqf.roles(MODEL, personal=lambda m: m.bias))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["leaf", "array", "role", "parameters"]
    assert [".weight", "float32[3]", "shared", "3"] in rows
    assert [".bias", "float32[]", "personal", "1"] in rows
    assert text.endswith("Roles: 3 shared, 1 personal parameters")
    assert f"{PERSONAL}" in str(eqx.tree_pformat(PERSONAL))


def test_a_role_made_anew_compiles_nothing_again():
    algorithm = fedavg(loss, BATCHING)
    cohort = eqf.data.cohort(DATA, BATCHING)

    def one_round():
        roles = eqf.roles(MODEL, personal=lambda m: m.bias)
        state = algorithm.init(MODEL, num_clients=len(DATA), roles=roles)
        algorithm.round(state, cohort, key=KEY)

    one_round()
    with compilations() as programs:
        one_round()
    assert programs == []


def test_normalisation_layers_are_found_wherever_they_are():
    def make():
        return [
            eqx.nn.Linear(3, 4, key=jr.key(0)),
            {"b": eqx.nn.BatchNorm(4, "batch", mode="ema"), "l": eqx.nn.LayerNorm(4)},
            (eqx.nn.RMSNorm(4), eqf.models.ResNet([4], [1], 2, key=jr.key(0))),
        ]

    model, state = eqx.nn.make_with_state(make)()
    roles = eqf.roles((model, state), personal=eqf.norms)
    personal = roles.of("personal")
    assert personal == (
        *("[0][1]['b'].weight", "[0][1]['b'].bias", "[0][1]['l'].weight"),
        *("[0][1]['l'].bias", "[0][2][0].weight", "[0][2][0].bias"),
        *("[0][2][1].norm.weight", "[0][2][1].norm.bias"),
        *("[0][2][1].blocks[0].norm1.weight", "[0][2][1].blocks[0].norm1.bias"),
        *("[0][2][1].blocks[0].norm2.weight", "[0][2][1].blocks[0].norm2.bias"),
        # What it has measured is a part of it.
        """[1]["list[1]['b'].ema_first_time_index"]""",
        """[1]["list[1]['b'].ema_state_index"][0]""",
        """[1]["list[1]['b'].ema_state_index"][1]""",
    )
    statistics = eqf.roles((model, state), personal=eqf.statistics).of("personal")
    assert statistics == personal[-3:]
    by_name = eqf.roles(
        (model, state), by=lambda path, _: "personal" if "_index" in path else "shared"
    )
    assert by_name.of("personal") == statistics
    assert all(path in repr(roles) for path in personal)
    assert eqf.norms(MODEL) == ()
