"""Clocks and sleep that the user's code does not change.

Tests freeze time: freezegun, or `mock.patch("time.monotonic")`. Both put something else into the module `time`, which
is the same for all threads, and freezegun into every module that has one of its functions. Here is a copy of that
module which nobody else has. What is left to time-machine, which changes the functions themselves, is `now`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec

_spec = BuiltinImporter.find_spec("time")
assert _spec is not None
_time = module_from_spec(_spec)
BuiltinImporter.exec_module(_time)

# Seconds since some moment. Not `monotonic`, which time-machine may change; on Linux and macOS it is the same clock.
monotonic: Callable[[], float] = _time.perf_counter
monotonic_ns: Callable[[], int] = _time.perf_counter_ns
process_time: Callable[[], float] = _time.process_time  # seconds of processor time
thread_time: Callable[[], float] = _time.thread_time
thread_time_resolution_s: float = _time.get_clock_info("thread_time").resolution
now: Callable[[], float] = _time.time  # seconds since 1970
sleep: Callable[[float], None] = _time.sleep


def short_date(at: float) -> str:
    """The local date of a time since 1970, such as "26 Nov"."""
    day = _time.localtime(at)
    return f"{day.tm_mday} {_time.strftime('%b', day)}"
