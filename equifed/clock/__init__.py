"""Time passes: what a client's device is like, and what a round costs it.

A clock is made of data, on the host, before the device runs anything. A
[`equifed.clock.SystemModel`][] says for each client how fast it computes and sends,
when it is there, and whether it drops out. Its methods are pure functions of the seed,
the clients' numbers, and a time or a count (the number of the round, or of the event:
any whole number from 0 on), vectorised over the clients and free of any order:

```python
system = SystemModel(
    speed=LogNormal(1e9, 1.0),          # FLOP/s, one number for each client for ever
    downlink=LogNormal(2e7, 0.5),       # bits/s
    uplink=LogNormal(5e6, 0.5),
    availability=DailyAvailability(0.3),
    drops_after=0.05,
    seed=0,
)
clients = np.array([3, 17, 4])
system.available(clients, 3600.0)       # which of them are there at this second
times = system.times(clients, round, flops=steps * 1e6, bits_down=8e6, bits_up=8e6)
times.total                             # seconds of each: wait, download, compute, ...
system.drops(clients, round).before     # who is lost before it computes, and who after
system.until(clients, 3600.0)           # until when they stay, if they are there
system.next_available(clients, 3600.0)  # from when on they are there, if they are not
```

A [`equifed.data.Loader`][] takes a clock, which says who is in a round by when clients
have finished what [`equifed.clock.Work`][] says a round costs them:

```python
work = Work.of(algorithm, model, Loader(dataset, sampler, batching))
clock = SynchronousClock(system, work, goal=10, deadline=600.0)
loader = Loader(dataset, UniformSampler(13), batching, clock=clock)
```

and reports, by `loader.report(round)`, what the history of a training then has of each
round: the virtual `seconds` when it ended, and counts. Under an `AsynchronousClock`
nobody waits: a round is a buffer of messages that came, each with its staleness.
"""

from .asynchronous import AsynchronousClock as AsynchronousClock
from .availability import (
    AbstractAvailability as AbstractAvailability,
    AlwaysAvailable as AlwaysAvailable,
    DailyAvailability as DailyAvailability,
    SlottedAvailability as SlottedAvailability,
)
from .distributions import (
    Exponential as Exponential,
    LogNormal as LogNormal,
    Mixture as Mixture,
    Uniform as Uniform,
    Wave as Wave,
)
from .draws import Draws as Draws
from .fedscale import (
    DeviceTrace as DeviceTrace,
    read_availability as read_availability,
    read_devices as read_devices,
)
from .quantity import (
    AbstractQuantity as AbstractQuantity,
    Constant as Constant,
    PerClient as PerClient,
)
from .synchronous import SynchronousClock as SynchronousClock
from .system import (
    ClientTimes as ClientTimes,
    Drops as Drops,
    SystemModel as SystemModel,
)
from .trace import AvailabilityTrace as AvailabilityTrace
from .work import Work as Work
