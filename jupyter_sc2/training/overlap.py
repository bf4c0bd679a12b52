"""Finds texts that share long runs of words: near duplicates, and the functions of an evaluation."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from jupyter_sc2.training.document import Document

NEAR = 5  # words in a run, for duplicates
NEAR_SHARE = 0.8
COPIED = 13  # words in a run that hardly occurs twice by chance
NAMED = 8  # the same if a function has the same name as well


def runs(text: str, length: int) -> set[int]:
    """A number for each run of so many words in a text. Case, layout and punctuation make no difference."""
    words = re.findall(r"\w+", text.lower())
    return {
        crc32(" ".join(words[at : at + length]).encode()) for at in range(len(words) - length + 1)
    }


def sample(text: str) -> set[int]:
    """A quarter of a text's runs, always the same ones: it shows copies as well as all of them would, in a quarter of
    the memory."""
    return {run for run in runs(text, NEAR) if run % 4 == 0}


class Seen:
    """The runs seen so far. It contains a sample if most of its runs were in earlier ones: a near duplicate.

    MinHash compares texts in pairs, but a page put together from three others is a duplicate too; and this needs only a
    set, and no library.
    """

    def __init__(self, share: float = NEAR_SHARE) -> None:
        self._share = share
        self._runs: set[int] = set()

    def __contains__(self, found: set[int]) -> bool:
        return bool(found) and len(found & self._runs) >= self._share * len(found)

    def add(self, found: set[int]) -> None:
        self._runs |= found


class Fragments:
    """Texts that have to stay out of a corpus, such as the functions that an evaluation asks for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._copied: set[int] = set()
        self._named: dict[str, set[int]] = {}
        for text in set(texts):
            self._copied |= runs(text, COPIED)
            for name in _functions(text):
                self._named.setdefault(name, set()).update(runs(text, NAMED))

    def occur_in(self, text: str) -> bool:
        """Whether a text shares a long run of words with one of these, or a shorter one and the name of a function."""
        if self._copied & runs(text, COPIED):
            return True
        same = [name for name in _functions(text) if name in self._named]
        return bool(same) and any(self._named[name] & runs(text, NAMED) for name in same)


def _functions(text: str) -> set[str]:
    return set(re.findall(r"^[ \t]*def (\w+)", text, re.MULTILINE))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of an evaluation in JSON lines, compressed or not."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def solution(row: Mapping[str, str]) -> str:
    """A row's whole function: what is given and what is asked for."""
    return row["prompt"] + row["canonical_solution"] + row.get("suffix", "")


def overlap(
    documents: Iterable[Document], rows: Sequence[Mapping[str, str]], *, words: int = COPIED
) -> int:
    """How many rows of an evaluation have a run of so many words in common with any of the documents."""
    solutions = [runs(solution(row), words) for row in rows]
    wanted: set[int] = set().union(*solutions)
    met: set[int] = set()
    for document in documents:
        met |= wanted & runs(document.text, words)
    return sum(not found.isdisjoint(met) for found in solutions)
