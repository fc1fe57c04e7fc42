"""The scripts that make the examples' data, and their printed outputs."""

import importlib.util
import pathlib
import zipfile

import numpy as np
import pytest
from datasets import load_dataset

import equifed as eqf


ROOT = pathlib.Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
