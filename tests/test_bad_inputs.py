"""Bad inputs are refused in one sentence that says what was expected, what came and
what to write; before anything is compiled, and before a file is touched.

The calls are made in a program of their own, without the import hook with which these
tests check all types: it is what users see.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from .bad_inputs import TABLE
from .test_house import PUBLIC, value_of


CASES = {
    f"{name}: {case}": (error, words)
    for name, cases in TABLE.items()
    for case, (_, error, words) in cases.items()
}

# What takes nothing that could be wrong, or is only ever made by the library.
_MADE = "The library makes it, and looks at what is in it where it is used."
_PLAIN = "It takes no argument."
WITHOUT = {
    "Aggregate": _MADE,
    "Broadcast": _MADE,
    "ClientData": _MADE,
    "Cohort": _MADE,
    "Control": _MADE,
    "Gaussian": _MADE,
    "Message": "Its parts are checked when it is sent: see `AbstractClient`.",
    "Natural": _MADE,
    "RESULTS": "An enumeration.",
    "Samples": _MADE,
    "State": "It is checked when it is used: see `AbstractAlgorithm.round`.",
    "Median": _PLAIN,
    "NoCorrection": _PLAIN,
    "NoLogger": _PLAIN,
    "NonzeroMean": _PLAIN,
    "PosteriorProduct": _PLAIN,
    "UniformMean": _PLAIN,
    "WeightedMean": _PLAIN,
    "WandB": "It hands its arguments on to `wandb.init`.",
    "data.digits": _PLAIN,
    "testing.noisy_loss": "A loss: see `train`.",
    "testing.quadratic_loss": "A loss: see `train`.",
}


@pytest.fixture(scope="module")
def outcomes():
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.bad_inputs"]
    env = {**os.environ, "MPLBACKEND": "agg", "JAX_NUM_CPU_DEVICES": "2"}
    out = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, check=True
    )
    rows = map(json.loads, out.stdout.splitlines())
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, outcomes):
    error, words = CASES[name]
    row = outcomes[name]
    message = row["message"]
    errors = error if isinstance(error, tuple) else (error,)
    assert {kind.__name__ for kind in errors} & set(row["kinds"]), (row, errors)
    for word in words if isinstance(words, tuple) else (words,):
        assert word in message
    assert 10 < len(message) < 600
    assert "\n" not in message
    assert "has no attribute" not in message
    assert row["compiled"] == 0
    assert not row["touched"]


def test_a_compilation_and_a_file_would_be_seen(outcomes):
    assert outcomes["control"]["compiled"] > 0
    assert outcomes["control"]["touched"]


def test_the_table_covers_the_whole_surface():
    assert len(CASES) >= 300
    public = {
        name.removeprefix("equifed.") for name in PUBLIC if callable(value_of(name))
    }
    # A method's cases stand under the name of its class as well.
    covered = {
        name for name in public if any(f"{t}.".startswith(f"{name}.") for t in TABLE)
    }
    assert public - covered - set(WITHOUT) == set()
    assert set(WITHOUT) <= public - covered
