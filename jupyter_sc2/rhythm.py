"""When to decode: at once where that costs little, else once the next key is overdue."""

from __future__ import annotations

from collections import deque
from statistics import median

# A longer gap is a pause, in seconds.
PAUSE = 0.6
# Nobody who pauses waits longer than this, in seconds.
LONGEST = 0.25
# Gaps that have to be known.
ENOUGH = 8


class Rhythm:
    """How quickly keys follow one another, and how long it takes to decode a completion."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=50)
        self._last: float | None = None
        self._costs: deque[float] = deque(maxlen=20)

    def key(self, now: float) -> None:
        if self._last is not None and now - self._last < PAUSE:
            self._gaps.append(now - self._last)
        self._last = now

    def decoded(self, seconds: float) -> None:
        self._costs.append(seconds)

    def delay(self) -> float:
        """Seconds from a key until decoding is worth beginning.

        What is decoded before the next key is mostly for nothing. A model that is done in half of a usual gap has
        shown something by then; a slower one would only have kept the machine busy.
        """
        if len(self._gaps) < ENOUGH or not self._costs:
            return 0.0
        usual = median(self._gaps)
        return 0.0 if median(self._costs) < usual / 2 else min(usual, LONGEST)
