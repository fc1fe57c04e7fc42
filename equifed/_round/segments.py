"""A round as it was traced, cut where it makes its passes over the clients.

What lies between two passes is a program of its own. A pass appears in the trace as one
operation that nobody can compile; whoever runs the round runs it in their own way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
from jax.core import ShapedArray
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from .._compiled import Options


Shapes = Sequence[jax.ShapeDtypeStruct]

_pass_p = jex.Primitive("federated_pass")
_pass_p.multiple_results = True


@_pass_p.def_abstract_eval
def _shapes(*_, call: "Call"):
    return [ShapedArray(x.shape, x.dtype) for x in call.shapes]


class Call:
    """A pass: what it is to whoever runs it, and the shapes of what comes back, which
    are the leaves of a tree."""

    def __init__(self, what: Any, shapes: PyTree[jax.ShapeDtypeStruct]):
        self.what = what
        self.shapes, self.structure = jtu.tree_flatten(shapes)

    def __call__(self, *arrays: Array) -> list[Array]:
        """While a round is traced: stands for what the pass will give."""
        return _pass_p.bind(*arrays, call=self)


class CannotCut(Exception):
    """A pass lies inside of a loop or a branch."""


class Segments:
    """A function of arrays, cut at its passes.

    Its `parts` are run one after another: each is a `Call` or a jitted function, with
    the variables that it takes and those that it gives.
    """

    def __init__(
        self,
        function: Callable[..., list[Array]],
        shapes: Shapes,
        options: Options = (),
    ):
        closed = jax.make_jaxpr(function)(*shapes)
        jaxpr = closed.jaxpr
        self._constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        self.inputs, self.outputs = jaxpr.invars, jaxpr.outvars
        groups: list[list[Any]] = [[]]
        for eqn in jaxpr.eqns:
            if eqn.primitive is _pass_p:
                groups += [[eqn], []]
            elif any(map(has_pass, jex.jaxprs_in_params(eqn.params))):
                raise CannotCut
            else:
                groups[-1].append(eqn)
        live = {v for v in jaxpr.outvars if isinstance(v, jex.Var)}
        parts: list[Any] = []
        for group in reversed(groups):
            if len(group) == 1 and group[0].primitive is _pass_p:
                (eqn,) = group
                parts.append((eqn.params["call"], eqn.invars, eqn.outvars))
                live |= {v for v in eqn.invars if isinstance(v, jex.Var)}
                continue
            part, live = _cut(jaxpr, group, live, options)
            if part is not None:
                parts.append(part)
        self.parts = parts[::-1]

    def __call__(
        self,
        arrays: Sequence[Array],
        run_pass: Callable[[Any, list[Any]], list[Any]],
        run_program: Callable[[Callable, list[Array]], list[Array]],
    ) -> list[Any]:
        """Runs it.

        **Arguments:**

        - `run_pass`: given what a pass is and its inputs.
        - `run_program`: given a jitted function and its inputs.
        """
        known = dict(zip(self.inputs, arrays, strict=True)) | self._constants

        def value(v: Any) -> Any:
            return v.val if isinstance(v, jex.Literal) else known[v]

        for what, inputs, outputs in self.parts:
            given = [value(v) for v in inputs]
            is_pass = isinstance(what, Call)
            out = run_pass(what.what, given) if is_pass else run_program(what, given)
            known |= dict(zip(outputs, out, strict=True))
        return [value(v) for v in self.outputs]


def has_pass(jaxpr: Any) -> bool:
    return any(
        eqn.primitive is _pass_p or any(map(has_pass, jex.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _cut(
    jaxpr: Any, eqns: list[Any], live: set[Any], options: Any
) -> tuple[Any, set[Any]]:
    """One program of what of these is needed later, and what is needed before it."""
    kept, needed = [], set(live)
    for eqn in reversed(eqns):
        if needed.isdisjoint(eqn.outvars):
            continue
        kept.append(eqn)
        needed |= {v for v in eqn.invars if isinstance(v, jex.Var)}
    kept.reverse()
    made = {v for eqn in kept for v in eqn.outvars}
    if not kept:
        return None, live
    outputs = [v for eqn in kept for v in eqn.outvars if v in live]
    used = [v for eqn in kept for v in eqn.invars if isinstance(v, jex.Var)]
    inputs = [v for v in dict.fromkeys(used) if v not in made]
    part = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=kept)
    function = jex.jaxpr_as_fun(jex.ClosedJaxpr(part, []))
    jitted = jax.jit(function, compiler_options=dict(options) or None)
    return (jitted, inputs, outputs), needed - made
