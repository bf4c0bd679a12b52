"""Code as a sequence of lexemes, each a number. It is the same for texts that differ only in layout and literals.

Comments, docstrings and white space are left out, and so is what formatters add or remove: trailing commas, semicolons,
and brackets that only group. All literals are the same lexeme, and several in a row count as one. Names are unchanged.

A text may be incomplete or invalid, and of its language only comments and strings matter. Texts are bytes, so a wrong
encoding affects only the names that contain such characters.
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
# A string ends with the quotes that opened it. Where they are missing it ends with the line or, after three quotes or a
# backtick, with the text.
_DOUBLE = rb"[^\\\n\"]*(?:\\.[^\\\n\"]*)*\"?"
_SINGLE = rb"[^\\\n']*(?:\\.[^\\\n']*)*'?"
_LONG_DOUBLE = rb"\"\"(?s:.*?)(?:\"\"\"|\Z)"
_LONG_SINGLE = rb"''(?s:.*?)(?:'''|\Z)"
_TEMPLATE = rb"(?s:`[^`\\]*(?:\\.[^`\\]*)*`?)"
_BLOCK = rb"(?s:/\*.*?(?:\*/|\Z))"


@dataclass(frozen=True)
class Family:
    """Languages that write comments and strings alike.

    `closers` end the docstrings and comments inside which an excerpt may begin.
    """

    name: str
    pattern: re.Pattern[bytes]
    comments: tuple[bytes, ...]
    closers: tuple[bytes, ...]


def _family(
    name: str, *others: bytes, comments: tuple[bytes, ...], closers: tuple[bytes, ...]
) -> Family:
    """A family whose pattern tries names, numbers and the symbols that begin neither comment nor string first.

    Most lexemes are one of these.
    """
    begin = b"".join(comment[:1] for comment in comments)
    symbols = rb"[^\s\\;\"'`\w%s]" % re.escape(begin)
    pattern = b"|".join([_NAME, _NUMBER, symbols, *others, rb"[^\s\\;\"'\w]"])
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
    """The family of a file, by its suffix; None if the file is not code."""
    return FAMILIES.get(PurePath(path).suffix.lower())


def family_of_language(language: str) -> Family:
    return _LANGUAGES.get(language.lower(), HASH)


class _Numbers(dict[bytes, int]):
    """A 64-bit number for each lexeme, 0 for a comment. It may not change, as indexes on disk depend on it."""

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
        if literal and len(lexeme) > 12:  # hardly ever repeated, so not worth storing
            return LITERAL
        if len(self) > self.MAX_NAMES:
            self.clear()
        number = self[lexeme] = LITERAL if literal else _number(lexeme)
        return number


def _number(lexeme: bytes) -> int:
    """A hash of the lexeme, with the last bit 1 for words and 0 for symbols."""
    digest = int.from_bytes(hashlib.blake2b(lexeme, digest_size=8).digest(), "little")
    return digest | 1 if len(lexeme) > 1 or lexeme.isalpha() or lexeme in b"_$" else digest & ~1


LITERAL = 2
_LONG = 4  # a string with three quotes, before it is known whether it is a docstring
_COMMA, _OPEN, _CLOSE = (_number(symbol) for symbol in b", ( )".split())
_CLOSERS = [_number(symbol) for symbol in (b")", b"]", b"}")]
# After these words a bracket is not a call: it groups, or holds a tuple.
_WORDS = """return in and or not if elif else while for yield await assert del lambda is import from with as except
    raise case match switch catch throw new typeof function"""
_GROUPING = [_number(word) for word in _WORDS.encode().split()]
# After these a string is a value and not a docstring.
_BEFORE_VALUE = [*(_number(lexeme) for lexeme in b"= ( [ , + % return in".split()), LITERAL]
_PREFIXES = [_number(word) for word in b"r b u f t rb br fr rf R B U F T Rb RB BR Br FR Fr".split()]
# The approximate distance between two marks.
MARK_INTERVAL_BYTES = 4 << 10

_numbers_by_family: dict[str, _Numbers] = {}


@dataclass(frozen=True, eq=False)
class Lexemes:
    """The lexemes of a text: their `numbers`, and `places`, the index of each among all tokens, comments included.

    `counted` has for each token the number of tokens up to and including it, without comments. `marks` are places where
    reading can start, a few thousand bytes apart: pairs of the byte at which a token begins and the number of tokens
    before it.
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
        """The marks, with the number of lexemes instead of tokens before each."""
        return [(byte, int(self.places.searchsorted(token))) for byte, token in self.marks]

    def length(self, first: int, last: int) -> int:
        """The length of the run from lexeme `first` up to but not including `last`, with the tokens that are left out
        of `numbers`, except for comments."""
        start, end = int(self.places[first]), int(self.places[last - 1])
        return int(self.counted[end] - self.counted[start]) + 1

    def span(self, index: int) -> tuple[int, int]:
        """The start and end of a lexeme in the text, in bytes."""
        token = int(self.places[index])
        byte, before = max(mark for mark in self.marks if mark[1] <= token)
        tokens = self.family.pattern.finditer(self.text, byte)
        return next(itertools.islice(tokens, token - before, None)).span()

    def starting_before(self, end: int) -> int:
        """The number of lexemes that begin before this byte."""
        byte, token = max((mark for mark in self.marks if mark[0] <= end), default=(0, 0))
        for match in self.family.pattern.finditer(self.text, byte):
            if match.start() >= end:
                break
            token += 1
        return int(self.places.searchsorted(token))


def lex(text: bytes, family: Family) -> Lexemes:
    """The lexemes of any text, valid or not; a megabyte takes a few tenths of a second."""
    import numpy as np

    numbers_of = _numbers_by_family.setdefault(family.name, _Numbers(family))
    tokens, marks = _tokens(text, family.pattern)
    numbers = np.fromiter(map(numbers_of.__getitem__, tokens), np.uint64, len(tokens))
    places, counted = np.flatnonzero(numbers), np.cumsum(numbers != 0)
    for dropped in (
        _string_prefixes,
        _docstrings,
        _trailing_commas,
        _grouping_brackets,
        _later_literals,
    ):
        left = numbers[places]
        if len(left):
            places = places[~dropped(left)]
    kept = numbers[places]
    return Lexemes(text, family, np.where(kept == _LONG, LITERAL, kept), places, counted, marks)


def _tokens(text: bytes, pattern: re.Pattern[bytes]) -> tuple[list[bytes], list[tuple[int, int]]]:
    """All tokens, comments included, and the marks.

    The text is read in pieces. The last token of a piece may be cut off, so the next piece begins with it.
    """
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
    """The possible readings of an excerpt: the byte at which each begins, and its lexemes.

    An excerpt may begin inside a docstring or a comment, and then only what follows the end of that is code.
    """
    yield 0, lex(text, family)
    for closer in family.closers:
        start = text.find(closer)
        if start >= 0:
            yield start + len(closer), lex(text[start + len(closer) :], family)


def _string_prefixes(numbers: Any) -> Any:
    """A mask of the prefixes of strings, such as `f` and `rb`."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    string = (numbers[1:] == LITERAL) | (numbers[1:] == _LONG)
    dropped[:-1] = np.isin(numbers[:-1], np.array(_PREFIXES, np.uint64)) & string
    return dropped


def _docstrings(numbers: Any) -> Any:
    """A mask of the strings with three quotes that are not values."""
    import numpy as np

    dropped = numbers == _LONG
    dropped[1:] &= ~np.isin(numbers[:-1], np.array(_BEFORE_VALUE, np.uint64))
    return dropped


def _grouping_brackets(numbers: Any) -> Any:
    """A mask of the brackets that are neither calls nor empty: both of a pair, or an opening one that is not closed."""
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


def _trailing_commas(numbers: Any) -> Any:
    """A mask of the commas before a closing bracket."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    closers = np.isin(numbers[1:], np.array(_CLOSERS, np.uint64))
    dropped[:-1] = (numbers[:-1] == _COMMA) & closers
    return dropped


def _later_literals(numbers: Any) -> Any:
    """A mask of all but the first of several literals in a row, and of the commas between them."""
    import numpy as np

    dropped = np.zeros(len(numbers), bool)
    literal = (numbers == LITERAL) | (numbers == _LONG)
    dropped[1:] = literal[1:] & literal[:-1]
    comma = np.zeros(len(numbers), bool)
    comma[1:-1] = (numbers[1:-1] == _COMMA) & literal[:-2] & literal[2:]
    dropped[1:] |= comma[:-1]
    return dropped | comma
