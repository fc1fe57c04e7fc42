"""When a round, or an evaluation, is about to be compiled, which takes seconds.

JAX tells what it traces, and what is traced is then compiled. Most trainings compile
once; one whose round does not fit the room of those before compiles again, which looks
like a training that hangs.
"""

from collections.abc import Callable

import jax.monitoring


_TRACED = "/jax/core/compile/jaxpr_trace_duration"
# What the programs of rounds and of evaluations are called.
_PROGRAMS = (
    "one_round",
    "one_round_of_slots",
    "several_rounds",
    "_round",
    "_over_rows",
    "_side_by_side",
)


class Compiling:
    """Calls `tell` before a program is compiled, from when it is made until `close`."""

    def __init__(self, tell: Callable[[], None]):
        self._tell = tell
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **about: str | int) -> None:
        if self._open and event == _TRACED and about.get("fun_name") in _PROGRAMS:
            self._tell()
