"""Types a notebook key by key, as a person would: with pauses, slips, cell switches and runs.

Gaps between keys are lognormal around 0.17 s (Dhakal et al., "Observations on Typing from 136 Million Keystrokes", CHI
2018, report a mean of 0.24 s over all typists and 0.12 s for fast ones). Pauses come where people think: at the start
of a line, after an opening bracket, a dot or an equals sign. One line in ten is skipped at first and typed on a second
visit, in the middle of an existing cell. Brackets and quotes are closed automatically, as in JupyterLab. After a run
the typist reads the output; at the end some cells are entered once more, above and below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

MEDIAN_GAP_S = 0.17
LOG_SPREAD = 0.45  # standard deviation of the gap's logarithm
SLIP_SHARE = 0.02
SKIPPED_SHARE = 0.1
READING_PAUSE_S = 2.0  # at an output
MAX_REVISITS = 8  # cells that are entered once more
KEYS_PER_REVISIT = 20  # if only the end of a notebook is typed
CLOSERS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One action of the typist, `gap` seconds after the previous event, and the cell after it."""

    kind: Literal["open", "enter", "key", "run", "return"]
    cell: int
    visit: int = 0  # counts the stretches that are typed at one position
    text: str
    offset: int
    gap: float
    pauses: bool = False  # thinks before the next key: ghost text would be read now
    ahead: str = ""  # the text that will be typed at the cursor before moving elsewhere


def type_cells(sources: Sequence[str], rng: Random, *, keys: int | None = None) -> Iterator[Event]:
    """The events of writing these cells one after another. At the end each cell equals its source.

    With `keys`, only the end is typed, about that many keys, and fewer cells are entered once more; the text above is
    there when the notebook is opened.
    """
    begun, there = _beginning(sources, keys)
    for index, source in enumerate(sources[:begun]):
        yield Event(kind="open", cell=index, text=source, offset=len(source), gap=0.0)
    visit = 0
    for index, source in enumerate(sources[begun:], begun):
        head = there if index == begun else ""
        lines = source.split("\n")
        later = {
            n
            for n in range(head.count("\n") + 1, len(lines) - 1)
            if rng.random() < SKIPPED_SHARE and lines[n].strip()
        }
        first = "\n".join(line for n, line in enumerate(lines) if n not in later)
        visit += 1
        yield from _visit(index, visit, head, first[len(head) :], "", rng, look=True)
        for n in sorted(later):
            above = "".join(f"{line}\n" for m, line in enumerate(lines[:n]))
            below = "".join(f"\n{line}" for m, line in enumerate(lines) if m > n and m not in later)
            visit += 1
            yield from _visit(index, visit, above, lines[n], below, rng)
        yield Event(kind="run", cell=index, text=source, offset=len(source), gap=_gap(rng))
    order = list(range(len(sources)))
    rng.shuffle(order)
    for index in order[
        : MAX_REVISITS if keys is None else max(2, min(MAX_REVISITS, keys // KEYS_PER_REVISIT))
    ]:
        visit += 1
        text = sources[index]
        offset = text.find("\n", rng.randrange(len(text) + 1))
        offset = len(text) if offset < 0 else offset
        yield Event(
            kind="return",
            cell=index,
            visit=visit,
            text=text,
            offset=offset,
            gap=READING_PAUSE_S,
            pauses=True,
        )


def _beginning(sources: Sequence[str], keys: int | None) -> tuple[int, str]:
    """The first cell that is typed for about `keys` keys to be typed in all, and its lines that are there already."""
    if keys is None:
        return 0, ""
    begun, left = len(sources), keys
    while begun > 0 and left > 0:
        begun -= 1
        left -= len(sources[begun])
    there = sources[begun][: max(0, -left)] if begun < len(sources) else ""
    return begun, there[: there.rfind("\n") + 1]


def _visit(
    index: int,
    visit: int,
    before: str,
    typed: str,
    after: str,
    rng: Random,
    *,
    look: bool = False,
) -> Iterator[Event]:
    """Types a text at one position; automatically closed brackets stay behind the cursor until they are typed over.

    With `look`, the typist reads the screen first, on entering.
    """

    def event(kind: Literal["enter", "key"], written: str, closing: str, *, pauses: bool) -> Event:
        # After a slip the rest does not continue the written text.
        ahead = typed[len(written) :] if typed.startswith(written) else ""
        return Event(
            kind=kind,
            cell=index,
            visit=visit,
            text=before + written + closing + after,
            offset=len(before) + len(written),
            gap=READING_PAUSE_S if kind == "enter" and look else _gap(rng),
            pauses=pauses,
            ahead=ahead,
        )

    yield event("enter", "", "", pauses=True)
    closing = ""
    for position, char in enumerate(typed):
        written = typed[:position]
        if char.isalpha() and rng.random() < SLIP_SHARE:
            slip = rng.choice([letter for letter in "aeinort" if letter != char])
            yield event("key", written + slip, closing, pauses=False)
            yield event("key", written, closing, pauses=False)
        if closing.startswith(char):
            closing = closing[1:]
        elif char in CLOSERS and _closes(char, typed[position + 1 :]):
            closing = CLOSERS[char] + closing
        elif char == "\n":
            closing = ""
        written += char
        yield event("key", written, closing, pauses=rng.random() < _pause_share(written))


def _closes(opener: str, rest: str) -> bool:
    """Whether the rest of the line closes the bracket, so that the closer will be typed over."""
    return CLOSERS[opener] in rest.split("\n", 1)[0]


def _pause_share(written: str) -> float:
    line = written.rpartition("\n")[2]
    if not line.strip():
        return 0.5 if written.endswith(("\n", " ")) else 0.0
    if line.endswith(("(", ".", "= ", ", ", "[", ": ", "as ", "import ", "in ")):
        return 0.2
    return 0.02


def _gap(rng: Random) -> float:
    return min(1.0, rng.lognormvariate(math.log(MEDIAN_GAP_S), LOG_SPREAD))
