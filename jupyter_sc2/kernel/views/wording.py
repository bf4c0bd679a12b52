"""Names, numbers and times as people write them, for all that the kernel shows."""

from __future__ import annotations

from jupyter_sc2.models.cards import PRECISION_NAMES


def precision(key: str) -> str:
    return PRECISION_NAMES.get(key, key)


def number(count: int) -> str:
    """With separators between thousands: "1,234"."""
    return f"{count:,}"


def share(part: int, whole: int) -> str:
    """In percent; "-" of nothing."""
    return f"{part / whole:.0%}" if whole else "-"


def duration(seconds: float | None) -> str:
    """With about two digits: "0.05 s", "0.5 s", "20 s", "2 min 5 s"; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 0.095:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def milliseconds(ms: float | None) -> str:
    """A time that was measured in milliseconds, as a duration."""
    return duration(None if ms is None else ms / 1000)
