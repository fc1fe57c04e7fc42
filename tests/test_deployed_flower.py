"""Flower's deployment runtime on this machine: a superlink, two supernodes, and what
they start, as processes. It takes minutes: `nox -s deploy` runs it.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest


pytest.importorskip("flwr", reason="`nox -s deploy` has it.")

APP = pathlib.Path(__file__).parent / "flower_app"
BIN = pathlib.Path(sys.executable).parent
LONG = 900  # seconds; a message is answered in about ten, on two idle cores


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, seconds=LONG):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "It took too long."
        time.sleep(0.1)
    return found


class Federation:
    """A superlink and its supernodes, on ports that are free."""

    def __init__(self, folder, **env):
        self.folder, self.running = folder, []
        home = folder / "home"
        home.mkdir()
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        kept = {"FLWR_HOME": str(home), "XDG_CACHE_HOME": str(folder / "cache")}
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "JAX_PLATFORMS": "cpu"}
        self.env = os.environ | kept | quiet | {"PATH": path} | env
        self.port = free_port()
        address = f'address = "127.0.0.1:{self.port}"'
        lines = ["[superlink]", 'default = "here"', "[superlink.here]", address]
        (home / "config.toml").write_text("\n".join([*lines, "insecure = true", ""]))
        how = ("--insecure", "--disable-runtime-dependency-installation")
        self.start("flower-superlink", *how, "--port", str(self.port))
        until(self.answers)
        self.nodes = [self.node(i) for i in range(2)]

    def start(self, program, *arguments):
        with (self.folder / f"{program}-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / program, *arguments],
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def answers(self):
        with contextlib.suppress(OSError), contextlib.closing(socket.socket()) as one:
            one.connect(("127.0.0.1", self.port))
            return True
        return False

    def node(self, number):
        state = self.folder / "state"
        config = f'partition-id={number} num-partitions=2 state="{state}"'
        where = ("--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port()))
        return self.start(
            "flower-supernode", "--insecure", *where, "--node-config", config
        )

    def run(self, output, **config):
        """Starts a run."""
        config |= {"output": str(output)}
        pairs = " ".join(f"{n}={json.dumps(x)}" for n, x in config.items())
        call = [BIN / "flwr", "run", str(APP), "here", "--run-config", pairs]
        done = subprocess.run(call, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def end(self):
        for process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    made = Federation(tmp_path_factory.mktemp("federation"))
    yield made
    made.end()


def simulated(federation, method):
    path = federation.folder / f"{method}-simulated.npz"
    call = [sys.executable, APP / "deployed_parts.py", method, path]
    subprocess.run(call, env=federation.env, check=True)
    return dict(np.load(path))


def rounds_in(output):
    file = output.with_suffix(".jsonl")
    return len(file.read_text().splitlines()) if file.exists() else 0


def saved_in(checkpoints):
    """The last round that is saved."""
    found = pathlib.Path(checkpoints).glob("[0-9]*")
    return max((int(path.name[:8]) for path in found), default=0)


def same(x, y):
    assert set(x) == set(y)
    for name in x:
        assert np.array_equal(x[name], y[name]), name


@pytest.mark.parametrize("method", ["Scaffold", "FedAdam"])
def test_the_bits_of_a_simulation(federation, method):
    output = federation.folder / f"{method}.npz"
    federation.run(output, method=method)
    wanted = simulated(federation, method)
    until(output.exists)
    same(dict(np.load(output)), wanted)


def test_a_killed_server_goes_on(federation):
    checkpoints = str(federation.folder / "checkpoints")
    first, second = (federation.folder / f"{x}.npz" for x in ("first", "second"))
    federation.run(first, method="FedAvg", checkpoints=checkpoints)
    until(lambda: saved_in(checkpoints))
    os.kill(int(first.with_suffix(".pid").read_text()), signal.SIGKILL)
    saved = saved_in(checkpoints)
    federation.run(second, method="FedAvg", checkpoints=checkpoints)
    wanted = simulated(federation, "FedAvg")
    until(second.exists)
    assert not first.exists()
    assert rounds_in(second) == 3 - saved
    same(dict(np.load(second)), wanted)


def test_a_killed_node_has_dropped_out(tmp_path):
    federation = Federation(tmp_path, TIMEOUT="90")
    try:
        output = tmp_path / "killed.npz"
        federation.run(output, method="FedAvg", rounds=2)
        until(lambda: rounds_in(output) >= 1)
        os.killpg(federation.nodes[1].pid, signal.SIGKILL)
        until(output.exists)
        found = dict(np.load(output))
        assert found["dropped"].tolist() == [0, 1]
        assert found["clients"].tolist() == [2, 1]
    finally:
        federation.end()
