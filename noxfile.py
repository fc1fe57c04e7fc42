"""`nox` runs what CI runs; `nox -s NAME` one session; `nox -l` lists them.

What follows `--` is given on: `nox -s tests -- tests/test_laws.py -k permuting`.
"""

import tempfile

import nox


nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "examples", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on all cores."""
    session.install(".", *group("tests"))
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


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
    """The examples that need no download and less than a minute."""
    session.install(".[examples]")
    with tempfile.TemporaryDirectory() as directory:
        session.run("python", "examples/quickstart.py", "--output", directory)
        session.run("python", "examples/own_algorithm.py")


@nox.session(venv_backend="uv", python="3.11")
def minimums(session: nox.Session) -> None:
    """The test suite on the oldest supported versions of everything in `pyproject`."""
    session.install("--resolution=lowest-direct", ".", *group("tests"))
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation into `site`; `-- serve` shows it while you write."""
    session.install(".[plot]", *group("docs"))
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The cost of a round beside the bare SGD steps."""
    session.install(".")
    session.run("python", "benchmarks/overhead.py", *session.posargs)
