"""When to decode: at once where that costs little, else once the next key is overdue."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from statistics import median

# A longer gap is a pause, in seconds.
FULL_PAUSE_S = 0.6
# Nobody who pauses waits longer than this, in seconds.
MAX_DELAY_S = 0.25
# Gaps that have to be known.
MIN_SAMPLES = 8
# Front ends that are remembered, those that were typed in last.
MAX_TYPISTS = 32


@dataclass
class _Typist:
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    last: float | None = None


class AdaptiveDebounce:
    """How quickly keys follow one another in each front end, and how long it takes to decode a completion."""

    def __init__(self) -> None:
        self._typists: OrderedDict[str, _Typist] = OrderedDict()
        self._costs: deque[float] = deque(maxlen=20)

    def record_keystroke(self, now: float, front_end: str = "") -> None:
        typist = self._typists.setdefault(front_end, _Typist())
        self._typists.move_to_end(front_end)
        if len(self._typists) > MAX_TYPISTS:
            self._typists.popitem(last=False)
        if typist.last is not None and now - typist.last < FULL_PAUSE_S:
            typist.gaps.append(now - typist.last)
        typist.last = now

    def record_latency(self, seconds: float) -> None:
        self._costs.append(seconds)

    def delay(self, front_end: str = "") -> float:
        """Seconds from a key until decoding is worth beginning.

        What is decoded before the next key is mostly for nothing. A model that is done in half of a usual gap has
        shown something by then; a slower one would only have kept the machine busy.
        """
        typist = self._typists.get(front_end)
        if typist is None or len(typist.gaps) < MIN_SAMPLES or not self._costs:
            return 0.0
        usual = median(typist.gaps)
        return 0.0 if median(self._costs) < usual / 2 else min(usual, MAX_DELAY_S)
