"""The subcommands of `%sc2`: each is one function, registered with its help text and what it accepts.

A function gets the kernel's parts and the parsed line, prints its result, and raises SC2Error or UsageError for what
the user can mend.
"""

# IPython's display functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.errors import ModelLoadError, SC2Error
from jupyter_sc2.kernel import history, settings_store
from jupyter_sc2.kernel.views import attribution as attribution_view
from jupyter_sc2.kernel.views import progress as progress_view
from jupyter_sc2.kernel.views import prompt as prompt_view
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views import text as text_view
from jupyter_sc2.kernel.views.table import show
from jupyter_sc2.models.cards import ModelCard, card_errors, cards, find_card
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.progress import Noted, note_of
from jupyter_sc2.settings import SC2, asks_server
from jupyter_sc2.types import CompletionRequest
from jupyter_sc2.usage import Usage

CURSORS = ("‸", "<cursor>")


@dataclass
class KernelParts:
    """What the magics of one shell work with."""

    shell: InteractiveShell
    settings: SC2
    session: Session
    usage: Usage
    # Called with True after the settings were saved, with False after the saved ones were removed.
    on_saved: Callable[[bool], None] = lambda saved: None
    panel: Any = None  # one panel, shown in every cell that asks for it
    running: str = ""  # the cell that runs now

    def check_allowed(self) -> None:
        if not self.settings.allowed:
            raise UsageError("The configuration of this kernel forbids completion (SC2.allowed).")


@dataclass(frozen=True)
class Arguments:
    """The rest of a `%sc2` line. `code` is all of it, for a subcommand that takes code."""

    values: Sequence[str] = ()
    precision: str | None = None
    wait: bool = True
    code: str = ""

    @property
    def value(self) -> str | None:
        return self.values[0] if self.values else None


Run = Callable[[KernelParts, Arguments], None]


@dataclass(frozen=True)
class Subcommand:
    name: str
    help: str
    run: Run
    max_values: int = 0
    loads: bool = False  # accepts --precision and --no-wait
    takes_code: bool = False  # all that follows is code, with no options in it


_registry: dict[str, Subcommand] = {}
SUBCOMMANDS: Mapping[str, Subcommand] = _registry


def subcommand(help: str, **accepts: Any) -> Callable[[Run], Run]:
    """Registers a function as the subcommand of its name; `accepts` are fields of Subcommand."""

    def register(run: Run) -> Run:
        name = run.__name__.strip("_")
        _registry[name] = Subcommand(name, help, run, **accepts)
        return run

    return register


def find(name: str) -> Subcommand:
    """Raises UsageError for a name that is not a subcommand."""
    if name not in SUBCOMMANDS:
        close = difflib.get_close_matches(name, SUBCOMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        known = ", ".join(SUBCOMMANDS)
        raise UsageError(f"There is no %sc2 {name}.{hint} Commands are: {known}.")
    return SUBCOMMANDS[name]


def code_after(line: str) -> tuple[Subcommand, Arguments] | None:
    """The subcommand of a line whose rest is code; None for other lines."""
    match = re.match(r"\s*(\w+)\b(.*)", line, re.DOTALL)
    command = SUBCOMMANDS.get(match[1]) if match is not None else None
    if match is None or command is None or not command.takes_code:
        return None
    return command, Arguments(code=match[2].strip())


def check(command: Subcommand, values: Sequence[str], has_load_options: bool) -> None:
    """Raises UsageError where the line has more than the subcommand accepts."""
    most = command.max_values
    if len(values) > most:
        plural = "s" * (most > 1)
        raise UsageError(f"%sc2 {command.name} takes {most or 'no'} value{plural}: see %sc2 help.")
    if has_load_options and not command.loads:
        raise UsageError("--precision and --no-wait belong to %sc2 load.")


@subcommand("the loaded model, its engine, precision and memory")
def status(kernel: KernelParts, arguments: Arguments) -> None:
    show(kernel.shell, *text_view.status(kernel.session.status, kernel.settings))


@subcommand(
    "load [MODEL] [--precision P] [--no-wait]: load a model by name, Hub id (owner/name) or path (./folder)",
    max_values=1,
    loads=True,
)
def load(kernel: KernelParts, arguments: Arguments) -> None:
    load_model(kernel, arguments.value, arguments.precision, arguments.wait)


@subcommand("unload the model and free its memory")
def unload(kernel: KernelParts, arguments: Arguments) -> None:
    kernel.session.unload()
    print("Unloaded. `%sc2 load` loads it again.")


@subcommand("list the known models; with a name: the same as load", max_values=1, loads=True)
def model(kernel: KernelParts, arguments: Arguments) -> None:
    if arguments.values:
        load(kernel, arguments)
    else:
        models(kernel, arguments)


@subcommand("list the known models, with their sizes")
def models(kernel: KernelParts, arguments: Arguments) -> None:
    table = text_view.models(cards().values(), kernel.settings.model)
    show(kernel.shell, table, *map(str, card_errors()))


@subcommand(
    "plan [MODEL]: memory needs per precision, and the automatic choice",
    max_values=1,
)
def plan(kernel: KernelParts, arguments: Arguments) -> None:
    from jupyter_sc2.models.files import plan_for

    settings = kernel.settings
    options = replace(settings.load_options(), model=arguments.value or settings.model)
    tokens = settings.context_tokens + settings.max_tokens
    card, machine, rows = plan_for(options, tokens=tokens, may_wait=False)
    show(kernel.shell, *text_view.plan(card.name, machine, rows))


@subcommand(
    "license [MODEL]: the licence of the loaded or named model, and its conditions",
    max_values=1,
)
def license(kernel: KernelParts, arguments: Arguments) -> None:
    status = kernel.session.status
    loaded = status.state not in ("unloaded", "error")
    name = arguments.value or (status.model if loaded else kernel.settings.model)
    try:
        card = find_card(name)
    except ModelLoadError:
        if name != status.model:
            raise
        card = ModelCard(name=name)  # that only its server knows
    print(text_view.licence(card))


@subcommand("indexed code that this notebook's cells match, and the suggestions accepted in them")
def attribution(kernel: KernelParts, arguments: Arguments) -> None:
    attribution_view.show(kernel.shell, kernel.settings.attribution_lexemes)


@subcommand("settings [NAME [VALUE]]: show all settings or one, or set one", max_values=2)
def settings(kernel: KernelParts, arguments: Arguments) -> None:
    values = list(arguments.values)
    if len(values) == 1 and "=" in values[0]:
        values = values[0].split("=", 1)
    known = SC2.settings()
    if len(values) == 2:
        kernel.settings.set(*values)
    elif values and values[0] not in known:
        raise UsageError(
            f"There is no setting named {values[0]!r}. Settings are: {', '.join(known)}."
        )
    else:
        show(kernel.shell, text_view.settings(kernel.settings, values or list(known)))


@subcommand(
    "context [CODE]: show the prompt of the last request, or the prompt for this code",
    takes_code=True,
)
def context(kernel: KernelParts, arguments: Arguments) -> None:
    if arguments.code:
        text, offset = split_at_cursor(arguments.code)
        notebook = history.notebook(kernel.shell, kernel.running)
        request = CompletionRequest(text=text, offset=offset, notebook=notebook)
    else:
        newest = prompt_view.newest(kernel.session)
        if newest is None:
            raise UsageError("There was no request yet: give some code, as in %sc2 context df.")
        request = newest
    kernel.session.ensure_loaded()
    kernel.session.wait_ready()
    explained = kernel.session.explain_prompt(request)
    if explained is None:
        raise UsageError("No model is loaded: `%sc2 load` loads one.")
    prompt_view.show(kernel.shell, kernel.settings, *explained, request)


@subcommand("save the settings that differ from the defaults, for new kernels")
def save(kernel: KernelParts, arguments: Arguments) -> None:
    print(f"Saved in {settings_store.save(kernel.shell, kernel.settings)}.")
    kernel.on_saved(True)


@subcommand("show the settings as a panel of widgets")
def panel(kernel: KernelParts, arguments: Arguments) -> None:
    if not hasattr(kernel.shell, "kernel"):
        raise UsageError("The panel needs a notebook; in a terminal use `%sc2 settings`.")
    try:
        from jupyter_sc2.kernel.panel.panel import Panel
    except ImportError as error:
        raise UsageError("The panel needs ipywidgets: `%pip install ipywidgets`.") from error
    from IPython.display import display

    if kernel.panel is None or kernel.panel.widget.comm is None:  # closed, be it by the user
        kernel.panel = Panel(
            kernel.shell, kernel.settings, kernel.session, kernel.usage, kernel.on_saved
        )
    display(kernel.panel.widget)


@subcommand(
    "stats [reset]: suggestions shown, accepted and kept, and the typical wait; reset deletes them",
    max_values=1,
)
def stats(kernel: KernelParts, arguments: Arguments) -> None:
    usage = kernel.usage
    if arguments.value == "reset":
        usage.reset()
        kernel.session.reset_feedback()
        print("Usage data cleared.")
        return
    if arguments.values:
        raise UsageError("%sc2 stats shows your usage; %sc2 stats reset deletes it.")
    notes = [] if kernel.settings.statistics else ["Usage statistics are off (SC2.statistics)."]
    events = usage.events()
    notes += [usage.problem] if usage.problem else []
    found = stats_view.report(events) if events or not usage.problem else []
    show(kernel.shell, *notes, *found)


@subcommand("this list")
def help(kernel: KernelParts, arguments: Arguments) -> None:
    print("\n".join(f"%sc2 {one.name:<11} {one.help}" for one in SUBCOMMANDS.values()))


def load_model(
    kernel: KernelParts, model: str | None, precision: str | None = None, wait: bool = True
) -> None:
    """Loads a model and reports it in one line. Model and precision stay set if it can be loaded. Raises SC2Error."""
    kernel.check_allowed()
    session, settings = kernel.session, kernel.settings
    if not asks_server(settings):  # which alone knows its models, and has them
        card = find_card(model or settings.model)
        if card.hub_id is not None and session.status.model != card.name:
            from jupyter_sc2.models.files import bytes_on_disk

            if not bytes_on_disk(card):  # it will be downloaded for the first time
                print(text_view.licence(card))
    before = settings.load_options()
    model = model or settings.model
    started = monotonic()
    with settings.hold_trait_notifications():
        settings.model = model
        settings.precision = precision or settings.precision
        changed = settings.load_options() != before  # here, as a load that fails at once reverts it
    if not changed:  # else the change itself has started it
        session.load(before)
    if wait:
        _wait(kernel, started)
    else:
        print(f"{model} is loading in the background; `%sc2 status` shows its progress.")


def _wait(kernel: KernelParts, started: float) -> None:
    session = kernel.session
    try:
        with progress_view.bar(kernel.shell) as bar:
            status = session.wait_ready(
                waiting=lambda status: bar.show(
                    Noted(status.state, note_of(status.stage)), status.model, status.progress
                )
            )
    except SC2Error as error:
        raise UsageError(session.status.message or str(error)) from error
    except KeyboardInterrupt:
        raise UsageError(
            "Interrupted; the model is still loading in the background. `%sc2 unload` cancels that."
        ) from None
    print(text_view.loaded(status, monotonic() - started))


def split_at_cursor(text: str) -> tuple[str, int]:
    """The text without its cursor mark, and the mark's offset: the end if there is none. Raises UsageError."""
    marks = [mark for mark in CURSORS if mark in text]
    if sum(text.count(mark) for mark in marks) > 1:
        raise UsageError(f"There is more than one cursor: use one {' or '.join(CURSORS)}.")
    prefix, _, suffix = text.partition(marks[0]) if marks else (text, "", "")
    if not (prefix + suffix).strip():
        raise UsageError(
            "There is nothing to complete: write the beginning of some code after %%complete."
        )
    return prefix + suffix, len(prefix)
