"""`jupyter sc2 bench`: what typing a notebook costs on this machine."""

from __future__ import annotations

import argparse
import sys
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from jupyter_sc2.commands import add_model_options, load_options, print_json
from jupyter_sc2.errors import RequestError
from jupyter_sc2.prompt.notebook import Notebook


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("bench", help="measure how quick the assistant is")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    replay = tasks.add_parser("replay", help="type notebooks key by key")
    replay.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    replay.add_argument("--keys", type=int, metavar="N", help="stop after N keys of each notebook")
    replay.add_argument("--seed", type=int, default=0)
    replay.add_argument("--max-tokens", type=int, default=48, metavar="N")
    replay.add_argument("--context-tokens", type=int, default=2048, metavar="N")
    add_model_options(replay)
    replay.add_argument("--json", action="store_true", help="print one JSON object")
    replay.set_defaults(run=_replay)


def _replay(args: argparse.Namespace) -> int:
    from jupyter_sc2.completion import CompletionRequest
    from jupyter_sc2.evaluate.replay import replay, slowdown
    from jupyter_sc2.evaluate.runner import open_session
    from jupyter_sc2.evaluate.typist import type_cells

    sources = []
    for path in args.notebooks:
        cells = Notebook.from_file(path).cells
        code = [cell.source for cell in cells if cell.cell_type == "code" and cell.source.strip()]
        if not code:
            raise RequestError(f"{path} has no code to type.")
        sources.append(code)
    session = open_session(
        load_options(args), max_tokens=args.max_tokens, context_tokens=args.context_tokens
    )
    try:
        results = {}
        for path, code in zip(args.notebooks, sources, strict=True):
            events = islice(type_cells(code, Random(args.seed)), args.keys)
            results[str(path)] = replay(session, _with_progress(events, path.name))
        last = "\n".join(chain(*sources))[-500:]
        request = CompletionRequest(text=last, offset=len(last), trigger="invoke")
        status = session.status
        figures: dict[str, Any] = {
            "model": status.model,
            "engine": status.engine,
            "precision": status.precision,
            "notebooks": results,
            "running_cell_takes": slowdown(session, request),
        }
    finally:
        session.close()
    if args.json:
        print_json(figures)
        return 0
    for name, value in figures.items():
        if name != "notebooks":
            print(f"{name}: {value}")
    for path, rows in results.items():
        print(path)
        for name, value in rows.items():
            print(f"  {name}: {value}")
    return 0


def _with_progress(events: Any, name: str) -> Any:
    if not sys.stderr.isatty():
        return events
    from tqdm import tqdm

    return tqdm(events, desc=name, unit="key")
