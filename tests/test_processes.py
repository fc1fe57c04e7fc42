"""Two real processes that share a training, against one with as many devices."""

import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import equifed as eqf

from . import worker


pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Gloo and SIGKILL are not to be had there."
)

# No process outlives this many seconds. On two idle cores they need less than 30.
TIMEOUT = 240


class Pair:
    """Two processes of one program, which end with the `with` block at the latest."""

    def __init__(self, task: str, directory: pathlib.Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.deadline = time.monotonic() + TIMEOUT
        self.outputs = [directory / f"{task}-{i}.txt" for i in range(2)]
        self.processes = []
        for i, output in enumerate(self.outputs):
            command = [sys.executable, "-m", "tests.worker", task, str(i), str(port)]
            with output.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*command, str(directory)],
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        cwd=pathlib.Path(__file__).parents[1],
                        env={**os.environ, "JAX_PLATFORMS": "cpu"},
                    )
                )

    def wait(self, i: int) -> int | None:
        """The exit code of one of them; `None` if it is late."""
        try:
            return self.processes[i].wait(max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self, i: int) -> str:
        return self.outputs[i].read_text("utf-8", errors="replace")

    def story(self) -> str:
        return "\n".join(f"--- process {i}\n{self.said(i)[-5000:]}" for i in range(2))


def found_by_both(task: str, directory: pathlib.Path) -> list:
    """What each of two processes found, if they ended well."""
    with Pair(task, directory) as pair:
        codes = [pair.wait(i) for i in range(2)]
        if codes != [0, 0]:
            pytest.fail(f"`{task}` ended with {codes}.\n{pair.story()}")
    paths = [directory / f"{task}-{i}.pickle" for i in range(2)]
    return [pickle.loads(path.read_bytes()) for path in paths]


def same_bits(got, expected) -> bool:
    arrays, history = got
    return history == expected[1] and [x.tobytes() for x in arrays] == [
        x.tobytes() for x in expected[0]
    ]


@pytest.fixture
def mesh():
    """Of one device, for which a round is compiled once: how many there are changes no
    bit of an ordered round (see the law `devices`)."""
    return jax.make_mesh((1,), ("clients",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """On a filesystem that all processes share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def killed(folder):
    """How two processes ended, the second of which was killed; how long the first one
    took to see it; and what is left on the disk."""
    with Pair("killed", folder) as pair:
        second = pair.wait(1)
        start = time.monotonic()
        first = pair.wait(0)
        seconds = time.monotonic() - start
        names = sorted(path.name for path in (folder / "run").glob("0*"))
        return (first, second), seconds, names, pair


@pytest.fixture(scope="module")
def numbers(folder, killed):
    """What two processes found, which do all that two can do one after another, and
    begin again where the killed ones were."""
    return found_by_both("numbers", folder)


@pytest.mark.parametrize("case", worker.CASES)
def test_same_numbers_as_one_process(numbers, mesh, case):
    expected = worker.train(case, mesh)
    ordered = worker.CASES[case][2]
    for found in numbers:
        assert len(found[case][1]) == 3
        if ordered:
            assert same_bits(found[case], expected)
        for got, array in zip(found[case][0], expected[0], strict=True):
            np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)
        for got, row in zip(found[case][1], expected[1], strict=True):
            assert got == pytest.approx(row, rel=1e-5)
            # To the last bit: messages of 128 bits each, and a weight, of ten clients.
            assert (got["bits_up"], got["bits_down"]) == sent(case)


def sent(case):
    kind = worker.CASES[case][0]
    trees_up, trees_down = {
        eqf.FedAvg: (1, 1),
        eqf.Scaffold: (2, 2),
        eqf.Mime: (2, 3),
    }[kind]
    weights = 2 if kind is eqf.Mime else 1
    return 10 * (128 * trees_up + 32 * weights), 10 * 128 * trees_down


def test_what_ends_one_of_them_ends_both_with_the_same_model(numbers, mesh, tmp_path):
    expected = worker.stopped(mesh, tmp_path)
    for found in numbers:
        assert len(found["stopped"][1]) == len(expected[1]) == 3
        for got, array in zip(found["stopped"][0], expected[0], strict=True):
            np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)
    # The best model, here the worst, is not the last.
    *_, last = (row["all/loss"] for row in expected[1])
    assert max(row["all/loss"] for row in expected[1]) > last


@pytest.mark.parametrize("what", [*worker.STREAMED, "evaluation"])
def test_each_process_reads_its_own_rows(numbers, what):
    first, second = (found["rows", what] for found in numbers)
    everything = set(range(sum(worker.SIZES)))
    # Both look at the first example, for its shape.
    assert first | second == everything
    assert first & second <= {0}
    assert min(len(first), len(second)) > 0.3 * len(everything)


def test_same_evaluation_as_one_process(numbers):
    total, each = worker.evaluate(None, worker.dataset())
    for found in numbers:
        assert found["evaluation"][0] == pytest.approx(total, rel=1e-5)
        for name, values in each.items():
            np.testing.assert_allclose(
                found["evaluation"][1][name], values, rtol=1e-5, atol=1e-6
            )
        # A process may also evaluate by itself.
        np.testing.assert_allclose(found["elsewhere"], total["loss"], rtol=1e-5)


def test_they_decide_alike(numbers):
    for found in numbers:
        assert found["agreed"] == (True, False)


def test_one_of_them_logs(numbers, mesh):
    (rows, history), (others, same) = (found["logged"] for found in numbers)
    assert others == []
    assert rows[0] == (0, 3)
    assert [row for _, row in rows[1:-1]] == history == same
    assert rows[-1] == "closed"
    evaluation = {"all": worker.dataset()}
    _, expected = worker.train("Scaffold", mesh, evaluation=evaluation, eval_every=2)
    for row, right in zip(history, expected, strict=True):
        assert row == pytest.approx(right, rel=1e-5)
    assert ["all/loss" in row for row in history] == [False, True, True]


def test_checkpoints(numbers, folder):
    for found in numbers:
        errors = found["checkpoint"]
        assert len(errors) == 2
        assert "on a filesystem that they share" in errors[0]
        assert "is of a later round" in errors[1]
    assert len(list((folder / "state").iterdir())) == 1


def test_when_one_is_killed_the_other_ends(killed):
    (first, second), seconds, names, pair = killed
    assert second == -signal.SIGKILL, pair.story()
    # The other one says so, and ends by itself: it waits 10 s for a heartbeat.
    assert first not in (0, None), pair.story()
    assert seconds < 60
    assert "Error" in pair.said(0)
    assert names == ["00000002", "00000004"]


def test_killed_processes_begin_again(numbers, folder, mesh, tmp_path):
    expected = worker.long_training(mesh, tmp_path)
    assert len(expected[1]) == worker.ROUNDS
    for found in numbers:
        assert same_bits(found["again"], expected)
    # What two processes saved one can go on from.
    path = folder / "run"
    checkpointer = eqf.Checkpointer(path)
    assert (path / f"{worker.ROUNDS:08d}").is_dir()
    alone = worker.train(
        "Scaffold, streamed", mesh, num_rounds=10, checkpointer=checkpointer
    )
    assert same_bits(alone, worker.train("Scaffold, streamed", mesh, num_rounds=10))
