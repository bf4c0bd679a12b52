"""The model's threads give way to the user's cell."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

# Of 19 steps down. A thread that is 10 below another gets a tenth of what that gets on a core they both want.
NICENESS = 10


def give_way() -> None:
    """Lowers the calling thread's priority, for good, and that of threads that it starts from now on.

    On Linux alone: elsewhere a priority is the whole process's, or moves a thread to slower cores.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def give_way_as_a_process() -> None:
    """The same for a process of its own, which Linux may weigh as a group (sched_autogroup)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.nice(NICENESS)
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(NICENESS))
