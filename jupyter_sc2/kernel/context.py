"""`%sc2 context`: what the model reads, coloured by where it comes from, with its tokens and what was left out."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.completion import CompletionRequest
from jupyter_sc2.kernel.show import BLOCK
from jupyter_sc2.prompt.layout import Arrangement, Piece

# By source: what it is, its colour on the light ground of the HTML, and on a terminal (SGR).
SOURCES = {
    "layout": ("the model's own marks", "#8a8a8a", "2"),
    "imports": ("imports of cells that did not fit", "#7b5ea7", "35"),
    "cells": ("code cells above", "#1a5fb4", "34"),
    "markdown": ("text cells above", "#26734d", "32"),
    "state": ("live variables", "#b3541e", "33"),
    "cell": ("this cell", "#212121", "0"),
}
SOURCES_BY_SETTING = {
    "context_variables": "live variables",
    "context_error": "the last error",
    "grounding": "grounding",
}


def show(
    shell: InteractiveShell,
    pieces: Sequence[Piece],
    arrangement: Arrangement,
    request: CompletionRequest,
    off: Sequence[str],
    stale: Sequence[str],
) -> None:
    """Shows it: as HTML where there is a notebook, in colours on a terminal, else as plain text."""
    notes = _notes(pieces, arrangement, off, stale)
    texts = [(piece.text, piece.source) for piece in pieces]
    if arrangement.healed:  # the model writes these characters again
        texts.append((f"⟨{arrangement.healed}⟩", "layout"))
    if hasattr(shell, "kernel"):
        from IPython.display import publish_display_data

        plain = "".join(text for text, _ in texts) + "\n\n" + "\n".join(notes)
        markup = f'<pre style="{BLOCK}">{"".join(map(_span, texts))}</pre>{_legend(pieces, notes)}'
        publish_display_data({"text/plain": plain, "text/html": markup})  # type: ignore[no-untyped-call]
        return
    coloured = sys.stdout.isatty()
    print("".join(_painted(text, source) if coloured else text for text, source in texts))
    print(*notes, sep="\n")


def stale(shell: InteractiveShell, request: CompletionRequest) -> list[str]:
    """The cells above that stand in the notebook otherwise than they were run, by their first lines."""
    history = shell.history_manager
    run = list(history.input_hist_raw) if history is not None else []
    found = []
    for cell in request.notebook.above(request.cell_id):
        count = cell.execution_count
        was_run = cell.cell_type == "code" and count is not None and count < len(run)
        if was_run and run[count or 0].strip() != cell.source.strip():
            found.append(_first_line(cell.source))
    return found


def _notes(
    pieces: Sequence[Piece], arrangement: Arrangement, off: Sequence[str], stale: Sequence[str]
) -> list[str]:
    counts = _counts(pieces)
    parts = ", ".join(f"{SOURCES[source][0]} {count}" for source, count in counts.items())
    notes = [f"{sum(counts.values())} tokens: {parts}"]
    if arrangement.left_out:
        firsts = ", ".join(_first_line(text) for text in arrangement.left_out[:6])
        more = f" and {len(arrangement.left_out) - 6} more" if len(arrangement.left_out) > 6 else ""
        notes.append(f"left out, as context_tokens is reached: {firsts}{more}")
    if stale:
        notes.append(f"edited since they were run: {', '.join(stale[:6])}")
    if off:
        notes.append(
            "switched off: " + ", ".join(f"{SOURCES_BY_SETTING[name]} ({name})" for name in off)
        )
    if arrangement.healed:
        notes.append(
            "what stands in ⟨ ⟩ is not read: the model spells it out again, to begin at a whole token"
        )
    return notes


def _counts(pieces: Iterable[Piece]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for piece in pieces:
        counts[piece.source] = counts.get(piece.source, 0) + piece.tokens
    return {source: counts[source] for source in SOURCES if source in counts}


def _first_line(source: str) -> str:
    line = source.strip().split("\n", 1)[0]
    return f"`{line[:40]}{'…' if len(line) > 40 else ''}`"


def _span(piece: tuple[str, str]) -> str:
    text, source = piece
    return f'<span style="color: {SOURCES[source][1]}">{html.escape(text)}</span>'


def _legend(pieces: Iterable[Piece], notes: Iterable[str]) -> str:
    names = " · ".join(_span((SOURCES[source][0], source)) for source in _counts(pieces))
    lines = "<br>".join(html.escape(note) for note in notes)
    return f'<div style="{BLOCK}">{names}<br>{lines}</div>'


def _painted(text: str, source: str) -> str:
    return f"\x1b[{SOURCES[source][2]}m{text}\x1b[0m"
