"""When to stop, what to trim, what to drop: pure functions of the text so far and the cell around it.

A completion is as short as it is useful: the rest of a line while the user types in it, a block where one was opened
or requested. Each token that is not decoded saves time, so a rule that can end a completion says so at once
(`complete`) instead of trimming it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from jupyter_sc2.pipeline import fitting, syntax_rules
from jupyter_sc2.pipeline.fitting import (
    CLOSERS,
    OPENERS,
    alike,
    has_code_behind,
    inside_word,
    lexemes,
    rest_of_line,
)
from jupyter_sc2.runtime.characters import JOINERS, first_unseen
from jupyter_sc2.source.brackets import open_at_end
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import CompletionRequest

Scope = Literal["line", "block"]

# Lines that continue the block above them although they have its opener's indentation.
CONTINUATIONS = ("else", "elif", "except", "finally", "case")
# A line so often is a loop of the model and not code; shorter lines ("else:", "])") do come again.
MAX_LINE_REPEATS = 3
MIN_REPEATED_LINE_CHARS = 6
# The same for a period of so many words and signs, wherever lines end; numbers and signs do come again in tables.
MAX_LEXEMES = 12
MIN_PERIODS = 4
MIN_PERIODS_OF_SIGNS = 10
# What a script, a page or a chat puts where a cell ends.
CELL_MARK = re.compile(
    r"^(?:# ?%%|# ?In ?\[|In ?\[[\d ]*\]:|Out\[\d+\]:|>>> |```|<jupyter_)", re.MULTILINE
)
# An operator, a comma that does not make a tuple, or a word at the end of a line that needs an operand.
UNFINISHED = re.compile(
    r"(?:[([{=+\-*/%|&^~<>@.\\]|\b(?:and|or|not|in|is|as|import|from|lambda|if|else))\s*$"
)
# Of a line that assigns a variable to itself.
MAX_ASSIGNMENT_CHARS = 200
# More blanks than these are not an indentation.
MAX_INDENT_CHARS = 400
# Of the next cell; a completion is shorter.
MAX_NEXT_CELL_CHARS = 4_000
OWN_MAGIC = re.compile(r"\s*%sc2\s")
EMPTY_LINES = re.compile(r"(?:[ \t]*\n)+([ \t]*)(?=\S)")
REPEAT = re.compile(r"(.{4,40}?)\1{3}")


def skip_reason(request: CompletionRequest, *, prose: bool = False) -> str | None:
    """The reason why the model need not be asked, or None. An invoked request is always tried.

    `prose` says that Markdown and raw cells are to be completed as well.
    """
    if request.trigger == "invoke":
        return None
    if not prose and request.cell_type != "code":
        return "disabled"
    if not request.text.strip() and not request.notebook.above(request.cell_id):
        return "nothing_to_add"
    if inside_word(request):  # the user is editing, not writing
        return "nothing_to_add"
    if OWN_MAGIC.match(_last_line(request.prefix)):  # Tab knows its arguments, and no model does
        return "nothing_to_add"
    return None


def scope(request: CompletionRequest) -> Scope:
    """How far a completion may go: to the end of the line, or of the block that is being opened."""
    if has_code_behind(request):
        return "line"
    if request.trigger == "invoke":
        return "block"
    if not _is_python(request):
        return "block" if syntax_rules.opens_block(request) else "line"
    line = _last_line(request.prefix)
    opener = line if line.strip() else _line_above(request.prefix)
    return "block" if opener.rstrip().endswith(":") or opener.lstrip().startswith("#") else "line"


def opens(request: CompletionRequest) -> bool:
    """Whether the text before the cursor needs more: it opens a block or a bracket, or is a comment."""
    return scope(request) == "block" or _last_line(request.prefix).rstrip()[-1:] in tuple(OPENERS)


def trim(raw: str, request: CompletionRequest, scope: Scope, *, final: bool) -> tuple[str, bool]:
    """What may be shown of `raw`, the decoded text so far, and whether more of it would not change that.

    `final` says that there is no more.
    """
    shown, complete = _trimmed(raw, request, scope, final=final)
    return "" if _assigns_to_itself(shown, request) else shown, complete


def _trimmed(
    raw: str, request: CompletionRequest, scope: Scope, *, final: bool
) -> tuple[str, bool]:
    if not final:  # what comes next tells what these are part of
        raw = raw.rstrip("\r" + JOINERS)
    text = strip_typed_whitespace(raw.replace("\r\n", "\n"), request)
    cut = len(text)
    for rule in (
        _end_of_what_is_seen,
        _end_of_scope,
        _end_of_cell,
        _only_comments,
        _closes_twice,
        _repeats_suffix,
        _repeats_itself,
    ):
        end = rule(text, request, scope, final)
        if end is not None:
            cut = min(cut, end)
    complete = cut < len(text)
    shown = text[:cut]
    if complete or final:
        shown = _without_half_statement(shown, request)
        shown = fitted(_without_backslash(shown, request), request)
    shown = shown.rstrip()
    if not shown.strip() or any(rule(shown, request) for rule in REPETITIONS):
        shown = ""
    return shown, complete


def stands(part: str, request: CompletionRequest, within: Scope | None = None) -> bool:
    """Whether a part of a suggestion could be shown first: it fits, is finished, and repeats no neighbour."""
    return _trimmed(part, request, within or scope(request), final=True)[0] == part


def fitted(text: str, request: CompletionRequest) -> str:
    """The part of a whole text that fits what stands behind the cursor."""
    return fitting.fitted(text, request, python=_is_python(request))


def finished(text: str, request: CompletionRequest) -> str:
    """A text that was cut off at the limit of its tokens, as a whole."""
    return fitting.finished(text, request) if _is_python(request) else text


# Rules: each gives the index at which the text ends, or None if it has nothing to say.


def _end_of_what_is_seen(
    text: str, request: CompletionRequest, scope: Scope, final: bool
) -> int | None:
    """Controls, marks of direction and what is invisible are never inserted, nor is what comes after them."""
    return first_unseen(text)


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
    if not _is_python(request):
        return syntax_rules.end_of_block(text, request, final=final)
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
    if (
        syntax_rules.is_prose(request)
        or found is None
        or (found.start() == 0 and _last_line(request.prefix).strip())
    ):
        return None
    return max(0, found.start() - 1)


def _only_comments(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """A single line that nobody has begun is of use as code, not as a remark on it."""
    return 0 if scope == "line" and is_comment(text, request) else None


def _closes_twice(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before a bracket or quote that is closed behind the cursor, or that closes nothing."""
    if not _is_python(request) and (end := syntax_rules.closes_twice(text, request)) is not None:
        return end
    return fitting.closes_twice(text, request, python=_is_python(request))


def _repeats_suffix(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before a line that stands below the cursor already."""
    below = _line_below(request)
    if len(below) < 4:
        return None
    below = alike(below)
    for start, content in _lines(text):
        done = final or start + len(content) < len(text)
        if start > 0 and done and alike(content) == below:
            return start - 1
    return None


def _repeats_itself(text: str, request: CompletionRequest, scope: Scope, final: bool) -> int | None:
    """Ends before an import that the cell has, before a line that goes in circles, and a loop of lines after
    its first round."""
    imports = set(_imports_in(request.prefix))
    starts: dict[str, list[int]] = {}
    for start, content in _lines(text):
        line = content.strip()
        whole = start > 0 or not _last_line(request.prefix).strip()
        if (
            _is_import(line)
            and alike(line) in imports
            and whole
            and (final or start + len(content) < len(text))
        ):
            return max(0, start - 1)
        if _is_import(line):
            imports.add(alike(line))
        if (circle := REPEAT.search(content)) and re.search(r"\w", circle[1]):
            return max(0, start - 1)
        if len(line) >= MIN_REPEATED_LINE_CHARS:
            seen = starts.setdefault(line, [])
            seen.append(start)
            if len(seen) == MAX_LINE_REPEATS:
                return seen[1] - 1
    if (at := _repeat(text)) is not None:
        return max(0, text.rfind("\n", 0, at))
    return None


def _repeat(text: str) -> int | None:
    """Where a row of up to twelve words and signs begins that comes again and again; None if none does."""
    said = lexemes(text)
    keys = [lexeme.key for lexeme in said]
    for period in range(1, min(MAX_LEXEMES, len(keys) // MIN_PERIODS) + 1):
        same = 0
        for index in range(period, len(keys)):
            same = same + 1 if keys[index] == keys[index - period] else 0
            rounds = same // period + 1
            if rounds < MIN_PERIODS:
                continue
            first = index - same - period + 1
            words = any(key[0].isalpha() for key in keys[first : first + period])
            if words or rounds >= MIN_PERIODS_OF_SIGNS:
                return said[first].start
    return None


# Trims


def strip_typed_whitespace(text: str, request: CompletionRequest) -> str:
    """What the user has typed is not given once more: a blank, an indentation, a line that is empty so far."""
    line = _last_line(request.prefix)
    if not line.strip() and (empty := EMPTY_LINES.match(text)) and empty[1] == line:
        return text[empty.end() :]
    return text.lstrip(" \t") if request.prefix.endswith((" ", "\t")) else text


def _without_half_statement(text: str, request: CompletionRequest) -> str:
    """Cuts the last of several lines where it is only a beginning: of a block, a call, an operation."""
    if not _is_python(request):
        return syntax_rules.without_half_statement(text, request)
    closed = rest_of_line(request).strip()[:1] in tuple(CLOSERS)
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
        if not (
            opens_block or opens_bracket or UNFINISHED.search(line) or line.lstrip()[:1] == "@"
        ):
            break
        text = text[:start]
    return text


def _without_backslash(text: str, request: CompletionRequest) -> str:
    """Cuts a backslash that promises another line where none comes."""
    kept = text.rstrip()
    if not kept.endswith("\\") or open_at_end(request.prefix + kept[:-1])[1]:
        return text
    return kept[:-1]


def _rewrites_lines_below(text: str, request: CompletionRequest) -> bool:
    """Whether the cursor's line, or several, would come to be what stands in the next ones already."""
    lines = (_last_line(request.prefix) + text).strip().split("\n")
    if rest_of_line(request).strip() or len(lines[0].strip()) <= 3:
        return False
    below = [line for line in request.suffix.splitlines()[1:] if line.strip()][: len(lines)]
    return alike("\n".join(lines)) == alike("\n".join(below))


def _writes_next_cell(text: str, request: CompletionRequest) -> bool:
    """Whether it is what the next cell begins with; only at the end of a cell, on a line that is not begun yet.

    Who has begun such a line wants it here, too, as an import.
    """
    written = text.strip()
    begun = _last_line(request.prefix).strip()
    if begun or request.suffix.strip() or len(written) < MIN_REPEATED_LINE_CHARS:
        return False
    lines = _next_cell(request).split("\n", written.count("\n") + 1)
    return alike("\n".join(lines[: written.count("\n") + 1])) == alike(written)


def _rewrites_line_above(text: str, request: CompletionRequest) -> bool:
    line = (_last_line(request.prefix) + text.split("\n")[0]).strip()
    return (
        len(line) > 3
        and "\n" not in text.strip("\n")
        and alike(line) == alike(_line_above(request.prefix))
    )


def _assigns_to_itself(text: str, request: CompletionRequest) -> bool:
    """Whether all that the cursor's line would do is to give a variable the value that it has."""
    sides = _assignment(text, request)
    return sides is not None and alike(sides[0]) == alike(sides[1])


def _assignment(text: str, request: CompletionRequest) -> tuple[str, str] | None:
    """What is on both sides of the assignment that the cursor's line would be; None if it is no such statement."""
    line = _last_line(request.prefix) + text
    if "\n" in text or len(line) > MAX_ASSIGNMENT_CHARS:
        return None
    target, sign, value = line.partition("=" if "=" in line else "<-")
    value = value.rstrip(" \t;")
    # In a bracket it gives an argument, as `data=data`.
    if not (sign and value) or rest_of_line(request).strip() or open_at_end(request.prefix)[0]:
        return None
    return target, value


REPETITIONS = (_rewrites_line_above, _rewrites_lines_below, _writes_next_cell)


# Small questions


def is_comment(text: str, request: CompletionRequest) -> bool:
    """Whether the text begins with a comment, on a line of Python that has nothing yet."""
    begun = _last_line(request.prefix).strip()
    return _is_python(request) and not begun and text.lstrip().startswith("#")


def may_be_dropped(text: str, request: CompletionRequest) -> bool:
    """Whether the cursor's line may come to be one that is not worth showing: the one above or below, or `x = x`."""
    sides = _assignment(text, request)
    if sides is not None and alike(sides[0]).startswith(alike(sides[1])):
        return True
    line = (_last_line(request.prefix) + text).strip()
    there = (_line_above(request.prefix), _line_below(request))
    begun = alike(line)
    return len(line) > 3 and "\n" not in line and any(alike(o).startswith(begun) for o in there)


def _line_below(request: CompletionRequest) -> str:
    """The first line that is not blank below the cursor's."""
    return request.suffix.partition("\n")[2].lstrip().partition("\n")[0].rstrip()


def _next_cell(request: CompletionRequest) -> str:
    below = request.notebook.code_below(request.cell_id)
    return "" if below is None else below.source[:MAX_NEXT_CELL_CHARS].strip()


def _is_python(request: CompletionRequest) -> bool:
    return language_at(request) == "python"


@lru_cache(maxsize=4)  # the same for each token
def _imports_in(prefix: str) -> frozenset[str]:
    return frozenset(alike(line) for line in prefix.splitlines() if _is_import(line))


def _is_import(line: str) -> bool:
    return line.startswith(("import ", "from "))


def _last_line(prefix: str) -> str:
    return prefix.rsplit("\n", 1)[-1]


def _line_above(prefix: str) -> str:
    """The last line that is not blank above the cursor's, without blanks at its end."""
    return _last_line(prefix.rpartition("\n")[0].rstrip())


def _indent(line: str) -> int:
    blanks = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blanks[:MAX_INDENT_CHARS].expandtabs(4))


def _opened(line: str) -> int:
    """How many more brackets the line opens than it closes."""
    return sum(line.count(sign) for sign in OPENERS) - sum(line.count(sign) for sign in CLOSERS)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with the index at which it starts, without its line end."""
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1
