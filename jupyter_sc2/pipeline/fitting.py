"""Whether a suggestion fits between the code before the cursor and the code after it.

Brackets and quotes that are open at the cursor and closed after it are not closed twice; text that repeats the rest of
the line is cut; inside a word only a part of a word is suggested; and a cell that could be parsed before, with a
placeholder at the cursor if need be, can be parsed with the suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from jupyter_sc2.source.brackets import CLOSING, open_at_end, scan, strip_auto_closers
from jupyter_sc2.source.incomplete import complete_tree, parses
from jupyter_sc2.types import CompletionRequest

OPENERS = "([{"
CLOSERS = ")]}"
QUOTES = "'\""
# Of a cell that is parsed. Of a longer one only the cursor's line is parsed, and of a longer line only brackets count.
MAX_PARSED_CHARS = 8_000
# Of a text, and of the rest of a line, that are compared word by word.
MAX_COMPARED_CHARS = 1_000
# Of a notebook that is searched for a word.
MAX_SEARCHED_CHARS = 100_000
# What may be missing at the cursor of a cell that Python cannot read as it is.
PLACEHOLDERS = ("", "_", "_,", ",_")
# A word, a bracket, a quote, or a run of one sign. Text in strings counts like code.
LEXEME = re.compile(r"\w+|[()\[\]{}'\"]|([^\w\s])\1*")
TRAILING_COMMA = re.compile(r",(?=\s*(?:[)\]}]|$))")
# The end of a text that needs more.
DANGLING = re.compile(r"(?:\s|[,=+\-*/%|&^~<>@.:\\]|\b(?:and|or|not|in|is|if|else|for|lambda)$)+$")
# What may be missing below a line that ends with a colon, its body, and one that closes a `try`; and below a decorator.
BODIES = ("\n{0}    pass", "\n{0}    pass\n{0}finally: pass")
DECORATED = "\n{0}def _(): pass"


@dataclass(frozen=True)
class Brackets:
    """What is open at a cursor: the openers, the outermost first, and the quote ("#" in a comment).

    `closed` is how many of them are closed behind the cursor, `quote_closed` whether the quote is, on its line unless
    it is tripled.
    """

    opened: tuple[str, ...]
    quote: str
    closed: int
    quote_closed: bool


@dataclass(frozen=True)
class Lexeme:
    """A lexeme of a text: how it compares, where it starts and ends."""

    key: str
    start: int
    end: int


def lexemes(text: str) -> list[Lexeme]:
    """The words and signs of a text; blanks, the kind of quotes and trailing commas make no difference."""
    commas = {found.start() for found in TRAILING_COMMA.finditer(text)}
    return [
        Lexeme(found[0].replace("'", '"'), found.start(), found.end())
        for found in LEXEME.finditer(text)
        if found.start() not in commas
    ]


@lru_cache(maxsize=4096)
def alike(text: str) -> str:
    """The text as it compares with others: the same for two lines that differ in spacing, quotes, a trailing comma.

    A long one, which holds data, compares as it is.
    """
    if len(text) > MAX_COMPARED_CHARS:
        return text.strip()
    return " ".join(lexeme.key for lexeme in lexemes(text))


def is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def inside_word(request: CompletionRequest) -> bool:
    return is_word(request.prefix[-1:]) and is_word(request.suffix[:1])


def is_settled(request: CompletionRequest) -> bool:
    """Whether nothing stands behind the cursor on its line but what an editor closes by itself."""
    return not strip_auto_closers(request.prefix, request.suffix).partition("\n")[0].strip()


def has_code_behind(request: CompletionRequest) -> bool:
    """Whether more stands behind the cursor on its line than brackets, quotes, colons and commas."""
    return bool(rest_of_line(request).strip(" \t" + CLOSERS + QUOTES + ":,"))


def rest_of_line(request: CompletionRequest) -> str:
    return request.suffix.partition("\n")[0]


@lru_cache(maxsize=8)
def _brackets(prefix: str, suffix: str) -> Brackets:
    opened, quote = open_at_end(prefix)
    closed = depth = 0
    quote_closed = False
    for _, char, inside in scan(suffix, quote):
        if not quote_closed and quote not in ("", "#"):
            if inside:
                continue
            if char == "\n":  # a string that is not closed ends with its line
                break
            quote_closed = True
        if inside:
            continue
        if char in OPENERS:
            depth += 1
        elif char in CLOSERS:
            depth -= 1
            if depth < 0:
                depth, closed = 0, closed + 1
                if closed == len(opened):
                    break
    return Brackets(tuple(opened), quote, closed, quote_closed)


def closes_twice(text: str, request: CompletionRequest, *, python: bool) -> int | None:
    """The index of the first bracket or quote that closes what is closed behind the cursor already, or nothing at all.

    None if there is none. Of another language than Python only the next sign behind the cursor is known to be one.
    """
    following = rest_of_line(request).lstrip(" \t")[:1]
    if not python and (not following or following not in CLOSERS + QUOTES):
        return None
    index = _closes_twice(text, request)
    return index if python or index is None or text[index] == following else None


def _closes_twice(text: str, request: CompletionRequest) -> int | None:
    place = _brackets(request.prefix, request.suffix)
    mine: list[str] = []
    may_close = len(place.opened) - min(place.closed, len(place.opened))
    left = list(place.opened)
    in_string = place.quote not in ("", "#")
    for index, char, inside in scan(text, place.quote):
        if in_string and not inside:
            in_string = False
            if place.quote_closed:
                return index - len(place.quote) + 1 if char != "\n" else index
            continue
        if inside:
            continue
        if char in OPENERS:
            mine.append(char)
        elif char in CLOSERS:
            if mine:
                if CLOSING[mine.pop()] != char:
                    return index
            elif not may_close or CLOSING[left.pop()] != char:
                return index
            else:
                may_close -= 1
    return None


def fitted(text: str, request: CompletionRequest, *, python: bool) -> str:
    """The part of a whole text that fits what stands behind the cursor; "" where none does.

    `python` says that the cursor stands in Python: another language is not parsed.
    """
    if not text.strip():
        return text
    if inside_word(request):
        text = _part_of_word(text, request)
    rest = rest_of_line(request)
    single = "\n" not in text.strip("\n")
    if rest.strip() and single:
        cut = _without_repetition(text, rest)
        if _restates(cut, rest):
            return ""
    else:
        cut = text
    if not python or not cut.strip() or not request.suffix.strip():
        return cut
    judged = _Judge(request)
    return next((part for part in (cut, text, *_parts(cut)) if part.strip() and judged(part)), "")


def finished(text: str, request: CompletionRequest) -> str:
    """A text of Python that was cut off, as a whole: what it has opened is closed, or it ends before that.

    "" where neither makes code that can be read.
    """
    while True:
        opened, quote = _own(text, request)
        if not opened and not quote:
            return text
        if "\n" not in text.rstrip() or len(quote) == 3:
            break
        text = text.rstrip().rpartition("\n")[0]
    ends = "".join(CLOSING[text[at]] for at in reversed(opened))
    closers = (quote, "}" + quote) if quote else ("",)  # an f-string's field may be open
    begun = text if quote else DANGLING.sub("", text)
    parts = [begun + closer + ends for closer in closers]
    if opened:
        last = max((at for at, char, inside in scan(text) if char == "," and not inside), default=0)
        parts.append(text[:last] + ends if last > opened[-1] else "")
        parts.append(DANGLING.sub("", text[: opened[0]]))
    for part in parts:
        if part.strip() and complete_tree(request.prefix, part, "") is not None:
            return fitted(part, request, python=True)
    return ""


def _own(text: str, request: CompletionRequest) -> tuple[list[int], str]:
    """The indexes of the brackets that a text opens and leaves open, and the quote; those of the cursor count not."""
    place = _brackets(request.prefix, request.suffix)
    opened: list[int] = []
    quote = begun = "" if place.quote == "#" else place.quote
    for index, char, inside in scan(text, place.quote):
        if not inside:
            begun = ""
        quote = "" if inside in ("#", begun) else inside
        if inside:
            continue
        if char in OPENERS:
            opened.append(index)
        elif char in CLOSERS and opened:
            opened.pop()
    return opened, "" if begun else quote


class _Judge:
    """Tells of texts whether the cell can be read with them. It says yes where it cannot know."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._line = request.prefix.rpartition("\n")[2].lstrip()
        self._rest = rest_of_line(request)
        short = len(request.text) <= MAX_PARSED_CHARS
        self._by_cell = short and _could_be_read(request.prefix, request.suffix)
        # Where something else in the cell is not finished it is the cursor's line that counts.
        short = len(self._line) + len(self._rest) <= MAX_PARSED_CHARS
        self._by_line = (
            not self._by_cell
            and short
            and has_code_behind(request)
            and any(_reads(self._line + name + self._rest) for name in PLACEHOLDERS)
        )

    def __call__(self, text: str) -> bool:
        if self._by_line:
            return _reads(self._line + text + self._rest)
        if not self._by_cell:
            return True
        prefix, suffix = self._request.prefix, self._request.suffix
        if _reads_with_body(prefix + text, suffix):
            return True
        # At the end of a line one goes on in the next: what is there is read, closed in any way.
        place = _brackets(prefix, suffix)
        open_behind = place.closed or place.quote_closed
        if self._rest.strip() or open_behind:
            return False
        return complete_tree(prefix, text, "") is not None


@lru_cache(maxsize=8)
def _could_be_read(prefix: str, suffix: str) -> bool:
    return any(_reads_with_body(prefix + name, suffix) for name in PLACEHOLDERS)


def _reads_with_body(head: str, suffix: str) -> bool:
    if parses(head + suffix):
        return True
    if suffix.partition("\n")[0].strip() or not head.rstrip().endswith(":"):
        return False
    line = head.rpartition("\n")[2]
    indent = line[: len(line) - len(line.lstrip())]
    return any(parses(head + body.format(indent) + suffix) for body in BODIES)


def _reads(line: str) -> bool:
    """Whether one line can be read, as a statement or as the head of one."""
    return any(parses(line + body.format("")) for body in ("", *BODIES, DECORATED))


def _part_of_word(text: str, request: CompletionRequest) -> str:
    """What of a text may stand inside a word: letters that make it another word that the notebook knows."""
    part = re.match(r"\w*", text)[0]  # type: ignore[index]
    before = re.search(r"\w*$", request.prefix[-128:])[0]  # type: ignore[index]
    after = re.match(r"\w*", request.suffix[:128])[0]  # type: ignore[index]
    for length in range(min(len(part), len(after)), 0, -1):
        if part.endswith(after[:length]):
            part = part[: len(part) - length]
            break
    if not part:
        return ""
    word = re.compile(rf"\b{re.escape(before + part + after)}\b")
    left = MAX_SEARCHED_CHARS
    for source in _sources(request):
        if word.search(source, 0, left):
            return part
        left -= len(source)
        if left <= 0:
            break
    return ""


def _sources(request: CompletionRequest) -> Iterator[str]:
    """The cell, and the others from it upwards and then downwards."""
    yield request.text
    above, cells = request.notebook.above(request.cell_id), request.notebook.cells
    yield from (cell.source for cell in reversed(above))
    yield from (cells[index].source for index in range(len(above), len(cells)))


def _without_repetition(text: str, rest: str) -> str:
    """Cuts the text's end where the rest of the line begins with it."""
    said, there = lexemes(text), lexemes(rest[:MAX_COMPARED_CHARS])
    for length in range(min(len(said), len(there)), 0, -1):
        tail, head = said[-length:], there[:length]
        if [one.key for one in tail] != [one.key for one in head]:
            continue
        # A single letter is chance; a single bracket is not.
        if length == 1 and is_word(head[0].key[0]) and len(head[0].key) < 3:
            continue
        if _balances(text[: tail[0].start], head[0].key[0]):
            return text[: tail[0].start].rstrip(" \t") if tail[0].start else ""
    return text


def _balances(kept: str, sign: str) -> bool:
    """Whether a closer at the end is one too many: `foo()` before `)` keeps its own."""
    if sign not in CLOSERS:
        return True
    return kept.count(OPENERS[CLOSERS.index(sign)]) <= kept.count(sign)


def _restates(text: str, rest: str) -> bool:
    """Whether all that the text says is what the rest of the line ends with, but for its last closers."""
    said = [lexeme.key for lexeme in lexemes(text)]
    if len(said) < 2:
        return False
    there = [lexeme.key for lexeme in lexemes(rest[-MAX_COMPARED_CHARS:])]
    while there and len(there) >= len(said):
        if there[-len(said) :] == said:
            return True
        if there[-1][0] not in CLOSERS + '":,':
            return False
        there.pop()
    return False


def _parts(text: str) -> Iterator[str]:
    """Beginnings of a text that may fit where all of it does not, the longest first."""
    while "\n" in text.rstrip():
        text = text.rstrip().rpartition("\n")[0]
        yield text
    depth, ends = 0, []
    for index, char, inside in scan(text):
        if inside:
            if inside == "#" and char == "#":
                ends.append(index)
        elif char in OPENERS:
            depth += 1
        elif char in CLOSERS:
            depth -= 1
        elif char == ":" and depth == 0:
            ends.append(index)
    yield from (text[:end].rstrip() for end in reversed(ends))
