"""When to stop, what to trim, what to drop: pure functions of the text so far and the cell around it.

A completion is as short as it is useful: the rest of a line while typing in it, a block where one was opened
or asked for. Each token that is not decoded is time saved, so a rule that can end a completion says so at
once (`complete`) instead of trimming afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from jupyter_sc2.completion import CompletionRequest
from jupyter_sc2.prompt.brackets import CLOSING, open_at_end, scan

Scope = Literal["line", "block"]

CLOSERS = ")]}"
OPENERS = "([{"
QUOTES = "'\""
# Lines that go on with the block above them although they stand at its opener's indentation.
CONTINUATIONS = ("else", "elif", "except", "finally", "case")
# One line this often is a loop of the model's, not code; shorter lines ("else:", "])") do come again.
REPEATS = 3
LONG_ENOUGH = 6
# What a script, a page or a chat puts where a cell ends.
CELL_MARK = re.compile(
    r"^(?:# ?%%|# ?In ?\[|In ?\[[\d ]*\]:|Out\[\d+\]:|>>> |```|<jupyter_)", re.MULTILINE
)
# An operator, a comma that opens no tuple, or a word at a line's end that asks for more.
HALF = re.compile(
    r"(?:[([{=+\-*/%|&^~<>@.\\]|\b(?:and|or|not|in|is|as|import|from|lambda|if|else))\s*$"
)
EMPTY_LINES = re.compile(r"(?:[ \t]*\n)+([ \t]*)(?=\S)")
CIRCLE = re.compile(r"(.{4,40}?)\1{3}")


def hopeless(request: CompletionRequest, *, prose: bool = False) -> str | None:
    """Why it is of no use to ask the model, or None. An invoked request is always tried.

    `prose` says that Markdown and raw cells are to be completed as well.
    """
    if request.trigger == "invoke":
        return None
    if not prose and request.cell_type != "code":
        return "disabled"
    if not request.text.strip() and not request.notebook.above(request.cell_id):
        return "nothing_to_add"
    if is_word(request.prefix[-1:]) and is_word(
        request.suffix[:1]
    ):  # inside a word: the user edits, not writes
        return "nothing_to_add"
    return None


def scope(request: CompletionRequest) -> Scope:
    """How far a completion may go: to the end of the line, or of the block that is being opened."""
    if _rest_of_line(request.suffix).strip(" \t" + CLOSERS + QUOTES + ":,"):
        return "line"
    if request.trigger == "invoke":
        return "block"
    line = _last_line(request.prefix)
    opener = line if line.strip() else _line_above(request.prefix)
    return "block" if opener.rstrip().endswith(":") or opener.lstrip().startswith("#") else "line"


def opens(request: CompletionRequest) -> bool:
    """Whether what stands before the cursor asks for more: it opens a block or a bracket, or is a comment."""
    return scope(request) == "block" or _last_line(request.prefix).rstrip()[-1:] in tuple(OPENERS)


def shape(raw: str, request: CompletionRequest, scope: Scope, *, final: bool) -> tuple[str, bool]:
    """What may be shown of `raw`, the decoded text so far, and whether more of it would change nothing.

    `final` says that no more comes.
    """
    text = without_doubled_blanks(raw.replace("\r\n", "\n"), request)
    cut = len(text)
    for rule in (
        _end_of_scope,
        _end_of_cell,
        _only_comments,
        _closed_already,
        _closes_nothing,
        _repeats_suffix,
        _repeats_itself,
    ):
        end = rule(text, request, scope, final)
        if end is not None:
            cut = min(cut, end)
    complete = cut < len(text)
    shown = text[:cut]
    if complete or final:
        shown = _without_suffix_overlap(shown, request)
        shown = _without_half_statement(shown, request)
    shown = shown.rstrip()
    if not shown.strip() or any(rule(shown, request) for rule in REPETITIONS):
        shown = ""
    return shown, complete


# Rules: each gives the index at which the text ends, or None if it has nothing to say.


def _end_of_scope(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    line = _last_line(request.prefix)
    if scope == "line":
        if line.strip():
            # The statement is finished already: the next one is not asked for.
            return None if (end := text.find("\n")) < 0 else end
        start = len(text) - len(text.lstrip("\n"))
        return None if (end := text.find("\n", start)) < 0 else end
    return _end_of_block(text, request, final)


def _end_of_block(text: str, request: CompletionRequest, final: bool) -> int | None:
    """A block ends where the indentation falls back, at top level also with a blank line."""
    line = _last_line(request.prefix)
    opened = line.rstrip().endswith(":")
    base = _indent(line)
    nested = opened or base > 0
    depth = _opened(line)  # lines inside brackets have no indentation that counts
    written = bool(line.strip())
    for start, content in _lines(text):
        first = start == 0
        if not first and depth <= 0:
            ended = final or start + len(content) < len(text)
            if not content.strip():
                if written and not nested and ended:
                    return start - 1
            else:
                goes_on = content.strip()[0] in CLOSERS or _continues(content.strip(), ended)
                below = _indent(content) < base or (opened and _indent(content) <= base)
                if written and below and not (goes_on and _indent(content) == base):
                    return start - 1
        written = written or bool(content.strip())
        depth += _opened(content)
    return None


def _continues(line: str, ended: bool) -> bool:
    """Whether a line at the opener's indentation belongs to its block, as `else:` does; "el" may still do."""
    word = line.split(" ")[0].rstrip(":")
    return word in CONTINUATIONS or (
        not ended and any(name.startswith(line) for name in CONTINUATIONS)
    )


def _end_of_cell(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends where a script marks the next cell, a page its output, or an answer its end."""
    found = CELL_MARK.search(text)
    if found is None or (found.start() == 0 and _last_line(request.prefix).strip()):
        return None
    return max(0, found.start() - 1)


def _only_comments(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """A single line that nobody has begun is of use as code, not as a remark on it."""
    return 0 if scope == "line" and is_comment(text, request) else None


def _closed_already(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """The bracket or quote that an editor has put behind the cursor is not written again."""
    following = _rest_of_line(request.suffix).lstrip(" \t")[:1]
    if following not in (*CLOSERS, *QUOTES):
        return None
    quote = _open_quote(_last_line(request.prefix))
    depth = 0
    escaped = False
    for index, char in enumerate(text):
        if quote:
            if char == quote and not escaped:
                if quote == following and depth == 0:
                    return index
                quote = ""
            escaped = char == "\\" and not escaped
        elif char in QUOTES:
            quote = char
        elif char in OPENERS:
            depth += 1
        elif char in CLOSERS:
            if depth == 0 and char == following:
                return index
            depth -= 1
    return None


def _closes_nothing(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before a bracket that closes none, neither of the text's own nor of the cell's above."""
    if request.language != "python" or _other_language(request):
        return None
    opened, quote = open_at_end(request.prefix)
    for index, char, inside in scan(text, quote):
        if inside:
            continue
        if char in OPENERS:
            opened.append(char)
        elif char in CLOSERS and (not opened or CLOSING[opened.pop()] != char):
            return index
    return None


def _repeats_suffix(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before a line that stands below the cursor already."""
    below = _line_below(request)
    if len(below) < 4:
        return None
    for start, content in _lines(text):
        done = final or start + len(content) < len(text)
        if start > 0 and done and content.strip() == below:
            return start - 1
    return None


def _repeats_itself(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before an import that the cell has, before a line that goes in circles, and a loop of lines after
    its first round."""
    imports = {line for line in request.prefix.splitlines() if _is_import(line)}
    starts: dict[str, list[int]] = {}
    for start, content in _lines(text):
        line = content.strip()
        whole = start > 0 or not _last_line(request.prefix).strip()
        if line in imports and whole and (final or start + len(content) < len(text)):
            return max(0, start - 1)
        if _is_import(line):
            imports.add(line)
        if (circle := CIRCLE.search(content)) and re.search(r"\w", circle[1]):
            return max(0, start - 1)
        if len(line) >= LONG_ENOUGH:
            seen = starts.setdefault(line, [])
            seen.append(start)
            if len(seen) == REPEATS:
                return seen[1] - 1
    return None


# Trims


def without_doubled_blanks(text: str, request: CompletionRequest) -> str:
    """What the user has typed is not given once more: a blank, an indentation, a line that is empty so far."""
    line = _last_line(request.prefix)
    if not line.strip() and (empty := EMPTY_LINES.match(text)) and empty[1] == line:
        return text[empty.end() :]
    return text.lstrip(" \t") if request.prefix.endswith((" ", "\t")) else text


def _without_suffix_overlap(text: str, request: CompletionRequest) -> str:
    """Cuts the text's end where the rest of the cursor's line begins with it."""
    rest = _rest_of_line(request.suffix).strip()
    if rest and "\n" not in text.strip("\n"):
        for length in range(min(len(rest), len(text)), 0, -1):
            overlap = rest[:length]
            # A single letter is chance; a single bracket is not.
            if (
                text.endswith(overlap)
                and (length > 2 or not is_word(overlap[0]))
                and _balances(text, overlap)
            ):
                return text[: len(text) - length]
    return text


def _balances(text: str, overlap: str) -> bool:
    """Whether a closer at the end is one too many: `foo()` before `)` keeps its own."""
    if overlap[0] not in CLOSERS:
        return True
    kept = text[: len(text) - len(overlap)]
    opener = OPENERS[CLOSERS.index(overlap[0])]
    return kept.count(opener) <= kept.count(overlap[0])


def _without_half_statement(text: str, request: CompletionRequest) -> str:
    """Cuts the last of several lines where it is only a beginning: of a block, a call, an operation."""
    closed = _rest_of_line(request.suffix).strip()[:1] in tuple(CLOSERS)
    open_before = len(open_at_end(request.prefix)[0])
    while "\n" in text.rstrip():
        text = text.rstrip()
        start = text.rindex("\n")
        line = text[start + 1 :]
        below = request.suffix.lstrip("\n").split("\n")[0]
        opens_bracket = len(open_at_end(request.prefix + text)[0]) > open_before and not closed
        opens_block = line.endswith(":") and not opens_bracket
        if opens_block and below.strip() and _indent(below) > _indent(line):
            break  # what follows the cursor is its body
        if not (opens_block or opens_bracket or HALF.search(line) or line.lstrip()[:1] == "@"):
            break
        text = text[:start]
    return text


def _rewrites_line_below(text: str, request: CompletionRequest) -> bool:
    """Whether the cursor's line would come to be what stands in the next one already."""
    line = (_last_line(request.prefix) + text.split("\n")[0]).strip()
    rest = _rest_of_line(request.suffix).strip()
    return (
        len(line) > 3 and not rest and "\n" not in text.strip("\n") and line == _line_below(request)
    )


def _writes_next_cell(text: str, request: CompletionRequest) -> bool:
    """Whether it is what the next cell begins with; only at the end of a cell, on a line that is not begun yet.

    Who has begun such a line wants it here, too, as an import.
    """
    written = text.strip()
    begun = _last_line(request.prefix).strip()
    if begun or request.suffix.strip() or len(written) < LONG_ENOUGH:
        return False
    following = _next_cell(request)
    return following == written or following.startswith(f"{written}\n")


def _rewrites_line_above(text: str, request: CompletionRequest) -> bool:
    line = (_last_line(request.prefix) + text.split("\n")[0]).strip()
    return (
        len(line) > 3
        and "\n" not in text.strip("\n")
        and line == _line_above(request.prefix).strip()
    )


REPETITIONS = (_rewrites_line_above, _rewrites_line_below, _writes_next_cell)


# Small questions


def is_comment(text: str, request: CompletionRequest) -> bool:
    """Whether the text begins with a comment, on a line of Python that has nothing yet."""
    begun = _last_line(request.prefix).strip()
    python = request.language == "python" and not _other_language(request)
    return python and not begun and text.lstrip().startswith("#")


def may_be_there(text: str, request: CompletionRequest) -> bool:
    """Whether the cursor's line may come to be the one above or below: not to be shown before it is another."""
    line = (_last_line(request.prefix) + text).strip()
    there = (_line_above(request.prefix).strip(), _line_below(request))
    return len(line) > 3 and "\n" not in line and any(one.startswith(line) for one in there)


def _line_below(request: CompletionRequest) -> str:
    """The first line that is not blank below the cursor's."""
    lines = request.suffix.splitlines()[1:]
    return next((line.strip() for line in lines if line.strip()), "")


def _next_cell(request: CompletionRequest) -> str:
    cells = request.notebook.cells
    ids = [cell.id for cell in cells]
    below = cells[ids.index(request.cell_id) + 1 :] if request.cell_id in ids else ()
    return next((cell.source.strip() for cell in below if cell.cell_type == "code"), "")


def _other_language(request: CompletionRequest) -> bool:
    """Whether the cell or the line is none of Python: `%%bash`, `!ls`."""
    line = _last_line(request.prefix).lstrip()
    return request.text.lstrip().startswith("%%") or line.startswith(("!", "%"))


def is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _is_import(line: str) -> bool:
    return line.startswith(("import ", "from "))


def _rest_of_line(suffix: str) -> str:
    return suffix.split("\n", 1)[0]


def _last_line(prefix: str) -> str:
    return prefix.rsplit("\n", 1)[-1]


def _line_above(prefix: str) -> str:
    """The last line that is not blank above the cursor's."""
    lines = prefix.split("\n")[:-1]
    return next((line for line in reversed(lines) if line.strip()), "")


def _indent(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip(" "))


def _opened(line: str) -> int:
    """How many more brackets the line opens than it closes."""
    return sum(line.count(sign) for sign in OPENERS) - sum(line.count(sign) for sign in CLOSERS)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with the index at which it starts, without its line end."""
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _open_quote(line: str) -> str:
    """The quote that the cursor stands in, judged from its line alone, or nothing."""
    quote, escaped = "", False
    for char in line:
        if quote:
            if char == quote and not escaped:
                quote = ""
            escaped = char == "\\" and not escaped
        elif char == "#":
            return ""
        elif char in QUOTES:
            quote = char
    return quote
