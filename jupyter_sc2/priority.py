"""The model's threads give way to the user's cell.

Numerical libraries share a cell's work out among the cores and wait for the slowest: a thread of ours that takes a
tenth of one core made a loop of matrix products on two cores 2.5 times as slow at a niceness of 10, 1.5 times at
19, and no slower where it runs only when nothing else in the kernel wants the core (SCHED_IDLE).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

LOWEST = 19


def give_way() -> None:
    """Lowers the calling thread's priority, for good, and that of the threads that it starts from now on.

    On Linux alone: elsewhere a priority is the whole process's, or moves a thread to slower cores.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def give_way_as_a_session() -> None:
    """For a process that such a thread has started in a session of its own.

    It has the thread's priority; but Linux may share the cores out among sessions first (sched_autogroup).
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_IDLE:
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(LOWEST))
