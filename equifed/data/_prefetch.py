"""Making the next items in a background thread, while this one is being used.

A read may stall: a disk that does not answer, a stream that waits for its server. No
one may wait for it then, least of all a user who has pressed Ctrl-C. So a thread that
is no longer needed is told so and given a moment to end; one that does not is left
alone, and as it is a daemon the interpreter does not wait for it either.
"""

import atexit
import contextlib
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import jax


T = TypeVar("T")

# How long a thread may have been at an item, in seconds, and still be waited for.
_PATIENCE = 0.4


def prefetched(items: Iterable[T], depth: int) -> Iterator[T]:
    """Iterates in a background thread, at most `depth` items ahead of their use.

    An error of the thread is raised where its item would have been. The thread ends
    with the last item, or when the iterator is closed: at once, or if it is in the
    middle of an item, with that.
    """
    if depth == 0:
        yield from items
        return
    worker = _Worker(items, depth)
    try:
        while True:
            kind, value = worker.ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            worker.room.release()
            yield value
    finally:
        worker.tell()
        worker.join()


class _Worker(Generic[T]):
    """A thread that makes items, and what it shares with the one who wants them."""

    def __init__(self, items: Iterable[T], depth: int):
        self.ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.room = threading.Semaphore(depth)
        self._closed = threading.Event()
        self._began: float | None = None  # When the item that is being made was begun.
        # Settings made with a context manager hold for one thread; hand them on.
        device = jax.config.jax_default_device  # pyright: ignore
        x64 = jax.config.jax_enable_x64  # pyright: ignore
        settings = (
            lambda: jax.default_device(device),
            lambda: jax.enable_x64(x64),
        )
        self._thread = threading.Thread(
            target=self._work,
            args=(items, settings),
            name="equifed-prefetch",
            daemon=True,
        )
        _WORKERS.add(self)
        self._thread.start()

    def _work(
        self, items: Iterable[T], settings: tuple[Callable[[], Any], ...]
    ) -> None:
        with contextlib.ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting())
            try:
                iterator = iter(items)
                while True:
                    self.room.acquire()
                    if self._closed.is_set():
                        return
                    self._began = time.monotonic()
                    self.ready.put(("item", next(iterator)))
                    self._began = None
            except StopIteration:
                self.ready.put(("end", None))
            except BaseException as error:  # noqa: BLE001
                self.ready.put(("error", error))

    def tell(self) -> None:
        """Tells the thread that nobody wants what it makes."""
        self._closed.set()
        self.room.release()

    def join(self) -> None:
        if sys.is_finalizing():
            return  # Then the thread is as good as gone already.
        began = self._began
        spent = 0.0 if began is None else time.monotonic() - began
        self._thread.join(max(_PATIENCE - spent, 0.0))


_WORKERS: weakref.WeakSet[_Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread inside compiled code that outlives the interpreter would abort it."""
    workers = list(_WORKERS)
    for worker in workers:
        worker.tell()
    for worker in workers:
        worker.join()
