"""Counts the keys that a user saves who takes what is right: whole, word by word, or line by line.

A typist types whole notebooks (typist.py). Where they pause they read the suggestion, and take it as far as it is what
they are about to type: all of it or nothing, its first words, or its first lines. After that they read the next one,
which continues what was taken. Taking costs one key for all of a suggestion, else one for each word or line; a line
break with the indentation behind it saves one key.

Nothing runs in real time: each answer is waited for. Answers are remembered by their place, so that all three users, a
second run, and another variant with its own file of answers meet the same places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from jupyter_sc2.engines.decoding.prefix_cache import common_length
from jupyter_sc2.evaluation.runner import Row, interval, mean
from jupyter_sc2.evaluation.typist import Event, type_cells
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.fitting import is_word
from jupyter_sc2.runtime.atomic_write import append_line
from jupyter_sc2.types import CompletionRequest

Way = Literal["whole", "word", "line"]
WAYS: tuple[Way, ...] = ("whole", "word", "line")
# Of a key, for each wrong character that is shown.
READING_COST = 0.2
WORD = re.compile(r"\s*(?:\w+|[^\w\s]+)")
LINE_BREAK = re.compile(r"\n[ \t]*")
# Suggestions that are taken one after another at one pause.
MAX_IN_A_ROW = 20


@dataclass(frozen=True)
class Answer:
    """What was shown at a place, and after how many milliseconds."""

    text: str
    ms: float | None = None


@dataclass
class Counts:
    """What one user has met in one notebook, or in several."""

    keys: int = 0  # to type without help
    pauses: int = 0
    shown: int = 0
    taken: int = 0
    typed_past: int = 0  # shown, and nothing of it taken
    first_word_right: int = 0
    saved: float = 0.0
    wrong_characters: int = 0

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def gain(self, reading_cost: float) -> float:
        """Keys saved for each key typed, less the cost of reading what is wrong."""
        return (self.saved - reading_cost * self.wrong_characters) / max(1, self.keys)

    def figures(self, reading_cost: float = READING_COST) -> Row:
        return {
            "keys_saved": _share(self.saved, self.keys),
            "wrong_characters_per_100_keys": _share(100 * self.wrong_characters, self.keys),
            "first_word_right": _share(self.first_word_right, self.shown),
            "shown": self.shown,
            "pauses": self.pauses,
            "taken": self.taken,
            "typed_past": self.typed_past,
            "keys": self.keys,
            "gain": round(self.gain(reading_cost), 4),
        }


def words(text: str) -> list[str]:
    """The text, taken apart as the front end accepts it word by word: a word or a run of signs, with blanks before."""
    found = WORD.findall(text)
    rest = text[sum(map(len, found)) :]
    return [*found, rest] if rest else found


def keys_of(text: str) -> int:
    """The keys that typing a text takes in an editor that indents."""
    return len(LINE_BREAK.sub("\n", text))


def taken_of(text: str, ahead: str, way: Way) -> tuple[int, int]:
    """How many characters of a suggestion a user takes who is about to type `ahead`, and the keys that costs."""
    if ahead.startswith(text):
        return len(text), 1
    if way == "whole":
        return 0, 0
    parts = words(text) if way == "word" else re.findall(r"\s*[^\n]+", text)
    end = number = 0
    for part in parts:
        if not ahead.startswith(text[: end + len(part)]) or _goes_on(
            text[: end + len(part)], ahead
        ):
            break
        end, number = end + len(part), number + 1
    return (end, number) if keys_of(text[:end]) > number else (0, 0)


def places(cells: Sequence[str], seed: int) -> Iterator[tuple[Event, dict[int, str]]]:
    """The typist's events in a notebook, each with the cells as they are then. The dictionary changes."""
    there: dict[int, str] = {}
    for event in type_cells(cells, Random(seed)):
        there[event.cell] = event.text
        yield event, there


def count(
    cells: Sequence[str],
    way: Way,
    ask: Callable[[Event, dict[int, str]], Answer],
    seed: int = 0,
    *,
    in_a_row: int = MAX_IN_A_ROW,
) -> Counts:
    """Types one notebook. `ask` gives what is shown at a place; `in_a_row` suggestions are read at one pause."""
    counts = Counts()
    left: dict[int, int] = {}  # by visit: the characters left to type after a suggestion was taken
    for event, there in places(cells, seed):
        counts.keys += event.kind == "key"
        if not event.pauses or not event.ahead:
            continue
        if len(event.ahead) > left.get(event.visit, len(event.ahead)):
            continue
        counts.pauses += 1
        for _ in range(in_a_row):
            text = ask(event, there).text
            if not text:
                break
            size, cost = taken_of(text, event.ahead, way)
            _record(counts, text, event.ahead, size)
            if not size:
                break
            counts.saved += keys_of(text[:size]) - cost
            event = after(event, text[:size])
            left[event.visit] = len(event.ahead)
            there = {**there, event.cell: event.text}
            if not event.ahead:
                break
    return counts


def _record(counts: Counts, text: str, ahead: str, size: int) -> None:
    right = common_length(text, ahead)
    first = words(text)[0]
    counts.shown += 1
    counts.taken += size > 0
    counts.typed_past += size == 0
    counts.first_word_right += ahead.startswith(first) and not _goes_on(first, ahead)
    counts.wrong_characters += len(text) - right


def _goes_on(text: str, ahead: str) -> bool:
    """Whether the word that ends the text is the beginning of a longer one in what will be typed."""
    following = ahead[len(text) : len(text) + 1]
    return is_word(text[-1:]) and is_word(following)


def after(event: Event, taken: str) -> Event:
    """The place behind a text that was taken."""
    text = event.text[: event.offset] + taken + event.text[event.offset :]
    return replace(
        event, text=text, offset=event.offset + len(taken), ahead=event.ahead[len(taken) :]
    )


def request(event: Event, there: dict[int, str], id: str = "") -> CompletionRequest:
    """The request that a front end would send at a place."""
    notebook = Notebook(tuple(Cell(id=str(index), source=there[index]) for index in sorted(there)))
    return CompletionRequest(
        text=event.text,
        offset=event.offset,
        notebook=notebook,
        cell_id=str(event.cell),
        id=id,
    )


class Asker:
    """Asks a session at each place once; `kept` is a file of JSON lines with the answers of an earlier run."""

    def __init__(
        self, complete: Callable[[CompletionRequest], Answer], kept: Path | None = None
    ) -> None:
        self._complete, self._kept = complete, kept
        self._known: dict[str, Answer] = {}
        if kept is not None and kept.exists():
            for line in kept.read_text("utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self._known[row["id"]] = Answer(row["text"], row["ms"])
                except (ValueError, KeyError):  # a line that an interrupted run left incomplete
                    continue

    def of(self, notebook: str) -> Callable[[Event, dict[int, str]], Answer]:
        def ask(event: Event, there: dict[int, str]) -> Answer:
            id = f"{notebook}:{event.cell}:{event.visit}:{event.offset}:{len(event.text)}"
            if id not in self._known:
                answer = self._complete(request(event, there, id))
                self._known[id] = answer
                if self._kept is not None:
                    append_line(
                        self._kept, json.dumps({"id": id, **vars(answer)}, ensure_ascii=False)
                    )
            return self._known[id]

        return ask


def evaluate(
    notebooks: Mapping[str, Sequence[str]],
    asker: Asker,
    *,
    seed: int = 0,
    reading_cost: float = READING_COST,
    progress: Callable[[str, Row], None] = lambda name, figures: None,
) -> dict[str, Any]:
    """The figures of all notebooks for each way of taking, those of each notebook, and the intervals over notebooks."""
    rows: dict[str, dict[str, Counts]] = {}
    for name, cells in notebooks.items():
        rows[name] = {way: count(cells, way, asker.of(name), seed) for way in WAYS}
        progress(name, rows[name]["word"].figures(reading_cost))
    result: dict[str, Any] = {"reading_cost": reading_cost, "notebooks": {}}
    for way in WAYS:
        total = Counts()
        for row in rows.values():
            total.add(row[way])
        gains = [row[way].gain(reading_cost) for row in rows.values()]
        saved = [row[way].saved / max(1, row[way].keys) for row in rows.values()]
        result[way] = {
            **total.figures(reading_cost),
            "keys_saved_interval": interval(saved),
            "gain_by_notebook": mean(gains),
        }
    for name, row in rows.items():
        result["notebooks"][name] = {way: row[way].figures(reading_cost) for way in WAYS}
    return result


def _share(part: float, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
