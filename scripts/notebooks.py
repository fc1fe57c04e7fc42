"""Writes notebooks of two pages of the documentation: `python scripts/notebooks.py`.

The page is the source, and the notebook has nothing that the page does not say: what is
between two blocks of Python is text, each block is a cell, and what the page says that
it prints is the cell's output. A block marked `<!-- not run: why -->` stays text. Links
within the page and to other pages lead where they did, in a clone; names of the API,
which the site links to their pages, are left as names.

`--check` writes nothing, and fails if a notebook is not what would be written.
"""

import argparse
import pathlib
import re
import sys

import nbformat
from nbformat import v4


DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = ("getting-started", "own-algorithm")
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.M | re.S,
)
NAME = re.compile(r"\[([^\]]+)\]\[equifed[\w.]*\]")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
NOTE = """\
*A notebook of the page `docs/{name}.md` of equifed's documentation. It runs from the
first cell to the last without a network. In a clone of the repository*

```bash
pip install ".[plot]" jupyterlab
jupyter lab docs/notebooks/{name}.ipynb
```

*installs what it needs and opens it. `help(eqf.train)` says what a name is.*"""


def slug(heading: str) -> str:
    """What the site calls a heading in a link."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def linked(text: str, anchors: dict[str, str]) -> str:
    """Text whose links lead somewhere from the folder of the notebooks."""

    def link(match: re.Match) -> str:
        page, anchor = match.groups()
        if not page:  # Jupyter calls its headings otherwise than the site does
            return f"](#{anchors[anchor]})"
        return f"](../{page}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(`[^`]*`)", NAME.sub(r"\1", text))
    return "".join(p if p[:1] == "`" else LINK.sub(link, p) for p in parts)


def cells(name: str, page: str) -> list:
    """The cells of a page, from the note on how to install it to the last."""
    texts, found = [""], []
    at = 0
    for block in BLOCK.finditer(page):
        texts[-1] += page[at : block.start()]
        at = block.end()
        if block["why"] is not None:
            code = block["code"]
            texts[-1] += f"*Not run here: {block['why']}.*\n\n```python\n{code}```\n"
        else:
            found.append(block)
            texts.append("")
    texts[-1] += page[at:]
    headings = HEADING.findall(BLOCK.sub("", page))
    anchors = {slug(heading): heading.replace(" ", "-") for heading in headings}

    made = []
    for text, block in zip(texts, [*found, None], strict=True):
        # A part of the page begins with a cell, so that it can be folded.
        for part in re.split(r"^(?=## )", text, flags=re.M):
            paragraphs = part.strip().split("\n\n")
            # The page's own link to this notebook.
            kept = [p for p in paragraphs if f"notebooks/{name}.ipynb" not in p]
            if any(kept):
                source = linked("\n\n".join(kept), anchors)
                made.append(v4.new_markdown_cell(source))
        if block is not None:
            cell = v4.new_code_cell(block["code"].rstrip("\n"))
            if block["shown"] is not None:
                cell.outputs = [v4.new_output("stream", text=block["shown"])]
            made.append(cell)
    title, _, rest = made[0].source.partition("\n\n")
    made[0].source = "\n\n".join([title, NOTE.format(name=name), rest])
    for i, cell in enumerate(made):
        cell.id = f"cell-{i}"  # else a random one
    return made


def notebook(name: str) -> nbformat.NotebookNode:
    page = (DOCS / f"{name}.md").read_text("utf-8")
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": python, "language_info": {"name": "python"}}
    made = v4.new_notebook(cells=cells(name, page), metadata=metadata)
    nbformat.validate(made)
    return made


def path(name: str) -> pathlib.Path:
    return DOCS / "notebooks" / f"{name}.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name in PAGES:
        text = nbformat.writes(notebook(name)) + "\n"
        file = path(name)
        if not file.exists() or file.read_text("utf-8") != text:
            stale.append(str(file.relative_to(DOCS.parent)))
            if not check:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, "utf-8")
    print("stale:" if check else "written:", ", ".join(stale) or "none")
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
