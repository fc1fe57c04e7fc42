"""Bad input of `equifed.data` is refused early, in a sentence or two, by its name."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from .bad_data import CASES


@pytest.fixture(scope="module")
def errors():
    """What a user sees, whose program does not check all types as the tests do."""
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.bad_data"]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused(errors, name):
    _, kind, pattern = CASES[name]
    got, text = errors[name]
    assert got == kind, text
    assert re.search(pattern, text), text
    assert len(text) < 600
    assert "\n" not in text
