"""Which words may stand in place of one: what cells and kernel say about names, columns, keywords and files."""

from __future__ import annotations

import ast
import builtins
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, islice

from jupyter_sc2.introspection.facts import Facts, Known, Path
from jupyter_sc2.introspection.files import ADDRESS, LIBRARIES, READERS, TAKE_FOLDERS
from jupyter_sc2.introspection.uses import (
    DEFINES_UNSEEN,
    WORD,
    Use,
    bound_names,
    columns_assigned,
    names_bound_in,
    stored_strings,
)
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.types import CompletionRequest

IN_QUOTES = ("column", "file")
# Packages whose functions refuse names that are no columns of the table they are given.
TAKE_TABLES = frozenset({"seaborn", "pandas"})
MAX_NAME_CHARS = 40  # of a name that is compared with thousands
MAX_CHOICES = 400
MAX_SIMILAR_NAMES = 12  # of thousands, that begin like a word
STRING = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
NO_CODE = re.compile(r"#[^\n]*|'[^'\n]*'|\"[^\"\n]*\"")
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
class Others:
    """What the other cells say about names. They are looked at once, not for each key."""

    open: bool  # names may be defined by code that does not name them
    changing: bool  # so may columns and keys be
    strings: frozenset[str]
    mentioned: frozenset[str]
    unread: tuple[str, ...]
    # Names whose values will be others once the cells have run, and whether that is by imports alone.
    pending: Mapping[str, bool]
    defined: frozenset[str]


@cache_latest
def others_in(notebook: Notebook, unread: tuple[str, ...]) -> Others:
    """`unread` are the other cells that have not run."""
    code = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    pending = _joint(map(names_bound_in, unread))
    return Others(
        open=any(map(DEFINES_UNSEEN.search, unread)),
        changing=any(map(CHANGES.search, unread)),
        strings=frozenset().union(*map(_strings_in, unread)),
        mentioned=frozenset().union(*map(WORD.findall, unread)),
        unread=unread,
        pending=pending,
        defined=frozenset(pending).union(*map(names_bound_in, code)),
    )


class Cells:
    """What the cells say about names, the cursor's own included; the same for each token of a completion."""

    def __init__(self, request: CompletionRequest, others: Others) -> None:
        typed = f"{request.prefix} {request.suffix}"
        self._request = request
        self.others = others
        self.open = others.open or DEFINES_UNSEEN.search(typed) is not None
        self.changing = others.changing or CHANGES.search(typed) is not None
        self._strings = Counter(_strings_in(typed))
        line = request.prefix.rpartition("\n")[2]
        self._cursor = (request.prefix.count("\n") + 1, len(line.encode()))
        self.typed = frozenset(WORD.findall(NO_CODE.sub(" ", typed)))
        # What is begun at the cursor is no mention of a name.
        begun = len(request.prefix) - len(word_at(request.prefix))
        whole = f"{request.prefix[:begun]} {request.suffix}"
        self._named = frozenset(WORD.findall(NO_CODE.sub(" ", whole)))
        self._words = frozenset(WORD.findall(whole))
        self._above = frozenset(WORD.findall(request.prefix.rpartition("\n")[0]))

    def strings_but(self, statement: ast.stmt | None) -> frozenset[str]:
        """The strings of the cell, but for those that stand only left of an assignment's equals sign."""
        left = Counter(columns_assigned(statement, before=self._cursor))
        return frozenset(text for text, times in self._strings.items() if times > left[text])

    def has_address(self, use: Use) -> bool:
        """Whether the user has begun it, or a cell has it."""
        begun = use.start < len(self._request.prefix)
        cells = (cell.source for cell in self._request.notebook.cells)
        return begun or any(use.word in source for source in (*cells, self._request.suffix))

    def may_write(self, use: Use) -> bool:
        """Whether this cell, or one that has not run, has the name of a file elsewhere, as a shell's command may."""
        name = use.word.rpartition("/")[2]
        texts = self._request.prefix[: use.start], self._request.suffix, *self.others.unread
        return bool(name) and any(name in text for text in texts)

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
class Binds:
    """What some statements bind: names, and of each whether by imports alone; columns and keys."""

    names: Mapping[str, bool]
    strings: frozenset[str]


class Code:
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
        seen: dict[tuple[str, int], Binds],
    ) -> None:
        first, last = (source.count("\n", 0, place) + 1 for place in (start, end))
        above = [node for node in tree.body if (node.end_lineno or last) < first]
        below = [node for node in tree.body[len(above) :] if node.lineno > last]
        self._within = ast.Module(tree.body[len(above) : len(tree.body) - len(below)], [])
        self._around = {"above": above, "below": below}
        self._seen = seen

    @cached_property
    def _known(self) -> list[Binds]:
        known = []
        for where, statements in self._around.items():
            key = (where, len(statements))
            if key not in self._seen:
                part = ast.Module(statements, [])
                self._seen[key] = Binds(bound_names(part), frozenset(stored_strings(part)))
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


class Surroundings:
    """What cells and kernel say about names: which are bound, changed or mentioned where it has not run yet."""

    def __init__(self, cells: Cells, code: Code, facts: Facts) -> None:
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
        if use.kind == "file":
            return self._files(use)
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
        if use.kind in IN_QUOTES:
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
        if self._is_users(use.function) or use.function in self._facts.known:
            return None
        return Words(self._facts.collections({*cells.others.defined, *self._code.bound}))

    def _is_users(self, builtin: Path) -> bool:
        """Whether a cell binds the name of a builtin function to another; () is none."""
        return any(
            name in self._code.bound or name in self._cells.others.defined for name in builtin
        )

    def _files(self, use: Use) -> Words | None:
        """The files that can be read, where the one that is named does not exist.

        Where there are such files, no address is right that the notebook does not have, unless the user has begun it.
        """
        endings = None
        if use.function == ("open",):
            if self._is_users(use.function):
                return None
        else:
            endings = READERS[use.function[-1]]
            function = self._known(replace(use, base=use.function))
            if function is None or function.library not in LIBRARIES:
                return None
        if use.deferred or self._cells.may_write(use):
            return None
        found = self._facts.files(use.word)
        if found is None:
            return None
        read = frozenset(
            name for name in found if endings is None or name.rpartition(".")[2].lower() in endings
        )
        if ADDRESS.match(use.word) and (not read or self._cells.has_address(use)):
            return None
        if use.function[-1] in TAKE_FOLDERS:
            folder = f"{use.word.rstrip('/')}/"
            if any(name.startswith(folder) for name in read):
                return None
        return Words(read)

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


def _strings_in(source: str) -> list[str]:
    return [single or double for single, double in STRING.findall(source)]


def word_at(prefix: str) -> str:
    """The word that ends at the cursor, or nothing."""
    found = re.search(r"[^\W\d]\w*\Z", prefix.rpartition("\n")[2][-200:])
    return found[0] if found else ""
