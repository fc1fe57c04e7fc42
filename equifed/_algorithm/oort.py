"""Oort: clients that have much to teach, and are quick, take part more often."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from .._aggregator import UniformMean
from .._bits import add_bits, bits_of, UP
from .._check import as_number, check_count, checked
from .._client import MeasuresUtility
from .._executor import Participants
from .._tree import floating
from .._wire import Broadcast
from .around import _AbstractAround
from .base import AbstractAlgorithm
from .measured import check_one_model
from .power_of_choice import highest


class Remembered(eqx.Module):
    """What is known of a client, whose numbers have the axes of the slots."""

    utility: Float[Array, "..."]
    """Its statistical utility, when it last took part."""
    last: Int[Array, "..."]
    """The round of that, from 1; 0 if it never took part."""


class OortState(eqx.Module):
    """The inner server's state, the utility of each of the last rounds, the last one
    last, and the seconds that a round may take."""

    server: Any
    history: Float[Array, " rounds"]
    seconds: Float[Array, ""] | None


class Oort(_AbstractAround):
    r"""Wraps an algorithm: its rounds are those of $K$ clients, of all that the loader
    draws, who are chosen by what they said when they last took part.

    In round $R = 1, 2, \dots$ a client $i$ that took part before, in round $L_i$, has
    the utility

    $$\Big( U_i + \sqrt{0.1 \log R / L_i} \Big) \cdot (T / t_i)^{\alpha\, [t_i > T]},
    \qquad U_i = |B_i| \sqrt{\textstyle \frac{1}{|B_i|} \sum_{e \in B_i} \ell(e)^2},$$

    with the losses of all its examples at the model that it was sent, and the seconds
    $t_i$ that its round takes. $U_i$ is cut at a quantile of those of all candidates,
    so that no outlier rules. Of $(1 - \epsilon) K$ clients, rounded, the least utility
    times $c$ is the bar; from those above it that many are drawn, in proportion to
    their utilities. The others are drawn from those that never took part, in proportion
    to their speeds, $1 / t_i$. Where there are too few of one kind, there are more of
    the other. A pacer lets rounds take longer, $T \leftarrow T + \Delta$ from $T =
    \Delta$, whenever the $U_i$ of those that took part sum up to less in the last $W$
    rounds than in the $W$ before.

    The seconds are the loader's: `cohort.info["seconds"]`. A candidate that would take
    no step is not chosen, and a loss that is not finite makes a utility of 0. To
    measure costs a pass without gradients over those that are chosen, each of which
    sends one number more. The metrics are those of the clients that were chosen. The
    paper also never takes a client again that took part very often: leave it out of the
    loader's candidates. The [authors'
    code](https://github.com/SymbioticLab/FedScale/blob/master/thirdparty/oort/oort.py)
    has the same uncertainty and penalty, but brings the $U_i$ to $[0, 1]$ before the
    one is added, takes $T$ to be a quantile of the clients' seconds, and its pacer goes
    by changes of a tenth.

    **Arguments:**

    - `algorithm`: any algorithm that trains one model.
    - `num_chosen`: $K$, how many clients take part.
    - `preferred_seconds`: $\Delta > 0$; `None` if all clients are taken to be equally
        quick.
    - `alpha`: $\alpha \ge 0$, how much slow clients are held back.
    - `window`: $W$, over how many rounds the pacer compares.
    - `exploration`, `exploration_decay`, `least_exploration`: $\epsilon$ of the first
        round, what it is multiplied with after each, and the least it becomes.
    - `cutoff`: $c$, from 0 to 1: the share of that utility which is the bar.
    - `clip`: the quantile, from 0 to 1.

    ??? cite "Reference"

        [Oort: Efficient Federated Learning via Guided Participant
        Selection](https://arxiv.org/abs/2010.06081), Algorithm 1

        ```bibtex
        @inproceedings{lai2021oort,
            title={{O}ort: {E}fficient {F}ederated {L}earning via {G}uided
                   {P}articipant {S}election},
            author={Lai, Fan and Zhu, Xiangfeng and Madhyastha, Harsha V. and
                    Chowdhury, Mosharaf},
            booktitle={OSDI},
            year={2021},
        }
        ```
    """

    algorithm: AbstractAlgorithm
    num_chosen: int
    preferred_seconds: Float[Array, ""] | None
    alpha: Float[Array, ""]
    window: int
    exploration: Float[Array, ""]
    exploration_decay: Float[Array, ""]
    least_exploration: Float[Array, ""]
    cutoff: Float[Array, ""]
    clip: Float[Array, ""]
    asks_first = True

    @checked()
    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        num_chosen: int,
        *,
        preferred_seconds: ArrayLike | None,
        alpha: ArrayLike = 2.0,
        window: int = 20,
        exploration: ArrayLike = 0.9,
        exploration_decay: ArrayLike = 0.98,
        least_exploration: ArrayLike = 0.2,
        cutoff: ArrayLike = 0.95,
        clip: ArrayLike = 0.95,
    ):
        self.algorithm = algorithm
        self.num_chosen = check_count("num_chosen", num_chosen)
        self.window = check_count("window", window)
        self.preferred_seconds = (
            None
            if preferred_seconds is None
            else as_number("preferred_seconds", preferred_seconds, least=0, strict=True)
        )
        self.alpha = as_number("alpha", alpha, least=0)
        share = {"least": 0, "most": 1}
        self.exploration = as_number("exploration", exploration, **share)
        self.exploration_decay = as_number(
            "exploration_decay", exploration_decay, **share
        )
        self.least_exploration = as_number(
            "least_exploration", least_exploration, **share
        )
        self.cutoff = as_number("cutoff", cutoff, **share)
        self.clip = as_number("clip", clip, **share)

    def begin(self, params, *, num_clients, key):
        begun = self.algorithm.begin(params, num_clients=num_clients, key=key)
        known = Remembered(floating(0.0), jnp.zeros((), jnp.int32))
        history = jnp.zeros(2 * self.window, known.utility.dtype)
        longest = self.preferred_seconds
        longest = None if longest is None else jnp.copy(longest)
        server = OortState(begun.server, history, longest)
        return dataclasses.replace(begun, server=server, clients=(begun.clients, known))

    def step(self, state, clients, *, key):
        choose_key, measure_key, key = jr.split(key, 3)
        check_one_model(self, self.algorithm, state)
        (states, known), at = state.clients, state.server
        longest = self._longest(at)
        chosen = self._chosen(known, longest, state.round, clients, choose_key)
        taking = clients.only(chosen)
        measured = taking(
            MeasuresUtility(self.loss, self.batching),
            UniformMean(),
            Broadcast(state.params, state.rest),
            jnp.zeros_like(known.utility),
            key=measure_key,
        )
        inner = dataclasses.replace(state, server=at.server, clients=states)
        after, metrics, accept = self.algorithm.step(inner, taking, key=key)
        known = Remembered(
            jnp.where(chosen, measured.clients, known.utility),
            jnp.where(chosen, state.round + 1, known.last),
        )
        total = jnp.sum(jnp.where(chosen, known.utility, 0))
        history = jnp.roll(at.history, -1).at[-1].set(total)
        after = dataclasses.replace(
            after,
            server=OortState(after.server, history, longest),
            clients=(after.clients, known),
        )
        # The model that it measures is the one it is sent anyway.
        return after, add_bits(metrics, bits_of(UP, measured.metrics)), accept

    def model(self, state):
        return self.algorithm.model(state)

    def own_model(self, state, kept):
        inner = dataclasses.replace(state, server=state.server.server)
        return self.algorithm.own_model(inner, kept[0])

    def _longest(self, at: OortState) -> Float[Array, ""] | None:
        """The pacer: how long this round may take."""
        if at.seconds is None or self.preferred_seconds is None:
            return None
        before, recent = at.history.reshape(2, self.window).sum(1)
        longer = at.seconds + self.preferred_seconds.astype(at.seconds.dtype)
        return jnp.where(before > recent, longer, at.seconds)

    def _chosen(
        self,
        known: Remembered,
        longest: Float[Array, ""] | None,
        before: Int[Array, ""],
        clients: Participants,
        key: PRNGKeyArray,
    ) -> Bool[Array, "devices slots"]:
        draw_key, explore_key = jr.split(key)
        # One that would take no step counts as absent.
        there = clients.present & (clients.cohort.stop > clients.cohort.start)
        old = there & (known.last > 0)
        new = there & ~old
        number, count = (before + 1).astype(known.utility.dtype), self.num_chosen
        utility = jnp.minimum(known.utility, _quantile(known.utility, old, self.clip))
        since = jnp.maximum(known.last, 1).astype(utility.dtype)
        utility = utility + jnp.sqrt(0.1 * jnp.log(number) / since)
        speed = jnp.zeros_like(utility)
        if longest is not None:
            seconds = _seconds(clients).astype(utility.dtype)
            late = jnp.maximum(seconds / longest.astype(utility.dtype), 1)
            utility = utility * late ** -self.alpha.astype(utility.dtype)
            speed = -jnp.log(seconds)
        share = jnp.maximum(
            self.exploration * self.exploration_decay ** (number - 1),
            jnp.minimum(self.least_exploration, self.exploration),
        )
        known_best = jnp.round((1 - share) * count).astype(jnp.int32)
        num_new, num_old = (x.sum(dtype=jnp.int32) for x in (new, old))
        explore = jnp.minimum(count - known_best, num_new)
        exploit = jnp.minimum(count - explore, num_old)
        explore = jnp.minimum(count - exploit, num_new)
        ordered = jnp.sort(jnp.where(old, -utility, jnp.inf).reshape(-1))
        bar = -self.cutoff.astype(utility.dtype) * ordered[jnp.maximum(exploit - 1, 0)]
        least = jnp.finfo(utility.dtype).tiny
        by_utility = jnp.log(jnp.maximum(utility, least))
        by_utility = by_utility + _noise(draw_key, clients, utility.dtype)
        able = clients.only(old & (utility >= bar))
        speed = speed + _noise(explore_key, clients, utility.dtype)
        return highest(by_utility, able, exploit) | highest(
            speed, clients.only(new), explore
        )


def _noise(key: PRNGKeyArray, clients: Participants, dtype: Any) -> Array:
    """Of each client a Gumbel variable of its own: the highest sums with logarithms of
    weights are drawn in proportion to these, without replacement."""

    def one(index: Array) -> Array:
        return jr.gumbel(jr.fold_in(key, index), (), dtype)

    return jax.vmap(jax.vmap(one))(clients.index)


def _quantile(x: Array, where: Array, share: Array) -> Array:
    """Of those values; infinity if there are none."""
    ordered = jnp.sort(jnp.where(where, x, jnp.inf).reshape(-1))
    place = share.astype(x.dtype) * jnp.maximum(where.sum() - 1, 0).astype(x.dtype)
    low = jnp.floor(place)
    below, above = (ordered[p.astype(jnp.int32)] for p in (low, jnp.ceil(place)))
    return jnp.where(where.any(), below + (place - low) * (above - below), jnp.inf)


def _seconds(clients: Participants) -> Array:
    info = clients.info
    if not isinstance(info, Mapping) or "seconds" not in info:
        raise ValueError(
            "`Oort` with `preferred_seconds` asks how long each client takes, and the "
            "loader does not say: give `Loader(..., info=lambda round, clients: "
            "{'seconds': seconds[clients]})`, or `preferred_seconds=None`."
        )
    return info["seconds"]
