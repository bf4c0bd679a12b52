"""%%complete, %complete and %sc2: completions and settings for those who type commands.

They work in any front end and in the IPython terminal. What was run in this session is the context. Whatever
is wrong with a command is said in one line: IPython prints a UsageError without a traceback.
"""

# IPython's decorators and display functions have no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel import history, settings_store
from jupyter_sc2.kernel.views import attribution as attribution_view
from jupyter_sc2.kernel.views import progress as progress_view
from jupyter_sc2.kernel.views import prompt as prompt_view
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views import text as text_view
from jupyter_sc2.models.cards import cards, find_card
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.warning_filters import unwarned
from jupyter_sc2.settings import PRECISIONS, SC2
from jupyter_sc2.source.languages import not_asked
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams
from jupyter_sc2.usage import Usage

CURSORS = ("‸", "<cursor>")
SUBCOMMANDS = {
    "status": "what is loaded, and what it takes",
    "load": "load [MODEL] [--precision P] [--no-wait]: a name, a hub id (owner/name) or a folder (./folder)",
    "unload": "give the model's memory back",
    "model": "the models known by name; with one: the same as load",
    "models": "the models known by name, with their sizes",
    "plan": "plan [MODEL]: what of a model fits this machine, and what loading it would choose",
    "license": "license [MODEL]: the loaded model's licence, and what it asks of you",
    "attribution": "what this notebook's cells match in indexed code, and what was accepted in them",
    "settings": "all settings; with a name: one; with a name and a value: set it",
    "context": "context [CODE]: what the model would read for the cell that was typed in last, or for this code",
    "save": "keep the settings that differ from the defaults for new kernels, too",
    "panel": "the settings as a panel of widgets",
    "stats": "your own numbers: shown, accepted, kept, latency; stats reset forgets them",
    "help": "this list",
}


@magics_class
class SC2Magics(Magics):
    """The magics of jupyter-sc2."""

    shell: InteractiveShell

    def __init__(
        self,
        shell: InteractiveShell,
        settings: SC2,
        session: Session,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(shell)
        self.settings = settings
        self.session = session
        self.usage = usage or Usage(lambda: bool(settings.statistics))
        self.on_saved: Callable[[bool], None] = lambda saved: None
        self._shown: Any = None  # the panel, one for all who look at it
        self._hidden: dict[tuple[str, str], Any] = {}
        self._running = ""

    def install(self) -> None:
        there = self.shell.magics_manager.magics
        for kind, names in self.magics.items():
            self._hidden |= {
                (kind, name): there[kind][name] for name in names if name in there[kind]
            }
        self.shell.register_magics(self)
        self.shell.events.register("pre_run_cell", self._note_cell)

    def remove(self) -> None:
        """Takes the magics away again and brings back those of the same name that were there before."""
        self.shell.events.unregister("pre_run_cell", self._note_cell)
        there = self.shell.magics_manager
        for kind, names in self.magics.items():
            for name in names:
                there.magics[kind].pop(name, None)
        for (kind, name), magic in self._hidden.items():
            there.magics[kind][name] = magic
        there.registry.pop(type(self).__name__, None)
        if self._shown is not None:
            self._shown.close()
        configurables: list[Any] = self.shell.configurables
        configurables[:] = [one for one in configurables if one is not self]

    # Completing

    @no_var_expand
    @line_cell_magic
    @magic_arguments()
    @argument("-n", "--max-tokens", type=int, help="The most tokens in the completion.")
    @argument(
        "-t",
        "--temperature",
        type=float,
        help="0 takes what is likeliest; higher values vary more.",
    )
    @argument(
        "-c", "--candidates", type=int, default=1, help="How many different completions to show."
    )
    @argument("-m", "--model", help="Load this model first: a name, a hub id or a folder.")
    def complete(self, line: str, cell: str | None = None) -> None:
        """Completes code and puts it into the next cell.

        ``%%complete`` completes the cell, ``%complete`` what follows on the line (and takes no options). The
        cursor is at the end, or where ``‸`` or ``<cursor>`` stands.
        """
        with one_line_errors():
            self._check_allowed()
            options = parsed(self.complete, line if cell is not None else "")
            text, offset = split_at_cursor(line if cell is None else self._typed(cell))
            request = CompletionRequest(
                text=text,
                offset=offset,
                notebook=self._history(),
                trigger="invoke",
                candidates=options.candidates,
                sampling=self._sampling(options.max_tokens, options.temperature),
            )
            if options.model is not None and options.model != self.settings.model:
                self._load(options.model, None)
            completions, reason = self._ask(request)
            texts = list(completions)
            if reason == "other_language":
                print(not_asked(request, self.session.status.model))
                return
            if not texts:
                print(f"No suggestion here ({reason or 'nothing to add'}).".replace("_", " "))
                return
            text_view.candidates(self.shell, [text_view.visible(request, text) for text in texts])
            for one in dict.fromkeys(one for c in completions.values() for one in c.attribution):
                print(f"May come from {one}")
            self.shell.set_next_input(request.prefix + texts[0] + request.suffix, replace=False)

    def _ask(self, request: CompletionRequest) -> tuple[dict[str, Completion], str | None]:
        """The different texts proposed, best first; or none and the reason."""
        said: dict[int, Completion] = {}
        reason = None
        with closing(self.session.complete(request)) as completions:  # type: ignore[type-var]
            for completion in completions:
                said[completion.index] = completion
                reason = completion.reason
        found: dict[str, Completion] = {}
        for _, one in sorted(said.items()):
            if one.text.strip():
                found.setdefault(one.text, one)
        return found, reason

    def _sampling(self, max_tokens: int | None, temperature: float | None) -> SamplingParams:
        """The settings' own, but for these. Checked as the settings are."""
        trial = SC2(**{name: getattr(self.settings, name) for name in SC2.settings()})
        for name, value in (("max_tokens", max_tokens), ("temperature", temperature)):
            if value is not None:
                trial.set(name, value)
        return trial.completion_options().sampling

    def _history(self) -> Notebook:
        return history.notebook(self.shell, self._running)

    def _note_cell(self, info: ExecutionInfo) -> None:
        self._running = info.raw_cell or ""

    def _typed(self, cell: str) -> str:
        """The cell as it was typed: IPython strips the indentation in which the cursor at the end stands."""
        typed = self._running.lstrip("\n").partition("\n")[2]
        return typed if typed.split() == cell.split() else cell.removesuffix("\n")

    # Everything else

    @no_var_expand
    @line_magic
    @magic_arguments()
    @argument(
        "-p", "--precision", choices=PRECISIONS, help="Precision of the weights that `load` loads."
    )
    @argument(
        "--no-wait",
        action="store_true",
        help="Let `load` return at once and load in the background.",
    )
    @argument(
        "command", nargs="?", default="status", help="One of: " + ", ".join(SUBCOMMANDS) + "."
    )
    @argument("values", nargs="*", help="What the command is about.")
    def sc2(self, line: str) -> None:
        """Status, models and settings of jupyter-sc2. `%sc2 help` lists the commands."""
        with one_line_errors():
            if (
                code := re.match(r"\s*context\b", line)
            ) is not None:  # what follows is code, not options
                self._show_context(line[code.end() :].strip())
                return
            options = parsed(self.sc2, line)
            command = options.command
            if command not in SUBCOMMANDS:
                close = difflib.get_close_matches(command, SUBCOMMANDS, n=1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise UsageError(
                    f"There is no %sc2 {command}.{hint} Commands are: {', '.join(SUBCOMMANDS)}."
                )
            takes = {"load": 1, "model": 1, "plan": 1, "license": 1, "settings": 2, "stats": 1}
            most = takes.get(command, 0)
            if len(options.values) > most:
                raise UsageError(
                    f"%sc2 {command} takes {most or 'no'} value{'s' * (most > 1)}: %sc2 help tells more."
                )
            if (options.precision or options.no_wait) and command not in ("load", "model"):
                raise UsageError("--precision and --no-wait belong to %sc2 load.")
            match command:
                case "status":
                    print(text_view.status(self.session.status, self.settings))
                case "load":
                    self._load(
                        options.values[0] if options.values else None,
                        options.precision,
                        not options.no_wait,
                    )
                case "unload":
                    self.session.unload()
                    print("Unloaded. `%sc2 load` loads again.")
                case "model" if options.values:
                    self._load(options.values[0], options.precision, not options.no_wait)
                case "model" | "models":
                    print(text_view.models(cards().values(), self.settings.model))
                case "plan":
                    self._plan(options.values[0] if options.values else self.settings.model)
                case "license":
                    name = options.values[0] if options.values else self._loaded()
                    print(text_view.licence(find_card(name)))
                case "attribution":
                    attribution_view.show(self.shell, self.settings.attribution_lexemes)
                case "settings":
                    self._set_or_show(options.values)
                case "save":
                    print(f"Kept in {settings_store.save(self.shell, self.settings)}.")
                    self.on_saved(True)
                case "panel":
                    self._panel()
                case "stats":
                    self._stats(options.values)
                case "help":
                    print(
                        "\n".join(f"%sc2 {name:<11} {text}" for name, text in SUBCOMMANDS.items())
                    )

    def _load(self, model: str | None, precision: str | None, wait: bool = True) -> None:
        """Loads, and reports in one line; what is set by it stays set if it can be loaded. Raises SC2Error."""
        self._check_allowed()
        card = find_card(model or self.settings.model)
        if card.hub_id is not None and self.session.status.model != card.name:
            from jupyter_sc2.models.files import bytes_on_disk

            if not bytes_on_disk(card):  # it will be downloaded for the first time
                print(text_view.licence(card))
        before = self.settings.load_options()
        started = monotonic()
        with self.settings.hold_trait_notifications():
            self.settings.model = model or self.settings.model
            self.settings.precision = precision or self.settings.precision
        if self.settings.load_options() == before:  # else the change itself has started it
            self.session.load(before)
        if not wait:
            print(
                f"{self.settings.model} is being loaded in the background; `%sc2 status` tells how far it is."
            )
            return
        try:
            with progress_view.bar(self.shell) as bar:
                status = self.session.wait_ready(
                    waiting=lambda status: bar.show(status.state, status.model, status.progress)
                )
        except SC2Error as error:
            raise UsageError(self.session.status.message or str(error)) from error
        except KeyboardInterrupt:
            raise UsageError(
                "Interrupted; it is still being loaded in the background. `%sc2 unload` ends it."
            ) from None
        print(text_view.loaded(status, monotonic() - started))

    def _check_allowed(self) -> None:
        if not self.settings.allowed:
            raise UsageError("The configuration of this kernel forbids completion (SC2.allowed).")

    def _loaded(self) -> str:
        """What `find_card` knows the loaded model by."""
        status = self.session.status
        return self.settings.model if status.state in ("unloaded", "error") else status.model

    def _plan(self, model: str) -> None:
        from jupyter_sc2.models.files import plan_for
        from jupyter_sc2.models.plan import lines

        options = replace(self.settings.load_options(), model=model)
        tokens = self.settings.context_tokens + self.settings.max_tokens
        card, machine, rows = plan_for(options, tokens=tokens)
        print("\n".join(lines(card.name, machine, rows)))

    def _show_context(self, code: str) -> None:
        if code:
            text, offset = split_at_cursor(code)
            request = CompletionRequest(text=text, offset=offset, notebook=self._history())
        else:
            newest = prompt_view.newest(self.session)
            if newest is None:
                raise UsageError(
                    "Nothing was typed yet that could be completed: give some code, as in %sc2 context df."
                )
            request = newest
        self.session.ensure_loaded()
        self.session.wait_ready()
        explained = self.session.explain_prompt(request)
        if explained is None:
            raise UsageError("No model is loaded: `%sc2 load` loads one.")
        prompt_view.show(self.shell, self.settings, *explained, request)

    def _set_or_show(self, values: list[str]) -> None:
        if len(values) == 1 and "=" in values[0]:
            values = values[0].split("=", 1)
        if len(values) == 2:
            self.settings.set(*values)
        elif values and values[0] not in SC2.settings():
            raise UsageError(
                f"There is no setting named {values[0]!r}. Settings are: {', '.join(SC2.settings())}."
            )
        else:
            print(text_view.settings(self.settings, values or list(SC2.settings())))

    def _panel(self) -> None:
        if not hasattr(self.shell, "kernel"):
            raise UsageError("The panel needs a notebook; in a terminal use `%sc2 settings`.")
        try:
            from jupyter_sc2.kernel.panel.panel import Panel
        except ImportError as error:
            raise UsageError("The panel needs ipywidgets: `%pip install ipywidgets`.") from error
        from IPython.display import display

        if self._shown is None or self._shown.widget.comm is None:  # closed, be it by the user
            self._shown = Panel(self.shell, self.settings, self.session, self.usage, self.on_saved)
        display(self._shown.widget)

    def _stats(self, values: list[str]) -> None:
        if values == ["reset"]:
            self.usage.reset()
            print("Forgotten.")
            return
        if values:
            raise UsageError("%sc2 stats shows your numbers; %sc2 stats reset forgets them.")
        if not self.settings.statistics:
            print("Nothing is counted now: SC2.statistics is False.")
        events = self.usage.events()
        if self.usage.problem:
            print(self.usage.problem)
        if events or not self.usage.problem:
            print("\n".join(stats_view.lines(events)))
        if events:
            text_view.plot(self.shell, stats_view.per_day(events))


def parsed(magic: Any, line: str) -> Any:
    """The options and values of a magic's line."""
    try:
        return parse_argstring(magic, line)
    except ValueError as error:  # a quote that is not closed
        raise UsageError(f"{error}: {line}") from error


def split_at_cursor(text: str) -> tuple[str, int]:
    """The text without its cursor mark, and where that stood: at the end if there is none."""
    marks = [mark for mark in CURSORS if mark in text]
    if sum(text.count(mark) for mark in marks) > 1:
        raise UsageError(
            f"There is more than one cursor: {' and '.join(CURSORS)} may stand in the code once."
        )
    prefix, _, suffix = text.partition(marks[0]) if marks else (text, "", "")
    if not (prefix + suffix).strip():
        raise UsageError(
            "There is nothing to complete: write the beginning of some code after %%complete."
        )
    return prefix + suffix, len(prefix)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what may go wrong into what IPython prints in one line, and a ctrl-C as well.

    What is imported meanwhile is ours, and no warning is for the user.
    """
    try:
        with unwarned, own_imports:
            yield
    except SC2Error as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        raise UsageError("Interrupted.") from None
