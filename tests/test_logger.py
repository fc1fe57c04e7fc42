"""Each round is on record once, whatever happens between rounds."""

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
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
from equifed._logger.compiling import Compiling


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


@pytest.mark.parametrize(
    "tail", [b"", b'{"round": 8, "lo', b'{"round": 8, "loss": 0.125, "examples": 80}']
)
def test_a_resumed_run_takes_back_the_rounds_it_repeats(tmp_path, tail):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 10, stop=7)
    with open(path, "ab") as file:
        file.write(tail)
    train(JSONLines(path), 10, first_round=5)
    rows = lines(path)
    assert [row["round"] for row in rows] == list(range(1, 11))
    assert [row["loss"] for row in rows] == [1 / i for i in range(1, 11)]
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("first_round", [0, 3, 5])
def test_a_resumed_run_keeps_the_rows_of_another(tmp_path, first_round, link):
    path = target = tmp_path / "run.jsonl"
    if link:
        target = tmp_path / "there" / "run.jsonl"
        target.parent.mkdir()
        path.symlink_to(target)
    train(JSONLines(path), 8, scale=3.0)
    old = path.read_bytes()
    with pytest.warns(UserWarning, match=r"is kept in|are kept in") as warned:
        train(JSONLines(path), 10, first_round=first_round)
    assert len(warned) == 1
    assert target.with_name("run.1.jsonl").read_bytes() == old
    losses = [(3 if i <= first_round else 1) / i for i in range(1, 11)]
    assert [row["loss"] for row in lines(path)] == losses
    # From here on it is the file of this run.
    train(JSONLines(path), 10, first_round=7)
    assert not target.with_name("run.2.jsonl").exists()


def test_rows_that_a_resumed_run_does_not_reach_are_kept(tmp_path):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 8)
    old = path.read_bytes()
    logger = JSONLines(path)
    with pytest.warns(UserWarning, match=r"from round 7 on.*not reached again"):
        train(logger, 8, first_round=3, stop=6)
    assert (tmp_path / "run.1.jsonl").read_bytes() == old
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4, 5, 6]
    logger.close()
    train(logger, 8, first_round=5)
    assert len(list(tmp_path.iterdir())) == 2
    # Differs in a later row only; a row without an end of line.
    path.write_bytes(changed := old.replace(b"80", b"81").removesuffix(b"\n"))
    with pytest.warns(UserWarning, match="not what this run has"):
        train(logger, 8, first_round=2)
    assert (tmp_path / "run.2.jsonl").read_bytes() == changed + b"\n"
    # By hand, in steps backwards, past what this object wrote.
    logger.log(6, {"loss": 1 / 6, "examples": 60})
    with pytest.warns(UserWarning, match="from round 4 on"):
        logger.log(4, {"loss": 7.0})
    logger.log(5, {"loss": 7.0})
    logger.log(4, {"loss": 8.0})
    logger.close()
    assert (tmp_path / "run.3.jsonl").read_bytes() == old
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4]


def old_rows(num_rounds, scale=1.0):
    for i in range(1, num_rounds + 1):
        row = {"round": i, "loss": scale / i, "examples": 10 * i}
        yield json.dumps(row).encode() + b"\n"


def log_rows(path, first_round, num_rounds, scale=1.0):
    with JSONLines(path) as logger:
        logger.start(num_rounds, first_round)
        for i in range(first_round + 1, num_rounds + 1):
            logger.log(i, {"loss": scale / i, "examples": 10 * i})


KILLED = """
import os, signal, sys
from equifed import JSONLines
logger = JSONLines("run.jsonl")
logger.start(8, int(sys.argv[1]))
for round in range(int(sys.argv[1]) + 1, int(sys.argv[2]) + 1):
    logger.log(round, {"loss": 1 / round, "examples": 10 * round})
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder, first_round, stop):
    """A resumed run that is killed after it has logged round `stop`."""
    command = [sys.executable, "-c", KILLED, str(first_round), str(stop)]
    assert subprocess.run(command, cwd=folder).returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is not to be had there.")
def test_a_kill_loses_no_row_that_was_cut(tmp_path):
    path, cut = tmp_path / "run.jsonl", tmp_path / "run.jsonl.cut"
    path.write_bytes(b"".join(old_rows(8)))
    old = path.read_bytes()
    killed(tmp_path, 3, 6)
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4, 5, 6]
    assert cut.read_bytes() == old
    # What is not there again is looked at again by the next one, killed or not.
    killed(tmp_path, 4, 5)
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4, 5]
    assert cut.read_bytes() == old
    log_rows(path, 5, 8)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize(
    ("reached", "first_round", "scale", "words"),
    [
        (6, 6, 2.0, "from round 7 on, which are not what this run has"),
        (6, 0, 1.0, "from round 7 on, which a run that was killed did not reach"),
        (5, 7, 1.0, "from round 6 on, which a run that was killed did not reach"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*had rows of another run")
def test_what_a_killed_run_left_is_kept(tmp_path, reached, first_round, scale, words):
    path, cut = tmp_path / "run.jsonl", tmp_path / "run.jsonl.cut"
    rows = list(old_rows(8))
    path.write_bytes(b"".join(rows[:reached]))
    cut.write_bytes(b"".join(rows))
    with pytest.warns(UserWarning, match=words):
        log_rows(path, first_round, 8, scale)
    assert (tmp_path / "run.1.jsonl").read_bytes() == b"".join(rows)
    assert not cut.exists()


def test_what_a_killed_run_left_may_be_there_already(tmp_path):
    # Killed before the rows were cut, or after all of them were there again.
    path, cut = tmp_path / "run.jsonl", tmp_path / "run.jsonl.cut"
    for first_round, num in ((8, 9), (4, 8)):
        path.write_bytes(b"".join(old_rows(8)))
        cut.write_bytes(b"".join(old_rows(8)))
        log_rows(path, first_round, num)
        assert path.read_bytes() == b"".join(old_rows(num))
        assert not cut.exists()
    cut.write_text("of another tool")
    with pytest.raises(ValueError, match=r"run\.jsonl\.cut` is not a file that"):
        JSONLines(path).start(9, 8)
    assert cut.read_text() == "of another tool"


@pytest.mark.parametrize(
    ("content", "had"),
    [
        ('{"round": 2, "score": 1, "rank": 3}\n', "score, rank"),
        ('{"round": 2}', "none"),
    ],
)
def test_a_short_file_of_something_else_is_not_gone_on_with(tmp_path, content, had):
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    error = f"its rows have {had}, and this run has examples, loss. Give another path"
    with pytest.raises(ValueError, match=error):
        train(JSONLines(path), 4, first_round=2)
    assert path.read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_run_with_nothing_left_to_do_leaves_the_file_alone(tmp_path):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 4)
    before = path.read_bytes()
    train(JSONLines(path), 4, first_round=4)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary\n",
        b"dear diary",
        b"{}",
        b'{"round": 5, "note": "mine"}',
        b'{"round": 5, "note": "mine"}\n',
        b'{"round": 5, "note": "mi',
        b'{"loss": 0.5, "round": 5}\n',
        b'{"round": 1, "won": true}\n',
        b'{"round":1,"loss":0.5}\n',
        b'{"round": 2}\n{"round": 2}\n',
        b'{"round": 1}\n\n',
        b"[1, 2",
        b"\x00\xff\n\x80",
    ],
)
@pytest.mark.parametrize("first_round", [None, 0, 3])
def test_a_file_of_something_else_is_not_overwritten(tmp_path, content, first_round):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    logger, error = JSONLines(path), "is not a file that `JSONLines` wrote"
    if first_round is None:
        with pytest.raises(ValueError, match=error):
            logger.log(1, {"loss": 1.0})
    else:  # before anything is compiled
        with pytest.raises(ValueError, match=error):
            logger.start(9, first_round)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_file_is_written_to(tmp_path):
    path = tmp_path / "run.jsonl"
    path.touch()
    number = path.stat().st_ino
    train(JSONLines(path), 2)
    assert path.stat().st_ino == number
    assert len(lines(path)) == 2


def test_a_new_run_keeps_the_rows_of_another(tmp_path):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 5)
    first = path.read_bytes()
    (tmp_path / "run.1.jsonl").write_text("of another tool")
    for logger in (JSONLines(path), JSONLines(path)):
        with pytest.warns(UserWarning, match=r"rows of another run.*run\.\d\.jsonl"):
            train(logger, 3, scale=2.0)
    assert [row["loss"] for row in lines(path)] == [2.0, 1.0, 2 / 3]
    assert (tmp_path / "run.1.jsonl").read_text() == "of another tool"
    assert (tmp_path / "run.2.jsonl").read_bytes() == first
    assert lines(tmp_path / "run.3.jsonl") == lines(path)


def test_a_new_run_that_logs_nothing_leaves_the_file_alone(tmp_path):
    path = tmp_path / "run.jsonl"
    train(JSONLines(path), 5)
    train(JSONLines(path), 0)
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4, 5]


def test_by_hand_the_first_round_tells_whether_a_run_begins(tmp_path):
    path = tmp_path / "run.jsonl"

    def log(logger, *rounds):
        with logger:
            for round in rounds:
                logger.log(round, {"loss": 1.0})

    log(JSONLines(path), 1, 2, 3)
    log(JSONLines(path), 3, 4)  # goes on from round 2
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4]
    logger = JSONLines(path)
    log(logger, 5, 6, 5)
    assert [row["round"] for row in lines(path)] == [1, 2, 3, 4, 5]
    with pytest.warns(UserWarning, match="rows of another run"):
        log(JSONLines(path), 1)
    assert [row["round"] for row in lines(tmp_path / "run.1.jsonl")] == [1, 2, 3, 4, 5]
    log(logger, 1, 2)  # what this object wrote itself is kept, too
    assert (tmp_path / "run.2.jsonl").exists()


def test_any_part_of_a_row_is_taken_for_one_of_ours(tmp_path):
    path, whole = tmp_path / "run.jsonl", tmp_path / "whole.jsonl"
    row = {"loss": 1.2345678901234567e-20, 'a "\u00e9\\': 7, "b": np.nan, "c": -np.inf}
    with JSONLines(whole) as logger:
        logger.log(1, row)
        logger.log(2, row)
    content = whole.read_bytes()
    start = content.index(b"\n") + 1
    for stop in range(start, len(content) + 1):
        path.write_bytes(content[:stop])
        with JSONLines(path) as logger:
            logger.start(9, 2)
            logger.log(3, row)
        complete = stop >= len(content) - 1  # but for its end of line
        assert [x["round"] for x in lines(path)] == ([1, 2, 3] if complete else [1, 3])


def test_a_run_killed_in_its_first_row(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"round": 1, "lo')
    with pytest.warns(UserWarning, match="rows of another run"):
        train(JSONLines(path), 2)
    assert [row["round"] for row in lines(path)] == [1, 2]
    assert (tmp_path / "run.1.jsonl").read_text() == '{"round": 1, "lo'


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "there" / "run.jsonl", tmp_path / "run.jsonl"
    target.parent.mkdir()
    link.symlink_to(target)
    train(JSONLines(link), 5)
    train(JSONLines(link), 5, first_round=2)
    with pytest.warns(UserWarning, match="rows of another run"):
        train(JSONLines(link), 3)
    assert link.is_symlink()
    assert [row["round"] for row in lines(target)] == [1, 2, 3]
    assert len(lines(target.with_name("run.1.jsonl"))) == 5


def test_a_path_that_cannot_be_written_to_is_found_at_the_start(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path, file / "run.jsonl", file / "deep" / "run.jsonl"):
        with pytest.raises(OSError, match=f"^`{re.escape(str(path))}` cannot be writ"):
            JSONLines(path).start(3, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="No such device.")
def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "run.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot take round 1: No space left") as caught:
        JSONLines(path).log(1, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC


def test_progress_bar(capsys):
    train(ProgressBar("loss", "test/accuracy"), 12, first_round=2)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in shown
    assert "rounds/s" in shown
    assert "loss=0.08333" in shown
    assert "test/accuracy=0.1" in shown  # of round 10


def test_all_that_compiles_is_told():
    def loss(model, example, key):
        return testing.noisy_loss(model, example, key)

    dataset = testing.ragged_clients((3, 5))
    batching = eqf.data.Epochs(1, batch_size=4)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    given = {"num_rounds": 2, "key": jr.key(0)}
    start = lambda: algorithm.init(testing.Linear(), num_clients=2)  # noqa: E731
    for run in (
        lambda: eqf.evaluate(testing.Linear(), dataset, loss),
        lambda: list(eqf.rounds(algorithm, start(), loader, **given)),
        lambda: list(
            eqf.rounds(algorithm, start(), loader, rounds_per_call=2, **given)
        ),
        lambda: eqf.sweep(
            {"a": algorithm},
            lambda k: testing.Linear(),
            loader,
            num_rounds=1,
            keys=[jr.key(0)],
        ),
    ):
        told = []
        listening = Compiling(lambda: told.append(1))  # noqa: B023
        run()
        listening.close()
        assert told


def test_the_progress_bar_says_when_it_compiles(capsys):
    class Grows(eqf.data.AbstractSampler):
        """Its third round does not fit what the first is compiled for."""

        seed: int = 0

        def __call__(self, round, num_clients):
            return np.array([0 if round < 2 else 1])

        def max_clients(self, num_clients):
            return 1

    said = []

    class Bar(ProgressBar):
        def log(self, round, metrics):
            said.append(capsys.readouterr().err.count("compiling"))
            super().log(round, metrics)

    def loss(model, example, key):
        return testing.noisy_loss(model, example, key)

    batching = eqf.data.Epochs(1, batch_size=1)
    dataset = testing.ragged_clients((3, 40))
    for expected in ([True, False, True, False], [False] * 4):
        said.clear()
        eqf.train(
            eqf.FedAvg(loss, optax.sgd(0.1), batching),
            testing.Linear(),
            eqf.data.Loader(dataset, Grows(), batching),
            num_rounds=4,
            key=jax.random.key(0),
            logger=Bar("loss"),
        )
        # The second training finds what the first has compiled.
        assert [count > 0 for count in said] == expected


def test_table(capsys):
    train(Table(every=4), 10)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        ["round", "loss", "examples"],
        ["4", "0.25", "40"],
        # A round that was evaluated has a row, and no other row its numbers.
        ["round", "loss", "examples", "test/accuracy"],
        ["5", "0.2", "50", "0.05"],
        ["8", "0.125", "80", "-"],
        ["10", "0.1", "100", "0.1"],
    ]
    assert len({len(line) for line in printed[2:]}) == 1


def test_table_with_chosen_columns(capsys):
    train(Table("test/accuracy", "loss", every=3), 6)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        ["round", "test/accuracy", "loss"],
        ["3", "-", "0.3333"],
        ["5", "0.05", "0.2"],
        ["6", "-", "0.1667"],
    ]


def test_table_of_rounds_that_are_all_evaluated(capsys):
    train(Table("loss", "examples", every=3), 7)
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["round", "3", "6", "7"]


@pytest.mark.parametrize("make", (Table, ProgressBar))
def test_a_name_that_there_is_not(make, capsys):
    # In the first round that has others of its kind.
    known = "There are: loss, examples, test/accuracy"
    with pytest.warns(UserWarning, match="is to show") as warned:
        train(make("los", "test/acc", "tset/accuracy"), 7)
    assert [str(w.message) for w in warned] == [
        f"`{make.__name__}` is to show 'los', but round 1 has no such number. There "
        "are: loss, examples.",
        f"`{make.__name__}` is to show 'test/acc', but round 5 has no such number. "
        f"{known}.",
        f"`{make.__name__}` is to show 'tset/accuracy', but no round up to 7 had such "
        f"a number. {known}.",
    ]
    train(make("loss", "test/accuracy"), 7)
    train(make("test/accuracy"), 0)  # nothing was logged, so nothing is missed
    with pytest.raises(TypeError, match="takes names of metrics.*got 'round'"):
        make("round")


@pytest.mark.parametrize(
    "make",
    (Table, ProgressBar, lambda: JSONLines("x.jsonl")),
    ids=("Table", "ProgressBar", "JSONLines"),
)
def test_what_is_not_one_number_is_left_out(make, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with make() as logger:
        metrics = {"loss": np.nan, "matrix": np.eye(2), "list": [[1.0]]}
        for round in (9, 10):
            logger.log(round, {"round": round, **metrics})
    out, err = capsys.readouterr()
    if isinstance(logger, JSONLines):
        assert lines(logger.path)[-1] == {"round": 10, "loss": "nan"}
    elif isinstance(logger, Table):
        assert [line.split() for line in out.splitlines()] == [
            ["round", "loss"],
            ["10", "nan"],
        ]
    else:
        assert "loss=nan" in err


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


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")
def test_tensorboard_says_what_it_hides(tmp_path):
    pytest.importorskip("tensorboard")
    train(TensorBoard(tmp_path), 2)
    with pytest.warns(UserWarning, match="has another run"):
        TensorBoard(tmp_path).start(2, 0)
    TensorBoard(tmp_path).start(2, 1)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run` cannot be written to: Not a direct"):
        TensorBoard(tmp_path / "file" / "run").start(2, 0)


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
