"""What a module is made with, for the documentation: mkdocstrings loads this file.

An `equinox.Module` without an `__init__` is a dataclass, which takes its fields, but
the code does not say so where a reader of the code looks for it. So each such class is
given the signature that it has when it runs. A field's converter is not its default,
and says what the field may be given.
"""

from collections.abc import Iterator

import griffe


def classes(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    """All that are written in a package, each once."""
    for member in parent.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, (griffe.Module, griffe.Class)):
            yield from classes(member)


def fields(cls: griffe.Class) -> list[griffe.Attribute]:
    """The class's own fields, in order: neither methods nor properties."""
    return [
        member
        for member in cls.members.values()
        if isinstance(member, griffe.Attribute)
        and member.annotation is not None
        and "property" not in member.labels
        and "ClassVar" not in str(member.annotation)
        and not member.name.startswith("_")
    ]


def keyword(call: griffe.ExprCall, name: str) -> str | griffe.Expr | None:
    for argument in call.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == name:
            return argument.value
    return None


def converted(field: griffe.Attribute, converter: str | griffe.Expr):
    """What a field with this converter may be given."""
    if isinstance(converter, griffe.ExprName):
        function = field.modules_collection.get_member(converter.canonical_path)
        if isinstance(function, (griffe.Alias, griffe.Function)):
            return function.parameters[0].annotation
    # A Python number will do for an array of one.
    return "ArrayLike" if str(field.annotation).startswith("Float") else None


def parameter(field: griffe.Attribute) -> griffe.Parameter:
    annotation, default = field.annotation, field.value
    if isinstance(default, griffe.ExprCall):  # `eqx.field(converter=..., default=...)`
        converter = keyword(default, "converter")
        if converter is not None:
            annotation = converted(field, converter) or annotation
        default = keyword(default, "default")
    kind = griffe.ParameterKind.positional_or_keyword
    return griffe.Parameter(
        field.name, annotation=annotation, kind=kind, default=default
    )


def show_functions(pkg: griffe.Module) -> None:
    """`equifed.train` is the function: not the file of that name, which hides it."""
    for name, member in pkg.members.items():
        if isinstance(member, griffe.Alias):
            at = member.target_path
            parent, _, last = at.rpartition(".")
            if parent == pkg.path or "." not in parent:
                continue
            module = pkg.modules_collection.get_member(parent)
            if module.imports.get(last) == f"{at}.{last}":
                pkg.set_member(name, griffe.Alias(name, f"{at}.{last}", parent=pkg))


class Signatures(griffe.Extension):
    """Adds the `__init__` that a module has without having been written."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        if pkg.name != "equifed":
            return
        show_functions(pkg)
        for cls in classes(pkg):
            own = fields(cls)
            written = "__init__" in cls.members
            plain = bool(cls.bases) and not cls.name.startswith(("Abstract", "_"))
            if plain and not written and "Enum" not in str(cls.bases):
                kind = griffe.ParameterKind.positional_or_keyword
                parameters = griffe.Parameters(
                    griffe.Parameter("self", kind=kind), *map(parameter, own)
                )
                init = griffe.Function("__init__", parameters=parameters)
                cls.set_member("__init__", init)
            for field in own:
                # Every field is one of the class and of the instance.
                field.labels -= {"class-attribute", "instance-attribute"}
                if written or isinstance(field.value, griffe.ExprCall):
                    field.value = None  # `eqx.field(...)`, or `self.x = x`
