"""`jupyter sc2 eval`: measures how often the model is right, on holes in notebooks and on HumanEval-Infilling."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jupyter_sc2.cli.options import add_model_options, load_options, print_json
from jupyter_sc2.errors import RequestError
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.source.languages import canonical


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("eval", help="measure how often the model is right")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)

    cut = tasks.add_parser("cut", help="make holes in your own notebooks; prints the rows")
    cut.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    cut.add_argument("--count", type=int, default=100, metavar="N")
    cut.add_argument("--seed", type=int, default=0)
    cut.set_defaults(run=_cut)

    holes = tasks.add_parser(
        "holes", help="fill holes in notebooks: exact match and edit similarity"
    )
    holes.add_argument("file", type=Path, help="JSON lines with cells, prefix, suffix and expected")
    holes.add_argument(
        "--gate", action="store_true", help="report what each confidence threshold would show"
    )
    _add_options(holes)
    holes.set_defaults(run=_holes)

    midline = tasks.add_parser(
        "mid-line",
        help="complete in the middle of notebooks' lines: what fits there, what breaks a cell",
    )
    midline.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    midline.add_argument("--count", type=int, default=300, metavar="N", help="places in all")
    midline.add_argument("--seed", type=int, default=0)
    midline.add_argument("--max-tokens", type=int, default=48, metavar="N")
    add_model_options(midline)
    midline.add_argument("--json", action="store_true", help="print one JSON object")
    midline.set_defaults(run=_midline)

    live = tasks.add_parser(
        "live",
        help="run your own notebooks, and measure what knowing their variables is worth",
    )
    live.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    live.add_argument("--count", type=int, default=200, metavar="N", help="holes in all")
    live.add_argument("--seed", type=int, default=0)
    live.add_argument("--max-tokens", type=int, default=32, metavar="N")
    live.add_argument("--results", type=Path, metavar="FILE", help="file for each row's result")
    add_model_options(live)
    live.add_argument("--json", action="store_true", help="print one JSON object")
    live.set_defaults(run=_live)

    calibration = tasks.add_parser(
        "calibration",
        help="type notebooks, and compare how probable suggestions are said to be with how often they are right",
    )
    calibration.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    calibration.add_argument("--count", type=int, default=600, metavar="N", help="places in all")
    calibration.add_argument("--seed", type=int, default=0)
    calibration.add_argument("--max-tokens", type=int, default=48, metavar="N")
    calibration.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="file for each place's result; a second run continues it",
    )
    calibration.add_argument(
        "--fit",
        type=Path,
        metavar="FILE",
        help="write the curve that fits these places best, as JSON",
    )
    add_model_options(calibration)
    calibration.add_argument("--json", action="store_true", help="print one JSON object")
    calibration.set_defaults(run=_calibration)

    infilling = tasks.add_parser(
        "humaneval-infilling", help="fill holes in HumanEval's functions and run their tests"
    )
    infilling.add_argument("file", type=Path, help="a published .jsonl.gz file")
    _add_options(infilling)
    infilling.set_defaults(run=_infilling)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--order",
        choices=["spm", "psm", "left-to-right"],
        help="suffix first, prefix first, or no suffix at all (default: the model's own)",
    )
    parser.add_argument(
        "--layout",
        choices=["outside", "inside", "jupyter"],
        help="the cells above as a file of their own, inside the prefix, or in StarCoder2's format for notebooks "
        "(default: the model's own)",
    )
    parser.add_argument("--max-tokens", type=int, default=48, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="file for each row's result; a second run continues it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _cut(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation.holes import cut_holes

    rows = cut_holes(_in_python(args.notebooks), count=args.count, seed=args.seed)
    if not rows:
        raise RequestError("These notebooks have no line to make a hole in.")
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    return 0


def _in_python(paths: Iterable[Path]) -> list[tuple[str, tuple[Cell, ...]]]:
    """The names and cells of the notebooks that are in Python."""
    notebooks = [(path.stem, Notebook.from_file(path)) for path in paths]
    return [
        (name, notebook.cells)
        for name, notebook in notebooks
        if canonical(notebook.language) == "python"
    ]


def _holes(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation import holes

    figures = _run(args, holes.evaluate, holes.NEEDED)
    if args.gate:
        thresholds = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
        figures["gate"] = holes.gate_curve(figures["rows"], thresholds)
    return _show(args, figures)


def _live(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation import live
    from jupyter_sc2.evaluation.runner import open_session

    notebooks = _in_python(args.notebooks)
    sources = live.Sources()
    session = open_session(load_options(args), max_tokens=args.max_tokens, namespace=sources)
    try:
        figures = live.evaluate(
            session,
            sources,
            notebooks,
            count=args.count,
            seed=args.seed,
            kept=args.results,
            tell=lambda line: print(line, file=sys.stderr),
        )
    finally:
        session.close()
    if not figures["n"]:
        raise RequestError("These notebooks have no line to make a hole in, or their cells fail.")
    del figures["rows"]
    if args.json:
        print_json(figures)
        return 0
    print(f"{figures['model']}: {figures['n']} holes")
    for kind, ways in figures["by_class"].items():
        for way, row in ways.items():
            print(f"{kind}, {way}: " + ", ".join(f"{key} {row[key]}" for key in row))
    return 0


def _midline(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation import midline
    from jupyter_sc2.evaluation.runner import open_session

    notebooks = [(path.stem, Notebook.from_file(path).cells) for path in args.notebooks]
    rows = midline.cut_places(notebooks, count=args.count, seed=args.seed)
    if not rows:
        raise RequestError("These notebooks have no line to ask in the middle of.")
    session = open_session(load_options(args), max_tokens=args.max_tokens, confidence=None)
    try:
        figures = midline.evaluate(session, rows)
    finally:
        session.close()
    if args.json:
        print_json(figures)
        return 0
    print(f"{figures['model']}: {len(rows)} places")
    for trigger in ("automatic", "invoke"):
        for kind, row in figures[trigger].items():
            print(f"{trigger}, {kind}: " + ", ".join(f"{key} {row[key]}" for key in row))
    for row in figures["broken"]:
        print(f"breaks ({row['trigger']}, {row['kind']}): {row['line']}")
    return 0


def _calibration(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from jupyter_sc2.evaluation import calibration
    from jupyter_sc2.evaluation.runner import open_session

    notebooks = code_of(args.notebooks)
    session = open_session(load_options(args), max_tokens=args.max_tokens)
    try:
        rows = calibration.compare(
            session,
            notebooks,
            count=args.count,
            max_tokens=args.max_tokens,
            seed=args.seed,
            kept=args.results,
            progress="places" if _on_terminal() else None,
        )
        assert session.engine is not None
        known = session.engine.card.calibration
    finally:
        session.close()
    figures: dict[str, Any] = {
        "as the model says": calibration.expected_error(rows, None),
        "calibrated": calibration.expected_error(rows, known),
        "corrected by what is typed": calibration.expected_error(rows, known, corrected=True),
    }
    if args.fit is not None:
        try:
            fitted = calibration.fit(rows)
        except ValueError as error:
            raise RequestError(f"Nothing can be fitted: {error}.") from error
        atomic_write(args.fit, (json.dumps(asdict(fitted)) + "\n").encode())
        figures["fitted"] = calibration.expected_error(rows, fitted)
    if args.json:
        print_json(figures)
        return 0
    for name, row in figures.items():
        print(f"{name}: {row['places']} places, expected calibration error {row['error']}")
        for part in row["curve"]:
            print("  " + "  ".join(f"{key} {value}" for key, value in part.items()))
    return 0


def code_of(paths: Iterable[Path]) -> dict[str, list[str]]:
    """The code cells of each notebook by its path, without blank ones. Raises RequestError if one has none."""
    found = {}
    for path in paths:
        cells = Notebook.from_file(path).cells
        found[str(path)] = [
            cell.source for cell in cells if cell.cell_type == "code" and cell.source.strip()
        ]
        if not found[str(path)]:
            raise RequestError(f"{path} has no code to type.")
    return found


def _infilling(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation import infilling

    return _show(args, _run(args, infilling.evaluate, infilling.NEEDED))


def _run(args: argparse.Namespace, evaluate: Any, needed: tuple[str, ...]) -> dict[str, Any]:
    from jupyter_sc2.evaluation.runner import open_session, read_rows

    rows = read_rows(args.file, needed)[: args.limit]
    session = open_session(
        load_options(args),
        max_tokens=args.max_tokens,
        order=args.order,
        notebook_layout=args.layout,
    )
    try:
        figures: dict[str, Any] = evaluate(
            session, rows, kept=args.results, progress=args.file.name if _on_terminal() else None
        )
    finally:
        session.close()
    return figures


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _show(args: argparse.Namespace, figures: dict[str, Any]) -> int:
    del figures["rows"]  # they are in the file that --results names
    if args.json:
        print_json(figures)
        return 0
    for name, value in figures.items():
        if isinstance(value, dict):
            for kind, group in value.items():
                print(f"{kind}: " + ", ".join(f"{key} {group[key]}" for key in group))
        elif isinstance(value, list):
            for row in value:
                print("  ".join(f"{key} {row[key]}" for key in row))
        else:
            print(f"{name}: {value}")
    return 0
