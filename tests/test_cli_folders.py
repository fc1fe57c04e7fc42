"""What the command line makes of folders that are not as a run left them."""

import json
import shutil

import pytest

from equifed.__main__ import main
from equifed._cli.folder import begin, RESULT, write
from equifed._cli.parsing import settings_of


RUN = "--task digits-dense --algorithm fedavg --client-optim.learning-rate {rate}"


def trained(folder, rate="0.1"):
    how = f"{RUN.format(rate=rate)} --rounds 3 --eval-every 1 --output {folder}"
    return main(["run", *how.split()])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "kept"
    assert trained(folder) == 0
    return folder


@pytest.fixture
def run(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "run")


def said(capsys, *words):
    capsys.readouterr()
    code = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out + err


def test_a_half_written_line_is_the_last_one(run, tmp_path, capsys):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    _, whole = said(capsys, "table", run)
    file.write_text("\n".join([*lines, '{"round": 4, "lo']))
    assert said(capsys, "table", run) == (0, whole)


LINES = ["garbage", "[]", '{"loss": 1.0}', '{"round": 2, "']
# Of another round, of none, of one whose bits are not told, and none that is a number.
LINES += [f'{{"round": {n}, "bits_up": 1, "bits_down": 1}}' for n in ("1", '"two"')]
LINES += ['{"round": 2}', '{"round": 2, "bits_up": 1, "bits_down": null}']


@pytest.mark.parametrize("line", LINES)
def test_another_line_that_is_none_is_not_left_out(line, run, tmp_path, capsys):
    # Without it the megabytes would be those of fewer rounds.
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    for words in (["table", run], ["plot", run, "--output", tmp_path / "curves.png"]):
        code, message = said(capsys, *words)
        assert code == 1
        assert f"Line 2 of `{file}` is not the metrics of round 2" in message
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "3",
        '[{"seed": 0}]',
        "",
        '[{"last": 3, "result": "successful"}]',
    ],
)
def test_an_end_that_says_nothing(text, run, capsys):
    file = run / "result.json"
    before = file.read_text()
    file.write_text(text)
    code, message = said(capsys, "table", run)
    assert code == 1
    assert f"`{file}` does not say how the run ended" in message
    # As it says.
    file.unlink()
    assert said(capsys, "resume", run)[0] == 0
    assert file.read_text() == before


@pytest.mark.filterwarnings("ignore:The server model became non-finite")
def test_a_run_that_diverged_says_so_beside_its_figure(tmp_path, capsys):
    folder = tmp_path / "diverged"
    assert trained(folder, "1e10") == 1
    (end,) = json.loads((folder / "result.json").read_text())
    assert end["result"] == "nonfinite_model"
    code, table = said(capsys, "table", folder)
    assert code == 0
    assert "(diverged: the figure is of the last finite model)" in table


@pytest.mark.filterwarnings("ignore:No client took part")
def test_a_run_that_nobody_took_part_in_says_so_too(tmp_path, capsys):
    clock = "--clock synchronous --clock.speed 2e8 --clock.deadline 1e-7"
    how = f"{RUN.format(rate=0.1)} --rounds 1 {clock} --output {tmp_path / 'late'}"
    main(["run", *how.split()])
    table = said(capsys, "table", tmp_path / "late")[1]
    assert "(no message counted: the model is as it was)" in table


def test_a_run_that_did_not_says_nothing_of_it(run, capsys):
    assert "diverged" not in said(capsys, "table", run)[1]


def test_where_a_figure_goes(run, tmp_path, capsys):
    there = tmp_path / "new" / "folder" / "curves.png"
    assert said(capsys, "plot", run, "--output", there)[0] == 0
    assert there.read_bytes()[1:4] == b"PNG"
    code, message = said(capsys, "plot", run, "--output", tmp_path / "curves.xyz")
    assert code == 1
    assert "`--output` must end as a figure does, `.png` for example, got '.xyz'" in (
        message
    )


def test_a_file_where_a_folder_is_to_be(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "run"):
        capsys.readouterr()
        assert trained(folder) == 1
        assert f"`{folder}` cannot be a folder: there is a file of that name" in (
            capsys.readouterr().err
        )
    assert file.read_text() == "mine"


def test_a_folder_where_a_file_is_to_be(run, capsys):
    code, message = said(capsys, "run", "--config", run)
    assert code == 1
    assert f"`{run}` is a folder, not a file of settings" in message


def test_rounds_that_are_missing_are_not_left_out(run, capsys):
    file = run / "metrics.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    code, message = said(capsys, "table", run)
    assert code == 1
    assert f"Line 1 of `{file}` is not the metrics of round 1" in message


def kept_rounds(folder, curves, *options, result=None):
    """A run of a recipe whose figure is 67 rounds to 0.814, of accuracies by round; a
    round without one was not evaluated."""
    more = ["--seeds", str(len(curves)), *options]
    settings, _ = settings_of(["--recipe", "acar-feddyn-iid", *more])
    begin(folder, settings)
    for seed, curve in enumerate(curves):
        name = f"metrics-{seed}.jsonl" if len(curves) > 1 else "metrics.jsonl"
        lines = [
            {"round": i} | ({} if x is None else {"test/accuracy": x})
            for i, x in enumerate(curve, 1)
        ]
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if result is not None:
        write(folder / RESULT, [{"last": {}, "result": result}] * len(curves))
    return folder


ROUNDS = {
    "one seed": ([[0.5, 0.813, 0.814, 0.7]], "3 rounds to 0.814"),
    "the first round": ([[0.9, 0.5]], "1 round to 0.814"),
    "never": ([[0.5, 0.6, 0.7]], "0.814 not reached in 3 rounds"),
    "two seeds": ([[0.5, 0.9, 0.9], [0.5, 0.5, 0.9]], "2.5 ± 0.7 rounds to 0.814"),
    # One that is fast makes no mean alone.
    "one never": ([[0.5, 0.9], [0.5, 0.5]], "0.814 not reached with 1 of 2 seeds"),
}


@pytest.mark.parametrize("case", ROUNDS)
def test_rounds_to_a_level_are_told_as_rounds(case, tmp_path, capsys):
    curves, ours = ROUNDS[case]
    folder = kept_rounds(tmp_path / "run", curves, result="successful")
    code, table = said(capsys, "table", folder)
    assert code == 0
    row = table.splitlines()[1]
    assert f"test/accuracy  {ours}  67 rounds to 0.814  " in row
    assert "06aadd4e" in row
    assert "not every round was evaluated" not in row
    assert "not at its end" not in row
    assert "here with other" not in row


EARLIER = "(not every round was evaluated: it may have been there earlier)"


@pytest.mark.parametrize(
    ("curve", "ours", "is_known"),
    [
        ([None, 0.5, None, 0.9, None], "4 rounds to 0.814", False),
        ([0.5, 0.9, None, 0.9], "2 rounds to 0.814", True),
        ([None, 0.5, None, 0.6], "0.814 not reached in 4 rounds", False),
    ],
)
def test_a_round_that_was_not_evaluated_may_have_reached_it(
    curve, ours, is_known, tmp_path, capsys
):
    folder = kept_rounds(tmp_path / "run", [curve], "--eval-every", "2")
    code, table = said(capsys, "table", folder)
    assert code == 0
    assert f"  {ours}  67 rounds to 0.814  " in table
    assert (EARLIER in table) != is_known
    assert "(here with other eval_every)" in table
    assert "(not at its end yet)" in table


def test_a_run_that_reached_it_and_diverged_keeps_its_rounds(tmp_path, capsys):
    curves = [[0.5, 0.9, float("nan")]]
    folder = kept_rounds(tmp_path / "run", curves, result="nonfinite_model")
    table = said(capsys, "table", folder)[1]
    assert "  2 rounds to 0.814  " in table
    assert "(diverged)" in table
    assert "last finite model" not in table


def test_a_run_that_is_not_evaluated_yet_has_no_rounds(tmp_path, capsys):
    one = kept_rounds(tmp_path / "one", [[None, None]])
    two = kept_rounds(tmp_path / "two", [[0.5]])
    code, table = said(capsys, "table", one, two)
    assert code == 0
    rows = table.splitlines()
    assert rows[1].split()[4:9] == ["-", "67", "rounds", "to", "0.814"]
    assert "0.814 not reached in 1 round " in rows[2]
    assert EARLIER not in table
