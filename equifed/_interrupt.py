"""What an interrupt may not come between, and what is kept of what was reached.

An interrupt ends the program, as do all errors: a sweep must not go on with its next
training. But the exception brings with it what was reached, to whoever catches it.
"""

import _signal  # pyright: ignore
import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


# Every round asks for these, and `signal` takes forty microseconds to turn functions
# and numbers into enumerations; beneath it they take one.
_SIGINT = int(signal.SIGINT)


class uninterrupted:  # noqa: N801 (reads as what it does)
    """A context in which Ctrl-C waits for the end of the context.

    Signals reach the main thread only; elsewhere there is nothing to do.
    """

    def __enter__(self) -> None:
        self._came: tuple[int, FrameType | None] | None = None
        self._handler: Any = None
        if threading.get_ident() == threading.main_thread().ident:
            handler = _signal.getsignal(_SIGINT)
            if callable(handler):
                self._handler = handler
                _signal.signal(_SIGINT, self._keep)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._came = (number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handler is not None:
            _signal.signal(_SIGINT, self._handler)
            if self._came is not None:
                self._handler(*self._came)


def keep(error: BaseException, note: str, **reached: Any) -> None:
    """Gives an exception what was reached before it, as attributes, and a note."""
    for name, value in reached.items():
        # A class without a `__dict__`, or a frozen one, takes none.
        with contextlib.suppress(AttributeError, TypeError):
            setattr(error, name, value)
    if note:
        error.add_note(note)


def where(error: BaseException, name: str) -> str:
    """How to get at what an exception keeps."""
    return (
        f"`{name}` of this exception: `except {type(error).__name__} as stop: {name} = "
        f"stop.{name}`, or `{name} = sys.last_value.{name}` in a notebook"
    )
