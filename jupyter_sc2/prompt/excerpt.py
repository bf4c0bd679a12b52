"""What of a long cell a request is answered from: what stands near the cursor.

A cell may hold a line of megabytes, and somebody types in it. All work that a key causes is done on a cell of a bounded
size, so that it takes no longer there than anywhere else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from jupyter_sc2.source.brackets import open_at_end
from jupyter_sc2.source.languages import CELL_MAGIC
from jupyter_sc2.types import CompletionRequest

# Characters before the cursor and behind it: more than any prompt holds of one cell.
BEFORE = 32_768
BEHIND = 8_192
# The cut stays in one place until so many characters more are typed: with it the prompt's beginning would move.
STEP = 4_096
# Of what stands in for the part that is cut off: a magic's line, a line's indentation, open brackets.
MOST_OF_A_LINE = 200
# Characters before the cut in which brackets and quotes are looked for that are still open at it.
REACH = 1 << 18


def excerpt(request: CompletionRequest) -> CompletionRequest:
    """The request for the part of its cell that is near the cursor; the same one where the cell is not long.

    In front stand the line of a cell magic, and the brackets and the quote that are open where the cell is cut. So it
    can be told as in the whole cell what language the cursor is in, and what is open there.
    """
    text, offset = request.text, request.offset
    end = offset + BEHIND
    if offset <= BEFORE:
        return replace(request, text=text[:end]) if end < len(text) else request
    kept = BEFORE - STEP  # what stands in for the rest has room in a step
    start = -(-(offset - kept) // STEP) * STEP
    line_end = text.find("\n", start, start + STEP // 2)
    start = start if line_end < 0 else line_end + 1
    reached = text[max(0, start - REACH) : start]
    start -= (len(reached) - len(reached.rstrip("\\"))) % 2  # not in the middle of an escape
    head, body = "", 0
    magic = CELL_MAGIC.match(text, 0, start)
    if magic is not None:
        head, body = f"{magic[0].rstrip()[:MOST_OF_A_LINE]}\n", magic.end()
    head += _stand_in(text[max(body, start - REACH) : start])
    return replace(request, text=head + text[start:end], offset=len(head) + offset - start)


# The same part is cut off while somebody types at its end.
@lru_cache(maxsize=4)
def _stand_in(cut: str) -> str:
    """A short text that leaves open what `cut` does, and begins its last line as that begins."""
    opened, quote = open_at_end(cut)
    open_ = "".join(opened[-MOST_OF_A_LINE:]) + quote
    line = cut[cut.rfind("\n") + 1 :]
    if not line:
        return f"{open_}\n" if open_ else ""
    begun = line[:MOST_OF_A_LINE]
    code = begun.lstrip(" \t")
    indent = begun[: len(begun) - len(code)]
    return indent + (code[:1] if code[:1] in ("!", "%") else "") + open_
