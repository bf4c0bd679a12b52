"""From a notebook and a cursor to the ids that a model reads.

    <repo_name>notebook<file_sep>notebook.py⏎ cell⏎⏎ cell⏎⏎ …          the notebook context: the cells above
        PREFIX                                                         left to right, at the end of a cell, or
        <file_sep><fim_prefix><fim_suffix>SUFFIX<fim_middle>cell.py⏎PREFIX      inside it, suffix first (SPM)

The notebook context is outside the fill-in-the-middle block, and each of its cells is encoded on its own: while the
user types, its ids and their KV cache do not change. Inside the block the suffix comes first, so that a key only
appends; brackets that an editor has closed automatically behind the cursor are removed from it. Both forms are
StarCoder2's training format: files of a repository are joined by <file_sep> and permuted one by one, half of
them suffix first (arXiv 2402.19173, section 5.1; 2207.14255).

StarCoder2's training has a format of its own for notebooks, with a slot for a cell's output, which also takes the lines
about live variables; the notebook's cells are then inside the block:

    <jupyter_start><jupyter_code>cell<jupyter_output>its output<jupyter_text>text … <jupyter_code>PREFIX

Other models' cards say what differs: prefix first (PSM), the file name before the block, a token at the start of every
prompt. For a model that was trained on single files, the cells above are at the start of its PREFIX:

    <fim_prefix> cell⏎⏎ cell⏎⏎ … PREFIX<fim_suffix>SUFFIX<fim_middle>

The user's text is always encoded as plain text: a literal "<fim_middle>" in a cell stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Literal, TypeVar

from jupyter_sc2.models.cards import EMBEDDED, FIM_ROLES, ModelCard
from jupyter_sc2.notebook import Cell
from jupyter_sc2.prompt.cell_text import first_lines
from jupyter_sc2.prompt.sources import CELL_SOURCES, SOURCES
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.source.brackets import strip_auto_closers
from jupyter_sc2.source.languages import LANGUAGES, canonical, of_cell_magic
from jupyter_sc2.types import CompletionRequest, SpellingConstraint

Mode = Literal["left-to-right", "spm", "psm"]
Text = TypeVar("Text", bound=str)


@dataclass(frozen=True)
class Special:
    """A special token by its role; the model's card maps the role to the token."""

    role: str


Segment = str | Special  # a string is encoded on its own, as plain text


class SourceText(str):
    """A text of a prompt that knows where it comes from: the name of one of the SOURCES."""

    source: str

    def __new__(cls, text: str, source: str) -> SourceText:
        part = super().__new__(cls, text)
        part.source = source
        return part


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and what its completion has to begin with.

    `healing_suffix` is the end of the text that was cut off to reach a token boundary: the model spells it again.
    Where `names` are given, it spells one of them instead.
    """

    ids: tuple[int, ...]
    mode: Mode
    healing_suffix: bytes = b""
    names: tuple[bytes, ...] = ()

    @property
    def constraint(self) -> SpellingConstraint | None:
        if self.names:
            return SpellingConstraint(self.names, whole_names=True)
        return SpellingConstraint.for_suffix(self.healing_suffix)


@dataclass(frozen=True)
class PromptPlan:
    """A prompt before it is encoded, and which of the cells above did not fit."""

    segments: tuple[Segment, ...]
    mode: Mode
    healing_suffix: str
    excluded_sources: tuple[str, ...]


@dataclass(frozen=True)
class PromptSpan:
    """A segment as it is sent: its text, the source of that text ("layout" for the model's special tokens), its
    tokens."""

    text: str
    source: str
    tokens: int


IMPORT = re.compile(r"(?:import|from)\s+[\w.]+(?:\s|,|$)[^(\\\n]*$")
TAIL = re.compile(r"(?: ?\w+|\s+|[^\w\s]+)\Z")
LONGEST_TAIL = 24
# Limits in characters, which are cheap to count. Code has some 3 characters to a token.
CHARS_PER_TOKEN = 3
MOST_CHARS_PER_TOKEN = 8
MAX_SUFFIX = 800


def arrange(
    notebook_context: Iterable[str],
    prefix: str,
    suffix: str,
    *,
    mode: Mode,
    language: str = "python",
    card: ModelCard = EMBEDDED,
    state: str = "",
    path: str = "",
    own_language: str = "",
    file_extension: str = "",
) -> list[Segment]:
    """The parts of a prompt in their order.

    `notebook_context` are texts of cells as `cell_text` gives them, or of other files; `state` is what the kernel knows
    (see namespace.py). `path` is that of a text file. `own_language` is that of the cells above, "" where the cell is
    in the same; `file_extension` is the ending of files in a language that is not in LANGUAGES.
    """
    ending, sign = LANGUAGES.get(language, (file_extension or "txt", "#"))
    own_ending = LANGUAGES.get(own_language, (ending, ""))[0] if own_language else ending
    name = path or f"cell.{ending}"
    # A text file, and a cell in another language than its notebook, do not go on with what is above.
    is_apart = bool(path or own_language)
    first, second, middle = Special("fim_prefix"), Special("fim_suffix"), Special("fim_middle")
    bos = [Special("bos")]  # left out where the card names none, as every role is
    # Where there is no place for a file's name, a comment tells the language.
    comment = ""
    if is_apart or language != "python":
        comment = f"{sign} {name if is_apart else f'notebook.{ending}'}\n"
    if card.notebook_layout == "jupyter":
        return [*bos, *_as_notebook(notebook_context, prefix, suffix, mode, comment, state)]
    if not card.notebook_is_a_file:
        texts = [f"{sign} {text}" if _is_file(text) else text for text in notebook_context]
        body = [*texts, comment, state, prefix] if is_apart else [comment, *texts, state, prefix]
        if mode == "left-to-right":
            return [*bos, *body]
        return [*bos, first, *body, second, suffix, middle]
    head: list[Segment] = [*bos, Special("repo_name")]
    title = "files" if path else "notebook"
    if "repo_name" in card.special:
        head.append(title if card.path == "inside" else f"{title}\n")
    if not path:
        head += [Special("file_sep"), f"notebook.{own_ending}\n"]
    for text in notebook_context:
        head += [Special("file_sep"), text] if _is_file(text) else [text]
    if mode == "left-to-right":
        opened: list[Segment] = [Special("file_sep"), f"{name}\n"] if is_apart else []
        return [*head, *opened, state, prefix]
    opening: list[Segment] = [Special("file_sep")]
    block = [f"{name}\n", state, prefix]
    if card.path == "before":
        opening.append(block.pop(0))
    if mode == "spm":
        return [*head, *opening, first, second, suffix, middle, *block]
    return [*head, *opening, first, *block, second, suffix, middle]


def _is_file(text: str) -> bool:
    return getattr(text, "source", "") == "files"


def _as_notebook(
    notebook_context: Iterable[str],
    prefix: str,
    suffix: str,
    mode: Mode,
    comment: str,
    state: str,
) -> list[Segment]:
    cells: list[Segment] = [Special("jupyter_start")]
    for text in notebook_context:
        source = SOURCES[getattr(text, "source", "cells")]
        cells += [Special(source.role), text]
    if state:
        cells += [Special("jupyter_output"), state]
    cells += [Special("jupyter_code"), *([comment] if comment else ()), prefix]
    if mode == "left-to-right":
        return cells
    return [Special("fim_prefix"), *cells, Special("fim_suffix"), suffix, Special("fim_middle")]


def mode_for(suffix: str, card: ModelCard) -> Mode:
    """Left to right if only blanks and closers follow, else the card's order for filling in the middle."""
    if not suffix.strip(" \t\n)]}'\""):
        return "left-to-right"
    # With the suffix first, cells inside the prefix would be read again whenever the suffix changes.
    return "psm" if card.order == "spm" and not card.notebook_is_a_file else card.order


def split_at_boundary(prefix: str) -> tuple[str, str]:
    """Splits a prefix before the word, the blanks or the operator at its end, for token healing.

    A model trained on whole text has never seen a token end where a cursor is ("import numpy as " ends in a blank that
    belongs to " np"), so the model generates the rest again. A long rest stays in the prefix: generating it costs a
    decoding step for each of its tokens.
    """
    # In a longer text the expression would search for the end from each position.
    tail = TAIL.search(prefix[-LONGEST_TAIL - 1 :])
    if tail is None or len(tail[0]) > LONGEST_TAIL:
        return prefix, ""
    return prefix[: len(prefix) - len(tail[0])], tail[0]


class PromptBuilder:
    """Builds prompts for one model. Caches the ids of the texts it has encoded, so that only new text is encoded."""

    def __init__(
        self, card: ModelCard, encode: Callable[[str], list[int]], special_ids: Mapping[str, int]
    ) -> None:
        there = {role: name for role, name in card.special.items() if name in special_ids}
        self._card = replace(card, special=there)
        self._encode = lru_cache(maxsize=1024)(lambda text: tuple(encode(text)))
        self._special_ids = special_ids
        self._notebook_context = cache_latest(
            partial(
                _notebook_context,
                encode=self._encode,
                comment=self._card.notebook_layout != "jupyter",
            )
        )
        self.stop_ids = frozenset(special_ids[name] for name in card.stop if name in special_ids)

    def build(
        self,
        request: CompletionRequest,
        *,
        budget: int,
        state: str = "",
        excluded_sources: Collection[str] = (),
    ) -> Prompt:
        """The prompt for this request in at most `budget` tokens; `state` is what the kernel knows.

        `left_out` are sources above that are not read: "cells", "markdown", "outputs". What is too old is left
        out in whole cells and in steps (see `drop_oldest`), so that the first id changes seldom.
        """
        plan = self.arrange(request, budget=budget, state=state, excluded_sources=excluded_sources)
        ids = self.encode(plan.segments)
        return Prompt(tuple(ids[-budget:]), plan.mode, plan.healing_suffix.encode())

    def arrange(
        self,
        request: CompletionRequest,
        *,
        budget: int,
        state: str = "",
        excluded_sources: Collection[str] = (),
    ) -> PromptPlan:
        """The segments of that prompt. Where even the cursor's line is too long they may exceed the budget."""
        language, prefix, suffix = of_cell_magic(request)
        own = canonical(request.language)
        following = strip_auto_closers(request.prefix, suffix)
        mode = mode_for(following, self._card) if self._can_fill_in() else "left-to-right"
        healing_suffix = ""
        if mode == "left-to-right" or (mode == "spm" and self._card.token_healing):
            prefix, healing_suffix = split_at_boundary(prefix)
        chars = budget * CHARS_PER_TOKEN
        suffix = first_lines(following, min(MAX_SUFFIX, chars // 4))
        written, room = prefix, chars // 2
        prefix = last_part(written, room)
        if language != request.language or len(state) > chars // 4:
            state = ""
        above = request.notebook.above(request.cell_id)
        notebook_context = self._notebook_context(above, own, budget, excluded_sources)

        def lay(cells: Sequence[str]) -> list[Segment]:
            return arrange(
                cells,
                SourceText(prefix, "cell"),
                SourceText(suffix, "cell"),
                mode=mode,
                language=language,
                card=self._card,
                state=SourceText(state, "state"),
                path=request.path,
                own_language=own if cells and own != language and not request.path else "",
                file_extension=request.file_extension,
            )

        kept = self._kept(notebook_context, budget, len(self.encode(lay([]))))
        while True:
            too_old, imports = notebook_context.excluded_sources(len(kept))
            # The imports change only when another cell is dropped, and then the whole prompt changes.
            with_imports = bool(kept and imports) and len(imports) <= chars // 8
            segments = lay([SourceText(imports, "imports"), *kept] if with_imports else kept)
            plan = PromptPlan(tuple(segments), mode, healing_suffix, too_old)
            if len(self.encode(segments)) <= budget:
                return plan
            if kept:
                kept = kept[max(1, len(kept) // 4) :]
            elif state:
                state = ""
            elif len(prefix) > 32:
                room = room * 3 // 4
                prefix = last_part(written, room)
            elif suffix:
                suffix = suffix[: len(suffix) // 2]
            else:
                return plan

    def _kept(
        self, notebook_context: _NotebookContext, budget: int, taken: int
    ) -> list[SourceText]:
        """The last of the texts, where the rest of the prompt takes so many tokens of the budget."""
        # In steps: otherwise each key would move the limit, and sometimes the front of the notebook context with it.
        room = max(1, budget // 8)
        limit = budget - -(-taken // room) * room
        if sum(notebook_context.sizes) > limit or len(notebook_context.near) < len(
            notebook_context.texts
        ):
            limit -= room  # for the imports of what is left out
        kept = drop_oldest(
            notebook_context.near, max(0, limit), notebook_context.sizes, step=budget * 2 // 5
        )
        # An output is useless without its cell.
        return kept[1:] if kept and kept[0].source == "outputs" else kept

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of the segments, each encoded on its own, without roles for which the model has no token."""
        ids: list[int] = []
        for segment in segments:
            if isinstance(segment, str):
                ids.extend(self._encode(segment))
            elif segment.role in self._card.special:
                ids.append(self._special_ids[self._card.special[segment.role]])
        return ids

    def pieces(self, plan: PromptPlan) -> list[PromptSpan]:
        """The segments with what is true of them, those that are empty or unknown to the model left out."""
        found = []
        for segment in plan.segments:
            ids = self.encode([segment])
            text = segment if isinstance(segment, str) else self._card.special.get(segment.role, "")
            if ids:
                found.append(PromptSpan(str(text), getattr(segment, "source", "layout"), len(ids)))
        return found

    def _can_fill_in(self) -> bool:
        return all(role in self._card.special for role in FIM_ROLES)


def drop_oldest(
    texts: list[Text], limit: int, sizes: Sequence[int] | None = None, *, step: int | None = None
) -> list[Text]:
    """The last of the texts that fit in `limit`, dropping from the front in steps of `step`, by default 40 % of the
    limit.

    `sizes` are the sizes of the texts, by default in characters.

    The position of the front edge depends only on which step the total has reached. So it moves rarely and far, instead
    of a little each time, and between two moves the KV cache stays useful.
    """
    sizes = [len(text) for text in texts] if sizes is None else sizes
    total = sum(sizes)
    if total <= limit:
        return texts
    step = max(1, min(step or limit * 2 // 5, limit // 2))
    surplus = -(-(total - limit) // step) * step
    position = 0
    for index, size in enumerate(sizes):
        if position >= surplus:
            return texts[index:]
        position += size
    return texts[-1:] if texts and sizes[-1] <= limit else []


def last_part(text: str, limit: int) -> str:
    """The last lines of the text that fit in `limit` characters, or the end of a longer last line; cut in steps."""
    if len(text) <= limit:
        return text
    step = max(1, limit * 2 // 5)
    surplus = -(-(len(text) - limit) // step) * step
    start = text.find("\n", surplus - 1) + 1
    if not start or start == len(text):
        start = text.rfind("\n", 0, -1) + 1
    return text[start if len(text) - start <= limit else surplus :]


@dataclass(frozen=True)
class _NotebookContext:
    """The texts of the cells above; the last of them, of which some may be kept, with their sizes in tokens.

    It is made when the notebook has changed, and not for each key.
    """

    texts: tuple[SourceText, ...]
    near: list[SourceText]
    sizes: list[int]
    _known: dict[int, tuple[tuple[str, ...], str]] = field(default_factory=dict)

    def excluded_sources(self, kept: int) -> tuple[tuple[str, ...], str]:
        """What is left out where the last texts are kept, and the lines of it that import something."""
        if kept not in self._known:
            texts = self.texts[: len(self.texts) - kept]
            lines = dict.fromkeys(line for text in texts for line in _imports(text))
            self._known[kept] = texts, "".join(f"{line}\n" for line in lines) + "\n" * bool(lines)
        return self._known[kept]


def _notebook_context(
    above: tuple[Cell, ...],
    language: str,
    budget: int,
    excluded_sources: Collection[str],
    *,
    encode: Callable[[str], Sequence[int]],
    comment: bool,
) -> _NotebookContext:
    texts: list[SourceText] = []
    for cell in above:
        for name, render in CELL_SOURCES.items():
            if name not in excluded_sources:
                texts.append(SourceText(render(cell, language, comment=comment), name))
    texts = [text for text in texts if text]
    # Encoding all of a long notebook would take time.
    near = drop_oldest(texts, budget * MOST_CHARS_PER_TOKEN)
    return _NotebookContext(tuple(texts), near, [len(encode(text)) for text in near])


def _imports(text: str) -> list[str]:
    return [line for line in text.splitlines() if IMPORT.match(line)]
