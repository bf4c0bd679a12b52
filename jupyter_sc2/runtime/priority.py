"""Background work yields: while no core is free, it pauses as long as it has worked.

It does not use a low thread priority. A thread may lower its priority but, without privileges that a kernel does not
have, never raise it again, so decoding would need another thread. And a request would have to wait until the thread of
low priority reaches a point where it can stop: beside two busy processes on two cores (the embedded model on torch,
priority 10 steps lower) 239 ms in the median and 1.2 s at worst. At normal priority and with pauses these are 8 and
83 ms, and the two processes keep 0.9 of their speed.
"""

from __future__ import annotations

from collections.abc import Callable

from jupyter_sc2.runtime.clock import monotonic

# Seconds of work between two pauses, and that a pause takes at most.
WORK_S, MAX_PAUSE_S = 0.02, 0.5


class Pauses:
    """Called repeatedly by background work; pauses there."""

    def __init__(
        self,
        crowded: Callable[[], bool],
        wait: Callable[[float], object],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`crowded` tells whether no core is free, `wait` waits for some seconds, or until the work is unwanted."""
        self._crowded, self._wait, self._clock = crowded, wait, clock
        self._since = clock()

    def __call__(self) -> None:
        worked = self._clock() - self._since
        if worked < WORK_S:
            return
        if self._crowded():
            self._wait(min(worked, MAX_PAUSE_S))
        self._since = self._clock()
