"""Rows of token ids for training: trees of cells and cursors one after another, and which tokens see which.

A cursor's branch sees the cells above its own and itself, as if it were the only branch; positions are counted
accordingly. So training reads what inference reads, and the cells are read once for all cursors below them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile
from operator import eq
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from jupyter_sc2.prompt.builder import Segment
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.examples import Example, build_example
from jupyter_sc2.training.tokenizer import END, SPECIAL_TOKENS

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Encode = Callable[[Sequence[Segment]], list[int]]

# How often each kind of document is sampled, if the corpus has it: mostly notebooks, because users write them, and then
# library modules, because functions are in these.
MIX = {"notebook": 0.56, "example": 0.14, "doctest": 0.08, "docs": 0.04, "library": 0.18}
OTHER = 0.09  # for a kind that is not listed above
IGNORED = -100  # the label that cross_entropy ignores
PARTS = ("trunk", "prefix", "middle")
SUFFIX, MIDDLE = (SPECIAL_TOKENS.index(f"<fim_{part}>") for part in ("suffix", "middle"))


class Token(NamedTuple):
    """A token and the tokens it sees: the trunk, from `tree` up to `shared`, and its branch, from `own` up to
    itself."""

    id: int
    label: int  # the id of the next token, or IGNORED
    position: int
    tree: int
    shared: int
    own: int
    part: int  # an index of PARTS: the part that the label belongs to


class Sampler:
    """Samples documents: first by kind, then by length within the kind.

    A package with a hundred times the text comes ten times as often, so that none dominates.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        sizes: dict[tuple[str, str], float] = {}
        lengths = [
            min(sum(len(cell.source) for cell in document.cells), 10_000) for document in documents
        ]
        for document, length in zip(documents, lengths, strict=True):
            key = (document.kind, document.package)
            sizes[key] = sizes.get(key, 0) + length
        self._kinds: dict[str, tuple[list[Document], list[float]]] = {}
        for document, length in zip(documents, lengths, strict=True):
            group, totals = self._kinds.setdefault(document.kind, ([], []))
            group.append(document)
            weight = length / sizes[(document.kind, document.package)] ** 0.5
            totals.append(weight + (totals[-1] if totals else 0))

    def draw(self, rng: Random) -> Document:
        kinds = list(self._kinds)
        (kind,) = rng.choices(kinds, [MIX.get(kind, OTHER) for kind in kinds])
        group, totals = self._kinds[kind]
        (document,) = rng.choices(group, cum_weights=totals)
        return document


def rows(
    sampler: Sampler, encode: Encode, rng: Random, *, count: int, length: int
) -> list[list[Token]]:
    """Rows filled with trees; the last tree of each is cut off where the row is full."""
    return _filled(sampler, rng, count, length, lambda example, at: tree(example, encode, at))


def packed_row(
    sampler: Sampler, encode: Encode, *, seed: int, step: int, place: int, length: int
) -> array[int]:
    """The row at this place of a step's rows: its `Token`s concatenated, as 32-bit integers.

    It depends only on seed, step and place, so that any number of processes can make a step's rows, and an interrupted
    run sees the same rows as an uninterrupted one.
    """
    rng = Random(f"{seed} {step} {place}")
    (row,) = rows(sampler, encode, rng, count=1, length=length)
    return array("i", chain.from_iterable(row))


def prompts(
    sampler: Sampler, encode: Encode, rng: Random, *, count: int, length: int
) -> list[list[int]]:
    """Rows of ids, each filled with whole prompts and their completions, for models that read from left to right."""
    return _filled(
        sampler, rng, count, length, lambda example, at: [*encode(example.sequence()), END]
    )


def _filled(
    sampler: Sampler,
    rng: Random,
    count: int,
    length: int,
    lay: Callable[[Example, int], Iterable[Item]],
) -> list[list[Item]]:
    """Rows of what `lay` returns for examples, given their start in the row."""
    filled = []
    for _ in range(count):
        row: list[Item] = []
        while len(row) < length:
            example = build_example(sampler.draw(rng), rng)
            row += islice(lay(example, len(row)), length - len(row))
        filled.append(row)
    return filled


def tree(example: Example, encode: Encode, start: int = 0) -> Iterator[Token]:
    """The tokens of an example whose first token is at `start` in its row."""
    trunk = encode(example.head)
    ends = [len(trunk)]
    for text in example.trunk:
        trunk += encode([text])
        ends.append(len(trunk))
    for at, (id, label) in enumerate(zip(trunk, [*trunk[1:], IGNORED], strict=True)):
        yield Token(id, label, at, start, start, start, 0)
    own = start + len(trunk)
    for branch in example.branches:
        ids, above = encode(branch.whole), ends[branch.above]
        # A token that the cursor cuts is generated again, so it belongs to the middle.
        given = sum(takewhile(bool, map(eq, ids, encode(branch.given))))
        for at, (id, label) in enumerate(zip(ids, _labels(ids), strict=True)):
            part = 2 if at + 1 >= given else 1
            yield Token(id, label, above + at, start, start + above, own, part)
        own += len(ids)


def _labels(ids: list[int]) -> list[int]:
    """The next ids as labels; those of the suffix are ignored, because it is given."""
    labels = [*ids[1:], IGNORED]
    if MIDDLE in ids:
        begin, end = ids.index(SUFFIX), ids.index(MIDDLE)
        labels[begin:end] = [IGNORED] * (end - begin)
    return labels


def visible(tokens: torch.Tensor) -> torch.Tensor:
    """Which tokens see which, (B, 1, T, T), for rows of `Token`s, (B, T, 7)."""
    import torch

    tree, shared, own = (tokens[..., n, None] for n in (3, 4, 5))  # (B, T, 1)
    at = torch.arange(tokens.shape[1], device=tokens.device)
    trunk = (at >= tree) & (at < shared)
    itself = (at >= own) & (at <= at[:, None])
    return (trunk | itself)[:, None]
