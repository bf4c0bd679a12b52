"""Shorter turns of the GIL while somebody waits for text beside a running cell.

Python lets a thread keep the GIL for 5 ms while others want it (`sys.setswitchinterval`). A request needs it some
thirty times until its first text, and a cell that computes in Python makes it wait each time. So for as long as a
request is worked on beside such a cell the turns are short, and then as they were; unless the user's code has set them
meanwhile, which then counts.
"""

from __future__ import annotations

import os
import sys
import threading

# Seconds. Shorter ones make nothing come sooner, as the other thread has to be woken up.
SHORT_TURN_S = 0.0005


class ShortTurns:
    """Asked for by any number of requests at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._before = self._ours = 0.0

    def begin(self) -> None:
        with self._lock:
            self._asked += 1
            if self._asked == 1:
                self._before = self._ours = sys.getswitchinterval()
                if self._before > SHORT_TURN_S:
                    sys.setswitchinterval(SHORT_TURN_S)
                    self._ours = sys.getswitchinterval()

    def end(self) -> None:
        with self._lock:
            self._asked = max(0, self._asked - 1)  # a forked child has forgotten who asked
            if not self._asked:
                self._restore()

    def _restore(self) -> None:
        if self._ours != self._before and sys.getswitchinterval() == self._ours:
            # Python counts in whole microseconds, and leaves off what is more.
            sys.setswitchinterval(self._before + 0.5e-6)
        self._ours = self._before

    def _after_fork_in_child(self) -> None:
        """None of the requests is worked on here."""
        self._lock = threading.Lock()
        self._asked = 0
        self._restore()


short_turns = ShortTurns()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=short_turns._after_fork_in_child)
