"""The imports that a suggestion lacks: of well-known names that it uses and that nothing binds.

Only what is certainly unbound counts: names in the namespace are bound, as are those that any cell binds, whether or
not it has run. Nothing is imported to find out what is installed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from jupyter_sc2.introspection.facts import gather
from jupyter_sc2.introspection.importable import is_installed
from jupyter_sc2.introspection.uses import (
    DEFINES_UNSEEN,
    WORD,
    Use,
    bound_names,
    imports_in,
    names_bound_in,
    uses,
)
from jupyter_sc2.pipeline.grounding import Namespace
from jupyter_sc2.source.incomplete import complete_tree, is_magic_line
from jupyter_sc2.source.languages import language_at, of_cell_magic
from jupyter_sc2.source.well_known import MEMBERS, MODULES
from jupyter_sc2.types import CompletionRequest, MissingImport

# Longer cells and files are not looked at.
MAX_TEXT_CHARS = 40_000
# Characters before the cursor in which a name may stand that the suggestion continues.
MAX_BASE_CHARS = 200
ATTRIBUTE = re.compile(r"\s*\.\s*(\w*)")


class Importable:
    """The well-known names that are not bound where a request is, and can be imported there.

    `namespace` is None where the kernel does not run the document, and for a text file, which has imports of its own.
    """

    def __init__(self, request: CompletionRequest, namespace: Namespace | None) -> None:
        self._request = request
        self._namespace = namespace
        self._known: dict[str, bool] = {}
        self._open: bool | None = None

    @classmethod
    def for_request(
        cls, request: CompletionRequest, namespace: Namespace | None
    ) -> Importable | None:
        """None where no import can be added: the front end adds none, or the cursor is not in Python that runs."""
        line = request.prefix.rpartition("\n")[2]
        if (
            not request.adds_imports
            or request.cell_type != "code"
            or len(request.text) > MAX_TEXT_CHARS
            or language_at(request) != "python"
            or of_cell_magic(request)[1] != request.prefix  # below `%%writefile`
            or (not request.path and is_magic_line(line))
        ):
            return None
        return cls(request, None if request.companion or request.path else namespace)

    def missing(self, text: str, *, final: bool) -> tuple[MissingImport, ...]:
        """The imports that the request's cell lacks with this text at its cursor."""
        prefix = self._request.prefix
        near = f"{prefix[-MAX_BASE_CHARS:]}{text}"
        if not text.strip() or not any(map(_is_well_known, WORD.findall(near))):
            return ()
        completed = complete_tree(prefix, text, self._request.suffix)
        if completed is None:
            return ()
        tree, source = completed
        start, end = len(prefix), len(prefix) + len(text)
        bound = bound_names(tree)
        found: dict[str, MissingImport] = {}
        for name, at in _names_used(uses(tree, source, start, end), source):
            code = self.code_for(name, source, at, end, bound, final=final)
            if code and name not in found:
                offset = max(0, at + len(name) - start)
                found[name] = MissingImport(name=name, code=code, offset=offset)
        return tuple(found.values())

    def code_for(
        self,
        name: str,
        source: str,
        at: int,
        end: int,
        bound: Collection[str],
        *,
        final: bool,
    ) -> str:
        """The line that imports a name of `source`, from `at`; "" if it is bound or none is known.

        `end` is that of the suggestion in the source: what follows is not known yet unless it is `final`.
        """
        if not _is_well_known(name) or name in bound or not self._is_unbound(name):
            return ""
        if at + len(name) == end and not final:
            return ""  # it may be the beginning of another
        attribute = ATTRIBUTE.match(source, at + len(name))
        if attribute is not None and name in MODULES:
            code, word = MODULES[name], source[attribute.start(1) : min(attribute.end(), end)]
            if _has(code, word, final or attribute.end() < end) and self._can_import(code):
                return code
        code = MEMBERS.get(name, "")
        return code if code and self._can_import(code) else ""

    def _is_unbound(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = not self._is_open() and not self._is_bound(name)
        return self._known[name]

    def _is_bound(self, name: str) -> bool:
        request, namespace = self._request, self._namespace
        if namespace is not None and (name,) in namespace.facts([(name,)], request).known:
            return True
        return any(name in names_bound_in(source) for source in self._other_cells())

    def _is_open(self) -> bool:
        """Whether code that was not run may bind names that it does not mention."""
        if self._open is None:
            request, namespace = self._request, self._namespace
            unread = (
                self._other_cells() if namespace is None else namespace.facts([], request).pending
            )
            sources = (request.prefix, request.suffix, *unread)
            self._open = any(map(DEFINES_UNSEEN.search, sources))
        return self._open

    def _other_cells(self) -> list[str]:
        """The code of the other cells; beside a text file there are only other files."""
        request = self._request
        return [
            cell.source
            for cell in request.notebook.cells
            if cell.cell_type == "code" and cell.id != request.cell_id and not request.path
        ]

    def _can_import(self, code: str) -> bool:
        """Whether what a line of the table imports is installed where the document runs, or that is not known."""
        return self._request.companion or all(
            is_installed(module) for module, _ in imports_in(code).values()
        )


def _is_well_known(name: str) -> bool:
    return name in MODULES or name in MEMBERS


def _names_used(found: Iterable[Use], source: str) -> Iterator[tuple[str, int]]:
    """The names that the uses are of, or take an attribute from, and where those stand."""
    for use in found:
        if use.kind == "name":
            yield use.word, use.start
        elif use.kind == "attribute":
            name, before = use.base[0], max(0, use.start - MAX_BASE_CHARS)
            found_at = re.finditer(rf"(?<![\w.]){name}\b", source[before : use.start])
            yield from deque(((name, before + one.start()) for one in found_at), maxlen=1)


def _has(code: str, attribute: str, whole: bool) -> bool:
    """Whether a module has an attribute, or one that begins so; also where that is not known."""
    (module, member), *_ = imports_in(code).values()
    path = ("import", *".".join(filter(None, (module, member))).split("."))
    known = gather({}, [path]).get(path)
    names = known.attributes if known is not None else None
    if names is None or not attribute:
        return True
    return attribute in names or (not whole and any(name.startswith(attribute) for name in names))
