"""Runs workers side by side: checks that they compute the same, then takes times.

All sides of a comparison are started one after another and stay up. Rounds then
alternate between them, so that what else the machine does hits all alike; the others
sleep meanwhile. A turn is several rounds if these are short.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from _work import Work


PEERS = pathlib.Path(__file__).resolve().parent / "peers"


@dataclasses.dataclass(frozen=True)
class Side:
    """A worker's script, its arguments, and the virtual environment it needs.

    `venv` is the name of a directory under `--venvs`; an empty one is the environment
    of this very process.
    """

    script: str
    args: tuple[str, ...] = ()
    venv: str = ""

    def python(self, venvs: str | None) -> str:
        if not self.venv:
            return sys.executable
        if venvs is None:
            raise SystemExit(f"{self.script} needs `--venvs`, a directory with venvs.")
        path = pathlib.Path(venvs) / self.venv
        for name in ("bin/python", "Scripts/python.exe"):
            if (path / name).exists():
                return str(path / name)
        raise SystemExit(f"There is no virtual environment {path}: see the README.")


SIDES = {
    "equifed": Side("equifed_worker.py"),
    "equifed-2": Side("equifed_worker.py", ("--devices", "2")),
    "bare": Side("bare_worker.py"),
    "bare-2": Side("bare_worker.py", ("--devices", "2")),
    "fedjax": Side("fedjax_worker.py", venv="fedjax"),
    "fedjax-tuned": Side(
        "fedjax_worker.py", ("--pooling", "reshape", "--ynn-off"), venv="fedjax"
    ),
    "pfl": Side("pfl_worker.py", venv="pfl"),
    "pytorch": Side("pytorch_worker.py", venv="pfl"),
    "flower": Side("flower_worker.py", venv="flower"),
}


class Failed(Exception):
    """A worker said that it cannot, or died."""


class Worker:
    """A running worker; see `peers/_protocol.py`."""

    def __init__(self, name: str, work: Work, clients: int, options):
        self.name, self.times = name, []
        side = SIDES[name]
        self._errors = tempfile.TemporaryFile("w+")
        command = [
            *(side.python(options.venvs), str(PEERS / side.script)),
            *("--work", work.name, "--clients", str(clients)),
            *("--data", str(options.data), "--started", str(time.time())),
            *(["--quick"] if options.quick else []),
            *side.args,
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            self.start = self._hear()
        except Failed:
            self.close()
            raise

    def ask(self, *words: object) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = "".join(self._errors.readlines()[-15:])
            raise Failed(f"{self.name} died:\n{tail}")
        answer = json.loads(line)
        if "error" in answer or answer.get("unsupported", True) is not True:
            raise Failed(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write("quit\n")
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def compare(work: Work, clients: int, names: list[str], options) -> dict | None:
    """Measures one workload: the first of `names` is what others are held against."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            try:
                worker = Worker(name, work, clients, options)
            except Failed as error:
                print(f"  {error}", flush=True)
                if name == names[0] or "died" in str(error):
                    raise
                continue
            stack.callback(worker.close)
            workers.append(worker)
        differences = check(work, workers)
        take_times(workers, options)
        evaluations = evaluate(workers, options, work)
        return {
            "work": work.name,
            "clients": clients,
            "steps": work.num_steps(2, clients),
            "parameters": work.num_params(),
            "sides": [
                {
                    "name": w.name,
                    **w.start,
                    "difference": differences.get(w.name),
                    "round_s": w.times,
                    **evaluations.get(w.name, {}),
                    **w.ask("memory"),
                }
                for w in workers
            ],
        }


def check(work: Work, workers: list[Worker]) -> dict[str, float]:
    """Compares the parameters after the first two rounds.

    **Returns:**

    How far each side's parameters are from the first side's: the largest difference
    of one number, as a part of the largest change of one number.

    **Raises:**

    `SystemExit` if that is more than the workload's tolerance.
    """
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for i, worker in enumerate(workers):
            worker.ask("rounds", 1, 1)  # Round 0 was its start.
            if worker.start["comparable"]:
                path = os.path.join(directory, f"{i}.npz")
                worker.ask("params", path)
                with np.load(path) as file:
                    results[worker.name] = dict(file)
    first, right = work.params(), results[workers[0].name]
    moved = max(np.abs(right[name] - first[name]).max() for name in first)
    differences = {}
    for side, params in results.items():
        apart = max(np.abs(params[name] - right[name]).max() for name in first)
        differences[side] = float(apart / moved)
        if not apart <= work.tolerance * moved:
            raise SystemExit(
                f"{side} computes something else than {workers[0].name}: after two "
                f"rounds of {work.name} a parameter differs by {apart:.3g}, and they "
                f"have moved by {moved:.3g} (tolerance {work.tolerance:g} of that)."
            )
    return differences


def take_times(workers: list[Worker], options) -> None:
    """Takes turns of rounds, each as many as last `--turn` seconds on the first side.

    The first turn is not counted, if a turn has several rounds: something may be yet
    to be compiled. Sides whose rounds are long take at least three turns.
    """
    warm = [min(worker.ask("rounds", 2, 2)["seconds"]) for worker in workers]
    count = max(1, min(50, round(options.turn / warm[0])))
    most = options.seconds / (count * max(warm))
    repeats = max(min(3, options.repeats), min(options.repeats, round(most)))
    start = 4
    for i in range(repeats + (count > 1)):
        for worker in workers:
            seconds = worker.ask("rounds", start, count)["seconds"]
            if count == 1 or i > 0:
                worker.times.extend(seconds)
        start += count


def evaluate(workers: list[Worker], options, work: Work) -> dict[str, dict]:
    """Times full and per-client evaluation, of the models as they are after the rounds.

    **Raises:**

    `SystemExit` if the losses are not alike: after so many rounds the models are not
    the same to the last digits, but close.
    """
    if not options.evaluate:
        return {}
    num_clients = min(options.evaluate, work.num_clients)
    results: dict[str, dict] = {}
    for command in ("evaluate", "evaluate_per_client"):
        losses = {}
        for i in range(4):
            for worker in workers:
                answer = worker.ask(command, num_clients)
                if "seconds" in answer and i > 0:
                    result = results.setdefault(worker.name, {})
                    result.setdefault(f"{command}_s", []).append(answer["seconds"])
                    losses[worker.name] = answer["metrics"]["loss"]
        if not np.allclose(list(losses.values()), losses[workers[0].name], rtol=0.05):
            raise SystemExit(f"The losses by `{command}` differ: {losses}.")
        for name, loss in losses.items():
            results[name][f"{command}_loss"] = loss
    return results
