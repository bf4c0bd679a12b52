"""`jupyter sc2 …`: complete a file, list the models, train the small one.

Exit status 0 on success, 1 with one clear line on stderr for what the user can mend, never a traceback. With
`--json` stdout carries one object and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jupyter_sc2.completion import Completion, CompletionRequest, SamplingParams
from jupyter_sc2.errors import RequestError, SC2Error
from jupyter_sc2.models import CARDS, EMBEDDED, EMBEDDED_FOLDER, ModelCard
from jupyter_sc2.prompt.notebook import Notebook
from jupyter_sc2.settings import PRECISIONS, CompletionOptions, LoadOptions

LANGUAGE_BY_ENDING = {
    ".py": "python",
    ".r": "r",
    ".jl": "julia",
    ".js": "javascript",
    ".ts": "typescript",
    ".scala": "scala",
    ".sh": "bash",
    ".sql": "sql",
}


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except SC2Error as error:
        print(f"jupyter sc2: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("jupyter sc2: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter sc2", description="Code completion for Jupyter from a model on this machine."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    complete = commands.add_parser(
        "complete", help="complete a cell of a notebook, or a source file"
    )
    complete.add_argument(
        "file", type=Path, help="an .ipynb notebook, or a source file, which counts as one cell"
    )
    complete.add_argument(
        "--cell", type=int, help="which cell, counted from 0 (default: the last code cell)"
    )
    complete.add_argument(
        "--offset",
        type=int,
        help="the cursor, in characters from the cell's start (default: its end)",
    )
    complete.add_argument(
        "--model", default=EMBEDDED.name, help="a name, a hub id or a folder (default: %(default)s)"
    )
    complete.add_argument(
        "--engine", choices=["transformers"], default="transformers", help="what runs the model"
    )
    complete.add_argument("--precision", choices=PRECISIONS, default="auto")
    complete.add_argument("--max-tokens", type=int, default=64, metavar="N")
    complete.add_argument("--temperature", type=float, default=0.0, metavar="T")
    complete.add_argument("--candidates", type=int, default=1, metavar="N")
    complete.add_argument("--seed", type=int)
    complete.add_argument("--offline", action="store_true", help="never use the network")
    complete.add_argument("--json", action="store_true", help="print one JSON object")
    complete.set_defaults(run=_complete)

    models = commands.add_parser(
        "models", help="list the models that are known, and which are on this disk"
    )
    models.add_argument("--json", action="store_true", help="print a JSON list")
    models.set_defaults(run=_models)

    train = commands.add_parser("train", help="train the small embedded model from scratch")
    train.add_argument(
        "corpus",
        type=Path,
        help="a folder for the training text; gathered from PyPI if it is empty",
    )
    train.add_argument(
        "output", type=Path, help="a folder for the model; a run that was cut off goes on there"
    )
    train.add_argument(
        "--minutes", type=float, default=60.0, help="how long to train (default: %(default)s)"
    )
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train)
    return parser


def _complete(args: argparse.Namespace) -> int:
    from jupyter_sc2.session import Session

    request = _read_request(args)
    session = Session(
        options=CompletionOptions(sampling=request.sampling or SamplingParams()),
        load_options=LoadOptions(model=args.model, precision=args.precision, offline=args.offline),
    )
    try:
        session.load()
        session.wait_ready()
        latest: dict[int, Completion] = {}
        for update in session.complete(request):
            latest[update.index] = final = update
    finally:
        session.close()
    candidates = [latest[index] for index in sorted(latest)]
    if args.json:
        first = candidates[0]
        _print_json(
            {
                "text": first.text,
                "finish_reason": final.finish_reason,
                "reason": final.reason,
                "source": final.source,
                "model": final.model,
                "engine": final.engine,
                "candidates": [
                    {"text": c.text, "mean_logprob": c.mean_logprob} for c in candidates
                ],
                "stats": asdict(final.stats),
            }
        )
    else:
        for completion in candidates:
            print(completion.text)
    return 0


def _read_request(args: argparse.Namespace) -> CompletionRequest:
    path: Path = args.file
    notebook, cell_id, language = Notebook(), None, "python"
    if path.suffix == ".ipynb":
        notebook = Notebook.from_file(path)
        cell = _pick_cell(notebook, args.cell, path)
        text, cell_id = cell.source, cell.id
    else:
        if args.cell is not None:
            raise RequestError(f"--cell is for notebooks; {path} counts as one cell.")
        text = _read_text(path)
        language = LANGUAGE_BY_ENDING.get(path.suffix.lower(), "text")
    return CompletionRequest(
        text=text,
        offset=len(text) if args.offset is None else args.offset,
        notebook=notebook,
        cell_id=cell_id,
        language=language,
        trigger="invoke",
        candidates=args.candidates,
        sampling=SamplingParams(
            max_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed
        ),
    )


def _pick_cell(notebook: Notebook, index: int | None, path: Path) -> Any:
    count = len(notebook.cells)
    if index is None:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if not code:
            raise RequestError(f"{path} has no code cell.")
        return code[-1]
    if not 0 <= index < count:
        raise RequestError(f"{path} has {count} cells, numbered from 0; there is no cell {index}.")
    return notebook.cells[index]


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def _models(args: argparse.Namespace) -> int:
    rows = [_row(card) for card in CARDS.values()]
    if args.json:
        _print_json(rows)
        return 0
    for row in rows:
        size = row["disk_bytes"]
        where = f"{size / 1e6:,.0f} MB on this disk" if size else "not on this disk"
        print(
            f"{row['name']:<15} {row['parameters']:>3}  {row['licence']:<20} {where}\n    {row['note']}"
        )
    return 0


def _row(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "hub_id": card.hub_id,
        "parameters": card.parameters,
        "licence": card.licence,
        "context": card.context,
        "window": card.window,
        "disk_bytes": _bytes_on_disk(card),
        "note": card.note,
    }


def _bytes_on_disk(card: ModelCard) -> int:
    folder = EMBEDDED_FOLDER
    if card.hub_id is not None:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(card.hub_id, "config.json", revision=card.revision)
        if not isinstance(config, str):
            return 0
        folder = Path(config).parent
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _train(args: argparse.Namespace) -> int:
    from jupyter_sc2.embedded.train import train

    train(corpus=args.corpus, output=args.output, minutes=args.minutes, seed=args.seed)
    return 0


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
