"""Which of the params are synchronised together: parts of them, in turn."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._role_table import paths_of
from .._selected import selected
from .._types import Model, Params
from .._words import shown


class Fragments(eqx.Module):
    """A number of them, or a function of the model that returns them."""

    parts: int | Callable[[Model], Sequence[PyTree]] = eqx.field(static=True)

    def of(self, params: Params) -> list[PyTree[bool]]:
        """For each fragment, whether a leaf is in it."""
        paths = paths_of(params)
        if isinstance(self.parts, int):
            count = self.parts
            numbers = {path: [i % count] for i, path in enumerate(paths)}
        else:
            count, numbers = self._named(self.parts, params, paths)
        sizes = [
            sum(fragment in x for x in numbers.values()) for fragment in range(count)
        ]
        if 0 in sizes:
            raise ValueError(
                f"`fragments` must each have something to train, got {count}, of which "
                f"the one of number {sizes.index(0)} has nothing. The model has "
                f"{len(paths)} arrays that are trained."
            )
        structure = jtu.tree_structure(params)
        return [
            jtu.tree_unflatten(structure, [fragment in numbers[x] for x in paths])
            for fragment in range(count)
        ]

    def _named(
        self, parts: Callable, params: Params, paths: list[str]
    ) -> tuple[int, dict[str, list[int]]]:
        numbers: dict[str, list[int]] = {path: [] for path in paths}
        selected("fragments", parts, params)
        fragments = parts(params)
        if not isinstance(fragments, Sequence):
            raise ValueError(
                "`fragments` must return a list, with a part of the model for each "
                f"fragment, got {shown(fragments)}."
            )
        for i in range(len(fragments)):
            for path in selected("fragments", lambda m, i=i: parts(m)[i], params):
                numbers[path].append(i)
        for path, found in numbers.items():
            if len(found) != 1:
                raise ValueError(
                    "`fragments` must name each array that is trained once, and name "
                    f"`{path}` {len(found)} times."
                )
        return len(fragments), numbers


def part_of(tree: PyTree, fragment: PyTree[bool]) -> PyTree:
    return eqx.filter(tree, fragment)
