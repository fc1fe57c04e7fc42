"""The scripts that make the examples' data, and their printed outputs."""

import zipfile

import numpy as np
import pytest
from datasets import load_dataset

import equifed as eqf

from .shared import ROOT, script as load


PLAY = """\
# A play

## ACT I

### SCENE I. A room

_Enter ANNA and
BEN_

**ANNA**  
Who is it? _Aside_ I know  
it well.

**Second Lord**  
\\\\--I, my lady.

_Exit, to the
sound of a *horn*_

**ANNA**  
__\\\\[Awaking]_  
Again?
*Drums.*

## ACT II

Nobody says this.

**BEN**  
_Sings_
""".replace("\\\\", "\\")


@pytest.mark.parametrize("packed", (False, True))
def test_shakespeare_is_made_of_plays(packed, tmp_path, monkeypatch, capsys):
    script = load("make_shakespeare")
    files = {"b/two.md": PLAY, "one.md": "**BEN**\nMine.\n", "README.md": "# Plays\n"}
    source = tmp_path / "plays.whl"
    with zipfile.ZipFile(source, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    if not packed:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(source := tmp_path / "plays")
    out = tmp_path / "out"
    monkeypatch.setattr(
        "sys.argv", ["x", "--source", f"{source}", "--output", f"{out}"]
    )
    script.main()
    assert "4 speeches of 3 roles in 2 plays" in capsys.readouterr().out

    # As the example reads it: a stream must have each client's rows together.
    files = str(out / "all.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    stream = eqf.data.ClientStream(
        rows,
        by="client_id",
        columns=["text"],
        transform=lambda role, examples: {
            "length": np.char.str_len(examples["text"].astype(str))
        },
    )
    made = {client.client_id: client.examples["length"].tolist() for client in stream}
    assert made == {
        "one/BEN": [len("Mine.")],
        "two/ANNA": [len("Who is it? I know\nit well."), len("Again?")],
        "two/Second Lord": [len("--I, my lady.")],
    }


def test_shakespeare_needs_plays(tmp_path):
    script = load("make_shakespeare")
    (tmp_path / "x.md").write_text("# No roles\n")
    for source, told in (
        (tmp_path, "has no `.md` file"),
        (tmp_path / "x.md", "neither"),
    ):
        with pytest.raises(SystemExit, match=told):
            script.plays(source)


def test_of_two_plays_of_one_name_none_is_lost(tmp_path):
    script = load("make_shakespeare")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lear.md").write_text("**LEAR**\nNothing.\n")
    with pytest.raises(SystemExit, match="two plays called 'lear'"):
        script.plays(tmp_path)


EXAMPLES = """\
<!-- prints: python examples/one.py -->
```text
old
```

<!-- prints: python examples/two.py --data DIRECTORY (lines 2 to 3) -->
```text
old
```

```text
left alone
```
"""


def test_printed_outputs_take_the_place_of_the_old_ones():
    script = load("examples_outputs")
    ran = []

    def run(command):
        ran.append(command)
        return "a \nb\nc\nd\n"

    quick = script.replaced(EXAMPLES, [], run)
    assert quick == EXAMPLES.replace("old", "a\nb\nc\nd", 1)
    named = script.replaced(EXAMPLES, ["two"], run)
    new = EXAMPLES.replace("old", "b\nc").replace("b\nc", "old", 1)
    assert named == new
    ones = ["python examples/one.py", "python examples/two.py --data DIRECTORY"]
    assert ran == ones
    with pytest.raises(SystemExit, match="'three' has no block"):
        script.replaced(EXAMPLES, ["three"], run)


def test_each_block_of_the_examples_says_what_prints_it():
    script = load("examples_outputs")
    page = script.PAGE.read_text("utf-8")
    blocks = list(script.BLOCK.finditer(page))
    assert len(blocks) == page.count("```text\n") >= 3
    for block in blocks:
        assert (ROOT / "examples" / f"{block['name']}.py").is_file()
        if block["first"] is not None:
            count = int(block["last"]) - int(block["first"]) + 1
            assert block["text"].count("\n") == count


def test_an_example_is_run_in_an_empty_folder(tmp_path, monkeypatch):
    script = load("examples_outputs")
    (tmp_path / "examples").mkdir()
    (tmp_path / "assets").mkdir()
    (tmp_path / "examples" / "x.py").write_text(
        "import pathlib, sys\nprint(sys.argv[1:], [*pathlib.Path().iterdir()])\n"
        "pathlib.Path('x.png').write_text('new')\npathlib.Path('y').touch()\n"
    )
    (tmp_path / "assets" / "x.png").write_text("old")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "ASSETS", tmp_path / "assets")
    command = "python examples/x.py --data DIRECTORY"
    assert script.run(command, tmp_path, False) == f"['--data', '{tmp_path}'] []\n"
    assert (tmp_path / "assets" / "x.png").read_text() == "old"
    script.run(command, tmp_path, True)
    assert (tmp_path / "assets" / "x.png").read_text() == "new"
    assert [file.name for file in (tmp_path / "assets").iterdir()] == ["x.png"]
    with pytest.raises(SystemExit, match="needs `--data`"):
        script.run(command, None, False)


def test_the_figure_of_the_benchmarks_has_every_side(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import compare  # pyright: ignore[reportMissingImports]

    ours = {"name": "equifed-2", "round_s": [1.0, 1.0, 1.0]}
    slow = {"name": "slow", "round_s": [2.0, 3.0, 4.0]}
    fast = {"name": "fast", "round_s": [0.4, 0.5, 0.6]}
    sides = [[ours, slow, fast], [ours, fast]]
    rows = [{"work": f"w{i}", "clients": 5, "sides": s} for i, s in enumerate(sides)]
    compare.plot(rows, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 1000
    figure = plt.gcf()
    dots = {c.get_label(): c.get_offsets() for c in figure.axes[0].collections}
    assert np.allclose(dots["slow"][:, 0], [3.0])
    assert np.allclose(dots["fast"][:, 0], [0.5, 0.5])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["w0, 5 clients", "w1, 5 clients"]
    plt.close(figure)
