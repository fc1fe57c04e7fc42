"""How much one client can change the sum of a round: its sensitivity.

A clipping rule changes a message so that its norm is at most a bound, and says the
bound. Noise is scaled to it. A rule that learns its bound asks for a sum of its own,
which is noised as well: see [`equifed.privacy.AdaptiveClip`][].
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from .._check import as_number, check_number, number
from .._metrics import AbstractMetric
from .._overrides import inherit_types
from .._tree import floating, tree_norm, tree_scale, tree_unit
from .._words import shown


class AbstractClipping(eqx.Module):
    """Bounds the norm of one client's message."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def is_fixed(self) -> bool:
        """Whether the bound is the same in all rounds, as noise that is correlated over
        rounds needs it."""

    @property
    @abc.abstractmethod
    def reports(self) -> tuple[str, ...]:
        """The names of the metrics that `update` returns."""

    @abc.abstractmethod
    def init(self, payload: PyTree) -> PyTree:
        """What is kept from round to round; `None` if nothing."""

    @abc.abstractmethod
    def bound(self, state: PyTree) -> Float[Array, ""]:
        """The most that the Euclidean norm of a clipped message can be."""

    @abc.abstractmethod
    def clip(self, payload: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The clipped payload, and what else of a client is summed; `None` if nothing.
        That sum is seen by `update` alone."""

    @abc.abstractmethod
    def share(self, noise_multiplier: Float[Array, ""]) -> Float[Array, ""]:
        """The noise multiplier of the messages alone, if with the other sum together it
        is to be `noise_multiplier`. Refuses one that the other sum leaves nothing of,
        where it is known."""

    @abc.abstractmethod
    def update(
        self,
        state: PyTree,
        summed: PyTree,
        expected_clients: Float[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[PyTree, dict[str, AbstractMetric]]:
        """The state after a round, from the other sum, to which it adds its noise; and
        metrics that are covered by that noise."""


class FlatClip(AbstractClipping):
    r"""Scales the whole message down to norm at most $C$: $m \min(1, C / \lVert m
    \rVert)$.

    **Arguments:**

    - `max_norm`: the $C$. `math.inf` clips nothing, and then no noise is enough.
    """

    max_norm: Float[Array, ""] = eqx.field(converter=lambda x: _positive(x))

    @property
    def is_fixed(self):
        return True

    @property
    def reports(self):
        return ()

    def init(self, payload):
        return None

    def bound(self, state):
        return self.max_norm

    def clip(self, payload, state):
        return scaled_to(payload, self.max_norm), None

    def share(self, noise_multiplier):
        both = noise_multiplier, self.max_norm
        if not any(isinstance(x, jax.core.Tracer) for x in both):
            multiplier, most = map(float, both)
            if multiplier > 0 and most == math.inf:
                raise ValueError(
                    "`max_norm` is infinite, of which no multiple is noise, got a "
                    f"noise multiplier of {multiplier:g}. Give a finite `max_norm`, or "
                    "`noise_multiplier=0`."
                )
        return noise_multiplier

    def update(self, state, summed, expected_clients, *, key):
        return state, {}


class GroupClip(AbstractClipping):
    r"""Clips groups of a message's arrays one by one, within one joint budget.

    The norm of group $g$ is at most $C \sqrt{s_g / \sum_h s_h}$, where $s_g$ is its
    share, so that the norm of the whole is at most $C$ (per-layer clipping, McMahan et
    al., 2018, arXiv 1710.06963, section 2.3).

    **Arguments:**

    - `max_norm`: the $C$.
    - `group`: gives each array's group, from its path as `jax.tree_util.keystr` writes
        it. By default each array is its own.
    - `shares`: the share of a group by its name; 1 for all if not given.
    """

    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )
    group: Callable[[str], str] = str
    shares: dict[str, float] | None = None

    def __check_init__(self):
        if not callable(self.group):
            raise TypeError(
                "`group` must be a function from an array's path to the name of its "
                f"group, got {shown(self.group)}."
            )
        for name, share in (self.shares or {}).items():
            check_number(f"shares[{name!r}]", share, least=0, strict=True)

    @property
    def is_fixed(self):
        return True

    @property
    def reports(self):
        return ()

    def init(self, payload):
        self._groups(payload)
        return

    def bound(self, state):
        return self.max_norm

    def clip(self, payload, state):
        leaves, structure = jtu.tree_flatten(payload)
        groups = self._groups(payload)
        shares = {name: (self.shares or {}).get(name, 1.0) for name in groups}
        clipped: list[Any] = list(leaves)
        for name, places in groups.items():
            part = math.sqrt(shares[name] / sum(shares.values()))
            most = self.max_norm * floating(part)
            own = scaled_to([leaves[i] for i in places], most)
            for i, x in zip(places, own, strict=True):
                clipped[i] = x
        return jtu.tree_unflatten(structure, clipped), None

    def share(self, noise_multiplier):
        return noise_multiplier

    def update(self, state, summed, expected_clients, *, key):
        return state, {}

    def _groups(self, payload: PyTree) -> dict[str, list[int]]:
        """The places of each group's arrays."""
        groups: dict[str, list[int]] = {}
        for i, (path, _) in enumerate(jtu.tree_leaves_with_path(payload)):
            groups.setdefault(self.group(jtu.keystr(path)), []).append(i)
        unknown = set(self.shares or {}) - set(groups)
        if unknown:
            raise ValueError(
                f"`shares` names the group {sorted(unknown)[0]!r}, of which no array "
                f"is. The groups are {sorted(groups)}."
            )
        return groups


def scaled_to(payload: PyTree, most: Float[Array, ""]) -> PyTree:
    """The payload, scaled down to that norm if it is longer."""
    small, power = tree_unit(payload)
    norm, most = tree_norm(small), most / power
    scale = jnp.where(norm > most, most / jnp.where(norm > 0, norm, 1), 1)
    return tree_scale(scale.astype(norm.dtype) * power, small)


def _positive(x: ArrayLike) -> Float[Array, ""]:
    """More than 0, and infinite at most."""
    known = not isinstance(x, jax.core.Tracer)
    if known and isinstance(x, float) and x == math.inf:
        return floating(x)
    return as_number("max_norm", x, least=0, strict=True)
