"""Brackets and quotes: which are open, and which of those behind the cursor an editor has closed automatically.

`print(` becomes `print()` with the cursor inside. Such closers come and go behind the cursor while the user types. They
carry no information beyond the openers before the cursor, so prompts and caches use the suffix without them: it stays
the same from key to key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

CLOSING = {"(": ")", "[": "]", "{": "}"}
CLOSED = frozenset(CLOSING.values())
QUOTES = frozenset("'\"#")


def _string(sign: str, end: str, end_of_three: str) -> str:
    """A regular expression for a string literal, unambiguous at each character, so that matching takes linear time."""
    one, three = rf"{sign}(?!{sign}{sign})", sign * 3
    return (
        rf"{three}[^{sign}\\]*(?:(?:\\.|{one})[^{sign}\\]*)*{end_of_three}"
        rf"|{one}[^{sign}\\\n]*(?:\\.[^{sign}\\\n]*)*{end}"
    )


# Up to its end, or to the end of the text: an open string may end in the middle of an escape.
_BEGUN = [_string(sign, rf"(?:{sign}|\\\Z)?", rf"(?:{sign * 3}|\\\Z)?") for sign in "'\""]
TOKEN = re.compile("|".join([*_BEGUN, r"#[^\n]*", r"[()\[\]{}]"]), re.DOTALL)
WHOLE = re.compile("|".join(_string(sign, sign, sign * 3) for sign in "'\""), re.DOTALL)
# Editors close a bracket only before one of these or the end of the text (CodeMirror's closeBrackets).
MAY_FOLLOW = " \t)]}:;>,"


def strip_auto_closers(prefix: str, suffix: str) -> str:
    """The suffix without the closers that an editor may have inserted for the brackets and quotes of the cursor's
    line."""
    length = 0
    for closer in _closers(prefix.rpartition("\n")[2]):
        if suffix[length : length + 1] != closer:
            break
        length += 1
    rest = suffix[length:].split("\n", 1)[0]
    return suffix[length:] if not rest or rest[0] in MAY_FOLLOW else suffix


def open_closers(line: str) -> str:
    """The closers of all brackets and the quote that `line` leaves open, innermost first."""
    return "".join(_closers(line))


def _closers(line: str) -> Iterator[str]:
    opened, quote = _open_at_end(line)
    if quote not in ("", "#"):
        yield quote[0]
    for sign in reversed(opened):
        yield CLOSING[sign]


def open_at_end(source: str) -> tuple[list[str], str]:
    """The brackets that are open at the end of the source, and the open quote; the quote is "#" in a comment."""
    opened, quote = _open_at_end(source)
    return list(opened), quote


# Called with the same text for each token of a completion.
@lru_cache(maxsize=16)
def _open_at_end(source: str) -> tuple[tuple[str, ...], str]:
    opened: list[str] = []
    token = ""
    for token in TOKEN.findall(source):
        if token in CLOSING:
            opened.append(token)
        elif token in CLOSED and opened:
            opened.pop()
    quote = token[:1] if token[:1] in QUOTES and source.endswith(token) else ""
    if quote != "#" and WHOLE.fullmatch(token):
        quote = ""
    elif quote in "'\"" and token.startswith(quote * 3):
        quote *= 3
    return tuple(opened), quote


def innermost_open(source: str) -> int | None:
    """The index of the innermost bracket that is open at the end of the source; None if all are closed."""
    opened: list[int] = []
    for index, char, quote in scan(source):
        if quote:
            continue
        if char in CLOSING:
            opened.append(index)
        elif char in CLOSED and opened:
            opened.pop()
    return opened[-1] if opened else None


def scan(source: str, quote: str = "") -> Iterator[tuple[int, str, str]]:
    """Yields each character of the source with its index and the quote that is open after it: "#" in a comment, "" in
    code.

    `quote` is the one that is open at the start of the source. A single quote ends with its line. The closing quote of
    a string is yielded as code, at the index of its last character.
    """
    index = 0
    while index < len(source):
        char = source[index]
        if quote == "#" or (quote and char == "\n" and len(quote) == 1):
            quote = "" if char == "\n" else quote
        elif quote:
            if char == "\\":
                yield index, char, quote
                index += 1
                if index == len(source):
                    return
                char = source[index]
            elif source.startswith(quote, index):
                index += len(quote) - 1
                quote = ""
        elif char in "'\"":
            quote = char * 3 if source.startswith(char * 3, index) else char
            index += len(quote) - 1
        elif char == "#":
            quote = char
        yield index, char, quote
        index += 1
