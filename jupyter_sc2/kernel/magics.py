"""The magics %%complete, %complete and %sc2.

They work in any front end and in the IPython terminal. The code executed in this session is the context. A mistake in a
command is reported in one line: IPython prints a UsageError without a traceback.
"""

# IPython's decorators and display functions have no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel import history
from jupyter_sc2.kernel.subcommands import (
    SUBCOMMANDS,
    Arguments,
    KernelParts,
    check,
    code_after,
    find,
    load_model,
    split_at_cursor,
)
from jupyter_sc2.kernel.views import text as text_view
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.warning_filters import unwarned
from jupyter_sc2.settings import PRECISIONS, SC2
from jupyter_sc2.source.imports import with_imports
from jupyter_sc2.source.languages import not_asked
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams
from jupyter_sc2.usage import Usage


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
        usage = usage or Usage(lambda: bool(settings.statistics))
        self.parts = KernelParts(shell, settings, session, usage)
        # Other magics of the same names, by kind and name.
        self._hidden: dict[tuple[str, str], Any] = {}

    def install(self) -> None:
        there = self.shell.magics_manager.magics
        for kind, names in self.magics.items():
            self._hidden |= {
                (kind, name): there[kind][name] for name in names if name in there[kind]
            }
        self.shell.register_magics(self)
        self.shell.events.register("pre_run_cell", self._note_cell)

    def remove(self) -> None:
        """Removes the magics, and restores those of the same names that existed before."""
        self.shell.events.unregister("pre_run_cell", self._note_cell)
        there = self.shell.magics_manager
        for kind, names in self.magics.items():
            for name in names:
                there.magics[kind].pop(name, None)
        for (kind, name), magic in self._hidden.items():
            there.magics[kind][name] = magic
        there.registry.pop(type(self).__name__, None)
        if self.parts.panel is not None:
            self.parts.panel.close()
        configurables: list[Any] = self.shell.configurables
        configurables[:] = [one for one in configurables if one is not self]

    # Completing

    @no_var_expand
    @line_cell_magic
    @magic_arguments()
    @argument("-n", "--max-tokens", type=int, help="Maximum number of tokens in the completion.")
    @argument(
        "-t",
        "--temperature",
        type=float,
        help="Sampling temperature; 0 disables sampling.",
    )
    @argument(
        "-c", "--candidates", type=int, default=1, help="Number of different completions to show."
    )
    @argument("-m", "--model", help="Load this model first: a name, a Hub id or a path.")
    def complete(self, line: str, cell: str | None = None) -> None:
        """Completes code and puts it into the next cell.

        ``%%complete`` completes the cell, ``%complete`` the rest of the line (and has no options). The cursor is
        at the end, or at a mark ``‸`` or ``<cursor>``.
        """
        with one_line_errors():
            self.parts.check_allowed()
            options = parsed(self.complete, line if cell is not None else "")
            text, offset = split_at_cursor(line if cell is None else self._raw_cell(cell))
            request = CompletionRequest(
                text=text,
                offset=offset,
                notebook=history.notebook(self.shell, self.parts.running),
                trigger="invoke",
                candidates=options.candidates,
                sampling=self._sampling(options.max_tokens, options.temperature),
                adds_imports=True,
            )
            if options.model is not None and options.model != self.parts.settings.model:
                load_model(self.parts, options.model)
            completions, reason = self._complete(request)
            texts = list(completions)
            if reason == "other_language":
                print(not_asked(request, self.parts.session.status.model))
                return
            if not texts:
                print(f"No suggestion here ({reason or 'nothing to add'}).".replace("_", " "))
                return
            text_view.candidates(self.shell, [text_view.visible(request, text) for text in texts])
            for one in dict.fromkeys(one for c in completions.values() for one in c.attribution):
                print(f"May come from {one}")
            imports = [one.code for one in completions[texts[0]].imports]
            if imports:
                print("Adds " + ", ".join(imports))
            next_cell = with_imports(request.prefix + texts[0] + request.suffix, imports)
            self.shell.set_next_input(next_cell, replace=False)

    def _complete(self, request: CompletionRequest) -> tuple[dict[str, Completion], str | None]:
        """The different suggestions, best first; or none, and the reason."""
        latest: dict[int, Completion] = {}
        reason = None
        with closing(self.parts.session.complete(request)) as completions:  # type: ignore[type-var]
            for completion in completions:
                latest[completion.index] = completion
                reason = completion.reason
        found: dict[str, Completion] = {}
        for _, one in sorted(latest.items()):
            if one.text.strip():
                found.setdefault(one.text, one)
        return found, reason

    def _sampling(self, max_tokens: int | None, temperature: float | None) -> SamplingParams:
        """The sampling settings with these values instead, checked as settings are. Raises SettingsError."""
        trial = SC2(**{name: getattr(self.parts.settings, name) for name in SC2.settings()})
        for name, value in (("max_tokens", max_tokens), ("temperature", temperature)):
            if value is not None:
                trial.set(name, value)
        return trial.completion_options().sampling

    def _note_cell(self, info: ExecutionInfo) -> None:
        self.parts.running = info.raw_cell or ""

    def _raw_cell(self, cell: str) -> str:
        """The cell as it was typed: IPython strips trailing indentation, which matters for a cursor at the end."""
        typed = self.parts.running.lstrip("\n").partition("\n")[2]
        return typed if typed.split() == cell.split() else cell.removesuffix("\n")

    # Subcommands

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
    @argument("values", nargs="*", help="What the command applies to; see %%sc2 help.")
    def sc2(self, line: str) -> None:
        """Status, models and settings of jupyter-sc2. `%sc2 help` lists the commands."""
        with one_line_errors():
            with_code = code_after(line)
            if with_code is not None:
                command, arguments = with_code
            else:
                options = parsed(self.sc2, line)
                command = find(options.command)
                check(command, options.values, bool(options.precision or options.no_wait))
                arguments = Arguments(options.values, options.precision, not options.no_wait)
            command.run(self.parts, arguments)


def parsed(magic: Any, line: str) -> Any:
    """The options and values of a magic's line."""
    try:
        return parse_argstring(magic, line)
    except ValueError as error:  # a quote that is not closed
        raise UsageError(f"{error}: {line}") from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors and Ctrl-C into a UsageError, which IPython prints in one line.

    Imports meanwhile are isolated from the user's modules, and warnings are not shown.
    """
    try:
        with unwarned, own_imports:
            yield
    except SC2Error as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        raise UsageError("Interrupted.") from None
