"""Adaptive debounce: decode at once if that costs little, else when the next key is overdue."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from statistics import median

# Between two keys; shorter gaps are typing.
MIN_PAUSE_S = 0.6
# The longest that anybody waits.
MAX_DELAY_S = 0.25
# Gaps between keys that have to be known before anything is delayed.
MIN_SAMPLES = 8
# Front ends that are remembered, the most recent ones.
MAX_TYPISTS = 32


@dataclass
class _Typist:
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    last: float | None = None


class AdaptiveDebounce:
    """The typing speed in each front end, and the time that a completion takes to decode."""

    def __init__(self) -> None:
        self._typists: OrderedDict[str, _Typist] = OrderedDict()
        self._costs: deque[float] = deque(maxlen=20)

    def record_keystroke(self, now: float, front_end: str = "") -> None:
        typist = self._typists.setdefault(front_end, _Typist())
        self._typists.move_to_end(front_end)
        if len(self._typists) > MAX_TYPISTS:
            self._typists.popitem(last=False)
        if typist.last is not None and now - typist.last < MIN_PAUSE_S:
            typist.gaps.append(now - typist.last)
        typist.last = now

    def record_latency(self, seconds: float) -> None:
        self._costs.append(seconds)

    def delay(self, front_end: str = "") -> float:
        """Seconds from a key until decoding is worthwhile.

        Tokens that are decoded before the next key are mostly wasted. A model that needs less than half of the median
        gap has shown something by then; a slower one would only have kept the machine busy.
        """
        typist = self._typists.get(front_end)
        if typist is None or len(typist.gaps) < MIN_SAMPLES or not self._costs:
            return 0.0
        usual = median(typist.gaps)
        return 0.0 if median(self._costs) < usual / 2 else min(usual, MAX_DELAY_S)
