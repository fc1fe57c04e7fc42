"""The notebooks are their pages, and run from the first cell to the last.

They run in a kernel, as a reader's do; so `test_docs.py` leaves the blocks of these
pages to this file. It is one kernel, which forgets all names between two notebooks:
what it imports and compiles for one it need not for the next.
"""

import pathlib
import re

import nbclient
import nbformat
import pytest

from .shared import script
from .test_docs import assert_prints, BLOCK


ROOT = pathlib.Path(__file__).parents[1]
# Before the first cell: what pytest does to the tests that run in it, and only a few
# laws of all, through which `test_laws.py` puts every algorithm.
SETUP = """
import gc
import warnings
warnings.simplefilter("error")
import jaxtyping
with jaxtyping.install_import_hook("equifed", "beartype.beartype"):
    import equifed.testing._laws as _laws
_laws.LAWS = {name: _laws.LAWS[name] for name in ("permutation", "sweep")}
gc.freeze()  # as in `conftest.py`
gc.set_threshold(100_000, 20, 50)
"""


notebooks = script("notebooks")


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_notebooks_are_what_the_script_writes(name):
    made = nbformat.writes(notebooks.notebook(name)) + "\n"
    told = "A page has changed: run `python scripts/notebooks.py`."
    assert notebooks.path(name).read_text("utf-8") == made, told


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_links_of_notebooks_lead_somewhere(name):
    read = nbformat.read(notebooks.path(name), as_version=4)
    text = "\n".join(c.source for c in read.cells if c.cell_type == "markdown")
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    assert "][equifed" not in text
    links = notebooks.LINK.findall(re.sub(r"`[^`]*`", "`", text))
    assert links
    for page, anchor in links:
        if page:
            assert (notebooks.path(name).parent / page).is_file()
        else:
            assert anchor in [heading.replace(" ", "-") for heading in headings]


PAGE = """\
# Title

It is a [notebook](notebooks/some.ipynb).

See [`f`][equifed.f], [there](#the-end-of-it), `d["k"](x)` and [page](page.md#here).

```python
print(1)
```

```text
1
```

<!-- not run: needs a file -->
```python
open("x")
```

## The end of it
"""


def test_what_becomes_of_a_page():
    title, code, text, end = notebooks.cells("some", PAGE)
    assert title.source.startswith("# Title\n\n*A notebook of")
    assert "some.ipynb)" not in title.source
    links = '`f`, [there](#The-end-of-it), `d["k"](x)` and [page](../page.md#here).'
    assert links in title.source
    assert (code.cell_type, code.source) == ("code", "print(1)")
    assert code.outputs[0].text == "1\n"
    assert text.cell_type == "markdown"
    assert text.source.startswith("*Not run here: needs a file.*\n\n```python\nopen")
    assert end.source == "## The end of it"


def test_notebooks_run(tmp_path):
    cells, shown = [nbformat.v4.new_code_cell(SETUP)], [None]
    for name in notebooks.PAGES:
        for cell in nbformat.read(notebooks.path(name), as_version=4).cells:
            if cell.cell_type == "code":
                cells.append(nbformat.v4.new_code_cell(cell.source))
                shown.append(cell.outputs[0].text if cell.outputs else None)
        cells.append(nbformat.v4.new_code_cell("%reset -f"))
        shown.append(None)
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        shutdown_kernel="immediate",
    )
    client.execute()
    for cell, expected in zip(cells, shown, strict=True):
        if expected is not None:
            out = [output.text for output in cell.outputs if output.name == "stdout"]
            assert_prints("".join(out), expected)


def test_every_block_of_the_pages_is_in_a_notebook():
    for name in notebooks.PAGES:
        page = (notebooks.DOCS / f"{name}.md").read_text("utf-8")
        run = [m["code"].strip() for m in BLOCK.finditer(page) if m["skip"] is None]
        cells = nbformat.read(notebooks.path(name), as_version=4).cells
        assert [c.source for c in cells if c.cell_type == "code"] == run
