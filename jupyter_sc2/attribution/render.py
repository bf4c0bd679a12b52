"""Reports as text, as a page, and as JSON."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.report import NEXT_STEPS, CellReport, Report

# Lines of a licence that are shown in a text; a page has them all.
MAX_LINES_SHOWN = 12
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #212121 }
pre { background: #f8f8f8; padding: 8px; overflow-x: auto } table { border-collapse: collapse }
td, th { text-align: left; padding: 2px 12px 2px 0; vertical-align: top } summary { cursor: pointer }
h1 { font-size: 1.4em } h2 { font-size: 1.15em } h3 { font-size: 1em }"""


def summary(report: Report) -> str:
    """What there is to say first, in a sentence or three."""
    if report.recorded:
        characters = sum(len(one.accepted.text) for cell in report.recorded for one in cell.kept)
        left = sum(
            len(one.accepted.text) * one.share for cell in report.recorded for one in cell.kept
        )
        said = [
            f"{_cells(len(report.recorded), 'hold')} text of a model: {characters} characters were accepted, "
            f"{left / max(1, characters):.0%} of them are still there."
        ]
    elif report.records:
        said = ["Nothing of a model's was accepted since the notebook keeps a record."]
    else:
        said = ["This notebook keeps no record of what was accepted."]
    if not report.indexed:
        said.append("Nothing is indexed here: `jupyter sc2 attribution index` does that.")
    elif report.matched:
        said.append(
            f"{_cells(len(report.matched), 'match')} indexed code ({report.indexed:,} words and symbols; "
            f"a match is {report.threshold} or more in a row)."
        )
    else:
        said.append(f"No cell matches indexed code ({report.indexed:,} words and symbols).")
    return " ".join(said)


def text(reports: Sequence[Report], *, notices: bool = True) -> str:
    """For a terminal."""
    return "\n\n".join("\n".join(_lines(report, notices)) for report in reports)


def _lines(report: Report, notices: bool) -> Iterator[str]:
    yield report.notebook
    yield summary(report)
    for cell in report.cells:
        if not cell.pieces and not cell.kept:
            continue
        yield ""
        yield f"Cell {cell.number}{_named(cell)}"
        for one in cell.kept:
            yield f"  {_about(one.accepted)}, {one.share:.0%} still there: {_short(one.accepted.text)}"
            for place in one.accepted.attributions:
                yield f"    matched when accepted: {place}"
        for piece in cell.pieces:
            first, last = piece.lines
            yield f"  lines {first} to {last} match"
            for place in piece.places:
                yield f"    {place}"
            if piece.more:
                yield f"    and {piece.more} more"
    if report.models:
        yield ""
        yield "Models"
        for card in report.models:
            yield f"  {card.name}: {card.licence_line}"
    if report.notices and notices:
        yield ""
        yield "Notices to reproduce"
        for notice in report.notices:
            yield f"  {notice.source} {notice.version}: {_licence(notice.licence)} {' '.join(notice.urls)}".rstrip()
            for name, words in notice.texts:
                yield f"    {name}"
                lines = words.strip().splitlines()
                yield from (f"    | {line}".rstrip() for line in lines[:MAX_LINES_SHOWN])
                if len(lines) > MAX_LINES_SHOWN:
                    yield f"    … {len(lines) - MAX_LINES_SHOWN} more lines: --html has all"
    yield ""
    yield from _next()


def _next() -> Iterator[str]:
    yield "What is not indexed here is not found here. BigCode's public search of its models' training data:"
    for name, url in NEXT_STEPS.items():
        yield f"  {name}: {url}"


def page(reports: Sequence[Report]) -> str:
    """One HTML page that needs nothing else."""
    body = "\n".join(map(fragment, reports))
    links = "".join(
        f'<li><a href="{html.escape(url)}">{html.escape(name)}</a></li>'
        for name, url in NEXT_STEPS.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Attribution</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>Attribution</h1>\n{body}\n"
        "<h2>Next steps</h2><p>What is not indexed here is not found here. BigCode's public search of its "
        f"models' training data:</p><ul>{links}</ul>\n</body></html>\n"
    )


def fragment(report: Report) -> str:
    """The part of a page that is about one report."""
    return "\n".join(_section(report))


def _section(report: Report) -> Iterator[str]:
    def escaped(value: object) -> str:
        return html.escape(str(value))

    yield f"<h2>{escaped(report.notebook)}</h2><p>{escaped(summary(report))}</p>"
    for cell in report.cells:
        if not cell.pieces and not cell.kept:
            continue
        yield f"<h3>Cell {cell.number}{escaped(_named(cell))}</h3>"
        if cell.kept:
            rows = "".join(
                f"<tr><td>{escaped(_about(one.accepted))}</td><td>{one.share:.0%} still there</td>"
                f"<td><code>{escaped(_short(one.accepted.text))}</code></td></tr>"
                for one in cell.kept
            )
            yield f"<table>{rows}</table>"
        for piece in cell.pieces:
            places = "".join(f"<li>{escaped(place)}</li>" for place in piece.places)
            more = f"<li>and {piece.more} more</li>" if piece.more else ""
            yield (
                f"<p>Lines {piece.lines[0]} to {piece.lines[1]} match</p><ul>{places}{more}</ul>"
                f"<pre>{escaped(piece.text)}</pre>"
            )
    if report.models:
        rows = "".join(
            f"<li>{escaped(m.name)}: {escaped(m.licence_line)}</li>" for m in report.models
        )
        yield f"<h3>Models</h3><ul>{rows}</ul>"
    if report.notices:
        yield "<h3>Notices to reproduce</h3>"
    for notice in report.notices:
        title = f"{notice.source} {notice.version}: {_licence(notice.licence)}"
        links = " ".join(f'<a href="{escaped(url)}">{escaped(url)}</a>' for url in notice.urls)
        yield f"<p>{escaped(title)} {links}</p>"
        for name, words in notice.texts:
            yield f"<details><summary>{escaped(name)}</summary><pre>{escaped(words)}</pre></details>"


def as_json(report: Report) -> dict[str, Any]:
    return {
        "notebook": report.notebook,
        "record": report.records,
        "indexed_lexemes": report.indexed,
        "threshold": report.threshold,
        "cells": [
            {
                "cell": cell.number,
                "id": cell.id,
                "accepted": [
                    {
                        "id": one.accepted.id,
                        "time": one.accepted.time,
                        "model": one.accepted.model,
                        "revision": one.accepted.revision,
                        "engine": one.accepted.engine,
                        "offset": one.accepted.offset,
                        "text": one.accepted.text,
                        "kept": round(one.share, 3),
                        "cells": [number + 1 for number in one.cells],
                        "matches": [asdict(place) for place in one.accepted.attributions],
                    }
                    for one in cell.kept
                ],
                "matches": [
                    {
                        "lines": piece.lines,
                        "places": [asdict(place) for place in piece.places],
                        "more": piece.more,
                    }
                    for piece in cell.pieces
                ],
            }
            for cell in report.cells
            if cell.kept or cell.pieces
        ],
        "models": [
            {"name": m.name, "licence": m.licence, "terms": m.licence_summary, "url": m.licence_url}
            for m in report.models
        ],
        "notices": [asdict(notice) for notice in report.notices],
        "next_steps": NEXT_STEPS,
    }


def _cells(count: int, verb: str) -> str:
    if count == 1:
        return f"1 cell {verb}{'es' if verb.endswith('ch') else 's'}"
    return f"{count} cells {verb}"


def _named(cell: CellReport) -> str:
    return f" ({cell.id})" if cell.id else ""


def _licence(expression: str) -> str:
    return "licence not stated" if expression == licences.UNKNOWN else expression


def _about(accepted: Any) -> str:
    model = "@".join(filter(None, (accepted.model, accepted.revision[:12])))
    return ", ".join(filter(None, (accepted.time, model or "a model", accepted.engine)))


def _short(text: str) -> str:
    line = " ⏎ ".join(text.strip().splitlines())
    return line if len(line) <= 60 else line[:59] + "…"
