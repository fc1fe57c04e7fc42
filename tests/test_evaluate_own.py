"""Each client's own model on its own examples: what a loop of evaluations gives."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equifed as eqf
from equifed import testing

from .shared import compilations


SIZES = (5, 0, 1, 12, 3, 0, 40)
DATASET = testing.ragged_clients(SIZES)


def make(key):
    wk, bk = jr.split(key)
    shapes = testing.Linear()
    return eqx.tree_at(
        lambda m: (m.weight, m.bias),
        shapes,
        (jr.normal(wk, shapes.weight.shape), jr.normal(bk, shapes.bias.shape)),
    )


STACKED = eqx.filter_vmap(make)(jr.split(jr.key(0), len(SIZES)))
MODELS = [
    jax.tree.map(lambda x: x[i], STACKED)  # noqa: B023
    for i in range(len(SIZES))
]


def loss(model, example, key):
    error = model.weight @ example["x"] + model.bias - example["y"]
    return error**2 / 2, {
        "error": error,
        "count": eqf.Sum(1),
        "two": eqf.Sum(jnp.ones(2)),
    }


@functools.cache
def alone(client):
    return eqf.evaluate(MODELS[client], DATASET[client : client + 1], loss)


def check(each):
    assert each.client_ids == DATASET.client_ids
    for i in range(len(SIZES)):
        if SIZES[i] == 0:
            assert np.isnan(each.values["loss"][i])
            continue
        got = each[DATASET.client_ids[i]]
        assert set(got) == set(alone(i))
        for name, value in alone(i).items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


MESHES = {
    "none": lambda: None,
    "2": lambda: jax.make_mesh((2,), ("clients",)),
    "2x2": lambda: jax.make_mesh((2, 2), ("clients", "other")),
}


@pytest.mark.parametrize("models", [STACKED, MODELS, tuple(MODELS)], ids=type)
def test_as_a_loop_of_evaluations(models):
    check(eqf.evaluate_own(models, DATASET, loss))


# Each mesh, each size of batches, and pieces on one device and on several.
@pytest.mark.parametrize(
    "mesh, batch_size, piece",
    [("none", 4, 1), ("2", 1, 2**28), ("2", 4, 1), ("2x2", 256, 2**28)],
)
def test_in_batches_and_pieces_on_several_devices(mesh, batch_size, piece, monkeypatch):
    # Clients' examples lie on several devices then, and in several pieces.
    monkeypatch.setattr("equifed._evaluate.rows._PIECE", piece)
    check(
        eqf.evaluate_own(
            STACKED, DATASET, loss, batch_size=batch_size, mesh=MESHES[mesh]()
        )
    )


def test_sixty_models_are_one_program():
    sizes = tuple(range(5, 65))
    dataset = testing.ragged_clients(sizes)
    models = [make(jr.key(i)) for i in range(60)]
    eqf.evaluate(models[0], dataset[:1], lambda m, e, k: loss(m, e, k)[0])  # warm
    traces = 0

    def counted(model, example, key):
        nonlocal traces
        traces += 1
        return loss(model, example, key)

    with compilations() as programs:
        evaluator = eqf.Evaluator(dataset, counted)
        evaluator.own(models)
        first, compiled = traces, len(programs)
        evaluator.own(models[::-1])
    assert traces == first <= 8  # The shapes are tried, and the program is traced.
    assert len(programs) == compiled
    # One is the evaluation; the others (to take the first model's arrays, to divide
    # sums) are the same for sixty models as for two.
    assert compiled <= 12


def test_an_example_has_the_key_that_it_has_for_one_model():
    def noisy(model, example, key):
        return {"noise": jr.normal(key, ()) + 0 * model.bias}

    own = eqf.evaluate_own(STACKED, DATASET, noisy, key=jr.key(3), batch_size=4)
    shared = eqf.evaluate(MODELS[0], DATASET, noisy, key=jr.key(3), per_client=True)
    np.testing.assert_allclose(own.values["noise"], shared.values["noise"], rtol=1e-5)


def test_in_inference_mode():
    def make(key):
        return eqx.nn.Dropout(0.9), jr.normal(key, ())

    def measure(model, example, key):
        drop, scale = model
        return {"x": jnp.sum(drop(example["x"] * scale, key=key))}

    stacked = eqx.filter_vmap(make)(jr.split(jr.key(0), len(SIZES)))
    # A tuple is a list of models, so that this one is in a module.
    box = Box(stacked)
    got = eqf.evaluate_own(box, DATASET, lambda m, e, k: measure(m.inside, e, k))
    start = 0
    for i, size in enumerate(SIZES):
        rows = np.asarray(DATASET.columns["x"][start : start + size])
        if size:
            expected = rows.sum(1).mean() * float(stacked[1][i])
            np.testing.assert_allclose(got.values["x"][i], expected, rtol=1e-4)
        start += size


class Box(eqx.Module):
    inside: tuple


def test_a_model_that_is_not_finite_is_told():
    broken = [*MODELS[:3], jax.tree.map(lambda x: x * jnp.nan, MODELS[3]), *MODELS[4:]]
    with pytest.warns(UserWarning, match="The model is not finite"):
        got = eqf.evaluate_own(broken, DATASET, loss)
    assert np.isnan(got.values["loss"][3])
    assert np.isfinite(got.values["loss"][[0, 2, 4, 6]]).all()


def test_nan_in_the_data_is_named():
    x = np.array(DATASET.columns["x"], np.float32)
    x[7, 1] = np.nan  # the second row of the fourth client, after 5 + 0 + 1
    columns = {"x": x, "y": np.asarray(DATASET.columns["y"])}
    dataset = eqf.data.FederatedDataset(columns, DATASET.offsets, DATASET.client_ids)
    where = rf"row 1 of client {DATASET.client_ids[3]!r}: its column 'x' holds nan"
    with pytest.warns(UserWarning, match=where) as warned:
        eqf.evaluate_own(MODELS, dataset, loss)
    assert [w.filename for w in warned] == [__file__]


@pytest.mark.parametrize(
    "models, message",
    [
        (MODELS[:3], "`models` must be one model for each of the 7 clients.*got 3"),
        (MODELS[0], "list of 7 models, one for each client, or.*leading axis of 7"),
        ([*MODELS[:6], STACKED], r"must be alike, but `models\[6\].weight` is float32"),
        (jnp.tanh, "list of 7 models.*got"),
    ],
)
def test_models_that_are_not_the_clients(models, message):
    with pytest.raises(ValueError, match=message) as error:
        eqf.evaluate_own(models, DATASET, loss)
    assert len(str(error.value)) < 600
