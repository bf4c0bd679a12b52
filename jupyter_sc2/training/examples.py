"""From a document to training examples: a sequence of cells and cursors in them, laid out as for inference.

The cells above a cursor are most of a prompt and the same for all cursors below them. So an example is a tree: a trunk
of cells, read left to right, and several branches, each of which continues from the cells above its own.

Cuts fall where people pause (after an indentation, a bracket, a dot, an equals sign, inside a word), because uniformly
random positions hardly ever do. With the suffix first, prefix and middle are encoded as one text: the model continues
as it learned to, and regenerates the tokens that a cursor cuts (see `ModelCard.token_healing`). With the prefix
first they are encoded separately, as they have to be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from jupyter_sc2.introspection.rendering import describe
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.notebook import Cell
from jupyter_sc2.prompt.builder import Mode, Segment, Special, arrange, mode_for
from jupyter_sc2.prompt.cell_text import cell_text
from jupyter_sc2.source.languages import LANGUAGES
from jupyter_sc2.training.cells import below_magic
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.state import infer_state

# (weight, pattern): a cut is at the end of a match.
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

MODES: tuple[tuple[Mode, float], ...] = (("spm", 0.92), ("psm", 0.08))
EMPTY_SHARE = 0.03  # a larger share taught a first model to suggest nothing at line ends
LINE_SHARE = 0.75
FIRST_CELL_SHARE = 0.3
MARKDOWN_DROPPED_SHARE = 0.6  # a small model has to learn code
STATE_SHARE = 0.35
STATE_WORD_SHARE = 0.4  # of the cuts below a state, for those before a word of the state
BRANCH_SHARE = 2.0  # characters of the branches for each character of the trunk
MAX_BRANCHES = 12
TRUNK_CHARS = (300, 700, 1_200, 2_000)
PREFIX_CHARS = (200, 500)
SUFFIX_CHARS = (150, 300, 600)


def head(language: str) -> tuple[Segment, ...]:
    """The segments that all prompts in a language begin with: a left-to-right prompt without state and prefix, its
    last two."""
    return tuple(arrange((), "", "", mode="left-to-right", language=language)[:-2])


HEAD = head("python")


@dataclass(frozen=True)
class Cut:
    """A cell, split at the cursor and at the end of the text to generate."""

    prefix: str
    middle: str
    suffix: str


def choose_cut(cell: str, rng: Random, state: str = "", sign: str = "#") -> Cut:
    """Splits a cell where a user might wait for a completion; `prefix + middle + suffix` is the cell.

    The model learns to use the comment `state` where it is needed: often the cut is before a column or key from it.
    `sign` is what a comment starts with.
    """
    start = _pause(cell, rng)
    words = _state_words(cell, state)
    if words and rng.random() < STATE_WORD_SHARE:
        start = rng.choice(words)
    if _in_comment(cell, start, sign):  # most comments cannot be predicted
        start = _pause(cell, rng)
    kind = rng.random()
    if kind < EMPTY_SHARE:
        start = end = _line_end(cell, start)
    else:
        end = _line_end(cell, start)
        closer = CLOSERS.get(cell[start - 1 : start])
        # Editors close brackets at once, so half of the time the closer is already after the cursor.
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


def _state_words(cell: str, state: str) -> list[int]:
    """The positions of the cell's strings that the state contains too."""
    words = set(re.split(r"[\s,;']+", state))
    return [match.end() for match in OPENED.finditer(cell) if match[1] in words]


def _in_comment(cell: str, position: int, sign: str) -> bool:
    line = cell[cell.rfind("\n", 0, position) + 1 : _line_end(cell, position)]
    return line.lstrip().startswith(sign)


def _line_end(cell: str, start: int) -> int:
    end = cell.find("\n", start)
    return len(cell) if end < 0 else end


def _closed(cell: str, start: int, end: int, closer: str) -> int:
    """The position on this line where the bracket or quote opened at `start - 1` is closed; `end` if it is not."""
    opener, depth = cell[start - 1], 1
    for position in range(start, end):
        if cell[position] == closer:
            depth -= 1
        elif cell[position] == opener:
            depth += 1
        if depth == 0:
            return position
    return end


@dataclass(frozen=True)
class Branch:
    """A cursor in a cell, and its completion."""

    above: int  # the number of the trunk's texts that it sees
    given: tuple[Segment, ...]  # the segments after these texts
    whole: tuple[Segment, ...]  # the same, with the completion


@dataclass(frozen=True)
class Example:
    """Texts of cells, as in a prompt, and cursors in these cells, all of them in one language."""

    trunk: tuple[str, ...]
    branches: tuple[Branch, ...]
    head: tuple[Segment, ...] = HEAD

    def prompt(self, branch: Branch) -> list[Segment]:
        """The prompt of one branch alone, followed by its completion."""
        return [*self.head, *self.trunk[: branch.above], *branch.whole]

    def sequence(self) -> list[Segment]:
        """The prompt of the first branch with its completion; the cells alone if there is no branch."""
        return self.prompt(self.branches[0]) if self.branches else [*self.head, *self.trunk]


def build_example(document: Document, rng: Random) -> Example:
    """An example of some of the document's cells, with about `BRANCH_SHARE` times the trunk's text in its branches."""
    texts = [
        ""
        if cell.cell_type == "markdown" and rng.random() < MARKDOWN_DROPPED_SHARE
        else cell_text(cell)
        for cell in document.cells
    ]
    code = [n for n, cell in enumerate(document.cells) if cell.cell_type == "code" and texts[n]]
    first = code[0] if rng.random() < FIRST_CELL_SHARE else rng.choice(code)
    trunk: list[str] = []
    markdown: list[tuple[int, Cell]] = []  # where it is in the trunk
    places: list[Place] = []
    room = rng.choice(TRUNK_CHARS)
    for index in range(first, len(texts)):
        text = texts[index] if trunk else _first_lines(texts[index], room)
        room -= len(text)
        if trunk and room < 0:
            break
        if index in code:
            places += _places(len(trunk), index, texts[index].rstrip())
        elif text:
            markdown.append((len(trunk), document.cells[index]))
        if text:
            trunk.append(text)
    language = rng.choices(places, [len(place.cell) for place in places])[0].language
    places = [place for place in places if place.language == language]
    for at, cell in markdown:  # a comment, with this language's sign
        trunk[at] = cell_text(cell, language)
    branches: list[Branch] = []
    chars = 0
    for _ in range(MAX_BRANCHES):
        (place,) = rng.choices(places, [len(place.cell) for place in places])
        state = ""
        if language == "python" and rng.random() < STATE_SHARE:
            sources = [document.cells[n].source for n in code]
            known = infer_state(sources[: code.index(place.index)], sources, place.cell, rng)
            state = describe(known)
        branch = _branch(place, state, rng)
        if branch:
            branches.append(branch)
            chars += sum(len(segment) for segment in branch.whole if isinstance(segment, str))
        if chars >= BRANCH_SHARE * sum(map(len, trunk)):
            break
    return Example(tuple(trunk), tuple(branches), head(language))


@dataclass(frozen=True)
class Place:
    """The part of a cell that a prompt has when the cursor is in it.

    A cell with the magic of another language has two: the magic's line, and the code below it.
    """

    above: int  # the number of the trunk's texts before it
    index: int  # of the cell in the document
    cell: str
    language: str = "python"
    below: str = ""  # the rest of the cell, where no cursor is placed
    in_trunk: bool = True


def _places(above: int, index: int, cell: str) -> list[Place]:
    language, body = below_magic(cell)
    if not language or not body.strip():
        return [Place(above, index, cell)]
    magic = cell[: len(cell) - len(body)].rstrip("\n")
    return [
        Place(above, index, magic, below=f"\n{body}"),
        Place(above, index, body, language, in_trunk=False),
    ]


def _branch(place: Place, state: str, rng: Random) -> Branch | None:
    """A branch with a cursor in the cell; None if the trunk has it already: at the end of a cell, without a state."""
    _, sign = LANGUAGES.get(place.language, ("txt", "#"))
    cut = choose_cut(place.cell, rng, state, sign)
    (mode,) = rng.choices([mode for mode, _ in MODES], [share for _, share in MODES])
    suffix = _first_lines(cut.suffix + place.below, rng.choice(SUFFIX_CHARS))
    prefix = _last_lines(cut.prefix, rng.choice(PREFIX_CHARS))
    end: tuple[Segment, ...] = (Special("file_sep"),)
    if mode_for(suffix, EMBEDDED) == "left-to-right":  # as inference has it
        if place.in_trunk and not state:
            return None
        mode, prefix, suffix, end = "left-to-right", "", "", ()
        cut = Cut("", f"{place.cell}\n\n", "")

    def lay(text: str) -> tuple[Segment, ...]:
        laid = arrange((), text, suffix, mode=mode, language=place.language, state=state)
        return tuple(laid[len(HEAD) :])

    if mode == "psm":
        return Branch(place.above, lay(prefix), (*lay(prefix), cut.middle, *end))
    return Branch(place.above, lay(prefix), (*lay(prefix + cut.middle), *end))


def _last_lines(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[text.find("\n", len(text) - limit) + 1 :]


def _first_lines(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: text.rfind("\n", 0, limit) + 1]
