"""Threads and processes of ours: what keeps a debugger and the user's tracers out of them, in one place.

What watches a process from inside leaves them alone. A debugger that stops at a breakpoint suspends every thread that
it knows, with whatever lock that one holds: completions would be over until the user goes on, and so would be the
control channel, over which the user says so. debugpy passes by what bears two marks, as do ipykernel's own threads.
Tracers and profilers that the user's code sets for new threads are taken off, for they would run that code on ours.
A Python process that is started while a debugger is attached waits for that one, which JupyterLab's never answers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jupyter_sc2.runtime.output_filter import silence

# pydevd's names: the first leaves a thread untraced, the second also keeps it off the list of the user's threads.
MARKS = ("pydev_do_not_trace", "is_pydev_daemon_thread")


def unwatched() -> None:
    """Makes the calling thread one of ours."""
    mark(threading.current_thread())
    with silence:  # a debugger warns of this
        if sys.gettrace() is not None:
            sys.settrace(None)
        if sys.getprofile() is not None:
            sys.setprofile(None)


def mark(thread: threading.Thread) -> None:
    for name in MARKS:
        setattr(thread, name, True)


class Thread(threading.Thread):
    """Calls `act` with these arguments, once started."""

    def __init__(
        self,
        act: Callable[..., object],
        *arguments: Any,
        name: str = "jupyter-sc2",
        daemon: bool = True,
    ) -> None:
        """A daemon, for which Python does not wait at its exit, unless said otherwise."""
        super().__init__(name=name, daemon=daemon)
        self._act, self._arguments = act, arguments
        mark(self)  # before it starts, as a debugger is told of each start

    def run(self) -> None:
        unwatched()
        self._act(*self._arguments)


class Timer(Thread):
    """Calls `act` after some seconds, unless cancelled before."""

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        super().__init__(self._wait)
        self._seconds, self._due, self._cancelled = seconds, act, threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def _wait(self) -> None:
        if not self._cancelled.wait(self._seconds):
            self._due()


def pool(workers: int, name: str = "jupyter-sc2") -> ThreadPoolExecutor:
    """Several threads of ours."""
    return ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=unwatched)


def unwatched_child() -> AbstractContextManager[None]:
    """Around the start of a process of ours: it does not wait for a debugger."""
    pydevd = sys.modules.get("_pydev_bundle.pydev_monkey")
    skip = getattr(pydevd, "skip_subprocess_arg_patch", None)
    return nullcontext() if skip is None else skip()
