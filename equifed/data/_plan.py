"""The plan of a round: who sits where, and which rows each step takes.

All of it is NumPy on integers. Clients are sorted by their number of steps, dealt to
the devices longest first, each to the least loaded one, and their steps are laid end
to end. Those of equally many steps then change places, so that as many as can are at
home: on the device that has their states, where these are spread over the devices.
Nothing is random here but each client's own order, which comes from a generator of its
own; so neither the device nor the slot can change what a client sees.

The sizes of the arrays are what a round is compiled for. They are those that nearly all
rounds fit, if that is known; a round that does not fit has larger ones, on a coarse
geometric ladder. No round's sizes depend on the rounds before it.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from .._cohort import NO_CLIENT, NO_ROW
from .._mesh import clients_each
from .._words import shown
from ._arrays import as_numbers
from ._batching import AbstractBatching
from ._random import Generators, ORDER
from ._room import Needs, raised
from ._whose import failed, Whose


class Plan(NamedTuple):
    """The integer arrays of a `Cohort`, and what its pools of examples must hold."""

    order: Int[np.ndarray, "devices steps batch"]
    start: Int[np.ndarray, "devices slots"]
    stop: Int[np.ndarray, "devices slots"]
    first: Int[np.ndarray, "devices slots"]
    num_examples: Int[np.ndarray, "devices slots"]
    index: Int[np.ndarray, "devices slots"]
    pools: Sequence[Int[np.ndarray, " members"]]
    """For each device, the places in `clients` whose examples make up its pool."""
    num_rows: int
    """The number of rows of every device's pool."""
    place: Int[np.ndarray, "devices slots"]
    """The place in `clients` of each slot's; `NO_ROW` in an empty one."""


def make_plan(
    clients: Int[np.ndarray, " clients"],
    sizes: Int[np.ndarray, " clients"],
    first: Int[np.ndarray, " clients"] | None,
    batching: AbstractBatching,
    *,
    most: Int[np.ndarray, " clients"] | None = None,
    seed: int,
    round: int,
    num_devices: int,
    num_clients: int | None,
    max_slots: int,
    whose: Whose,
    room: Needs = Needs(),  # noqa: B008 (never changed)
) -> Plan:
    """Plans a round.

    **Arguments:**

    - `clients`: The numbers of the clients that take part. One that occurs twice gets
        two slots, which do the same.
    - `sizes`: Their numbers of examples.
    - `first`: Where their examples begin in a pool that holds the whole dataset, or
        `None` if each device's pool holds those of its own clients only.
    - `batching`: How they visit their examples.
    - `most`: The most steps that each of them takes, the first ones; all if not given.
    - `seed`, `round`: What the order depends on, beside the client's number.
    - `num_devices`: How many devices share the round.
    - `num_clients`: The size of the population, where it is known.
    - `max_slots`: The most clients that any round has.
    - `whose`: Says who a client is, by its place in `clients`.
    - `room`: What to make room for, at least.
    """
    steps = planned_steps(sizes, batching)
    orders = _orders(clients, sizes, steps, batching, seed, round, whose)
    if most is not None and (most < steps).any():
        steps = np.minimum(steps, most)
        orders = [order[:n] for order, n in zip(orders, steps.tolist(), strict=True)]
    members = _members(clients, steps, num_devices, num_clients)

    num_slots = max(len(m) for m in members)
    num_slots = max(num_slots, min(ladder(max(num_slots, room.slots)), max_slots), 1)
    busiest = max(int(steps[m].sum()) for m in members)
    num_steps = ladder(raised(busiest, room.steps))
    order = np.full((num_devices, num_steps, batching.batch_size), NO_ROW, np.int32)
    start, stop, begin, count = np.zeros((4, num_devices, num_slots), np.int32)
    index = np.full((num_devices, num_slots), NO_CLIENT, np.int32)
    place = np.full((num_devices, num_slots), NO_ROW, np.int32)
    pools, num_rows = [], 0
    for d, m in enumerate(members):
        if len(m) == 0:
            pools.append(m)
            continue
        if first is None:
            pool, firsts = _pool(clients[m], sizes[m])
            pools.append(m[pool])
            num_rows = max(num_rows, int(sizes[m[pool]].sum()))
        else:
            firsts = first[m]
        ends = np.cumsum(steps[m])
        rows = np.concatenate([orders[i] for i in m])
        ends_at = np.repeat(sizes[m], steps[m])[:, None]
        if rows.min(initial=NO_ROW) < NO_ROW or (rows >= ends_at).any():
            raise _outside(orders, sizes, batching, whose)
        shift = np.repeat(firsts, steps[m])[:, None]
        order[d, : len(rows)] = np.where(rows == NO_ROW, NO_ROW, rows + shift)
        slots = slice(0, len(m))
        start[d, slots], stop[d, slots] = ends - steps[m], ends
        begin[d, slots] = np.where(sizes[m] > 0, firsts, 0)
        count[d, slots] = sizes[m]
        index[d, slots] = clients[m]
        place[d, slots] = m
    num_rows = ladder(max(num_rows, 0 if first is not None else room.rows))
    return Plan(order, start, stop, begin, count, index, pools, num_rows, place)


def needs(
    clients: Int[np.ndarray, " clients"],
    sizes: Int[np.ndarray, " clients"],
    batching: AbstractBatching,
    *,
    most: Int[np.ndarray, " clients"] | None = None,
    num_devices: int,
    num_clients: int | None,
) -> Needs:
    """What a round needs, without laying out its steps; as for `make_plan`."""
    steps = planned_steps(sizes, batching)
    steps = steps if most is None else np.minimum(steps, most)
    members = _members(clients, steps, num_devices, num_clients)
    pools = [m[_pool(clients[m], sizes[m])[0]] for m in members if len(m) > 0]
    return Needs(
        steps=max(int(steps[m].sum()) for m in members),
        slots=max(len(m) for m in members),
        rows=max((int(sizes[pool].sum()) for pool in pools), default=0),
    )


def _members(
    clients: Int[np.ndarray, " clients"],
    steps: Int[np.ndarray, " clients"],
    num_devices: int,
    num_clients: int | None,
) -> list[Int[np.ndarray, " members"]]:
    """The places in `clients` of each device's clients, longest first."""
    ranked = np.lexsort((clients, -steps))
    dealt = _deal(steps[ranked], num_devices)
    if num_devices > 1 and num_clients is not None:
        home = clients[ranked] // clients_each(num_clients, num_devices)
        dealt = _homed(steps[ranked], dealt, home)
    return [ranked[dealt == d] for d in range(num_devices)]


def ladder(size: int) -> int:
    """Rounds up to one of four sizes in each octave; at least 1."""
    rung = 2 ** max(max(size, 1).bit_length() - 3, 0)
    return max(-(-size // rung) * rung, 1)


def _orders(
    clients: Int[np.ndarray, " clients"],
    sizes: Int[np.ndarray, " clients"],
    steps: Int[np.ndarray, " clients"],
    batching: AbstractBatching,
    seed: int,
    round: int,
    whose: Whose,
) -> list[Int[np.ndarray, "steps batch"]]:
    # To look up a method of an Equinox module, or to call what is found, costs more
    # than to lay out a client.
    lay_out, batch_size = type(batching).order, batching.batch_size
    orders = []
    rng, rows = Generators(seed, ORDER), (clients, sizes, steps)
    for client, size, expected in zip(*(x.tolist() for x in rows), strict=True):
        try:
            order = np.asarray(lay_out(batching, size, rng(client, round)))
        except Exception as error:
            who = f"{whose(len(orders))}, who has {size} examples"
            raise failed(
                f"`{type(batching).__name__}.order` for {who}, in round {round}", error
            ) from error
        if order.dtype.kind not in "iu" and order.size > 0:
            raise TypeError(
                f"`{type(batching).__name__}.order` must lay out integers, the numbers "
                f"of examples, got {order.dtype} for {whose(len(orders))}."
            )
        if order.shape != (expected, batch_size):
            raise ValueError(
                f"`{type(batching).__name__}.order` laid out an array of shape "
                f"{order.shape} for {whose(len(orders))}, who has {size} examples, but "
                "by its `num_steps` and `batch_size` the shape is "
                f"{(expected, batch_size)}."
            )
        orders.append(order.astype(np.int64, copy=False))
    return orders


def planned_steps(
    sizes: Int[np.ndarray, " clients"], batching: AbstractBatching
) -> Int[np.ndarray, " clients"]:
    given = type(batching).num_steps(batching, sizes)
    steps = as_numbers(given)
    if steps is None or steps.shape != sizes.shape or steps.min(initial=0) < 0:
        raise ValueError(
            f"`{type(batching).__name__}.num_steps` must be one integer, of at least "
            f"0, for each of {len(sizes)} clients, got {shown(given)}."
        )
    return steps


def _outside(
    orders: list[Int[np.ndarray, "steps batch"]],
    sizes: Int[np.ndarray, " clients"],
    batching: AbstractBatching,
    whose: Whose,
) -> ValueError:
    several = zip(orders, sizes.tolist(), strict=True)
    wrong = [o[(o < NO_ROW) | (o >= size)].tolist() for o, size in several]
    place = next(i for i, rows in enumerate(wrong) if rows)
    return ValueError(
        f"`{type(batching).__name__}.order` laid out example {wrong[place][0]} for "
        f"{whose(place)}, who has {sizes[place]} examples, numbered from 0 on; an "
        f"empty place is {NO_ROW}."
    )


def _deal(
    steps: Int[np.ndarray, " clients"], num_devices: int
) -> Int[np.ndarray, " clients"]:
    """The device of each client: the one with the fewest steps so far, and among
    those the one with the fewest clients."""
    if num_devices == 1:
        return np.zeros(len(steps), np.int64)
    devices = [(0, 0, d) for d in range(num_devices)]
    dealt = np.empty(len(steps), np.int64)
    num_busy = int(np.count_nonzero(steps))
    for i, load in enumerate(steps.tolist()):
        if i == num_busy:
            # Clients without steps are spread evenly instead.
            devices = [(count, 0, d) for _, count, d in devices]
            heapq.heapify(devices)
        total, count, d = devices[0]
        dealt[i] = d
        step = (total + load, count + 1, d) if i < num_busy else (total + 1, 0, d)
        heapq.heapreplace(devices, step)
    return dealt


def _homed(
    steps: Int[np.ndarray, " clients"],
    dealt: Int[np.ndarray, " clients"],
    home: Int[np.ndarray, " clients"],
) -> Int[np.ndarray, " clients"]:
    """Clients of equally many steps change places, so that as many as can are at home:
    every device has as many clients and steps as before."""
    free = Counter(zip(steps.tolist(), dealt.tolist(), strict=True))
    new, guests = dealt.copy(), []
    for i, place in enumerate(zip(steps.tolist(), home.tolist(), strict=True)):
        if free[place] > 0:
            free[place] -= 1
            new[i] = place[1]
        else:
            guests.append(i)
    left = sorted(free.elements(), key=lambda place: (-place[0], place[1]))
    new[guests] = [device for _, device in left]
    return new


def _pool(
    clients: Int[np.ndarray, " members"], sizes: Int[np.ndarray, " members"]
) -> tuple[Int[np.ndarray, " distinct"], Int[np.ndarray, " members"]]:
    """Which members bring their examples (each client once), and where each member's
    examples then begin."""
    _, pool, place = np.unique(clients, return_index=True, return_inverse=True)
    ends = np.cumsum(sizes[pool])
    return pool, (ends - sizes[pool])[place.reshape(-1)]
