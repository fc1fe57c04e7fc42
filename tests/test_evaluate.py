"""Evaluation against NumPy, over all examples and client by client."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import equifed as eqf
from equifed import testing
from equifed._evaluate.batch_size import choose_batch_size
from equifed._evaluate.rows import put_model


SIZES = (5, 0, 1, 12, 3, 0)
DATASET = testing.ragged_clients(SIZES)
MODEL = testing.Linear()
X, Y = (np.asarray(DATASET.columns[name], np.float64) for name in ("x", "y"))
ERROR = X @ np.asarray(MODEL.weight, np.float64) + float(MODEL.bias) - Y
OWNER = np.repeat(np.arange(len(SIZES)), SIZES)


def loss(model, example, key):
    return (model.weight @ example["x"] + model.bias - example["y"]) ** 2 / 2


def loss_and_more(model, example, key):
    error = model.weight @ example["x"] + model.bias - example["y"]
    weight = jnp.abs(example["y"])
    return error**2 / 2, {
        "error": error,
        "positive": error > 0,
        "weighted": eqf.Average(weight * error, weight),
        "count": eqf.Sum(1),
    }


def only_metrics(model, example, key):
    return loss_and_more(model, example, key)[1]


def expected(rows):
    error, weight = ERROR[rows], np.abs(Y[rows])
    return {
        "loss": (error**2 / 2).mean(),
        "error": error.mean(),
        "positive": (error > 0).mean(),
        "weighted": (weight * error).sum() / weight.sum(),
        "count": len(error),
    }


def check(got, expected):
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("batch_size", (1, 4, 21, 256))
def test_over_all_examples(batch_size):
    got = eqf.evaluate(MODEL, DATASET, loss_and_more, batch_size=batch_size)
    check(got, expected(slice(None)))
    assert all(isinstance(x, float) for x in got.values())


def test_a_loss_alone_and_metrics_alone():
    everything = expected(slice(None))
    got = eqf.evaluate(MODEL, DATASET, loss, batch_size=4)
    check(got, {"loss": everything.pop("loss")})
    check(eqf.evaluate(MODEL, DATASET, only_metrics, batch_size=4), everything)


def test_a_dictionary_may_name_its_metrics_freely():
    def metrics(model, example, key):
        return {"loss": loss(model, example, key), "_": 1.0}

    check(
        eqf.evaluate(MODEL, DATASET, metrics),
        {"loss": expected(slice(None))["loss"], "_": 1.0},
    )


@pytest.mark.parametrize("batch_size", (1, 4, 256))
def test_per_client(batch_size):
    got = eqf.evaluate(
        MODEL, DATASET, loss_and_more, per_client=True, batch_size=batch_size
    )
    assert got.client_ids == list(DATASET.client_ids)
    np.testing.assert_array_equal(got.num_examples, SIZES)
    for i, client in enumerate(DATASET.client_ids):
        if SIZES[i] == 0:
            assert all(np.isnan(x) for x in got[client].values())
            continue
        rows = expected(OWNER == i)
        check(got[client], rows)
        if batch_size == 4:
            # And it is what evaluating on that client alone gives.
            alone = eqf.evaluate(MODEL, DATASET.select([client]), loss_and_more)
            check(alone, rows)
    with pytest.raises(ValueError, match="'nobody'"):
        got["nobody"]


MESHES = {
    "2": lambda: jax.make_mesh((2,), ("clients",)),
    "4": lambda: jax.make_mesh((4,), ("clients",)),
    "2x2": lambda: jax.make_mesh((2, 2), ("clients", "other")),
}


# Each size of a batch in pieces and as a whole, over one axis and beside another.
@pytest.mark.parametrize(
    ("mesh", "batch_size", "piece"),
    [
        ("4", 1, 1),
        ("2x2", 1, 2**28),
        ("4", 4, 2**28),
        ("2x2", 4, 1),
        ("4", 256, 1),
        ("2x2", 256, 2**28),
    ],
)
def test_on_several_devices(mesh, batch_size, piece, monkeypatch):
    monkeypatch.setattr("equifed._evaluate.rows._PIECE", piece)
    evaluator = eqf.Evaluator(
        DATASET, loss_and_more, batch_size=batch_size, mesh=MESHES[mesh]()
    )
    got = evaluator(MODEL)
    check(got, expected(slice(None)))
    assert got["count"] == len(ERROR)
    each = evaluator.per_client(MODEL)
    np.testing.assert_array_equal(each.values["count"], np.where(SIZES, SIZES, np.nan))
    for i in np.flatnonzero(SIZES):
        check(each[DATASET.client_ids[i]], expected(OWNER == i))


@pytest.mark.parametrize("num_examples", (1, 3))
def test_more_devices_than_examples(num_examples):
    dataset = testing.ragged_clients((num_examples, 0))
    mesh = MESHES["4"]()
    alone = eqf.evaluate(MODEL, dataset, loss_and_more)
    check(eqf.evaluate(MODEL, dataset, loss_and_more, mesh=mesh), alone)
    assert alone["count"] == num_examples
    each = eqf.evaluate(MODEL, dataset, loss, mesh=mesh, per_client=True)
    assert np.isnan(each.values["loss"]).tolist() == [False, True]


def test_an_example_has_the_same_key_in_any_batch_on_any_device(getkey):
    def noise(model, example, key):
        return {"noise": eqf.Sum(example["x"][0] * jr.normal(key))}

    key = getkey()
    alone = eqf.evaluate(MODEL, DATASET, noise, key=key)
    assert alone["noise"] != 0
    for batch_size, mesh in ((3, None), (1, MESHES["2"]()), (256, MESHES["4"]())):
        got = eqf.evaluate(
            MODEL, DATASET, noise, key=key, batch_size=batch_size, mesh=mesh
        )
        check(got, alone)


def test_each_device_holds_its_own_rows():
    evaluator = eqf.Evaluator(DATASET, loss, mesh=MESHES["4"]())
    evaluator(MODEL)
    assert evaluator._kept is not None
    got = evaluator._kept.examples["y"]
    assert len({shard.device for shard in got.addressable_shards}) == 4
    rows = [np.asarray(shard.data)[0] for shard in got.addressable_shards]
    share = -(-len(Y) // 4)
    shares = np.concatenate([x[:share] for x in rows])[: len(Y)]
    np.testing.assert_array_equal(shares, Y.astype(np.float32))
    # Few sizes, so that many datasets compile a few times.
    assert {len(x) for x in rows} == {16}


def test_a_model_that_lies_on_a_mesh():
    mesh = MESHES["4"]()
    copies = jax.device_put(MODEL, NamedSharding(mesh, P()))
    sharded = eqx.tree_at(
        lambda m: m.weight,
        testing.Linear(4),
        replace_fn=lambda x: jax.device_put(x, NamedSharding(mesh, P("clients"))),
    )

    def first_three(model, example, key):
        return loss(
            eqx.tree_at(lambda m: m.weight, model, model.weight[:3]), example, 0
        )

    for where in (None, mesh, MESHES["2"]()):
        got = eqf.evaluate(copies, DATASET, loss, mesh=where)
        check(got, {"loss": expected(slice(None))["loss"]})
        if where is not None:
            got = eqf.evaluate(sharded, DATASET, first_three, mesh=where)
            alone = eqf.evaluate(testing.Linear(4), DATASET, first_three)
            check(got, alone)
    # Without a mesh one device does the work, not each that holds a copy.
    assert len(put_model(copies, None).weight.sharding.device_set) == 1


def test_a_mesh_without_clients_is_refused():
    with pytest.raises(ValueError, match="must have an axis 'clients'"):
        eqf.Evaluator(DATASET, loss, mesh=jax.make_mesh((4,), ("x",)))


def test_a_column_of_text_is_refused():
    columns = {**DATASET.columns, "text": np.full(len(Y), "a")}
    dataset = eqf.data.FederatedDataset(columns, DATASET.offsets, DATASET.client_ids)
    with pytest.raises(ValueError, match="Column 'text' holds text"):
        eqf.evaluate(MODEL, dataset, loss)


def test_quantiles_and_mean_over_clients():
    got = eqf.evaluate(MODEL, DATASET, loss, per_client=True)
    each = [expected(OWNER == i)["loss"] for i in np.flatnonzero(SIZES)]
    np.testing.assert_allclose(got.mean("loss"), np.mean(each), rtol=1e-5)
    quantiles = got.quantiles("loss")
    assert list(quantiles) == [0.1, 0.25, 0.5, 0.75, 0.9]
    for q, value in quantiles.items():
        np.testing.assert_allclose(value, np.quantile(each, q), rtol=1e-5)
    assert got.quantiles("loss", (0.0, 1.0)) == {
        0.0: pytest.approx(min(each), rel=1e-5),
        1.0: pytest.approx(max(each), rel=1e-5),
    }


def test_client_metrics_tell_their_numbers_and_names(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    values = {"loss": np.array([1.0, 3.0, np.nan]), "none": np.full(3, np.nan)}
    got = eqf.ClientMetrics(values, np.array([1000, 234, 0]), ["a", "b", "c"])
    assert repr(got) == (
        "ClientMetrics(3 clients, 1,234 examples; mean over clients: loss 2, none nan)"
    )
    for ask in (got.mean, got.quantiles):
        with pytest.raises(ValueError, match="no metric 'lss'. It has: loss, none"):
            ask("lss")
    # A mean over nothing, without a word from NumPy.
    assert np.isnan(got.mean("none"))
    assert all(map(np.isnan, got.quantiles("none").values()))
    with pytest.raises(TypeError, match="`q` must be several numbers.*got 0.5"):
        got.quantiles("loss", 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`q` must be at most 1, got 90"):
        got.quantiles("loss", (90,))


def test_a_mean_over_nothing():
    def measure(model, example, key):
        # No example of "c" is above 0, and no client has one above 9.
        above, far = example["x"] > 0, example["x"] > 9
        return {
            "above": eqf.Average(jnp.where(above, example["x"], 0.0), above),
            "far": eqf.Average(jnp.where(far, 1.0, 0.0), far),
        }

    x = {"a": [1.0, 3.0, -1.0], "b": [], "c": [-2.0]}
    dataset = eqf.data.FederatedDataset.from_mapping(
        {name: {"x": np.array(rows, np.float32)} for name, rows in x.items()}
    )
    got = eqf.evaluate(MODEL, dataset, measure)
    assert got["above"] == 2.0
    assert np.isnan(got["far"])
    each = eqf.evaluate(MODEL, dataset, measure, per_client=True)
    np.testing.assert_array_equal(each.values["above"], [2.0, np.nan, np.nan])
    assert each.mean("above") == 2.0


@pytest.mark.parametrize("per_client", (False, True))
def test_nan_in_the_data_is_named_once(per_client):
    x = X.astype(np.float32)
    x[7, 1] = np.nan  # the second row of the fourth client, after 5 + 0 + 1
    columns = {"x": x, "y": np.asarray(Y, np.float32)}
    dataset = eqf.data.FederatedDataset(columns, DATASET.offsets, DATASET.client_ids)
    evaluator = eqf.Evaluator(dataset, loss)
    ask = evaluator.per_client if per_client else evaluator
    where = rf"row 1 of client {DATASET.client_ids[3]!r}: its column 'x' holds nan"
    with pytest.warns(UserWarning, match=where) as warned:
        ask(MODEL)
    assert [w.filename for w in warned] == [__file__]
    got = ask(MODEL)  # not again
    if isinstance(got, eqf.ClientMetrics):
        assert np.isnan(got.values["loss"]).tolist() == [
            size == 0 or i == 3 for i, size in enumerate(SIZES)
        ]
    else:
        assert np.isnan(got["loss"])

    def masked(model, example, key):
        return loss(model, jax.tree.map(jnp.nan_to_num, example), key)

    # What is left out is nobody's business.
    assert np.isfinite(eqf.evaluate(MODEL, dataset, masked)["loss"])


def test_a_label_without_a_logit_is_named():
    def measure(model, example, key):
        return eqf.cross_entropy(model, example["label"])

    dataset = eqf.data.FederatedDataset.from_mapping(
        {"a": {"label": np.array([0, 1])}, "b": {"label": np.array([2, 1, 3])}}
    )
    with pytest.warns(UserWarning, match="row 2 of client 'b': it has label = 3"):
        got = eqf.evaluate(jnp.zeros(3), dataset, measure)
    assert np.isnan(got["loss"])
    with pytest.warns(UserWarning, match="The model is not finite"):
        eqf.evaluate(jnp.full(3, jnp.nan), dataset, measure)


def test_datasets_of_many_sizes_compile_a_few_times():
    traces = 0

    def counted(model, example, key):
        nonlocal traces
        traces += 1
        return loss(model, example, key)

    sizes = tuple(range(1, 41))
    many = testing.ragged_clients(sizes)
    each = eqf.evaluate(MODEL, many, loss, per_client=True)
    for per_client in (False, True):
        traces = 0
        for i in range(0, len(sizes), 3):
            got: Any = eqf.evaluate(
                MODEL, many[i : i + 1], counted, per_client=per_client, batch_size=8
            )
            got = got.mean("loss") if per_client else got["loss"]
            np.testing.assert_allclose(got, each.values["loss"][i], rtol=1e-5)
        # One for each of 16, 32 and 64 rows, of which each traces a few times; beside
        # that every evaluation tries the metrics on the shapes of an example.
        tried = 2 * len(range(0, len(sizes), 3))
        assert traces - tried <= 3 * 4


@pytest.mark.parametrize("piece", (1, 7 * 16, 2**28))
@pytest.mark.parametrize("per_client", (False, True))
def test_in_pieces(monkeypatch, piece, per_client):
    # A row is 16 bytes: pieces of one batch, of 7 rows, and of all rows.
    monkeypatch.setattr("equifed._evaluate.rows._PIECE", piece)
    evaluator = eqf.Evaluator(DATASET, loss_and_more, batch_size=2)
    if not per_client:
        for _ in range(2):
            check(evaluator(MODEL), expected(slice(None)))
        return
    got = evaluator.per_client(MODEL)
    for i in np.flatnonzero(SIZES):
        check(got[DATASET.client_ids[i]], expected(OWNER == i))


def test_other_metrics_of_a_matrix_shape():
    dataset = eqf.data.FederatedDataset.from_mapping(
        {
            "a": {"label": np.array([0, 1, 1], np.uint8)},
            "b": {"label": np.zeros(0, np.uint8)},
            "c": {"label": np.array([2], np.uint8)},
        }
    )

    def metrics(logits, example, key):
        label = example["label"].astype(jnp.int32)
        return {
            "confusion": eqf.ConfusionMatrix(logits, label),
            "accuracy": eqf.accuracy(logits, label),
        }

    logits = jnp.array([0.0, 1.0, 0.5])
    got = eqf.evaluate(logits, dataset, metrics)
    assert isinstance(got["confusion"], np.ndarray)
    assert got["confusion"].tolist() == [[0, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert got["accuracy"] == 0.5
    each = eqf.evaluate(logits, dataset, metrics, per_client=True)
    np.testing.assert_array_equal(each.values["confusion"][0].sum(0), [0, 3, 0])
    assert np.isnan(each.values["confusion"][1]).all()
    np.testing.assert_allclose(each.values["accuracy"], [2 / 3, np.nan, 0.0], rtol=1e-6)


def test_in_inference_mode(getkey):
    class Model(eqx.Module):
        linear: testing.Linear
        dropout: eqx.nn.Dropout

    def dropped(model, example, key):
        x = model.dropout(example["x"], key=key)
        return loss(model.linear, {**example, "x": x}, key)

    model = Model(MODEL, eqx.nn.Dropout(0.5))
    for key in (None, getkey()):
        got = eqf.evaluate(model, DATASET, dropped, key=key)
        check(got, {"loss": expected(slice(None))["loss"]})
    # Training has dropout on.
    assert dropped(model, {"x": jnp.ones(3), "y": 0.0}, jr.key(0)) != dropped(
        model, {"x": jnp.ones(3), "y": 0.0}, jr.key(1)
    )
    assert not model.dropout.inference


def test_examples_have_keys_of_their_own(getkey):
    def noise(model, example, key):
        return {"noise": jr.normal(key), "square": jr.normal(key) ** 2}

    many = testing.ragged_clients((400,))
    got = eqf.evaluate(MODEL, many, noise, key=getkey(), batch_size=64)
    assert abs(got["noise"]) < 0.3
    assert 0.7 < got["square"] < 1.3
    assert eqf.evaluate(MODEL, many, noise) == eqf.evaluate(MODEL, many, noise)


def test_many_models_are_one_trace():
    traces = 0

    def counted(model, example, key):
        nonlocal traces
        traces += 1
        return loss(model, example, key)

    evaluator = eqf.Evaluator(DATASET, counted)
    values = []
    for scale in (1.0, 2.0, 3.0):
        values.append(evaluator(jax.tree.map(lambda x: x * scale, MODEL))["loss"])  # noqa: B023
        if scale == 1.0:
            first = traces
    assert traces == first
    assert len(set(values)) == 3


def test_half_precision_is_averaged_in_single():
    dataset = eqf.data.FederatedDataset.from_mapping({"a": {"x": np.ones(1000)}})

    def metric(model, example, key):
        return {"x": example["x"].astype(jnp.bfloat16) * model}

    got = eqf.evaluate(jnp.asarray(0.5, jnp.bfloat16), dataset, metric)
    assert got["x"] == 0.5


def test_matrices_of_each_client():
    dataset = eqf.data.FederatedDataset.from_mapping(
        {
            "a": {"label": np.array([0, 1], np.int32)},
            "b": {"label": np.array([1], np.int32)},
        }
    )

    def measure(model, example, key):
        return {
            "matrix": eqf.ConfusionMatrix(model.x * jnp.eye(2)[0], example["label"])
        }

    got = eqf.evaluate(testing.Point(1.0), dataset, measure, per_client=True)
    for client, matrix in (("a", [[1, 0], [1, 0]]), ("b", [[0, 0], [1, 0]])):
        assert isinstance(got[client]["matrix"], np.ndarray)
        assert got[client]["matrix"].tolist() == matrix
    for ask in (got.mean, got.quantiles):
        with pytest.raises(
            ValueError, match="'matrix' is an array of shape \\(2, 2\\)"
        ):
            ask("matrix")
    assert "matrix [2, 2]" in repr(got)


def test_the_batch_size_fits_what_a_model_computes():
    example = {"x": jax.ShapeDtypeStruct((64, 64, 8), jnp.float32)}

    def small(model, example, key):
        return (model @ example["x"][0, 0]).mean()

    def large(model, example, key):
        y = jnp.tanh(example["x"] * 2.0)  # 128 KiB, as the inner program's result too
        return jax.jit(lambda y: (y + 1).mean())(y)

    model = jnp.ones((2048, 8))  # What is as large without examples does not count.
    assert choose_batch_size(small, model, example) == 1024
    assert choose_batch_size(large, model, example) == 128


BAD_LOSSES = {
    "a batch": lambda model, example, key: model.weight @ example["x"][None],
    "a vector": lambda model, example, key: example["x"],
    "nothing": lambda model, example, key: None,
    "a pair of numbers": lambda model, example, key: (jnp.zeros(()), 3),
}


# But for what it is that they are told of.
AS_METRICS = {
    "must be one": "must be a dictionary, or a loss: one",
    "The loss": "The metrics",
    "Its own": "Their own",
    "is given": "are given",
    "`loss(": "`metrics(",
}


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_the_same_errors_as_those_of_training(name):
    loss, batching = BAD_LOSSES[name], eqf.data.Epochs(batch_size=4)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), batching)
    with pytest.raises(ValueError) as trained:
        eqf.train(algorithm, MODEL, loader, num_rounds=1, key=jr.key(0))
    expected = str(trained.value)
    for loss_words, words in AS_METRICS.items():
        expected = expected.replace(loss_words, words)
    kwargs: Any
    for kwargs in ({}, {"batch_size": 3}, {"per_client": True}):
        with pytest.raises(ValueError) as evaluated:
            eqf.evaluate(MODEL, DATASET, loss, **kwargs)
        assert str(evaluated.value) == expected
