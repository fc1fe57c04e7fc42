"""Each round is on record once, whatever happens between rounds."""

import importlib
import json
import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from equifed._logger import (
    AbstractLogger,
    JSONLines,
    Loggers,
    NoLogger,
    ProgressBar,
    Table,
    TensorBoard,
    WandB,
)


def train(logger, num_rounds, first_round=0, stop=None, scale=1.0):
    logger.start(num_rounds, first_round)
    with logger:
        for round in range(first_round + 1, (stop or num_rounds) + 1):
            metrics = {"loss": scale / round, "examples": 10 * round}
            if round % 5 == 0:
                metrics["test/accuracy"] = np.float32(round / 100)
            logger.log(round, metrics)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recorder(AbstractLogger):
    def __init__(self):
        self.calls = []

    def start(self, num_rounds, first_round):
        self.calls.append(("start", num_rounds, first_round))

    def log(self, round, metrics):
        self.calls.append(("log", round, dict(metrics)))

    def close(self):
        self.calls.append(("close",))


class Unclosable(Recorder):
    def close(self):
        raise OSError("disk full")


def test_no_logger():
    train(NoLogger(), 3)


def test_several_at_once():
    recorders = [Recorder(), Recorder()]
    train(Loggers(*recorders), 2, 1)
    expected = [
        ("start", 2, 1),
        ("log", 2, {"loss": 0.5, "examples": 20}),
        ("close",),
    ]
    assert [recorder.calls for recorder in recorders] == [expected] * 2


def test_all_are_closed_even_if_one_cannot():
    recorders = [Recorder(), Unclosable(), Recorder()]
    with pytest.raises(OSError, match="disk full"), Loggers(*recorders):
        pass
    assert recorders[0].calls == recorders[2].calls == [("close",)]


def test_a_class_is_not_a_logger():
    with pytest.raises(TypeError):
        Loggers(NoLogger)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "make", [NoLogger, Loggers, ProgressBar, Table, lambda: JSONLines("x.jsonl")]
)
def test_without_start_and_twice(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = make()
    for _ in range(2):
        logger.log(1, {"loss": jnp.asarray(0.5)})
        logger.close()
        logger.close()
        with logger:
            pass


def test_json_lines(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    train(JSONLines(path), 5)
    rows = lines(path)
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2] == {"round": 3, "loss": 1 / 3, "examples": 30}
    assert rows[4]["test/accuracy"] == float(np.float32(0.05))
    assert isinstance(rows[0]["examples"], int)


def test_json_lines_are_on_disk_at_once(tmp_path):
    logger = JSONLines(tmp_path / "run.jsonl")
    for round in (1, 2):
        logger.log(round, {"loss": 1.0})
        assert len(lines(tmp_path / "run.jsonl")) == round
    logger.close()


def test_json_lines_stay_json(tmp_path):
    logger = JSONLines(tmp_path / "run.jsonl")
    with logger:
        logger.log(1, {"a": np.nan, "b": float("inf"), "c": jnp.asarray(-jnp.inf)})
    text = (tmp_path / "run.jsonl").read_text()
    assert text == '{"round": 1, "a": "nan", "b": "inf", "c": "-inf"}\n'


@pytest.mark.parametrize("tail", [b"", b'{"round": 8, "lo', b'{"round": 8}'])
def test_a_resumed_run_takes_back_the_rounds_it_repeats(tmp_path, tail):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 10, stop=7)
    with open(path, "ab") as file:
        file.write(tail)
    train(JSONLines(path), 10, first_round=5, scale=2.0)
    rows = lines(path)
    assert [row["round"] for row in rows] == list(range(1, 11))
    assert [row["loss"] for row in rows[4:6]] == [1 / 5, 2 / 6]
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_run_with_nothing_left_to_do_leaves_the_file_alone(tmp_path):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 4)
    before = path.read_bytes()
    train(JSONLines(path), 4, first_round=4)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    with pytest.raises(ValueError, match="dear diary"):
        JSONLines(path).log(1, {"loss": 1.0})
    assert path.read_text() == "dear diary\n"


def test_progress_bar(capsys):
    train(ProgressBar("loss", "test/accuracy"), 12, first_round=2)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in shown
    assert "rounds/s" in shown
    assert "loss=0.08333" in shown
    assert "test/accuracy=0.1" in shown  # of round 10


def test_table(capsys):
    train(Table(every=4), 10)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        ["round", "loss", "examples"],
        ["4", "0.25", "40"],
        ["round", "loss", "examples", "test/accuracy"],
        ["8", "0.125", "80", "0.05"],
        ["10", "0.1", "100", "0.1"],
    ]
    assert len({len(line) for line in printed[2:]}) == 1


def test_table_with_chosen_columns(capsys):
    train(Table("test/accuracy", "loss", every=3), 6)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        ["round", "test/accuracy", "loss"],
        ["3", "-", "0.3333"],
        ["6", "0.05", "0.1667"],
    ]


def test_table_every(capsys):
    with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
        Table(every=0)


def test_table_above_a_progress_bar(capsys):
    train(Loggers(ProgressBar(), Table(every=1)), 3)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "3/3" in err


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    train(TensorBoard(tmp_path), 10, stop=7)
    train(TensorBoard(tmp_path), 10, first_round=5, scale=2.0)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "examples", "test/accuracy"}
    loss = events.Scalars("loss")
    assert [event.step for event in loss] == list(range(1, 11))
    expected = [(1.0 if r < 6 else 2.0) / r for r in range(1, 11)]
    np.testing.assert_allclose([event.value for event in loss], expected, rtol=1e-6)


class FakeRun:
    def __init__(self):
        self.logged = []
        self.finished = 0

    def log(self, metrics, *, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


def test_wandb(monkeypatch):
    runs = []

    def init(**arguments):
        runs.append((arguments, FakeRun()))
        return runs[-1][1]

    fake = types.ModuleType("wandb")
    fake.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = WandB(project="p", mode="offline")
    assert runs == []
    train(logger, 2)
    ((arguments, run),) = runs
    assert arguments == {"project": "p", "mode": "offline"}
    assert run.logged == [
        (1, {"loss": 1.0, "examples": 10.0}),
        (2, {"loss": 0.5, "examples": 20.0}),
    ]
    assert run.finished == 1


@pytest.mark.parametrize(
    ("package", "make"), [("wandb", WandB), ("tensorboard", lambda: TensorBoard("x"))]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, make):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    remedy = re.escape(f'pip install "equifed[{package}]"')
    with pytest.raises(ImportError, match=remedy):
        make()
