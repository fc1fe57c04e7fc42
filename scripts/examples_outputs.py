"""Writes what the examples print into `docs/examples.md`.

    python scripts/examples_outputs.py                    # those that are quick
    python scripts/examples_outputs.py sweep              # one of them
    python scripts/examples_outputs.py shakespeare --data shakespeare_by_speaker

A comment of the page above a block of text is the command that prints it:

    <!-- prints: python examples/sweep.py (lines 1 to 3) -->

Without the brackets the block is all that the command prints. Commands with
`DIRECTORY` need data, take minutes, and are run only by name. With `--figures` the
figures that an example draws take the place of those in `docs/assets`. Run nothing else
meanwhile if times are printed, and read the text around a block that has changed.
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable


ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "examples.md"
ASSETS = ROOT / "docs" / "assets"
BLOCK = re.compile(
    r"^(?P<mark><!-- prints: (?P<command>python examples/(?P<name>\w+)\.py.*?)"
    r"(?: \(lines (?P<first>\d+) to (?P<last>\d+)\))? -->\n)"
    r"```text\n(?P<text>.*?)^```$",
    re.M | re.S,
)


def replaced(page: str, names: list[str], run: Callable[[str], str]) -> str:
    """The page with what its commands print; without names, the quick ones'."""
    marked = [match["name"] for match in BLOCK.finditer(page)]
    for name in names:
        if name not in marked:
            raise SystemExit(f"{name!r} has no block: the page's are {marked}.")
    printed: dict[str, str] = {}

    def block(match: re.Match) -> str:
        command = match["command"]
        if match["name"] not in names if names else "DIRECTORY" in command:
            return match[0]
        if command not in printed:
            printed[command] = run(command)
        lines = printed[command].splitlines()
        if match["first"] is not None:
            lines = lines[int(match["first"]) - 1 : int(match["last"])]
        text = "\n".join(line.rstrip() for line in lines)
        return f"{match['mark']}```text\n{text}\n```"

    return BLOCK.sub(block, page)


def run(command: str, data: pathlib.Path | None, figures: bool) -> str:
    """What a command prints, in an empty folder."""
    if "DIRECTORY" in command and data is None:
        raise SystemExit(f"`{command}` needs `--data`, the folder of its data.")
    python, script, *options = shlex.split(command)
    given = [str(data.resolve()) if o == "DIRECTORY" and data else o for o in options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        print(f"running {command}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *given],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
        )
        for figure in sorted(pathlib.Path(folder).iterdir()):
            if figures and (ASSETS / figure.name).exists():
                shutil.copy(figure, ASSETS)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="examples, as `sweep`")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--figures", action="store_true")
    args = parser.parse_args()
    page = PAGE.read_text("utf-8")
    now = replaced(page, args.names, lambda c: run(c, args.data, args.figures))
    PAGE.write_text(now, "utf-8")
    print("changed" if now != page else "as it was", PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
