"""The model's threads give way to the user's cell.

A little only: a thread of ours that holds the interpreter's lock and never gets a core would stop the cell that waits
for that lock. So not SCHED_IDLE, with which a loop of matrix products on two cores ran undisturbed most of the time
and once took ten times as long.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

# Of 19 steps down: on a core that both want, a tenth of what the user's thread gets.
NICENESS = 10


def give_way() -> None:
    """Lowers the calling thread's priority, for good, and that of the threads that it starts from now on.

    On Linux alone: elsewhere a priority is the whole process's, or moves a thread to slower cores.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def give_way_as_a_session() -> None:
    """For a process that such a thread has started in a session of its own.

    It has the thread's priority; but Linux may share the cores out among sessions first (sched_autogroup).
    """
    if sys.platform == "linux" and (niceness := os.nice(0)) > 0:
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(niceness))
