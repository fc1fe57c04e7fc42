"""Laws of randomness: a key is used once."""

import pathlib
import traceback
from types import TracebackType

import equinox as eqx
import jax
import jax.random as jr

from .._executor import Executor
from .._round.step import round_step
from ._claim import law
from ._setup import KEY, Setup


PACKAGE = str(pathlib.Path(__file__).parents[1])


@law
def keys(here: Setup) -> None:
    """No two examples are given the same key, whoever's they are and in whichever step.

    The key that a client's `round` is given is its own, for one round: fold in the
    number of the step, `jr.fold_in(key, i)`, and split that over the examples of the
    batch.
    """
    examples: dict[bytes, set[int]] = {}
    for key, number in here.visits:
        examples.setdefault(key, set()).add(number)
    worst = max(examples.values(), key=len)
    owners = sorted(map(here.owner, worst))
    assert len(worst) == 1, (
        f"{len(worst)} examples, of {', '.join(dict.fromkeys(owners))}, were given one."
    )


@law
def key_reuse(here: Setup) -> None:
    """A key is used once.

    Split it, `one, other = jr.split(key)`, for different uses; fold in the number for
    what is counted. Where the same numbers are wanted twice, say so: `jr.clone(key)`.
    """
    arguments = (here.plain, here.state, here.cohort(0), jr.key(KEY), Executor())
    arrays, static = eqx.partition(arguments, eqx.is_array)

    def trace(arrays):
        return eqx.filter(round_step(*eqx.combine(arrays, static)), eqx.is_array)

    try:
        with jax.debug_key_reuse(True):  # noqa: FBT003
            jax.eval_shape(jax.jit(trace), arrays)
    except jax.errors.KeyReuseError as error:
        where = _place(error.__cause__ and error.__cause__.__traceback__)
        raise AssertionError(f"One is used again{where}.") from error


def _place(trace: TracebackType | None) -> str:
    """The line that used it again: in the user's own file, if there is one."""
    frames = traceback.extract_tb(trace)
    names = [f.filename for f in frames]
    # What is further out has called the law.
    begin = max((i for i, n in enumerate(names) if n == __file__), default=-1) + 1
    # The code that a decorator makes has a name such as `<@beartype(...)>`.
    between = ("site-packages", "<@")
    frames = [f for f in frames[begin:] if not any(x in f.filename for x in between)]
    own = [f for f in frames if not f.filename.startswith(PACKAGE)] or frames
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
