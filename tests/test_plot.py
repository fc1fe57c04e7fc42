"""Figures show the numbers they are given."""

import importlib
import types

import equinox as eqx
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array, Float

import equifed as eqf
from equifed import plot


matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = importlib.import_module("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


@pytest.fixture
def unchecked(monkeypatch):
    """As for a user, whose calls nobody holds against the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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


class Bowl(eqx.Module):
    """`offset + scale * |x - centre|^2`."""

    centre: Float[Array, " dim"] = eqx.field(converter=jnp.asarray)
    scale: float = 1.0
    offset: float = 0.0

    @property
    def dim(self):
        return self.centre.size

    def __call__(self, x):
        return self.offset + self.scale * jnp.sum((x - self.centre) ** 2)

    def optimum(self):
        return self.centre


def kinds(ax):
    """The contours on the axes, and the points."""
    contours = importlib.import_module("matplotlib.contour").ContourSet
    lines = [drawn for drawn in ax.collections if isinstance(drawn, contours)]
    return lines, [drawn for drawn in ax.collections if drawn not in lines]


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


def clocked(seconds, values):
    out = run(values)
    for row, time in zip(out.history, seconds, strict=True):
        row |= {"seconds": time, "bits_up": 800, "bits_down": 8000}
    return out


@pytest.mark.parametrize(
    ("x", "places", "label"),
    [
        ("round", [1, 2, 3], "round"),
        ("seconds", [1800, 3600, 9000], "virtual seconds"),
        ("hours", [0.5, 1, 2.5], "virtual hours"),
        ("bytes", [1100, 2200, 3350], "bytes"),
    ],
)
def test_what_lies_along_the_axis(x, places, label):
    one = clocked([1800.0, 3600.0, 9000.0], [3, 2, 1])
    one.history[2]["bits_wasted"] = 400
    ax = plot.learning_curves({"a": one}, "loss", x=x)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), places)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3, 2, 1])
    assert ax.get_xlabel() == label


def test_seeds_are_compared_at_equal_times():
    runs = [clocked([1.0, 2.0, 4.0], [4, 2, 0]), clocked([1.5, 3.5], [2, 0])]
    ax = plot.learning_curves({"a": runs}, "loss", x="seconds")
    # Each is a line between its measurements, as far as both have come.
    expected = [(1.5, (3 + 2) / 2), (2, (2 + 1.5) / 2), (3.5, (0.5 + 0) / 2)]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), expected)
    apart = [clocked([1.0, 2.0], [4, 2]), clocked([3.0, 8.0], [2, 0])]
    with pytest.raises(ValueError, match="'a' have no stretch in common"):
        plot.learning_curves({"a": apart}, "loss", x="seconds")


@pytest.mark.parametrize(("x", "name"), [("seconds", "seconds"), ("bytes", "bits_up")])
def test_without_a_clock_there_is_no_time(x, name):
    with pytest.raises(ValueError, match=f"'a' has no metric '{name}'"):
        plot.learning_curves({"a": run([3, 2])}, "loss", x=x)


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


def test_smooth_does_not_carry_on_what_is_not_finite():
    for bad in (np.nan, np.inf):
        values = [1, bad, 3, 5, 7]
        ax = plot.learning_curves({"a": run(values)}, "loss", smooth=2)
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1, bad, bad, 4, 6])
        seeds = [run(values), run([1, 2, 3, 4, 5])]
        for band in ("range", "std"):  # without a warning
            plot.learning_curves({"a": seeds}, "loss", band=band, smooth=2)


def test_what_is_nan_is_a_gap():
    values = np.arange(1.0, 41.0)
    values[[3, 5, 6]] = np.nan  # round 5 stands alone
    for log in (False, True):
        line = plot.learning_curves({"a": run(values)}, "loss", log=log).lines[0]
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert line.get_marker() == "o"
        assert line.get_markevery() == [4]
    plot.learning_curves({"a": run([np.nan] * 30)}, "loss").figure.canvas.draw()
    assert plot.learning_curves({"a": run(range(30))}, "loss").lines[
        0
    ].get_marker() in (
        "None",
        None,
    )


def test_a_name_that_there_is_not_makes_no_figure():
    for name in ("los", "round"):
        with pytest.raises(ValueError, match=f"'a' has no metric '{name}'.*loss"):
            plot.learning_curves({"a": run([1, 2])}, name)
    assert pyplot.get_fignums() == []


def test_a_label_that_is_none():
    clients = Clients([3, 2])
    labels = {"label": np.array([0.0, np.nan, 1.0])}
    clients.client = lambda i: labels
    with pytest.raises(
        ValueError, match="'label' of client 'client 0' holds NaN in row"
    ):
        plot.label_distribution(clients)


def test_smooth_keeps_the_digits_of_a_convergent_run():
    values = 1e6 * 100.0 ** -np.arange(12)
    ax = plot.learning_curves({"a": run(values)}, "loss", smooth=3, log=True)
    expected = [np.mean(values[max(0, i - 2) : i + 1]) for i in range(12)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected, rtol=1e-14)
    plain = plot.learning_curves({"a": run(values)}, "loss", smooth=1)
    np.testing.assert_array_equal(plain.lines[0].get_ydata(), values)


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
    plot.trajectory([[0, 0], [1, 1]], ax=plot.objective_contours({"a": Bowl([0, 1])}))
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


@pytest.mark.parametrize("log", [False, True])
def test_contours_are_where_the_function_has_their_level(log):
    bowl = Bowl([1.0, 0.0], scale=2.0, offset=-5.0)
    region = ((-1.0, 3.0), (-2.0, 3.0))
    ax = plot.objective_contours({"a": bowl}, limits=region, levels=4, log=log)
    (contours,), (star,) = kinds(ax)
    # Its least value is -5 at its centre, its greatest in the corners above.
    shares = 10 ** np.array([-1.875, -1.25, -0.625, 0]) if log else [0.25, 0.5, 0.75, 1]
    above = 2 * (2**2 + 3**2) * 0.2 * np.asarray(shares)
    np.testing.assert_allclose(contours.levels, -5 + above, rtol=1e-5)
    for height, path in zip(above, contours.get_paths(), strict=True):
        radii = np.hypot(*(path.vertices - [1, 0]).T)
        assert len(radii) > 20
        np.testing.assert_allclose(radii, np.sqrt(height / 2), rtol=0.02)
    np.testing.assert_array_equal(star.get_offsets(), [(1, 0)])
    assert (ax.get_xlim(), ax.get_ylim()) == region
    assert ax.get_aspect() == 1
    # Not dashed because its levels are below zero.
    assert all(dashes is None for _, dashes in contours.get_linestyles())


def test_contours_around_the_optima():
    bowls = {"a": Bowl([0.0, 1.0]), "b": Bowl([4.0, 3.0], scale=9.0)}
    # The square between the optima has sides of 4 and its centre at (2, 2).
    ax = plot.objective_contours(bowls, margin=0.5)
    assert ax.get_xlim() == ax.get_ylim() == (-2, 6)
    lines, stars = kinds(ax)
    offsets = [star.get_offsets().tolist() for star in stars]
    assert offsets == [[[0, 1]], [[4, 3]]]
    for contours, star, entry, colour, dash in zip(
        lines,
        stars,
        ax.get_legend().get_lines(),
        plot.COLOURS,
        ["-", "--"],
        strict=False,
    ):
        rgb = matplotlib.colors.to_rgb(colour)
        np.testing.assert_allclose(contours.get_edgecolor()[:, :3], [rgb] * 10)
        np.testing.assert_allclose(star.get_facecolor()[0, :3], rgb)
        assert entry.get_color() == colour
        assert entry.get_linestyle() == dash
        assert entry.get_marker() == "*"
        assert (contours.get_linestyles()[0][1] is None) == (dash == "-")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    # A steep function's contours are as far apart as a flat one's.
    for contours, bowl in zip(lines, bowls.values(), strict=True):
        np.testing.assert_allclose(
            contours.levels[-1] / bowl.scale, 0.2 * (6**2 + 5**2)
        )


def test_contours_of_one_optimum_and_of_plain_functions():
    ax = plot.objective_contours({"a": Bowl([3.0, 5.0])}, optima=False)
    assert (ax.get_xlim(), ax.get_ylim()) == ((2.25, 3.75), (4.25, 5.75))
    assert kinds(ax)[1] == []
    # What is drawn next on the same axes has a colour of its own.
    more = {"b": lambda x: x[0] + 2 * x[1], "c": lambda x: jnp.log(x[0])}
    plot.objective_contours(more, ax=ax, limits=[(-1, 1), (0, 1)], levels=2)
    _, linear, logarithm = kinds(ax)[0]
    np.testing.assert_allclose(linear.levels, [-0.6, -0.2], atol=1e-6)
    for path, level in zip(linear.get_paths(), linear.levels, strict=True):
        np.testing.assert_allclose(path.vertices @ [1, 2], level, atol=1e-5)
    # Half of the region is outside the domain of the logarithm.
    assert all(np.isfinite(logarithm.levels))
    colours = [line.get_color() for line in ax.get_legend().get_lines()]
    assert colours == list(plot.COLOURS[:3])
    markers = {line.get_marker() for line in ax.get_legend().get_lines()}
    assert markers == {"None"}
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 1), (0, 1))


class Valley(Bowl):
    def __call__(self, x):
        return x[0] ** 2

    def optimum(self):
        raise ValueError("There is more than one.")


def test_contours_of_an_objective_without_a_single_optimum():
    objectives = {"valley": Valley([0.0, 0.0]), "bowl": Bowl([3.0, 5.0])}
    ax = plot.objective_contours(objectives)
    _, (star,) = kinds(ax)
    np.testing.assert_array_equal(star.get_offsets(), [(3, 5)])
    markers = [line.get_marker() for line in ax.get_legend().get_lines()]
    assert markers == ["None", "*"]
    with pytest.raises(ValueError, match="None of the objectives has an `optimum"):
        plot.objective_contours({"valley": Valley([0.0, 0.0])})


def test_trajectories():
    ax = plot.objective_contours({"a": Bowl([0.0, 0.0])}, optima=False)
    limits = ax.get_xlim(), ax.get_ylim()
    way = [(0.5, 0.5), (0.2, 0.1), (9.0, 9.0)]
    assert plot.trajectory(jnp.asarray(way), ax=ax, label="FedAvg") is ax
    plot.trajectory([jnp.zeros(2), jnp.ones(2)], ax=ax, label="FedPA")
    plot.trajectory(np.eye(2), ax=ax, colour="red")
    lines = [line for line in ax.lines if len(line.get_xdata())]
    np.testing.assert_allclose(lines[0].get_xydata(), way)
    np.testing.assert_allclose(lines[1].get_xydata(), [(0, 0), (1, 1)])
    assert len({line.get_color() for line in lines} | {plot.COLOURS[0]}) == 4
    assert len({line.get_marker() for line in lines}) == 3
    assert lines[2].get_color() == "red"
    start, end = kinds(ax)[1][:2]
    np.testing.assert_allclose(start.get_offsets(), way[:1])
    np.testing.assert_allclose(end.get_offsets(), way[-1:])
    ink = matplotlib.colors.to_rgba(lines[0].get_color())
    np.testing.assert_array_equal(start.get_facecolor(), [(1, 1, 1, 1)])
    np.testing.assert_array_equal(start.get_edgecolor(), [ink])
    np.testing.assert_array_equal(end.get_facecolor(), [ink])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["a", "FedAvg", "FedPA"]
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    alone = plot.trajectory([(1, 2)])
    np.testing.assert_array_equal(alone.lines[0].get_xydata(), [(1, 2)])
    assert alone.get_legend() is None


@pytest.mark.parametrize(
    "objectives, options, message",
    [
        ({}, {}, "`objectives` is empty"),
        ({"a": Bowl([0.0, 0.0])}, {"levels": 0}, "`levels` must be at least 1"),
        ({"a": Bowl([0.0, 0.0])}, {"margin": 0.0}, "`margin` must be more than 0"),
        ({"a": Bowl([0.0, np.nan])}, {}, "optimum of 'a' must be two finite"),
        ({"big": Bowl([0.0] * 3)}, {}, "'big' has dimension 3"),
        ({"a": jnp.sum}, {}, r"`limits=\(\(x0, x1\), \(y0, y1\)\)`"),
        ({"a": jnp.sum}, {"limits": ((0, 1), (1, 1))}, "`limits` must be"),
        ({"a": jnp.sum}, {"limits": ((0, 1), (1, np.inf))}, "`limits` must be"),
        ({"a": jnp.sum}, {"limits": ((0, 1),)}, "`limits` must be"),
        ({"a": jnp.sin}, {"limits": ((0, 1), (0, 1))}, "'a' must return one number"),
        ({"a": lambda x: 0 * x[0]}, {"limits": ((0, 1), (0, 1))}, "'a' is constant"),
        ({"a": lambda x: x[0] / 0}, {"limits": ((1, 2), (0, 1))}, "not finite"),
        ({"a": lambda x: 1 / (x[0] > 0)}, {"limits": ((-1, 1), (0, 1))}, "constant or"),
    ],
)
def test_contours_say_what_is_wrong(objectives, options, message):
    with pytest.raises(ValueError, match=message):
        plot.objective_contours(objectives, **options)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("shape", [(3,), (3, 3), (0, 2), (2, 2, 2)])
def test_a_trajectory_has_two_columns(shape):
    with pytest.raises(ValueError, match=r"shape \[n, 2\], got one of \["):
        plot.trajectory(np.zeros(shape))


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


@pytest.mark.parametrize(
    "runs, options, error, message",
    [
        ({"a": run([1])}, {"band": "sd"}, ValueError, "`band` must be .*got 'sd'"),
        ({"a": run([1])}, {"band": None}, TypeError, "`band` must be .*got None"),
        ({"a": run([1])}, {"smooth": 2.5}, TypeError, "`smooth` must be an integer"),
        ([run([1])], {}, TypeError, "`runs` must be a dictionary .*got a `list`"),
        (run([1]), {}, TypeError, "`runs` must be a dictionary .*`SimpleNamespace`"),
        ({"a": 1.0}, {}, TypeError, "'a' must be an `equifed.Solution`.* a `float`"),
        ({"a": [{}]}, {}, TypeError, "'a' must be an `equifed.Solution`.* a `dict`"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_curves_of_the_wrong_kind(runs, options, error, message):
    with pytest.raises(error, match=message):
        plot.learning_curves(runs, "loss", **options)


@pytest.mark.parametrize(
    "objectives, options, message",
    [
        ({"a": Bowl([0.0, 0.0])}, {"levels": 2.5}, "`levels` must be an integer"),
        ([Bowl([0.0, 0.0])], {}, "`objectives` must be a dictionary .*got a `list`"),
        (Bowl([0.0, 0.0]), {}, "`objectives` must be a dictionary .*got a `Bowl`"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contours_of_the_wrong_kind(objectives, options, message):
    with pytest.raises(TypeError, match=message):
        plot.objective_contours(objectives, **options)


@pytest.mark.parametrize("value", ["high", None, [1.0], np.ones(1), {"mean": 1.0}])
def test_a_metric_must_be_a_number(value):
    history = [{"round": 1, "loss": 1.0}, {"round": 2, "loss": value}]
    with pytest.raises(TypeError, match="'loss' of the run 'a' must be a number .*got"):
        plot.learning_curves({"a": types.SimpleNamespace(history=history)}, "loss")


def test_matplotlib_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "equifed\[plot\]"'):
        plot.learning_curves({"a": run([1])}, "loss")


def evaluated(values, unseen=()):
    ids = [f"c{i}" for i in range(len(values))]
    values = {"accuracy": np.asarray(values, np.float64)}
    return eqf.ClientMetrics(values, np.ones(len(ids), int), ids, unseen)


def test_a_dot_for_each_client():
    found = {
        "FedAvg": evaluated([0.2, 0.4, 0.6, np.nan]),
        "FedPer": evaluated([0.3, 0.5, 0.5, 0.9], ("c1",)),
    }
    table = eqf.ClientComparison(found, "accuracy", mode="max", baselines=["FedAvg"])
    ax = plot.client_gains(table)
    _, seen, unseen = ax.collections  # The first is what is shaded.
    np.testing.assert_allclose(seen.get_offsets(), [[0.2, 0.3], [0.6, 0.5]])
    np.testing.assert_allclose(unseen.get_offsets(), [[0.4, 0.5]])
    assert unseen.get_facecolors().size == 0
    assert [x.get_text() for x in ax.get_legend().get_texts()] == [
        "FedPer: 67% gain, 1 without"
    ]
    assert "FedAvg" in ax.get_xlabel()
    assert "FedPer" in ax.get_ylabel()
