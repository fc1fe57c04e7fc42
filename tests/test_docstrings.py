"""The examples in docstrings, which the pages of the API show, are programs, of names
and arguments that there are. What stands for something else in them is `...`.
"""

import ast
import inspect
import pathlib
import re
import textwrap
from typing import Any

import pytest

import equifed as eqf


ROOT = pathlib.Path(eqf.__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def examples():
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, DOCUMENTED):
                continue
            name = getattr(node, "name", file.stem)
            for text in BLOCK.findall(ast.get_docstring(node) or ""):
                yield pytest.param(textwrap.dedent(text), id=f"{file.stem}.{name}")


def thing_of(node, names) -> Any:
    """What a dotted name stands for; `None` if it is not the library's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = thing_of(node.value, names) if isinstance(node, ast.Attribute) else None
    return owner and getattr(owner, node.attr)


def imported(tree):
    """The library's modules by the names that an example has for them."""
    names = {"eqf": eqf, "equifed": eqf}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name.startswith("equifed."):
                    part = eqf
                    for word in alias.name.split(".")[1:]:
                        part = getattr(part, word)
                    names[alias.asname] = part
    return names


def test_there_are_many():
    assert len(list(examples())) > 80


@pytest.mark.parametrize("text", list(examples()))
def test_an_example_is_a_program(text):
    tree = ast.parse(text)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            thing_of(node, names)  # raises where there is no such name
        elif isinstance(node, ast.Call) and (thing := thing_of(node.func, names)):
            parameters = inspect.signature(thing).parameters
            if all(x.kind != x.VAR_KEYWORD for x in parameters.values()):
                given = {x.arg for x in node.keywords} - {None}
                assert given <= parameters.keys(), ast.unparse(node)
