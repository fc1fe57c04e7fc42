"""Making the next items in a background thread, while this one is being used."""

import contextlib
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax


T = TypeVar("T")


def prefetched(items: Iterable[T], depth: int) -> Iterator[T]:
    """Iterates in a background thread, at most `depth` items ahead of their use.

    An error of the thread is raised where its item would have been. The thread ends
    with the last item, or when the iterator is closed.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    closed = threading.Event()
    # Settings made with a context manager hold for one thread; hand them on.
    device = jax.config.jax_default_device  # pyright: ignore
    x64 = jax.config.jax_enable_x64  # pyright: ignore

    def work():
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.default_device(device))
            stack.enter_context(jax.enable_x64(x64))
            try:
                iterator = iter(items)
                while True:
                    room.acquire()
                    if closed.is_set():
                        return
                    ready.put(("item", next(iterator)))
            except StopIteration:
                ready.put(("end", None))
            except BaseException as error:  # noqa: BLE001
                ready.put(("error", error))

    thread = threading.Thread(target=work, name="equifed-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            room.release()
            yield value
    finally:
        closed.set()
        room.release()
        if not sys.is_finalizing():  # Then the thread is as good as gone already.
            thread.join()
