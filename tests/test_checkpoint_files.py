"""A directory of checkpoints belongs to its user, and to one program at a time."""

import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._checkpoint import Checkpointer
from equifed._checkpoint.lock import FOLDER


STATE = jnp.zeros(3)


def tree(directory):
    """Everything below a directory: what a link points to, what a file has in it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def saved_rounds(directory):
    manifests = directory.glob("*/manifest.json")
    return sorted(json.loads(x.read_text()).get("round", -1) for x in manifests)


def folder_with(text):
    def make(path):
        path.mkdir()
        (path / "manifest.json").write_text(text)
        (path / "results.txt").write_text("a year of work")

    return make


def link_to_folder(path):
    target = path.parent / f"target of {path.name}"
    folder_with("{}")(target)
    path.symlink_to(target)


FOREIGN = {
    "folder": folder_with("{}"),
    "empty": lambda path: path.mkdir(),
    "file": lambda path: path.write_text("a file"),
    "link": link_to_folder,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "list": folder_with("[]"),
    "binary": folder_with("\x00"),
    "other tool": folder_with('{"files": {"results.txt": [1, 2]}}'),
    "other name": folder_with(
        '{"equifed": 1, "name": "00000042", "round": 42, "files": '
        '{"results.txt": [1, 2]}}'
    ),
    "outside": folder_with(
        '{"equifed": 1, "name": "NAME", "round": 1, "files": {"../x": [1, 2]}}'
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ours_is_never_touched(tmp_path, what):
    mine, ours = tmp_path / "mine", tmp_path / "run"
    ours.mkdir()
    # Earlier rounds, later ones, the rounds that are saved, and what we are saving.
    for name in ("00000000", "00000001", "00000002", "20240101", ".unfinished"):
        FOREIGN[what](ours / name)
        manifest = ours / name / "manifest.json"
        if what == "outside":
            manifest.write_text(manifest.read_text().replace("NAME", name))
    (ours / "x").write_text("outside of what is deleted")
    shutil.copytree(ours, mine, symlinks=True)
    checkpointer = Checkpointer(ours, keep=1)
    for round in (1, 2, 2, 3):
        checkpointer.save(round, STATE + round, [])
        restored = Checkpointer(ours).restore(STATE)
        assert restored is not None
        assert restored[0] == round
    del checkpointer
    found = tree(ours)
    assert tree(mine).items() <= found.items()
    # Nothing else but one checkpoint.
    assert {name.partition("/")[0] for name in set(found) - set(tree(mine))} == {
        "00000003"
    }


def test_a_copied_a_moved_and_a_linked_checkpoint(tmp_path):
    run = tmp_path / "run"
    checkpointer = Checkpointer(run, keep=2)
    for round in (1, 2):
        checkpointer.save(round, STATE + round, [])
    shutil.copytree(run / "00000002", run / "00000099")
    shutil.copytree(run / "00000002", run / "best")
    (run / "00000001").rename(tmp_path / "00000001")
    (run / "00000001").symlink_to(tmp_path / "00000001")
    before = tree(run / "00000099") | tree(tmp_path / "00000001")
    with pytest.warns(UserWarning, match="00000099` is damaged: .*of another name"):
        restored = checkpointer.restore(STATE)
    assert restored is not None
    assert restored[0] == 2
    for round in (3, 4):
        checkpointer.save(round, STATE, [])
    assert tree(run / "00000099") | tree(tmp_path / "00000001") == before
    assert (run / "best" / "manifest.json").exists()
    # Through a link it can be read.
    for name in ("00000003", "00000004", "00000099"):
        shutil.rmtree(run / name)
    restored = checkpointer.restore(STATE)
    assert restored is not None
    assert (restored[1] == 1).all()


@pytest.mark.parametrize("where", ["notes.txt", "state/notes.txt", "deep/er/notes.txt"])
def test_what_was_put_into_a_checkpoint_outlives_it(tmp_path, where):
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(1, STATE, [])
    notes = tmp_path / "00000001" / where
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text("mine")
    checkpointer.save(2, STATE, [])
    kept = [x for x in (tmp_path / "00000001").rglob("*") if x.is_file()]
    assert kept == [notes]
    checkpointer.save(3, STATE, [])
    assert saved_rounds(tmp_path) == [3]
    assert notes.read_text() == "mine"


def test_a_part_that_was_moved_behind_a_link_stays(tmp_path):
    checkpointer = Checkpointer(tmp_path / "run", keep=1)
    checkpointer.save(1, STATE, [])
    state, moved = tmp_path / "run" / "00000001" / "state", tmp_path / "moved"
    state.rename(moved)
    state.symlink_to(moved)
    before = tree(moved)
    assert checkpointer.restore(STATE) is not None
    checkpointer.save(2, STATE, [])
    assert tree(moved) == before


CONTENTS = ["file", "folder", "link", "dangling", "lock", "lock folder", "lock link"]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_folder_named_like_ours_is_refused(tmp_path, content):
    ours = tmp_path / "run" / FOLDER
    ours.parent.mkdir()
    if content == "file":
        ours.write_text("mine")
    elif content == "link":
        (tmp_path / "there").mkdir()
        ours.symlink_to(tmp_path / "there")
    elif content == "dangling":
        ours.symlink_to("nowhere")
    elif content == "lock folder":
        (ours / "lock").mkdir(parents=True)
    elif content == "lock link":
        ours.mkdir()
        (ours / "lock").symlink_to("nowhere")
    else:
        ours.mkdir()
        name = "lock" if content == "lock" else "notes.txt"
        (ours / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OSError, match=f"{FOLDER}` is not a folder that a `Checkpoi"):
        Checkpointer(ours.parent).save(1, STATE, [])
    with pytest.raises(OSError, match="It needs one of this name"):
        Checkpointer(ours.parent).__enter__()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("what", ["a file", "a link to nothing"])
def test_what_is_no_directory_is_named(tmp_path, what, below):
    path = tmp_path / "run"
    if what == "a file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    checkpointer = Checkpointer(path / "deep" if below else path)
    for action in (
        lambda: checkpointer.save(1, STATE, []),
        lambda: checkpointer.restore(STATE),
        checkpointer.__enter__,
    ):
        with pytest.raises(NotADirectoryError, match=f"`{path}` is {what}. Move"):
            action()
    assert [x.name for x in tmp_path.iterdir()] == ["run"]


def test_nothing_of_ours_is_left_beside_the_checkpoints(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        assert (tmp_path / FOLDER / "lock").exists()
        checkpointer.save(1, STATE, [])
    assert [x.name for x in tmp_path.iterdir()] == ["00000001"]
    checkpointer.save(2, STATE, [])
    assert (tmp_path / FOLDER).exists()
    del checkpointer
    assert not (tmp_path / FOLDER).exists()


HOLDER = """
import os, pathlib, sys, time
from equifed._checkpoint.lock import hold
hold(pathlib.Path(sys.argv[1]), "owner")
(pathlib.Path(sys.argv[1]) / ".equifed" / "unfinished").mkdir()
child = os.fork()  # it outlives the one that is killed
if child:
    print(child, flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="It forks, and is killed.")
def test_one_program_at_a_time(tmp_path):
    Checkpointer(tmp_path, every=1).save(1, STATE, [])
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(eqf.__file__).parents[1],
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    try:
        before = tree(tmp_path)
        who = rf"^`{re.escape(str(tmp_path))}` is in use: process {program.pid} on "
        checkpointer = Checkpointer(tmp_path)
        with pytest.raises(BlockingIOError, match=who) as caught, checkpointer:
            pass
        assert len(str(caught.value)) < 600
        with pytest.raises(BlockingIOError, match=who):
            checkpointer.save(2, STATE, [])
        assert tree(tmp_path) == before
        # Reading disturbs nobody.
        assert checkpointer.restore(STATE) is not None
        program.send_signal(signal.SIGKILL)
        program.wait()
        with checkpointer:
            checkpointer.save(2, STATE, [])
        assert saved_rounds(tmp_path) == [1, 2]
        assert not (tmp_path / FOLDER).exists()
    finally:
        os.kill(child, signal.SIGKILL)
        program.kill()
        program.communicate()


def test_objects_of_one_program_share_the_directory(tmp_path):
    first, second = Checkpointer(tmp_path), Checkpointer(tmp_path)
    first.save(1, STATE, [])
    second.save(2, STATE, [])
    with second:
        first.save(3, STATE, [])
        with second:  # `train` in a block of one's own
            pass
        with pytest.raises(BlockingIOError, match="is already training in"), first:
            pass
        errors = []

        def other_thread():
            try:
                second.__enter__()
            except BlockingIOError as error:
                errors.append(error)

        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        assert len(errors) == 1
    with first:
        first.save(4, STATE, [])
    assert saved_rounds(tmp_path) == [2, 3, 4]


def test_the_directory_may_be_deleted_and_made_again(tmp_path):
    checkpointer = Checkpointer(tmp_path / "run")
    for _ in range(2):
        checkpointer.save(1, STATE, [])
        shutil.rmtree(tmp_path / "run")
    checkpointer.save(1, STATE, [])
    assert saved_rounds(tmp_path / "run") == [1]


def test_a_directory_that_cannot_be_locked(tmp_path, monkeypatch):
    def unsupported(descriptor):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("equifed._checkpoint.lock._lock_file", unsupported)
    with pytest.warns(UserWarning, match="cannot be locked"), Checkpointer(tmp_path):
        pass


@pytest.fixture
def small_files():
    """Files of this process may have at most so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("large", ["state", "history"])
def test_a_disk_that_gets_full(tmp_path, small_files, large, capfd):
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(1, STATE, [])
    before = tree(tmp_path / "00000001")
    numbers = np.random.default_rng(0).normal(size=40_000)
    arguments: Any = (
        (numbers, []) if large == "state" else (STATE, [{"numbers": numbers.tolist()}])
    )
    small_files(100_000)
    with pytest.raises(
        OSError, match="^Could not save round 2 in `.*File too"
    ) as error:
        checkpointer.save(2, *arguments)
    small_files(1 << 40)
    assert error.value.errno == errno.EFBIG
    assert "The checkpoints that lie there are intact" in str(error.value)
    assert len(str(error.value)) < 600
    assert capfd.readouterr().err == ""
    assert tree(tmp_path / "00000001") == before
    restored = checkpointer.restore(STATE)
    assert restored is not None
    assert restored[0] == 1
    # What had been written takes no room.
    assert [x.name for x in (tmp_path / FOLDER).iterdir()] == ["lock"]
    checkpointer.save(2, STATE, [])
    assert saved_rounds(tmp_path) == [2]


class Recorder(eqf.AbstractLogger):
    def __init__(self):
        self.calls = []

    def start(self, num_rounds, first_round):
        self.calls.append((num_rounds, first_round))

    def log(self, round, metrics):
        self.calls.append(round)

    def close(self):
        pass


def train(directory, num_rounds=1, **options):
    batching = eqf.data.Epochs(1, batch_size=4)
    return eqf.train(
        eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), batching),
        testing.Linear(),
        eqf.data.Loader(
            testing.ragged_clients((5, 3)), eqf.data.AllClients(), batching
        ),
        num_rounds=num_rounds,
        key=jr.key(0),
        checkpointer=Checkpointer(directory, every=1),
        **options,
    )


def test_what_cannot_be_written_to_is_found_before_the_first_round(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    recorder = Recorder()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=f"^Checkpoints cannot lie in `{path}`: "):
            train(path, logger=recorder)

    def full(descriptor, content):
        raise OSError(errno.ENOSPC, "no matter what")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        train(tmp_path / "run", logger=recorder)
    assert error.value.errno == errno.ENOSPC
    assert recorder.calls == []


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="Root may write everywhere."
)
@pytest.mark.parametrize("used", [False, True])
def test_a_directory_without_permission(tmp_path, used):
    if used:
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "lock").touch()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="^Could not .*Permission denied"):
            train(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_bad_arguments_touch_no_file(tmp_path):
    with pytest.raises(ValueError, match="`rounds_per_call`"):
        train(tmp_path / "run", rounds_per_call=0)
    assert not (tmp_path / "run").exists()


def test_fewer_rounds_than_were_run(tmp_path):
    train(tmp_path, 3)
    recorder = Recorder()
    with pytest.raises(ValueError, match=r"`num_rounds` is 1, .* of round 3.*Give 3"):
        train(tmp_path, 1, logger=recorder)
    assert recorder.calls == []
    assert len(train(tmp_path, 3).history) == 3
    # The lock is given back in any case.
    assert not (tmp_path / FOLDER).exists()


def test_the_lock_is_held_until_the_training_ends(tmp_path):
    class Stops(Recorder):
        def log(self, round, metrics):
            assert (tmp_path / FOLDER / "lock").exists()
            if round == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 3, logger=Stops())
    assert not (tmp_path / FOLDER).exists()
    assert saved_rounds(tmp_path) == [1]
