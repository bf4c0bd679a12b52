"""Positions in the middle of a line: does a suggestion fit the code behind the cursor?

Such a position has code behind the cursor on the same line, beyond what an editor closes automatically. There are three
kinds: "whole", where nothing is missing; "gap", where an argument, an element or an operand is missing; and "word",
inside a name. A suggestion breaks a cell if Python could parse the cell before, if necessary with a name at the cursor,
and cannot any more.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from keyword import iskeyword
from random import Random
from token import COMMENT, NAME, NUMBER, STRING
from tokenize import TokenError, TokenInfo, generate_tokens
from typing import Any

from jupyter_sc2.evaluation.holes import last_cells, lines_of_python, parses, request
from jupyter_sc2.evaluation.runner import Row
from jupyter_sc2.notebook import Cell
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest, Trigger

KINDS = ("whole", "gap", "word")
# Texts that may complete an incomplete cell at the cursor.
PLACEHOLDERS = ("", "_", "_,", ",_")
OPENERS, CLOSING_BRACKETS = ("(", "[", "{"), (")", "]", "}")
SIGNS = (*"=+-*/<>,:", "==", "in")
BEFORE_OPERAND = (*OPENERS, *SIGNS)
AFTER_OPERAND = (*SIGNS, "for", "if", "and", "or")
# Behind the cursor these alone do not count as code: an editor may have inserted them.
CLOSERS = " \t)]}'\":,"


@dataclass(frozen=True)
class Place:
    """A cursor at `column` of a cell's line `number`; the code from there to `end` is removed."""

    number: int
    column: int
    end: int


def cut_places(
    notebooks: Iterable[tuple[str, Sequence[Cell]]], *, count: int, seed: int = 0
) -> list[Row]:
    """`count` rows (see holes.py), a third of each kind, all from different lines and from cells that parse."""
    rng = Random(seed)
    cells = [
        (name, above, index)
        for name, above in notebooks
        for index, cell in enumerate(above)
        if cell.cell_type == "code" and cell.source.strip() and parses(cell.source)
    ]
    rng.shuffle(cells)
    rows: list[Row] = []
    seen: set[str] = set()
    # One position per cell and round, so that a long cell has no more of them than a short one.
    while len(rows) < count and cells:
        left = []
        for name, above, index in cells:
            source = above[index].source
            lines = source.split("\n")
            kind = KINDS[len(rows) % len(KINDS)]
            places = [p for p in _places(source, kind) if lines[p.number] not in seen]
            if not places or len(rows) == count:
                continue
            left.append((name, above, index))
            place = rng.choice(places)
            line = lines[place.number]
            seen.add(line)
            prefix = "\n".join([*lines[: place.number], line[: place.column]])
            suffix = "\n".join([line[place.end :], *lines[place.number + 1 :]])
            if not any(parses(prefix + text + suffix) for text in PLACEHOLDERS):
                continue
            rows.append(
                {
                    "id": f"{name}:{index}:{place.number}:{place.column}",
                    "kind": kind,
                    "cells": last_cells(above[:index]),
                    "prefix": prefix,
                    "suffix": suffix,
                    "expected": line[place.column : place.end],
                }
            )
        cells = left
    return rows


def evaluate(session: Session, rows: Sequence[Row]) -> dict[str, Any]:
    """Makes an automatic and an explicit request at each position; counts the suggestions shown, and those that break a
    cell.

    The figures are by kind of request, each in total and by kind of position; "broken" lists the cells that a
    suggestion broke, with the suggestion in angle brackets.
    """
    results: dict[Trigger, list[Row]] = {"automatic": [], "invoke": []}
    for row in rows:
        for trigger in results:
            asked = replace(request(row), trigger=trigger)
            *_, last = session.complete(asked)
            results[trigger].append({"trigger": trigger, **_judge(row, asked, last)})
    figures: dict[str, Any] = {"model": session.status.model, "engine": session.status.engine}
    for trigger, judged in results.items():
        figures[trigger] = {"all": _figures(judged)}
        for kind in KINDS:
            figures[trigger][kind] = _figures([each for each in judged if each["kind"] == kind])
    broken = [each for judged in results.values() for each in judged if each["breaks"]]
    figures["broken"] = [{key: each[key] for key in ("trigger", "kind", "line")} for each in broken]
    return figures


def _judge(row: Row, asked: CompletionRequest, completion: Completion) -> Row:
    text = completion.text
    before = row["prefix"].rpartition("\n")[2]
    after = row["suffix"].partition("\n")[0]
    return {
        "kind": row["kind"],
        "shown": bool(text),
        "exact": text == row["expected"],
        "breaks": bool(text) and not parses(asked.prefix + text + asked.suffix),
        "line": f"{before}⟨{text}⟩{after}",
    }


def _figures(results: Sequence[Row]) -> dict[str, Any]:
    shown = [result for result in results if result["shown"]]
    breaks = sum(result["breaks"] for result in shown)
    return {
        "n": len(results),
        "shown": len(shown),
        "exact": sum(result["exact"] for result in shown),
        "breaks": breaks,
        "breaks_share": round(breaks / len(shown), 4) if shown else 0.0,
    }


def _places(source: str, kind: str) -> Iterator[Place]:
    tokens = _tokens_by_line(source)
    for number, line in lines_of_python(source):
        for start, end in _spans(tokens.get(number, ()), kind):
            if line[:start].strip() and line[end:].strip(CLOSERS):
                yield Place(number, start, end)


def _spans(tokens: Sequence[TokenInfo], kind: str) -> Iterator[tuple[int, int]]:
    """The columns between which code is removed; the same column twice if none is."""
    for index, token in enumerate(tokens):
        start, end = token.start[1], token.end[1]
        if kind == "whole":
            yield start, start
        elif kind == "gap":
            operand = _end_of_operand(tokens, index)
            if operand is not None:
                yield start, operand
        elif token.type == NAME and not iskeyword(token.string):
            yield from ((column, column) for column in range(start + 1, end))


def _end_of_operand(tokens: Sequence[TokenInfo], first: int) -> int | None:
    """The column where an argument or operand that starts with a token ends; None if the token does not start one."""
    if tokens[first].type not in (NAME, NUMBER, STRING):
        return None
    if first and tokens[first - 1].string not in BEFORE_OPERAND:
        return None
    depth = 0
    for before, token in pairwise(tokens[first:]):
        depth += (token.string in OPENERS) - (token.string in CLOSING_BRACKETS)
        if depth < 0 or (depth == 0 and token.string in AFTER_OPERAND):
            return before.end[1]
    return None


def _tokens_by_line(source: str) -> dict[int, list[TokenInfo]]:
    """The tokens that begin and end on one line, by its number from 0; none if Python cannot tokenize the source."""
    found: dict[int, list[TokenInfo]] = {}
    try:
        for token in generate_tokens(io.StringIO(source).readline):
            if token.string.strip() and token.start[0] == token.end[0] and token.type != COMMENT:
                found.setdefault(token.start[0] - 1, []).append(token)
    except (TokenError, SyntaxError):
        return {}
    return found
