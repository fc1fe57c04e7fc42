"""Every Python block of the README and of the documentation runs.

A page's blocks run in order, in one namespace, as a reader would run them. A block that
cannot (it needs a file, or a package that is not installed) has a comment above it that
says so: `<!-- not run: why -->`.
"""

import pathlib
import re

import pytest

import equifed as eqf


ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks(page: pathlib.Path) -> list[str]:
    """The blocks that run, each behind as many newlines as put it on its own line of
    the page, so that an error names the right one."""
    text = page.read_text("utf-8")
    return [
        "\n" * text.count("\n", 0, match.start("code")) + match["code"]
        for match in BLOCK.finditer(text)
        if match["skip"] is None
    ]


def name(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("Agg")
    # `test_laws.py` puts every algorithm through all laws; here a few are enough.
    laws = {law: eqf.testing.LAWS[law] for law in ("permutation", "sweep")}
    monkeypatch.setattr("equifed.testing._laws.LAWS", laws)
    namespace = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, page, "exec"), namespace)


def test_links_of_the_readme_lead_somewhere():
    # Those of the other pages are held by `mkdocs build --strict`.
    links = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_program_is_the_same_everywhere():
    readme, index = blocks(ROOT / "README.md"), blocks(ROOT / "docs" / "index.md")
    assert readme[0].strip() == index[0].strip()


def test_no_block_is_missed():
    for page in PAGES:
        text = page.read_text("utf-8")
        fences = len(re.findall(r"^\s*```python", text, re.M))
        assert fences == len(BLOCK.findall(text)), name(page)
