"""Holds a completion against what the kernel knows, and against Python's grammar.

What the live namespace refutes would raise if it were run: a column that the frame does not have, an attribute that
the module does not have, a keyword that the function does not take or that the call has already, a name that nobody
has defined. Where another name can stand in its place, the model is asked to choose one and goes on from there; else
the completion ends before it, or is dropped.

Only what cannot be otherwise is refuted. What the user has typed stands; what the cell or another cell that was not
run may define, rebind or add to is not known; nor is what an object computes when it is asked.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

from jupyter_sc2.completion import CompletionRequest
from jupyter_sc2.fitting import is_word
from jupyter_sc2.prompt.brackets import open_at_end, scan
from jupyter_sc2.prompt.facts import Facts, Known, Path
from jupyter_sc2.prompt.languages import language_at, runs_here
from jupyter_sc2.prompt.secrets import in_text
from jupyter_sc2.prompt.syntax import complete_tree, is_magic_line
from jupyter_sc2.prompt.uses import WORD, Kind, Use, bound_names, stored_strings, uses

LONGEST_CELL = 8_000  # characters; longer ones are not looked at
MOST_CHOICES = 400
STRING = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
NO_CODE = re.compile(r"#[^\n]*|'[^'\n]*'|\"[^\"\n]*\"")
TARGET = re.compile(r"[\w.,*\s\[\]'\"]*")
BUILTINS = frozenset(dir(builtins)) | {
    *(
        "get_ipython",
        "display",
        "exit",
        "quit",
        "In",
        "Out",
        "_",
        "__",
        "___",
        "__name__",
        "__file__",
    ),
    *("_i", "_ii", "_iii", "_ih", "_oh", "_dh", "self", "cls"),
}
# Code that may define names that do not stand in it.
DEFINES_UNSEEN = re.compile(
    r"import\s*\*|^\s*%(?:run|load|store|pylab)|\b(?:exec|globals|locals|vars|setattr)\(", re.M
)
# What may change a table or an object in place.
CHANGES = re.compile(
    r"inplace|\.(?:columns|index)\s*=|\.(?:insert|pop|update|setdefault|rename_axis)\(|\bdel\b"
)


class Namespace(Protocol):
    """What a kernel knows. Asked on a session's thread, while cells may run."""

    @property
    def epoch(self) -> int:
        """Another number whenever the variables may be others: after each run of a cell."""

    def state(self, request: CompletionRequest) -> str:
        """What the prompt says of the variables (see prompt/namespace.py); the same text while the user types."""

    def facts(self, paths: Iterable[Path], request: CompletionRequest) -> Facts:
        """What is certain of these paths."""


@dataclass(frozen=True)
class Refutation:
    """A word of a completion that cannot stand there, and what could.

    `start` counts in the completion's text and is negative where the user has typed the word's beginning. Without
    `choices` there is nothing better; those of a string bring its closing quote along.
    """

    kind: Kind | Literal["syntax"]
    word: str
    start: int
    choices: tuple[str, ...] = ()
    certain: bool = True  # else what is still to come may justify it


Check = Callable[[str, bool], Refutation | None]


def checker(request: CompletionRequest, namespace: Namespace) -> Check:
    """A function from the text of a completion so far, and whether that is all of it, to its first refutation."""
    known: dict[Path, Known] = {}
    asked: set[Path] = set()
    facts: Facts | None = None

    def check(text: str, final: bool) -> Refutation | None:
        nonlocal facts
        if not text.strip():
            return None
        completed = complete_tree(request.prefix, text, request.suffix)
        if completed is None:
            return Refutation("syntax", text, 0) if final and _breaks(request, text) else None
        tree, source = completed
        start, end = len(request.prefix), len(request.prefix) + len(text)
        found = [use for use in uses(tree, source) if use.end > start and use.start < end]
        paths = {path for use in found for path in (use.base, use.function) if path} - asked
        if found and (facts is None or paths):
            facts = namespace.facts(paths, request)
            asked.update(paths)
            known.update(facts.known)
        if facts is None:
            return None
        facts = replace(facts, known=known)
        return refute(request, text, tree, found, facts, final=final)

    return check


def applies(request: CompletionRequest) -> bool:
    """Whether the cursor stands in Python of this kernel's that can be looked at."""
    if len(request.text) > LONGEST_CELL or is_magic_line(request.prefix.rpartition("\n")[2]):
        return False
    return runs_here(request) and language_at(request) == "python"


def _breaks(request: CompletionRequest, text: str) -> bool:
    """Whether it is the completion, not what the user wrote, that Python cannot read."""
    if open_at_end(request.prefix + text)[1] not in ("", "#"):
        return False  # in a string that goes on
    return complete_tree(request.prefix, "", "") is not None


def refute(
    request: CompletionRequest,
    text: str,
    tree: ast.Module,
    found: Iterable[Use],
    facts: Facts,
    *,
    final: bool,
) -> Refutation | None:
    """The first of the uses that the facts refute. `tree` is that of the completed cell."""
    surroundings = _Surroundings(request, tree, facts)
    source = request.prefix + text
    for use in found:
        allowed = surroundings.allowed(use)
        # Keywords of the same call; of two in the completion the later one is the one too many.
        given = {word for word, at in use.others if at < use.start or at >= len(source)}
        if use.word in given:
            allowed = allowed or frozenset()
        if allowed is not None:
            allowed -= given
        if allowed is None or use.word in allowed:
            continue
        start = use.start - len(request.prefix)
        certain = final
        if use.end >= len(source):  # the word may go on
            if not final and any(name.startswith(use.word) for name in allowed):
                continue
            if is_word(request.suffix[:1]):
                continue
        if use.kind in ("module", "member"):
            certain = True
        elif not final and use.kind != "name":
            # What stands first in a statement may come to be assigned to.
            certain = not TARGET.fullmatch(source[source.rfind("\n", 0, use.start) + 1 : use.start])
        choices = _choices(use, source, -start, allowed)
        return Refutation(use.kind, use.word, start, choices, certain)
    return None


class _Surroundings:
    """What the cells say about names: which are bound, changed or mentioned where it has not run yet."""

    def __init__(self, request: CompletionRequest, tree: ast.Module, facts: Facts) -> None:
        self._facts = facts
        typed = f"{request.prefix} {request.suffix}"
        unread = [typed, *facts.pending]
        self._open = any(DEFINES_UNSEEN.search(source) for source in unread)
        self._changing = any(CHANGES.search(source) for source in unread)
        self._bound = bound_names(tree)
        self._strings = stored_strings(tree).union(*map(_strings_in, unread))
        self._typed = set(WORD.findall(NO_CODE.sub(" ", typed)))
        # Names whose values will be others once the cells have run, and what they may do to an object.
        self._pending: dict[str, bool] = {}
        for source in facts.pending:
            for name, imported in _bindings(source).items():
                self._pending[name] = self._pending.get(name, True) and imported
        above = request.prefix.rpartition("\n")[0]
        self._mentioned = set(WORD.findall("\n".join([above, *facts.pending])))
        self._words = self._mentioned.union(WORD.findall(typed))
        cells = (cell.source for cell in request.notebook.cells if cell.cell_type == "code")
        self._defined = frozenset(self._pending).union(*map(_bindings, cells))

    def allowed(self, use: Use) -> frozenset[str] | None:
        """All the words that may stand in place of a use; None where any may."""
        if use.kind == "name":
            if self._open or use.deferred or not self._facts.names:
                return None
            return self._facts.names.union(BUILTINS, self._bound, self._defined, self._typed)
        known = self._known(use.base) if use.base else None
        if known is None:
            return None
        match use.kind:
            case "attribute":
                if known.attributes is None or (known.grows and use.base[0] in self._mentioned):
                    return None
                # Assigned to in a cell that was not run, as it seems.
                return known.attributes | (self._typed | self._mentioned) & {use.word}
            case "argument":
                if known.parameters is None:
                    return None
                alike = [word for word in known.passed_on if word[:1] == use.word[:1]]
                meant = difflib.get_close_matches(use.word, alike, n=8, cutoff=0.75)
                begun = (word for word in alike if word.startswith(use.word))
                return frozenset((*known.parameters, *meant, *begun))
            case "module" | "member":
                found = known.modules if use.kind == "module" else known.attributes
                # What is named elsewhere may be installed or written by then.
                return None if found is None else found | (self._words & {use.word})
        return self._columns(use, known)

    def _columns(self, use: Use, known: Known) -> frozenset[str] | None:
        if known.columns is None or self._changing:
            return None
        if known.grows and use.base[0] in self._mentioned:
            return None
        if use.function and use.function[: len(use.base)] != use.base:  # given the table
            function = self._facts.known.get(use.function)
            if function is None or function.library != "seaborn":
                return None
        levels = known.levels if use.function else ()
        return frozenset((*known.columns, *levels, *self._strings))

    def _known(self, path: Path) -> Known | None:
        """What is certain of a path, unless code that was not run gives its name to something else."""
        for bound in (self._bound, self._pending):
            # The import of a module that is there already changes nothing.
            if not bound.get(path[0], True):
                return None
        return self._facts.known.get(path)


def sound_part(text: str, refutation: Refutation, before: str = "") -> str:
    """What may be shown of a refuted text: up to the attribute, the argument or the line that is wrong.

    `before` is what stands before the text, which may begin in a string.
    """
    start = max(0, refutation.start)
    line = text.rfind("\n", 0, start) + 1
    if refutation.kind == "attribute" and text[line : start - 1].endswith((")", "]", '"', "'")):
        return text[: start - 1]
    cut = max(0, line - 1)
    if refutation.kind != "syntax":
        signs = scan(text[:start], open_at_end(before)[1])
        commas = [i for i, char, quote in signs if char == "," and not quote and i > line]
        cut = commas[-1] if commas else cut
    return text[:cut].rstrip()


@lru_cache(maxsize=512)
def _bindings(source: str) -> dict[str, bool]:
    """The names that a cell binds, and whether by imports alone; where it does not parse, all its words."""
    completed = complete_tree(source, "", "")
    return (
        dict.fromkeys(WORD.findall(source), False)
        if completed is None
        else bound_names(completed[0])
    )


def _strings_in(source: str) -> set[str]:
    return {single or double for single, double in STRING.findall(source)}


def _choices(use: Use, source: str, typed: int, allowed: frozenset[str]) -> tuple[str, ...]:
    """What may stand in place of the word, the likest first; the user's own beginning stays.

    The model is told of these, so a key or a label that is a secret itself is none of them.
    """
    beginning = use.word[: max(0, typed)]
    near = _near(use.word, allowed)
    names = [n for n in near if n.startswith(beginning) and len(n) > len(beginning)]
    if use.kind != "column":
        private = use.word.startswith("_")
        names = [n for n in names if n.isidentifier() and n.startswith("_") == private]
    if use.kind == "name":  # any could be meant, so only a slip of the pen is mended
        alike = [n for n in names if n[0] == use.word[0]]
        return tuple(difflib.get_close_matches(use.word, alike, n=12, cutoff=0.7))
    close = difflib.get_close_matches(use.word, names, n=12, cutoff=0.5)
    names = [*close, *sorted(set(names).difference(close, ("self", "cls")))][:MOST_CHOICES]
    if use.kind == "argument":
        return tuple(f"{name}=" for name in names)
    names = [name for name in names if not in_text(name)]
    if use.kind == "column":
        quote = source[use.start - 1]
        return tuple(
            f"{n}{quote}" for n in names if "\\" not in n and quote not in n and "\n" not in n
        )
    return tuple(names)


def _near(word: str, names: frozenset[str]) -> Iterable[str]:
    """The names; of thousands, which take long to compare, only those that begin most like the word."""
    if len(names) <= 4 * MOST_CHOICES:
        return names
    beginning = word[:2]
    ordered = sorted([name for name in names if name.startswith(beginning)])
    at = bisect(ordered, word)
    return ordered[max(0, at - MOST_CHOICES // 2) : at + MOST_CHOICES // 2]
