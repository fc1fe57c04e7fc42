"""What a worker says and hears: one JSON object a line.

A worker is one side of a comparison: a process in its own virtual environment, which
runs federated rounds of one workload when it is asked to. Its file holds only that
side's own code, as a `Peer`; this one holds the conversation. When it starts, a worker
runs its first round, and says

    {"ready": true, "seconds_to_first_round": ..., "imports_s": ..., ...}

or `{"unsupported": why}`. It then answers one line for each of

    reset                       back to the first parameters and to round 0
    rounds START COUNT          -> {"seconds": [...]}, of each round
    params PATH                 writes the parameters as an .npz file
    evaluate NUM_CLIENTS        -> {"seconds": s, "metrics": {...}}
    evaluate_per_client NUM_CLIENTS
    memory                      -> {"peak_rss_mb": ...}
    quit

Rounds are asked for in order: after `reset` comes round 0. While it is not asked, a
worker sleeps. NumPy and the standard library only.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import sys
import time


_BEGAN = time.time()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from _work import Data, Work, WORKS  # noqa: E402


class Unsupported(Exception):
    """Raised by a peer that cannot do a workload."""


class Peer:
    """One side. Everything returns only when its result is there.

    Its `__init__` should do what a user's program does before the first round.
    """

    # Whether `params` are those that other sides with the same rounds should have.
    comparable = True
    # The distributions whose versions are reported.
    packages: tuple[str, ...] = ("numpy",)

    def reset(self) -> None:
        """Goes back to the first parameters and to round 0."""
        raise NotImplementedError

    def round(self, number: int) -> None:
        """Runs a round on the current model, and waits for the new one."""
        raise NotImplementedError

    def rounds(self, start: int, count: int) -> list[float]:
        """Runs rounds one after another, and returns the seconds of each.

        For a side that can only run several at once, equal parts of their time.
        """
        seconds = []
        for number in range(start, start + count):
            began = time.perf_counter()
            self.round(number)
            seconds.append(time.perf_counter() - began)
        return seconds

    def params(self) -> dict[str, np.ndarray]:
        """The current parameters, by the workload's names and in its layouts."""
        raise NotImplementedError

    def evaluate(self, num_clients: int) -> dict[str, float]:
        """The loss and accuracy over the first clients' examples."""
        raise NotImplementedError

    def evaluate_per_client(self, num_clients: int) -> dict[str, float]:
        """The same for each of the first clients; returns their plain means."""
        raise NotImplementedError

    def peak_rss_mb(self) -> float:
        """The most memory that this process has had."""
        return _peak_rss_mb()

    def close(self) -> None:
        """Stops whatever has been started."""


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments of every worker; add your own."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--work", required=True, choices=list(WORKS))
    parser.add_argument("--clients", type=int, help="clients a round")
    parser.add_argument("--data", required=True, help="where the data are or will be")
    parser.add_argument("--quick", action="store_true", help="a small population")
    parser.add_argument("--started", type=float, help="when the process was started")
    return parser


def serve(args: argparse.Namespace, make_peer) -> None:
    """Makes `make_peer(work, data, args)` and answers for it until `quit`."""
    began = _BEGAN if args.started is None else args.started
    imported = time.time()
    # Libraries may print: what is said to the harness goes by a private way.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**message) -> None:
        out.write(json.dumps(message) + "\n")

    work = WORKS[args.work]
    work = work.quick() if args.quick else work
    args.clients = args.clients or work.cohorts[0]
    try:
        peer: Peer = make_peer(work, work.data(args.data), args)
    except Unsupported as error:
        say(unsupported=str(error))
        return
    try:
        peer.reset()
        peer.rounds(0, 1)
        say(
            ready=True,
            seconds_to_first_round=time.time() - began,
            imports_s=imported - began,
            peak_rss_mb=peer.peak_rss_mb(),
            comparable=peer.comparable,
            versions=_versions(peer.packages),
        )
        _answer(peer, say)
    finally:
        peer.close()


def _answer(peer: Peer, say) -> None:
    # Not `for line in sys.stdin`, which reads ahead.
    while line := sys.stdin.readline().split():
        command, *words = line
        if command == "quit":
            return
        if command == "reset":
            peer.reset()
            say()
        elif command == "rounds":
            say(seconds=peer.rounds(int(words[0]), int(words[1])))
        elif command == "params":
            np.savez(words[0], **peer.params())
            say()
        elif command in ("evaluate", "evaluate_per_client"):
            started = time.perf_counter()
            try:
                metrics = getattr(peer, command)(int(words[0]))
            except (NotImplementedError, Unsupported):
                say(unsupported=True)
                continue
            say(seconds=time.perf_counter() - started, metrics=metrics)
        elif command == "memory":
            say(peak_rss_mb=peer.peak_rss_mb())
        else:
            say(error=f"no such command: {command}")


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        versions[package] = importlib.metadata.version(package)
    return versions


def _peak_rss_mb() -> float:
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Not `getrusage`: there a new process begins with its parent's peak.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


__all__ = ["Data", "parser", "Peer", "serve", "Unsupported", "Work"]
