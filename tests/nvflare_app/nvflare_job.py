"""A job in NVFlare's simulator: a server and two clients, each a process."""

import pathlib
import sys

from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner
from nvflare_server import Training


if __name__ == "__main__":
    method, output, workspace = sys.argv[1:]
    job = FedJob(name="training", min_clients=2)
    job.to_server(Training(method, output))
    script = str(pathlib.Path(__file__).parent / "nvflare_client.py")
    for number in (1, 2):
        runner = ScriptRunner(script, script_args=method, framework=FrameworkType.RAW)
        job.to(runner, f"site-{number}")
    job.simulator_run(workspace, threads=2)
