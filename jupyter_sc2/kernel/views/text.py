"""The output of the magics: highlighted code, and status, models, plan and settings as tables."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.introspection.secrets import in_text
from jupyter_sc2.kernel.views import wording
from jupyter_sc2.kernel.views.table import Block, Markup, Table
from jupyter_sc2.models import plan as plan_view
from jupyter_sc2.models.cards import EMBEDDED, ModelCard
from jupyter_sc2.models.plan import PrecisionOption, file_bytes
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.runtime.hardware import Machine, format_bytes
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


def status(status: Status, settings: SC2) -> list[Block]:
    """`%sc2 status`: what is loaded in a line, or as a table, and what else there is to say."""
    absent = status.state in ("unloaded", "error")
    line = f"{status.state}: {status.model or settings.model if absent else _described(status)}"
    state = status.state
    if status.progress is not None:
        line += f", {status.progress:.0%}"
        state += f", {status.progress:.0%}"
    facts = [
        ("State", state),
        ("Model", status.model or settings.model),
        ("Engine", "" if absent else status.engine),
        ("Precision", "" if absent else wording.precision(status.precision)),
        ("Memory", "" if absent or not status.memory_bytes else memory(status.memory_bytes)),
    ]
    table = Table(rows=[fact for fact in facts if fact[1]])
    return [Markup(line, table.html()), *_remarks(status, settings)]


def _remarks(status: Status, settings: SC2) -> list[str]:
    lines = []
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
    return lines


def loaded(status: Status, seconds: float) -> str:
    """The text of `%sc2 load`."""
    line = f"{_described(status)}, loaded in {wording.duration(seconds)}."
    return f"{line}\n{status.message}" if status.message else line


def models(cards: Iterable[ModelCard], current: str) -> Table:
    """The known models with the current one marked; a current one that is not known comes last."""
    rows = [_about(card) for card in cards]
    if current not in [row[0] for row in rows]:
        rows.append((current, "", "", "", "", ""))
    return Table(
        head=("", "model", "size", "bf16", "4bit", "licence", "note"),
        rows=[("*" if row[0] == current else "", *row) for row in rows],
        right=(2, 3, 4),
        bold=[index for index, row in enumerate(rows) if row[0] == current],
    )


def licence(card: ModelCard) -> str:
    """A model's licence in a line."""
    return f"Licence of {card.name}: {card.licence_line}"


def _about(card: ModelCard) -> tuple[str, ...]:
    sizes = ["", ""]
    if card.shape is not None:
        sizes = [format_bytes(file_bytes(card.shape, precision)) for precision in ("bf16", "4bit")]
    parameters = "" if card.parameters == "?" else card.parameters
    return (card.name, parameters, *sizes, card.licence, card.note)


def settings(settings: SC2, names: Sequence[str]) -> Block:
    """All settings as a table, or one in a line."""
    traits = SC2.settings()
    table = Table(
        head=("setting", "value", "what it does"),
        rows=[(name, repr(getattr(settings, name)), traits[name].help) for name in names],
        bold=[
            index
            for index, name in enumerate(names)
            if getattr(settings, name) != traits[name].default_value
        ],
    )
    if len(names) > 1:
        return table
    ((name, value, help),) = table.rows
    return Markup(f"{name} = {value}: {help}", table.html())


def plan(name: str, machine: Machine, rows: Sequence[PrecisionOption]) -> list[Block]:
    """What fits this machine, and below it the choice with its reason."""
    head, *cells = plan_view.cells(rows)
    chosen = [index for index, row in enumerate(rows) if row.chosen]
    table = Table(head=head, rows=cells, right=(2, 3), bold=chosen)
    return [f"{name} on {machine}", table, *plan_view.choice(rows)]


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
        wording.precision(status.precision),
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
