"""Measures what knowing the variables is worth: holes in notebooks that run cell by cell.

Before a cell runs, words of it are removed with the rest of their lines: columns, attributes, keyword arguments and
names, as classified by the cell's syntax tree, and whole lines ("rest"). Half of the words keep their first letters,
because ghost text is requested at each of them. There is one request for each hole and combination of sources, in the
state that a kernel has when a user types there.
"""

# IPython's shell has no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from random import Random
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_sc2.evaluation.holes import similarity
from jupyter_sc2.evaluation.runner import Row, interval, keep_row, mean
from jupyter_sc2.introspection.facts import Facts, Path
from jupyter_sc2.introspection.uses import uses
from jupyter_sc2.kernel.namespace import LiveNamespace
from jupyter_sc2.notebook import Cell, Notebook, output_texts
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.fitting import is_word
from jupyter_sc2.pipeline.grounding import checker
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.prompt.sources import CELL_SOURCES
from jupyter_sc2.prompt.sources import SOURCES as PROMPT_SOURCES
from jupyter_sc2.settings import SC2
from jupyter_sc2.source.incomplete import is_magic_line
from jupyter_sc2.source.parsing import parse
from jupyter_sc2.types import CompletionRequest

CLASSES = ("column", "attribute", "argument", "name", "rest")
KNOWN = CLASSES[:3]
# What is compared: the notebook's cells alone, and with one source more each.
MEASURED = tuple(name for name, source in PROMPT_SOURCES.items() if source.measured)
SOURCES = (
    "cells",
    *MEASURED,
    "grounding",
    *(f"{name}+grounding" for name in MEASURED),
)
MAX_HOLES_PER_NOTEBOOK = 8
MIN_LINE_CHARS, MAX_LINE_CHARS = 8, 120
BEGUN_SHARE = 0.5  # of the words, those that keep their first letters
MAX_TYPED_LETTERS = 3
REST_OF_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hole:
    """A hole in a cell: the word that is removed with the rest of its line, and the word's class."""

    kind: str
    word: str
    prefix: str
    expected: str
    suffix: str


class Sources:
    """The namespace of the notebook that is running; each source can be switched on and off."""

    def __init__(self) -> None:
        self.live: LiveNamespace | None = None
        self.variables = False
        self._asked = 0

    def switch(self, sources: str) -> None:
        self.variables = "variables" in sources
        self._asked += 1

    @property
    def epoch(self) -> int:
        """A new number for each request, so that no request is answered from the cache of another."""
        return self._asked

    def state(self, request: CompletionRequest) -> str:
        return self.live.state(request) if self.live is not None and self.variables else ""

    def facts(self, paths: Iterable[Path], request: CompletionRequest) -> Facts:
        return self.live.facts(paths, request) if self.live is not None else Facts()


def holes_in(
    source: str, rng: Random, wanted: Collection[str] = CLASSES, *, inside: float = BEGUN_SHARE
) -> list[Hole]:
    """At most one hole a line, of a class that is `wanted`.

    A share `inside` starts after one to three letters of its word; half of all holes lack the lines below as well.
    """
    tree = parse(source)
    if tree is None or any(is_magic_line(line) for line in source.split("\n")):
        return []
    places: dict[int, dict[str, tuple[str, int]]] = defaultdict(dict)
    for use in uses(tree, source):
        if use.word != use.word.strip() or len(use.word) < 2:
            continue
        places[source.count("\n", 0, use.start)][use.kind] = (use.word, use.start)
    found = []
    start = 0
    for number, line in enumerate(source.split("\n")):
        code = line.strip()
        if len(code) >= MIN_LINE_CHARS and len(line) <= MAX_LINE_CHARS and not code.startswith("#"):
            here = places[number] | {"rest": (code, start + line.index(code))}
            if kinds := [kind for kind in CLASSES if kind in here and kind in wanted]:
                named = [kind for kind in kinds if kind != "rest"]
                kind = rng.choice(named if named and rng.random() < 0.8 else kinds)
                word, place = here[kind]
                end = start + len(line)
                below = source[end:] if rng.random() < 0.5 else ""
                if kind != "rest" and rng.random() < inside:
                    typed = rng.randint(1, min(MAX_TYPED_LETTERS, len(word) - 1))
                    word, place = word[typed:], place + typed
                found.append(Hole(kind, word, source[:place], source[place:end], below))
        start += len(line) + 1
    return found


def evaluate(
    session: Session,
    sources: Sources,
    notebooks: Sequence[tuple[str, Sequence[Cell]]],
    *,
    count: int,
    seed: int = 0,
    setup: str = "",
    kept: File | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fills up to `count` holes, as many of each class as there are; returns the figures by class and sources.

    `session` has to be created with `sources` as its namespace. `setup` runs first in each notebook's shell.
    """
    rng = Random(seed)
    shares: Counter[str] = Counter()
    results: list[Row] = []
    order = list(notebooks)
    rng.shuffle(order)

    def keep(row: Row) -> None:
        if kept is not None:
            keep_row(kept, row)

    for name, cells in order:
        if sum(shares.values()) >= count:
            break
        here = 0
        for notebook, cell, shell in run(cells, setup):
            if here == MAX_HOLES_PER_NOTEBOOK:
                break
            settings = SC2(context_error=False)
            sources.live = LiveNamespace(shell, settings)
            wanted = [kind for kind in CLASSES if shares[kind] < count // len(CLASSES)]
            for hole in holes_in(cell.source, rng, wanted):
                if shares[hole.kind] >= count // len(CLASSES) or here == MAX_HOLES_PER_NOTEBOOK:
                    continue
                shares[hole.kind] += 1
                here += 1
                for row in _ask_all(session, sources, notebook, cell, hole):
                    results.append(row | {"notebook": name})
                    keep(results[-1])
        tell(f"{name}: {dict(shares)}")
    return {"model": session.status.model, **figures(results), "rows": results}


def run(
    cells: Sequence[Cell], setup: str = ""
) -> Iterator[tuple[Notebook, Cell, InteractiveShell]]:
    """Yields each code cell before it runs, with the notebook so far and the shell in which the cells above have run.

    Ends where a cell fails.
    """
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    if setup:
        shell.run_cell(setup, silent=True)
    done: list[Cell] = []
    for cell in cells:
        if cell.cell_type == "code" and cell.source.strip():
            yield Notebook((*done, cell)), cell, shell
            outputs = _run(shell, cell.source)
            if outputs is None:
                break
            cell = replace(cell, outputs=outputs)
        done.append(cell)


def _run(shell: InteractiveShell, source: str) -> tuple[str, ...] | None:
    """The cell's output texts; None if it fails."""
    from IPython.utils.capture import capture_output

    with capture_output() as captured:
        result = shell.run_cell(source, store_history=True)
    if not result.success:
        return None
    return output_texts([captured.stdout, *({"data": one.data} for one in captured.outputs)])


def _ask_all(
    session: Session, sources: Sources, notebook: Notebook, cell: Cell, hole: Hole
) -> Iterator[Row]:
    """A row for each of SOURCES. Where nothing is refuted grounding changes nothing, so it is not asked for again."""
    for told in ("cells", *MEASURED):
        row = _ask(session, sources, notebook, cell, hole, told)
        yield row
        grounded = "grounding" if told == "cells" else f"{told}+grounding"
        if row["refuted"]:
            yield _ask(session, sources, notebook, cell, hole, grounded)
        else:
            yield row | {"sources": grounded}


def _ask(
    session: Session, sources: Sources, notebook: Notebook, cell: Cell, hole: Hole, way: str
) -> Row:
    request = CompletionRequest(
        text=hole.prefix + hole.suffix,
        offset=len(hole.prefix),
        notebook=notebook,
        cell_id=cell.id,
    )
    sources.switch(way)
    excluded_sources = frozenset(
        name for name in MEASURED if name in CELL_SOURCES and name not in way.split("+")
    )
    grounding = "grounding" in way
    session.configure(
        replace(_options(session), grounding=grounding, excluded_sources=excluded_sources)
    )
    *_, answer = session.complete(request)
    text = answer.text.split("\n", 1)[0].rstrip()
    expected = hole.expected.rstrip()
    refuted = checker(request, sources)(answer.text, True) if answer.text else None
    word = REST_OF_WORD.match(text)
    return {
        "kind": hole.kind,
        "begun": is_word(hole.prefix[-1:]) and hole.kind != "rest",
        "new": hole.kind in KNOWN and not _occurs_in(hole, notebook),
        "sources": way,
        "prefix": hole.prefix[-200:],
        "expected": expected,
        "text": answer.text,
        "reason": answer.reason,
        "exact": text == expected,
        "word": _begins_with(text, hole.word)
        if hole.kind == "column"
        else word is not None and word[0] == hole.word,
        "similarity": similarity(text, expected),
        "refuted": refuted.kind if refuted is not None else "",
        "prompt_tokens": answer.stats.prompt_tokens,
        "total_ms": answer.stats.total_ms,
    }


def _occurs_in(hole: Hole, notebook: Notebook) -> bool:
    """Whether the hole's word occurs anywhere else in the notebook."""
    begun = re.search(r"\w*\Z", hole.prefix)[0]  # type: ignore[index]
    word = re.compile(rf"\b{re.escape(begun + hole.word)}\b")
    above = [cell.source for cell in notebook.cells[:-1]]
    return any(word.search(text) for text in (*above, hole.prefix, hole.suffix))


def _begins_with(text: str, word: str) -> bool:
    """Whether a string starts with the column's name and ends after it."""
    return text.startswith(word) and text[len(word) : len(word) + 1] in ("", "'", '"')


def _options(session: Session) -> CompletionOptions:
    return session.options


def figures(results: Sequence[Row]) -> dict[str, Any]:
    """By class and source: the share of words and of lines that are right, with 95 % intervals.

    "known" are the three classes whose words the kernel knows, "new" those of them that are not in the notebook yet.
    """
    belongs: dict[str, Callable[[Row], bool]] = {
        "known": lambda row: row["kind"] in KNOWN,
        "new": lambda row: row["new"],
        "all": lambda row: True,
    }
    table: dict[str, dict[str, Any]] = {}
    for kind in (*CLASSES, *belongs):
        table[kind] = {}
        of_kind = belongs.get(kind, lambda row, kind=kind: row["kind"] == kind)
        for way in SOURCES:
            rows = [r for r in results if r["sources"] == way and of_kind(r)]
            exact, word = ([float(r[key]) for r in rows] for key in ("exact", "word"))
            shown = [r for r in rows if r["text"]]
            table[kind][way] = {
                "n": len(rows),
                "word_match": mean(word),
                "word_match_interval": interval(word),
                "exact_match": mean(exact),
                "exact_match_interval": interval(exact),
                "edit_similarity": mean([r["similarity"] for r in rows]),
                "shown": len(shown),
                "refuted_names_shown": sum(r["refuted"] not in ("", "syntax") for r in shown),
                "broken_shown": sum(r["refuted"] == "syntax" for r in shown),
            }
    return {"n": len(results) // len(SOURCES), "by_class": table}
