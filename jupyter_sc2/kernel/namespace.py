"""What the shell's variables tell a session, at the moment it answers a request.

The lines about variables stand between the notebook's cells and the cell that is typed in, so what changes in them
is read again together with all of that cell. So they are looked at once for each cell and run, and then stay: what
a running cell does to its variables shows when it is done. A variable that the user brings in while typing is added
behind the others; what was read of those stays in the KV cache.
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
from jupyter_sc2.introspection.facts import Facts, Path, gather
from jupyter_sc2.introspection.inspection import is_a, loaded, module_state, plain
from jupyter_sc2.introspection.rendering import Variable, describe
from jupyter_sc2.introspection.uses import WORD, imports_in
from jupyter_sc2.introspection.variables import choose, describe_name, describe_variable, message_of
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.settings import SC2
from jupyter_sc2.source.languages import runs_here
from jupyter_sc2.types import CompletionRequest

MOST = 8  # variables that a cell starts with
LIMIT = 1_200  # characters of what is told about them
NEAR = 3  # cells above whose names count as likely to be used
MOST_USED = 256  # names on either side of the cursor that count as used
REACH = 8_000  # characters on either side of the cursor, and of a cell above, in which names are looked for


FRONT_ENDS = 32  # in which somebody is in a cell of their own


@dataclass
class _Visit:
    """Somebody is in a cell, and no code has run since: what is told there."""

    place: tuple[object, ...]
    told: dict[str, Variable]
    no_room: frozenset[str] = (
        frozenset()
    )  # names that were looked at and of which there was no room to tell


class LiveNamespace:
    """The variables of one shell. A session's thread asks; cells may run meanwhile."""

    def __init__(self, shell: InteractiveShell, settings: SC2) -> None:
        self._shell = shell
        self._settings = settings
        self._visits: OrderedDict[str, _Visit] = OrderedDict()  # by front end, the newest last
        self._lock = threading.Lock()
        self._sources: dict[str, int] = {}  # what was run: when last
        self._seen = 0
        self._runs = 0
        self._kept: tuple[
            int, ...
        ] = ()  # the run and the number of names that those found last are of
        self._found: frozenset[str] = frozenset()
        # While somebody types, the other cells are not looked at again.
        self._pending = cache_latest(partial(_pending, self.ran))
        self._imported = cache_latest(_imported)
        # The one event that comes after whatever was run: silent code, what is kept in no history, a widget's callback.
        shell.events.register("post_execute", self._ran_something)

    def close(self) -> None:
        """Hears of no more runs."""
        self._shell.events.unregister("post_execute", self._ran_something)

    def _ran_something(self) -> None:
        self._runs += 1

    @property
    def epoch(self) -> int:
        """Another number after each run of any code."""
        return self._runs

    def state(self, request: CompletionRequest) -> str:
        """The comment lines for the prompt of this request."""
        if not runs_here(request):
            return ""
        settings = self._settings
        wanted = (settings.context_variables, settings.context_values, settings.context_error)
        place = (request.cell_id, self.epoch, *wanted)
        used = _names_used(request)
        with self._lock:  # two engines may answer in turn, and `%sc2 context` asks as well
            visit = self._visits.pop(request.front_end, None)
            if visit is None or visit.place != place:
                visit = _Visit(place, self._first_look(request, used))
            elif settings.context_variables:
                self._add(visit, request, used)
            self._visits[request.front_end] = visit
            if len(self._visits) > FRONT_ENDS:
                self._visits.popitem(last=False)
            return describe(visit.told.values(), limit=LIMIT)

    def facts(self, paths: Iterable[Path], request: CompletionRequest) -> Facts:
        """What is certain of these paths, and of the names there are."""
        names: list[Any] = [plain(self._shell.user_ns)]
        if self._shell.user_global_ns is not self._shell.user_ns:  # a shell that runs in a function
            names.append(plain(self._shell.user_global_ns))
        return Facts(
            names=self._names(*names),
            known=gather(ChainMap(*names, self._to_be_imported(request)), paths),
            pending=self._pending(request.notebook, request.cell_id, len(self._inputs), self.epoch),
        )

    def _names(self, *namespaces: Mapping[str, Any]) -> frozenset[str]:
        """All names that there are; none where nothing was run yet: who writes first and runs later may mean any."""
        kept = (self.epoch, *map(len, namespaces))
        if kept != self._kept:
            hidden = self._hidden
            names = list(namespaces[0])
            made = any(not name.startswith("_") and name not in hidden for name in names)
            found = frozenset().union(*namespaces, module_state(builtins)) if made else frozenset()
            self._kept, self._found = kept, found
        return self._found

    def _to_be_imported(self, request: CompletionRequest) -> dict[str, Any]:
        """What the cell's imports will bind when it is run, of modules that are loaded already."""
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

    def ran(self, cell: Cell) -> bool:
        """Whether the cell as it stands was run in this kernel, and is done."""
        inputs = self._inputs
        if len(inputs) < self._seen:  # %reset
            self._sources, self._seen = {}, 0
        for index in range(self._seen, len(inputs)):
            self._sources[inputs[index].strip()] = index
        self._seen = len(inputs)
        when = self._sources.get(cell.source.strip())
        return when is not None and when < self._shell.execution_count

    def _first_look(self, request: CompletionRequest, used: list[str]) -> dict[str, Variable]:
        settings = self._settings
        found: dict[str, Variable] = {}
        if settings.context_error:
            error = last_error(self._shell, values=settings.context_values)
            if error is not None:
                found[error.name] = error
        if settings.context_variables:
            above = request.notebook.above(request.cell_id)
            likely = [
                name
                for cell in reversed(above[-NEAR:])
                for name in WORD.findall(cell.source[:REACH])
            ]
            chosen = choose(
                self._shell.user_ns,
                [*used, *likely],
                hidden=self._hidden,
                most=MOST,
                values=settings.context_values,
                skip=self._imported(above),
            )
            found.update((variable.name, variable) for variable in chosen)
        return found

    def _add(self, visit: _Visit, request: CompletionRequest, used: list[str]) -> None:
        """Adds what the cell uses by now, if there is more to tell of it than that it is a number."""
        known = {variable.name.partition("(")[0] for variable in visit.told.values()}
        names, hidden = plain(self._shell.user_ns), self._hidden
        skip = self._imported(request.notebook.above(request.cell_id))
        for name in used:
            if name in known or name in skip or name in visit.no_room:
                continue
            values = self._settings.context_values
            variable = describe_name(names, name, hidden=hidden, values=values)
            if variable is None or not variable.detail:
                continue
            if len(describe([*visit.told.values(), variable], limit=2 * LIMIT)) > LIMIT:
                visit.told = self._first_look(request, used)
                visit.no_room = frozenset(used)  # else each key would look at all of them again
                return
            visit.told[variable.name] = variable

    @property
    def _hidden(self) -> Mapping[str, Any]:
        return plain(self._shell.user_ns_hidden)


def _imported(above: tuple[Cell, ...]) -> frozenset[str]:
    """Modules whose import the model reads in the notebook anyway."""
    lines = (
        line
        for cell in above
        for line in cell.source.splitlines()
        if line.startswith(("import ", "from "))
    )
    return frozenset(word for line in lines for word in WORD.findall(line))


def _pending(
    ran: Callable[[Cell], bool], notebook: Notebook, cell_id: str | None, *when: int
) -> tuple[str, ...]:
    """The other cells that were not run as they stand; `when` is other numbers after each run."""
    return tuple(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.id != cell_id and not ran(cell)
    )


def _names_used(request: CompletionRequest) -> list[str]:
    """The names in the cell, those nearest above the cursor first; not the word that is being typed."""
    prefix, suffix = request.prefix[-REACH:], request.suffix[:REACH]
    before = WORD.findall(prefix)
    if before and prefix.endswith(before[-1]):
        del before[-1]
    typed = re.match(r"\w*", suffix)
    after = WORD.findall(suffix, typed.end() if typed is not None else 0)
    return list(dict.fromkeys([*before[: -MOST_USED - 1 : -1], *after[:MOST_USED]]))


def last_error(shell: InteractiveShell, *, values: bool = False) -> Variable | None:
    """What the last cell failed with, and in which line of it; None if it did not fail, or may tell a secret.

    The message, which may have anything in it, is told only with `values`.
    """
    if getattr(shell, "last_execution_succeeded", True):
        return None
    error: Any = getattr(sys, "last_value", None)
    if not is_a(error, BaseException):
        return None
    described = describe_variable("last error", error, values=values)
    if described is None or _tells_secret(message_of(error)):
        return None
    line = ""
    trace: Any = getattr(sys, "last_traceback", None)
    while is_a(trace, TracebackType):
        # Only what is in the cache: this reads no file.
        cached = linecache.cache.get(trace.tb_frame.f_code.co_filename)
        name = plain(trace.tb_frame.f_globals).get("__name__")
        if type(name) is str and name == "__main__" and type(cached) is tuple and len(cached) == 4:
            line = next(iter(cached[2][trace.tb_lineno - 1 : trace.tb_lineno]), "").strip()
        trace = trace.tb_next
    at = f"at {line}" if line and not _tells_secret(line) else ""
    return replace(described, detail=", ".join(filter(None, (described.detail, at))))


def _tells_secret(text: str) -> bool:
    return secrets.in_text(text) or secrets.mentioned(text)
