"""The policy for HTTP requests that fail: which statuses pass, how long to wait before the next try, when to give up.

Everything here that speaks HTTP uses it: the hub's listings and transfers, and the requests to completions servers.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from jupyter_sc2.runtime.clock import monotonic, now, sleep

# Statuses of a server that is busy, restarting, or behind a proxy that finds none; 429 is "too many requests".
BUSY_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
# The same, and errors of the server's own, among them those of content delivery networks. A listing or a file that
# failed with one of them may well be there a moment later; a completion that failed would fail again.
PASSING_STATUSES = BUSY_STATUSES | {500, *range(520, 531)}
# How far a delay may differ from its nominal value, so that kernels do not return all at once.
JITTER_SHARE = 0.2
# Seconds between two looks, in a wait, whether what was asked for is still wanted.
CHECK_INTERVAL_S = 0.1
# A generator of its own, so that the user's seeded numbers stay the same.
_random = random.Random()


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often to try again, and after how many seconds: `first_delay_s`, then twice as many each time.

    A server's Retry-After counts where it is longer, up to `max_retry_after_s`.
    """

    retries: int
    first_delay_s: float
    max_delay_s: float
    max_retry_after_s: float

    def delay(self, failures: int, retry_after_s: float = 0.0) -> float | None:
        """Seconds to wait after so many failures in a row; None to give up."""
        if failures > self.retries:
            return None
        nominal = min(self.first_delay_s * 2.0 ** min(failures - 1, 30), self.max_delay_s)
        jittered = nominal * _random.uniform(1 - JITTER_SHARE, 1 + JITTER_SHARE)
        return max(jittered, min(retry_after_s, self.max_retry_after_s))


# A file of gigabytes is worth half a minute of waiting; who waits for ghost text does not wait for long.
DOWNLOADS = RetryPolicy(retries=5, first_delay_s=1.0, max_delay_s=30.0, max_retry_after_s=60.0)
COMPLETIONS = RetryPolicy(retries=3, first_delay_s=0.25, max_delay_s=1.0, max_retry_after_s=5.0)
# A server that has answered before is asked again as long as somebody requests completions.
LOST_SERVERS = RetryPolicy(
    retries=sys.maxsize, first_delay_s=2.0, max_delay_s=60.0, max_retry_after_s=60.0
)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the header Retry-After asks for; 0.0 where there is none that can be read.

    It is a number or a date (RFC 9110, 10.2.3). A date is compared with the server's own clock where it sends that.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        at, sent = _timestamp(value), _timestamp(headers.get("date", ""))
        seconds = 0.0 if at is None else at - (now() if sent is None else sent)
    return seconds if seconds > 0 else 0.0  # NaN is not


def _timestamp(date: str) -> float | None:
    try:
        seconds = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return seconds if math.isfinite(seconds) else None


def wait(seconds: float, check: Callable[[], None]) -> None:
    """Waits, and calls `check` again and again; what that raises ends the wait."""
    end = monotonic() + seconds
    while True:
        check()
        if (left := end - monotonic()) <= 0:
            return
        sleep(min(left, CHECK_INTERVAL_S))
