"""The usage data for `%sc2 stats` and the panel: lines of text, and a small plot."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jupyter_sc2.runtime import clock
from jupyter_sc2.usage import Event, Summary, by_notebook, summary

# From an eighth to the whole height of a character.
BLOCKS = "▁▂▃▄▅▆▇█"
DAYS = 14
DAY_S = 86400.0
# Notebooks that get a line each.
MAX_NOTEBOOKS = 10


def lines(events: Sequence[Event]) -> list[str]:
    """The figures of all notebooks together, then of each."""
    whole = summary(events)
    if not whole.shown:
        return ["No usage data yet: counting starts with the first ghost text in a notebook."]
    found = [
        f"shown {whole.shown}, accepted {whole.accepted} ({_share(whole.accepted, whole.shown)}): "
        f"{whole.in_full} in full, {whole.by_word} by word, {whole.by_line} by line",
        f"characters saved {whole.characters}",
        f"still there after 30 s {_fraction(whole.after_30s)}, at the next run {_fraction(whole.at_next_run)}",
        f"time to first text: median {_milliseconds(whole.p50_ms)}, 95th percentile {_milliseconds(whole.p95_ms)}",
    ]
    notebooks = by_notebook(events)
    if len(notebooks) > 1:
        found += [""] + [_row(one) for one in notebooks[:MAX_NOTEBOOKS]]
    return found


def escaped(line: str) -> str:
    """One of these lines for HTML: the name of a notebook may contain markup."""
    return html.escape(line)


def sparkline(values: Sequence[float]) -> str:
    """The values as a line of blocks."""
    if not values:
        return ""
    top = max(values) or 1.0
    return "".join(BLOCKS[min(7, int(7 * max(0.0, value) / top))] for value in values)


def per_day(events: Sequence[Event], now: float | None = None) -> list[tuple[int, int]]:
    """Suggestions shown and accepted on each of the last days, the oldest first."""
    now = clock.now() if now is None else now
    days: list[tuple[int, int]] = []
    for back in range(DAYS - 1, -1, -1):
        start, end = now - (back + 1) * DAY_S, now - back * DAY_S
        one = summary([event for event in events if start < event.at <= end])
        days.append((one.shown, one.accepted))
    return days


def plot(days: Sequence[tuple[int, int]]) -> str:
    """Bars for the days as SVG: shown in grey, used in blue. Readable in the light and the dark theme."""
    width, height, step = 16 * len(days), 60, 16
    top = max((shown for shown, _ in days), default=0) or 1
    bars = []
    for index, (shown, used) in enumerate(days):
        for count, colour in ((shown, "#9e9e9e"), (min(used, shown), "#2a7fd4")):
            tall = height * count / top
            bars.append(
                f'<rect x="{index * step + 2}" y="{height - tall:.1f}" width="{step - 4}" '
                f'height="{tall:.1f}" fill="{colour}"/>'
            )
    label = html.escape(f"Shown (grey) and accepted (blue) on each of the last {len(days)} days")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 2}" role="img" '
        f'aria-label="{label}"><title>{label}</title>{"".join(bars)}'
        f'<line x1="0" x2="{width}" y1="{height + 1}" y2="{height + 1}" stroke="#9e9e9e"/></svg>'
    )


def _row(one: Summary) -> str:
    name = one.notebook or "(no name)"
    return (
        f"{name}: shown {one.shown}, accepted {one.accepted} ({_share(one.accepted, one.shown)}), "
        f"{one.characters} characters, median {_milliseconds(one.p50_ms)}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _fraction(counts: tuple[int, int]) -> str:
    kept, looked = counts
    return f"{kept} of {looked}"


def _milliseconds(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.0f} ms"
