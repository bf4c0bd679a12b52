"""The live variables and the last error of one shell, as comment lines for prompts and as facts for grounding.

In a prompt these lines come between the notebook's cells and the current cell, so a change in them means that the
whole current cell is prefilled again. They are therefore made once per cell and execution, and then stay: changes by a
running cell show when it is done. A variable that the user starts to use while typing is appended, so that the KV cache
of the lines before it stays valid.
"""

from __future__ import annotations

import builtins
import linecache
import re
import sys
import threading
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType, TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.introspection import secrets
from jupyter_sc2.introspection.facts import Facts, Path, collections, gather
from jupyter_sc2.introspection.files import instead_of
from jupyter_sc2.introspection.inspection import is_a, loaded, module_state, plain
from jupyter_sc2.introspection.rendering import Variable, describe
from jupyter_sc2.introspection.uses import WORD, imports_in
from jupyter_sc2.introspection.variables import choose, describe_name, describe_variable, message_of
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.prompt.sources import SOURCES
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.settings import SC2
from jupyter_sc2.source.languages import runs_here
from jupyter_sc2.types import CompletionRequest

# Variables described when the user enters a cell.
MAX_VARIABLES = 8
# Characters of all lines.
MAX_STATE_CHARS = 1_200
# Cells above whose names count as likely to be used.
NEAR_CELLS = 3
# Names on either side of the cursor that count as used.
MAX_NAMES = 256
# Characters on either side of the cursor, and of a cell above, that are searched for names.
SEARCH_CHARS = 8_000
# Front ends whose lines are remembered.
MAX_FRONT_ENDS = 32
# The sources that only the kernel knows.
LIVE = tuple(name for name, source in SOURCES.items() if source.render is None and source.setting)


@dataclass
class _Visit:
    """A user's stay in one cell while no code runs, with the variables described there."""

    key: tuple[object, ...]
    variables: dict[str, Variable]
    # Names that were used and for whose description there was no room.
    no_room: frozenset[str] = frozenset()


class LiveNamespace:
    """The variables of one shell, read from the session's thread while cells may run."""

    def __init__(self, shell: InteractiveShell, settings: SC2) -> None:
        self._shell = shell
        self._settings = settings
        # By front end, the most recent last.
        self._visits: OrderedDict[str, _Visit] = OrderedDict()
        self._lock = threading.Lock()
        # The index of the last execution of each source.
        self._sources: dict[str, int] = {}
        self._inputs_seen = 0
        self._runs = 0
        # The epoch and the numbers of names for which `_known_names` was made.
        self._names_key: tuple[int, ...] = ()
        self._known_names: frozenset[str] = frozenset()
        # While the user types, the other cells are not looked at again.
        self._pending = cache_latest(partial(_pending, self.has_run))
        self._imported = cache_latest(_imported)
        # The only event that fires after every execution: also of silent code and of a widget's callback.
        shell.events.register("post_execute", self._on_execute)
        # By source, in the order of their lines.
        self._look_at = {"error": self._error, "variables": self._variables}

    def close(self) -> None:
        """Stops listening to executions."""
        self._shell.events.unregister("post_execute", self._on_execute)

    def _on_execute(self) -> None:
        self._runs += 1

    @property
    def epoch(self) -> int:
        """A number that changes with each execution of any code."""
        return self._runs

    def state(self, request: CompletionRequest) -> str:
        """The comment lines for the prompt of this request."""
        if not runs_here(request):
            return ""
        included = self._included()
        key = (request.cell_id, self.epoch, included)
        used = _used_names(request)
        with self._lock:  # two engines may answer in turn, and `%sc2 context` calls this as well
            visit = self._visits.pop(request.front_end, None)
            if visit is None or visit.key != key:
                visit = _Visit(key, self._first_look(request, used))
            elif "variables" in included:
                self._add(visit, request, used)
            self._visits[request.front_end] = visit
            if len(self._visits) > MAX_FRONT_ENDS:
                self._visits.popitem(last=False)
            return describe(visit.variables.values(), limit=MAX_STATE_CHARS)

    def facts(self, paths: Iterable[Path], request: CompletionRequest) -> Facts:
        """The known facts about these paths, and the names that exist."""
        names: list[Any] = [plain(self._shell.user_ns)]
        if self._shell.user_global_ns is not self._shell.user_ns:  # a shell that runs in a function
            names.append(plain(self._shell.user_global_ns))
        return Facts(
            names=self._names(*names),
            collections=partial(collections, names[0]),
            files=instead_of,
            known=gather(ChainMap(*names, self._imports_of(request)), paths),
            pending=self._pending(request.notebook, request.cell_id, len(self._inputs), self.epoch),
        )

    def _names(self, *namespaces: Mapping[str, Any]) -> frozenset[str]:
        """All existing names; none before the first execution, when a notebook may be written before it is run."""
        kept = (self.epoch, *map(len, namespaces))
        if kept != self._names_key:
            hidden = self._hidden
            names = list(namespaces[0])
            made = any(not name.startswith("_") and name not in hidden for name in names)
            found = frozenset().union(*namespaces, module_state(builtins)) if made else frozenset()
            self._names_key, self._known_names = kept, found
        return self._known_names

    def _imports_of(self, request: CompletionRequest) -> dict[str, Any]:
        """The names that the cell's imports will bind, for modules that are already loaded."""
        found: dict[str, Any] = {}
        for line in request.text.splitlines():
            for name, (module, part) in imports_in(line).items():
                there = loaded(module)
                if is_a(there, ModuleType) and (not part or part in module_state(there)):
                    found[name] = module_state(there)[part] if part else there
        return found

    @property
    def _inputs(self) -> list[str]:
        history = self._shell.history_manager
        return history.input_hist_raw if history is not None else []

    def has_run(self, cell: Cell) -> bool:
        """Whether the cell's current source was executed in this kernel, and has finished."""
        inputs = self._inputs
        if len(inputs) < self._inputs_seen:  # %reset
            self._sources, self._inputs_seen = {}, 0
        for index in range(self._inputs_seen, len(inputs)):
            self._sources[inputs[index].strip()] = index
        self._inputs_seen = len(inputs)
        when = self._sources.get(cell.source.strip())
        return when is not None and when < self._shell.execution_count

    def _included(self) -> frozenset[str]:
        """The sources of what the kernel knows that the settings include."""
        return frozenset(name for name in LIVE if self._settings.includes(SOURCES[name]))

    def _first_look(self, request: CompletionRequest, used: list[str]) -> dict[str, Variable]:
        included = self._included()
        values = "values" in included
        found: list[Variable] = []
        for name, look_at in self._look_at.items():
            if name in included:
                found += look_at(request, used, values)
        return {variable.name: variable for variable in found}

    def _error(
        self, request: CompletionRequest, used: list[str], values: bool
    ) -> Iterable[Variable]:
        error = last_error(self._shell, values=values)
        return () if error is None else (error,)

    def _variables(
        self, request: CompletionRequest, used: list[str], values: bool
    ) -> Iterable[Variable]:
        above = request.notebook.above(request.cell_id)
        likely = [
            name
            for cell in reversed(above[-NEAR_CELLS:])
            for name in WORD.findall(cell.source[:SEARCH_CHARS])
        ]
        return choose(
            self._shell.user_ns,
            [*used, *likely],
            hidden=self._hidden,
            most=MAX_VARIABLES,
            values=values,
            skip=self._imported(above),
        )

    def _add(self, visit: _Visit, request: CompletionRequest, used: list[str]) -> None:
        """Adds the variables that the cell has come to use, if their description says more than a type."""
        known = {variable.name.partition("(")[0] for variable in visit.variables.values()}
        names, hidden = plain(self._shell.user_ns), self._hidden
        skip = self._imported(request.notebook.above(request.cell_id))
        values = "values" in self._included()
        for name in used:
            if name in known or name in skip or name in visit.no_room:
                continue
            variable = describe_name(names, name, hidden=hidden, values=values)
            if variable is None or not variable.detail:
                continue
            if (
                len(describe([*visit.variables.values(), variable], limit=2 * MAX_STATE_CHARS))
                > MAX_STATE_CHARS
            ):
                visit.variables = self._first_look(request, used)
                visit.no_room = frozenset(
                    used
                )  # else each keystroke would look at all of them again
                return
            visit.variables[variable.name] = variable

    @property
    def _hidden(self) -> Mapping[str, Any]:
        return plain(self._shell.user_ns_hidden)


def _imported(above: tuple[Cell, ...]) -> frozenset[str]:
    """The words of import lines above, which the prompt contains anyway."""
    lines = (
        line
        for cell in above
        for line in cell.source.splitlines()
        if line.startswith(("import ", "from "))
    )
    return frozenset(word for line in lines for word in WORD.findall(line))


def _pending(
    has_run: Callable[[Cell], bool], notebook: Notebook, cell_id: str | None, *when: int
) -> tuple[str, ...]:
    """The other code cells whose current source was not executed; `when` changes with each execution."""
    return tuple(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.id != cell_id and not has_run(cell)
    )


def _used_names(request: CompletionRequest) -> list[str]:
    """The names in the cell without the one that is being typed: those before the cursor first, nearest first."""
    prefix, suffix = request.prefix[-SEARCH_CHARS:], request.suffix[:SEARCH_CHARS]
    before = WORD.findall(prefix)
    if before and prefix.endswith(before[-1]):
        del before[-1]
    typed = re.match(r"\w*", suffix)
    after = WORD.findall(suffix, typed.end() if typed is not None else 0)
    return list(dict.fromkeys([*before[: -MAX_NAMES - 1 : -1], *after[:MAX_NAMES]]))


def last_error(shell: InteractiveShell, *, values: bool = False) -> Variable | None:
    """The last cell's error and its line; None if the cell did not fail, or if the text may hold a secret.

    The error's message, which may contain data, is included only with `values`.
    """
    if getattr(shell, "last_execution_succeeded", True):
        return None
    error: Any = getattr(sys, "last_value", None)
    if not is_a(error, BaseException):
        return None
    described = describe_variable("last error", error, values=values)
    if described is None or _has_secret(message_of(error)):
        return None
    line = ""
    trace: Any = getattr(sys, "last_traceback", None)
    while is_a(trace, TracebackType):
        # From the cache only: no file is read.
        cached = linecache.cache.get(trace.tb_frame.f_code.co_filename)
        name = plain(trace.tb_frame.f_globals).get("__name__")
        if type(name) is str and name == "__main__" and type(cached) is tuple and len(cached) == 4:
            line = next(iter(cached[2][trace.tb_lineno - 1 : trace.tb_lineno]), "").strip()
        trace = trace.tb_next
    at = f"at {line}" if line and not _has_secret(line) else ""
    return replace(described, detail=", ".join(filter(None, (described.detail, at))))


def _has_secret(text: str) -> bool:
    return secrets.in_text(text) or secrets.mentioned(text)
