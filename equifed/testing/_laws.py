"""Laws that hold for every algorithm, whatever it computes.

Each is a function of `make`, which builds the algorithm for a loss and a batching:

```python
import equifed as eqf

def make(loss, batching):
    return MyAlgorithm(loss, optax.sgd(0.1), batching)

eqf.testing.check_laws(make)
```
"""

import time
from collections.abc import Sequence

from .._check import checked
from .._roles import Roles
from ._claim import Law
from ._counting import (
    absent_messages,
    empty_places,
    ledger,
    metrics_are_means,
    nobody,
    silent_clients,
)
from ._keys import key_reuse, keys
from ._losses import LawModel
from ._running import (
    block_size,
    devices,
    differentiable,
    empty_slots,
    one_trace,
    ordered,
    permutation,
    resume,
    rounds_per_call,
    streamed,
    sweep,
)
from ._setup import Make, shared


# Those first that can do with one program.
LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        resume,
        keys,
        key_reuse,
        empty_places,
        silent_clients,
        absent_messages,
        ledger,
        metrics_are_means,
        nobody,
        one_trace,
        permutation,
        empty_slots,
        streamed,
        block_size,
        rounds_per_call,
        ordered,
        devices,
        sweep,
        differentiable,
    )
}
"""Every law, by its name."""


@checked(
    make="Give `make(loss, batching)`, which builds the algorithm.",
    model="Give one that is called with three numbers and predicts one.",
)
def check_laws(
    make: Make,
    *,
    skip: Sequence[str] = (),
    model: LawModel | None = None,
    roles: Roles | None = None,
) -> dict[str, float]:
    """Puts an algorithm through every law, and prints how long that took.

    The cohorts' `info` is a dictionary with `staleness`, which of half of the messages
    is 1 in the second round.

    **Arguments:**

    - `make`: `make(loss, batching)` builds the algorithm.
    - `skip`: the names of laws that it need not obey: one that takes signs or rounds
        has no useful derivative, and skips `"differentiable"`.
    - `model`: of a method that asks for layers of some kind, a small model that has
        them, called with three numbers to predict one. By default it is
        [`equifed.testing.Linear`][], whose bias has the role that the method needs.
    - `roles`: the model's, where not all of it is shared.

    **Returns:**

    The seconds of CPU time that each law took, by its name. Nearly all of it is
    compilation.

    **Raises:**

    `AssertionError` that says which law fails, and what to do.
    """
    if isinstance(skip, str):
        raise TypeError(f"`skip` must be names: `({skip!r},)`, not {skip!r}.")
    for name in skip:
        if name not in LAWS:
            raise ValueError(f"There is no law {name!r}; these are: {', '.join(LAWS)}.")
    if roles is not None and model is None:
        raise ValueError("`roles` are those of `model`. Give the model too.")
    seconds: dict[str, float] = {}
    with shared(make, model, roles):
        for name, law in LAWS.items():
            if name not in skip:
                start = time.process_time()
                law(make)
                seconds[name] = time.process_time() - start
    total = sum(seconds.values())
    print(f"{len(seconds)} laws hold. It took {total:.1f} seconds of CPU time.")
    return seconds
