"""Where the clients' states lie, if not whole on every device.

A round needs the states of its own clients only. So those of a large population may lie
in the memory of the host, in files, or spread over the devices, and what a round is
given, and gives back, are the rows of its slots. In place of an array of all clients a
`State` then has a [`ClientRows`][equifed.ClientRows], which is read by the clients'
numbers.

`store.py` says whose rows there are, and which were written since when. `host.py`,
`disk.py` and `spread.py` are the three places, and `device.py` is for arrays that are
on the device. `moving.py` brings rows to a round and back; `choose.py` is what
`client_states=` means.
"""

from .choose import (
    begun as begun,
    check_place as check_place,
    ClientStates as ClientStates,
    moved as moved,
)
from .moving import mover as mover
from .rows import (
    ClientRows as ClientRows,
    rows_of as rows_of,
    store_of as store_of,
)
from .store import AbstractMover as AbstractMover, Store as Store
