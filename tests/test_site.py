"""The documentation as a site: what it loads, and what a page can be reached from."""

import ast
import importlib.util
import pathlib

import pytest
import yaml


ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def check_site():
    path = ROOT / "scripts" / "check_site.py"
    spec = importlib.util.spec_from_file_location("check_site", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else pages(value)


def test_every_page_is_in_the_nav_once():
    there = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(pages(CONFIG["nav"])) == there


def test_nothing_comes_from_another_host(check_site):
    own = [*CONFIG["extra_css"], *CONFIG["extra_javascript"]]
    theme = CONFIG["theme"]
    own += [theme[name] for name in ("logo", "favicon") if name in theme]
    assert all((DOCS / path).is_file() for path in own)
    assert theme["font"] is False  # else Google's are loaded
    styles = sorted(DOCS.rglob("*.css"))
    assert len(styles) >= 2
    for style in styles:
        for url in check_site.URL.findall(style.read_text("utf-8")):
            assert check_site.wrong(DOCS, style, url) is None


def test_what_is_vendored_has_its_licence():
    assert "MIT License" in (DOCS / "katex" / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize(
    "html, problem",
    [
        ('<script src="https://cdn.example/x.js"></script>', "another host"),
        ('<script src="//cdn.example/x.js"></script>', "another host"),
        ('<link rel="stylesheet" href="http://x.example/x.css">', "another host"),
        ('<link rel="preconnect" href="https://fonts.example">', "another host"),
        ("<p style=\"background: url('https://x.example/y.png')\">", "another host"),
        ('<img src="none.png">', "missing"),
    ],
)
def test_check_site_sees(check_site, html, problem, tmp_path):
    (tmp_path / "there.css").write_text("a { color: red }")
    good = '<link rel="stylesheet" href="there.css"><a href="https://x.example">x</a>'
    (tmp_path / "index.html").write_text(good)
    assert check_site.problems(tmp_path) == []
    (tmp_path / "index.html").write_text(good + html)
    (found,) = check_site.problems(tmp_path)
    assert problem in found


def test_check_site_sees_fonts_and_lost_pages(check_site, tmp_path):
    (tmp_path / "index.html").write_text('<a href="page/">x</a>')
    (tmp_path / "style.css").write_text("@font-face { src: url(https://f.example/f) }")
    for name in ("page", "lost"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("x")
    font, lost = check_site.problems(tmp_path)
    assert "another host" in font
    assert "lost" in lost


def test_no_function_is_hidden_by_its_file():
    # `::: equifed.x` would show the file, if a package had both of that name.
    for file in (ROOT / "equifed").rglob("__init__.py"):
        beside = {path.stem for path in file.parent.iterdir() if path.suffix == ".py"}
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                assert {alias.asname for alias in node.names} & beside == set()
