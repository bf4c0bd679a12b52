"""The usage data for `%sc2 stats` and the panel: tables, tiles and a sparkline."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from jupyter_sc2.kernel.views.chart import bar_chart
from jupyter_sc2.kernel.views.table import Block, Markup, Table
from jupyter_sc2.kernel.views.wording import milliseconds, number
from jupyter_sc2.kernel.views.wording import share as _share
from jupyter_sc2.runtime import clock
from jupyter_sc2.usage import Event, Summary, by_notebook, summary

# From an eighth to the whole height of a character.
BLOCKS = "▁▂▃▄▅▆▇█"
DAYS = 14
DAY_S = 86400.0
# Notebooks that get a line each.
MAX_NOTEBOOKS = 10


def report(events: Sequence[Event]) -> list[Block]:
    """`%sc2 stats`: the figures of all notebooks together, then of each, then by day."""
    whole = summary(events)
    if not whole.shown:
        return ["No usage data yet: counting starts with the first ghost text in a notebook."]
    accepted = (
        f"{number(whole.accepted)} of {number(whole.shown)} ({_share(whole.accepted, whole.shown)})"
    )
    wait = milliseconds(whole.p50_ms)
    if whole.p95_ms is not None:
        wait += f" (95% under {milliseconds(whole.p95_ms)})"
    found: list[Block] = [
        Table(
            rows=[
                ("Suggestions accepted", accepted),
                ("Accepted in full, by word, by line", _counts(whole)),
                ("Characters saved", number(whole.characters)),
                ("Kept after 30 s", _fraction(whole.after_30s)),
                ("Kept at the next run", _fraction(whole.at_next_run)),
                ("Typical wait", wait),
            ]
        )
    ]
    notebooks = by_notebook(events)
    if len(notebooks) > 1:
        head = ("shown", "accepted", "", "characters saved", "typical wait", "notebook")
        rows = [_row(one) for one in notebooks[:MAX_NOTEBOOKS]]
        found += ["", Table(head=head, rows=rows, right=range(5))]
    days = per_day(events)
    line = f"shown on each of the last {len(days)} days: {sparkline([shown for shown, _ in days])}"
    return [*found, Markup(line, bar_chart(days, clock.now()))]


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


def tiles(whole: Summary) -> str:
    """The four figures that matter most, as HTML."""
    kept, looked = whole.after_30s
    figures = [
        (
            _share(whole.accepted, whole.shown),
            "accepted",
            f"{number(whole.accepted)} of {number(whole.shown)} shown",
        ),
        (number(whole.characters), "characters saved", "not typed by hand"),
        (
            milliseconds(whole.p50_ms),
            "typical wait",
            f"95% under {milliseconds(whole.p95_ms)}"
            if whole.p95_ms is not None
            else "not measured yet",
        ),
        (_share(kept, looked), "kept after 30 s", f"{number(kept)} of {number(looked)} accepted"),
    ]
    return f'<div class="jp-sc2-Tiles">{"".join(_tile(*figure) for figure in figures)}</div>'


def _tile(figure: str, label: str, detail: str) -> str:
    parts = (("figure", figure), ("label", label), ("detail", detail))
    body = "".join(
        f'<div class="jp-sc2-Tile-{name}">{_unbroken(text)}</div>' for name, text in parts
    )
    return f'<div class="jp-sc2-Tile">{body}</div>'


def _unbroken(text: str) -> str:
    """Keeps numbers with their units on one line."""
    return re.sub(r"(?<=\d) (?=(?:s|min|h)\b)", "&nbsp;", text)


def details(whole: Summary, recent: Sequence[float]) -> list[str]:
    """What the tiles leave out, in short lines."""
    found = []
    if whole.accepted:
        parts = (("in full", whole.in_full), ("by word", whole.by_word), ("by line", whole.by_line))
        found.append("Accepted " + ", ".join(f"{how} {number(count)}" for how, count in parts))
    if whole.at_next_run[1]:
        found.append(f"Kept at the next run: {_fraction(whole.at_next_run)}")
    if recent:
        found.append(f"Latest waits {sparkline(recent)} {milliseconds(recent[-1])}")
    return found


def _row(one: Summary) -> tuple[str, ...]:
    return (
        number(one.shown),
        number(one.accepted),
        _share(one.accepted, one.shown),
        number(one.characters),
        milliseconds(one.p50_ms),
        one.notebook or "(no name)",
    )


def _counts(one: Summary) -> str:
    return ", ".join(map(number, (one.in_full, one.by_word, one.by_line)))


def _fraction(counts: tuple[int, int]) -> str:
    kept, looked = counts
    return f"{kept} of {looked}"
