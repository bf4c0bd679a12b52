"""Keeps the background thread out of foreign code while the interpreter exits.

At its exit Python ends a daemon thread the next time that one asks for the GIL (before 3.14). If torch or a
Rust library stand on its stack then, they cannot be unwound and abort the process: "terminate called without
an active exception", exit code 134. So that thread holds the gate while it calls them. At exit the gate is shut:
the main thread waits for the running forward pass, and a thread that comes later waits at the gate forever, which a
daemon thread may do.

What foreign code prints inside the gate is suppressed as well: see output_filter.py.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_sc2.runtime.output_filter import silence

# In seconds. A forward pass takes half a second at most; a machine that swaps gets no more than this.
EXIT_TIMEOUT_S = 10.0


class Gate:
    """Used with `with`, by any number of threads, not nested; never around a `yield`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._threads = 0
        self._shut = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """While a daemon thread that may enter lives: it is shut when the interpreter exits meanwhile."""
        with self._changed:
            self._threads += 1
            if self._threads == 1:
                atexit.register(self.shut)
        try:
            yield
        finally:
            with self._changed:
                self._threads -= 1
                if not self._threads:
                    atexit.unregister(self.shut)

    def __enter__(self) -> None:
        with self._changed:
            # The main thread may still run the user's own exit handlers.
            while self._shut and threading.current_thread() is not threading.main_thread():
                self._changed.wait()
            self._inside += 1
        silence.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        silence.__exit__()
        with self._changed:
            self._inside -= 1
            if self._shut:
                self._changed.notify_all()

    def shut(self, patience: float = EXIT_TIMEOUT_S) -> bool:
        """Lets nobody in any more, and waits until all are out; False if that took too long."""
        with self._changed:
            self._shut = True
            return self._changed.wait_for(lambda: self._inside == 0, patience)


gate = Gate()
if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads that were inside.
    os.register_at_fork(after_in_child=gate._reset)
