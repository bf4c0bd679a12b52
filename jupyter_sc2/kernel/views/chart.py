"""A bar chart of the suggestions of the last days, as HTML that is readable in the light and the dark theme.

The page's stylesheet colours it; the fallbacks are for front ends without our extension.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from jupyter_sc2.kernel.views.wording import number
from jupyter_sc2.runtime.clock import short_date

HEIGHT = 100  # of the plot, in units of its view box
STEP = 20  # the width of a day
GRID = "var(--jp-border-color2, #8888)"
SHOWN = "var(--jp-sc2-shown, #8a8f98)"
ACCEPTED = "var(--jp-sc2-accepted, #2a7fd4)"
SMALL = "font-size: 11px; line-height: 14px; color: var(--jp-ui-font-color1, inherit)"


def bar_chart(days: Sequence[tuple[int, int]], now: float) -> str:
    """Suggestions shown and accepted on each of these days, the last of which ends at `now` (seconds since 1970)."""
    top = rounded_up(max((shown for shown, _ in days), default=0))
    title = f"Suggestions per day, last {len(days)} days"
    dates = [short_date(now - back * 86400) for back in range(len(days) - 1, -1, -1)]
    total, used = (sum(column) for column in zip(*days, strict=True)) if days else (0, 0)
    summary = f"{title}: {number(total)} shown, {number(used)} accepted"
    middle = dates[len(dates) // 2 - 1] if dates else ""
    ends = (dates[0], middle, "today") if dates else ()
    return (
        f'<div class="jp-sc2-Chart" style="{SMALL}">'
        f'<div style="font-weight: 600">{title}</div>'
        f'<div style="display: flex; gap: 12px; margin: 2px 0 6px">{_key(SHOWN, "shown")}'
        f"{_key(ACCEPTED, 'accepted')}</div>"
        f'<div role="img" aria-label="{html.escape(summary)}" style="display: grid; '
        'grid-template-columns: max-content 1fr; column-gap: 6px">'
        '<div class="jp-sc2-Chart-y" aria-hidden="true" style="display: flex; flex-direction: column; '
        f'justify-content: space-between; text-align: right; margin: -7px 0">{_ticks(top)}</div>'
        f"{_plot(days, dates, top)}<div></div>"
        '<div class="jp-sc2-Chart-x" aria-hidden="true" style="display: flex; '
        f'justify-content: space-between; margin-top: 3px">{"".join(f"<span>{end}</span>" for end in ends)}</div>'
        "</div></div>"
    )


def rounded_up(count: int) -> int:
    """The end of the axis: the next of 2, 4, 10, 20, 40, 100 …"""
    power = 10 ** max(0, math.floor(math.log10(max(count, 1))))
    return next(
        int(one * power)
        for one in (1, 2, 4, 10)
        if one * power >= max(count, 2) and one * power > 1
    )


def _ticks(top: int) -> str:
    return "".join(f"<span>{number(tick)}</span>" for tick in (top, top // 2, 0))


def _key(colour: str, text: str) -> str:
    square = (
        f"display: inline-block; width: 9px; height: 9px; margin-right: 4px; background: {colour}"
    )
    return f'<span><span style="{square}"></span>{text}</span>'


def _plot(days: Sequence[tuple[int, int]], dates: Sequence[str], top: int) -> str:
    width = STEP * len(days)
    lines = "".join(
        f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" stroke="{GRID}" vector-effect="non-scaling-stroke"/>'
        for y in (0, HEIGHT // 2, HEIGHT)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none" '
        f'style="width: 100%; height: 80px; display: block; overflow: visible">{lines}'
        f"{''.join(_bars(day, *one, top) for day, one in enumerate(zip(days, dates, strict=True)))}</svg>"
    )


def _bars(day: int, counts: tuple[int, int], date: str, top: int) -> str:
    shown, accepted = counts
    accepted = min(accepted, shown)
    bars = "".join(
        f'<rect x="{day * STEP + 3}" y="{HEIGHT - tall:.1f}" width="{STEP - 6}" height="{tall:.1f}" fill="{colour}"/>'
        for tall, colour in ((HEIGHT * shown / top, SHOWN), (HEIGHT * accepted / top, ACCEPTED))
        if tall
    )
    # Over the whole height, so that a low bar is found with the pointer, too.
    area = f'<rect x="{day * STEP}" y="0" width="{STEP}" height="{HEIGHT}" fill="transparent"/>'
    return f"<g><title>{date}: {shown} shown, {accepted} accepted</title>{bars}{area}</g>"
