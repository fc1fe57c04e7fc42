"""Looks through the built documentation: `python scripts/check_site.py [site]`.

What `zensical build --strict` does not say: whether a page asks another host for a
script, a style, a font or an image, whether such a file is missing, whether a page can
be reached from the home page, and whether a name is shown as what it is.
"""

import pathlib
import re
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit


URL = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")
LOADED = ("stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch")


class Page(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "link" and set((found.get("rel") or "").split()) & set(LOADED):
            self.loads.append(found.get("href") or "")
        elif tag == "a":
            self.links.append(found.get("href") or "")
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.loads.append(found.get("src") or "")
        self.loads += URL.findall(found.get("style") or "")


def wrong(site: pathlib.Path, file: pathlib.Path, url: str) -> str | None:
    """Why a file that another one loads will not be there without a network."""
    parts = urlsplit(url)
    if not url or parts.scheme == "data" or url.startswith("#"):
        return None
    if parts.scheme or parts.netloc:
        return f"{file.relative_to(site)} loads {url} from another host."
    path = unquote(parts.path)
    at = site / path.lstrip("/") if path.startswith("/") else file.parent / path
    return None if at.exists() else f"{file.relative_to(site)}: {url} is missing."


def problems(site: pathlib.Path) -> list[str]:
    found: list[str | None] = []
    reached = {site / "index.html", site / "404.html"}
    for file in sorted(site.rglob("*.html")):
        page = Page()
        text = file.read_text("utf-8")
        page.feed(text)
        if "doc-symbol-module" in text:  # a file that has the name of a function
            found.append(f"{file.relative_to(site)} shows a module for a name.")
        # The page that is shown for a wrong address does not know where it is.
        loads = page.loads if file.name != "404.html" else []
        found += [wrong(site, file, url) for url in loads]
        if file == site / "index.html":
            for link in page.links:
                path = urlsplit(link).path
                reached.add((site / path / "index.html").resolve())
                reached.add((site / path).resolve())
    for file in sorted(site.rglob("*.css")):
        urls = URL.findall(file.read_text("utf-8"))
        found += [wrong(site, file, url) for url in urls]
    for file in sorted(site.rglob("*.html")):
        if file.resolve() not in {path.resolve() for path in reached}:
            found.append(f"No link of the home page leads to {file.relative_to(site)}.")
    return [problem for problem in found if problem is not None]


if __name__ == "__main__":
    found = problems(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
    print(*found, sep="\n")
    sys.exit(bool(found))
