"""Matches of a text with indexed code: candidates from the index, each verified against its file."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.index import Hit, Index
from jupyter_sc2.attribution.lexemes import Family, Lexemes, family_of_file, lex, readings
from jupyter_sc2.attribution.sources import read_again
from jupyter_sc2.attribution.winnow import GUARANTEED_LEXEMES, RUN_LEXEMES, fingerprints
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.types import Attribution

if TYPE_CHECKING:
    from jupyter_sc2.attribution.lexemes import Numbers

THRESHOLD = 65
# A match needs this share of the threshold when literals in a row count as one and grouping brackets do not count.
MIN_SIGNIFICANT_SHARE = 0.5
# Lexemes of the suggestion that a match has to contain, or all if there are fewer.
MIN_SUGGESTED_LEXEMES = 5
# A run with fewer different names is no evidence: it may be a table, or a chain of brackets. It still counts if it is
# the same to the letter, literals included, and has enough different lexemes.
MIN_NAMES = 5
MIN_DISTINCT_LEXEMES = 12
# Candidates that are verified for each 200 lexemes, those with the most fingerprints in common first.
MAX_CANDIDATES = 8
# Candidates that are verified however long it takes: at the first lookup of a kernel nothing is in memory yet.
ALWAYS_CHECKED = 2
# Files that are cached, so that the lookup after the next keystroke does not read them again.
MAX_CACHED_FILES = 24


@dataclass(frozen=True)
class Match:
    """A run that a text and an indexed file have in common. `start` and `end` are code points of the text."""

    start: int
    end: int
    attribution: Attribution


@dataclass(frozen=True)
class _Run:
    """The lexemes of the text from `first` up to but not including `last`, and where they begin in the file."""

    first: int
    last: int
    hit: Hit
    place: tuple[_Part, int] | None  # a part of the file and a lexeme of it; None if not verified


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
        """The matches of at least `threshold` lexemes, the longest first: one for each file and start in the text.

        `within` is a range of the text in code points; only matches that contain enough of its lexemes are returned.
        A match may be missed if fewer than `GUARANTEED_LEXEMES` remain of it when literals in a row count as one.
        After `patience` seconds only the `ALWAYS_CHECKED` likeliest candidates are still verified.
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
        diagonals: defaultdict[tuple[int, int, int], list[Hit]] = defaultdict(list)
        for hit in self.index.look_up(hashes, places):
            diagonals[id(hit.pack), hit.file, hit.place - hit.at].append(hit)
        near = [
            hits
            for hits in diagonals.values()
            if hits[-1].at + RUN_LEXEMES + GUARANTEED_LEXEMES >= wanted.start
            and hits[0].at - GUARANTEED_LEXEMES <= wanted.stop
        ]
        near.sort(key=len, reverse=True)
        parts: dict[tuple[bytes, int, int], _Part] = {}
        most = MAX_CANDIDATES * (1 + len(wanted) // 200)
        for number, hits in enumerate(near[:most]):
            if number >= ALWAYS_CHECKED and monotonic() > deadline:
                return
            for run in self._along(lexemes, hits, parts):
                shared = min(run.last, wanted.stop) - max(run.first, wanted.start)
                if (
                    shared >= min(MIN_SUGGESTED_LEXEMES, len(wanted))
                    and run.last - run.first >= MIN_SIGNIFICANT_SHARE * threshold
                    and lexemes.length(run.first, run.last) >= threshold
                    and (_names(lexemes, run) >= MIN_NAMES or _is_verbatim(lexemes, run))
                ):
                    yield run

    def _along(
        self, lexemes: Lexemes, hits: Sequence[Hit], parts: dict[tuple[bytes, int, int], _Part]
    ) -> Iterator[_Run]:
        """The runs on one diagonal, as far as text and file agree; without the file, as far as fingerprints do."""
        first = hits[0]
        code = self._code(first)
        if code is None:
            yield from _unverified(hits)
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
        for hit in hits:
            if hit.at < end:
                continue
            here = part.find(numbers[hit.at : hit.at + RUN_LEXEMES], hit.place)
            if here is None:  # the file has changed, or two runs have the same hash
                continue
            end = hit.at + _agreeing(numbers[hit.at :], others[here:])
            back = _agreeing(numbers[: hit.at][::-1], others[:here][::-1])
            yield _Run(hit.at - back, end, hit, (part, here - back))

    def _code(self, hit: Hit) -> bytes | None:
        """The code of the file; None if it cannot be read."""
        entry = self.index.source_of(hit)
        if entry is None:
            return None
        path = hit.pack.path(hit.file)
        key = (entry.root, path, int(hit.pack.stamps[hit.file]))
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
        entry = self.index.source_of(run.hit)
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
                path=run.hit.pack.path(run.hit.file),
                lines=lines,
                lexemes=lexemes.length(run.first, run.last),
                verified=run.place is not None,
            ),
        )


@dataclass(frozen=True)
class _Part:
    """The lexemes of a file between two marks, which begin at byte `at` and at about the file's lexeme `number`."""

    code: bytes
    at: int
    number: int
    lexemes: Lexemes

    def find(self, run: Numbers, place: int) -> int | None:
        """Where in the part this run of lexemes begins, as near as possible to lexeme `place` of the file.

        Brackets whose partner is outside the part may have moved it. None if the run is not there.
        """
        import numpy as np

        numbers = self.lexemes.numbers
        starts = np.flatnonzero(numbers[: len(numbers) - len(run) + 1] == run[0])
        starts = starts[np.argsort(np.abs(starts - (place - self.number)))]
        for start in starts.tolist():
            if np.array_equal(numbers[start : start + len(run)], run):
                return int(start)
        return None

    def lines(self, first: int, last: int) -> tuple[int, int]:
        """The lines of the file from one lexeme to another, counted from 1."""
        start, end = self.lexemes.span(first)[0], self.lexemes.span(last)[1]
        return (
            self.code.count(b"\n", 0, self.at + start) + 1,
            self.code.count(b"\n", 0, self.at + end - 1) + 1,
        )


def _bounds(code: bytes, hit: Hit, length: int) -> tuple[int, int, int] | None:
    """The part of a file that can contain a text of `length` lexemes around a hit.

    Returns its first byte, the byte after its last, and the number of lexemes before it.
    """
    marks = hit.pack.marks(hit.file)
    if not len(marks):
        return None
    # One mark more on either side: grouping brackets are recognised only where both of a pair are there.
    lexemes = marks[:, 1].astype(int)
    first = max(0, int(lexemes.searchsorted(hit.place - hit.at, "right")) - 2)
    last = int(lexemes.searchsorted(hit.place - hit.at + length)) + 1
    at, number = (int(value) for value in marks[first])
    end = int(marks[last, 0]) if last < len(marks) else len(code)
    return at, end, number


def _part(code: bytes, hit: Hit, start: int, end: int, number: int) -> _Part:
    family = family_of_file(hit.pack.path(hit.file))
    assert family is not None  # or it would not be indexed
    return _Part(code, start, number, lex(code[start:end], family))


def _unverified(hits: Sequence[Hit]) -> Iterator[_Run]:
    """The runs on one diagonal that two or more fingerprints indicate; a single one may be there by chance."""
    chain: list[Hit] = []
    for number, hit in enumerate(hits):
        chain.append(hit)
        last = number + 1 == len(hits) or hits[number + 1].at - hit.at > GUARANTEED_LEXEMES
        if last and len(chain) > 1:
            yield _Run(chain[0].at, hit.at + RUN_LEXEMES, chain[0], None)
        if last:
            chain = []


def _agreeing(one: Any, other: Any) -> int:
    """The number of lexemes at the beginning that are the same in both."""
    import numpy as np

    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(np.argmax(differ)) if differ.any() else length


def _names(lexemes: Lexemes, run: _Run) -> int:
    """The number of different names and words in a run."""
    import numpy as np

    numbers = lexemes.numbers[run.first : run.last]
    return len(np.unique(numbers[(numbers & np.uint64(1)).astype(bool)]))


def _is_verbatim(lexemes: Lexemes, run: _Run) -> bool:
    """Whether a run is the same to the letter in text and file, and has enough different lexemes."""
    if run.place is None:
        return False
    part, first = run.place
    ours = _tokens(lexemes, run.first, run.last)
    theirs = _tokens(part.lexemes, first, first + run.last - run.first)
    return ours == theirs and len(set(ours)) >= MIN_DISTINCT_LEXEMES


def _tokens(lexemes: Lexemes, first: int, last: int) -> list[bytes]:
    """The code from one lexeme up to another as tokens, without comments."""
    start, end = lexemes.span(first)[0], lexemes.span(last - 1)[1]
    family = lexemes.family
    tokens = family.pattern.findall(lexemes.text, start, end)
    return [token for token in tokens if not token.startswith(family.comments)]


def _length(match: Match) -> int:
    return match.attribution.lexemes
