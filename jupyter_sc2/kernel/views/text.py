"""The output of the magics: highlighted code, and status, models and settings as lines of text."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.introspection.secrets import in_text
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views.chart import bar_chart
from jupyter_sc2.models.cards import EMBEDDED, ModelCard
from jupyter_sc2.models.plan import file_bytes
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.runtime import clock
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.settings import SC2, asks_server
from jupyter_sc2.types import CompletionRequest

# Fixed colours on a fixed background are readable in the light and the dark theme.
BLOCK_STYLE = (
    "background: #f8f8f8; color: #212121; padding: 4px 8px; margin: 2px 0; overflow-x: auto"
)

# The note on a mode without automatic ghost text.
MODE_NOTES = {"manual": "Ghost text appears only on request", "off": "Ghost text is off"}


def visible(request: CompletionRequest, text: str) -> str:
    """The suggestion with the text before and after it on its lines."""
    return request.prefix.rpartition("\n")[2] + text + request.suffix.partition("\n")[0]


def candidates(shell: InteractiveShell, codes: Sequence[str]) -> None:
    """Shows the suggestions: as HTML in a notebook, in colours on a terminal."""
    numbers = [f"[{number}]" for number in range(1, len(codes) + 1)] if len(codes) > 1 else [""]
    numbered = list(zip(numbers, codes, strict=True))
    if hasattr(shell, "kernel"):
        from IPython.display import publish_display_data

        plain = "\n".join(filter(None, (part for pair in numbered for part in pair)))
        markup = "".join(_markup(number, code) for number, code in numbered)
        publish_display_data({"text/plain": plain, "text/html": markup})  # type: ignore[no-untyped-call]
        return
    for number, code in numbered:
        print(*filter(None, (number, _coloured(code) if sys.stdout.isatty() else code)), sep="\n")


def plot(shell: InteractiveShell, days: Sequence[tuple[int, int]]) -> None:
    """Shows the counts of the last days: as a plot in a notebook, as a sparkline on a terminal."""
    counts = [shown for shown, _ in days]
    line = f"shown on each of the last {len(days)} days: {stats_view.sparkline(counts)}"
    if hasattr(shell, "kernel"):
        from IPython.display import publish_display_data

        publish_display_data({"text/plain": line, "text/html": bar_chart(days, clock.now())})  # type: ignore[no-untyped-call]
    else:
        print(line)


def status(status: Status, settings: SC2) -> str:
    """The text of `%sc2 status`."""
    if status.state in ("unloaded", "error"):
        lines = [f"{status.state}: {status.model or settings.model}"]
    else:
        lines = [f"{status.state}: {_described(status)}"]
    if status.progress is not None:
        lines[0] += f", {status.progress:.0%}"
    if status.message:
        lines.append(status.message)
    if status.limitations:
        lines.append(status.limitations)
    if status.state == "unloaded":
        lines.append("Loads on the first request; `%sc2 load` loads it now.")
    if asks_server(settings) and status.state in ("unloaded", "loading"):
        lines.append(
            f"Once the model is loaded, code leaves this kernel: it is sent to {_where(settings.server)}."
        )
    if settings.mode != "automatic":
        lines.append(
            f"{MODE_NOTES[settings.mode]}; `%sc2 settings mode=automatic` brings ghost text back."
        )
    if status.model == EMBEDDED.name:
        lines.append(
            "This is the small model that ships with the package. `%sc2 load starcoder2-3b` or "
            "`%sc2 load ./folder` loads a larger one, `%sc2 models` lists the known ones."
        )
    return "\n".join(lines)


def loaded(status: Status, seconds: float) -> str:
    """The text of `%sc2 load`."""
    line = f"{_described(status)}, loaded in {seconds:.1f} s."
    return f"{line}\n{status.message}" if status.message else line


def models(cards: Iterable[ModelCard], current: str) -> str:
    """The known models with the current one marked; a current one that is not known comes last."""
    rows = [(card.name, _about(card)) for card in cards]
    if current not in [name for name, _ in rows]:
        rows.append((current, ""))
    return "\n".join(
        f"{'*' if name == current else ' '} {name}: {note}".rstrip(": ") for name, note in rows
    )


def licence(card: ModelCard) -> str:
    """A model's licence in a line."""
    return f"Licence of {card.name}: {card.licence_line}"


def _about(card: ModelCard) -> str:
    sizes = ""
    if card.shape is not None:
        sizes = ", ".join(
            f"{format_bytes(file_bytes(card.shape, p))} in {p}" for p in ("bf16", "4bit")
        )
        sizes = f" {sizes}."
    return f"{card.parameters} parameters, {card.licence}.{sizes} {card.note}".rstrip()


def settings(settings: SC2, names: Iterable[str]) -> str:
    traits = SC2.settings()
    return "\n".join(f"{name} = {getattr(settings, name)!r}: {traits[name].help}" for name in names)


def memory(size: int) -> str:
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _where(server: str) -> str:
    if server == "auto":
        return "the newest `jupyter sc2 serve` on this machine"
    return "the address in the setting server" if in_text(server) else server


def _described(status: Status) -> str:
    parts = [
        status.engine,
        status.precision,
        memory(status.memory_bytes) if status.memory_bytes else "",
    ]
    details = ", ".join(part for part in parts if part)
    return f"{status.model} ({details})" if details else status.model


def _markup(number: str, code: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    # By default the lexer strips blank lines that belong to the suggestion.
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    body = highlight(code, lexer, HtmlFormatter(noclasses=True, nowrap=True))
    label = f"<small>{html.escape(number)}</small>" if number else ""
    return f'{label}<pre style="{BLOCK_STYLE}">{body}</pre>'


def _coloured(code: str) -> str:
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers import PythonLexer

    lexer = PythonLexer(stripnl=False, ensurenl=False)
    return str(highlight(code, lexer, TerminalFormatter()))
