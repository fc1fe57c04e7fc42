"""Which columns of an example a program reads rows by.

A column is followed from operation to operation as long as its numbers stay what they
are: they may be cut, moved, repeated, joined, widened, and made positive in the way of
Python's negative indices. Whatever else is done to them (a sum, a remainder, a clip)
makes other numbers, of which the host knows nothing: there the trail ends, and nothing
is said. It is followed into calls, loops and branches.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.lax import GatherScatterMode

from .program import called, Program


# The columns that the numbers of an array may be of. With several parts: of an array
# whose last axis is that long, one for each of its entries.
Origin = tuple[frozenset[str], ...]
NOTHING: Origin = (frozenset(),)


class Site(NamedTuple):
    """One number of one indexed read: an equation, and which of its indices."""

    equation: int
    """The `id` of the equation, which the program keeps alive."""
    index: int


class Read(NamedTuple):
    """Numbers of a column choose among `size` rows."""

    column: str
    size: int

    @property
    def least(self) -> int:
        return -self.size


def origin(program: Program) -> frozenset[str]:
    """The columns that the numbers of what a program returns may be of."""
    out = _follow(program.closed.jaxpr, _given(program), {})
    return frozenset().union(*map(_whole, out))


def reads(program: Program) -> dict[Read, frozenset[Site]]:
    """All reads of a program by numbers of its columns, and where they are."""
    found: dict[Read, set[Site]] = {}
    origins = _given(program)
    if any(map(_whole, origins)):
        _follow(program.closed.jaxpr, origins, found)
    return {read: frozenset(sites) for read, sites in found.items()}


def _given(program: Program) -> list[Origin]:
    """Of each input of a program: the column of whole numbers that it is."""
    pairs = zip(program.columns, program.closed.in_avals, strict=True)
    return [
        (frozenset({name}),)
        if name is not None and aval.dtype.kind in "iu"
        else NOTHING
        for name, aval in pairs
    ]


def indices(equation: JaxprEqn) -> dict[int, int]:
    """Of an indexed read that goes to the nearest row where there is none: which axis
    each of its indices is of, if they choose single rows of it.

    A `gather` that is told what to do with such an index is none, but for one by which
    `jax.vmap` replaced a plain read: that takes all axes and drops none.
    """
    params = equation.params
    if equation.primitive.name == "dynamic_slice":
        axes: Sequence[int] = range(len(params["slice_sizes"]))
    elif equation.primitive.name == "gather":
        numbers, mode = params["dimension_numbers"], params["mode"]
        axes = numbers.start_index_map
        every = len(axes) + len(numbers.operand_batching_dims)
        plain = every == _rank(equation.invars[0]) and not numbers.collapsed_slice_dims
        promised = mode == GatherScatterMode.PROMISE_IN_BOUNDS
        if not promised and not (plain and mode == GatherScatterMode.CLIP):
            return {}
    else:
        return {}
    sizes = params["slice_sizes"]
    return {i: axis for i, axis in enumerate(axes) if sizes[axis] == 1}


def _follow(
    jaxpr: Jaxpr, origins: Iterable[Origin], found: dict[Read, set[Site]]
) -> list[Origin]:
    """The origins of what a program returns, from those of what it is given."""
    known: dict[Any, Origin] = dict(zip(jaxpr.invars, origins, strict=True))

    def origin(x: Any) -> Origin:
        return NOTHING if isinstance(x, Literal) else known.get(x, NOTHING)

    for equation in jaxpr.eqns:
        given = [origin(x) for x in equation.invars]
        if not any(map(_whole, given)):
            continue
        _note(equation, given, found)
        new = _through(equation, given, found)
        known.update(zip(equation.outvars, new, strict=False))
    return [origin(x) for x in jaxpr.outvars]


def _note(
    equation: JaxprEqn, given: list[Origin], found: dict[Read, set[Site]]
) -> None:
    axes = indices(equation)
    if not axes:
        return
    if equation.primitive.name == "dynamic_slice":
        chosen = given[1:]
    else:
        count = len(equation.params["dimension_numbers"].start_index_map)
        parts = given[1] if len(given[1]) == count else (_whole(given[1]),) * count
        chosen = [(part,) for part in parts]
    shape = _shape(equation.invars[0])
    for index, axis in axes.items():
        for column in _whole(chosen[index]):
            site = Site(id(equation), index)
            found.setdefault(Read(column, shape[axis]), set()).add(site)


# These keep all numbers of their first input, and have no others.
_KEEP = {"convert_element_type", "copy", "copy_p", "sharding_constraint", "transpose"}
_KEEP |= {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "rev", "slice"}
_KEEP |= {"dynamic_slice", "gather"}
_JOIN = {"concatenate", "pad", "dynamic_update_slice"}


def _through(
    equation: JaxprEqn, given: list[Origin], found: dict[Read, set[Site]]
) -> list[Origin]:
    """The origins of what an equation returns; no entry: of nothing."""
    name, params = equation.primitive.name, equation.params
    inner = called(equation)
    if inner is not None:
        return _follow(inner.jaxpr, given, found)
    if name == "scan":
        consts, carry = params["num_consts"], params["num_carry"]
        rest = [_merged(x) for x in given[consts + carry :]]  # a loop takes them apart
        body = params["jaxpr"].jaxpr
        return _loop(body, given[:consts], given[consts:][:carry], rest, found)
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        consts, carry = given[first:][:second], given[first + second :]
        return _loop(params["body_jaxpr"].jaxpr, consts, carry, [], found)
    if name == "cond":
        ways = [_follow(x.jaxpr, given[1:], found) for x in params["branches"]]
        return [_union(each) for each in zip(*ways, strict=True)]
    if name == "select_n":
        return [_union(given[1:])]
    if name == "concatenate" and params["dimension"] == _rank(equation.invars[0]) - 1:
        sizes = [_shape(x)[-1] for x in equation.invars]
        if sum(sizes) <= 8:  # indices of several axes, rather than data
            pieces = zip(given, sizes, strict=True)
            return [tuple(part for x, size in pieces for part in _spread(x, size))]
    if name in _JOIN:
        joined = given if name == "concatenate" else given[:2]
        return [_union([_merged(x) for x in joined])]
    if name in _KEEP:
        return [given[0] if _keeps_last(equation) else _merged(given[0])]
    return []


def _loop(
    body: Jaxpr,
    consts: list[Origin],
    carry: list[Origin],
    rest: list[Origin],
    found: dict[Read, set[Site]],
) -> list[Origin]:
    """The origins of what a loop returns, its outputs of each step merged."""
    while True:
        out = _follow(body, [*consts, *carry, *rest], found)
        new = [_union(pair) for pair in zip(carry, out, strict=False)]
        if new == carry:
            return [*carry, *map(_merged, out[len(carry) :])]
        carry = new


def _keeps_last(equation: JaxprEqn) -> bool:
    """Whether the last axis of what an equation returns is that of its input."""
    name, params = equation.primitive.name, equation.params
    last = _rank(equation.invars[0]) - 1
    end = _rank(equation.outvars[0]) - 1
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]
        return last >= 0 and axes[last] == end
    if name == "transpose":
        return params["permutation"][-1] == last
    return name == "convert_element_type"


def _shape(x: Any) -> tuple[int, ...]:
    return x.aval.shape


def _rank(x: Any) -> int:
    return len(_shape(x))


def _whole(x: Origin) -> frozenset[str]:
    return x[0].union(*x[1:])


def _merged(x: Origin) -> Origin:
    return (_whole(x),)


def _spread(x: Origin, size: int) -> Origin:
    return x if len(x) == size else (_whole(x),) * size


def _union(origins: Sequence[Origin]) -> Origin:
    sizes = {len(x) for x in origins if x != NOTHING} or {1}
    if len(sizes) > 1:
        origins, sizes = [_merged(x) for x in origins], {1}
    (size,) = sizes
    parts = zip(*(_spread(x, size) for x in origins), strict=True)
    return tuple(frozenset().union(*part) for part in parts)
