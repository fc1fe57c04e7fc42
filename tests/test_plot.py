"""Figures show the numbers they are given."""

import importlib
import types

import numpy as np
import pytest

from equifed import plot


matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = importlib.import_module("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def run(values, every=1):
    history = [{"round": i + 1, "loss": float(v)} for i, v in enumerate(values)]
    for row in history[every - 1 :: every]:
        row["test/accuracy"] = row["round"] / 100
    return types.SimpleNamespace(history=history)


class Clients:
    def __init__(self, sizes, num_labels=3):
        self.client_sizes = np.asarray(sizes)
        self.num_clients = len(sizes)
        self.client_ids = [f"client {i}" for i in range(len(sizes))]
        self.num_labels = num_labels

    def client(self, i):
        return {
            "image": np.zeros((self.client_sizes[i], 2)),
            "label": np.arange(int(self.client_sizes[i])) % self.num_labels,
        }


def test_a_line_for_each_run():
    ax = plot.learning_curves({"a": run([3, 2, 1]), "b": run([3, 1])}, "loss")
    first, second = ax.lines
    np.testing.assert_array_equal(first.get_xydata(), [(1, 3), (2, 2), (3, 1)])
    np.testing.assert_array_equal(second.get_xydata(), [(1, 3), (2, 1)])
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlabel() == "round"
    assert ax.get_ylabel() == "loss"


def test_rounds_without_the_metric_are_skipped():
    ax = plot.learning_curves({"a": run(range(7), every=3)}, "test/accuracy")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(3, 0.03), (6, 0.06)])
    assert ax.get_ylabel() == "test accuracy"
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("band", "low", "high"),
    [("range", [1, 2], [4, 6]), ("std", None, None), ("none", None, None)],
)
def test_a_band_over_seeds(band, low, high):
    seeds = [run([1, 2]), run([4, 4]), run([1, 6, 9])]
    ax = plot.learning_curves({"a": seeds}, "loss", band=band)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(1, 2), (2, 4)])
    if band == "std":
        low = [2 - np.std([1, 4, 1]), 4 - np.std([2, 4, 6])]
        high = [2 + np.std([1, 4, 1]), 4 + np.std([2, 4, 6])]
    if band == "none":
        assert not ax.collections
    else:
        corners = ax.collections[0].get_paths()[0].vertices
        for x, bottom, top in zip([1, 2], low, high, strict=True):
            ys = corners[corners[:, 0] == x, 1]
            np.testing.assert_allclose([ys.min(), ys.max()], [bottom, top])


def test_smooth_is_a_mean_of_the_last():
    ax = plot.learning_curves({"a": run([1, 3, 5, 4])}, "loss", smooth=2, log=True)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, 2, 4, 4.5])
    assert ax.get_yscale() == "log"


def test_many_runs_are_told_apart():
    ax = plot.learning_curves({str(i): run([i, i]) for i in range(14)}, "loss")
    styles = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(styles) == 14


def test_draws_where_it_is_told():
    figure, axes = pyplot.subplots(2, 2)
    assert plot.learning_curves({"a": run([1])}, "loss", ax=axes[0, 0]) is axes[0, 0]
    assert plot.client_sizes(Clients([1, 2]), ax=axes[0, 1]) is axes[0, 1]
    assert plot.label_distribution(Clients([1, 2]), ax=axes[1, 0]) is axes[1, 0]
    assert pyplot.get_fignums() == [figure.number]


def test_changes_no_setting():
    before = dict(matplotlib.rcParams)
    plot.learning_curves({"a": run([1, 2])}, "loss")
    plot.client_sizes(Clients([1, 2]))
    plot.label_distribution(Clients([1, 2]))
    assert dict(matplotlib.rcParams) == before


def test_client_sizes_sorted():
    ax = plot.client_sizes(Clients([3, 9, 0, 5]))
    assert [bar.get_height() for bar in ax.patches] == [9, 5, 3, 0]
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "client 1",
        "client 3",
        "client 0",
        "client 2",
    ]
    assert ax.get_title() == "4 clients, 17 examples"
    assert ax.get_legend().get_texts()[0].get_text() == "median 4"


def test_many_client_sizes_are_a_histogram():
    ax = plot.client_sizes(Clients(np.arange(1, 201)))
    assert sum(bar.get_height() for bar in ax.patches) == 200


@pytest.mark.parametrize("num_labels", [3, 20])
def test_label_distribution(num_labels):
    sizes = [4, 1, 45]
    ax = plot.label_distribution(Clients(sizes, num_labels))
    tops = {}
    for bar in ax.patches:
        x = round(bar.get_x() + bar.get_width() / 2)
        tops[x] = tops.get(x, 0) + bar.get_height()
    assert tops == dict(enumerate(sizes))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [str(i) for i in reversed(range(num_labels))]


def test_label_distribution_of_some_clients():
    ax = plot.label_distribution(Clients([2] * 100), max_clients=10)
    assert len(ax.containers[0]) == 10
    assert ax.get_title() == "10 of 100 clients"


def test_errors_say_what_there_is():
    with pytest.raises(ValueError, match="no metric 'auc'. It has: loss, test/acc"):
        plot.learning_curves({"a": run([1])}, "auc")
    apart = [run([1, 2], every=2), run([1], every=1)]
    with pytest.raises(ValueError, match="no round in common"):
        plot.learning_curves({"a": apart}, "test/accuracy")
    with pytest.raises(ValueError, match="`runs` is empty"):
        plot.learning_curves({}, "loss")
    with pytest.raises(ValueError, match="`smooth` must be at least 1"):
        plot.learning_curves({"a": run([1])}, "loss", smooth=0)
    with pytest.raises(ValueError, match="The columns are: image, label"):
        plot.label_distribution(Clients([2]), label="digit")
    with pytest.raises(ValueError, match="not one label for each example"):
        plot.label_distribution(Clients([2]), label="image")
    with pytest.raises(ValueError, match="`max_clients` must be at least 1"):
        plot.label_distribution(Clients([2]), max_clients=0)


def test_matplotlib_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "equifed\[plot\]"'):
        plot.learning_curves({"a": run([1])}, "loss")
