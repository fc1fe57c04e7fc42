"""A clock on the command line: what it is made of, what is kept, what is refused."""

import json

import pytest

import equifed as eqf
import equifed.clock as eqt
from equifed._cli import main
from equifed._cli.parsing import settings_of
from equifed._cli.running import _made


SHORT = (
    "--task digits-dense --clients-per-round 4 --rounds 3 --eval-every 1 "
    "--batching.batch-size 50 --client-optim.learning-rate 0.1 --seed 5 "
)
PHONES = (
    "--clock.speed 1e6 --clock.downlink 1e6 --clock.uplink 2e5 --clock.spread 0.5 "
    "--clock.latency 0.2 --clock.share 0.6 --clock.drops 0.1 "
)
WAITS = "--algorithm fedavg --clock synchronous --clock.goal 3 --clock.deadline 9 "
NEVER = "--algorithm fedbuff --max-staleness 4 --clock asynchronous "
BUFFER = "--clock.buffer-size 2 "


def of(words):
    return settings_of((SHORT + words).split())[0]


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def by_hand(kind):
    """The same run, as one would write it."""
    settings = of(f"{WAITS if kind == 'synchronous' else NEVER + BUFFER} {PHONES}")
    task, algorithm = settings.of_task, settings.build()
    data, _ = task.load()
    sampler = eqf.data.UniformSampler(4, seed=5)
    made = _made(settings)
    plain = eqf.data.Loader(data, sampler, algorithm.batching)
    work = eqt.Work.of(algorithm, made.model, plain)
    system = eqt.SystemModel(
        speed=eqt.LogNormal(1e6, 0.5),
        downlink=eqt.LogNormal(1e6, 0.5),
        uplink=eqt.LogNormal(2e5, 0.5),
        latency=eqt.Exponential(0.2, each="round"),
        availability=eqt.DailyAvailability(0.6),
        drops_after=0.1,
        seed=5,
    )
    if kind == "synchronous":
        clock = eqt.SynchronousClock(system, work, goal=3, deadline=9.0)
    else:
        clock = eqt.AsynchronousClock(system, work, buffer_size=2, max_staleness=4)
    return made.loader, eqf.data.Loader(data, sampler, algorithm.batching, clock=clock)


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
def test_it_is_the_clock_of_the_same_numbers(kind):
    made, wanted = by_hand(kind)
    assert repr(made.clock) == repr(wanted.clock)
    reports = [wanted.report(round) for round in range(6)]
    assert [made.report(round) for round in range(6)] == reports
    assert reports[-1]["seconds"] > 0


@pytest.mark.parametrize("words", [WAITS, NEVER + BUFFER], ids=["waits", "never"])
def test_a_run_has_seconds_and_bytes_and_goes_on(words, tmp_path, capsys, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["run", *f"{SHORT} {words} {PHONES}".split()]
    assert main([*command, "--output", str(whole)]) == 0
    found = rows(whole)
    loader = _made(of(words + PHONES)).loader
    seconds = [loader.report(round)["seconds"] for round in range(3)]
    assert [row["seconds"] for row in found] == seconds
    assert {"bits_up", "bits_down", "bits_wasted", "drawn", "lost"} <= set(found[-1])
    # Its file makes the same run, which is interrupted, and goes on.
    log = eqf.JSONLines.log

    def interrupted(self, round, metrics):
        log(self, round, metrics)
        if round == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(eqf.JSONLines, "log", interrupted)
        config = str(whole / "config.json")
        assert main(["run", "--config", config, "--output", str(cut)]) == 130
    assert main(["resume", str(cut)]) == 0
    assert rows(cut) == found
    pytest.importorskip("matplotlib").use("Agg")
    figure = tmp_path / "curves.png"
    assert main(["plot", str(cut), "--x", "seconds", "--output", str(figure)]) == 0
    assert figure.stat().st_size > 1000


def test_a_file_has_what_was_given_and_may_be_said_anew(tmp_path):
    settings = of(f"{WAITS} {PHONES} --clock.stragglers partial --clock.flops 100")
    values = settings.as_json()
    assert values["clock"] == {
        **{"kind": "synchronous", "speed": 1e6, "downlink": 1e6, "uplink": 2e5},
        **{"spread": 0.5, "latency": 0.2, "share": 0.6, "drops": 0.1, "flops": 100.0},
        **{"deadline": 9.0, "goal": 3, "stragglers": "partial"},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values), "utf-8")
    assert settings_of(["--config", str(file)])[0] == settings
    again = ["--config", str(file), "--clock.goal", "2"]
    clock = settings_of(again)[0].clock
    assert clock is not None
    assert (clock.goal, clock.deadline) == (2, 9.0)
    assert settings_of(["--config", str(file), "--clock", "none"])[0].clock is None


def test_a_buffer_of_compressed_messages(tmp_path):
    words = f"{SHORT} {NEVER} {BUFFER} --compress uniform-quantizer"
    command = [*words.split(), "--compress.num-levels", "4"]
    assert main(["run", *command, "--output", str(tmp_path / "run")]) == 0
    plain = _made(of(NEVER + BUFFER)).loader.clock
    clock = _made(settings_of(command)[0]).loader.clock
    assert isinstance(clock, eqt.AsynchronousClock)
    assert isinstance(plain, eqt.AsynchronousClock)
    assert clock.work.bits_up < plain.work.bits_up / 2
    assert rows(tmp_path / "run")[-1]["bits_up"] == 2 * clock.work.bits_up


def test_operations_of_ones_own():
    clock = _made(of(f"{WAITS} --clock.flops 100")).loader.clock
    assert isinstance(clock, eqt.SynchronousClock)
    assert clock.work.flops == 100.0


REFUSED = {
    "an unknown clock": (
        "--algorithm fedavg --clock asynchron",
        "`clock` must be the name of one, got 'asynchron'. Did you mean 'asynchronous",
    ),
    "rounds for an asynchronous clock": (
        f"--algorithm fedavg --clock asynchronous {BUFFER}",
        "'fedavg' has the newest alone. Take `--clock synchronous`, or another "
        "algorithm: ca2fl, fadas, fedasync, fedbuff.",
    ),
    "an asynchronous algorithm without a clock": (
        "--algorithm fedbuff --max-staleness 4",
        "needs a clock that says how old: `--clock asynchronous",
    ),
    "an asynchronous algorithm that waits": (
        "--algorithm fedbuff --max-staleness 4 --clock synchronous",
        "needs a clock that says how old: `--clock asynchronous",
    ),
    "no buffer": (NEVER, "An asynchronous clock needs `buffer_size`"),
    "a buffer that is never full": (
        f"{NEVER} --clock.buffer-size 5",
        "`buffer_size` is 5, but the sampler has at most 4 clients under way",
    ),
    "a goal that is never met": (
        "--algorithm fedavg --clock synchronous --clock.goal 5",
        "`goal` is 5, but the sampler draws at most 4 clients",
    ),
    "no time at all": (
        "--algorithm fedavg --clock synchronous --clock.deadline 0",
        "`deadline` must be more than 0, got 0",
    ),
    "stragglers without a deadline": (
        "--algorithm fedavg --clock synchronous --clock.stragglers partial",
        "`stragglers` is 'partial', but without a `deadline` there are none",
    ),
    "a device that stands still": (
        f"{WAITS} --clock.speed 0",
        "`speed` must be more than 0, got 0",
    ),
    "a probability of more than one": (
        f"{WAITS} --clock.drops 1.5",
        "`drops` must be at most 1, got 1.5",
    ),
    "clients that are never there": (
        f"{WAITS} --clock.share 0",
        "`share` must be more than 0, got 0",
    ),
    "a choice of who has come already": (
        f"{NEVER} {BUFFER} --power-of-choice 2",
        "`power_of_choice` asks clients before a round",
    ),
    "a server with a phone": (
        "--algorithm fltrust --clock synchronous",
        "'fltrust' has the server's examples in every round",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, expected = REFUSED[case]
    assert main(["run", *(SHORT + words).split()]) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message
    assert not [path for path in tmp_path.rglob("*") if path.name != "runs"]


def test_a_file_with_a_number_of_the_other_clock(tmp_path, capsys):
    values = of(WAITS).as_json()
    file = tmp_path / "config.json"
    for clock, words in (
        ({"kind": "synchronous", "buffer_size": 2}, "`buffer_size` is no number of"),
        ({"kind": "synchronous", "buffer": 2}, "`numbers of clock` must be the name"),
        ({"kind": "sundial"}, "`clock` must be 'synchronous' or 'asynchronous'"),
    ):
        file.write_text(json.dumps(values | {"clock": clock}), "utf-8")
        assert main(["run", "--config", str(file)]) == 1
        assert words in capsys.readouterr().err


def test_a_deadline_nobody_meets(tmp_path, capsys):
    """Is warned of, and counted."""
    words = "--algorithm fedavg --clock synchronous --clock.latency 9 --clock.deadline"
    command = ["run", *f"{SHORT} {words} 1e-6".split(), "--output", str(tmp_path / "a")]
    with pytest.warns(UserWarning, match="nobody|No client"):
        main(command)
    assert all(row["late"] == 4 for row in rows(tmp_path / "a"))
