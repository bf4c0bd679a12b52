"""Checks a completion against the live namespace and Python's grammar.

A violation is a word that would raise if the code ran, or change nothing: a column that the frame does not have, an
attribute that the module does not have, a keyword that the function does not take or the call has already, an undefined
name, a number that is looped over, a file that is read and does not exist. If other names are possible in its place,
the model chooses one of them and continues from there; else the completion ends before it, or is dropped.

Only certain violations count. Text that the user has typed is never one. Names that this cell, or another that was
not run, may define, rebind or extend are unknown, and so are attributes that an object computes on access.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from jupyter_sc2.introspection.facts import Facts, Known, Path
from jupyter_sc2.introspection.secrets import in_text
from jupyter_sc2.introspection.uses import MAX_CELL_CHARS, Kind, Use, uses
from jupyter_sc2.pipeline.fitting import is_word
from jupyter_sc2.pipeline.possible_words import (
    IN_QUOTES,
    MAX_CHOICES,
    Binds,
    Cells,
    Code,
    Surroundings,
    Words,
    others_in,
    word_at,
)
from jupyter_sc2.source.brackets import open_at_end, scan
from jupyter_sc2.source.incomplete import complete_tree, is_magic_line
from jupyter_sc2.source.languages import language_at, runs_here
from jupyter_sc2.types import CompletionRequest

# Cells with longer lines, which hold data, are not checked.
MAX_LINE_CHARS = 1_000
TARGET = re.compile(r"[\w.,*\s\[\]'\"]*")


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
    cells: Cells | None = None
    seen: dict[tuple[str, int], Binds] = {}

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
    ) -> Surroundings:
        nonlocal cells
        facts = facts_about(found)
        if cells is None:
            cells = Cells(request, others_in(request.notebook, facts.pending))
        return Surroundings(cells, Code(*completed, start, end, seen), facts)

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
    request: CompletionRequest, surroundings_of: Callable[..., Surroundings]
) -> Violation | None:
    """The only name that begins with the word that is typed at the cursor, as the choice of what it refutes.

    Of attributes, columns, keys and keywords; None where there are several or none, or what is typed is a whole name.
    """
    prefix, suffix = request.prefix, request.suffix
    quote = open_at_end(prefix)[1]
    start = prefix.rfind(quote) + 1 if quote in ("'", '"') else len(prefix) - len(word_at(prefix))
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
    if use is None or use.kind not in ("attribute", "column", "argument", "file"):
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
    elif use.kind in IN_QUOTES:
        if quote in name or "\\" in name:
            return None
        choice = f"{name}{quote}"
    return Violation(use.kind, typed, -len(typed), (choice,), only=True)


def _other_than(only: Violation, request: CompletionRequest, text: str) -> Violation | None:
    """The refutation, if the text goes on with the word that was begun in another way."""
    name = only.choices[0][:-1] if only.kind in IN_QUOTES else only.choices[0].removesuffix("=")
    signs = r"[^'\"\n]*" if only.kind in IN_QUOTES else r"\w*"
    said = only.word + re.match(signs, text)[0]  # type: ignore[index]
    behind = (only.word + text)[len(said) :] or request.suffix
    end = {"argument": r"\s*=(?!=)", **dict.fromkeys(IN_QUOTES, r"['\"]")}.get(only.kind, "")
    return None if said == name and re.match(end, behind) else replace(only, word=said)


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
    surroundings: Surroundings,
    *,
    final: bool,
) -> Violation | None:
    """The first of the uses that what is known refutes."""
    source = request.prefix + text
    for use in found:
        if use.kind == "collection" and not _is_whole(use, request, source, final):
            continue
        if use.kind == "file" and not final and not _is_read(use, source):
            continue
        allowed = surroundings.allowed(use)
        # Other keywords of the same call; of two in the completion the later one is the one too many.
        given = {word for word, at in use.keywords if at < use.start or at >= len(source)}
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


def _is_read(use: Use, source: str) -> bool:
    """Whether the name of a file is whole, and no mode that may follow opens it for writing."""
    ends = (")",) if use.function == ("open",) else (")", ",")
    return source.startswith(ends, use.end + 1)


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


def _choices(use: Use, source: str, typed: int, allowed: Words) -> tuple[str, ...]:
    """What may stand in place of the word, the likest first; the user's own beginning stays.

    The model is told of these, so a key or a label that is a secret itself is none of them.
    """
    beginning = use.word[: max(0, typed)]
    near = allowed.near(use.word)
    names = [n for n in near if n.startswith(beginning) and len(n) > len(beginning)]
    if use.kind not in IN_QUOTES:
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
    if use.kind in IN_QUOTES:
        quote = source[use.start - 1]
        return tuple(
            f"{n}{quote}" for n in names if "\\" not in n and quote not in n and "\n" not in n
        )
    return tuple(names)
