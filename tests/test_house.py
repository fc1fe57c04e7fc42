"""The house rules that no tool holds."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jaxtyping
import pytest

import equifed as eqf


ROOT = pathlib.Path(eqf.__file__).parent
REPOSITORY = ROOT.parent
FILES = sorted(ROOT.rglob("*.py"))
PARTS = {"equifed": eqf, "equifed.data": eqf.data, "equifed.nn": eqf.nn}
PARTS |= {"equifed.posterior": eqf.posterior}
PARTS |= {"equifed.plot": eqf.plot, "equifed.testing": eqf.testing}
PARTS |= {"equifed.objectives": eqf.objectives, "equifed.data.sets": eqf.data.sets}
PARTS |= {"equifed.models": eqf.models, "equifed.recipes": eqf.recipes}
PARTS |= {"equifed.compress": eqf.compress, "equifed.privacy": eqf.privacy}
PARTS |= {"equifed.robust": eqf.robust, "equifed.attacks": eqf.attacks}
PARTS |= {"equifed.clock": eqf.clock}
PARTS |= {"equifed.deploy": eqf.deploy, "equifed.deploy.flower": eqf.deploy.flower}
PARTS |= {"equifed.deploy.nvflare": eqf.deploy.nvflare}

# A part may import those of the rows above it, and what a row allows of its own. The
# server takes an aggregate, and an aggregate is made of messages.
LAYERS = (
    (
        *("_types", "_words", "_warn", "_interrupt", "_used_up", "_tree", "_check"),
        *("_overrides", "_linalg", "_debug", "_extras", "_copy"),
        *("_files", "_history", "_json", "_compiled", "_loop", "_mesh", "_processes"),
        *("_role_table", "_selected"),
    ),
    ("_closures", "_noise", "_roles", "_wire", "_cohort", "_metrics", "_share"),
    ("_bits",),
    ("_tried",),
    ("_optim",),
    ("data", "nn", "_measures"),
    ("models", "objectives"),
    ("_norms",),
    ("_lookups",),
    ("_client",),
    ("_aggregator",),
    ("_server",),
    ("compress", "robust"),
    ("posterior",),
    ("_contract",),
    ("_executor",),
    ("_store",),
    ("_round",),
    ("_algorithm",),
    ("privacy", "attacks", "clock"),
    ("_stepper", "_logger", "_checkpoint", "_evaluate"),
    ("_training",),
    ("testing", "plot", "recipes", "deploy"),
    ("_cli",),
    ("__main__",),
    ("__init__",),
)
RANK = {part: i for i, row in enumerate(LAYERS) for part in row}


def name_of(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(file):
    """The modules that a file imports, wherever in it, by their full names."""
    package = name_of(file) if file.name == "__init__.py" else name_of(file)[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(module):
    """`_client` of `equifed._client.loss`; `None` for another package."""
    package, _, rest = module.partition(".")
    if package != "equifed":
        return None
    first = rest.split(".")[0]
    return first if first in RANK else "__init__"


def ids(file):
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_run_downwards(file):
    own = part_of(".".join(name_of(file)))
    assert own in RANK, "A new part: give it its place in `LAYERS`."
    for module in imports(file):
        part = part_of(module)
        if part in (None, own) or module == "equifed":
            continue
        downwards = RANK[part] < RANK[own]
        # Within a row only `_types`, `_tree` and the like lean on each other.
        beside = RANK[part] == RANK[own] and RANK[own] == 0
        assert downwards or beside, f"`{own}` imports `{module}`."


def test_the_core_does_not_know_the_algorithms():
    # Nothing but the face and the recipes import one; the rest is the round itself.
    for file in FILES:
        if part_of(".".join(name_of(file))) in ("_algorithm", "__init__", "recipes"):
            continue
        for module in imports(file):
            known = ("AbstractAlgorithm", "AbstractOnePass", "AbstractClusters")
            known += ("AbstractAsynchronous", "inside", "around")
            match = re.match(r"equifed\._algorithm\.(\w+)", module)
            assert match is None or match[1] in known, f"{file}: {module}"


def test_who_may_import_what():
    allowed = {
        "equinox.internal": set(),
        "datasets": {"data"},
        "pyarrow": {"data"},
        "orbax": {"_checkpoint"},
        "matplotlib": {"plot"},
        "tqdm": {"_logger"},
        "tyro": {"_cli"},
    }
    for file in FILES:
        part = part_of(".".join(name_of(file)))
        for module in imports(file):
            for name, parts in allowed.items():
                if module == name or module.startswith(name + "."):
                    assert part in parts, f"{file} imports `{module}`."


def modules():
    yield eqf
    for info in pkgutil.walk_packages(eqf.__path__, "equifed."):
        yield importlib.import_module(info.name)


def classes():
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.startswith("equifed")
    }
    return sorted(found, key=lambda cls: cls.__qualname__)


def is_abstract(cls):
    variables = getattr(cls, "__abstractvars__", ()) or getattr(
        cls, "__abstractclassvars__", ()
    )
    return bool(inspect.isabstract(cls) or variables)


# What nearly all have in common, so that few would want to write it.
DEFAULTS = {("AbstractAlgorithm", x) for x in ("models", "own_model", "keep")}
DEFAULTS |= {("AbstractSampler", "participation"), ("AbstractAsynchronous", "in_round")}
DEFAULTS |= {("AbstractSampler", "among"), ("AbstractLoader", "report")}
DEFAULTS |= {("AbstractSampler", "under_clock"), ("AbstractClock", "check_algorithm")}


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__qualname__)
def test_abstract_or_final(cls):
    named = cls.__name__.lstrip("_").startswith("Abstract")
    assert named or not is_abstract(cls), "Call it `Abstract...`, or finish it."
    for base in cls.__mro__[1:]:
        if base.__module__.startswith("equifed"):
            name = base.__name__.lstrip("_")
            assert name.startswith("Abstract"), f"`{base.__name__}` is final."
            # A method is implemented once.
            for method, value in vars(base).items():
                own = vars(cls).get(method)
                if inspect.isfunction(value) and inspect.isfunction(own):
                    done = not getattr(value, "__isabstractmethod__", False)
                    done = done and (name, method) not in DEFAULTS
                    dunder = method.startswith("__")
                    assert dunder or not done, f"`{method}` of `{name}`."


def overrides():
    """The library's implementations of abstract methods, with what they implement."""
    for cls in classes():
        for name, method in vars(cls).items():
            method = getattr(method, "method", method)  # of an Equinox module
            for base in cls.__mro__[1:]:
                above = vars(base).get(name)
                above = getattr(above, "method", above)
                if inspect.isfunction(method) and getattr(
                    above, "__isabstractmethod__", False
                ):
                    yield f"{cls.__qualname__}.{name}", method, above
                    break


def test_overrides_have_the_types_of_what_they_override():
    found = list(overrides())
    assert len(found) > 150
    for name, method, above in found:
        if not inspect.isfunction(above) or "equifed" not in above.__module__:
            continue
        own = inspect.unwrap(method)
        for argument in inspect.unwrap(above).__annotations__.keys() - {"self"}:
            if argument in own.__code__.co_varnames or argument == "return":
                assert argument in own.__annotations__, f"{name}: {argument}"


def test_an_override_of_another_type_is_seen():
    def encode(self, message, state, *, key):
        return message  # and no metrics

    body = {"__module__": "equifed._aggregator.mean", "encode": encode}
    for name in ("init", "decode", "gathers"):
        body[name] = vars(eqf.UniformMean)[name]
    made: Any = type(eqf.UniformMean)
    cls = made("Wrong", (eqf.AbstractAggregator,), body)
    message = eqf.Message(jax.numpy.ones(2), jax.numpy.ones(()))
    with pytest.raises(jaxtyping.TypeCheckError):
        cls().encode(message, None, key=jax.random.key(0))


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_files(file):
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 300
    if file.name != "__init__.py":
        assert ast.get_docstring(tree), "A file opens with its idea."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("super", "hasattr"), f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_functions_are_short(file):
    tree = ast.parse(file.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if not isinstance(node, kinds):
            continue
        # Its signature and its docstring do not count.
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if body:
            lines = (node.end_lineno or 0) - body[0].lineno + 1
            assert lines < 60, f"`{node.name}` has {lines} lines."


def public():
    """`equifed.data.Loader` and the like: what the faces export, `X as X`."""
    for part, module in PARTS.items():
        file = pathlib.Path(inspect.getfile(module))
        tree = ast.parse(file.read_text("utf-8"))
        if file.name == "__init__.py":
            nodes = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
            names = [a.name for n in nodes for a in n.names if a.asname == a.name]
        else:
            kinds = (ast.FunctionDef, ast.ClassDef)
            names = [n.name for n in tree.body if isinstance(n, kinds)]
            lines = [n for n in tree.body if isinstance(n, ast.Assign)]
            names += [t.id for n in lines for t in n.targets if isinstance(t, ast.Name)]
        for name in names:
            if not name.startswith("_") and f"{part}.{name}" not in PARTS:
                yield f"{part}.{name}"


def value_of(name):
    part, _, last = name.rpartition(".")
    return getattr(PARTS[part], last)


PUBLIC = sorted(public())


def test_faces_export_everything_once():
    assert len(PUBLIC) == len(set(PUBLIC)) > 80
    # What is public in a private part is exported; one name, one path.
    exported = {id(value_of(name)) for name in PUBLIC}
    assert len(exported) == len(PUBLIC)
    for cls in classes():
        if not cls.__name__.startswith("_") and eqf.AbstractAlgorithm in cls.__mro__:
            assert id(cls) in exported


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    value = value_of(name)
    if not callable(value):
        return
    doc = inspect.getdoc(value) or ""
    own = value.__doc__ or ""
    # A dataclass without a docstring is given its signature for one.
    assert own, "It needs a docstring."
    assert not own.startswith(f"{value.__name__}("), "It needs a docstring."
    first = doc.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), "Its first line is a sentence."
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if getattr(function, "__isabstractmethod__", False):
                function = getattr(function, "fget", function)
                assert function.__doc__, f"`{method}` needs a docstring."


@pytest.fixture(scope="module")
def pages():
    """The API pages, and what each of them shows."""
    shown = {}
    for page in sorted((REPOSITORY / "docs" / "api").glob("*.md")):
        for name in re.findall(r"^::: *([\w.]+)", page.read_text("utf-8"), re.M):
            shown.setdefault(name, []).append(page.name)
    return shown


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_in_the_docs(name, pages):
    assert len(pages.get(name, [])) == 1, "Show it on one page of `docs/api`."


def test_the_docs_show_nothing_else(pages):
    assert set(pages) - set(PUBLIC) - set(PARTS) == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_in_the_changelog(name):
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    last = name.rpartition(".")[2]
    assert re.search(rf"`[^`\n]*\b{re.escape(last)}\b[^`\n]*`", text)


def test_what_an_import_costs():
    program = "import equifed, sys; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program]
    out = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = {module.split(".")[0] for module in out.stdout.split()}
    slow = {"datasets", "orbax", "matplotlib", "tensorboard", "pyarrow", "tqdm"}
    slow |= {"blackjax", "wandb", "PIL", "pandas", "sklearn", "hypothesis"}
    assert loaded & slow == set()
    assert not {"equifed.plot", "equifed.models"} & set(out.stdout.split())


def test_an_import_makes_no_array():
    # It would start a backend, before the program could choose one.
    program = (
        "import equifed, equifed.testing, equifed.plot, equifed.models\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    command = [sys.executable, "-c", program]
    out = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


def test_what_a_round_is_made_of_is_a_pytree():
    # What lives on the host may be a plain class.
    for cls in classes():
        host = ("data", "_logger", "_store", "clock", "deploy")
        if part_of(cls.__module__) in host:
            continue
        if any(base.__name__.startswith("Abstract") for base in cls.__mro__):
            assert issubclass(cls, eqx.Module)
