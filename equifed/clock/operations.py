"""How many operations a program makes, as XLA counts them.

XLA counts what is inside of a loop once. That is right of the loop over a client's
steps, of which one is asked for, but not of a loop within a step: over the layers of a
model, the places of a sequence, or parts of a batch. These have a fixed length.
"""

from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params
from jax.stages import Compiled


def flops_of(program: Jaxpr, compiled: Compiled) -> float:
    """The operations of one step, beside what surrounds the steps; -1 if XLA does not
    count on this device.

    **Arguments:**

    - `program`, `compiled`: the same round, before and after it was compiled.
    """
    once = _counted(compiled)
    return (
        once + sum(_more(*loop) for loop in _within_steps(program)) if once > 0 else -1
    )


def _counted(compiled: Compiled) -> float:
    return float((compiled.cost_analysis() or {}).get("flops", -1.0))


def _more(length: int, body: ClosedJaxpr) -> float:
    """What running it so often adds to running it once, with no loop in it again."""
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in body.in_avals]
    compiled = jax.jit(jaxpr_as_fun(body)).lower(*like).compile()
    once = max(_counted(compiled), 0.0)
    inside = sum(_more(*loop) for loop in _fixed(body.jaxpr))
    return length * (once + inside) - once


def _within_steps(program: Jaxpr) -> Iterator[tuple[int, ClosedJaxpr]]:
    """The loops of a fixed length that are inside of one without and have none without
    in them: those of a step."""
    for equation in program.eqns:
        for inner in jaxprs_in_params(equation.params):
            if equation.primitive.name == "while" and not _has_steps(inner):
                yield from _fixed(inner)
            else:
                yield from _within_steps(inner)


def _fixed(program: Jaxpr) -> Iterator[tuple[int, ClosedJaxpr]]:
    """The outermost loops of a fixed length, and that."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from _fixed(inner)


def _has_steps(program: Jaxpr) -> bool:
    return any(
        equation.primitive.name == "while" or _has_steps(inner)
        for equation in program.eqns
        for inner in jaxprs_in_params(equation.params)
    )
