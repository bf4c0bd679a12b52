"""`%sc2 context`: the prompt, coloured by source, with token counts and the cells that were left out."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.kernel import history
from jupyter_sc2.kernel.views.text import BLOCK_STYLE
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.prompt.builder import PromptPlan, PromptSpan
from jupyter_sc2.prompt.sources import SOURCES, setting_of
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import CompletionRequest


def newest(session: Session) -> CompletionRequest | None:
    """The last request, without those for commands of this package."""
    return next((one for one in reversed(session.recent) if not history.is_own(one.text)), None)


def show(
    shell: InteractiveShell,
    settings: SC2,
    pieces: Sequence[PromptSpan],
    plan: PromptPlan,
    request: CompletionRequest,
) -> None:
    """Shows the prompt: as HTML in a notebook, in colours on a terminal, else as plain text."""
    lines = notes(shell, settings, pieces, plan, request)
    texts = _texts(pieces, plan)
    if hasattr(shell, "kernel"):
        from IPython.display import publish_display_data

        plain = "".join(text for text, _ in texts) + "\n\n" + "\n".join(lines)
        data = {"text/plain": plain, "text/html": markup(pieces, plan, lines)}
        publish_display_data(data)  # type: ignore[no-untyped-call]
        return
    coloured = sys.stdout.isatty()
    print("".join(_painted(text, source) if coloured else text for text, source in texts))
    print(*lines, sep="\n")


def markup(pieces: Sequence[PromptSpan], plan: PromptPlan, notes: Iterable[str]) -> str:
    """The prompt as HTML, coloured by source, with a legend and the notes below."""
    spans = "".join(map(_span, _texts(pieces, plan)))
    return f'<pre style="{BLOCK_STYLE}">{spans}</pre>{_legend(pieces, notes)}'


def stale(shell: InteractiveShell, request: CompletionRequest) -> list[str]:
    """The cells above that were edited after they ran, by their first lines."""
    history = shell.history_manager
    run = list(history.input_hist_raw) if history is not None else []
    found = []
    for cell in request.notebook.above(request.cell_id):
        count = cell.execution_count
        was_run = cell.cell_type == "code" and count is not None and count < len(run)
        if was_run and run[count or 0].strip() != cell.source.strip():
            found.append(_first_line(cell.source))
    return found


def notes(
    shell: InteractiveShell,
    settings: SC2,
    pieces: Sequence[PromptSpan],
    plan: PromptPlan,
    request: CompletionRequest,
) -> list[str]:
    """Notes on the prompt, one per line: tokens, cells left out, cells edited since they ran, sources switched off."""
    counts = _counts(pieces)
    off = [
        f"{source.label} ({setting_of(source)})"
        for source in SOURCES.values()
        if source.setting is not None
        and not source.setting.advanced
        and not settings.includes(source)
    ]
    if not settings.grounding:
        off.append("grounding (grounding)")
    edited = stale(shell, request)
    parts = ", ".join(f"{SOURCES[source].label} {count}" for source, count in counts.items())
    lines = [f"{sum(counts.values())} tokens: {parts}"]
    if plan.excluded_sources:
        firsts = ", ".join(_first_line(text) for text in plan.excluded_sources[:6])
        more = (
            f" and {len(plan.excluded_sources) - 6} more" if len(plan.excluded_sources) > 6 else ""
        )
        lines.append(f"left out (context_tokens is reached): {firsts}{more}")
    if edited:
        lines.append(f"edited since they ran: {', '.join(edited[:6])}")
    if off:
        lines.append("switched off: " + ", ".join(off))
    if plan.healing_suffix:
        lines.append("⟨…⟩ is removed from the prompt and generated again (token healing)")
    return lines


def _counts(pieces: Iterable[PromptSpan]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for piece in pieces:
        counts[piece.source] = counts.get(piece.source, 0) + piece.tokens
    return {source: counts[source] for source in SOURCES if source in counts}


def _first_line(source: str) -> str:
    line = source.strip().split("\n", 1)[0]
    return f"`{line[:40]}{'…' if len(line) > 40 else ''}`"


def _texts(pieces: Iterable[PromptSpan], plan: PromptPlan) -> list[tuple[str, str]]:
    texts = [(piece.text, piece.source) for piece in pieces]
    if plan.healing_suffix:  # the model generates these characters again
        texts.append((f"⟨{plan.healing_suffix}⟩", "layout"))
    return texts


def _span(piece: tuple[str, str]) -> str:
    text, source = piece
    return f'<span style="color: {SOURCES[source].colour}">{html.escape(text)}</span>'


def _legend(pieces: Iterable[PromptSpan], notes: Iterable[str]) -> str:
    names = " · ".join(_span((SOURCES[source].label, source)) for source in _counts(pieces))
    lines = "<br>".join(html.escape(note) for note in notes)
    return f'<div style="{BLOCK_STYLE}">{names}<br>{lines}</div>'


def _painted(text: str, source: str) -> str:
    return f"\x1b[{SOURCES[source].terminal_colour}m{text}\x1b[0m"
