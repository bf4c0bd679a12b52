"""Post-processing rules for other languages than Python, by what source/syntax.py knows of each.

The functions have their counterparts for Python in postprocess.py and fitting.py, which call these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from jupyter_sc2.source.brackets import CLOSING
from jupyter_sc2.source.languages import language_at, of_cell_magic
from jupyter_sc2.source.syntax import Syntax, brackets_in, syntax_of
from jupyter_sc2.types import CompletionRequest

# Characters before and behind the cursor in which brackets are counted.
MAX_BRACKET_SEARCH_CHARS = 16_384
# Of the longest word that goes on with a block: "otherwise".
MAX_WORD_CHARS = 9


def syntax_at(request: CompletionRequest) -> Syntax:
    """The syntax of the language at the cursor."""
    return syntax_of(language_at(request))


def opens_block(request: CompletionRequest) -> bool:
    """Whether the cursor's line, or the one above a blank line, opens a block or is a comment on what follows."""
    syntax = syntax_at(request)
    line = _opener(request)
    return not _is_command(request) and (syntax.is_opener(line) or syntax.is_comment(line))


def is_prose(request: CompletionRequest) -> bool:
    return syntax_at(request).family == "prose"


def end_of_block(text: str, request: CompletionRequest, *, final: bool) -> int | None:
    """The index at which the block ends that the text is in; None if it goes on."""
    syntax = syntax_at(request)
    if _is_command(request):
        return next(
            (at for at, char in enumerate(text) if char == "\n" and text[at - 1 : at] != "\\"), None
        )
    match syntax.family:
        case "indentation":
            return _end_by_indentation(text, request, syntax)
        case "braces":
            return _end_by_brackets(text, request, syntax, final=final)
        case "end":
            return _end_by_words(text, request, syntax, final=final)
        case "statements":
            return _end_by_semicolon(text)
        case _:
            return _end_of_paragraph(text, request)


def without_half_statement(text: str, request: CompletionRequest) -> str:
    """Cuts the last of several lines where it is only a beginning: of a block, a bracket, an operation."""
    syntax = syntax_at(request)
    if syntax.family == "prose":
        return text
    while "\n" in text.rstrip():
        text = text.rstrip()
        above, _, line = text.rpartition("\n")
        opened = sum(1 if sign in CLOSING else -1 for _, sign in brackets_in(line, syntax))
        # What an `else` opens was closed by the text or stays open without it.
        if not (syntax.is_opener(line) or opened > 0 or syntax.is_continued(line)):
            break
        text = above
    return text


def closes_twice(text: str, request: CompletionRequest) -> int | None:
    """The index of the first bracket that closes what is closed behind the cursor already, or nothing at all."""
    syntax = syntax_at(request)
    if not syntax.balanced:
        return None
    around = _around(request, syntax)
    if around.in_string:
        return None
    mine: list[str] = []
    left, may_close = list(around.opened), around.missing
    for index, sign in brackets_in(text, syntax):
        if sign in CLOSING:
            mine.append(sign)
        elif mine:
            if CLOSING[mine.pop()] != sign:
                return index
        elif may_close <= 0 or CLOSING[left.pop()] != sign:
            return index
        else:
            may_close -= 1
    return None


# How blocks end


def _end_by_indentation(text: str, request: CompletionRequest, syntax: Syntax) -> int | None:
    """Where the indentation falls below that of the cursor's line, or to that of the line that opened the block."""
    line = _line(request)
    base, opened = _indent(line), syntax.is_opener(line)
    written = bool(line.strip())
    for start, content in _lines(text):
        if start > 0 and written:
            below = _indent(content) < base or (opened and _indent(content) == base)
            if content.strip() and below and not syntax.is_middle(content):
                return start - 1
            if not content.strip() and start + len(content) < len(text) and not opened and not base:
                return start - 1
        written = written or bool(content.strip())
    return None


def _end_by_brackets(
    text: str, request: CompletionRequest, syntax: Syntax, *, final: bool
) -> int | None:
    """After the line that closes what the cursor's line opened, else before a blank line or a bracket of outside."""
    around = _around(request, syntax)
    opened = sum(1 if sign in CLOSING else -1 for _, sign in brackets_in(_opener(request), syntax))
    opened = max(0, min(opened, len(around.opened)))
    depth, deepest = 0, 0
    written = bool(_line(request).strip())
    lines = list(_lines(text))
    signs = list(brackets_in(text, syntax))
    for number, (start, content) in enumerate(lines):
        end = start + len(content)
        ended = final or end < len(text)
        if not content.strip():
            if start > 0 and written and depth <= 0 and not opened and ended:
                return start - 1
            continue
        inside = [(index, sign) for index, sign in signs if start <= index < end]
        for index, sign in inside:
            depth += 1 if sign in CLOSING else -1
            deepest = max(deepest, depth)
            if depth < -around.missing:  # it closes what is closed behind the cursor
                return start - 1 if start else index
        written = True
        closed = depth <= -opened if opened else depth <= 0 and (deepest > 0 or depth < 0)
        following = lines[number + 1][1] if number + 1 < len(lines) else ""
        if closed and inside and ended and end < len(text):
            if number + 2 == len(lines) and not final and _may_become_middle(following):
                return None
            if not syntax.is_middle(following):
                return end
    return None


def _end_by_words(
    text: str, request: CompletionRequest, syntax: Syntax, *, final: bool
) -> int | None:
    """After the line with the `end` of what the cursor's line opened, else before a blank line or an outer `end`."""
    depth = opened = int(syntax.is_opener(_opener(request)))
    closed_behind = _is_closed_behind(request, syntax)
    written = bool(_line(request).strip())
    for start, content in _lines(text):
        end = start + len(content)
        ended = final or end < len(text)
        if not content.strip():
            if start > 0 and written and depth <= 0 and ended:
                return start - 1
            continue
        first = start == 0 and bool(_line(request).strip())
        if not first and syntax.is_closer(content) and not syntax.is_middle(content):
            if not ended:
                return None
            depth -= 1
            if depth < 0 or (depth == 0 and opened and closed_behind):
                return max(0, start - 1)
            if depth == 0:
                return end if end < len(text) else None
        elif syntax.is_opener(content) and not syntax.is_middle(content) and not first:
            depth += 1
        written = True
    return None


def _end_by_semicolon(text: str) -> int | None:
    """After the line that ends a statement, or before a blank line."""
    written = False
    for start, content in _lines(text):
        end = start + len(content)
        if content.rstrip().endswith(";"):
            return end if end < len(text) else None
        if written and not content.strip() and end < len(text):
            return start - 1
        written = written or bool(content.strip())
    return None


def _end_of_paragraph(text: str, request: CompletionRequest) -> int | None:
    """Before a blank line; of code between fences after the fence that ends it."""
    fence = _opener(request).strip()[:3] in ("```", "~~~")
    written = bool(_line(request).strip())
    for start, content in _lines(text):
        end = start + len(content)
        if fence:
            if start > 0 and content.strip() in ("```", "~~~"):
                return end if end < len(text) else None
        elif start > 0 and written and not content.strip() and end < len(text):
            return start - 1
        written = written or bool(content.strip())
    return None


def _may_become_middle(line: str) -> bool:
    """Whether a line that is not whole yet may come to be an `else`."""
    begun = line.strip().lstrip("}").strip()
    return len(begun) < MAX_WORD_CHARS and (not begun or begun.isalpha())


def _is_closed_behind(request: CompletionRequest, syntax: Syntax) -> bool:
    """Whether the next line behind the cursor's closes the block that is open there."""
    below = request.suffix.partition("\n")[2].lstrip("\n")
    line = below.partition("\n")[0]
    is_closer = syntax.is_closer(line) or syntax.is_middle(line)
    return is_closer and _indent(line) <= _indent(_opener(request))


# Brackets around the cursor


@dataclass(frozen=True)
class _Around:
    """The brackets that are open at the cursor, and how many of them nothing behind it closes."""

    opened: tuple[str, ...]
    missing: int
    in_string: bool


def _around(request: CompletionRequest, syntax: Syntax) -> _Around:
    prefix = _prefix(request)[-MAX_BRACKET_SEARCH_CHARS:]
    return _brackets(prefix, request.suffix[:MAX_BRACKET_SEARCH_CHARS], syntax)


@lru_cache(maxsize=8)  # the same for each token
def _brackets(prefix: str, suffix: str, syntax: Syntax) -> _Around:
    opened: list[str] = []
    for _, sign in brackets_in(prefix, syntax):
        if sign in CLOSING:
            opened.append(sign)
        elif opened:
            opened.pop()
    closed = depth = 0
    for _, sign in brackets_in(suffix, syntax):
        depth += 1 if sign in CLOSING else -1
        closed = max(closed, -depth)
    marker = "("  # counted unless the cursor is in a string or a comment
    counted = sum(1 for _ in brackets_in(prefix + marker, syntax))
    in_string = counted == sum(1 for _ in brackets_in(prefix, syntax))
    return _Around(tuple(opened), max(0, len(opened) - closed), in_string)


# Small questions


def _opener(request: CompletionRequest) -> str:
    """The cursor's line up to the cursor, or the one above if that is blank."""
    above, _, line = _prefix(request).rpartition("\n")
    return line if line.strip() else above.rpartition("\n")[2]


def _line(request: CompletionRequest) -> str:
    return request.prefix.rpartition("\n")[2]


def _prefix(request: CompletionRequest) -> str:
    """The code before the cursor in the language at the cursor: below its magic, or in its command."""
    return request.prefix.rpartition("\n")[2] if _is_command(request) else of_cell_magic(request)[1]


def _is_command(request: CompletionRequest) -> bool:
    """Whether the language is that of a line only: `!ls` in a cell of Python."""
    return of_cell_magic(request)[0] != language_at(request)


def _indent(line: str) -> int:
    return len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(4))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1
