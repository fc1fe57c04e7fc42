"""The documentation as a site: what it loads, and what a page can be reached from."""

import gzip
import pathlib
import re

import numpy as np
import pytest
import yaml

import equifed as eqf

from .shared import script


ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def check_site():
    return script("check_site")


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


def test_figures_suit_the_dark():
    style = (DOCS / "stylesheets" / "extra.css").read_text("utf-8")
    rule = re.search(r"slate\"\] \.md-typeset img:is\((.*)\) \{([^}]*)\}", style)
    assert rule is not None
    # White becomes the page behind it, and a hue stays what it is.
    assert "invert(1) hue-rotate(180deg)" in rule[2]
    assert "mix-blend-mode: screen" in rule[2]
    kinds = {path.suffix for path in (DOCS / "assets").iterdir()} - {".svg"}
    assert all(f'[src$="{kind}"]' in rule[1] for kind in kinds)


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
        ('<code class="doc-symbol doc-symbol-module">', "a module"),
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


def test_the_version_is_told_everywhere():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"version {project['version']}." in (DOCS / "index.md").read_text("utf-8")
    assert f"equifed {project['version']}," in CONFIG["copyright"]


def test_mnist_by_writer_is_made_of_qmnist(tmp_path, monkeypatch, capsys):
    maker = script("make_mnist_by_writer")
    images = np.arange(4 * 784, dtype=np.uint8).reshape(4, 28, 28)
    labels = np.zeros((4, 8), ">i4")
    labels[:, 0], labels[:, 2] = [3, 1, 4, 1], [70, 8, 70, 8]

    def idx(array, kind):
        head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        return head + array.tobytes()

    for part in ("train", "test"):
        packed = gzip.compress(idx(images, 8))
        (tmp_path / f"qmnist-{part}-images-idx3-ubyte.gz").write_bytes(packed)
        (tmp_path / f"qmnist-{part}-labels-idx2-int").write_bytes(idx(labels, 12))
    out = tmp_path / "out"
    monkeypatch.setattr(
        "sys.argv", ["x", "--source", str(tmp_path), "--output", f"{out}"]
    )
    maker.main()
    made = eqf.data.FederatedDataset.from_parquet(
        str(out / "train.parquet"), by="client_id"
    )
    assert made["70"]["label"].tolist() == [3, 4]
    np.testing.assert_array_equal(made["8"]["image"], images[[1, 3]].reshape(2, -1))
