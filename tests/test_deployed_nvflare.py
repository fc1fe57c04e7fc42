"""NVFlare's simulator on this machine: a server and two clients, each a process. It
takes minutes: `nox -s deploy` runs it.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


if importlib.util.find_spec("nvflare") is None:
    pytest.skip("`nox -s deploy` has NVFlare.", allow_module_level=True)

APPS = [pathlib.Path(__file__).parent / f"{name}_app" for name in ("flower", "nvflare")]
LONG = 900  # seconds: other work may keep the cores busy


@pytest.mark.parametrize("method", ["FedAvg", "Scaffold"])
def test_the_bits_of_a_simulation(tmp_path, method):
    paths = [*map(str, APPS), *filter(None, [os.environ.get("PYTHONPATH")])]
    known = {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    how = {"env": os.environ | known, "cwd": tmp_path, "check": True, "timeout": LONG}
    output, wanted = tmp_path / "output.npz", tmp_path / "simulated.npz"
    parts, job = APPS[0] / "deployed_parts.py", APPS[1] / "nvflare_job.py"
    subprocess.run([sys.executable, parts, method, wanted], **how)
    subprocess.run([sys.executable, job, method, output, tmp_path / "job"], **how)
    found, wanted = (dict(np.load(path)) for path in (output, wanted))
    assert set(found) == set(wanted)
    for name in wanted:
        assert np.array_equal(found[name], wanted[name]), name
