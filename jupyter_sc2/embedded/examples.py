"""From a document to what the model is trained on: a cursor somewhere, in the layout that inference uses.

Cuts fall where people pause (after an indentation, a bracket, a dot, an equals sign, inside a word), because
uniformly random characters hardly ever do. Suffix first, what stands before the cut and what belongs there are one
text: the model goes on writing as it learned to, and the tokens that a cursor cuts are spelled again by it (see
`ModelCard.heals`). Prefix first they are encoded apart, as they have to be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from jupyter_sc2.embedded.corpus import Document
from jupyter_sc2.embedded.state import guess_state
from jupyter_sc2.prompt.layout import Mode, Segment, Special, arrange, cell_text
from jupyter_sc2.prompt.namespace import describe

# (weight, where): a cut is where a match ends.
PAUSES: tuple[tuple[float, re.Pattern[str]], ...] = (
    (4, re.compile(r"^[ ]*(?=\S)", re.MULTILINE)),
    (3, re.compile(r"[(\[{](?=[^\s)\]}])")),
    (3, re.compile(r"(?<=[\w)\]])\.(?=[A-Za-z_])")),
    (3, re.compile(r"(?<![=!<>])=(?!=) ?(?=\S)")),
    (3, re.compile(r"\b(?:import|from|as|in|return|for|if|with|def|not|and|or) (?=\S)")),
    *(
        (1.5, re.compile(rf"\b[A-Za-z_]\w{{{letters}}}(?=\w)"))
        for letters in ("0", "1", "2", "3", "4,7")
    ),
    (1.5, re.compile(r", (?=\S)")),
    (1, re.compile(r"[\"'](?=\w)")),
    (1, re.compile(r"(?<=\S) (?=\S)")),
)
OPENED = re.compile(r"[\"'](?=(\w+)[\"'])")
CLOSERS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}

MODES: tuple[tuple[Mode, float], ...] = (("left-to-right", 0.22), ("spm", 0.70), ("psm", 0.08))
EMPTY_SHARE = 0.03  # more of it taught a first model to say nothing at line ends
LINE_SHARE = 0.75
FIRST_CELL_SHARE = 0.3
MARKDOWN_LEFT_OUT = 0.6  # what a small model has to learn is code
STATE_SHARE = 0.35
TOLD_SHARE = 0.4  # of the cuts below a state, those before a word that it tells
# In characters. Short examples have more cursors per token; a trunk as long as a prompt's lets the model learn from
# what is far above, of which one trained with 1,000 at most made less than SmolLM2 does (docs/measured.md).
MAX_PREFIX = 500
MAX_SUFFIX = 300
MAX_TRUNK = 3_000


@dataclass(frozen=True)
class Cut:
    """A cell, split at the cursor and at the end of what is to be written."""

    prefix: str
    middle: str
    suffix: str


def choose_cut(cell: str, rng: Random, state: str = "") -> Cut:
    """Splits a cell where somebody might wait for a completion; `prefix + middle + suffix` is the cell.

    What the comment `state` tells is learned where it is needed: often the cut is before a column or key of it.
    """
    start = _pause(cell, rng)
    told = _told(cell, state)
    if told and rng.random() < TOLD_SHARE:
        start = rng.choice(told)
    if _in_comment(cell, start):  # most of those are anybody's guess
        start = _pause(cell, rng)
    kind = rng.random()
    if kind < EMPTY_SHARE:
        start = end = _line_end(cell, start)
    else:
        end = _line_end(cell, start)
        closer = CLOSERS.get(cell[start - 1 : start])
        # Editors close brackets at once, so that half of the time the closer already stands after the cursor.
        if closer and rng.random() < 0.5:
            end = _closed(cell, start, end, closer)
        elif kind > LINE_SHARE:
            for _ in range(rng.randint(1, 5)):
                end = _line_end(cell, min(end + 1, len(cell)))
    return Cut(cell[:start], cell[start:end], cell[end:])


def _pause(cell: str, rng: Random) -> int:
    kinds = list(PAUSES)
    while kinds:
        (choice,) = rng.choices(range(len(kinds)), [weight for weight, _ in kinds])
        places = [match.end() for match in kinds.pop(choice)[1].finditer(cell)]
        if places:
            return rng.choice(places)
    return rng.randrange(len(cell) + 1)


def _told(cell: str, state: str) -> list[int]:
    """Where the strings of the cell begin that the comment names too."""
    words = set(re.split(r"[\s,;']+", state))
    return [match.end() for match in OPENED.finditer(cell) if match[1] in words]


def _in_comment(cell: str, position: int) -> bool:
    line = cell[cell.rfind("\n", 0, position) + 1 : _line_end(cell, position)]
    return line.lstrip().startswith("#")


def _line_end(cell: str, start: int) -> int:
    end = cell.find("\n", start)
    return len(cell) if end < 0 else end


def _closed(cell: str, start: int, end: int, closer: str) -> int:
    """Where the bracket or quote that was opened at `start - 1` is closed on this line; `end` if it is not."""
    opener, depth = cell[start - 1], 1
    for position in range(start, end):
        if cell[position] == closer:
            depth -= 1
        elif cell[position] == opener:
            depth += 1
        if depth == 0:
            return position
    return end


def build_example(document: Document, rng: Random) -> list[Segment]:
    """One training sequence: the segments of a prompt for this document, then what should follow it."""
    texts = [
        "" if cell.cell_type == "markdown" and rng.random() < MARKDOWN_LEFT_OUT else cell_text(cell)
        for cell in document.cells
    ]
    code = [
        index
        for index, cell in enumerate(document.cells)
        if cell.cell_type == "code" and texts[index]
    ]
    if rng.random() < FIRST_CELL_SHARE:
        target = code[0]
    else:
        (target,) = rng.choices(code, [len(texts[index]) for index in code])
    trunk = _trunk(texts[:target], rng)
    cell = texts[target].rstrip()
    state = ""
    if rng.random() < STATE_SHARE:
        sources = [document.cells[index].source for index in code]
        above = sources[: code.index(target)]
        state = describe(guess_state(above, sources, cell, rng))
    (mode,) = rng.choices([mode for mode, _ in MODES], [share for _, share in MODES])
    cut = choose_cut(cell, rng, state)
    if mode != "left-to-right" and not cut.suffix.strip() and rng.random() < 0.7:
        mode = "left-to-right"  # which is what inference asks for at the end of a cell
    if mode == "left-to-right":
        following = [text for text in texts[target + 1 : target + 2] if text]
        return [*arrange(trunk, f"{cell}\n\n", "", mode=mode, state=state), *following]
    prefix = _last_lines(cut.prefix, MAX_PREFIX)
    suffix = _first_lines(cut.suffix, MAX_SUFFIX)
    if mode == "psm":
        prompt = arrange(trunk, prefix, suffix, mode=mode, state=state)
        return [*prompt, cut.middle, Special("file_sep")]
    whole = prefix + cut.middle
    return [*arrange(trunk, whole, suffix, mode=mode, state=state), Special("file_sep")]


def _trunk(texts: Sequence[str], rng: Random) -> list[str]:
    """The last of the cells above, as many as fit a limit that differs from example to example."""
    limit = rng.choice((0, MAX_TRUNK // 5, MAX_TRUNK // 3, MAX_TRUNK // 2, MAX_TRUNK))
    trunk: list[str] = []
    for text in reversed(texts):
        limit -= len(text)
        if limit < 0:
            break
        trunk.insert(0, text)
    return [text for text in trunk if text]


def _last_lines(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[text.find("\n", len(text) - limit) + 1 :]


def _first_lines(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: text.rfind("\n", 0, limit) + 1]
