"""Checks a completion against the live namespace and Python's grammar.

A violation is a word that would raise if the code ran, or change nothing: a column that the frame does not have, an
attribute that the module does not have, a keyword that the function does not take or the call has already, an undefined
name, a number that is looped over. If other names are possible in its place, the model chooses one of them and
continues from there; else the completion ends before it, or is dropped.

Only certain violations count. Text that the user has typed is never one. Names that this cell, or another that was
not run, may define, rebind or extend are unknown, and so are attributes that an object computes on access.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import Literal, Protocol

from jupyter_sc2.introspection.facts import Facts, Known, Path
from jupyter_sc2.introspection.secrets import in_text
from jupyter_sc2.introspection.uses import (
    DEFINES_UNSEEN,
    MAX_CELL_CHARS,
    WORD,
    Kind,
    Use,
    bound_names,
    columns_assigned,
    names_bound_in,
    stored_strings,
    uses,
)
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.fitting import is_word
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.source.brackets import open_at_end, scan
from jupyter_sc2.source.incomplete import complete_tree, is_magic_line
from jupyter_sc2.source.languages import language_at, runs_here
from jupyter_sc2.types import CompletionRequest

# Cells with longer lines, which hold data, are not checked.
MAX_LINE_CHARS = 1_000
# Packages whose functions refuse names that are no columns of the table they are given.
TAKE_TABLES = frozenset({"seaborn", "pandas"})
MAX_NAME_CHARS = 40  # of a name that is compared with thousands
MAX_CHOICES = 400
MAX_SIMILAR_NAMES = 12  # of thousands, that begin like a word
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
    *("__class__", "__module__", "__qualname__", "__annotations__"),  # in a class
}
# With what an argument may begin, besides keywords of the function and variables of the user.
OPERANDS = BUILTINS | {"None", "True", "False", "not", "lambda", "await"}
# What may change a table or an object in place.
CHANGES = re.compile(
    r"inplace|\.(?:columns|index)\s*=|\.(?:insert|pop|update|setdefault|rename_axis)\(|\bdel\b"
)


class Namespace(Protocol):
    """What a kernel knows of its variables. Called on a session's thread, while cells may run."""

    @property
    def epoch(self) -> int:
        """A number that changes when the variables may have changed: after each run of a cell."""

    def state(self, request: CompletionRequest) -> str:
        """The lines about variables in the prompt (introspection/rendering.py); the same text while the user types."""

    def facts(self, paths: Iterable[Path], request: CompletionRequest) -> Facts:
        """What is certain about these paths."""


@dataclass(frozen=True)
class Violation:
    """A word of a completion that is impossible there, and the words that are possible.

    `start` is its index in the completion's text, negative if the user has typed the word's beginning. `choices` may be
    empty; those for a string include its closing quote. With `only` there is one choice, the only name that begins with
    what was typed.
    """

    kind: Kind | Literal["syntax"]
    word: str
    start: int
    choices: tuple[str, ...] = ()
    certain: bool = True  # else the text that is still to come may justify it
    only: bool = False

    @property
    def rest(self) -> str:
        """The part of the only choice that the user has not typed."""
        return self.choices[0][-self.start :] if self.only else ""


Check = Callable[[str, bool], Violation | None]


class CanImport(Protocol):
    def code_for(
        self, name: str, source: str, at: int, end: int, bound: Collection[str], *, final: bool
    ) -> str:
        """The line that imports a name that is unbound (see imports.py); "" if there is none."""


def checker(
    request: CompletionRequest, namespace: Namespace, importable: CanImport | None = None
) -> Check:
    """A function from the text of a completion so far, and whether that is all of it, to its first refutation.

    A name that is `importable` is as good as one that is bound.
    """
    known: dict[Path, Known] = {}
    asked: set[Path] = set()
    facts: Facts | None = None
    begun: list[Violation | None] = []  # once it is known
    cells: _Cells | None = None
    seen: dict[tuple[str, int], _Binds] = {}

    def facts_about(found: Iterable[Use]) -> Facts:
        nonlocal facts
        paths = {path for use in found for path in (use.base, use.function) if path} - asked
        if facts is None or paths:
            facts = namespace.facts(paths, request)
            asked.update(paths)
            known.update(facts.known)
        return replace(facts, known=known)

    def surroundings_of(
        found: Iterable[Use], completed: tuple[ast.Module, str], start: int, end: int
    ) -> _Surroundings:
        nonlocal cells
        facts = facts_about(found)
        if cells is None:
            cells = _Cells(request, _others(request.notebook, facts.pending))
        return _Surroundings(cells, _Code(*completed, start, end, seen), facts)

    def check(text: str, final: bool) -> Violation | None:
        try:
            return look(text, final)
        except RecursionError:  # code that is nested too deeply to be looked at
            return None

    def look(text: str, final: bool) -> Violation | None:
        if not begun:
            begun.append(only_name(request, surroundings_of))
        if (only := begun[0]) is not None:
            if not final and only.choices[0].startswith(only.word + text):
                return None
            if (found := _other_than(only, request, text)) is not None:
                return found
        if not text.strip():
            return None
        completed = complete_tree(request.prefix, text, request.suffix)
        if completed is None:
            return Violation("syntax", text, 0) if final and _breaks(request, text) else None
        tree, source = completed
        start, end = len(request.prefix), len(request.prefix) + len(text)
        touched = uses(tree, source, start, end)
        if not touched:
            return None
        surroundings = surroundings_of(touched, completed, start, end)
        if importable is not None:
            bound = surroundings.bound
            touched = [
                use
                for use in touched
                if use.kind != "name"
                or not importable.code_for(use.word, source, use.start, end, bound, final=final)
            ]
        return first_violation(request, text, touched, surroundings, final=final)

    return check


def only_name(
    request: CompletionRequest, surroundings_of: Callable[..., _Surroundings]
) -> Violation | None:
    """The only name that begins with the word that is typed at the cursor, as the choice of what it refutes.

    Of attributes, columns, keys and keywords; None where there are several or none, or what is typed is a whole name.
    """
    prefix, suffix = request.prefix, request.suffix
    quote = open_at_end(prefix)[1]
    start = prefix.rfind(quote) + 1 if quote in ("'", '"') else len(prefix) - len(_word_at(prefix))
    typed = prefix[start:]
    if not typed or is_word(suffix[:1]) or quote not in ("", "'", '"'):
        return None
    argument = not quote and prefix[:start].rstrip()[-1:] in ("(", ",")
    completed = complete_tree(prefix, "=0" if argument else "", "")
    if completed is None:
        return None
    tree, source = completed
    typed_there = uses(tree, source, start, len(prefix))
    use = next((u for u in typed_there if (u.start, u.end) == (start, len(prefix))), None)
    if use is None or use.kind not in ("attribute", "column", "argument"):
        return None
    whole = complete_tree(prefix, "", suffix) or completed
    surroundings = surroundings_of([use], whole, start, len(prefix))
    names = surroundings.beginning_with(use)
    if names is None or len(names) != 1:
        return None
    (name,) = names
    choice = name
    if use.kind == "argument":
        equals = suffix.lstrip(" ")
        choice = name if equals.startswith("=") and not equals.startswith("==") else f"{name}="
    elif in_text(name):
        return None
    elif use.kind == "column":
        if quote in name or "\\" in name:
            return None
        choice = f"{name}{quote}"
    return Violation(use.kind, typed, -len(typed), (choice,), only=True)


def _other_than(only: Violation, request: CompletionRequest, text: str) -> Violation | None:
    """The refutation, if the text goes on with the word that was begun in another way."""
    name = only.choices[0][:-1] if only.kind == "column" else only.choices[0].removesuffix("=")
    signs = r"[^'\"\n]*" if only.kind == "column" else r"\w*"
    said = only.word + re.match(signs, text)[0]  # type: ignore[index]
    behind = (only.word + text)[len(said) :] or request.suffix
    end = {"argument": r"\s*=(?!=)", "column": r"['\"]"}.get(only.kind, "")
    return None if said == name and re.match(end, behind) else replace(only, word=said)


def _word_at(prefix: str) -> str:
    """The word that ends at the cursor, or nothing."""
    found = re.search(r"[^\W\d]\w*\Z", prefix.rpartition("\n")[2][-200:])
    return found[0] if found else ""


def applies(request: CompletionRequest) -> bool:
    """Whether the cursor stands in Python of this kernel's that can be looked at."""
    line = request.prefix.rpartition("\n")[2]
    rest = request.suffix.partition("\n")[0]
    if len(request.text) > MAX_CELL_CHARS or len(line) + len(rest) > MAX_LINE_CHARS:
        return False
    return not is_magic_line(line) and runs_here(request) and language_at(request) == "python"


def _breaks(request: CompletionRequest, text: str) -> bool:
    """Whether it is the completion, not what the user wrote, that Python cannot read."""
    if open_at_end(request.prefix + text)[1] not in ("", "#"):
        return False  # in a string that goes on
    return complete_tree(request.prefix, "", "") is not None


def first_violation(
    request: CompletionRequest,
    text: str,
    found: Iterable[Use],
    surroundings: _Surroundings,
    *,
    final: bool,
) -> Violation | None:
    """The first of the uses that what is known refutes."""
    source = request.prefix + text
    for use in found:
        allowed = surroundings.allowed(use)
        # Other keywords of the same call; of two in the completion the later one is the one too many.
        given = {word for word, at in use.keywords if at < use.start or at >= len(source)}
        if use.kind == "collection" and not _is_whole(use, request, source, final):
            continue
        if use.word in given:
            allowed = allowed or Words()
        if allowed is not None and given:
            allowed = Words(frozenset(allowed).difference(given))
        if allowed is None or use.word in allowed:
            continue
        start = use.start - len(request.prefix)
        certain = final
        typed = use.end == len(request.prefix)  # by the user, and whole unless it begins a name
        if typed and (use.kind == "name" or not any(allowed.beginning_with(use.word))):
            continue
        if use.end >= len(source):  # the word may go on
            if not final and any(allowed.beginning_with(use.word)):
                continue
            if is_word(request.suffix[:1]):
                continue
        if use.kind in ("module", "member"):
            certain = True
        elif not final and use.kind != "name":
            # What stands first in a statement may come to be assigned to.
            certain = not TARGET.fullmatch(source[source.rfind("\n", 0, use.start) + 1 : use.start])
        choices = _choices(use, source, -start, allowed)
        if use.kind == "name" and start < 0:
            choices = (*surroundings.keywords(use, use.word[:-start]), *choices)
        return Violation(use.kind, use.word, start, choices, certain)
    return None


def _is_whole(use: Use, request: CompletionRequest, source: str, final: bool) -> bool:
    """Whether what follows a path ends it, and the user has not typed all of it."""
    follows = source[use.end :].lstrip() or (request.suffix.lstrip() if final else "")
    return follows.startswith((")", "]", "}", ",", ":")) and use.end > len(request.prefix)


class Words:
    """Words in several sets, none of which is copied or sorted: of names there can be a hundred thousand.

    Those of `tolerated` may stand there, but are not offered.
    """

    def __init__(self, *sets: frozenset[str], tolerated: frozenset[str] = frozenset()) -> None:
        self._offered, self._sets = sets, (*sets, tolerated)

    def __contains__(self, word: str) -> bool:
        return any(word in words for words in self._sets)

    def __iter__(self) -> Iterator[str]:
        return chain(*self._sets)

    def beginning_with(self, beginning: str) -> Iterator[str]:
        for words in self._sets:
            if len(words) <= 4 * MAX_CHOICES:
                yield from (word for word in words if word.startswith(beginning))
            else:
                found = re.finditer(f"\n({re.escape(beginning)}[^\n]*)", _joined(words))
                yield from (match[1] for match in found)

    def near(self, word: str) -> Iterable[str]:
        """Them all; of thousands, which take long to compare, only some that begin most like the word."""
        offered = Words(*self._offered)
        if sum(map(len, self._offered)) <= 4 * MAX_CHOICES:
            return set(offered)
        found: set[str] = set()
        for length in range(min(len(word), MAX_NAME_CHARS), 0, -1):
            found.update(islice(offered.beginning_with(word[:length]), MAX_CHOICES))
            if len(found) >= MAX_SIMILAR_NAMES:
                break
        return found


@lru_cache(maxsize=2)
def _joined(words: frozenset[str]) -> str:
    """In one text, in which a beginning is found a hundred times as fast as in the set."""
    return "\n" + "\n".join(words)


@dataclass(frozen=True)
class _Others:
    """What the other cells say about names. They are looked at once, not for each key."""

    open: bool  # names may be defined by code that does not name them
    changing: bool  # so may columns and keys be
    strings: frozenset[str]
    mentioned: frozenset[str]
    # Names whose values will be others once the cells have run, and whether that is by imports alone.
    pending: Mapping[str, bool]
    defined: frozenset[str]


@cache_latest
def _others(notebook: Notebook, unread: tuple[str, ...]) -> _Others:
    """`unread` are the other cells that have not run."""
    code = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    pending = _joint(map(names_bound_in, unread))
    return _Others(
        open=any(map(DEFINES_UNSEEN.search, unread)),
        changing=any(map(CHANGES.search, unread)),
        strings=frozenset().union(*map(_strings_in, unread)),
        mentioned=frozenset().union(*map(WORD.findall, unread)),
        pending=pending,
        defined=frozenset(pending).union(*map(names_bound_in, code)),
    )


class _Cells:
    """What the cells say about names, the cursor's own included; the same for each token of a completion."""

    def __init__(self, request: CompletionRequest, others: _Others) -> None:
        typed = f"{request.prefix} {request.suffix}"
        self.others = others
        self.open = others.open or DEFINES_UNSEEN.search(typed) is not None
        self.changing = others.changing or CHANGES.search(typed) is not None
        self._strings = Counter(_strings_in(typed))
        line = request.prefix.rpartition("\n")[2]
        self._cursor = (request.prefix.count("\n") + 1, len(line.encode()))
        self.typed = frozenset(WORD.findall(NO_CODE.sub(" ", typed)))
        # What is begun at the cursor is no mention of a name.
        begun = len(request.prefix) - len(_word_at(request.prefix))
        whole = f"{request.prefix[:begun]} {request.suffix}"
        self._named = frozenset(WORD.findall(NO_CODE.sub(" ", whole)))
        self._words = frozenset(WORD.findall(whole))
        self._above = frozenset(WORD.findall(request.prefix.rpartition("\n")[0]))

    def strings_but(self, statement: ast.stmt | None) -> frozenset[str]:
        """The strings of the cell, but for those that stand only left of an assignment's equals sign."""
        left = Counter(columns_assigned(statement, before=self._cursor))
        return frozenset(text for text, times in self._strings.items() if times > left[text])

    def mentioned(self, word: str) -> bool:
        """Whether it stands above the cursor's line or in a cell that has not run."""
        return word in self._above or word in self.others.mentioned

    def named(self, word: str) -> bool:
        """The same, or in code of the cell."""
        return word in self._named or self.mentioned(word)

    def written(self, word: str) -> bool:
        """The same, be it no code."""
        return word in self._words or self.mentioned(word)


@dataclass(frozen=True)
class _Binds:
    """What some statements bind: names, and of each whether by imports alone; columns and keys."""

    names: Mapping[str, bool]
    strings: frozenset[str]


class _Code:
    """What a completed cell binds.

    What the statements above and below the one with the text bind, from `start` to `end`, is `seen` once: they are the
    same for each token.
    """

    def __init__(
        self,
        tree: ast.Module,
        source: str,
        start: int,
        end: int,
        seen: dict[tuple[str, int], _Binds],
    ) -> None:
        first, last = (source.count("\n", 0, place) + 1 for place in (start, end))
        above = [node for node in tree.body if (node.end_lineno or last) < first]
        below = [node for node in tree.body[len(above) :] if node.lineno > last]
        self._within = ast.Module(tree.body[len(above) : len(tree.body) - len(below)], [])
        self._around = {"above": above, "below": below}
        self._seen = seen

    @cached_property
    def _known(self) -> list[_Binds]:
        known = []
        for where, statements in self._around.items():
            key = (where, len(statements))
            if key not in self._seen:
                part = ast.Module(statements, [])
                self._seen[key] = _Binds(bound_names(part), frozenset(stored_strings(part)))
            known.append(self._seen[key])
        return known

    @cached_property
    def bound(self) -> Mapping[str, bool]:
        """The names that it binds anywhere, and of each whether it is by imports alone."""
        return self.bound_but(None)

    def bound_but(self, statement: ast.stmt | None) -> Mapping[str, bool]:
        """The same without what an assignment binds (see bound_names)."""
        within = bound_names(self._within, statement)
        return _joint([within, *(part.names for part in self._known)])

    def strings_but(self, statement: ast.stmt | None) -> frozenset[str]:
        """The columns and keys that it makes, but for those of an assignment (see stored_strings)."""
        within = stored_strings(self._within, statement)
        return frozenset(within).union(*(part.strings for part in self._known))


def _joint(bound: Iterable[Mapping[str, bool]]) -> dict[str, bool]:
    names: dict[str, bool] = {}
    for part in bound:
        for name, imported in part.items():
            names[name] = names.get(name, True) and imported
    return names


class _Surroundings:
    """What cells and kernel say about names: which are bound, changed or mentioned where it has not run yet."""

    def __init__(self, cells: _Cells, code: _Code, facts: Facts) -> None:
        self._cells = cells
        self._code = code
        self._facts = facts

    @property
    def bound(self) -> Mapping[str, bool]:
        """The names that the completed cell binds."""
        return self._code.bound

    def allowed(self, use: Use) -> Words | None:
        """All the words that may stand in place of a use; None where any may."""
        if use.kind == "name":
            cells = self._cells
            if cells.open or use.deferred or not self._facts.names:
                return None
            bound = frozenset(self._code.bound)
            return Words(self._facts.names, BUILTINS, bound, cells.others.defined, cells.typed)
        known = self._known(use) if use.base else None
        if known is None:
            return None
        match use.kind:
            case "attribute":
                if known.attributes is None or (known.grows and self._cells.mentioned(use.base[0])):
                    return None
                if use.word.startswith("__") and not use.word.endswith("__"):
                    return None  # in a class it stands for another name
                # Assigned to in a cell that was not run, as it seems.
                assigned = {use.word} if self._cells.named(use.word) else ()
                return Words(known.attributes, frozenset(assigned))
            case "argument":
                if known.parameters is None:
                    return None
                alike = [word for word in known.passed_on if word[:1] == use.word[:1]]
                meant = difflib.get_close_matches(use.word, alike, n=8, cutoff=0.75)
                begun = (word for word in alike if word.startswith(use.word))
                return Words(frozenset((*known.parameters, *meant, *begun)))
            case "collection":
                return self._collections(use, known)
            case "module" | "member":
                found = known.modules if use.kind == "module" else known.attributes
                # What is named elsewhere may be installed or written by then.
                made = {use.word} if self._cells.written(use.word) else ()
                return None if found is None else Words(found, frozenset(made))
        return self._columns(use, known)

    def beginning_with(self, use: Use) -> set[str] | None:
        """The names that a word may be the beginning of; None where it may be that of any, or is a name itself."""
        allowed = self.allowed(use)
        if allowed is None or use.word in allowed:
            return None
        names = set(allowed.beginning_with(use.word)).difference(word for word, _ in use.keywords)
        if use.kind == "column":
            return {name for name in names if name.strip() != use.word and name.isprintable()}
        if use.kind == "argument" and not any(at < use.start for _, at in use.keywords):
            # The word may be a variable's, or the beginning of one.
            bound, defined = frozenset(self._code.bound), self._cells.others.defined
            variables = Words(self._facts.names, defined, bound, OPERANDS)
            if self._cells.open or not self._facts.names or any(variables.beginning_with(use.word)):
                return None
        return {name for name in names if name.isidentifier()}

    def keywords(self, use: Use, beginning: str) -> list[str]:
        """Those that a name among the arguments of a call may be the beginning of."""
        known = self._known(replace(use, base=use.function)) if use.function else None
        names = known.parameters or () if known is not None else ()
        return [f"{name}=" for name in names if name.startswith(beginning) and name != beginning]

    def _collections(self, use: Use, known: Known) -> Words | None:
        """What may be looped over, where what is named has no elements."""
        cells = self._cells
        changing = len(use.base) > 1 and cells.mentioned(use.base[0])
        if not known.single or use.deferred or cells.open or changing:
            return None
        function = use.function[0] if use.function else ""
        if function in self._code.bound or function in cells.others.defined:
            return None  # a function of the user's
        if use.function in self._facts.known:
            return None
        return Words(self._facts.collections({*cells.others.defined, *self._code.bound}))

    def _columns(self, use: Use, known: Known) -> Words | None:
        if known.columns is None or self._cells.changing:
            return None
        if known.grows and self._cells.mentioned(use.base[0]):
            return None
        if use.function and use.function[: len(use.base)] != use.base:  # given the table
            function = self._facts.known.get(use.function)
            if function is None or function.library not in TAKE_TABLES:
                return None
        of_frame = bool(use.function) or use.through  # not a key of a dict, nor a label of a series
        if (of_frame and (known.elements or known.grows)) or (use.through and known.parts):
            return None
        if use.function and use.word.startswith("^"):
            return None  # a pattern of polars'
        if known.parts and use.word.partition(".")[0] in known.columns:
            return None
        levels = known.levels if of_frame else ()
        made = self._code.strings_but(use.within)
        named = self._cells.strings_but(use.within) | self._cells.others.strings
        return Words(frozenset((*known.columns, *levels)), made, tolerated=named)

    def _known(self, use: Use) -> Known | None:
        """What is certain of a path, unless code that was not run gives its name to something else."""
        name = use.base[0]
        bound = self._code.bound
        if use.within is not None and name in bound:
            bound = self._code.bound_but(use.within)
        # The import of a module that is there already changes nothing.
        if not bound.get(name, True) or not self._cells.others.pending.get(name, True):
            return None
        return self._facts.known.get(use.base)


def valid_prefix(text: str, violation: Violation, before: str = "") -> str:
    """What may be shown of a refuted text: up to the attribute, the argument or the line that is wrong.

    `before` is what stands before the text, which may begin in a string.
    """
    start = max(0, violation.start)
    line = text.rfind("\n", 0, start) + 1
    if violation.kind == "attribute" and text[line : start - 1].endswith((")", "]", '"', "'")):
        return text[: start - 1]
    cut = max(0, line - 1)
    if violation.kind != "syntax":
        signs = scan(text[:start], open_at_end(before)[1])
        commas = [i for i, char, quote in signs if char == "," and not quote and i > line]
        cut = commas[-1] if commas else cut
    return text[:cut].rstrip()


def _strings_in(source: str) -> list[str]:
    return [single or double for single, double in STRING.findall(source)]


def _choices(use: Use, source: str, typed: int, allowed: Words) -> tuple[str, ...]:
    """What may stand in place of the word, the likest first; the user's own beginning stays.

    The model is told of these, so a key or a label that is a secret itself is none of them.
    """
    beginning = use.word[: max(0, typed)]
    near = allowed.near(use.word)
    names = [n for n in near if n.startswith(beginning) and len(n) > len(beginning)]
    if use.kind != "column":
        private = use.word.startswith("_")
        names = [n for n in names if n.isidentifier() and n.startswith("_") == private]
    if use.kind == "name":  # any could be meant, so only a slip of the pen is mended
        alike = [n for n in names if n[0] == use.word[0]]
        return tuple(difflib.get_close_matches(use.word, sorted(alike), n=12, cutoff=0.7))
    close = difflib.get_close_matches(use.word, sorted(names), n=12, cutoff=0.5)
    names = [*close, *sorted(set(names).difference(close, ("self", "cls")))][:MAX_CHOICES]
    if use.kind == "argument":
        return tuple(f"{name}=" for name in names)
    names = [name for name in names if not in_text(name)]
    if use.kind == "column":
        quote = source[use.start - 1]
        return tuple(
            f"{n}{quote}" for n in names if "\\" not in n and quote not in n and "\n" not in n
        )
    return tuple(names)
