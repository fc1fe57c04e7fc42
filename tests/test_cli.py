"""The command line, called as a function: what parses, what trains, what is kept, and
what is refused."""

import hashlib
import inspect
import json
import pathlib
import runpy
import signal
import sys
import types

import equinox as eqx
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.attacks as eqa
import equifed.compress as eqc
import equifed.robust as eqr
from equifed import recipes
from equifed._check import seed_key
from equifed._cli import forms, main
from equifed._cli.attacking import ATTACKS
from equifed._cli.folder import load, write
from equifed._cli.parsing import settings_of
from equifed._cli.running import _made
from equifed._cli.saved import differs, from_json_dict
from equifed._cli.settings import NAMED, Settings
from equifed.recipes._aggregators import Aggregator
from equifed.recipes._arguments import arguments_of, MISSING
from equifed.recipes._compression import KINDS as COMPRESSORS
from equifed.recipes._optimizers import Optimizer


SHORT = (
    "--task digits-dense --clients-per-round 2 --rounds 2 --eval-every 1 "
    "--batching.batch-size 50"
).split()
SGD = "--client-optim sgd --client-optim.learning-rate 0.1".split()


def option(name):
    return f"--{name.replace('_', '-')}"


def required(cls):
    """What must be said for an algorithm, with some number."""
    for argument in arguments_of(cls).values():
        name = option(argument.name)
        if argument.kind is Optimizer and argument.required:
            yield from (name, "momentum", f"{name}.learning-rate", "0.25")
        elif argument.required:
            yield from (name, "2" if argument.kind is int else "0.5")


@pytest.mark.parametrize("name", recipes.algorithms())
def test_every_algorithm_parses(name):
    cls = recipes.algorithm(name)
    words = [*SHORT, "--algorithm", name, *required(cls)]
    if issubclass(cls, eqf.AbstractAsynchronous):
        words += ["--clock", "asynchronous", "--clock.buffer-size", "2"]
    settings, output = settings_of(words)
    assert output is None
    assert settings.algorithm == name
    arguments = arguments_of(cls)
    for argument in arguments.values():
        got = settings.numbers.get(argument.name)
        if argument.kind is Optimizer and argument.required:
            assert got == recipes.Momentum(learning_rate=0.25)
        elif argument.required:
            assert got == (2 if argument.kind is int else 0.5)
        else:
            assert got == argument.default
    assert (settings.personal, settings.frozen) == ((), ())
    if name != "fedpa":  # which needs more than one sample, and so more epochs
        assert type(settings.build()) is cls
    again = json.loads(json.dumps(settings.as_json()))
    assert Settings(**from_json_dict(again)) == settings


def test_no_form_s_source_is_read_for_a_comment_on_its_fields(monkeypatch):
    # That took a third of the time of a command line.
    monkeypatch.setattr("inspect.getsource", pytest.fail)
    words = "--algorithm fedavg --aggregator krum --aggregator.num-byzantine 2"
    settings, _ = settings_of([*SHORT, *SGD, *words.split()])
    assert settings.numbers["aggregator"].kind == "krum"


def test_the_example_of_every_algorithm_has_every_one():
    file = pathlib.Path(__file__).parents[1] / "examples" / "every_algorithm.py"
    groups = runpy.run_path(str(file))["GROUPS"]
    there = [name for runs in groups.values() for name in runs]
    assert sorted(there) == sorted(recipes.algorithms())


PARTS = {
    "the weights of domains": (
        "agnosticfedavg --num-domains 2 --domain-learning-rate 0.1 "
        "--domain-weights 0.25 0.75",
        lambda a: a.domain_weights.tolist() == [0.25, 0.75],
    ),
    "a proximal FedNova": (
        "fednova --mu 0.5",
        lambda a: a.client.client.correction == eqf.Proximal(0.5),
    ),
    "a plain FedNova": (
        "fednova",
        lambda a: a.client.client.correction == eqf.NoCorrection(),
    ),
    "a trimmed mean": (
        "fedavg --aggregator trimmed-mean --aggregator.trim 0.25 "
        "--aggregator.clip-norm 2 --aggregator.drop-nonfinite True",
        lambda a: (
            a.aggregator
            == eqf.DropNonfinite(eqf.Clip(eqf.TrimmedMean(0.25), max_norm=2.0))
        ),
    ),
    "Krum": (
        "fedavg --aggregator krum --aggregator.num-byzantine 2 "
        "--aggregator.num-selected 3",
        lambda a: a.aggregator == eqr.Krum(2, num_selected=3),
    ),
    "a mixed rule, with its defaults": (
        "fedavg --aggregator geometric-median --aggregator.num-iterations 4 "
        "--aggregator.mixing 2",
        lambda a: eqx.tree_equal(
            a.aggregator,
            eqr.NearestNeighbourMixing(eqr.GeometricMedian(4), 2),
        ),
    ),
    "a rule of buckets": (
        "fedavg --aggregator centred-clipping --aggregator.max-norm 0.5 "
        "--aggregator.bucket-size 3 --aggregator.clip-norm 9",
        lambda a: eqx.tree_equal(
            a.aggregator,
            eqf.Clip(eqr.Bucketing(eqr.CentredClipping(0.5), 3), max_norm=9.0),
        ),
    ),
    "the choice of some": (
        "scaffold --power-of-choice 1",
        lambda a: (
            isinstance(a, eqf.PowerOfChoice)
            and isinstance(a.algorithm, eqf.Scaffold)
            and a.num_chosen == 1
        ),
    ),
    "the choice of some, of a rate that falls": (
        "fedavg --power-of-choice 1 --client-optim.decay.factor 0.5",
        lambda a: isinstance(a.algorithm, eqf.OverRounds),
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_have_their_numbers(case, tmp_path):
    words, holds = PARTS[case]
    words = [*SHORT, *SGD, "--algorithm", *words.split()]
    settings, _ = settings_of(words)
    assert holds(settings.build())
    # The same of a file, whose numbers may be said anew.
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings.as_json()), "utf-8")
    assert settings_of(["--config", str(file)])[0] == settings
    if "trimmed" in case:
        again = ["--config", str(file), "--aggregator.trim", "0.1"]
        trim = {"kind": "trimmed-mean", "trim": 0.1}
        more = {"clip_norm": 2.0, "drop_nonfinite": True}
        assert settings_of(again)[0].as_json()["numbers"]["aggregator"] == trim | more
        other = settings_of(["--config", str(file), "--aggregator", "median"])[0]
        assert other.numbers["aggregator"] == recipes.Aggregator(kind="median")
        # By its name alone, as one would write it.
        values = settings.as_json()
        values["numbers"]["aggregator"] = "median"
        file.write_text(json.dumps(values), "utf-8")
        assert settings_of(["--config", str(file)])[0] == other


def test_every_attack_has_its_numbers():
    own = {
        "sign-flip": ("--attack.scale 3", eqa.SignFlip(3.0)),
        "noise": ("--attack.std 0.5", eqa.Noise(0.5)),
        "alie": ("", eqa.ALIE()),
        "ipm": ("--attack.epsilon 0.5", eqa.IPM(0.5)),
        "min-max": ("--attack.perturbation unit", eqa.MinMax(perturbation="unit")),
        "min-sum": ("", eqa.MinSum()),
        "mimic": ("", eqa.Mimic()),
        "adaptive": ("--attack.num-steps 3", eqa.Adaptive(num_steps=3)),
        "model-replacement": ("", eqa.ModelReplacement()),
        "label-flip": (None, None),
    }
    assert set(own) == set(ATTACKS)
    subclasses = {x for x in vars(eqa).values() if inspect.isclass(x)}
    attacks = {x for x in subclasses if issubclass(x, eqa.AbstractAttack)}
    assert attacks - {eqa.AbstractAttack} == {type(x) for _, x in own.values() if x}
    for name, (words, attack) in own.items():
        words = "" if words is None else f"{words} --attack.knows own"
        words = f"--algorithm fedavg --attackers 2 --attack {name} {words}"
        settings, _ = settings_of([*SHORT, *SGD, *words.split()])
        assert settings.attackers == 2
        assert settings.attack is not None
        assert eqx.tree_equal(settings.attack.build(), attack)
        assert settings.attack.knows == ("all" if attack is None else "own")
        again = json.loads(json.dumps(settings.as_json()))
        assert Settings(**from_json_dict(again)) == settings
    plain, _ = settings_of([*SHORT, *SGD, "--algorithm", "fedavg"])
    assert (plain.attack, plain.attackers) == (None, None)


def test_every_compressor_has_its_numbers():
    own = {
        "uniform-quantizer": ("num-levels 4", eqc.UniformQuantizer(4)),
        "qsgd": ("num-levels 3", eqc.QSGD(3)),
        "terngrad": ("clip 2", eqc.TernGrad(2.0)),
        "sign": ("", eqc.Sign()),
        "drive": ("", eqc.DRIVE()),
        "eden": ("num-bits 2", eqc.EDEN(2)),
        "top-k": ("fraction 0.1", eqc.TopK(0.1)),
        "random-k": ("fraction 0.1 scaled False", eqc.RandomK(0.1, scaled=False)),
        "powersgd": ("rank 2", eqc.PowerSGD(2)),
        "count-sketch": (
            "num-rows 3 num-columns 50 num-kept 9 momentum 0.5",
            eqc.CountSketch(3, 50, num_kept=9, momentum=0.5),
        ),
    }
    assert set(own) == set(COMPRESSORS)
    around = {eqc.Rotated, eqc.Whole, eqc.ErrorFeedback, eqc.EF21}
    classes = {x for x in vars(eqc).values() if inspect.isclass(x)}
    known = {x for x in classes if issubclass(x, eqc.AbstractCompressor)}
    known -= around | {eqc.AbstractCompressor, eqc.AbstractLeafwise}
    assert known | {eqc.CountSketch} == {type(x) for _, x in own.values()}
    for name, (numbers, compressor) in own.items():
        words = ["--compress", name, "--algorithm", "fedavg"]
        words += [
            x if i % 2 else f"--compress.{x}" for i, x in enumerate(numbers.split())
        ]
        settings, _ = settings_of([*SHORT, *SGD, *words])
        assert settings.compress is not None
        assert eqx.tree_equal(settings.compress.build(), compressor)
        again = json.loads(json.dumps(settings.as_json()))
        assert Settings(**from_json_dict(again)) == settings


FOUR = eqc.UniformQuantizer(4)
COMPRESSED = {
    "around the aggregator": (
        "fedavg --aggregator median --compress uniform-quantizer "
        "--compress.num-levels 4",
        lambda a: eqx.tree_equal(a.aggregator, eqc.Compress(eqf.Median(), FOUR)),
    ),
    "around both of two": (
        "mime --optim momentum --optim.learning-rate 0.1 --compress drive",
        lambda a: all(
            isinstance(x, eqc.Compress) and eqx.tree_equal(x.compressor, eqc.DRIVE())
            for x in (a.aggregator, a.gradient_aggregator)
        ),
    ),
    "what is left is remembered": (
        "fedavg --compress sign --compress.rotated True --compress.whole True "
        "--compress.feedback ef21",
        lambda a: (
            eqx.tree_equal(
                a.client.compressor, eqc.EF21(eqc.Whole(eqc.Rotated(eqc.Sign())))
            )
            and isinstance(a.aggregator, eqf.WeightedMean)
        ),
    ),
    "one rotation of all": (
        "fedavg --compress sign --compress.rotated True --compress.seed 0 "
        "--compress-down drive --compress-down.seed 3",
        lambda a: (
            eqx.tree_equal(a.compressor, eqc.DRIVE(seed=3))
            and eqx.tree_equal(
                a.algorithm.aggregator.compressor, eqc.Rotated(eqc.Sign(), seed=0)
            )
        ),
    ),
    "what remembers by itself": (
        "fedavg --compress powersgd --compress.rank 2",
        lambda a: eqx.tree_equal(a.client.compressor, eqc.PowerSGD(2)),
    ),
    "sketches of any aggregator": (
        "fedavg --aggregator uniform-mean --compress count-sketch "
        "--compress.num-rows 3 --compress.num-columns 50 --compress.num-kept 9",
        lambda a: isinstance(a.aggregator.aggregator, eqf.UniformMean),
    ),
    "down as well, of some": (
        "scaffold --power-of-choice 1 --compress-down eden --compress-down.num-bits 2 "
        "--compress drive",
        lambda a: (
            isinstance(a.algorithm, eqf.CompressDown)
            and eqx.tree_equal(a.algorithm.compressor, eqc.EDEN(2))
            and isinstance(a.algorithm.algorithm.aggregator, eqc.Compress)
        ),
    ),
    "of a rate that falls": (
        "fedavg --client-optim.decay.factor 0.5 --compress-down drive",
        lambda a: isinstance(a.first, eqf.CompressDown),
    ),
}


@pytest.mark.parametrize("case", COMPRESSED)
def test_messages_are_compressed_where_there_is_room(case, tmp_path):
    words, holds = COMPRESSED[case]
    rate = [] if words.startswith("mime") else SGD
    settings, _ = settings_of([*SHORT, *rate, "--algorithm", *words.split()])
    assert holds(settings.build())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings.as_json()), "utf-8")
    assert settings_of(["--config", str(file)])[0] == settings
    plain = ["--config", str(file), "--compress", "none", "--compress-down", "none"]
    assert settings_of(plain)[0].compress is None
    if "--compress.num-levels" in words:
        again = ["--config", str(file), "--compress.num-levels", "8"]
        assert settings_of(again)[0].compress == recipes.Compression(
            kind="uniform-quantizer", num_levels=8
        )


def made_of(words):
    return _made(settings_of([*SHORT, *SGD, *words.split()])[0])


def test_attackers_are_drawn_with_the_seed_and_do_what_they_should():
    words = "--algorithm fedavg --attackers 3 --seed 4 --attack"
    clients = eqa.byzantine_clients(12, 3, seed=4).tolist()
    made = made_of(f"{words} sign-flip --attack.scale 2")
    assert isinstance(made.algorithm, eqa.Attacked)
    assert made.algorithm.clients.tolist() == clients
    clean, _ = recipes.task("digits-dense").load()
    flipped = made_of(f"{words} label-flip").loader.dataset
    for i in range(12):
        label, was = flipped.client(i)["label"], clean.client(i)["label"]
        assert (label == (9 - was if i in clients else was)).all()


def test_the_server_s_examples_are_taken_from_all_and_are_clean():
    words = "--algorithm fltrust --root-examples 40 --attackers 11 --attack label-flip"
    made = made_of(words)
    data, sampler = made.loader.dataset, made.loader.sampler
    clean, _ = recipes.task("digits-dense").load()
    assert data.client_ids[0] == "the server"
    assert data.client_sizes[0] == 40
    assert data.num_examples == clean.num_examples
    # No example is there twice, and all are those of before; labels of 11 are wrong.
    pairs = [_pairs(x.columns) for x in (data, clean)]
    assert sorted(x for x, _ in pairs[0]) == sorted(x for x, _ in pairs[1])
    own = dict(pairs[0][:40])
    assert all(own.get(image, label) == label for image, label in pairs[1])
    for round in range(3):
        drawn = sampler(round, 13)
        assert drawn[0] == 0
        assert len(set(drawn.tolist())) == 3
    again = made_of(words).loader.dataset.client(0)["image"]
    assert np.array_equal(again, data.client(0)["image"])
    other = made_of(f"{words} --seed 1").loader.dataset.client(0)["image"]
    assert not np.array_equal(other, data.client(0)["image"])
    # Who attacks is one of the others.
    attacked = made_of("--algorithm fltrust --attackers 12 --attack mimic").algorithm
    assert isinstance(attacked, eqa.Attacked)
    assert attacked.clients.tolist() == list(range(1, 13))
    with pytest.raises(ValueError, match="`attackers` must be at most 12, got 13"):
        made_of("--algorithm fltrust --attackers 13 --attack mimic")


def test_the_server_does_not_leave_the_others_next_to_nothing_in_silence():
    words = "--algorithm fltrust --root-examples"
    with pytest.warns(UserWarning, match="1217 root examples.* 12 of 1229 are left"):
        data = made_of(f"{words} 1217").loader.dataset
    none = (data.client_sizes[1:] == 0).sum()
    with pytest.warns(UserWarning, match=f"and {none} of 12 clients have none now"):
        made_of(f"{words} 1217")
    made_of(f"{words} 614")  # half of them: no warning


def _pairs(columns):
    images, labels = (np.asarray(columns[name]) for name in ("image", "label"))
    return [(x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)]


def test_a_run_with_attackers_and_one_that_trusts(tmp_path, capsys):
    words = "--algorithm fltrust --attackers 2 --attack alie"
    folder = tmp_path / "run"
    command = ["run", *SHORT, *SGD, *words.split(), "--output", str(folder)]
    assert main(command) == 0
    made = rows(folder / "metrics.jsonl")
    assert {"byzantine", "trusted", "test/accuracy"} <= set(made[-1])
    config = json.loads((folder / "config.json").read_text())
    assert config["attack"] == {"kind": "alie", "knows": "all"}
    command = ["run", "--config", str(folder / "config.json")]
    assert main([*command, "--output", str(tmp_path / "again")]) == 0
    files = [tmp_path / name / "metrics.jsonl" for name in ("run", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_recipe_of_which_some_are_chosen_is_another_one():
    words = ["--recipe", "pfl-cifar10-iid"]
    assert differs(settings_of(words)[0]) == []
    words += ["--power-of-choice", "5", "--aggregator", "weighted-mean"]
    assert differs(settings_of(words)[0]) == ["numbers", "power_of_choice"]


def test_what_is_said_goes_before_a_recipe_and_a_file(tmp_path):
    words = ["--recipe", "flsim-scaffold-iid"]
    settings, _ = settings_of(words)
    recipe = recipes.recipe("flsim-scaffold-iid")
    assert settings.numbers["client_optim"] == recipe.numbers["client_optim"]
    assert settings.batching == recipe.batching
    assert differs(settings) == []
    changed, _ = settings_of(
        [*words, "--rounds", "7", "--client-optim.decay.factor", "0.9"]
    )
    assert differs(changed) == ["numbers", "rounds"]
    assert changed.numbers["client_optim"].decay == recipes.Decay(factor=0.9)
    assert changed.numbers["client_optim"].clip_norm == 10.0
    file = tmp_path / "config.json"
    file.write_text(json.dumps(changed.as_json()), "utf-8")
    assert settings_of(["--config", str(file)])[0] == changed
    other, _ = settings_of(
        ["--config", str(file), "--client-optim", "adam"]
        + ["--client-optim.learning-rate", "0.01"]
    )
    assert other.numbers["client_optim"] == recipes.Adam(learning_rate=0.01)
    # The other algorithm has what both have, and nothing else.
    other, _ = settings_of([*words, "--algorithm", "fedprox", "--mu", "0.5"])
    assert other.numbers["mu"] == 0.5
    assert other.numbers["client_optim"] == recipe.numbers["client_optim"]


def rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_run_table_plot_and_the_same_run_again(tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("tensorboard")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    words = ["run", *SHORT, "--algorithm", "fedavg", *SGD, "--tensorboard", "True"]
    assert main([*words, "--output", one]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    kept = {path.name for path in (tmp_path / "one").iterdir()}
    wanted = {"config.json", "environment.json", "metrics.jsonl", "result.json"}
    assert kept == wanted | {"checkpoints", "tensorboard"}
    made_with = json.loads((tmp_path / "one" / "environment.json").read_text())
    versions = set(made_with["versions"])
    assert {"python", "jax", "equinox", "optax", "equifed"} <= versions
    (end,) = json.loads((tmp_path / "one" / "result.json").read_text())
    assert end["result"] == "successful"
    assert end["last"]["test/accuracy"] == pytest.approx(
        rows(tmp_path / "one" / "metrics.jsonl")[-1]["test/accuracy"]
    )
    # What it has saved makes the same run.
    config = str(tmp_path / "one" / "config.json")
    assert main(["run", "--config", config, "--output", two]) == 0
    files = [tmp_path / name / "metrics.jsonl" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    capsys.readouterr()
    # Another run in its place is refused, and it has ended.
    assert main([*words, "--output", one]) == 1
    assert "holds another run" in capsys.readouterr().err
    assert main(["resume", one]) == 0
    assert "come to its end" in capsys.readouterr().out
    assert main(["table", one, two]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:5] == ["run", "task", "algorithm", "metric", "ours"]
    assert "no recipe" in table[1]
    figure = tmp_path / "curves.png"
    assert main(["plot", one, two, "--output", str(figure)]) == 0
    assert figure.stat().st_size > 1000
    sent = tmp_path / "bytes.png"
    assert main(["plot", one, "--x", "bytes", "--output", str(sent)]) == 0
    assert sent.read_bytes() != figure.read_bytes()


@pytest.mark.usefixtures("listens_to_interrupts")
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_bits(
    tmp_path, capsys, monkeypatch
):
    words = ["run", "--recipe", "flsim-scaffold-iid", "--small", "--eval-every", "1"]
    words += ["--clients-per-round", "2"]
    # What a compressor remembers, of clients and of the server, is in a checkpoint.
    words += "--compress sign --compress.feedback ef21 --compress-down drive".split()
    words += ["--ledger", "True"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*words, "--output", str(whole)]) == 0
    log = eqf.JSONLines.log

    def interrupted(self, round, metrics):
        log(self, round, metrics)
        if round == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(eqf.JSONLines, "log", interrupted)
        capsys.readouterr()
        assert main([*words, "--output", str(cut)]) == 130
    out = capsys.readouterr().err
    assert "Interrupted after round 2 of 3" in out
    assert f"equifed resume {cut}" in out
    assert not (cut / "result.json").exists()
    assert main(["resume", str(cut)]) == 0
    files = [folder / "metrics.jsonl" for folder in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # And what was sent is in its table.
    capsys.readouterr()
    assert main(["table", str(cut)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    for name in ("bits_up", "bits_down"):
        assert f" {sum(row[name] for row in rows(files[1])) / 8e6:.4g} " in line
    # Whose each bit is is known of all rounds.
    assert (whole / "ledger.json").read_text() == (cut / "ledger.json").read_text()
    check_ledger(json.loads((cut / "ledger.json").read_text()), rows(files[1]))
    size = 8 * 8 * 64 + 64 + 64 * 10 + 10  # a sign each, of the params and the control
    assert 2 * 2 * size < rows(files[1])[0]["bits_up"] < 2 * 2 * size * 1.1


def check_ledger(kept, *histories):
    """The clients' bits against those of all of them together."""
    for of_seed, history in zip(kept, histories, strict=True):
        clients = of_seed["clients"].values()
        asked = sum(client["rounds"] for client in clients)
        assert asked == 2 * len(history)
        for name in ("bits_up", "bits_down"):
            total = sum(row[name] for row in history)
            assert sum(client[name] for client in clients) == total > 0


def test_seeds_in_one_program(tmp_path, capsys):
    folder = tmp_path / "seeds"
    words = ["run", "--recipe", "digits-fedavg", "--rounds", "2", "--seeds", "2"]
    words += ["--ledger", "True"]
    words += ["--eval-every", "1", "--clients-per-round", "2", "--seed", "5"]
    assert main([*words, "--output", str(folder)]) == 0
    kept = json.loads((folder / "result.json").read_text())
    assert [end["seed"] for end in kept] == [5, 6]
    ends = [rows(folder / f"metrics-{seed}.jsonl")[-1] for seed in (5, 6)]
    assert ends[0]["test/loss"] != ends[1]["test/loss"]
    ledgers = json.loads((folder / "ledger.json").read_text())
    assert [of_seed["seed"] for of_seed in ledgers] == [5, 6]
    check_ledger(ledgers, *(rows(folder / f"metrics-{seed}.jsonl") for seed in (5, 6)))
    capsys.readouterr()
    assert main(["table", str(folder)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    mean = np.mean([end["test/accuracy"] for end in ends])
    assert f"{mean:.4f} ± " in line
    assert "with other clients_per_round, rounds, eval_every" in line


def test_models_of_clusters_are_evaluated_at_the_end(tmp_path, capsys):
    folder = tmp_path / "ifca"
    words = ["run", *SHORT, "--algorithm", "ifca", *SGD, "--num-clusters", "2"]
    assert main([*words, "--output", str(folder)]) == 0
    (end,) = json.loads((folder / "result.json").read_text())
    # Of the two writers who never trained nobody knows which model is theirs.
    assert set(end["last"]) == {"test/accuracy", "test/loss"}
    assert 0 < end["last"]["test/accuracy"] < 1
    capsys.readouterr()
    assert main(["table", str(folder)]) == 0
    assert f"{end['last']['test/accuracy']:.4f}" in capsys.readouterr().out


OWN = {
    "fedper": ["--personal", "layers.1.bias", "--frozen", "layers.0.bias"],
    "fedproto": ["--num-classes", "10", "--num-features", "64"],
}


@pytest.mark.parametrize("name", OWN)
def test_each_client_is_evaluated_on_its_own_model(name, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [*SHORT, "--algorithm", name, *SGD, *OWN[name]]
    assert main(["run", *words, "--output", str(whole)]) == 0
    last = rows(whole / "metrics.jsonl")[-1]
    settings, _ = settings_of(words)
    task, algorithm = settings.of_task, settings.build()
    train, evaluation = task.load()
    sampler = eqf.data.UniformSampler(2, seed=0)
    loader = eqf.data.Loader(train, sampler, settings.batching.build())
    model, roles = task.model(jr.key(0)), None
    if name == "fedper":
        roles = eqf.roles(
            model,
            personal=lambda m: m.layers[1].bias,
            frozen=lambda m: m.layers[0].bias,
        )
    solution = eqf.train(
        *(algorithm, model, loader), num_rounds=2, key=jr.key(0), roles=roles
    )
    for test, dataset in evaluation.items():
        parts = (algorithm, solution.state, dataset, task.metrics)
        found = eqf.evaluate_personal(*parts, clients=train)
        for metric in ("accuracy", "loss"):
            mean = found.mean(metric)
            assert last[f"{test}/{metric}/clients"] == pytest.approx(mean, rel=1e-5)
    # A run that goes on has the same roles.
    config = json.loads((whole / "config.json").read_text())
    cut.mkdir()
    (cut / "config.json").write_text(json.dumps(config), "utf-8")
    assert main(["resume", str(cut)]) == 0
    files = [folder / "metrics.jsonl" for folder in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_clients_are_tuned_before_they_are_evaluated(tmp_path):
    words = [*SHORT, "--algorithm", "fedavg", *SGD, "--fine-tune", "2"]
    assert main(["run", *words, "--output", str(tmp_path / "run")]) == 0
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    settings, _ = settings_of(words)
    task, algorithm, batching = (
        settings.of_task,
        settings.build(),
        settings.batching.build(),
    )
    train, evaluation = task.load()
    loader = eqf.data.Loader(train, eqf.data.UniformSampler(2, seed=0), batching)
    solution = eqf.train(
        *(algorithm, task.model(jr.key(0)), loader), num_rounds=2, key=jr.key(0)
    )
    rate = settings.numbers["client_optim"].learning_rate
    epochs = eqf.data.Epochs(2, batch_size=batching.batch_size)
    tune = eqf.FineTune(task.loss, optax.sgd(rate), epochs)
    few, rest = evaluation["unseen"].split_examples(0.5, seed=0)
    for name, test, support in (
        ("test", evaluation["test"], None),
        ("unseen", rest, few),
    ):
        found = eqf.evaluate_personal(
            *(algorithm, solution.state, test, task.metrics),
            clients=train,
            fine_tune=tune,
            support=support,
        )
        mean = found.mean("loss")
        assert last[f"{name}/loss/clients"] == pytest.approx(mean, rel=1e-5)


def test_figures_of_others_are_beside_ours(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    settings, _ = settings_of(["--recipe", "niid-bench-fednova"])
    config = json.dumps(settings.as_json())
    (folder / "config.json").write_text(config, "utf-8")
    ours = enumerate((0.5, 0.7, 0.6))
    lines = [{"round": i + 1, "test/accuracy": x} for i, x in ours]
    text = "\n".join(map(json.dumps, lines)) + '\n{"round": 4, "te'
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    assert main(["table", str(folder)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "  0.7000  0.6389 ± 0.0140  -  " in line  # the best, as theirs
    assert "  adap/flower" in line
    assert "not at its end yet" in line
    # One that is measured by something else has no figure, unless none has.
    other = tmp_path / "other"
    other.mkdir()
    config = settings_of(["--recipe", "reddi-tags-fedavg"])[0].as_json()
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    (other / "metrics.jsonl").write_text('{"round": 1, "test/recall_at_5": 0.5}')
    assert main(["table", str(folder), str(other)]) == 0
    assert "  test/accuracy  -       -  " in capsys.readouterr().out.splitlines()[2]
    assert main(["table", str(other), "--metric", "test/recall_at_5"]) == 0
    assert "  test/recall_at_5  0.5000  -  " in capsys.readouterr().out
    assert main(["table", str(other)]) == 1
    assert "It has: test/recall_at_5." in capsys.readouterr().err


def test_a_result_is_json_that_every_parser_reads(tmp_path):
    settings, _ = settings_of(["--recipe", "digits-fedavg"])
    write(tmp_path / "config.json", settings.as_json())
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "loss": "nan"}\n', "utf-8")
    last = {"epsilon": np.inf, "test/loss": np.nan, "test/low": -np.inf, "x": 0.1}
    write(tmp_path / "result.json", [{"seed": 0, "result": "successful", "last": last}])
    text = (tmp_path / "result.json").read_text("utf-8")
    (end,) = json.loads(text, parse_constant=pytest.fail)
    assert end["last"] == {n: str(x) if n != "x" else x for n, x in last.items()}
    ((row,),) = load(str(tmp_path)).histories
    np.testing.assert_equal({name: row[name] for name in last}, last)


REFUSED = {
    "an unknown attack": (
        "--recipe digits-fedavg --attackers 2 --attack ally",
        "`attack` must be the name of one, got 'ally'. Did you mean 'alie'? There are: "
        "sign-flip,",
    ),
    "an attack by nobody": (
        "--recipe digits-fedavg --attack alie",
        "Give both, `--attack alie --attackers 5`, or neither.",
    ),
    "attackers who do nothing": (
        "--recipe digits-fedavg --attackers 2",
        "Give both, `--attack alie --attackers 5`, or neither.",
    ),
    "more attackers than clients": (
        "--recipe digits-fedavg --attack mimic --attackers 12",
        "`attackers` must be at most 11, got 12",
    ),
    "a little is enough of most": (
        "--recipe digits-fedavg --attack alie --attackers 7",
        "most half of the clients, got 7 of 12. Name 6 or fewer, or take another",
    ),
    "a number of another attack": (
        "--recipe digits-fedavg --attack alie --attackers 2 --attack.radius 3",
        "`--attack.radius` is of no use: `--attack` is 'alie', which has "
        "`--attack.knows`.",
    ),
    "a number of no attack": (
        "--recipe digits-fedavg --attack.radius=3",
        "`--attack.radius` is of no use: `--attack` is 'none', which has no numbers.",
    ),
    "a number of another optimiser": (
        "--recipe digits-fedavg --client-optim adam --client-optim.momentum 0.9",
        "`--client-optim.momentum` is of no use: `--client-optim` is 'adam'",
    ),
    "a family of tasks": (
        "--task digits --algorithm fedavg",
        "Did you mean 'digits-dense' or 'digits-cnn'? There are: digits-..., emnist",
    ),
    "an attack that is out of bounds": (
        "--recipe digits-fedavg --attack ipm --attack.epsilon 0 --attackers 2",
        "`epsilon` must be more than 0, got 0",
    ),
    "attackers beside a promise": (
        "--recipe pfl-cifar10-iid-private --small --attack alie --attackers 2",
        "Leave `attack` out, or take a recipe without privacy",
    ),
    "a server without examples": (
        "--recipe digits-fedavg --root-examples 100",
        "`root_examples` are the server's own, and of 'fedavg' it has none",
    ),
    "all examples for the server": (
        "--task digits-dense --algorithm fltrust --client-optim.learning-rate 1 "
        "--root-examples 5000",
        "1229 in all, of 12 clients: give 1217 or fewer, so that as many are left as",
    ),
    "an unknown compressor": (
        "--recipe digits-fedavg --compress topk",
        "`compress` must be the name of one, got 'topk'. Did you mean 'top-k'?",
    ),
    "more than all numbers": (
        "--recipe digits-fedavg --compress top-k --compress.fraction 2",
        "`fraction` must be at most 1, got 2",
    ),
    "a sketch that goes down": (
        "--recipe digits-fedavg --compress-down count-sketch",
        "`compress_down` must be the name of one, got 'count-sketch'",
    ),
    "a memory without a place": (
        "--task digits-dense --algorithm mime --optim sgd --optim.learning-rate 1 "
        "--compress sign --compress.feedback ef21",
        "'ef21' remembers something of each client, for which an algorithm of one pass",
    ),
    "nothing to compress for": (
        "--task digits-dense --algorithm fltrust --client-optim.learning-rate 1 "
        "--compress drive",
        "goes around an aggregator, and `FLTrust` has none",
    ),
    "several passes down": (
        "--task digits-dense --algorithm mime --optim sgd --optim.learning-rate 1 "
        "--compress-down drive",
        "`compress_down` is of algorithms of one pass, and `Mime` is not one",
    ),
    "compressed beside a promise": (
        "--recipe pfl-cifar10-iid-private --small --compress drive",
        "Leave `compress` and `compress_down` out, or take one without privacy",
    ),
    "an unknown task": (
        "--task digits-dens --algorithm fedavg",
        "Did you mean 'digits-dense'? There are: digits-..., emnist-..., cifar10-...",
    ),
    "an unknown algorithm": (
        "--task digits-dense --algorithm fedadm",
        "Did you mean 'fedadam'?",
    ),
    "an unknown recipe": (
        "--recipe flsim-fedavg-dir0.5",
        "Did you mean 'flsim-fedavg-dir0.6'?",
    ),
    "an unknown optimiser": (
        "--task digits-dense --algorithm fedavg --client-optim sdg",
        "`client_optim` must be the name of one, got 'sdg'. Did you mean 'sgd'?",
    ),
    "no task": ("--algorithm fedavg", "`--task` must be given"),
    "no algorithm": ("--task digits-dense", "`--algorithm` must be given"),
    "two sources": (
        "--recipe digits-fedavg --config config.json",
        "`--recipe` and `--config` are two ways",
    ),
    "the small form of nothing": ("--small", "Give `--recipe` as well"),
    "no such file": ("--config nowhere.json", "There is no file `nowhere.json`"),
    "a negative frequency": (
        "--recipe digits-fedavg --eval-every -1",
        "`eval_every` must be at least 1, got -1",
    ),
    "no checkpoint at all": (
        "--recipe digits-fedavg --checkpoint-every 0",
        "`checkpoint_every` must be at least 1, got 0",
    ),
    "epochs and steps": (
        "--recipe digits-fedavg --batching.steps 3",
        "`epochs=2` and `steps=3` are two ways",
    ),
    "seeds beyond the last": (
        f"--recipe digits-fedavg --seed {2**64 - 2} --seeds 3",
        f"`seeds=3` are from `seed` on, of which {2**64 - 2} leaves 2",
    ),
    "seeds with checkpoints": (
        "--recipe digits-fedavg --seeds 2 --checkpoint-every 5",
        "trained side by side in one program, which has no `checkpoint_every`",
    ),
    "a number out of bounds": (
        "--task digits-dense --algorithm fedprox --mu -1 "
        "--client-optim.learning-rate 1",
        "must be at least 0, got -1",
    ),
    "more clients than there are": (
        "--recipe digits-fedavg --clients-per-round 13",
        "`clients_per_round` must be at most 12, the number of clients that train, "
        "got 13",
    ),
    "more to choose than there are": (
        "--recipe digits-fedavg --power-of-choice 7",
        "`power_of_choice` must be at most 6, got 7",
    ),
    "several models to choose by": (
        "--task digits-dense --algorithm ifca --num-clusters 2 --power-of-choice 2 "
        "--client-optim.learning-rate 1",
        "loss of one model, and 'ifca' trains several. Leave it out",
    ),
    "another aggregator": (
        "--recipe digits-fedavg --aggregator trimmed",
        "Did you mean 'trimmed-mean'?",
    ),
    "a trimmed mean of too much": (
        "--recipe digits-fedavg --aggregator trimmed-mean --aggregator.trim 0.5",
        "`trim` must be less than 0.5, got 0.5",
    ),
    "a rule for fewer than none": (
        "--recipe digits-fedavg --aggregator krum --aggregator.num-byzantine -1",
        "`num_byzantine` must be at least 0, got -1",
    ),
    "a cohort that is too small for a rule": (
        "--recipe digits-fedavg --aggregator krum --aggregator.num-byzantine 3",
        "`Krum` with num_byzantine=3 needs at least 9 messages",
    ),
    "two ways to average first": (
        "--recipe digits-fedavg --aggregator median --aggregator.mixing 1 "
        "--aggregator.bucket-size 2",
        "`mixing=1` and `bucket_size=2` are two ways",
    ),
    "weights that are none": (
        "--task digits-dense --algorithm agnosticfedavg --num-domains 2 --domain x "
        "--domain-learning-rate 0.1 --client-optim.learning-rate 1 "
        "--domain-weights 0.5 0.6",
        "`domain_weights` must be at least 0 and sum to 1",
    ),
    "a part that there is not": (
        "--task digits-dense --algorithm fedper --client-optim.learning-rate 1 "
        "--personal hed",
        "`personal` must be the name of one, got 'hed'. Did you mean 'head'? There "
        "are: head, body, layers.",
    ),
    "a layer that there is not": (
        "--recipe digits-fedavg --frozen layers.2.weight",
        "`frozen layers` must be the name of one, got '2'. There are: 0, 1.",
    ),
    "a part of an array": (
        "--recipe digits-fedavg --frozen layers.0.weight.0",
        "'layers.0.weight' has no parts",
    ),
    "a change of no rank": (
        "--recipe digits-fedavg --lora 0",
        "`lora` must be at least 1, got 0",
    ),
    "a change of too high a rank": (
        "--recipe digits-fedavg --lora 11",
        "`rank`",
    ),
    "adapters that there are not": (
        "--recipe digits-fedavg --personal lora_b",
        "`personal` must be the name of one, got 'lora_b'",
    ),
    "two roles": (
        "--recipe digits-fedavg --personal head --frozen layers.1.bias",
        "is named by `personal` and by `frozen`",
    ),
    "nothing to send": (
        "--recipe digits-fedavg --personal head body",
        "`FedAvg` has nothing to send",
    ),
    "what cannot be kept": (
        "--task digits-dense --algorithm scaffold --client-optim.learning-rate 1 "
        "--personal head",
        "`Scaffold` cannot keep personal leaves",
    ),
    "nothing to tune by": (
        "--task digits-dense --algorithm mifa --learning-rate 1 --fine-tune 1",
        "by the algorithm's `client_optim`, and 'mifa' has no `client_optim`",
    ),
    "nobody to tune": (
        "--task digits-dense --algorithm ifca --client-optim.learning-rate 1 "
        "--num-clusters 2 --fine-tune 1",
        "'ifca' has a model for each cluster",
    ),
    "no normalisation to keep": (
        "--task digits-dense --algorithm fedbn --client-optim.learning-rate 1",
        "takes its 'norms' if none are named, but that of 'digits-dense' has none. "
        "Name others by `--personal`",
    ),
    "no data": ("--recipe reddi-tags-fedavg", "`--data FOLDER`"),
    "data where there are none": (
        "--recipe fedjax-emnist-logistic --data .",
        "`folder` has no file *.parquet",
    ),
    "what is found in the first round": (
        "--task digits-dense --algorithm agnosticfedavg --num-domains 3 --domain "
        "nothing --domain-learning-rate 0.1 --client-optim.learning-rate 1",
        "nothing",
    ),
    "what the task has not": (
        "--task emnist-logistic --algorithm feddecorr --client-optim.learning-rate 1",
        "`feddecorr` needs the task's `representation`, but 'emnist-logistic' has none",
    ),
    "an attack without its number": (
        "--recipe digits-fedavg --attackers 2 --attack sign-flip",
        "equifed run: `--attack.scale` must be given: the s, positive.",
    ),
    "an attack with another word for its number": (
        "--recipe digits-fedavg --attackers 2 --attack sign-flip --attack.scale=big",
        "`--attack.scale` must be a number, got 'big'",
    ),
    "an attack without its name": (
        "--recipe digits-fedavg --attackers 2 --attack",
        "`--attack` is given no value",
    ),
    "attackers who know what nobody knows": (
        "--recipe digits-fedavg --attackers 2 --attack alie --attack.knows most",
        "`--attack.knows` must be 'all' or 'own', got 'most'",
    ),
    "no rate": (
        "--task digits-dense --algorithm fedavg",
        "`--client-optim.learning-rate` must be given",
    ),
    "a switch without a word": (
        "--recipe digits-fedavg --tensorboard",
        "`--tensorboard` is given no value",
    ),
    "a task without its name": ("--task", "`--task` is given no value"),
    "an option that there is not": (
        "--recipe digits-fedavg --bogus 3",
        "equifed run: There is no option `--bogus`. `equifed run --help` with the same",
    ),
    "an option misspelt": (
        "--recipe digits-fedavg --client_per_round=3",
        "no option `--client-per-round`. Did you mean `--clients-per-round`?",
    ),
    "a number without what has it": (
        "--task digits-dense --algorithm fedavg --learning-rate 0.1",
        "no option `--learning-rate`. Did you mean `--client-optim.learning-rate`?",
    ),
    "a task misspelt": (
        "--taks digits-dense --algorithm fedavg",
        "`--task` must be given, or a `--recipe`, or a `--config`. Did you mean it by "
        "`--taks`? There are: digits-",
    ),
    "a word too many": (
        "--recipe digits-fedavg --rounds 3 4",
        "'4' is a word too many: it belongs to no option",
    ),
    "who took part beside a promise": (
        "--recipe pfl-cifar10-iid-private --small --ledger True",
        "`ledger` tells who took part in which round",
    ),
}
OTHERS_REFUSED = {
    "list": "`KIND` must be given: of what: tasks, algorithms, attacks, compressors or",
    "list tasks recipes": "'recipes' is a word too many",
    "list figures": "`KIND` must be 'tasks', 'algorithms', 'attacks', 'compressors' or",
    "resume": "`RUN` must be given: its folder",
    "resume one two": "'two' is a word too many",
    "table one --metrics loss": "no option `--metrics`. Did you mean `--metric`?",
    "plot one two --x furlongs": "`--x` must be 'round', 'seconds', 'hours' or 'bytes'",
    "plot one two --output": "`--output` is given no value",
}


@pytest.mark.parametrize("name", ("attack", "aggregator", "compress", "clock"))
def test_each_number_is_asked_for_and_looked_at(name):
    """Whatever the kind, what is missing and what has no value is one sentence."""
    part = Aggregator if name == "aggregator" else NAMED[name]
    for kind in forms._KINDS[part]:
        words = ["--recipe", "digits-fedavg", f"--{name}", kind]
        needed = False
        for number, known in forms._NUMBERS[part](kind).items():
            called = option(f"{name}.{number}")
            with pytest.raises(ValueError, match=f"`{called}` is given no value"):
                settings_of([*words, called])
            if known.default is MISSING and not needed:
                needed = True
                with pytest.raises(ValueError, match=f"`{called}` must be given: "):
                    settings_of(words)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, expected = REFUSED[case]
    assert main(["run", *words.split()]) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert len(message) < 700
    assert "Traceback" not in message
    # Nor is a folder left that the next try would run into.
    assert not [path for path in tmp_path.rglob("*") if path.name != "runs"]


@pytest.mark.parametrize("words", OTHERS_REFUSED)
def test_other_commands_refuse_likewise(words, capsys):
    assert main(words.split()) == 1
    message = capsys.readouterr().err
    assert OTHERS_REFUSED[words] in message
    assert message.startswith(f"equifed {words.split()[0]}: ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("seed", (2**31, 2**32 + 3, 2**63, 2**64 - 1))
def test_seeds_of_64_bits_are_different_ones(seed):
    keys = [jr.key_data(seed_key(x)).tolist() for x in (0, 3, seed)]
    assert len(set(map(tuple, keys))) == 3
    small = jr.key_data(seed_key(3))
    np.testing.assert_array_equal(small, jr.key_data(jr.key(3)))


def _config(**settings):
    whole: dict[str, object] = {"task": "digits-dense", "algorithm": "fedavg"}
    whole["numbers"] = {"client_optim": {"kind": "sgd", "learning_rate": 1.0}}
    return json.dumps({**whole, **settings})


WRONG_SETTINGS = (
    ({"numbers": 3}, "`numbers` must be a dictionary, got 3"),
    ({"batching": 7}, "`batching` must be a dictionary, got 7"),
    ({"batching": None}, "`batching` must be a dictionary, got None"),
    ({"batching": {"epoch": 1}}, "Did you mean 'epochs'?"),
    ({"privacy": "much"}, "`privacy` must be a dictionary, got 'much'"),
    ({"privacy": {"epsilon": 1.0}}, "`privacy` needs `delta`, which is missing."),
    ({"compress": "qsgd"}, "`compress` must be a dictionary, got 'qsgd'"),
    ({"attack": "alie"}, "`attack` must be a dictionary, got 'alie'"),
    (
        {"attack": {"kind": "sign-flip"}, "attackers": 1},
        "`scale` must be given for 'sign-flip'",
    ),
    ({"rounds": "3"}, "`rounds` must be an integer, got '3'"),
    ({"lora": 1.5}, "`lora` must be an integer or None, got 1.5"),
    ({"tensorboard": 1}, "`tensorboard` must be True or False, got 1"),
    ({"data": 3}, "`data` must be text or None, got 3"),
    ({"recipe": "digits-fedav"}, "Did you mean 'digits-fedavg'?"),
    (
        {"numbers": {"client_optim": {"kind": "sgd"}}},
        "`client_optim` needs `learning_rate`, which is missing.",
    ),
    (
        {"numbers": {"client_optim": {"kind": "sgd", "learning_rate": 1, "decay": 2}}},
        "`client_optim.decay` must be",
    ),
    (
        {
            "numbers": {
                "client_optim": {"kind": "sgd", "learning_rate": 1, "decay": {"a": 1}}
            }
        },
        "`numbers of client_optim.decay` must be the name of one, got 'a'",
    ),
)


def test_config_files_that_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.json"
    for text, words in (
        ("{", "`config.json` is no JSON"),
        ("[]", "must hold an object"),
        ("{}", "has no 'task'"),
        (
            '{"task": "digits-dense", "algorithm": "fedavg", "numbers": {"mu": 1}}',
            "`numbers of fedavg` must be the name of one, got 'mu'",
        ),
        (
            '{"task": "digits-dense", "algorithm": "fedper", "numbers": '
            '{"client_optim": {"kind": "sgd", "learning_rate": 1.0}}, '
            '"personal": "head"}',
            "`personal` must be a `list` or a `tuple`, got 'head'.",
        ),
        ('{"taks": "digits-dense"}', "Did you mean 'task'?"),
        *((_config(**wrong), words) for wrong, words in WRONG_SETTINGS),
    ):
        file.write_text(text, "utf-8")
        assert main(["run", "--config", "config.json"]) == 1
        assert words in capsys.readouterr().err
    assert main(["table", str(tmp_path / "nowhere")]) == 1
    assert "is no run" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert main(["run", "--recipe", "digits-fedavg", "--output", "other"]) == 1
    assert "holds other files" in capsys.readouterr().err


def test_lists_and_help(capsys):
    for kind, name in (
        ("tasks", "digits-dense"),
        ("algorithms", "fltrust"),
        ("attacks", "min-sum"),
        ("compressors", "uniform-quantizer"),
        ("recipes", "niid-bench-fedavg"),
    ):
        assert main(["list", kind]) == 0
        assert name in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "resume" in capsys.readouterr().out
    assert main(["trian"]) == 2
    with pytest.raises(SystemExit):
        main(["run", "--algorithm", "fedprox", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--mu FLOAT" in out
    assert "At 0 this is FedAvg" in out


def test_layers_have_changes_of_low_rank():
    words = [*SHORT, *SGD, *"--algorithm fedavg --lora 4".split()]
    settings, _ = settings_of(words)
    model = settings.model(jr.key(0))
    found = settings.roles(model)
    assert found is not None
    adapted = tuple(f".layers[{i}].{x}" for i in (0, 1) for x in ("a", "b"))
    assert set(found.of("shared")) == set(adapted)
    assert found.of("personal") == ()
    assert f"{adapted[0][:-2]}.base.weight" in found.of("frozen")
    # As FedSA-LoRA has it: what is not personal is shared.
    settings, _ = settings_of([*words, "--personal", "lora_b"])
    found = settings.roles(model)
    assert found is not None
    assert set(found.of("shared")) == set(adapted[::2])
    assert set(found.of("personal")) == set(adapted[1::2])
    assert Settings(**from_json_dict(settings.as_json())) == settings


def test_what_is_of_low_rank_is_trained_alone(tmp_path):
    words = "run --algorithm flora --lora 2 --seeds 2".split()
    assert main([*words, *SHORT, *SGD, "--output", str(tmp_path / "run")]) == 0
    found = rows(tmp_path / "run" / "metrics-0.jsonl")
    # Two clients send A and B of two layers, and one number beside them.
    assert found[0]["bits_up"] == 2 * 32 * (2 * (64 + 64) + 2 * (64 + 10) + 1)


def test_a_training_that_diverges_says_so(tmp_path, capsys):
    words = [*SHORT, *"--algorithm fedavg --client-optim.learning-rate 1e30".split()]
    with pytest.warns(UserWarning, match="became non-finite"):
        assert main(["run", *words, "--output", str(tmp_path / "run")]) == 1
    assert "The server model became non-finite. Lower" in capsys.readouterr().out
    (end,) = json.loads((tmp_path / "run" / "result.json").read_text())
    assert end["result"] == "nonfinite_model"


def test_data_that_cannot_be_had(tmp_path, monkeypatch, capsys):
    def nowhere(*args, **options):
        raise ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", nowhere)
    assert main(["run", "--recipe", "niid-bench-fedavg"]) == 1
    message = capsys.readouterr().err
    assert "Couldn't reach 'uoft-cs/cifar10' on the Hub. What is incomplete" in message
    assert "train*.parquet and test*.parquet of uoft-cs/cifar10: `--data FOLDER`" in (
        message
    )
    assert not list(tmp_path.iterdir())


def test_without_wandb(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["run", "--recipe", "digits-fedavg", "--wandb", "project"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 1
    assert 'pip install "equifed[wandb]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wandb_is_given_the_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, *, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    def init(**arguments):
        calls.append(("init", arguments))
        return Run()

    module = types.ModuleType("wandb")
    module.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    folder = tmp_path / "mine"
    words = ["run", *SHORT, "--algorithm", "fedavg", *SGD, "--wandb", "project"]
    assert main([*words, "--output", str(folder)]) == 0
    (_, arguments), *logged, last = calls
    assert (arguments["project"], arguments["name"]) == ("project", "mine")
    # By its id a run that is resumed is known again.
    assert arguments["resume"] == "allow"
    place = str(folder.resolve()).encode()
    assert arguments["id"] == hashlib.sha256(place).hexdigest()[:16]
    config = json.loads((folder / "config.json").read_text())
    assert json.loads(json.dumps(arguments["config"])) == config
    assert [step for _, step, _ in logged] == [1, 2]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    for (_, step, values), line in zip(logged, lines, strict=True):
        assert {"round": step, **values} == pytest.approx(json.loads(line))
    assert "test/accuracy" in logged[-1][2]
    assert last == ("finish",)


def test_without_tyro(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["list", "tasks"]) == 1
    assert 'pip install "equifed[cli]"' in capsys.readouterr().err
