"""A number for each client: its speed, its bandwidth, how much of its work it does.

It is drawn once for each client (what device it has) or anew at every count (what its
network is like this time): `distributions.py` has those that are drawn.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from .._check import check_number, checked
from .._overrides import inherit_types
from .._words import shown
from .draws import Draws


Counts: TypeAlias = int | Int[np.ndarray, " clients"]


class AbstractQuantity(abc.ABC):
    """A number for each client, a pure function of a seed, the client and a count."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def __call__(
        self, draws: Draws, clients: Int[np.ndarray, " clients"], count: Counts
    ) -> Float[np.ndarray, " clients"]:
        """The numbers of some clients.

        **Arguments:**

        - `draws`: where randomness comes from: `draws.uniforms(clients, count)`, or
            with `None` in place of the count for what does not change.
        - `clients`: their numbers in the population.
        - `count`: the number of the round, the event or the slot of time, from 0.
        """

    @property
    def num_clients(self) -> int | None:
        """How many clients it knows; `None` if it knows one for any number."""
        return None


@dataclasses.dataclass(eq=False)
class Constant(AbstractQuantity):
    """The same number for all. In place of it a plain number can be given.

    **Arguments:**

    - `value`: the number; infinite for a speed that takes no time.
    """

    value: float

    @checked()
    def __init__(self, value: ArrayLike):
        self.value = _one("value", value)

    def __call__(self, draws, clients, count):
        return np.full(len(clients), self.value)


@dataclasses.dataclass(eq=False)
class PerClient(AbstractQuantity):
    """A number for each client that is given. In place of it an array can be given.

    **Arguments:**

    - `values`: the numbers, in the order of the clients.
    """

    values: Float[np.ndarray, " population"]

    @checked()
    def __init__(self, values: ArrayLike | Sequence[ArrayLike]):
        self.values = of_each("values", values)

    def __call__(self, draws, clients, count):
        try:
            return self.values[clients]
        except IndexError:
            raise ValueError(
                f"There are values of {len(self.values)} clients, and client "
                f"{int(np.max(clients))} is asked for: they are numbered from 0."
            ) from None

    @property
    def num_clients(self) -> int:
        return len(self.values)


def quantity(name: str, x: Any) -> AbstractQuantity:
    """A quantity as it came, or one made of a number or of one for each client."""
    if isinstance(x, AbstractQuantity):
        return x
    array = as_array(name, x)
    if array is None or array.ndim > 1:
        raise TypeError(
            f"`{name}` must be a quantity, a number, or one for each client, got "
            f"{shown(x)}. Write `LogNormal(1e9, 0.5)`, for example."
        )
    # Checked here by the name that was given.
    return Constant(_one(name, x)) if array.ndim == 0 else PerClient(of_each(name, x))


def values_of(
    name: str,
    of: AbstractQuantity,
    draws: Draws,
    clients: Int[np.ndarray, " clients"],
    count: Counts,
) -> Float[np.ndarray, " clients"]:
    """What a quantity says of some clients, if it says one number of each."""
    values = of(draws, clients, count)
    is_array = isinstance(values, np.ndarray) and values.shape == clients.shape
    if not is_array or values.dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}`, a `{type(of).__name__}`, must return an array with one number "
            f"for each of the {len(clients)} clients, got {shown(values)}."
        )
    return values


def as_array(name: str, x: Any) -> Float[np.ndarray, "..."] | None:
    """Numbers as NumPy's; `None` if they are none."""
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be known when the clock is made, which no compiled program "
            "looks at: make one clock for each value, outside of `jit` and `vmap`."
        )
    try:
        array = np.asarray(x)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind == "V" and jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(np.float64)  # bfloat16
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None


def _one(name: str, x: ArrayLike) -> float:
    array = as_array(name, x)
    infinite = array is not None and array.ndim == 0 and array == np.inf
    return math.inf if infinite else number(name, x)


def of_each(name: str, x: Any) -> Float[np.ndarray, " population"]:
    """One number for each of at least one client."""
    numbers = as_array(name, x)
    if numbers is None or numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(
            f"`{name}` must be one number for each client, got {shown(x)}."
        )
    if np.isnan(numbers).any():
        hole = int(np.flatnonzero(np.isnan(numbers))[0])
        raise ValueError(
            f"`{name}` has a NaN for client {hole}: fill the hole, or leave that "
            "client out of the population."
        )
    return numbers


def number(name: str, x: ArrayLike, **bounds: Any) -> float:
    """A number within its bounds, as Python's own."""
    as_array(name, x)
    check_number(name, x, **bounds)
    return float(np.asarray(x))
