"""The folder of a run: what it was made with, its metrics, and what came of it.

`config.json` makes the same run again, `environment.json` says which versions made it,
`metrics.jsonl` has a line a round (`metrics-0.jsonl` and so on of several seeds),
`checkpoints` is what `resume` goes on from, and `result.json` is there once it has
ended; `ledger.json` too, where one was asked for.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import jax

from .._bits import DOWN, UP
from .._files import replacing
from .._history import ROUND, Row
from .._json import from_json, to_json
from .parsing import read_config
from .settings import Settings


CONFIG, ENVIRONMENT, RESULT = "config.json", "environment.json", "result.json"
CHECKPOINTS, LEDGER = "checkpoints", "ledger.json"
NONFINITE = "nonfinite_model"
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "equifed")


def begin(folder: pathlib.Path, settings: Settings) -> None:
    """Makes the folder of a run, which must be no other run's."""
    if (folder / CONFIG).exists():
        raise ValueError(
            f"`{folder}` holds another run. Go on with that by `equifed resume "
            f"{folder}`, or give this one a folder of its own: `--output FOLDER`."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"`{folder}` holds other files. Give the run a folder of its own: "
            "`--output FOLDER`."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"`{folder}` cannot be a folder: there is a file of that name, or of one "
            "of the folders that it is to lie in. Give another `--output FOLDER`."
        ) from None
    write(folder / ENVIRONMENT, environment())
    write(folder / CONFIG, settings.as_json())


def forget(folder: pathlib.Path) -> None:
    """Takes away the folder of a run that has not trained a round, so that the next try
    does not run into it."""
    if any(file.stat().st_size > 0 for file in folder.glob("metrics*.jsonl")):
        return
    for file in (*folder.glob("metrics*.jsonl"), folder / CONFIG, folder / ENVIRONMENT):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    with contextlib.suppress(OSError):  # what somebody else has put there stays
        folder.rmdir()


def read(folder: pathlib.Path) -> Settings:
    """The settings of a run."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"`{folder}` is no run: it has no {CONFIG}. Give the folder that `equifed "
            "run` has named."
        )
    return Settings(**read_config(folder / CONFIG))


def write(path: pathlib.Path, values: Any) -> None:
    """Writes JSON, whole or not at all."""
    with replacing(path, path.with_suffix(".new")) as file:
        file.write((to_json(values, indent=2) + "\n").encode())


def environment() -> dict[str, Any]:
    """The versions of what computes, and the state of the code around it."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    git = None
    if commit is not None and changed is not None:
        git = {"commit": commit, "changed": changed.splitlines()}
    return {
        "versions": versions,
        "machine": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "git": git,
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it was kept: like a solution, it has a history, one for each seed."""

    name: str
    settings: Settings
    histories: list[list[Row]]
    ended: bool
    results: set[str]


@dataclasses.dataclass(frozen=True)
class Seed:
    """What is drawn of one seed."""

    history: list[Row]


def load(folder: str) -> Run:
    """Reads a run."""
    path = pathlib.Path(folder)
    settings = read(path)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    names = [f"metrics-{seed}.jsonl" for seed in seeds]
    files = [path / name for name in (names if len(seeds) > 1 else ["metrics.jsonl"])]
    histories = [_rows(file) if file.is_file() else [] for file in files]
    if not all(histories):
        raise ValueError(f"`{path}` has no round yet: there is nothing to show.")
    ends = _ends(path / RESULT, len(histories)) if (path / RESULT).exists() else []
    for history, end in zip(histories, ends, strict=False):
        history[-1] |= end["last"]  # of several models it is measured at the end
    results = {end["result"] for end in ends}
    return Run(path.name, settings, histories, ended=bool(ends), results=results)


def _ends(file: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """How each seed has ended."""
    try:
        ends = from_json(file.read_text("utf-8"))
        whole = len(ends) == count and all(
            isinstance(x["last"], dict) and isinstance(x["result"], str) for x in ends
        )
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise ValueError(
            f"`{file}` does not say how the run ended, as `equifed run` wrote it. "
            "Without it the run counts as one that is not at its end: move it away, "
            "and `equifed resume` writes it anew."
        )
    return ends


def _rows(file: pathlib.Path) -> list[Row]:
    rows: list[Row] = []
    lines = file.read_text("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
            if number == len(lines):
                continue  # one that a killed run left half-written
        # Each round has a line, from the first.
        of_round = len(rows) + 1
        row = _row(row)
        right = row is not None and row[ROUND] == of_round
        if row is None or not right or _told(row) != _told((rows or [row])[0]):
            raise ValueError(
                f"Line {number} of `{file}` is not the metrics of round {of_round}, so "
                "that what the run has sent, and its curves, are not known."
            )
        rows.append(row)
    return rows


def _row(row: Any) -> Row | None:
    """The metrics of a round, if these are some: numbers."""
    if not isinstance(row, dict) or ROUND not in row:
        return None
    try:  # of "nan", which JSON has no number for
        row = {n: float(x) if isinstance(x, str) else x for n, x in row.items()}
    except ValueError:
        return None
    return None if None in row.values() else row


def _told(row: Row) -> list[bool]:
    """Whether it is told what was sent: of all rounds of a run, or of none."""
    return [name in row for name in (UP, DOWN)]
