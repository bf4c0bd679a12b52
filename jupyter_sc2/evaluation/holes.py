"""Holes in notebooks: the rest of a line is removed, and the model has to write it again.

A row is {"id", "kind", "cells": [sources above], "prefix", "suffix", "expected"}; `cut_holes` makes rows from
notebooks. Exact match compares first lines without trailing blanks, edit similarity is the share of common characters
(Ratcliff and Obershelp, as in difflib).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import Any

from jupyter_sc2.evaluation.runner import Row, answer, interval, mean, middle
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Completion, CompletionRequest

NEEDED = ("cells", "prefix", "suffix", "expected")
MAX_CONTEXT_CHARS = 3_000  # of the cells above
WORD = re.compile(r"\b[A-Za-z_]\w{2,}")


def cut_holes(
    notebooks: Iterable[tuple[str, Sequence[Cell]]], *, count: int, seed: int = 0
) -> list[Row]:
    """`count` rows, half with the cursor where a line's code begins and half in the middle of a word.

    No two rows come from one line. Lines shorter than 8 characters, comments, and the first line of a notebook without
    cells above are skipped: they cannot be predicted.
    """
    rng = Random(seed)
    places = [
        (name, cells, index, number)
        for name, cells in notebooks
        for index, cell in enumerate(cells)
        if cell.cell_type == "code"
        for number, line in lines_of_python(cell.source)
        if _is_worth_filling(line) and (index or number)
    ]
    rng.shuffle(places)
    rows: list[Row] = []
    seen: set[str] = set()
    for name, cells, index, number in places:
        if len(rows) == count:
            break
        lines = cells[index].source.splitlines()
        line = lines[number]
        if line in seen:
            continue
        kind = ("line start", "mid-word")[len(rows) % 2]
        column = len(line) - len(line.lstrip())
        if kind == "mid-word":
            words = list(WORD.finditer(line))
            if not words:
                continue
            word = rng.choice(words)
            column = rng.randint(word.start() + 1, word.end() - 1)
        seen.add(line)
        before = "\n".join(lines[:number])
        rows.append(
            {
                "id": f"{name}:{index}:{number}:{column}",
                "kind": kind,
                "cells": last_cells(cells[:index]),
                "prefix": before + "\n" * bool(number) + line[:column],
                "suffix": "\n".join(["", *lines[number + 1 :]]) if lines[number + 1 :] else "",
                "expected": line[column:],
            }
        )
    return rows


def evaluate(
    session: Session, rows: Sequence[Row], *, kept: Path | None = None, progress: str | None = None
) -> dict[str, Any]:
    """Fills every hole; returns the figures, and the results under "rows"."""
    by_id = {str(row.get("id", number)): row for number, row in enumerate(rows)}
    requests = {name: request(row) for name, row in by_id.items()}

    def judge(name: str, completion: Completion) -> Row:
        row = by_id[name]
        text, expected = _first_line(completion.text), _first_line(row["expected"])
        return {
            "kind": row.get("kind", "all"),
            "exact": text == expected,
            "similarity": similarity(text, expected),
            "parses": parses(row["prefix"] + text + row["suffix"]),
            "confidence": completion.confidence,
            "first_token_ms": completion.stats.first_token_ms,
            "total_ms": completion.stats.total_ms,
        }

    results = answer(session, requests, judge, kept=kept, progress=progress)
    kinds: dict[str, list[Row]] = defaultdict(list)
    for result in results:
        kinds[result["kind"]].append(result)
    return {
        "model": session.status.model,
        "engine": session.status.engine,
        **_figures(results),
        "by_kind": {kind: _figures(group) for kind, group in kinds.items()},
        "rows": results,
    }


def request(row: Row) -> CompletionRequest:
    cells = tuple(Cell(id=str(index), source=source) for index, source in enumerate(row["cells"]))
    text = row["prefix"] + row["suffix"]
    return CompletionRequest(
        text=text,
        offset=len(row["prefix"]),
        notebook=Notebook(cells),
        language=row.get("language", "python"),
    )  # automatic: an explicit request may complete a whole block, but only the first line is compared


def gate_curve(results: Sequence[Row], thresholds: Sequence[float]) -> list[dict[str, float]]:
    """For each confidence threshold, how much is shown and how much of that is right.

    "coverage" is the share of all rows for which text is shown, "precision" the share of those that are exact,
    "similarity" their mean edit similarity.
    """
    curve = []
    for threshold in thresholds:
        shown = [r for r in results if r["text"] and (r["confidence"] or 0.0) >= threshold]
        curve.append(
            {
                "threshold": threshold,
                "coverage": round(len(shown) / len(results), 4),
                "precision": mean([float(r["exact"]) for r in shown]),
                "similarity": mean([r["similarity"] for r in shown]),
            }
        )
    return curve


def similarity(text: str, expected: str) -> float:
    """The edit similarity, from 0 to 1; two empty texts have 1."""
    return round(SequenceMatcher(None, text, expected, autojunk=False).ratio(), 4)


def parses(source: str) -> bool:
    """Whether IPython could run this as a cell, including magics.

    Uses only IPython's and Python's own parsers, so that the code under test does not judge itself.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        ast.parse(
            TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call]
        )
    except (SyntaxError, ValueError):
        return False
    return True


def _figures(results: Sequence[Row]) -> dict[str, Any]:
    exact = [float(result["exact"]) for result in results]
    similar = [result["similarity"] for result in results]
    return {
        "n": len(results),
        "exact_match": mean(exact),
        "exact_match_interval": interval(exact),
        "edit_similarity": mean(similar),
        "edit_similarity_interval": interval(similar),
        "parses": mean([float(result["parses"]) for result in results]),
        "first_token_ms_p50": middle([result["first_token_ms"] for result in results]),
        "total_ms_p50": middle([result["total_ms"] for result in results]),
    }


def _is_worth_filling(line: str) -> bool:
    code = line.strip()
    return 8 <= len(code) <= 100 and not code.startswith(("#", '"', "'", "%", "!"))


def lines_of_python(source: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without those in another language and those for IPython or the shell."""
    end = -1
    for number, line in enumerate(source.splitlines()):
        end += len(line) + 1
        if language_at(CompletionRequest(text=source, offset=end)) == "python":
            yield number, line


def last_cells(cells: Sequence[Cell]) -> list[str]:
    kept: list[str] = []
    room = MAX_CONTEXT_CHARS
    for cell in reversed(cells):
        if cell.cell_type != "code":
            continue
        room -= len(cell.source)
        if room < 0:
            break
        kept.insert(0, cell.source)
    return kept


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].rstrip()
