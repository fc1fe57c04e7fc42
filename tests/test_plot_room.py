"""What stands beside the axes stands on nothing else, and a matrix is drawn whole."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equifed as eqf
from equifed import plot


matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = importlib.import_module("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def run(values):
    history = [{"round": i + 1, "loss": float(v)} for i, v in enumerate(values)]
    return types.SimpleNamespace(history=history)


def check_legends(figure):
    """No legend stands on other axes and what belongs to them, or leaves the figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        legend = ax.get_legend()
        extent = legend.get_window_extent(renderer)
        assert extent.x1 <= figure.bbox.x1 + 1, legend
        for other in figure.axes:
            if other is not ax:
                assert not extent.overlaps(other.get_tightbbox(renderer))


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore:.*tight_layout.*:UserWarning")
def test_legends_cover_no_neighbour(layout, nested):
    if nested and layout == "tight":
        pytest.skip("Matplotlib lays out subfigures in the constrained way only.")
    figure = pyplot.figure(figsize=(11, 7), layout=layout)
    within = figure.subfigures(1, 1) if nested else figure
    axes = within.subplots(2, 2)
    runs = {"FedAvg": run([3, 2]), "SCAFFOLD with a long name": run([3, 1])}
    plot.learning_curves(runs, "loss", ax=axes[0, 0])
    plot.learning_curves({"again": run([1, 2])}, "loss", ax=axes[0, 0])
    many = {f"algorithm {i}": run([i, i + 1]) for i in range(22)}
    plot.learning_curves(many, "loss", ax=axes[1, 0])
    bowls = {"client 1": lambda x: jnp.sum(x**2), "client 2": lambda x: jnp.sum(x**4)}
    limits = ((-1, 1), (-1, 1))
    for ax in axes[:, 1]:
        plot.objective_contours(bowls, limits=limits, ax=ax)
    plot.trajectory([[0, 0], [1, 1]], ax=axes[0, 1], label="FedAvg")
    check_legends(figure)


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (
            (1, 2),
            ["a first name of thirty-four letters", "another of thirty-one letters"],
        ),
        ((2, 2), [f"run {i}" for i in range(20)]),
        ((1, 3), ["a name that is wider than any of the axes here can ever be made"]),
    ],
)
def test_a_legend_without_room_is_inside_and_no_larger_than_its_axes(
    layout, shape, names
):
    figure, axes = pyplot.subplots(*shape, layout=layout)  # of Matplotlib's own size
    runs = {name: run([3, i + 1]) for i, name in enumerate(names)}
    runs.setdefault("b", run([1, 2]))
    for ax in axes.flat:
        plot.learning_curves(runs, "loss", ax=ax)
    figure.canvas.draw()
    for ax in axes.flat:
        inside, own = ax.get_legend().get_window_extent(), ax.get_window_extent()
        assert own.x0 <= inside.x0 < inside.x1 <= own.x1
        assert own.y0 <= inside.y0 < inside.y1 <= own.y1


def test_a_legend_is_made_anew_in_the_same_room():
    _, (ax, _) = pyplot.subplots(1, 2, figsize=(12, 4))
    before = ax.get_position().x0, ax.get_position().x1
    widths = []
    for i in range(4):
        plot.learning_curves({f"run {i}": run([2, 1])}, "loss", ax=ax)
        widths.append(ax.get_position(original=True).width)
    assert widths[0] == pytest.approx(before[1] - before[0])  # One run has no legend.
    assert widths[1] < widths[0]
    np.testing.assert_allclose(widths[1:], widths[1], rtol=1e-3)


COUNTS = np.array([[8.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])


def written(ax):
    cells = [["" for _ in range(3)] for _ in range(3)]
    for text in ax.texts:
        column, row = text.get_position()
        cells[row][column] = text.get_text()
    return cells


def test_a_confusion_matrix():
    ax = plot.confusion_matrix(COUNTS, classes=["cat", "dog", "owl"])
    assert written(ax) == [["8", "2", "0"], ["0", "0", "0"], ["1", "1", "2"]]
    np.testing.assert_array_equal(ax.images[0].get_array(), COUNTS)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [t.get_text() for t in labels] == ["cat", "dog", "owl"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("class", "taken for")


def test_a_confusion_matrix_by_row():
    ax = plot.confusion_matrix(COUNTS, normalize=True)
    first, none, last = written(ax)
    assert first == ["0.80", "0.20", "0.00"]
    assert none == ["", "", ""]
    assert last == ["0.25", "0.25", "0.50"]


def test_a_confusion_matrix_from_an_evaluation():
    logits = np.eye(4, 3, dtype=np.float32)
    columns = {"x": logits, "label": np.array([0, 1, 1, 2])}
    dataset = eqf.data.FederatedDataset.from_arrays(columns, by=np.zeros(4, int))

    def metrics(model, example, key):
        return {
            "confusion": eqf.ConfusionMatrix(model * example["x"], example["label"])
        }

    found = eqf.evaluate(jnp.ones(()), dataset, metrics)["confusion"]
    ax = plot.confusion_matrix(found)
    assert written(ax) == [["1", "0", "0"], ["0", "1", "1"], ["1", "0", "0"]]
    metric = jax.tree.map(jnp.asarray, eqf.ConfusionMatrix(jnp.eye(3)[1], 2))
    assert written(plot.confusion_matrix(metric))[2] == ["0", "1", "0"]


def test_a_large_confusion_matrix_has_a_colour_bar():
    _, (ax, beside) = pyplot.subplots(1, 2)
    plot.confusion_matrix(np.eye(62), ax=ax)
    bar = next(a for a in ax.figure.axes if a not in (ax, beside))
    assert bar.get_position().x1 < beside.get_position().x0
    assert not ax.texts
    assert len(ax.get_xticks()) <= 21


@pytest.mark.parametrize(
    "counts, options, message",
    [
        (np.ones((2, 3)), {}, "`counts` must be a square matrix"),
        ("all", {}, "`counts` must be a square matrix.*got 'all'"),
        (np.full((2, 2), np.nan), {}, "finite.*got nan in row 0, column 0.*no logit"),
        (np.eye(2) - 1, {}, "got -1 in row 0, column 1"),
        (np.eye(2), {"classes": ["a"]}, "`classes` must be 2 names.*got 1"),
    ],
)
def test_no_confusion_matrix(counts, options, message):
    with pytest.raises(ValueError, match=message):
        plot.confusion_matrix(counts, **options)
