"""Every Python block of the README and of the documentation runs.

A page's blocks run in order, in one namespace, as a reader would run them. A block that
cannot (it needs a file, or a package that is not installed) has a comment above it that
says so: `<!-- not run: why -->`. Pages that are notebooks too run as such, in
`test_notebooks.py`; the first page is the README's program, and runs as that.
"""

import pathlib
import re

import pytest

import equifed as eqf


ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n)?```python\n(?P<code>.*?)^```$"
    # What it prints, if the page shows that.
    r"(?P<shows>\n\n```text\n(?P<text>.*?)^```$)?",
    re.M | re.S,
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks(page: pathlib.Path) -> list[tuple[str, str | None]]:
    """The blocks that run, and what the page says that they print.

    Each is behind as many newlines as put it on its own line of the page, so that an
    error names the right one.
    """
    text = page.read_text("utf-8")
    return [
        ("\n" * text.count("\n", 0, match.start("code")) + match["code"], match["text"])
        for match in BLOCK.finditer(text)
        if match["skip"] is None
    ]


def assert_prints(out: str, expected: str) -> None:
    """The same words, and nearly the same numbers: another machine rounds otherwise."""
    assert NUMBER.sub("0", out).split() == NUMBER.sub("0", expected).split()
    got, numbers = (
        [float(x) for x in NUMBER.findall(text)] for text in (out, expected)
    )
    assert got == pytest.approx(numbers, rel=0.1, abs=0.01)


def name(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def is_notebook(page: pathlib.Path) -> bool:
    return (ROOT / "docs" / "notebooks" / f"{page.stem}.ipynb").exists()


INDEX = ROOT / "docs" / "index.md"
RUN = [p for p in PAGES if blocks(p) and not is_notebook(p) and p != INDEX]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("Agg")
    # `test_laws.py` puts every algorithm through all laws; here a few are enough.
    laws = {law: eqf.testing.LAWS[law] for law in ("permutation", "sweep")}
    monkeypatch.setattr("equifed.testing._laws.LAWS", laws)
    namespace = {"__name__": "__main__"}
    for code, shown in blocks(page):
        capsys.readouterr()
        exec(compile(code, page, "exec"), namespace)
        if shown is not None:
            assert_prints(capsys.readouterr().out, shown)


def test_links_of_the_readme_lead_somewhere():
    # Those of the other pages are held by `zensical build --strict`.
    links = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_program_is_the_same_everywhere():
    # And nothing else is on the first page, which `test_blocks_run` leaves out.
    readme, index = (
        [(code.strip(), shown) for code, shown in blocks(page)]
        for page in (ROOT / "README.md", INDEX)
    )
    assert readme == index


def test_no_block_is_missed():
    for page in PAGES:
        text = page.read_text("utf-8")
        fences = len(re.findall(r"^\s*```python", text, re.M))
        assert fences == len(BLOCK.findall(text)), name(page)


def test_what_pages_show_is_compared():
    shown = [text for page in PAGES for _, text in blocks(page) if text is not None]
    assert len(shown) > 7
    assert_prints("FedAvg 0.5380  n: 3\n", "FedAvg 0.541 n: 3")
    for other in ("FedPA 0.538 n: 3", "FedAvg 0.7 n: 3", "FedAvg nan n: 3"):
        with pytest.raises(AssertionError):
            assert_prints("FedAvg 0.538 n: 3", other)


def test_no_page_promises_one_program_whatever_the_executor():
    # `Executor(ordered=True)` runs a round as a few.
    faces = ("equifed/__init__.py", "pyproject.toml", "mkdocs.yml", "CITATION.cff")
    for page in (*PAGES, *(ROOT / face for face in faces)):
        words = " ".join(page.read_text("utf-8").split())
        assert "one compiled program." not in words.replace("**", ""), name(page)
        assert "one compiled program a round" not in words, name(page)
