"""Matches of a text with indexed code: candidates from the index, each verified against its file."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.index import Find, Index
from jupyter_sc2.attribution.lexemes import Family, Lexemes, family_of_file, lex, readings
from jupyter_sc2.attribution.sources import read_again
from jupyter_sc2.attribution.winnow import GUARANTEED_LEXEMES, RUN_LEXEMES, fingerprints
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.types import Attribution

if TYPE_CHECKING:
    from jupyter_sc2.attribution.lexemes import Numbers

THRESHOLD = 65
# So many of the lexemes of a match have to be left when rows of literals are one and brackets that group are none.
MIN_SIGNIFICANT_SHARE = 0.5
# Lexemes of a suggestion that have to be in the run, if it has as many.
MIN_SUGGESTED_LEXEMES = 5
# A run with fewer different names says too little: tables, chains of brackets. Unless it is the same to the letter,
# what its literals say included, and not monotonous.
MIN_NAMES = 5
MIN_DISTINCT_LEXEMES = 12
# Candidates for each 200 lexemes that are verified, those with the most fingerprints in common first.
MAX_CANDIDATES = 8
# So many are verified however long it takes: the first time in a kernel nothing is in memory yet.
ALWAYS_CHECKED = 2
# Files kept in memory, so that the next key does not read them again.
MAX_CACHED_FILES = 24


@dataclass(frozen=True)
class Match:
    """A run that a text and an indexed file have in common. `start` and `end` are code points of the text."""

    start: int
    end: int
    attribution: Attribution


@dataclass(frozen=True)
class _Run:
    """Lexemes of the text, `first` up to `last`, and where in a part of the file they begin."""

    first: int
    last: int
    find: Find
    place: tuple[_Part, int] | None  # None where only fingerprints say so


class Matcher:
    """Looks texts up in one index. Safe to call from several threads."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._codes: OrderedDict[tuple[str, str, int], bytes | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(
        self,
        text: str,
        family: Family,
        *,
        threshold: int = THRESHOLD,
        within: tuple[int, int] | None = None,
        patience: float = math.inf,
    ) -> list[Match]:
        """The runs of at least `threshold` lexemes, the longest first; one for each file and beginning.

        With `within`, in code points, only those that hold the text there, or some lexemes of it. A run of which
        fewer than `GUARANTEED_LEXEMES` are left when literals in a row are one may be missed. After `patience`,
        in seconds, no more candidates are looked at than the likeliest.
        """
        if not self.index.refresh():
            return []
        deadline = monotonic() + patience
        data = text.encode("utf-8", "replace")
        inside = within and tuple(len(text[:at].encode("utf-8", "replace")) for at in within)
        found: dict[tuple[str, str, int], Match] = {}
        for start, lexemes in readings(data, family):
            wanted = range(len(lexemes))
            if inside:
                first, last = (lexemes.starting_before(max(0, at - start)) for at in inside)
                wanted = range(first, last)
                if last <= first:
                    continue
            for run in self._runs(lexemes, threshold, wanted, deadline):
                match = self._match(run, lexemes, data, start)
                if match is not None:
                    where = (match.attribution.source, match.attribution.path, match.start)
                    if where not in found or _length(found[where]) < _length(match):
                        found[where] = match
        return sorted(found.values(), key=lambda match: -_length(match))

    def _runs(
        self, lexemes: Lexemes, threshold: int, wanted: range, deadline: float
    ) -> Iterator[_Run]:
        hashes, places = fingerprints(lexemes.numbers)
        diagonals: defaultdict[tuple[int, int, int], list[Find]] = defaultdict(list)
        for find in self.index.look_up(hashes, places):
            diagonals[id(find.pack), find.file, find.place - find.at].append(find)
        near = [
            finds
            for finds in diagonals.values()
            if finds[-1].at + RUN_LEXEMES + GUARANTEED_LEXEMES >= wanted.start
            and finds[0].at - GUARANTEED_LEXEMES <= wanted.stop
        ]
        near.sort(key=len, reverse=True)
        parts: dict[tuple[bytes, int, int], _Part] = {}
        most = MAX_CANDIDATES * (1 + len(wanted) // 200)
        for number, finds in enumerate(near[:most]):
            if number >= ALWAYS_CHECKED and monotonic() > deadline:
                return
            for run in self._along(lexemes, finds, parts):
                shared = min(run.last, wanted.stop) - max(run.first, wanted.start)
                if (
                    shared >= min(MIN_SUGGESTED_LEXEMES, len(wanted))
                    and run.last - run.first >= MIN_SIGNIFICANT_SHARE * threshold
                    and lexemes.length(run.first, run.last) >= threshold
                    and (_names(lexemes, run) >= MIN_NAMES or _same_to_the_letter(lexemes, run))
                ):
                    yield run

    def _along(
        self, lexemes: Lexemes, finds: Sequence[Find], parts: dict[tuple[bytes, int, int], _Part]
    ) -> Iterator[_Run]:
        """The runs on one diagonal: as far as text and file agree, or as far as fingerprints say so."""
        first = finds[0]
        code = self._code(first)
        if code is None:
            yield from _unverified(finds)
            return
        bounds = _bounds(code, first, len(lexemes))
        if bounds is None:
            return
        key = (code, *bounds[:2])
        if key not in parts:
            parts[key] = _part(code, first, *bounds)
        part = parts[key]
        numbers, others = lexemes.numbers, part.lexemes.numbers
        end = -1
        for find in finds:
            if find.at < end:
                continue
            here = part.find(numbers[find.at : find.at + RUN_LEXEMES], find.place)
            if here is None:  # the file was changed, or the hash is one of two runs
                continue
            end = find.at + _agreeing(numbers[find.at :], others[here:])
            back = _agreeing(numbers[: find.at][::-1], others[:here][::-1])
            yield _Run(find.at - back, end, find, (part, here - back))

    def _code(self, find: Find) -> bytes | None:
        """The file's text; None if it is not at hand."""
        entry = self.index.source_of(find)
        if entry is None:
            return None
        path = find.pack.path(find.file)
        key = (entry.root, path, int(find.pack.stamps[find.file]))
        with self._lock:
            if key in self._codes:
                self._codes.move_to_end(key)
                return self._codes[key]
        # No lock is held while a disk is read.
        code = read_again(entry.kind, entry.root, path)
        with self._lock:
            self._codes[key] = code
            while len(self._codes) > MAX_CACHED_FILES:
                self._codes.popitem(last=False)
        return code

    def _match(self, run: _Run, lexemes: Lexemes, data: bytes, offset: int) -> Match | None:
        entry = self.index.source_of(run.find)
        if entry is None:
            return None
        start, end = lexemes.span(run.first)[0], lexemes.span(run.last - 1)[1]
        lines, licence = None, entry.licence
        if run.place is not None:
            part, first = run.place
            lines = part.lines(first, first + run.last - run.first - 1)
            licence = licences.of_file(part.code) or licence
        return Match(
            len(data[: offset + start].decode("utf-8", "replace")),
            len(data[: offset + end].decode("utf-8", "replace")),
            Attribution(
                source=entry.name,
                version=entry.version,
                licence=licence,
                path=run.find.pack.path(run.find.file),
                lines=lines,
                lexemes=lexemes.length(run.first, run.last),
                verified=run.place is not None,
            ),
        )


@dataclass(frozen=True)
class _Part:
    """A part of a file, from one mark to another, as lexemes; it begins at byte `at` and about lexeme `number`."""

    code: bytes
    at: int
    number: int
    lexemes: Lexemes

    def find(self, run: Numbers, place: int) -> int | None:
        """Where this run of lexemes stands, as near as may be to where it should; brackets may have moved it."""
        import numpy as np

        numbers = self.lexemes.numbers
        starts = np.flatnonzero(numbers[: len(numbers) - len(run) + 1] == run[0])
        starts = starts[np.argsort(np.abs(starts - (place - self.number)))]
        for start in starts.tolist():
            if np.array_equal(numbers[start : start + len(run)], run):
                return int(start)
        return None

    def lines(self, first: int, last: int) -> tuple[int, int]:
        """The lines of the file in which two lexemes stand."""
        start, end = self.lexemes.span(first)[0], self.lexemes.span(last)[1]
        return (
            self.code.count(b"\n", 0, self.at + start) + 1,
            self.code.count(b"\n", 0, self.at + end - 1) + 1,
        )


def _bounds(code: bytes, find: Find, length: int) -> tuple[int, int, int] | None:
    """What of a file so many lexemes around a find can stand in: from byte to byte, and the lexemes before."""
    marks = find.pack.marks(find.file)
    if not len(marks):
        return None
    # One mark more on either side: brackets that group are told only where both of them are there.
    lexemes = marks[:, 1].astype(int)
    first = max(0, int(lexemes.searchsorted(find.place - find.at, "right")) - 2)
    last = int(lexemes.searchsorted(find.place - find.at + length)) + 1
    at, number = (int(value) for value in marks[first])
    end = int(marks[last, 0]) if last < len(marks) else len(code)
    return at, end, number


def _part(code: bytes, find: Find, start: int, end: int, number: int) -> _Part:
    family = family_of_file(find.pack.path(find.file))
    assert family is not None  # or it would not be indexed
    return _Part(code, start, number, lex(code[start:end], family))


def _unverified(finds: Sequence[Find]) -> Iterator[_Run]:
    """By chance one hash is one of two runs; two with the same distance are not."""
    chain: list[Find] = []
    for number, find in enumerate(finds):
        chain.append(find)
        last = number + 1 == len(finds) or finds[number + 1].at - find.at > GUARANTEED_LEXEMES
        if last and len(chain) > 1:
            yield _Run(chain[0].at, find.at + RUN_LEXEMES, chain[0], None)
        if last:
            chain = []


def _agreeing(one: Any, other: Any) -> int:
    """How many lexemes at the beginning are the same."""
    import numpy as np

    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(np.argmax(differ)) if differ.any() else length


def _names(lexemes: Lexemes, run: _Run) -> int:
    """How many different names and words are in a run."""
    import numpy as np

    numbers = lexemes.numbers[run.first : run.last]
    return len(np.unique(numbers[(numbers & np.uint64(1)).astype(bool)]))


def _same_to_the_letter(lexemes: Lexemes, run: _Run) -> bool:
    if run.place is None:
        return False
    part, first = run.place
    ours = _spelled(lexemes, run.first, run.last)
    theirs = _spelled(part.lexemes, first, first + run.last - run.first)
    return ours == theirs and len(set(ours)) >= MIN_DISTINCT_LEXEMES


def _spelled(lexemes: Lexemes, first: int, last: int) -> list[bytes]:
    """The code of some lexemes without white space and comments."""
    start, end = lexemes.span(first)[0], lexemes.span(last - 1)[1]
    family = lexemes.family
    tokens = family.pattern.findall(lexemes.text, start, end)
    return [token for token in tokens if not token.startswith(family.comments)]


def _length(match: Match) -> int:
    return match.attribution.lexemes
