"""Joins the pieces that came back from the other machine, and checks the result.

    python -m scripts.gpu.collect FOLDER… --packed runs/lease --to runs/lease/model

Each FOLDER has what one call gave back. Each result whose pieces are all there and intact is written as a folder with a
model. The newest one's loss is measured on the rows that were measured there, and it completes a few lines. If only its
bf16 weights are there, they are rounded here. The last line says what to do next.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu import tree
from scripts.gpu.limits import mib
from scripts.gpu.pack import MANIFEST
from scripts.gpu.pieces import Damaged, Piece, join, read_json, replace
from scripts.gpu.run import LOG, STATUS

# Both sides compute in bf16; the difference between a GPU and a CPU came to less than a third of it.
TOLERANCE = 0.01
LINES = (
    "import numpy as ",
    "import matplotlib.pyplot as ",
    "with open('data.txt') as ",
    "for i, value in enum",
    "def mean(values):\n    return sum(values) / ",
)


def gather(folders: Sequence[Path]) -> dict[str, Any]:
    """The status of the latest call, with the pieces and results of all calls."""
    found = [s for folder in folders if (s := read_json(folder / STATUS)) is not None]
    if not found:
        raise SystemExit(f"No {STATUS} in {', '.join(map(str, folders))}.")
    found.sort(key=lambda status: status["time"])
    last: dict[str, Any] = {**found[-1], "pieces": {}, "results": {}}
    for status in found:
        last["pieces"] |= status["pieces"]
        last["results"] |= status["results"]
    return last


def put_together(
    status: dict[str, Any], folders: Sequence[Path], to: Path, start: Path
) -> list[str]:
    """Writes each complete result to TO/NAME; returns their names, newest first. Prints what the others lack."""
    made = []
    for name, result in sorted(status["pieces"].items(), key=order, reverse=True):
        pieces = [Piece(**row) for row in result["pieces"]]
        target = to / name
        target.mkdir(parents=True, exist_ok=True)
        try:
            join(pieces, folders, target / "model.safetensors", result["sha256"])
        except Damaged as error:
            print(f"{name}: {error}")
            if not any(target.iterdir()):
                target.rmdir()
            continue
        for file, text in result["files"].items():
            replace(target / file, text.encode())
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(start / file, target / file)
        print(f"{name}: complete, {mib(result['bytes'])}")
        made.append(name)
    return made


def order(item: tuple[str, Any]) -> tuple[str, bool]:
    """A key that sorts results by their steps, and for one step those in 4 bits after those in bf16."""
    form, _, step = item[0].partition("-")
    return step, form == "packed"


def complete(model: Path) -> list[str]:
    """A few lines, completed with this model by a session of the package."""
    from jupyter_sc2.evaluation.runner import open_session
    from jupyter_sc2.options import LoadOptions
    from jupyter_sc2.types import CompletionRequest

    session = open_session(LoadOptions(model=str(model)), max_tokens=12)
    try:
        completed = []
        for line in LINES:
            *_, answer = session.complete(CompletionRequest(text=line, offset=len(line)))
            completed.append(f"{line.splitlines()[-1]}|{answer.text}")
        return completed
    finally:
        session.close()


def check(model: Path, expected: dict[str, Any] | None, rows: Any) -> bool:
    """Whether the model has the same loss here as there; true if that is not known."""
    from scripts.gpu.there import loss_of

    found = loss_of(model, rows, "cpu")
    print(f"loss here {found}, there {expected}")
    if not expected or expected["held_out"] is None or found["held_out"] is None:
        return True
    return abs(found["held_out"] - expected["held_out"]) <= TOLERANCE


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--packed", type=Path, required=True, help="what pack.py wrote")
    parser.add_argument("--start", type=Path, default=tree.ROOT / "jupyter_sc2/embedded/model")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--no-lines", action="store_true", help="complete no lines")
    args = parser.parse_args(argv)
    status = gather(args.folders)
    made = put_together(status, args.folders, args.to, args.start)
    if not made:
        log = next((f"; see {f / LOG}" for f in args.folders if (f / LOG).exists()), "")
        print(f"No result is complete. Fetch what is missing (run.py fetch --again NAME…){log}.")
        return 1
    newest = made[0]
    form, _, step = newest.partition("-")
    figures = status["results"].get(step, {})
    manifest = read_json(args.packed / MANIFEST)
    piece = next(row for row in manifest["pieces"] if row["kind"] == "rows")
    path = args.packed / f"transfer-{piece['transfer']}" / piece["name"]
    rows = json.loads(lzma.decompress(path.read_bytes()))
    print(
        f"step {figures.get('step')}, {figures.get('tokens')} tokens; loss of the start "
        f"{figures.get('start_loss')}, in bf16 {figures.get('master_loss')}"
    )
    model = args.to / newest
    good = check(model, figures.get(f"{form}_loss"), rows["measured"])
    from jupyter_sc2.engines.onnx.graph import write_graph

    if form == "master":
        from jupyter_sc2.engines.onnx.packing import pack

        model = args.to / f"packed-{step}"
        print("only bf16 weights came back: they are rounded here")
        pack(args.to / newest, model, rows["pack"])
        check(model, None, rows["measured"])
    write_graph(model)
    if not args.no_lines:
        print("\n".join(complete(model)))
    if not good:
        print(f"{model} has another loss here than there: do not ship it.")
        return 1
    print(
        f"next: jupyter sc2 eval holes ROWS.jsonl --model {model}, and the same with the start weights; "
        f"to ship it, copy model.safetensors, config.json and training.json over those in {args.start}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
