"""Recipes: every number is one of its algorithm, has a source, and is what the source
says; the small forms run."""

import dataclasses
import math
import pathlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import recipes
from equifed.recipes._aggregators import KINDS as AGGREGATORS
from equifed.recipes._algorithms import ALGORITHMS
from equifed.recipes._arguments import arguments_of
from equifed.recipes._compression import KINDS as COMPRESSORS
from equifed.recipes._helps import helps
from equifed.recipes._published import measured
from equifed.recipes._roles import roles_of

from .test_data_sets_images import femnist, parquet
from .test_data_sqlite import example, fedjax_file, packed, texts, tff_file


NAMES = [recipe.name for recipe in recipes.recipes()]


def test_every_number_has_a_source_and_every_figure_too():
    assert len(NAMES) == len(set(NAMES)) > 40
    for recipe in recipes.recipes():
        for name in (*recipe.numbers, "batching", "clients_per_round", "rounds"):
            assert len(recipe.source_of(name)) > 20
        for name in recipe.sources:
            assert recipe.source_of(name)  # and none is of a number that there is not
        if recipe.published is not None:
            share = recipe.published.reaches or recipe.published.value
            assert 0 < share < 1
            assert recipe.published.source
        else:
            assert recipe.without


def test_small_forms_build_what_the_recipes_say():
    seen = set()
    for recipe in recipes.recipes():
        small = recipe.small()
        assert small.task.name == "digits-dense"
        assert small.rounds <= 3
        kind = (recipe.algorithm, tuple(sorted(recipe.numbers)))
        if kind in seen or recipe.privacy is not None:
            continue
        seen.add(kind)
        algorithm = small.build()
        inner = getattr(algorithm, "first", algorithm)
        assert type(inner) is recipe.algorithm
        assert algorithm.batching == small.batching.build()
    assert len(seen) >= 12


def test_figures_are_those_of_the_sources():
    def value(name):
        published = recipes.recipe(name).published
        assert published is not None
        return published.value

    assert value("flsim-fedavg-iid") == 0.8252
    assert value("flsim-scaffold-dir0.3") == 0.8275
    assert value("flsim-feddyn-dir0.1") == 0.7896
    assert value("flsim-fedspeed-dir0.6") == 0.8605
    assert value("niid-bench-fednova") == 0.6389
    assert value("fedjax-emnist-compressed") == 0.8554
    assert value("fedjax-emnist-dense-apfl") == 0.9585129
    for task, percent in {
        "emnist": 84.9,
        "cifar100": 44.7,
        "shakespeare": 56.9,
        "stackoverflow": 19.5,
    }.items():
        assert value(f"reddi-{task}-fedavg") == pytest.approx(percent / 100)
        assert recipes.recipe(f"reddi-{task}-fedadam").published is None
    assert recipes.recipe("reddi-tags-fedavg").published is None
    tags = recipes.recipe("reddi-tags-fedadam")
    assert tags.numbers["client_optim"].learning_rate == pytest.approx(100 * 10**2)
    assert tags.batching == recipes.Batching(batch_size=100, epochs=1)
    assert "sum over a batch" in tags.source_of("client_optim")
    reddi = recipes.recipe("reddi-emnist-fedadam").numbers
    assert reddi["server_learning_rate"] == pytest.approx(10**-2.5)
    assert reddi["client_optim"].learning_rate == pytest.approx(10**-1.5)
    assert reddi["tau"] == pytest.approx(1e-4)
    acar = recipes.recipe("acar-feddyn-dir0.6")
    assert acar.numbers["alpha"] == 0.01
    assert acar.numbers["client_optim"].weight_decay == 1e-3
    assert (acar.clients_per_round, acar.rounds) == (100, 1000)
    assert "utils_general.py" in acar.source_of("client_optim")


def test_rounds_to_an_accuracy_are_those_of_the_source():
    found = {r.name: r for r in recipes.recipes() if r.name.startswith("acar-")}
    cited = {
        "acar-feddyn-iid": (67, "06aadd4e", "198 rounds to 85%"),
        "acar-fedavg-iid": (754, "5bfaa095", "491 in a run of the authors' code"),
    }
    for name, recipe in found.items():
        if name not in cited:
            assert recipe.published is None
            assert "not at hand to be checked" in recipe.without
            continue
        rounds, commit, more = cited[name]
        figure = recipe.published
        assert figure is not None
        assert (figure.value, figure.reaches) == (rounds, 0.814)
        assert commit in figure.source
        assert "cites Acar et al." in figure.source
        assert more in recipe.notes
        assert recipe.eval_every == 1  # or the first round of all would not be seen


def test_mimelite_steps_as_its_source_does():
    """`lr=0.1, beta=0.9` of JedMills/FedGBO, whose clients move by lr (beta m + (1 -
    beta) g), and whose server has m = beta m + (1 - beta) c."""
    mills = recipes.recipe("mills-emnist-mimelite")
    assert (mills.clients_per_round, mills.rounds) == (30, 5000)
    assert mills.batching == recipes.Batching(batch_size=32, steps=10)
    assert "main.py" in mills.source_of("rounds")
    assert recipes.recipe("mills-cifar100-mimelite").clients_per_round == 5
    optim, rng = mills.numbers["optim"].build(0), np.random.default_rng(0)
    state, m = optim.init(jnp.zeros(3)), np.zeros(3)
    for g, c in rng.normal(size=(4, 2, 3)):
        update, _ = optim.update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(update, -0.1 * (0.9 * m + 0.1 * g), rtol=1e-4)
        _, state = optim.update(jnp.asarray(c, jnp.float32), state)
        m = 0.9 * m + 0.1 * c
    for name, size in (("emnist", 870_334), ("cifar100", 1_250_852)):
        task = recipes.task(f"{name}-pooled")
        shapes = jax.tree.leaves(eqx.filter_eval_shape(task.model, jr.key(0)))
        shapes = [x for x in shapes if isinstance(x, jax.ShapeDtypeStruct)]
        assert sum(x.size for x in shapes) == size


def test_mime_steps_as_its_source_does():
    """RickZack/GHBM: a client moves by lr times (beta m + g + decay w), where g is
    corrected, and the server by a tenth of the clients' mean. Its ResNet-20 has He et
    al.'s shortcuts without parameters, and layers that begin as theirs do."""
    recipe = recipes.recipe("zaccone-cifar10-mime")
    assert (recipe.clients_per_round, recipe.rounds) == (10, 10_000)
    assert recipe.batching == recipes.Batching(batch_size=64, epochs=1, last="drop")
    assert "mimemom.yaml" in recipe.source_of("server_learning_rate")
    algorithm: Any = recipe.build()
    assert algorithm.server_learning_rate == pytest.approx(0.1)
    assert isinstance(algorithm.gradient_aggregator, eqf.UniformMean)
    optim, rng = recipe.numbers["optim"].build(0), np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=3), jnp.float32)
    state, m = optim.init(w), np.zeros(3)
    for g, c in rng.normal(size=(4, 2, 3)):
        update, _ = optim.update(jnp.asarray(g, jnp.float32), state, w)
        np.testing.assert_allclose(update, -0.1 * (0.9 * m + g + 1e-4 * w), rtol=1e-4)
        _, state = optim.update(jnp.asarray(c, jnp.float32), state, w)
        m = 0.9 * m + c + 1e-4 * np.asarray(w)
    model = recipe.task.model(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(model) if eqx.is_array(x)) == 269_722
    widens = [block for block in model.blocks if block.shortcut is not None]
    x = jnp.arange(4 * 4 * 16.0).reshape(4, 4, 16)
    y = widens[0].shortcut(x)
    np.testing.assert_array_equal(y[..., 8:24], x[::2, ::2])
    assert len(widens) == 2
    assert not jnp.concatenate([y[..., :8], y[..., 24:]]).any()
    deviation = float(model.blocks[-1].conv2.weight.std())
    assert deviation == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float(model.dense.weight.std()) == pytest.approx(32**-0.5, rel=0.15)


def test_a_rate_falls_from_round_to_round():
    decay = recipes.Decay(factor=0.5, every=3)
    rates = [float(decay(0.8, t)) for t in (0, 2, 3, 6)]
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.2], rtol=1e-6)
    assert recipes.Decay()(0.8, 7) == 0.8
    rises = recipes.Decay(warmup=4)
    rates = [float(rises(0.8, t)) for t in (0, 1, 3, 4, 9)]
    np.testing.assert_allclose(rates, [0, 0.2, 0.6, 0.8, 0.8], rtol=1e-6)
    both = recipes.Decay(factor=0.5, every=3, warmup=4)
    np.testing.assert_allclose(float(both(0.8, 3)), 0.3, rtol=1e-6)
    algorithm = recipes.recipe("flsim-fedavg-iid").small().build()
    assert isinstance(algorithm, eqf.OverRounds)
    same = recipes.recipe("flsim-fedavg-iid").small().build()
    assert isinstance(same, eqf.OverRounds)
    assert same.make == algorithm.make  # so that it is compiled once
    assert hash(same.make) == hash(algorithm.make)


OPTIMIZERS = {
    "SGD": (recipes.SGD(learning_rate=0.1), optax.sgd(0.1)),
    "Momentum": (
        recipes.Momentum(learning_rate=0.1, momentum=0.8, nesterov=True),
        optax.sgd(0.1, 0.8, nesterov=True),
    ),
    "Adam": (
        recipes.Adam(learning_rate=0.1, b1=0.8, b2=0.9, eps=0.01),
        optax.adam(0.1, 0.8, 0.9, 0.01),
    ),
    "Adagrad": (
        recipes.Adagrad(learning_rate=0.1, initial_accumulator=0.2, eps=0.01),
        optax.adagrad(0.1, 0.2, 0.01),
    ),
    "Yogi": (
        recipes.Yogi(learning_rate=0.1, b1=0.8, b2=0.9, eps=0.01),
        optax.yogi(0.1, 0.8, 0.9, 0.01),
    ),
    "RMSprop": (
        recipes.RMSprop(learning_rate=0.1, b2=0.8, eps=0.01),
        optax.rmsprop(0.1, 0.8, 0.01),
    ),
}


def test_optimizers_are_optax_own():
    params = jnp.array([1.0, -2.0])
    grads = jnp.array([30.0, 0.5])

    def two_steps(optim, grads):
        state = optim.init(params)
        _, state = optim.update(grads, state, params)
        return optim.update(grads, state, params)[0]

    def everything():
        plain = {
            n: (two_steps(a.build(), grads), two_steps(b, grads))
            for n, (a, b) in OPTIMIZERS.items()
        }
        clipped = dataclasses.replace(
            OPTIMIZERS["SGD"][0], clip_norm=1.0, weight_decay=0.5
        )
        return plain, two_steps(clipped.build(), grads)

    with jax.numpy_dtype_promotion("standard"):  # Optax's own, not through `Optim`
        plain, clipped = jax.jit(everything)()
    for got, wanted in plain.values():
        np.testing.assert_array_equal(got, wanted)
    scaled = np.asarray(grads) / np.linalg.norm(grads)
    wanted = -0.1 * (scaled + 0.5 * np.asarray(params))
    np.testing.assert_allclose(clipped, wanted, rtol=1e-5)


SYMBOLS = set("alpha beta gamma eta theta lambda tau rho sigma epsilon".split())


def said_in_words(words):
    """More than a paper's symbol and its bounds, such as "tau > 0, at least 1"."""
    told = set(re.findall("[A-Za-z]{4,}", words)) - {"from", "least"}
    return len(told - SYMBOLS) > 0


def test_every_algorithm_of_a_loss_has_its_arguments_with_help():
    assert len(ALGORITHMS) >= 30
    for name, cls in ALGORITHMS.items():
        assert eqf.recipes.algorithm(name) is cls
        for argument in arguments_of(cls).values():
            assert said_in_words(argument.help), (name, argument.name, argument.help)
    for kind in (*COMPRESSORS.values(), *AGGREGATORS.values()):
        for name, words in helps(kind).items():
            assert said_in_words(words), (kind, name, words)
    fedadam = arguments_of(eqf.FedAdam)
    assert fedadam["tau"].default == 1e-3
    assert fedadam["client_optim"].required
    assert "loss" not in fedadam


class Normed(eqx.Module):
    """A model with all that has a name."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        self.first, self.last = (eqx.nn.Linear(2, 2, key=key) for _ in range(2))
        self.norm = eqx.nn.LayerNorm(2)


LAST = (".last.weight", ".last.bias")
FIRST = (".first.weight", ".first.bias")
NORM = (".norm.weight", ".norm.bias")
ROLES = {
    "by default": (eqf.FedPer, (), (), LAST, ()),
    "the body by default": (eqf.LGFedAvg, (), (), FIRST + NORM, ()),
    "normalisation by default": (eqf.FedBN, (), (), NORM, ()),
    "frozen by default": (eqf.FedBABU, (), (), (), LAST),
    "frozen too": (eqf.FedRep, (), ("norm",), LAST, NORM),
    "several": (eqf.FedAlt, ("norms", "first.bias", "norm"), (), FIRST[1:] + NORM, ()),
    "of any algorithm": (eqf.FedAvg, (), ("head", "norms"), (), NORM + LAST),
    "none": (eqf.FedAvg, (), (), None, None),
}


@pytest.mark.parametrize("case", ROLES)
def test_parts_of_a_model_have_names(case):
    cls, personal, frozen, is_personal, is_frozen = ROLES[case]
    task = dataclasses.replace(
        recipes.task("digits-dense"), make=Normed, head=lambda m: m.last
    )
    named: Any = {"personal": personal, "frozen": frozen}
    found = roles_of(cls, task, task.model(jr.key(0)), named)
    if found is None:
        assert is_personal is None
        return
    assert found.of("personal") == is_personal
    assert found.of("frozen") == is_frozen


def test_our_figure_is_of_the_same_kind():
    rounds, values = [10, 20, 30], [0.1, 0.5, 0.3]

    def ours(over):
        figure = recipes.Published(value=0.5, source="a table", over=over)
        return measured(figure, rounds, values)

    assert ours("last") == 0.3
    assert ours("best") == 0.5
    assert ours(20) == pytest.approx(0.4)
    assert math.isnan(measured(recipes.Published(value=0.5, source="x"), [], []))


def test_our_rounds_are_the_first_evaluated_ones_that_reach_the_level():
    def ours(level, rounds, values):
        figure = recipes.Published(value=9, reaches=level, source="a table")
        return measured(figure, rounds, values)

    rounds, values = [10, 20, 30, 35], [0.25, 0.5, math.nan, 0.25]
    assert ours(0.25, rounds, values) == 10  # at it is enough
    assert ours(0.3, rounds, values) == 20  # and it need not stay there
    assert math.isnan(ours(0.6, rounds, values))
    assert math.isnan(ours(0.3, [], []))
    assert math.isnan(ours(0.3, [1, 2], [math.nan, math.nan]))


def one_of_each_kind():
    """The first recipe of each algorithm with the same optimisers and compressors."""
    kinds = {}
    for recipe in recipes.recipes():
        parts = (type(x) for x in recipe.numbers.values())
        kind = (recipe.algorithm, *parts, recipe.compress is None)
        if recipe.privacy is None:  # those have tests of their own
            kinds.setdefault(kind, recipe.name)
    return list(kinds.values())


@pytest.mark.parametrize("name", one_of_each_kind())
def test_small_forms_train(name):
    recipe = recipes.recipe(name).small()
    train, evaluation = recipe.task.load()
    key = jr.key(0)
    solution = eqf.train(
        recipe.build(),
        recipe.task.model(key),
        recipe.loader(train, seed=0),
        num_rounds=1,
        key=key,
        # Once is enough: all have one model and one loss.
        evaluation={"test": evaluation["test"]} if "digits" in name else {},
        metrics=recipe.task.metrics,
        logger=eqf.NoLogger(),
    )
    assert np.isfinite(solution.history[-1]["loss"])
    assert solution.result == eqf.RESULTS.successful
    if "digits" in name:
        _, accuracies = solution.values("test/accuracy")
        assert 0 < accuracies[-1] <= 1


@pytest.mark.parametrize("name", ["digits-dense", "digits-cnn"])
def test_what_the_last_layer_is_given(name):
    task = recipes.task(name)
    model = eqx.filter_eval_shape(task.model, jr.key(0))
    image = jax.ShapeDtypeStruct((8, 8), jnp.uint8)
    example = {"image": image, "label": jax.ShapeDtypeStruct((), jnp.int32)}
    assert task.representation is not None
    assert task.logits is not None
    hidden = eqx.filter_eval_shape(task.representation, model, example, jr.key(0))
    logits = eqx.filter_eval_shape(task.logits, model, example, jr.key(0))
    assert hidden.shape == (64,)
    assert logits.shape == (10,)


TAGS = {
    "words": jax.ShapeDtypeStruct((200,), jnp.int32),
    "share": jax.ShapeDtypeStruct((), jnp.float32),
    "tags": jax.ShapeDtypeStruct((5,), jnp.int32),
}
EXAMPLES = {
    "emnist": ((28, 28, 1), jnp.float32, ()),
    "cifar10": ((32, 32, 3), jnp.uint8, ()),
    "cifar100": ((32, 32, 3), jnp.uint8, ()),
    "shakespeare": ((80,), jnp.int32, (80,)),
    "stackoverflow": ((20,), jnp.int32, (20,)),
}


@pytest.mark.parametrize("name", [t.name for t in recipes.tasks() if t.files])
def test_models_take_the_examples_of_their_tasks(name):
    task = recipes.task(name)
    x, dtype, y = EXAMPLES[name.partition("-")[0]]
    example = {
        "x": jax.ShapeDtypeStruct(x, dtype),
        "y": jax.ShapeDtypeStruct(y, jnp.int32),
    }
    example = TAGS if name == "stackoverflow-tag" else example
    model = eqx.filter_eval_shape(task.model, jr.key(0))
    loss, _ = eqx.filter_eval_shape(task.loss, model, example, jr.key(0))
    assert loss.shape == ()
    still = eqx.nn.inference_mode(model)
    assert eqx.filter_eval_shape(task.metrics, still, example, jr.key(0))
    assert task.licence
    assert task.cite
    with pytest.raises(FileNotFoundError, match="`folder` must be a folder"):
        task.load(pathlib.Path("nowhere"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def loads(task, folder):
    """Its examples are such as its loss takes."""
    train, evaluation = task.load(folder)
    assert train.num_examples > 0
    assert evaluation["test"].num_examples > 0
    model = eqx.filter_eval_shape(task.model, jr.key(0))
    for dataset in (train, evaluation["test"]):
        one = {
            name: jax.ShapeDtypeStruct(column.shape[1:], column.dtype)
            for name, column in dataset.columns.items()
        }
        loss, _ = eqx.filter_eval_shape(task.loss, model, one, jr.key(0))
        assert loss.shape == ()
    return train, evaluation["test"]


def test_emnist_and_cifar_are_loaded_from_a_folder(tmp_path, cache):
    from PIL import Image

    letters = ["f0003_02"] * 12 + ["f0004_03"] * 20
    pixels = np.random.default_rng(0).integers(0, 256, (32, 28, 28), np.uint8)
    columns = {
        "image": [Image.fromarray(p) for p in pixels],
        "writer_id": letters,
        "hsf_id": [0] * 32,
        "character": list(range(32)),
    }
    (tmp_path / "emnist").mkdir()
    femnist(tmp_path / "emnist" / "train-0.parquet", **columns)
    train, test = loads(recipes.task("emnist-conv"), tmp_path / "emnist")
    assert train.num_examples + test.num_examples == 32
    assert train.client_ids == test.client_ids == ["f0003_02", "f0004_03"]
    train, test = loads(recipes.task("emnist-pooled"), tmp_path / "emnist")
    assert (train.num_examples, test.num_examples) == (16, 4)
    assert train.client_ids == test.client_ids == ["f0004_03"]

    folder = tmp_path / "cifar10"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    columns = {
        "img": [Image.fromarray(p) for p in pixels],
        "label": np.arange(200) % 10,
    }
    for split in ("train", "test"):
        path = folder / f"{split}-0.parquet"
        parquet(path, columns, img="image", label=10)
    train, test = loads(recipes.task("cifar10-lenet-dir0.5"), folder)
    assert (train.num_clients, test.num_clients) == (10, 1)
    assert min(train.client_sizes) >= 10
    train, test = loads(recipes.task("cifar10-resnet20-dir0"), folder)
    assert (train.num_clients, test.num_clients) == (100, 1)
    assert all(len(np.unique(train[x]["y"])) == 1 for x in train.client_ids)


def test_texts_are_loaded_from_the_files_of_fedjax_and_tensorflow(
    tmp_path, monkeypatch
):
    for split in ("train", "test"):
        blob = packed({"snippets": texts(b"To be, or not to be", b"Ay")})
        fedjax_file(tmp_path / f"shakespeare_{split}.sqlite", [(b"HAMLET", blob, 2)])
    train, _ = loads(recipes.task("shakespeare-character"), tmp_path)
    assert train["HAMLET"]["x"].shape == (1, 80)
    assert train["HAMLET"]["x"][0, 0] == 1  # the beginning

    rows = [
        ("train", "u7", example(tokens=[b"to be"], type=[b"answer"], score=[3])),
        ("test", "u8", example(tokens=[b"be"], type=[b"answer"], score=[2])),
    ]
    tff_file(tmp_path / "stackoverflow.sqlite", rows)
    with pytest.raises(ValueError, match="must have 10000 words or more.*got 2"):
        recipes.task("stackoverflow-word").load(tmp_path)
    monkeypatch.setattr("equifed.recipes._texts.NUM_WORDS", 2)
    train, _ = loads(recipes.task("stackoverflow-word"), tmp_path)
    assert train["u7"]["x"].shape == (1, 20)


def test_the_tasks_of_reddi_have_their_sizes():
    counts = {"emnist-autoencoder": 2_837_314, "stackoverflow-tag": 10_000 * 500 + 500}
    for name, count in counts.items():
        model = eqx.filter_eval_shape(recipes.task(name).model, jr.key(0))
        assert sum(x.size for x in jax.tree.leaves(model)) == count


def test_an_autoencoder_gives_an_image_back():
    task = recipes.task("emnist-autoencoder")
    image = np.random.default_rng(0).random((28, 28, 1), np.float32)

    def both():
        model = task.model(jr.key(0))
        return task.loss(model, {"x": jnp.asarray(image)}, jr.key(0))[0], model

    loss, model = eqx.filter_jit(both)()
    x = image.reshape(-1)
    for layer in model.layers:
        x = np.asarray(layer.weight) @ x + np.asarray(layer.bias)
        x = x if len(x) == 30 else 1 / (1 + np.exp(-x))
    assert float(loss) == pytest.approx(np.mean((x - image.reshape(-1)) ** 2), rel=1e-5)


def test_the_tags_of_a_text(tmp_path):
    rows = [
        ("train", "u7", example(tokens=[b"b a b"], title=[b"zz a"], tags=[b"c|d"])),
        ("train", "u7", example(tokens=[b"b"], title=[b""], tags=[b"c"])),
        ("test", "u8", example(tokens=[b"zz"], title=[b""], tags=[b"e"])),
    ]
    tff_file(tmp_path / "stackoverflow.sqlite", rows)
    task = recipes.task("stackoverflow-tag")
    train, test = loads(task, tmp_path)
    one = train.client(0)
    # "b" is the first word, "a" the second, and "zz", of a title alone, is none.
    np.testing.assert_array_equal(one["words"][0, :5], [0, 1, 0, 1, 10_000])
    assert one["share"][0] == np.float32(1 / 5)
    np.testing.assert_array_equal(one["tags"], [[0, 1] + [500] * 3, [0] + [500] * 4])
    assert (test.client(0)["words"] == 10_000).all()
    weight = np.zeros((10_000, 500), np.float32)
    weight[0, :3], weight[1, 1] = (2, -1, 3), 4
    bias = np.full(500, -1, np.float32)
    bias[10:16] = np.arange(6) / 10  # thought to be tags as well, but for the first

    def measured_of(example):
        model = eqx.filter_eval_shape(task.model, jr.key(0))
        model = eqx.tree_at(
            lambda m: (m.weight, m.bias),
            model,
            (jnp.asarray(weight), jnp.asarray(bias)),
        )
        return task.metrics(model, example, jr.key(0))

    example_of = {name: jnp.asarray(x[0]) for name, x in one.items()}
    got = jax.jit(measured_of)(example_of)
    logits = 0.4 * weight[0] + 0.4 * weight[1] + bias
    wanted = np.isin(np.arange(500), (0, 1))
    p = 1 / (1 + np.exp(-logits))
    loss = -np.mean(np.where(wanted, np.log(p), np.log(1 - p)))
    assert float(got["loss"]) == pytest.approx(loss, rel=1e-4)
    said = logits > 0
    assert float(got["precision"].compute()) == pytest.approx(
        (said & wanted).sum() / said.sum()
    )
    best = np.argsort(-logits, kind="stable")[:5]
    assert float(got["recall_at_5"].compute()) == wanted[best].sum() / 2


def test_a_recipe_of_compressed_messages_has_a_compressor():
    recipe = recipes.recipe("fedjax-emnist-compressed")
    made = recipe.build()
    assert isinstance(made, eqf.OverRounds)
    aggregator = made.first.aggregator  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(aggregator, eqf.compress.Compress)
    assert "emnist_compression.ipynb" in recipe.source_of("compress")
    down = dataclasses.replace(
        recipes.recipe("digits-fedavg"),
        compress_down=recipes.Compression(kind="eden", num_bits=2),
    )
    assert isinstance(down.build(), eqf.CompressDown)


def test_clients_of_equal_size_have_labels_of_their_own():
    # Of labels alone: 50,000 images would be too many for a test.
    from equifed.recipes._images import _inner

    label = np.repeat(np.arange(10), 5000).astype(np.int32)
    clients = eqf.data.FederatedDataset.from_arrays({"label": label}, _inner(100, 0.1))
    assert set(clients.client_sizes.tolist()) == {500}
    shares = [np.bincount(x["label"], minlength=10) / 500 for _, x in clients.items()]
    assert np.mean(np.max(shares, axis=1)) > 0.5  # most have one label above all
