"""Which beginning of a suggestion is worth reading.

A right character saves a key, a wrong one costs the time to read it, and accepting costs a key. With the probability
that the text is right up to each word, a suggestion is shown to the end with the largest expected gain: to the end of a
word, an argument, a closed bracket, a line or a block. What comes after that is not lost: it is shown once the user has
accepted or typed what stands before it, as it is more probable then.

The ends of a text are compared by their gains alone, so the choice never moves back when more of the text is decoded,
or when the user types what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.pipeline.fitting import CLOSERS, OPENERS
from jupyter_sc2.source.brackets import open_at_end, scan
from jupyter_sc2.types import CompletionRequest

# A word or one other sign, with the blanks before it.
PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")
# What needs more behind it. An opener is one, as its closer is missing.
UNFINISHED = re.compile(
    r"(?:[,.=+\-*/%|&^~<>@\\]|\b(?:and|or|not|in|is|as|import|from|lambda|if|else|elif|for|while|return|yield|def|class"
    r"|with|assert|raise|del|async|await|global|nonlocal|except))$"
)
MAX_KEYWORD_CHARS = 200
# The name of a keyword argument, up to its equals sign, and the bracket or comma before it.
KEYWORD = re.compile(r"[(,]\s*[^\W\d]\w*=\Z")


def probability_at(end: int, certainties: Sequence[Certainty]) -> float:
    """That a text is right up to this index."""
    probability, begins = 1.0, 0
    for one in certainties:
        if begins >= end:
            break
        probability *= one.probability
        begins = one.end
    return probability


def ends_by_gain(
    text: str,
    certainties: Sequence[Certainty],
    threshold: float,
    request: CompletionRequest,
    *,
    final: bool,
    shown: int = 0,
) -> list[int]:
    """The indexes at which a text may end with a gain, the largest first; [] where none is worth showing.

    None is before what is `shown` already, which is not taken back.

    `threshold` is the probability, from 0 to 1, from which a long word is worth reading: a wrong character then costs
    threshold / (1 - threshold) of a key. `final` says that no more text comes; before, the last word may go on.
    """
    if threshold >= 1:
        return [shown] * bool(shown)
    cost = threshold / (1 - threshold)
    allowed = {*_ends(text, request), *([len(text)] if final and text else ())}
    gains: list[tuple[float, int]] = []
    gain, end = 0.0, 0
    for piece in PIECE.findall(text):
        first = end == 0
        end += len(piece)
        right = probability_at(end, certainties)
        keys = len(piece.lstrip()) + piece[:1].isspace()  # an editor indents
        gain += keys * (right - cost * (1 - right)) - first * right
        if gain > 0 and end in allowed:
            gains.append((gain, end))
    best = [max(end, shown) for _, end in sorted(gains, reverse=True)]
    return list(dict.fromkeys([*best, shown] if shown else best))


def _ends(text: str, request: CompletionRequest) -> Iterator[int]:
    """The ends of words and signs, before the last, where all brackets and strings of the text are closed.

    The name of a keyword argument ends with its equals sign. Below the first line only whole lines are shown.
    """
    closed = _closed(text, request)
    line_end = text.find("\n", len(text) - len(text.lstrip()))
    for piece in PIECE.finditer(text):
        end = piece.end()
        if end == len(text):
            return
        if 0 <= line_end < end and text[end] != "\n":
            continue
        decimal = (text[end - 1].isdigit() and text[end] == ".") or text[end - 1] == "."
        if not closed[end - 1] or decimal:
            continue
        if _is_keyword(text, end + 1, request):
            continue
        if _is_keyword(text, end, request) or not _is_unfinished(text[:end].rstrip(), request):
            yield end


def _is_unfinished(part: str, request: CompletionRequest) -> bool:
    """Whether more has to follow: behind an operator, or the colon of a dict, a slice or a lambda."""
    if part.endswith(":"):
        return bool(open_at_end(request.prefix + part)[0])
    return UNFINISHED.search(part) is not None


def _is_keyword(text: str, end: int, request: CompletionRequest) -> bool:
    """Whether the text up to `end` ends behind the equals sign of a keyword argument."""
    if text[end - 1 : end] != "=" or text[end : end + 1] == "=":
        return False
    written = request.prefix + text[:end]
    if not KEYWORD.search(written[-MAX_KEYWORD_CHARS:]):
        return False
    brackets, quote = open_at_end(written)
    return brackets[-1:] == ["("] and not quote


def _closed(text: str, request: CompletionRequest) -> list[bool]:
    """For each character whether the brackets and strings that the text has opened are closed behind it."""
    quote = begun = open_at_end(request.prefix)[1]
    # Below the lowest depth so far are the brackets that the user has opened.
    depth, lowest, closed = 0, 0, [False] * len(text)
    for index, char, inside in scan(text, quote):
        if not inside:
            begun = ""
        if inside == begun:  # in a string of the user's, too: it may be an f-string
            depth += (char in OPENERS) - (char in CLOSERS)
            lowest = min(lowest, depth)
        closed[index] = depth == lowest and inside == begun
    return closed
