"""What a docstring says of each argument, in plain words: a command line's help."""

import functools
import inspect
import re
from collections.abc import Mapping


_ITEM = re.compile(r"^- ((?:`\w+`(?:, )?)+): (.*?)(?=^- `|^\S(?<!-)|\Z)", re.M | re.S)
_MARKS = re.compile(r"[`$\\]")
_ELSEWHERE = re.compile(r"as in equifed\.(\w+)\.")
_LINK = re.compile(r"\[`?([^]`]*)`?\]\[[^]]*\]")


@functools.lru_cache(256)
def helps(cls: type) -> Mapping[str, str]:
    """The words on each argument in the **Arguments:** of a class."""
    texts = [inspect.getdoc(cls) or ""]
    init = vars(cls).get("__init__")
    texts.append(inspect.cleandoc(getattr(init, "__doc__", None) or ""))
    out: dict[str, str] = {}
    for text in texts:
        _, found, rest = text.partition("**Arguments:**")
        for names, words in _ITEM.findall(rest.lstrip("\n")) if found else ():
            plain = _LINK.sub(r"\1", " ".join(words.split()))
            for name in re.findall(r"`(\w+)`", names):
                out.setdefault(name, unmarked(plain))
    return out


def first_sentence(cls: type) -> str:
    """How a class's docstring opens, in plain words."""
    return unmarked(" ".join((cls.__doc__ or "").split("\n\n")[0].split()))


def unmarked(words: str) -> str:
    """Words without the marks of Markdown and of formulas."""
    for mark, sign in ((r"\ge", ">="), (r"\le", "<="), (r"^\top", "^T")):
        words = words.replace(mark, sign)
    return _MARKS.sub("", words)


def elsewhere(words: str) -> str | None:
    """The class that a text refers to, if that is all it does."""
    found = _ELSEWHERE.match(words)
    return found[1] if found else None
