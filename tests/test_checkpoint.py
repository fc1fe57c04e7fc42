"""A training that is killed at any moment loses nothing that was saved."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxtyping import Array

from equifed._checkpoint import Checkpointer
from equifed._checkpoint.folder import folders


class Carried(eqx.Module):
    weight: Array
    count: Array
    key: Array
    empty: Array
    host: np.ndarray
    function: Any
    size: int


def make(seed: float, function: Any = jnp.tanh, width: int = 3) -> Carried:
    return Carried(
        weight=(jnp.arange(width) / 3 + seed).astype(jnp.bfloat16),
        count=jnp.asarray(round(seed), jnp.int32),
        key=jr.split(jr.key(round(seed)), 2),
        empty=jnp.zeros((0, 4)),
        host=np.asarray([seed / 7], np.float64),
        function=function,
        size=width,
    )


def assert_same_bits(x, y):
    assert jtu.tree_structure(x) == jtu.tree_structure(y)
    for a, b in zip(jtu.tree_leaves(x), jtu.tree_leaves(y), strict=True):
        if eqx.is_array(a) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jr.key_data(a), jr.key_data(b)
        if eqx.is_array_like(a):
            assert type(a) is type(b)
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()
        else:
            assert a is b


@pytest.mark.parametrize(
    ("round", "history", "error", "words"),
    [
        (-1, [], ValueError, "`round` must be at least 0, got -1"),
        (1.5, [], TypeError, "`round` must be an integer, got"),
        (True, [], TypeError, "`round` must be an integer, got"),
        (1, {}, TypeError, "`history` must be a `list`, got {}"),
        (1, [1], TypeError, r"`history\[0\]` must be a dictionary of numbers by name"),
        (1, [{}, {1: 2.0}], TypeError, r"`history\[1\]` must be a dictionary of num"),
        (1, [{}, {"a": object()}], TypeError, r"`history\[1\]\['a'\]` must be a num"),
        (1, [{"a": 1j}], TypeError, "must be a number or an array"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, round, history, error, words):
    with pytest.raises(error, match=words) as raised:
        Checkpointer(tmp_path / "run").save(round, make(1), history)
    assert len(str(raised.value)) < 600
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked(tmp_path):
    checkpointer: Any = Checkpointer(tmp_path)
    with pytest.raises(TypeError, match="`round` must be an integer"):
        checkpointer.should_save(1.0)
    with pytest.raises(TypeError, match="`algorithm` must be"):
        checkpointer.fingerprint(1, make(1), None, key=jr.key(0))


def history_of(round):
    return [{"round": i + 1, "loss": 1 / (i + 3)} for i in range(round)]


def names(directory):
    # While it is locked, a folder of our own lies there too.
    return sorted(path.name for path in directory.iterdir() if path.name != ".equifed")


def test_restores_every_bit(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new" / "run")
    assert checkpointer.restore(make(0)) is None
    history = [{"round": 1, "loss": 0.1 + 0.2, "acc": np.float32(0.1), "nan": np.nan}]
    several = np.array([[np.inf, 1.0], [-np.inf, np.nan]])
    history[0] |= {"epsilon": np.inf, "low": np.float32(-np.inf), "several": several}
    checkpointer.save(1, make(5), history)
    restored = checkpointer.restore(make(0))
    assert restored is not None
    round, state, read = restored
    assert round == 1
    assert_same_bits(state, make(5))
    assert read[0]["loss"] == 0.1 + 0.2
    assert np.float32(read[0]["acc"]) == np.float32(0.1)
    assert np.isnan(read[0]["nan"])
    assert (read[0]["epsilon"], read[0]["low"]) == (np.inf, -np.inf)
    np.testing.assert_array_equal(read[0]["several"], several)
    # Any parser reads it: JSON has none of these numbers.
    for file in (tmp_path / "new" / "run" / "00000001").glob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["run [v2]", "x[1]y", "[!a]", "a*b", "a?b", "{a,b}"])
def test_any_name_of_a_directory(tmp_path, name):
    (tmp_path / "x1y").mkdir()  # which a pattern would find
    checkpointer = Checkpointer(tmp_path / name / "deep")
    checkpointer.save(1, make(5), [])
    restored = checkpointer.restore(make(0))
    assert restored is not None
    assert_same_bits(restored[1], make(5))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a\0b", "a NUL"),
        pytest.param(
            "a\\b",
            "a backslash",
            marks=pytest.mark.skipif(os.name != "posix", reason="A separator."),
        ),
    ],
)
def test_a_name_that_arrays_cannot_have(tmp_path, name, what):
    with pytest.raises(ValueError, match=f"`directory` must be a path without {what}"):
        Checkpointer(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_cannot_be_read(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make(5), [])
    shutil.rmtree(tmp_path / "00000001" / "state")
    monkeypatch.setattr("equifed._checkpoint.folder.find_damage", lambda folder: None)
    with pytest.raises(OSError, match="could not be read") as error:
        checkpointer.restore(make(0))
    assert str(tmp_path / "00000001") in str(error.value)
    assert error.value.__cause__ is not None


def test_nan_payloads_and_infinities_survive(tmp_path):
    bits = np.asarray([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, jax.device_put(bits.view(np.float32)), [])
    restored = checkpointer.restore(jnp.zeros(4))
    assert restored is not None
    np.testing.assert_array_equal(np.asarray(restored[1]).view(np.uint32), bits)


def test_functions_come_from_the_state_given(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make(5, jnp.tanh), [])
    restored = checkpointer.restore(make(0, jnp.sin))
    assert restored is not None
    assert restored[1].function is jnp.sin


def test_a_state_without_arrays(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, (), [])
    assert checkpointer.restore(()) == (3, (), [])


def test_arrays_return_to_their_shardings(tmp_path):
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = NamedSharding(mesh, P("clients"))
    value = jax.device_put(jnp.arange(8.0), sharded)
    key = jax.device_put(jr.split(jr.key(0), 4), sharded)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, (value, key, jnp.ones(2)), [])

    zeros = jnp.zeros(8)
    replicated = jax.device_put(zeros, NamedSharding(mesh, P()))
    for like in (zeros, jax.device_put(zeros, sharded), replicated):
        keys = jax.device_put(jr.split(jr.key(1), 4), sharded)
        restored = checkpointer.restore((like, keys, jnp.zeros(2)))
        assert restored is not None
        new, new_key, free = restored[1]
        assert new.sharding == like.sharding
        assert new.committed == like.committed
        assert new_key.sharding == sharded
        assert (new == value).all()
        assert (jr.key_data(new_key) == jr.key_data(key)).all()
        # What was free to move still is: this fails for an array held on one device.
        assert not free.committed
        jax.jit(lambda x, y: (x, y))(free, jax.device_put(zeros, sharded))


def test_due_every_few_rounds(tmp_path):
    checkpointer = Checkpointer(tmp_path, every=5)
    assert [r for r in range(16) if checkpointer.should_save(r)] == [5, 10, 15]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_keeps_the_newest(tmp_path, keep):
    checkpointer = Checkpointer(tmp_path, keep=keep)
    for round in range(1, 8):
        checkpointer.save(round, make(round), history_of(round))
        first = max(1, round - keep + 1)
        assert names(tmp_path) == [f"{r:08d}" for r in range(first, round + 1)]
    restored = checkpointer.restore(make(0))
    assert restored is not None
    assert restored[0] == 7
    assert restored[2] == history_of(7)


@pytest.mark.parametrize("keep", [1, 3])
def test_a_round_may_be_saved_again(tmp_path, keep):
    checkpointer = Checkpointer(tmp_path, keep=keep)
    for value in (1, 2, 3):
        checkpointer.save(7, make(value), [])
        restored = checkpointer.restore(make(0))
        assert restored is not None
        assert_same_bits(restored[1], make(value))
        assert len(names(tmp_path)) == 1


def test_an_earlier_round_is_not_saved_over_a_later_one(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(7, make(7), [])
    with pytest.raises(ValueError, match="of a later round"):
        checkpointer.save(6, make(6), [])


def _files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("how", ["truncate", "empty", "delete", "flip"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, how):
    original = tmp_path / "original"
    checkpointer = Checkpointer(original)
    for round in (10, 20):
        checkpointer.save(round, make(round), history_of(round))
    newest = original / "00000020"
    assert len(_files(newest)) > 5
    for file in _files(newest):
        copy = tmp_path / "copy"
        shutil.copytree(original, copy)
        damaged = copy / file.relative_to(original)
        content = damaged.read_bytes()
        if how == "delete":
            damaged.unlink()
        elif how == "empty":
            damaged.write_bytes(b"")
        elif how == "truncate":
            damaged.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            flipped = bytes([content[middle] ^ 1])
            damaged.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        checkpointer = Checkpointer(copy)
        with pytest.warns(UserWarning, match="00000020` is damaged"):
            restored = checkpointer.restore(make(0))
        assert restored is not None
        assert restored[0] == 10
        assert_same_bits(restored[1], make(10))
        # Going on from there replaces it, if the manifest still knows its files.
        known = file.name != "manifest.json"
        ours = any(x.files is not None for x in folders(copy) if x.round == 20)
        assert ours or not known
        checkpointer.save(20, make(20), history_of(20))
        restored = checkpointer.restore(make(0))
        assert restored is not None
        assert restored[0] == 20
        assert len(names(copy)) in ([2] if known else [2, 3])
        shutil.rmtree(copy)


def test_nothing_is_restored_where_all_is_damaged(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(10, make(10), [])
    (tmp_path / "00000010" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="damaged") as warned:
        assert checkpointer.restore(make(0)) is None
    assert warned[0].filename == __file__


def test_another_model_is_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}, [])
    with pytest.raises(ValueError, match=r"`\['b'\]` is float32\[2,2\], not .*\[2,3\]"):
        checkpointer.restore({"a": jnp.zeros(3), "b": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"`\['a'\]` is float32\[3\], not int32\[3\]"):
        checkpointer.restore({"a": jnp.zeros(3, int), "b": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"it has no `\['aa'\]`"):
        checkpointer.restore(
            {"a": jnp.zeros(3), "aa": jnp.zeros(3), "b": jnp.zeros((2, 2))}
        )
    with pytest.raises(ValueError, match=r"it has `\['b'\]`, which is not known"):
        checkpointer.restore({"a": jnp.zeros(3)})


def test_another_algorithm_is_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make(1), [], algorithm="FedAvg")
    with pytest.raises(ValueError, match="it is of `FedAvg`, not `FedProx`"):
        checkpointer.restore(make(0), algorithm="FedProx")
    assert checkpointer.restore(make(0), algorithm="FedAvg") is not None
    assert checkpointer.restore(make(0)) is not None


@pytest.mark.parametrize("name", ["every", "keep"])
def test_bad_numbers_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        Checkpointer(tmp_path, **{name: 0})  # pyright: ignore


# Imports once, and saves in a process that it forks for each line that it is given.
_SAVE_FOR_EVER = """
    import os, sys
    import jax.numpy as jnp
    from equifed._checkpoint import Checkpointer

    def save_for_ever(directory, keep):
        print(os.getpid(), flush=True)
        checkpointer = Checkpointer(directory, keep=int(keep))
        restored = checkpointer.restore(jnp.zeros(50_000))
        round = 0 if restored is None else restored[0]
        while True:
            round += 1
            checkpointer.save(round, jnp.full(50_000, float(round)), [{"round": round}])
            print(round, flush=True)

    for line in sys.stdin:
        if os.fork() == 0:
            save_for_ever(*line.split())
        os.wait()
        print("killed", flush=True)
"""


def test_survives_sigkill_at_any_moment(tmp_path):
    script = textwrap.dedent(_SAVE_FOR_EVER)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    ) as process:
        for keep in (1, 3):
            rng = np.random.default_rng(keep)
            directory, saved = tmp_path / f"run{keep}", 0
            for _ in range(3):
                printed = kill(process, f"{directory} {keep}", rng.uniform(0.05, 0.4))
                previous, saved = saved, printed[-1]
                restored = Checkpointer(directory).restore(np.zeros(50_000, np.float32))
                assert restored is not None
                round, state, history = restored
                assert round in (saved, saved + 1)
                assert round > previous
                saved = round
                assert (np.asarray(state) == round).all()
                assert history == [{"round": round}]


def kill(process, line, seconds):
    """Starts to save, and kills what saves so long after one is complete; what it
    printed."""
    process.stdin.write(line + "\n")
    process.stdin.flush()
    number = int(process.stdout.readline())
    first = process.stdout.readline()
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    return [int(x) for x in [first, *iter(process.stdout.readline, "killed\n")]]


def test_killed_at_every_step_of_a_save(tmp_path, monkeypatch):
    """Stops the second save at each of its file operations in turn."""

    class Killed(BaseException):
        pass

    def run(directory, stop):
        count = 0

        def counted(function):
            def wrapper(*args, **kwargs):
                nonlocal count
                count += 1
                if count == stop:
                    raise Killed
                return function(*args, **kwargs)

            return wrapper

        checkpointer = Checkpointer(directory, keep=1)
        checkpointer.save(1, make(1), [])
        with monkeypatch.context() as patch:
            for owner, name in [
                (pathlib.Path, "mkdir"),
                (pathlib.Path, "rename"),
                (pathlib.Path, "write_text"),
                (pathlib.Path, "unlink"),
                (pathlib.Path, "rmdir"),
                (shutil, "rmtree"),
            ]:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                checkpointer.save(2, make(2), [])
            except Killed:
                killed = True
            else:
                killed = False
        restored = Checkpointer(directory).restore(make(0))
        assert restored is not None
        round, state, _ = restored
        assert_same_bits(state, make(round))
        Checkpointer(directory, keep=1).save(3, make(3), [])
        assert names(directory) == ["00000003"]
        return killed

    stop = 1
    while run(tmp_path / str(stop), stop):
        stop += 1
    assert stop > 7
