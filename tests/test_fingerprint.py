"""A checkpoint is gone on from by the experiment that it is of, and by no other."""

import dataclasses
import enum
import fractions
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import types
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from beartype import beartype
from jaxtyping import jaxtyped

import equifed as eqf
from equifed import testing
from equifed._checkpoint import digest as digests
from equifed._checkpoint.digest import digest
from equifed._checkpoint.fingerprint import check_fingerprint, differences


D = eqf.data
BATCHING = D.Epochs(1, batch_size=4)
SIZES = (5, 0, 3, 8, 6)


def dataset_of(**changes):
    made = testing.ragged_clients(SIZES)
    columns = {name: np.array(x) for name, x in made.columns.items()}
    parts = {"columns": columns, "offsets": made.offsets, "ids": made.client_ids}
    parts |= changes
    return D.FederatedDataset(parts["columns"], parts["offsets"], parts["ids"])


def with_other_number():
    columns = dataset_of().columns
    changed = {name: np.array(x) for name, x in columns.items()}
    changed["x"][7, 1] += 1e-6
    return dataset_of(columns=changed)


def algorithm_of(
    kind: Any = eqf.FedAvg, loss=testing.noisy_loss, optim=None, **options
):
    optim = optax.sgd(0.1, momentum=0.9) if optim is None else optim
    return kind(loss, optim, options.pop("batching", BATCHING), **options)


def made_with(algorithm=None, dataset=None, sampler=None, key=0, model=None, **options):
    algorithm = algorithm_of() if algorithm is None else algorithm
    sampler = D.UniformSampler(3, seed=1) if sampler is None else sampler
    dataset = dataset_of() if dataset is None else dataset
    loader = D.Loader(dataset, sampler, algorithm.batching, **options)
    model = testing.Linear() if model is None else model
    found = eqf.Checkpointer.fingerprint(algorithm, model, loader, key=jr.key(key))
    return json.loads(json.dumps(found))  # as it comes back from a file


def names_of(found):
    return {text.split("`")[1] for text in found}


def test_under_a_plan_another_python_is_told_as_well(tmp_path):
    # Whose bytecode of a mechanism's function differs, though its source does not.
    saved = {"python": "3.11", "privacy": "PrivacyPlan", "privacy.mechanism.f": "f #1"}
    now = saved | {"python": "3.12", "privacy.mechanism.f": "f #2"}
    said = check_fingerprint(tmp_path, saved, now, "warn")
    assert said is not None
    assert "`privacy.mechanism.f` f #1 -> f #2; Python 3.11 -> 3.12 (the code" in said


CLIP = eqf.Clip(eqf.WeightedMean(), max_norm=1.0)

# What changes, and the names under which it is reported.
CHANGES = {
    "key": (lambda: made_with(key=1), {"key"}),
    "data": (lambda: made_with(dataset=with_other_number()), {"data.x"}),
    "renamed clients": (
        lambda: made_with(dataset=dataset_of(ids=list("edcba"))),
        {"data.client_ids"},
    ),
    "other owners": (
        lambda: made_with(dataset=dataset_of(offsets=np.array([0, 4, 5, 8, 16, 22]))),
        {"data.client_sizes"},
    ),
    "other dtype": (
        lambda: made_with(
            dataset=dataset_of(
                columns={
                    k: np.asarray(x, np.float16)
                    for k, x in dataset_of().columns.items()
                }
            )
        ),
        {"data.x", "data.y"},
    ),
    "other column": (
        lambda: made_with(dataset=dataset_of().rename({"y": "z"})),
        {"data.y", "data.z"},
    ),
    "sampler": (
        lambda: made_with(sampler=D.AllClients(seed=1)),
        {"sampler", "sampler.cohort_size"},
    ),
    "cohort": (
        lambda: made_with(sampler=D.UniformSampler(2, seed=1)),
        {"sampler.cohort_size"},
    ),
    "seed": (lambda: made_with(sampler=D.UniformSampler(3, seed=2)), {"sampler.seed"}),
    "batching": (
        lambda: made_with(algorithm_of(batching=D.Epochs(2, batch_size=4))),
        {"client.batching.num_epochs"},
    ),
    "rate": (
        lambda: made_with(algorithm_of(optim=optax.sgd(0.10001, momentum=0.9))),
        {"client.optim"},
    ),
    "optimiser": (
        lambda: made_with(algorithm_of(optim=optax.sgd(0.1, 0.9, nesterov=True))),
        {"client.optim"},
    ),
    "schedule": (
        lambda: made_with(
            algorithm_of(optim=optax.sgd(optax.cosine_decay_schedule(0.1, 9), 0.9))
        ),
        {"client.optim"},
    ),
    "server": (
        lambda: made_with(algorithm_of(server_optim=optax.sgd(0.5))),
        {"server.optim"},
    ),
    "aggregator": (
        lambda: made_with(algorithm_of(aggregator=CLIP)),
        {"aggregator", "aggregator.aggregator", "aggregator.max_norm"},
    ),
    "correction": (
        lambda: made_with(algorithm_of(eqf.FedProx, mu=0.1)),
        {"algorithm", "client.correction", "client.correction.mu"},
    ),
    "loss": (
        lambda: made_with(algorithm_of(loss=lambda m, e, k: m.weight.sum())),
        {"client.loss"},
    ),
    "start": (
        lambda: made_with(
            model=eqx.tree_at(lambda m: m.weight, testing.Linear(), jnp.ones(3))
        ),
        {"model.weight"},
    ),
}


@pytest.fixture(scope="module")
def base():
    return made_with()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_named(base, change):
    make, names = CHANGES[change]
    now = make()
    assert names_of(differences(base, now)) == names
    assert names_of(differences(now, base)) == names


def test_an_old_style_key_is_the_same(base):
    algorithm, model = algorithm_of(), testing.Linear()
    loader = D.Loader(dataset_of(), D.UniformSampler(3, seed=1), BATCHING)
    for seed, names in ((0, set()), (1, {"key"})):
        key = jax.random.PRNGKey(seed)
        found = eqf.Checkpointer.fingerprint(algorithm, model, loader, key=key)
        assert names_of(differences(base, json.loads(json.dumps(found)))) == names


def test_how_it_is_run_may_change(base):
    mesh = jax.make_mesh((2,), ("clients",), devices=jax.devices()[:2])
    ways: Any = ({"mesh": mesh}, {"resident": False}, {"prefetch": 0})
    for options in ways:
        assert differences(base, made_with(**options)) == []
    pieces = {
        name: D.ChunkedColumn([x[:9], x[9:]])
        for name, x in dataset_of().columns.items()
    }
    assert differences(base, made_with(dataset=dataset_of(columns=pieces))) == []
    optim = eqf.Optim(optax.sgd(0.3, momentum=0.9))
    # A number that was put in by surgery is that number.
    leaves, structure = jax.tree.flatten(optim)
    right = jax.tree.leaves(eqf.Optim(optax.sgd(0.1, momentum=0.9)))
    assert len(leaves) == len(right)
    optim = jax.tree.unflatten(structure, right)
    assert differences(base, made_with(algorithm_of(optim=optim))) == []
    weight = testing.Linear().weight * (1 + 1e-6)  # another kind of device
    model = eqx.tree_at(lambda m: m.weight, testing.Linear(), weight)
    assert differences(base, made_with(model=model)) == []


# Losses of all kinds, told by their code and by what they hold.

SCALE, TIMES = 2.0, []


def helper(x):
    return SCALE * x


def reads_the_module(model, example, key):
    TIMES.append(1)
    return helper(example["x"].sum())


def factory(alpha, array=None):
    count = 0

    def loss(model, example, key, *, beta=1.0):
        nonlocal count
        count += 1
        return alpha * beta * example["x"].sum() + (0 if array is None else array.sum())

    return loss


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class ModuleLoss(eqx.Module):
    alpha: jax.Array
    beta: float = 1.0

    def __call__(self, model, example, key):
        return self.alpha


class PlainLoss:
    def __init__(self, alpha):
        self._alpha = alpha

    def __call__(self, model, example, key):
        return self._alpha

    def method(self, model, example, key):
        return self._alpha


class Slotted:
    __slots__ = ("__alpha", "unset")

    def __init__(self, alpha):
        self.__alpha = alpha

    def __call__(self, model, example, key):
        return self.__alpha


class SlottedAndMore(Slotted):
    """With a `__dict__` beside the slots of its base."""


LOSSES = {
    "closure": lambda a: factory(a),
    "array": lambda a: factory(1.0, np.full(3, a)),
    "model": lambda a: factory(1.0, ModuleLoss(jnp.asarray(a))),
    "nested": lambda a: factory(1.0, factory(a)),
    "keyword": lambda a: functools.partial(factory(1.0), beta=a),
    "partial": lambda a: functools.partial(lambda a, m, e, k: a, a),
    "module": lambda a: ModuleLoss(jnp.asarray(a)),
    "static field": lambda a: ModuleLoss(jnp.zeros(()), a),
    "object": lambda a: PlainLoss(a),
    "slots": lambda a: Slotted(a),
    "slots of a base": lambda a: SlottedAndMore(a),
    "fraction": lambda a: factory(fractions.Fraction(a)),
    "enumeration": lambda a: factory(enum.Enum("Scale", {"one": a}).one),
    "flags": lambda a: factory(enum.Flag("Scale", {"one": int(100 * a)}).one),
    "bound method": lambda a: PlainLoss(a).method,
    "default": lambda a: lambda m, e, k, a=a: a,
    "jit": lambda a: jax.jit(factory(a)),
    "filter_jit": lambda a: eqx.filter_jit(factory(a)),
    "decorated": lambda a: decorated(factory(a)),
    "key": lambda a: factory(1.0, jr.key(int(100 * a))),
    "set": lambda a: factory(1.0, {"one", "two", "three", str(a)}),
    "data": lambda a: factory(1.0, dataset_of(ids=[*"abcd", str(a)])),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_what_it_does_and_holds(kind):
    make = LOSSES[kind]
    assert digest(make(0.1)) == digest(make(0.1))
    assert digest(make(0.1)) != digest(make(0.2))


def test_a_loss_of_another_code_is_another_one():
    def first(model, example, key):
        return example["x"].sum()

    def second(model, example, key):
        """Of other documentation, in other lines."""
        # and comments
        return example["x"].sum()

    second.__name__ = "first"
    assert digest(first) == digest(second)
    others = [
        lambda m, e, k: e["x"].sum() + 1,
        lambda m, e, k: e["x"].sum() + 2,
        lambda m, e, k: e["y"].sum(),
        lambda m, e, k: e["x"].mean(),
        lambda m, e, k: (lambda: e["x"].mean())(),
        lambda m, e, k: (lambda: e["x"].sum())(),
        jnp.sum,
        jnp.mean,
    ]
    assert len({digest(x) for x in others}) == len(others)


def test_a_check_of_types_changes_nothing():
    function = factory(0.1)
    assert digest(beartype(function)) == digest(function)
    assert digest(jaxtyped(typechecker=beartype)(function)) == digest(function)
    assert digest(decorated(function)) != digest(function)


def test_what_a_loss_reads_from_its_module(monkeypatch):
    before = digest(reads_the_module)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert digest(reads_the_module) != before
    monkeypatch.undo()
    assert digest(reads_the_module) == before
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda x: x)
    assert digest(reads_the_module) != before


@dataclasses.dataclass
class Settings:
    scale: Any = 1.0


class Plain:
    def __init__(self, scale=1.0):
        self.scale = scale


SETTING: Any = 1.0


class ReadsInCall:
    def __call__(self, model, example, key):
        return SETTING


class ReadsInMethod:
    def __call__(self, model, example, key):
        return self.other()

    def other(self):
        return helper(SETTING)


class ReadsInModule(eqx.Module):
    def __call__(self, model, example, key):
        return SETTING


class Corrects(eqf.AbstractCorrection):
    def payload(self, params):
        return params

    def init(self, model, num_clients):
        return SETTING


class HasData:
    scale: Any = 1.0
    table = (1, 2)

    def __call__(self, model, example, key):
        return self.scale


def reads_a_setting(model, example, key):
    return SETTING


def writes_and_reads(model, example, key):
    SETTING[key] = 1
    return example


SETTINGS = {
    "number": float,
    "dict": lambda a: {"scale": a, Plain: a},
    "nested": lambda a: {"deep": [{"scale": a}]},
    "list": lambda a: [a, 2.0],
    "set": lambda a: {a, 2.0},
    "dataclass": Settings,
    "namespace": lambda a: types.SimpleNamespace(scale=a),
    "object": Plain,
    "array": lambda a: np.full(3, a),
}
READERS = [reads_a_setting, ReadsInCall(), ReadsInMethod(), ReadsInModule(), Corrects]


@pytest.mark.parametrize("kind", SETTINGS)
def test_any_setting_of_a_module(monkeypatch, kind):
    module = sys.modules[__name__]
    for reader in READERS:
        found = []
        for value in (1.0, 1.0, 3.0):
            monkeypatch.setattr(module, "SETTING", SETTINGS[kind](value))
            found.append(digest(reader))
        assert found[0] == found[1] != found[2], reader


def test_data_of_a_class(monkeypatch):
    before = digest(HasData())
    for name, value in (("scale", 3.0), ("table", (1, 3)), ("scale", {"a": 1})):
        monkeypatch.setattr(HasData, name, value)
        assert digest(HasData()) != before
        monkeypatch.undo()
    assert digest(HasData()) == before


def test_what_is_written_to_is_not_read(monkeypatch):
    found = set()
    for value in ({}, {1: 2}, {3: 4}):
        monkeypatch.setattr(sys.modules[__name__], "SETTING", value)
        found.add(digest(writes_and_reads))
    assert len(found) == 1


def test_what_a_loss_writes_is_not_part_of_it():
    seen = []

    def loss(model, example, key):
        seen.append(1)
        return example["x"].sum()

    counted, before = factory(1.0), (digest(loss), digest(reads_the_module))
    same = digest(counted)
    for function in (loss, reads_the_module, counted):
        function(None, {"x": jnp.zeros(2)}, None)
    assert (digest(loss), digest(reads_the_module)) == before
    assert digest(counted) == same


def test_a_function_that_holds_itself():
    def make(n):
        def loop(x):
            return loop(x - n) if x > 0 else x

        return loop

    assert digest(make(1)) == digest(make(1)) != digest(make(2))


@pytest.mark.parametrize("kind", ["table", "set"])
def test_what_is_in_a_table_that_it_reads(kind):
    """It has no end: the table is looked at for the function, which is its key."""

    def make(n):
        def other(x):
            return x

        def one(x):
            return x * n if one in found else x

        found = dict.fromkeys([other, one], n) if kind == "table" else {other, one}
        return one

    assert digest(make(1)) == digest(make(1)) != digest(make(2))


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "experiment"])
def test_a_library_of_another_environment_is_one(tmp_path, monkeypatch, folder):
    """As where a launcher starts another Python on the paths of this one."""
    name, place = f"one_in_{folder.replace('-', '_')}", tmp_path / folder
    place.mkdir()
    (place / f"{name}.py").write_text("def scaled(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(place)
    module = importlib.import_module(name)
    before = digest(module.scaled)
    exec("def scaled(x):\n    return 3 * x\n", module.__dict__)
    same = digest(module.scaled) == before
    assert same == (folder != "experiment")


PROGRAM = """
import functools, json
import equinox as eqx, jax.numpy as jnp, jax.random as jr, numpy as np, optax
import equifed as eqf
from equifed import testing

SCALE = 0.3

def helper(x):
    return x * SCALE

LIMITS = {helper: [1.0, {"a", "b", "c"}], "deep": {"scale": 2.0}}

class Loss(eqx.Module):
    alpha: float
    table: np.ndarray

    def __call__(self, model, example, key, names=frozenset({"x", "y", "z"})):
        if LIMITS and "x" in {"x", "y", "z", "w"}:
            return helper(self.alpha * testing.noisy_loss(model, example, key))

class Seldom(eqf.data.AbstractSampler):
    seed: int = 3

    def __call__(self, round, num_clients):
        return np.arange(num_clients)

    def max_clients(self, num_clients):
        return num_clients

batching = eqf.data.Steps(2, batch_size=4)
dataset = testing.ragged_clients((5, 0, 3))
rate = optax.exponential_decay(0.1, 10, 0.9)
loss = functools.partial(Loss(0.1, np.arange(3)))
algorithm = eqf.Scaffold(loss, optax.adamw(rate), batching)
loader = eqf.data.Loader(dataset, Seldom(), batching)
model = eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0))
made_with = eqf.Checkpointer.fingerprint(algorithm, model, loader, key=jr.key(4))
"""


def test_another_process_finds_the_same(tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text("# Moved down\n\n" + PROGRAM + "\nprint(json.dumps(made_with))\n")
    out = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": ".", "PYTHONHASHSEED": "12"},
        cwd=pathlib.Path(eqf.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    namespace = {"__name__": "__main__"}
    exec(compile(PROGRAM, "here.py", "exec"), namespace)
    there = json.loads(out.stdout.splitlines()[-1])
    assert there == json.loads(json.dumps(namespace["made_with"]))


def test_client_ids_are_not_to_be_read_off_a_checkpoint():
    dataset = dataset_of(ids=["Ada", "Bob", "Cleo", "Dan", "Eve"])
    text = json.dumps(made_with(dataset=dataset))
    assert not any(name in text for name in dataset.client_ids)


def test_a_large_array_is_not_read_whole(monkeypatch):
    class Watched(np.ndarray):
        read = 0

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            Watched.read += len(range(*rows.indices(len(self))))
            return np.asarray(self)[rows]

    monkeypatch.setattr(digests, "WHOLE", 1 << 10)
    monkeypatch.setattr(digests, "PIECES", 16)
    monkeypatch.setattr(digests, "PIECE", 64)
    rows = np.arange(10_000, dtype=np.float64).reshape(-1, 2)
    before = digest(rows.view(Watched))
    assert Watched.read == 16 * 4
    for row in (0, -1):
        other = rows.copy()
        other[row] = 0.5
        assert digest(other.view(Watched)) != before
    assert digest(D.ChunkedColumn([rows[:11], rows[11:]])) == before
    assert digest(rows[:-1]) != before


def test_a_stream_is_told_by_its_first_client():
    datasets = pytest.importorskip("datasets")

    def stream(value, **options):
        rows = datasets.Dataset.from_dict(
            {"who": ["a", "a", "b"], "x": [value, 1.0, 2.0]}
        )
        clients = D.ClientStream(rows.to_iterable_dataset(), by="who")
        loader = D.StreamLoader(clients, 2, BATCHING, **options)
        return eqf.Checkpointer.fingerprint(
            algorithm_of(), testing.Linear(), loader, key=jr.key(0)
        )

    assert differences(stream(1.0), stream(1.0)) == []
    assert names_of(differences(stream(1.0), stream(2.0))) == {"stream.first_client"}
    other = stream(1.0, seed=3, buffer_size=7)
    assert names_of(differences(stream(1.0), other)) == {
        "loader.buffer_size",
        "loader.seed",
    }


def test_another_python_is_said(base):
    other = {**base, "python": "2.7"}
    assert differences(base, other) == []
    found = differences({**other, "client.loss": "noisy_loss() #0"}, base)
    assert names_of(found[:-1]) == {"client.loss"}
    assert found[-1].startswith("Python 2.7 -> 3.")


# In a training.


def train(directory, num_rounds, *, rate=0.1, on_change="error", **options):
    batching = D.Epochs(1, batch_size=4)
    algorithm = eqf.Scaffold(testing.noisy_loss, optax.sgd(rate), batching)
    dataset = dataset_of(ids=options.pop("ids", list("abcde")))
    return eqf.train(
        algorithm,
        testing.Linear(),
        D.Loader(dataset, D.AllClients(), batching),
        num_rounds=num_rounds,
        key=options.pop("key", jr.key(0)),
        checkpointer=eqf.Checkpointer(directory, every=1, on_change=on_change),
        **options,
    )


def test_training_goes_on_with_its_own_experiment_only(tmp_path):
    first = train(tmp_path, 1)
    with pytest.raises(
        ValueError, match=r"of another experiment: .*client\.optim`"
    ) as e:
        train(tmp_path, 2, rate=0.2, key=jr.key(9), ids=list("edcba"))
    message = str(e.value)
    assert len(message) < 600
    for words in ("`key`", "0.1", "0.2", "[0, 0]", "`data.client_ids`", "on_change"):
        assert words in message
    # As it was.
    made_with = json.loads((tmp_path / "00000001" / "fingerprint.json").read_text())
    assert made_with["client.correction"] == "ControlVariate"
    with pytest.warns(UserWarning, match=r"Training goes on .*with the new settings"):
        second = train(tmp_path, 2, rate=0.2, on_change="warn")
    assert second.history[0] == first.history[0]
    # From here on it is the new experiment.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, 2, rate=0.2, eval_every=3, logger=eqf.NoLogger())
    with pytest.raises(ValueError, match="of another experiment"):
        train(tmp_path, 3)


def test_many_differences_make_no_long_message(tmp_path):
    directory = tmp_path / ("long" * 40) / ("name" * 40)
    state = jnp.zeros(2)
    saved = {f"field.{i}": f"{'x' * 70} #{i}" for i in range(200)}
    checkpointer = eqf.Checkpointer(directory)
    checkpointer.save(1, state, [], fingerprint=saved)
    assert checkpointer.restore(state, fingerprint=dict(saved)) is not None
    with pytest.raises(ValueError, match=r"and \d+ more\. Restore what it") as error:
        checkpointer.restore(state, fingerprint={})
    assert len(str(error.value)) < 600


def test_by_hand_a_fingerprint_is_asked_for(tmp_path):
    checkpointer = eqf.Checkpointer(tmp_path)
    checkpointer.save(1, jnp.zeros(2), [])
    with pytest.warns(UserWarning, match="without a fingerprint"):
        assert checkpointer.restore(jnp.zeros(2), fingerprint={"key": 1}) is not None
    checkpointer.save(2, jnp.zeros(2), [], fingerprint={"key": 1})
    assert checkpointer.restore(jnp.zeros(2)) is not None


def test_on_change_is_one_of_two_words(tmp_path):
    with pytest.raises(ValueError, match="`on_change` must be 'error' or 'warn', got"):
        eqf.Checkpointer(tmp_path, on_change="ignore")
