"""Bad inputs are refused in one sentence that says what was expected, what came and
what to write; before anything is compiled, and before a file is touched.

The calls are made in a program of their own, without the import hook with which these
tests check all types: it is what users see.
"""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import filelock
import pytest

from .bad_inputs import TABLE
from .test_house import PUBLIC, value_of


CASES = {
    f"{name}: {case}": (error, words)
    for name, cases in TABLE.items()
    for case, (_, error, words) in cases.items()
}

NO_ROW = ("token without a row", "token without a row, before the first")

# What takes nothing that could be wrong, or is only ever made by the library.
_MADE = "The library makes it, and looks at what is in it where it is used."
_PLAIN = "It takes no argument."
_IN_ROUND = "A client calls it in a round, with what it was given."
WITHOUT = {
    "attacks.ALIE": _PLAIN,
    "attacks.Mimic": _PLAIN,
    "attacks.ModelReplacement": _PLAIN,
    "attacks.Seen": _MADE,
    "clock.AlwaysAvailable": _PLAIN,
    "clock.ClientTimes": _MADE,
    "clock.DeviceTrace": "`read_devices` makes it.",
    "clock.Draws": _MADE,
    "clock.Drops": _MADE,
    "data.ClockedRound": "A clock makes it, of what a loader has told it.",
    "data.Population": _MADE,
    "compress.Sent": "What `compress` returns.",
    "Aggregate": _MADE,
    "Beginning": "What `begin` returns: see `AbstractAlgorithm.step`.",
    "Broadcast": _MADE,
    "ClientRows": _MADE,
    "ClientData": _MADE,
    "Cohort": _MADE,
    "ScaffoldPayload": _MADE,
    "posterior.BurnIn": _MADE,
    "posterior.Gaussian": _MADE,
    "Kept": _MADE,
    "Message": "Its parts are checked when it is sent: see `AbstractClient`.",
    "posterior.Natural": _MADE,
    "Outcome": _MADE,
    "Roles": "`roles` makes them.",
    "data.FixedSizeParticipation": "A sampler makes it.",
    "data.OrderedParticipation": "A sampler makes it.",
    "data.PoissonParticipation": "A sampler makes it.",
    "nn.LoRA": "`nn.lora` makes it.",
    "privacy.AuditReport": "`Audit.report` makes it.",
    "privacy.CanaryClient": "`Audit.algorithm` makes it.",
    "privacy.IndependentNoise": "It takes no argument.",
    "Participants": _MADE,
    "RESULTS": "An enumeration.",
    "posterior.Samples": _MADE,
    "Solution": _MADE,
    "State": "It is checked when it is used: see `AbstractAlgorithm.round`.",
    "DynamicRegularizer": _PLAIN,
    "ConstantStaleness": _PLAIN,
    "Median": _PLAIN,
    "MeanLoss": _PLAIN,
    "NoCorrection": _PLAIN,
    "NoLogger": _PLAIN,
    "NonzeroMean": _PLAIN,
    "statistics": "As `norms`.",
    "norms": "Any PyTree will do, and a model without such a layer has none.",
    "posterior.PosteriorProduct": _PLAIN,
    "UniformMean": _PLAIN,
    "WeightedMean": _PLAIN,
    "add_bits": "A step calls it, with the metrics of its passes.",
    "batch_gradient": _IN_ROUND,
    "full_gradient": _IN_ROUND,
    "full_metrics": _IN_ROUND,
    "merge_metrics": _IN_ROUND,
    "zero_metrics": _IN_ROUND,
    "WandB": "It hands its arguments on to `wandb.init`.",
    "data.digits": _PLAIN,
    "recipes.algorithms": _PLAIN,
    "recipes.recipes": _PLAIN,
    "recipes.tasks": _PLAIN,
    "testing.noisy_loss": "A loss: see `train`.",
    "testing.quadratic_loss": "A loss: see `train`.",
}


# Whose methods are called by the library, with what it has made, and how what they
# return is looked at.
PROTOCOLS = {
    "attacks.AbstractAttack": "`Attacked` calls it, with what it has made.",
    "clock.AbstractAvailability": "`SystemModel` calls it.",
    "clock.AbstractQuantity": "`SystemModel` looks at what it returns.",
    "privacy.AbstractClipping": "`PrivateMean` calls it, with a message.",
    "privacy.AbstractMechanism": "A plan calls it, with what it has looked at.",
    "privacy.AbstractNoise": "`PrivateMean` calls it, with a sum.",
    "AbstractKeeping": "It is an `AbstractClient`.",
    "AbstractAggregator": "See `aggregator_round` in `bad_inputs/algorithms.py`.",
    "compress.AbstractCompressor": "A client or an aggregator calls it in a round.",
    "compress.AbstractLeafwise": "It calls itself, with each array of a message.",
    "AbstractAlgorithm": "See `step` in `bad_inputs/passes.py`.",
    "AbstractAsynchronous": "See `Asynchronous`.",
    "AbstractStaleness": "A client calls it in a round.",
    "AbstractClient": "See `client_round` in `bad_inputs/algorithms.py`.",
    "AbstractCorrection": "What a client does with it is in its message.",
    "AbstractCriterion": "See `OnlyThis` in `bad_inputs/criteria.py`.",
    "AbstractLogger": "`train` calls it, and leaves out what is not one number.",
    "posterior.AbstractMomentEstimator": "See `test_posterior_errors.py`.",
    "posterior.AbstractPosteriorSampler": "See `test_posterior_errors.py`.",
    "posterior.AbstractChainSampler": "See `test_posterior_errors.py`.",
    "AbstractServer": "See `server_round` in `bad_inputs/algorithms.py`.",
    "posterior.HMC": "The key is the client's.",
    "posterior.NUTS": "The key is the client's.",
    "posterior.Windows": "A sampler calls it, once it has looked at the batching.",
    "data.AbstractBatching": "A loader calls it, and looks at the plan.",
    "data.AbstractClock": "A loader calls it.",
    "data.AbstractLoader": "See `test_loaders.py`.",
    "data.AbstractSampler": "A loader calls it, and looks at the clients.",
    "data.ChunkedColumn": "A data set calls it, with rows that it has looked at.",
    "AbstractStop": "`train` calls it, with a history of its own.",
    "objectives.AbstractObjective": "`FederatedProblem` calls it.",
}
_ROUND = "`AbstractAlgorithm.round` calls it, with what it has looked at."
_AS_TIMES = ("seconds", "steps")
METHODS_WITHOUT = {
    "deploy.Client.answer": "An engine calls it, with a message: `test_deployed.py`.",
    "deploy.Server.run": "An engine calls it: `test_deployed.py`.",
    "data.OrderedParticipation.most_rounds": "A plan calls it, with its rounds.",
    "privacy.Deployment.like": "A plan calls it, with what a sampler says.",
    "privacy.PrivateSGD.gradient": "Its round calls it, with a batch.",
    "privacy.ExampleLevelPlan.shown": "`train` calls it, with a round's metrics.",
    "privacy.PrivacyPlan.check": "`train` calls it: see `PrivacyPlan`.",
    "privacy.ExampleLevelPlan.check_run": "`train` calls it: see `test_privacy.py`.",
    "privacy.PrivacyPlan.epsilons": "`train` calls it, with the rounds that were run.",
    "privacy.ExampleLevelPlan.epsilons": "`train` calls it, with the rounds run.",
    "privacy.ExampleLevelPlan.check_stop": "`train` calls it: see `test_privacy.py`.",
    "clock.Draws.of": "A quantity calls it.",
    "clock.Draws.normals": "A quantity calls it.",
    "clock.Draws.uniforms": "A quantity calls it.",
    **dict.fromkeys(
        (f"clock.SystemModel.{x}" for x in _AS_TIMES), "As `SystemModel.times`."
    ),
    **dict.fromkeys(
        (f"{x}.after" for x in ("FedExLoRA", "FLoRA", "FlexLoRA")),
        "Its step calls it, with the mean of a round.",
    ),
    "Broadcast.of": "Any tree is a model: what can be trained of it is.",
    "ClientData.between": "A sampler calls it in a round, with traced numbers.",
    "ClientData.fold": "A client calls it in a round: JAX's errors name the function.",
    "Executor.check": _ROUND,
    "Optim.init": "Its errors are of the optimiser, by name: see `test_optim.py`.",
    "Optim.update": "Its errors are of the optimiser, by name: see `test_optim.py`.",
    "Participants.bits": "A step calls it, with traced arrays.",
    "Participants.only": "A step calls it, with traced arrays.",
    "compress.Sent.plain": "A compressor calls it, with a size.",
    "compress.Sent.with_more": "A client or an aggregator calls it, with a size.",
    "data.Loader.stacks": "`rounds` calls it.",
} | {
    f"recipes.{name}.build": "`Recipe.build` calls it, with a traced round."
    for name in ("SGD", "Momentum", "Adam", "Adagrad", "Yogi", "RMSprop")
}


def run() -> str:
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.bad_inputs"]
    env = {**os.environ, "MPLBACKEND": "agg", "JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers: one runs it, and the others read
    file = folder / "bad_inputs.jsonl"
    with filelock.FileLock(file.with_suffix(".lock")):
        if not file.exists():
            file.write_text(run(), "utf-8")
    rows = map(json.loads, file.read_text("utf-8").splitlines())
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, outcomes):
    error, words = CASES[name]
    row = outcomes[name]
    message = row["message"]
    errors = error if isinstance(error, tuple) else (error,)
    assert {kind.__name__ for kind in errors} & set(row["kinds"]), (row, errors)
    assert words
    for word in words if isinstance(words, tuple) else (words,):
        assert (
            re.search(word, message)
            if isinstance(word, re.Pattern)
            else (word in message)
        )
    assert 10 < len(message) < 600
    assert "\n" not in message
    assert "has no attribute" not in message
    # Whether it matters that there is no row of a number, a program has to tell.
    assert row["compiled"] == name.endswith(NO_ROW)
    assert not row["touched"]


def test_a_compilation_and_a_file_would_be_seen(outcomes):
    assert outcomes["control"]["compiled"] > 0
    assert outcomes["control"]["touched"]


def test_the_table_covers_the_whole_surface():
    assert len(CASES) >= 300
    public = {
        name.removeprefix("equifed.") for name in PUBLIC if callable(value_of(name))
    }
    # What is abstract is never made.
    abstract = {x for x in public if x.rpartition(".")[2].startswith("Abstract")}
    assert public - abstract - set(TABLE) == set(WITHOUT)


def methods():
    """The public methods with arguments, and the other names of each: where a class
    has a method of its base, cases of one of the two are enough."""
    names = {}
    for name in PUBLIC:
        cls, name = value_of(name), name.removeprefix("equifed.")
        for method in dir(cls) if inspect.isclass(cls) else ():
            function = inspect.getattr_static(cls, method)
            function = getattr(function, "__func__", function)  # of a class method
            function = getattr(function, "method", function)  # of a module
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            function = inspect.unwrap(function)
            if function.__module__.startswith("equifed"):
                if set(inspect.signature(function).parameters) - {"self", "cls"}:
                    names.setdefault(function, set()).add(f"{name}.{method}")
    return {min(group): group for group in names.values()}


def test_the_table_covers_every_method_with_an_argument():
    found = methods()
    assert len(found) > 100
    protocols = {name: value_of(f"equifed.{name}") for name in PROTOCOLS}
    open_ = set()
    for name, group in found.items():
        owner, _, method = name.rpartition(".")
        called = [
            protocol
            for protocol, cls in protocols.items()
            if issubclass(value_of(f"equifed.{owner}"), cls) and method in vars(cls)
        ]
        if not called and not group & set(TABLE):
            open_.add(name)
    assert open_ == set(METHODS_WITHOUT)
    everything = set().union(*found.values()) | {
        x.removeprefix("equifed.") for x in PUBLIC
    }
    assert set(TABLE) - everything == set()
