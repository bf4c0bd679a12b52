"""Reports as text, as a page, and as JSON."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.report import NEXT_STEPS, CellReport, Report

# Lines of a licence in a report as text; the HTML page has all of them.
MAX_LINES_SHOWN = 12
_BEYOND = "Only code that is indexed on this machine is found. BigCode's public search of its models' training data:"
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #212121 }
pre { background: #f8f8f8; padding: 8px; overflow-x: auto } table { border-collapse: collapse }
td, th { text-align: left; padding: 2px 12px 2px 0; vertical-align: top } summary { cursor: pointer }
h1 { font-size: 1.4em } h2 { font-size: 1.15em } h3 { font-size: 1em }"""


def summary(report: Report) -> str:
    """The result in two sentences: how much accepted text is still there, and how many cells match indexed code."""
    if report.recorded:
        recorded = [one for cell in report.recorded for one in cell.retained]
        characters = sum(len(one.accepted.text) for one in recorded)
        left = sum(len(one.accepted.text) * one.share for one in recorded)
        sentences = [
            f"{_cells(len(report.recorded), 'contain')} text from a model: {characters} characters were accepted, "
            f"{left / max(1, characters):.0%} of them are still there."
        ]
    elif report.records:
        sentences = ["No suggestion has been accepted since this notebook began to keep a record."]
    else:
        sentences = ["This notebook keeps no record of accepted suggestions."]
    if not report.indexed:
        sentences.append("Nothing is indexed yet: `jupyter sc2 attribution index` does that.")
    elif report.matched:
        sentences.append(
            f"{_cells(len(report.matched), 'match')} indexed code ({report.indexed:,} words and symbols; "
            f"a match is {report.threshold} or more in a row)."
        )
    else:
        sentences.append(f"No cell matches indexed code ({report.indexed:,} words and symbols).")
    return " ".join(sentences)


def text(reports: Sequence[Report], *, notices: bool = True) -> str:
    """Reports as plain text, for a terminal."""
    return "\n\n".join("\n".join(_lines(report, notices)) for report in reports)


def _lines(report: Report, notices: bool) -> Iterator[str]:
    yield report.notebook
    yield summary(report)
    for cell in report.cells:
        if not cell.matches and not cell.retained:
            continue
        yield ""
        yield f"Cell {cell.number}{_id_of(cell)}"
        for one in cell.retained:
            yield f"  {_origin(one.accepted)}, {one.share:.0%} still there: {_shortened(one.accepted.text)}"
            for place in one.accepted.attributions:
                yield f"    matched when accepted: {place}"
        for match in cell.matches:
            first, last = match.lines
            yield f"  lines {first} to {last} match"
            for place in match.places:
                yield f"    {place}"
            if match.more:
                yield f"    and {match.more} more"
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
    yield from _next_steps()


def _next_steps() -> Iterator[str]:
    yield _BEYOND
    for name, url in NEXT_STEPS.items():
        yield f"  {name}: {url}"


def page(reports: Sequence[Report]) -> str:
    """One HTML page that needs no other file."""
    body = "\n".join(map(fragment, reports))
    links = "".join(
        f'<li><a href="{html.escape(url)}">{html.escape(name)}</a></li>'
        for name, url in NEXT_STEPS.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Attribution</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>Attribution</h1>\n{body}\n"
        f"<h2>Next steps</h2><p>{_BEYOND}</p><ul>{links}</ul>\n</body></html>\n"
    )


def fragment(report: Report) -> str:
    """The part of a page that is about one report."""
    return "\n".join(_section(report))


def _section(report: Report) -> Iterator[str]:
    def escaped(value: object) -> str:
        return html.escape(str(value))

    yield f"<h2>{escaped(report.notebook)}</h2><p>{escaped(summary(report))}</p>"
    for cell in report.cells:
        if not cell.matches and not cell.retained:
            continue
        yield f"<h3>Cell {cell.number}{escaped(_id_of(cell))}</h3>"
        if cell.retained:
            rows = "".join(
                f"<tr><td>{escaped(_origin(one.accepted))}</td><td>{one.share:.0%} still there</td>"
                f"<td><code>{escaped(_shortened(one.accepted.text))}</code></td></tr>"
                for one in cell.retained
            )
            yield f"<table>{rows}</table>"
        for match in cell.matches:
            places = "".join(f"<li>{escaped(place)}</li>" for place in match.places)
            more = f"<li>and {match.more} more</li>" if match.more else ""
            yield (
                f"<p>Lines {match.lines[0]} to {match.lines[1]} match</p><ul>{places}{more}</ul>"
                f"<pre>{escaped(match.text)}</pre>"
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
    """A report as a JSON object."""
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
                    for one in cell.retained
                ],
                "matches": [
                    {
                        "lines": match.lines,
                        "places": [asdict(place) for place in match.places],
                        "more": match.more,
                    }
                    for match in cell.matches
                ],
            }
            for cell in report.cells
            if cell.retained or cell.matches
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


def _id_of(cell: CellReport) -> str:
    return f" ({cell.id})" if cell.id else ""


def _licence(expression: str) -> str:
    return "licence not stated" if expression == licences.UNKNOWN else expression


def _origin(accepted: Any) -> str:
    model = "@".join(filter(None, (accepted.model, accepted.revision[:12])))
    return ", ".join(filter(None, (accepted.time, model or "a model", accepted.engine)))


def _shortened(text: str) -> str:
    line = " ⏎ ".join(text.strip().splitlines())
    return line if len(line) <= 60 else line[:59] + "…"
