"""Runs the app beside this file on one machine: a superlink, two supernodes, the run.

    python examples/flower/run.py [--rounds 3]

On hosts of their own these are the same three commands; the page "From simulation to
deployment" has them.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time


APP = pathlib.Path(__file__).parent
BIN = pathlib.Path(sys.executable).parent


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description="Deploys on this machine.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        address = f"127.0.0.1:{free_port()}"
        home = pathlib.Path(folder)
        config = f'[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        (home / "config.toml").write_text(config)
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "FLWR_HOME": folder}
        running = []

        def start(name, *call):
            log = (home / f"{name}.log").open("wb")
            running.append(subprocess.Popen(call, env=env, stdout=log, stderr=log))

        try:
            port = address.partition(":")[2]
            how = ("--insecure", "--disable-runtime-dependency-installation")
            start("superlink", BIN / "flower-superlink", *how, "--port", port)
            for i in range(2):
                settings = f'partition-id={i} num-partitions=2 state="{home / "state"}"'
                where = ("--superlink", address, "--port", str(free_port()))
                node = (BIN / "flower-supernode", "--insecure", *where)
                start(f"supernode-{i}", *node, "--node-config", settings)
            wait_for(address)
            run = [BIN / "flwr", "run", str(APP), "here", "--stream"]
            run += ["--run-config", f"rounds={arguments.rounds}"]
            subprocess.run(run, env=env, check=True)
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait()


def wait_for(address):
    host, _, port = address.partition(":")
    for _ in range(300):
        try:
            socket.create_connection((host, int(port))).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("The superlink did not start.")


if __name__ == "__main__":
    main()
