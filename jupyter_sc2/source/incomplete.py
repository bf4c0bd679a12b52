"""Syntax trees of unfinished code: whatever is open at its end is closed first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

from jupyter_sc2.source.brackets import CLOSING, open_at_end
from jupyter_sc2.source.parsing import parse

CELL_MAGICS = re.compile(r"(?:\s*%%\w+(?!\w)[^\n]*\n)+")
# A cell with more magic lines, or a longer one, is not transformed.
MAX_MAGIC_LINES = 16
MAX_MAGIC_CHARS = 400
# Characters of a statement that are parsed, over all the endings that are tried.
MAX_PARSED_CHARS = 60_000
# Python's tokenizer accepts no more nested brackets.
MAX_NESTED_BRACKETS = 199
# What a magic or a command may be assigned to.
TARGET = re.compile(r"[\w., ]*")
TRY = re.compile(r"^([ \t]*)(?:(try)[ \t]*:|(?:except|finally)\b)", re.MULTILINE)
CONTINUATION = re.compile(r"(?:else|elif|except|finally|case)\b")
# Possible continuations of an unfinished line; the first that makes it a statement is used.
ENDINGS = (
    "",
    "_",
    " _",
    ": pass",
    " pass",
    "_: pass",
    " _: pass",
    "(): pass",
    "\n_",
    ": _",
    " else _",
    " in _: pass",
    " import _",
    "_ import _",
)


def is_magic_line(line: str) -> bool:
    """Whether IPython accepts the line and Python does not: a magic, a shell command, a help query with `?`."""
    code = line.strip()
    if code.startswith(("%", "!", "?")) or (code.endswith("?") and not set(code) & set("#'\"")):
        return True
    target, _, value = code.partition("=")
    return value.lstrip().startswith(("%", "!")) and bool(TARGET.fullmatch(target))


def parses(source: str) -> bool:
    """Whether IPython could run the source as a cell, including magics."""
    return parse(_python(source)) is not None


def complete_tree(prefix: str, text: str, suffix: str) -> tuple[ast.Module, str] | None:
    """The syntax tree of a cell with `text` at its cursor, and the source it was parsed from; None if there is none.

    If the whole cell does not parse, the user may not have finished the code below the cursor. Then the tree is of the
    code before the cursor, the text and the rest of the line, closed in any way that Python accepts. Offsets in the
    source are those in the cell, up to the end of `text`.
    """
    whole = _python(prefix + text + suffix)
    if (tree := parse(whole)) is not None:
        return tree, whole
    rest = suffix.partition("\n")[0]
    for head in dict.fromkeys((prefix + text + rest, prefix + text)):
        head = _python(head)
        start = _last_statement(head)
        if not _parses(head[:start]):
            continue
        left = MAX_PARSED_CHARS
        for closed in _closed(head):
            left -= len(closed) - start
            if left < 0:
                break
            # In a long cell, parsing the last statement alone rejects wrong endings early.
            if start and parse(closed[start:]) is None:
                continue
            if (tree := parse(closed)) is not None:
                return tree, closed
    return None


def _python(source: str) -> str:
    """The source with IPython's syntax transformed as IPython does it.

    Only the contents of lines change, not their number: a magic line becomes a call.
    """
    if not any(sign in source for sign in "%!?"):
        return source
    magics = [line for line in source.split("\n") if is_magic_line(line)]
    # IPython reads the whole cell again for each magic, and tries all prefixes of a long one.
    if not magics or len(magics) > MAX_MAGIC_LINES or max(map(len, magics)) > MAX_MAGIC_CHARS:
        return source
    from IPython.core.inputtransformer2 import TransformerManager

    found = CELL_MAGICS.match(source)
    head, body = (source[: found.end()], source[found.end() :]) if found else ("", source)
    try:
        transformed = TransformerManager().transform_cell(body)  # type: ignore[no-untyped-call]
    except (SyntaxError, RuntimeError):
        return source
    if transformed.count("\n") != body.count("\n") + (not body.endswith("\n")):
        return source
    # A cell magic is replaced by blanks, and a magic line that has grown by a short statement, to keep the offsets.
    lines = [
        new if new == old else _of_length(new, len(old))
        for old, new in zip(body.split("\n"), transformed.split("\n"), strict=False)
    ]
    return re.sub(r"[^\n]", " ", head) + "\n".join(lines)


def _last_statement(source: str) -> int:
    """The index where the last top-level statement starts; 0 if it is the first, or if that is not obvious."""
    lines = source.rstrip().split("\n")
    start = len("\n".join(lines))
    for index in range(len(lines) - 1, 0, -1):
        start -= len(lines[index])
        line = lines[index]
        begins = line[:1].isalpha() or line[:1] in ("_", "@")
        if begins and not CONTINUATION.match(line) and not lines[index - 1].endswith("\\"):
            return start if open_at_end(source[:start]) == ([], "") else 0
        start -= 1
    return 0


# The text above the cursor's statement stays the same for many keys.
@lru_cache(maxsize=8)
def _parses(source: str) -> bool:
    return not source.strip() or parse(source) is not None


def _of_length(line: str, length: int) -> str:
    """A statement of a given length, in place of the call that IPython makes of a magic."""
    indent = re.match(r"[ \t]*", line)[0]  # type: ignore[index]
    return f"{indent}0".ljust(length)[: max(length, len(indent) + 1)]


def _closed(source: str) -> Iterator[str]:
    """Yields the source with everything open at its end closed, in one way after another."""
    opened, quote = open_at_end(source)
    if len(opened) > MAX_NESTED_BRACKETS:
        return
    ends = "".join(CLOSING[sign] for sign in reversed(opened))
    handlers = "".join(f"\n{indent}finally: pass" for indent in _open_tries(source))
    indent = re.match(r"[ \t]*", source.rpartition("\n")[2])[0]  # type: ignore[index]
    if quote == "#":
        source += "\n"
    elif quote:
        yield from (f"{source}{quote}{ends}{ending}{handlers}" for ending in ("", ": pass", ": _"))
        return
    for ending in ENDINGS:
        if opened:
            yield f"{source}{ending}{ends}{handlers}"
            yield f"{source}{ending}{ends}: pass{handlers}"
        else:
            yield f"{source}{ending}{handlers}"
    if source.rstrip().endswith(":"):
        yield f"{source}\n{indent}    pass{handlers}"
    yield f"{source}\n{indent}def _(): pass{handlers}"  # a decorator
    yield f"{source}pass{handlers}"


def _open_tries(source: str) -> list[str]:
    """The indentation of each `try` without a handler, innermost first."""
    open_: list[str] = []
    for indent, begins in TRY.findall(source):
        if begins:
            open_.append(indent)
        elif indent in open_:
            del open_[open_.index(indent) :]
    return open_[::-1]
