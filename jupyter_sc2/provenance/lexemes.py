"""Code as a row of numbers, one for each lexeme: what two texts have in common however they are laid out.

Left out are comments, white space, and what a formatter adds or takes away: trailing commas, brackets that only
group, semicolons. All literals are one lexeme, and so is a row of them. Names are kept.

A text need not be whole or valid, and its language need be known only as far as its comments go: a string that is not
closed ends with its line. Texts are bytes, so that a wrong encoding changes nothing but the names that hold it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.uint64]

_NAME = rb"[A-Za-z_\x80-\xff$][\w\x80-\xff$]*"
_NUMBER = rb"\d[\w.]*"
# What opens a string closes it, on the same line or, after three quotes, anywhere; if nothing does, the line's end.
_DOUBLE = rb"[^\\\n\"]*(?:\\.[^\\\n\"]*)*\"?"
_SINGLE = rb"[^\\\n']*(?:\\.[^\\\n']*)*'?"
_LONG_DOUBLE = rb"\"\"(?s:.*?)(?:\"\"\"|\Z)"
_LONG_SINGLE = rb"''(?s:.*?)(?:'''|\Z)"
_TEMPLATE = rb"(?s:`[^`\\]*(?:\\.[^`\\]*)*`?)"
_BLOCK = rb"(?s:/\*.*?(?:\*/|\Z))"


@dataclass(frozen=True)
class Family:
    """Languages that write comments and strings alike. `closers` end what a text that is cut out may begin in."""

    name: str
    pattern: re.Pattern[bytes]
    comments: tuple[bytes, ...]
    closers: tuple[bytes, ...]


def _family(
    name: str, *others: bytes, comments: tuple[bytes, ...], closers: tuple[bytes, ...]
) -> Family:
    """Most lexemes are names and signs that begin nothing, so these are tried first."""
    begin = b"".join(comment[:1] for comment in comments)
    signs = rb"[^\s\\;\"'`\w%s]" % re.escape(begin)
    pattern = b"|".join([_NAME, signs, _NUMBER, *others, rb"[^\s\\;\"'\w]"])
    return Family(name, re.compile(pattern), comments, closers)


HASH = _family(
    "hash",
    rb"#[^\n]*",
    rb"\"(?:%s|%s)" % (_LONG_DOUBLE, _DOUBLE),
    rb"'(?:%s|%s)" % (_LONG_SINGLE, _SINGLE),
    comments=(b"#",),
    closers=(b'"""', b"'" * 3),
)
_SHORT = (rb"\"" + _DOUBLE, rb"'" + _SINGLE, _TEMPLATE)
SLASH = _family("slash", rb"//[^\n]*", _BLOCK, *_SHORT, comments=(b"//", b"/*"), closers=(b"*/",))
DASH = _family("dash", rb"--[^\n]*", _BLOCK, *_SHORT, comments=(b"--", b"/*"), closers=(b"*/",))

_SUFFIXES = {
    HASH: ".py .pyi .pyx .pxd .ipynb .r .jl .rb .sh .bash .pl .pm .ps1 .tcl .nim .cmake .coffee .awk",
    SLASH: """.c .h .cc .cpp .cxx .hpp .hh .cu .cuh .java .js .jsx .mjs .ts .tsx .go .rs .scala .kt .swift .cs .php
        .dart .groovy .m .mm .zig .sol .proto .glsl""",
    DASH: ".sql .lua .hs .adb .ads .vhd .vhdl",
}
FAMILIES = {suffix: family for family, all in _SUFFIXES.items() for suffix in all.split()}
_LANGUAGES = {
    **dict.fromkeys(("sql", "lua", "haskell"), DASH),
    **dict.fromkeys(("javascript", "typescript", "java", "scala", "c", "cpp", "c++", "go"), SLASH),
    **dict.fromkeys(("rust", "csharp", "kotlin", "swift", "php", "js", "html", "css"), SLASH),
}


def family_of_file(path: str) -> Family | None:
    """By the file's ending; None for what is no code."""
    return FAMILIES.get(PurePath(path).suffix.lower())


def family_of_language(language: str) -> Family:
    return _LANGUAGES.get(language.lower(), HASH)


class _Numbers(dict[bytes, int]):
    """A number of 64 bits for each lexeme; 0 for a comment. Always the same, as they are kept on disk."""

    MOST = 1 << 20

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._comments = family.comments

    def __missing__(self, lexeme: bytes) -> int:
        if lexeme.startswith(self._comments):
            return 0
        first = lexeme[:1]
        if first.isdigit() or (first in b"\"'`" and len(lexeme) > 1):
            return LITERAL
        if len(self) > self.MOST:
            self.clear()
        number = self[lexeme] = _number(lexeme)
        return number


def _number(lexeme: bytes) -> int:
    """The last bit tells words from signs."""
    digest = int.from_bytes(hashlib.blake2b(lexeme, digest_size=8).digest(), "little")
    return digest | 1 if len(lexeme) > 1 or lexeme.isalpha() or lexeme in b"_$" else digest & ~1


LITERAL = 2
_COMMA, _OPEN, _CLOSE = (_number(sign) for sign in (b",", b"(", b")"))
_CLOSERS = [_number(sign) for sign in (b")", b"]", b"}")]
# Behind these a bracket calls nothing: it groups, or holds a tuple.
_WORDS = """return in and or not if elif else while for yield await assert del lambda is import from with as except
    raise case match switch catch throw new typeof function"""
_GROUPING = [_number(word) for word in _WORDS.encode().split()]
_BEFORE_CALL = [_CLOSE, *_CLOSERS]

_known: dict[str, _Numbers] = {}


@dataclass(frozen=True, eq=False)
class Lexemes:
    """The lexemes of a text: `numbers`, and `places`, the index of each among all that `spans` goes through."""

    text: bytes
    family: Family
    numbers: Numbers
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def spans(self, wanted: list[int]) -> list[tuple[int, int]]:
        """Where these lexemes, in ascending order, stand in the text, in bytes."""
        found, tokens, at = [], self.family.pattern.finditer(self.text), 0
        for index in wanted:
            place = int(self.places[index])
            match = next(itertools.islice(tokens, place - at, None))
            at = place + 1
            found.append(match.span())
        return found

    def starting_at(self, start: int) -> int:
        """How many lexemes begin before this byte."""
        places = self.places
        return int(places.searchsorted(sum(1 for _ in _until(self, start))))


def _until(lexemes: Lexemes, end: int) -> Iterator[None]:
    for match in lexemes.family.pattern.finditer(lexemes.text):
        if match.start() >= end:
            return
        yield


def lex(text: bytes, family: Family) -> Lexemes:
    """The lexemes of a text, whatever it is; one of megabytes takes a second for each."""
    import numpy as np

    numbers_of = _known.setdefault(family.name, _Numbers(family))
    tokens = family.pattern.findall(text)
    numbers = np.fromiter(map(numbers_of.__getitem__, tokens), np.uint64, len(tokens))
    places = np.flatnonzero(numbers)
    for dropped in (_grouping, _trailing, _rows):
        numbers_left = numbers[places]
        if len(numbers_left):
            places = places[~dropped(numbers_left)]
    return Lexemes(text, family, numbers[places], places)


def readings(text: bytes, family: Family) -> Iterator[tuple[int, Lexemes]]:
    """The lexemes of a text that may be cut out of the middle of another, and where each reading begins, in bytes.

    It may begin in the middle of a docstring or a comment; then only what follows its end is code.
    """
    yield 0, lex(text, family)
    for closer in family.closers:
        start = text.find(closer)
        if start >= 0:
            yield start + len(closer), lex(text[start + len(closer) :], family)


def _grouping(numbers: Any) -> Any:
    """Which are brackets that call nothing, both of each pair."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    opens, closes = numbers == _OPEN, numbers == _CLOSE
    at = np.flatnonzero(opens | closes)
    if not len(at):
        return dropped
    opening = opens[at]
    # Brackets of one depth come in pairs; sorted by depth, the partner of an opening one is the next.
    depth = np.cumsum(np.where(opening, 1, -1))
    depth[~opening] += 1
    order = np.argsort(depth, kind="stable")
    first, second = order[:-1], order[1:]
    paired = opening[first] & ~opening[second] & (depth[first] == depth[second])
    left, right = at[first[paired]], at[second[paired]]
    before = np.where(left > 0, numbers[left - 1], 0)
    is_word = (before & 1).astype(bool) & ~np.isin(before, np.array(_GROUPING, np.uint64))
    calls = is_word | np.isin(before, np.array(_BEFORE_CALL, np.uint64)) | (before == LITERAL)
    calls |= left == 0
    empty = right == left + 1
    gone = ~calls & ~empty
    dropped[left[gone]] = dropped[right[gone]] = True
    return dropped


def _trailing(numbers: Any) -> Any:
    """Which are commas before a closing bracket."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    closers = np.isin(numbers[1:], np.array(_CLOSERS, np.uint64))
    dropped[:-1] = (numbers[:-1] == _COMMA) & closers
    return dropped


def _rows(numbers: Any) -> Any:
    """Which are literals, and the commas before them, that go on a row of literals."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    literal = numbers == LITERAL
    dropped[1:] = literal[1:] & literal[:-1]
    comma = np.zeros(len(numbers), bool)
    comma[1:-1] = (numbers[1:-1] == _COMMA) & literal[:-2] & literal[2:]
    dropped[1:] |= comma[:-1]
    return dropped | comma
