"""`jupyter sc2 complete`: one completion for a cell of a notebook, or for a source file."""

from __future__ import annotations

import argparse
import io
import sys
import tokenize
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jupyter_sc2.cli.options import add_model_options, load_options, print_json
from jupyter_sc2.errors import RequestError, SettingsError
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.runtime.bounded_read import MAX_INPUT_BYTES, up_to
from jupyter_sc2.settings import SC2
from jupyter_sc2.source.languages import not_asked, of_file
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("complete", help="complete a cell of a notebook, or a source file")
    parser.add_argument(
        "file", type=Path, help="an .ipynb notebook, or a source file, which counts as one cell"
    )
    parser.add_argument(
        "--cell", type=int, help="which cell, counted from 0 (default: the last code cell)"
    )
    parser.add_argument(
        "--offset",
        type=int,
        help="the cursor, in characters from the cell's start (default: its end)",
    )
    add_model_options(parser, "max_tokens", "temperature", "seed")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T")
    parser.add_argument("--candidates", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_complete)


def _complete(args: argparse.Namespace) -> int:
    from jupyter_sc2.attribution.check import Checker
    from jupyter_sc2.pipeline.session import Session

    request = _read_request(args)
    session = Session(
        options=_completion_options(args, request.sampling or SamplingParams()),
        load_options=load_options(args),
        attributor=Checker(),
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
        print_json(
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
                "attribution": [asdict(one) for one in first.attribution],
                "stats": asdict(final.stats),
            }
        )
    else:
        for completion in candidates:
            print(completion.text)
            for one in completion.attribution:
                print(f"May come from {one}", file=sys.stderr)
    if final.reason == "other_language":
        print(not_asked(request, final.model), file=sys.stderr)
    return 0


def _completion_options(args: argparse.Namespace, sampling: SamplingParams) -> CompletionOptions:
    """The options of a kernel with the same config. Raises SettingsError where that forbids completion."""
    # Without a config the command samples from all tokens, and a kernel from the most likely ones.
    settings = SC2(**{"top_p": sampling.top_p, **args.configured})
    if not settings.allowed:
        raise SettingsError(
            "The configuration forbids completion (SC2.allowed): ask who administers this machine."
        )
    configured = settings.completion_options()
    sampling = replace(sampling, top_k=settings.top_k, top_p=settings.top_p)
    return replace(configured, sampling=sampling)


def _read_request(args: argparse.Namespace) -> CompletionRequest:
    path: Path = args.file
    notebook, cell_id, language = Notebook(), None, "python"
    if path.suffix == ".ipynb":
        notebook = Notebook.from_file(path)
        cell = _pick_cell(notebook, args.cell, path)
        text, cell_id, language = cell.source, cell.id, notebook.language
    else:
        if args.cell is not None:
            raise RequestError(f"--cell is for notebooks; {path} counts as one cell.")
        text = _read_text(path)
        language = of_file(path.name)
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
    encoding = "utf-8-sig"
    try:
        with path.open("rb") as file:
            data = up_to(MAX_INPUT_BYTES, file)
        if of_file(path.name) == "python":
            encoding = _encoding(path, data)
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding
        raise RequestError(f"{path} is not {name} text (byte {error.start}).") from error


def _encoding(path: Path, data: bytes) -> str:
    """The encoding that a Python file names in its first lines (PEP 263), else UTF-8."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError as error:
        if isinstance(error.__context__, UnicodeDecodeError):  # none is named
            return "utf-8-sig"
        raise RequestError(f"{path} cannot be read: {error.msg}.") from error
