"""The attribution report of a notebook: its cells with generated text, how much of it was retained, and its matches.

A report is made from the notebook and the index on this machine, and sent nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_sc2.attribution import licences, record
from jupyter_sc2.attribution.lexemes import family_of_language
from jupyter_sc2.attribution.match import THRESHOLD, Match, Matcher
from jupyter_sc2.attribution.sources import notice_texts
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import ModelCard, find_card
from jupyter_sc2.types import Attribution

# The most places that are named for one match.
MAX_PLACES_SHOWN = 3
NEXT_STEPS = {
    "StarCoder2 Search (full text of the training data)": "https://huggingface.co/spaces/bigcode/search-v2",
    "membership test for The Stack v2": "https://stack-v2.dataportraits.org",
}


@dataclass(frozen=True)
class MatchedLines:
    """Lines of a cell that match indexed files, first and last included, and the places, the best first."""

    lines: tuple[int, int]
    text: str
    places: tuple[Attribution, ...]
    more: int = 0  # the number of places that are not named


@dataclass(frozen=True)
class CellReport:
    number: int  # from 1, as a reader counts
    id: str
    matches: tuple[MatchedLines, ...]
    retained: tuple[record.Retained, ...]


@dataclass(frozen=True)
class Notice:
    """The notice to reproduce with code from a source: its licence files or, without any, the licence's text."""

    source: str
    version: str
    licence: str
    texts: tuple[tuple[str, str], ...]
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The report of one notebook. `indexed` counts the lexemes of the index; 0 means that there is none."""

    notebook: str
    cells: tuple[CellReport, ...]
    records: bool
    indexed: int
    threshold: int
    models: tuple[ModelCard, ...] = ()
    notices: tuple[Notice, ...] = ()
    sources: tuple[str, ...] = field(default=(), repr=False)

    @property
    def matched(self) -> list[CellReport]:
        return [cell for cell in self.cells if cell.matches]

    @property
    def recorded(self) -> list[CellReport]:
        return [cell for cell in self.cells if cell.retained]


@dataclass(frozen=True)
class CellText:
    """A cell, as far as a report needs it."""

    source: str
    id: str = ""
    cell_type: str = "code"
    notes: tuple[record.Accepted, ...] = ()


def of_file(path: Path, matcher: Matcher, threshold: int = THRESHOLD) -> Report:
    """The report of a notebook's file. Raises RequestError."""
    document = record.read(path)
    metadata = document.get("metadata", {})
    language = (
        metadata.get("kernelspec", {}).get("language")
        or metadata.get("language_info", {}).get("name")
        or "python"
    )
    cells = [
        CellText(
            source=_joined(cell.get("source", cell.get("input", ""))),
            id=str(cell.get("id", "")),
            cell_type=str(cell.get("cell_type", "code")),
            notes=tuple(record.notes(cell.get("metadata", {}))),
        )
        for cell in record.cells(document)
    ]
    return of_cells(
        str(path), cells, matcher, threshold, str(language), records=record.is_on(document)
    )


def of_cells(
    name: str,
    cells: Sequence[CellText],
    matcher: Matcher,
    threshold: int = THRESHOLD,
    language: str = "python",
    *,
    records: bool = False,
) -> Report:
    """The report of cells, which need not be in a file."""
    family = family_of_language(language)
    retained = record.retained([(cell.source, cell.notes) for cell in cells])
    reports = []
    for number, cell in enumerate(cells):
        matches = (
            matcher.find(cell.source, family, threshold=threshold)
            if cell.cell_type == "code" and cell.source.strip()
            else []
        )
        reports.append(
            CellReport(
                number=number + 1,
                id=cell.id,
                matches=tuple(_matched_lines(cell.source, matches)),
                retained=tuple(one for one in retained if one.cells[0] == number),
            )
        )
    matcher.index.refresh()
    return Report(
        notebook=name,
        cells=tuple(reports),
        records=records or bool(retained),
        indexed=matcher.index.lexemes,
        threshold=threshold,
        models=tuple(_cards(one.accepted.model for one in retained)),
        notices=tuple(_notices(reports, matcher)),
        sources=tuple(cell.source for cell in cells),
    )


def _matched_lines(source: str, matches: Sequence[Match]) -> Iterable[MatchedLines]:
    """The matches with those of the same code put together; the longest of them determines the lines."""
    groups: list[list[Match]] = []
    for match in matches:  # the longest first
        for group in groups:
            longest = group[0]
            shared = min(match.end, longest.end) - max(match.start, longest.start)
            if shared > 0.5 * (match.end - match.start):
                group.append(match)
                break
        else:
            groups.append([match])
    for group in sorted(groups, key=lambda group: group[0].start):
        first = group[0]
        places = list(dict.fromkeys(match.attribution for match in group))
        yield MatchedLines(
            lines=(
                source.count("\n", 0, first.start) + 1,
                source.count("\n", 0, max(first.start, first.end - 1)) + 1,
            ),
            text=source[first.start : first.end],
            places=tuple(places[:MAX_PLACES_SHOWN]),
            more=max(0, len(places) - MAX_PLACES_SHOWN),
        )


def _notices(cells: Iterable[CellReport], matcher: Matcher) -> Iterable[Notice]:
    """One notice for each source that the report names."""
    named: dict[tuple[str, str], str] = {}
    for cell in cells:
        for match in cell.matches:
            for place in match.places:
                named.setdefault((place.source, place.version), place.licence)
        for one in cell.retained:
            for place in one.accepted.attributions[:MAX_PLACES_SHOWN]:
                named.setdefault((place.source, place.version), place.licence)
    entries = matcher.index.contents.sources.values()
    for (source, version), licence in named.items():
        texts: list[tuple[str, str]] = []
        for entry in entries:
            if (entry.name, entry.version) == (source, version):
                texts = notice_texts(entry.source())
                break
        ids = licences.ids(licence)
        if not texts:
            texts = [(id, text) for id in ids if (text := licences.text_of(id)) is not None]
        urls = tuple(url for id in ids if (url := licences.url_of(id)) is not None)
        yield Notice(source, version, licence, tuple(texts), urls)


def _cards(models: Iterable[str]) -> Iterable[ModelCard]:
    for model in dict.fromkeys(models):
        if model:
            try:
                yield find_card(model)
            except ModelLoadError:
                yield ModelCard(name=model)


def _joined(source: Any) -> str:
    return "".join(source) if isinstance(source, list) else str(source)
