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
_NUMBER = rb"\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?"
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
    pattern = b"|".join([_NAME, _NUMBER, signs, *others, rb"[^\s\\;\"'\w]"])
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

    MAX_NAMES = 1 << 20

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._comments = family.comments

    def __missing__(self, lexeme: bytes) -> int:
        if lexeme.startswith(self._comments):
            return 0
        first = lexeme[:1]
        if lexeme.startswith((b'"""', b"'''")):
            return _LONG
        literal = lexeme[:2].lstrip(b".")[:1].isdigit() or (first in b"\"'`" and len(lexeme) > 1)
        if literal and len(lexeme) > 12:  # it will hardly come again
            return LITERAL
        if len(self) > self.MAX_NAMES:
            self.clear()
        number = self[lexeme] = LITERAL if literal else _number(lexeme)
        return number


def _number(lexeme: bytes) -> int:
    """The last bit tells words from signs."""
    digest = int.from_bytes(hashlib.blake2b(lexeme, digest_size=8).digest(), "little")
    return digest | 1 if len(lexeme) > 1 or lexeme.isalpha() or lexeme in b"_$" else digest & ~1


LITERAL = 2
_LONG = 4  # a string with three quotes, before it is known whether it is a docstring
_COMMA, _OPEN, _CLOSE = (_number(sign) for sign in b", ( )".split())
_CLOSERS = [_number(sign) for sign in (b")", b"]", b"}")]
# Behind these a bracket calls nothing: it groups, or holds a tuple.
_WORDS = """return in and or not if elif else while for yield await assert del lambda is import from with as except
    raise case match switch catch throw new typeof function"""
_GROUPING = [_number(word) for word in _WORDS.encode().split()]
# Behind these a string is a value, and no docstring.
_BEFORE_VALUE = [*(_number(sign) for sign in b"= ( [ , + % return in".split()), LITERAL]
_PREFIXES = [_number(word) for word in b"r b u f t rb br fr rf R B U F T Rb RB BR Br FR Fr".split()]
# Bytes between two marks, about.
MARK_INTERVAL_BYTES = 4 << 10

_known: dict[str, _Numbers] = {}


@dataclass(frozen=True, eq=False)
class Lexemes:
    """The lexemes of a text: `numbers`, and `places`, the index of each among all tokens, comments not excepted.

    `counted` tells of each token how many there are up to it, comments excepted but not what else is left out. `marks`
    are bytes at which tokens begin, some thousand apart, and how many are before them: from any of them the text can
    be read alone.
    """

    text: bytes
    family: Family
    numbers: Numbers
    places: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]
    marks: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.numbers)

    def marked(self) -> list[tuple[int, int]]:
        """The marks with the number of lexemes, not of tokens, before each."""
        return [(byte, int(self.places.searchsorted(token))) for byte, token in self.marks]

    def length(self, first: int, last: int) -> int:
        """How long the run from one lexeme up to another is, brackets and literals that are left out included."""
        start, end = int(self.places[first]), int(self.places[last - 1])
        return int(self.counted[end] - self.counted[start]) + 1

    def span(self, index: int) -> tuple[int, int]:
        """Where a lexeme stands in the text, in bytes."""
        token = int(self.places[index])
        byte, before = max(mark for mark in self.marks if mark[1] <= token)
        tokens = self.family.pattern.finditer(self.text, byte)
        return next(itertools.islice(tokens, token - before, None)).span()

    def starting_before(self, end: int) -> int:
        """How many lexemes begin before this byte."""
        byte, token = max((mark for mark in self.marks if mark[0] <= end), default=(0, 0))
        for match in self.family.pattern.finditer(self.text, byte):
            if match.start() >= end:
                break
            token += 1
        return int(self.places.searchsorted(token))


def lex(text: bytes, family: Family) -> Lexemes:
    """The lexemes of a text, whatever it is; a megabyte takes some tenths of a second."""
    import numpy as np

    numbers_of = _known.setdefault(family.name, _Numbers(family))
    tokens, marks = _tokens(text, family.pattern)
    numbers = np.fromiter(map(numbers_of.__getitem__, tokens), np.uint64, len(tokens))
    places, counted = np.flatnonzero(numbers), np.cumsum(numbers != 0)
    for dropped in (_prefixes, _docstrings, _trailing, _grouping, _rows):
        left = numbers[places]
        if len(left):
            places = places[~dropped(left)]
    kept = numbers[places]
    return Lexemes(text, family, np.where(kept == _LONG, LITERAL, kept), places, counted, marks)


def _tokens(text: bytes, pattern: re.Pattern[bytes]) -> tuple[list[bytes], list[tuple[int, int]]]:
    """All tokens and comments, and the marks. What is last in a piece may be cut, and is read again with the next."""
    tokens: list[bytes] = []
    marks: list[tuple[int, int]] = []
    at, size = 0, MARK_INTERVAL_BYTES
    while at < len(text):
        part = pattern.findall(text, at, at + size)
        last = text.rfind(part[-1], at, at + size) if part else at + size
        if at + size >= len(text):
            marks.append((at, len(tokens)))
            tokens += part
            break
        if part and len(part) == 1:  # longer than a piece
            size *= 2
            continue
        marks.append((at, len(tokens)))
        tokens += part[:-1]
        at, size = last, MARK_INTERVAL_BYTES
    return tokens, marks


def readings(text: bytes, family: Family) -> Iterator[tuple[int, Lexemes]]:
    """The lexemes of a text that may be cut out of the middle of another, and where each reading begins, in bytes.

    It may begin in the middle of a docstring or a comment; then only what follows its end is code.
    """
    yield 0, lex(text, family)
    for closer in family.closers:
        start = text.find(closer)
        if start >= 0:
            yield start + len(closer), lex(text[start + len(closer) :], family)


def _prefixes(numbers: Any) -> Any:
    """Which are the letters before a string."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    string = (numbers[1:] == LITERAL) | (numbers[1:] == _LONG)
    dropped[:-1] = np.isin(numbers[:-1], np.array(_PREFIXES, np.uint64)) & string
    return dropped


def _docstrings(numbers: Any) -> Any:
    """Which are strings with three quotes that are no values."""
    import numpy as np

    dropped = numbers == _LONG
    dropped[1:] &= ~np.isin(numbers[:-1], np.array(_BEFORE_VALUE, np.uint64))
    return dropped


def _grouping(numbers: Any) -> Any:
    """Which are brackets that call nothing, both of each pair; or the first, where the second is yet to come."""
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
    left = at[opening]
    before = np.where(left > 0, numbers[left - 1], _COMMA)
    is_word = (before & 1).astype(bool) & ~np.isin(before, np.array(_GROUPING, np.uint64))
    calls = is_word | np.isin(before, np.array(_CLOSERS, np.uint64)) | (before == LITERAL)
    empty = np.append(numbers[1:], 0)[left] == _CLOSE
    dropped[left[~calls & ~empty]] = True
    left, right = at[first[paired]], at[second[paired]]
    dropped[right[dropped[left]]] = True
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
    literal = (numbers == LITERAL) | (numbers == _LONG)
    dropped[1:] = literal[1:] & literal[:-1]
    comma = np.zeros(len(numbers), bool)
    comma[1:-1] = (numbers[1:-1] == _COMMA) & literal[:-2] & literal[2:]
    dropped[1:] |= comma[:-1]
    return dropped | comma
