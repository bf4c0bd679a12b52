"""The excerpt of a long cell that a request is answered from: the text near the cursor.

A cell may contain a line of megabytes, and the user may type in it. All work for a key is done on a cell of bounded
size, so it takes no longer there than anywhere else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from jupyter_sc2.source.brackets import open_at_end
from jupyter_sc2.source.languages import CELL_MAGIC
from jupyter_sc2.types import CompletionRequest

# More than any prompt contains of one cell.
MAX_PREFIX_CHARS = 32_768
MAX_SUFFIX_CHARS = 8_192
# The cut moves only after so many typed characters, because the start of the prompt moves with it.
CUT_STEP_CHARS = 4_096
# Of each part of the replacement for the removed text: a magic's line, a line's indentation, open brackets.
MAX_REPLACEMENT_CHARS = 200
# Characters before the cut that are searched for brackets and quotes still open at it.
BRACKET_SEARCH_CHARS = 1 << 18


def excerpt(request: CompletionRequest) -> CompletionRequest:
    """The request, reduced to the part of its cell that is near the cursor; unchanged if the cell is not long.

    The excerpt starts with the line of a cell magic, and with the brackets and the quote that are open where the cell
    is cut. So the language at the cursor and what is open there are the same as in the whole cell.
    """
    text, offset = request.text, request.offset
    end = offset + MAX_SUFFIX_CHARS
    if offset <= MAX_PREFIX_CHARS:
        return replace(request, text=text[:end]) if end < len(text) else request
    kept = MAX_PREFIX_CHARS - CUT_STEP_CHARS  # the replacement for the rest fits into a step
    start = -(-(offset - kept) // CUT_STEP_CHARS) * CUT_STEP_CHARS
    line_end = text.find("\n", start, start + CUT_STEP_CHARS // 2)
    start = start if line_end < 0 else line_end + 1
    reached = text[max(0, start - BRACKET_SEARCH_CHARS) : start]
    start -= (len(reached) - len(reached.rstrip("\\"))) % 2  # not in the middle of an escape
    head, body = "", 0
    magic = CELL_MAGIC.match(text, 0, start)
    if magic is not None:
        head, body = f"{magic[0].rstrip()[:MAX_REPLACEMENT_CHARS]}\n", magic.end()
    head += _replacement(text[max(body, start - BRACKET_SEARCH_CHARS) : start])
    return replace(
        request,
        text=head + text[start:end],
        offset=len(head) + offset - start,
        adds_imports=False,  # what is imported in the part that is cut off is not known
    )


# The same part is removed for many keys.
@lru_cache(maxsize=4)
def _replacement(cut: str) -> str:
    """A short text that leaves the same brackets and quote open as `cut`, and starts its last line in the same way."""
    opened, quote = open_at_end(cut)
    open_ = "".join(opened[-MAX_REPLACEMENT_CHARS:]) + quote
    line = cut[cut.rfind("\n") + 1 :]
    if not line:
        return f"{open_}\n" if open_ else ""
    begun = line[:MAX_REPLACEMENT_CHARS]
    code = begun.lstrip(" \t")
    indent = begun[: len(begun) - len(code)]
    return indent + (code[:1] if code[:1] in ("!", "%") else "") + open_
