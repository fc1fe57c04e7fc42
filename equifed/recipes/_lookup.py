"""Tasks, algorithms and recipes by their names."""

from .._algorithm import AbstractAlgorithm
from . import _cifar10, _feddyn, _fedjax, _mills, _pfl_words, _reddi, _zaccone
from ._algorithms import ALGORITHMS
from ._names import found
from ._recipe import Recipe
from ._task import Task
from ._tasks import TASKS


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for part in (_fedjax, _reddi, _cifar10, _pfl_words, _feddyn, _mills, _zaccone)
    for recipe in part.RECIPES
}


def task(name: str) -> Task:
    """The task of this name.

    **Arguments:**

    - `name`: such as `"digits-dense"`.

    **Raises:**

    `ValueError` if there is none, with the nearest name and those that there are.
    """
    return found("task", name, TASKS)


def tasks() -> list[Task]:
    """All tasks."""
    return list(TASKS.values())


def algorithm(name: str) -> type[AbstractAlgorithm]:
    """The algorithm's class of this name.

    **Arguments:**

    - `name`: the class's name in lower case, such as `"fedadam"`.

    **Raises:**

    `ValueError` if there is none, with the nearest name and those that there are.
    """
    return found("algorithm", name, ALGORITHMS)


def algorithms() -> list[str]:
    """The names of all algorithms that are made of a loss; wrappers are not."""
    return list(ALGORITHMS)


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    **Arguments:**

    - `name`: such as `"flsim-scaffold-dir0.6"`.

    **Raises:**

    `ValueError` if there is none, with the nearest name and those that there are.
    """
    return found("recipe", name, RECIPES)


def recipes() -> list[Recipe]:
    """All recipes."""
    return list(RECIPES.values())
