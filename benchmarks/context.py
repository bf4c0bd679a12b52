"""Measures what knowing the variables is worth: `python -m benchmarks.context FOLDER [--model MODEL] [--count 200]`.

Needs seaborn and lifelines, whose notebooks and docstrings the embedded model has never seen: they come from the source
archives on PyPI, into FOLDER. Their data ship with lifelines; seaborn's, which it would download, are generated here
(tests/support/frames.py). Each row is written to a file in FOLDER at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from jupyter_sc2.evaluation.live import Sources, evaluate
from jupyter_sc2.evaluation.runner import open_session
from jupyter_sc2.notebook import Cell
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.training.cells import docstring_sessions, notebook_cells
from jupyter_sc2.training.corpus import fetch

# Names with underscores do not count as the user's.
SETUP = """
import warnings as _warnings
_warnings.simplefilter("ignore")
import seaborn as _seaborn
import tests.support.frames as _frames
_seaborn.load_dataset = _frames.load_dataset
del _warnings, _seaborn, _frames
"""


def notebooks(folder: Path) -> list[tuple[str, list[Cell]]]:
    fetch(["seaborn", "lifelines"], folder)
    found = []
    for path in sorted((folder / "seaborn").rglob("*.ipynb")):
        found.append((f"seaborn/{path.stem}", notebook_cells(path.read_text("utf-8"))))
    for path in sorted((folder / "lifelines").rglob("lifelines/*/*.py")):
        for number, cells in enumerate(docstring_sessions(path.read_text("utf-8"))):
            found.append((f"lifelines/{path.stem}-{number}", cells))
    numbered = [
        (
            name,
            [Cell(id=str(n), source=c.source, cell_type=c.cell_type) for n, c in enumerate(cells)],
        )
        for name, cells in found
    ]
    return [(name, cells) for name, cells in numbered if len(cells) > 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    os.environ["MPLBACKEND"] = "Agg"
    warnings.simplefilter("ignore")
    sources = Sources()
    options = LoadOptions(model=args.model, threads=args.threads)
    session = open_session(options, max_tokens=32, namespace=sources)
    figures = evaluate(
        session,
        sources,
        notebooks(args.folder),
        count=args.count,
        seed=args.seed,
        setup=SETUP,
        kept=args.folder / f"context-{Path(args.model).name}-{args.seed}.jsonl",
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    session.close()
    print(f"{figures['model']}, {figures['n']} holes")
    for kind, ways in figures["by_class"].items():
        for way, row in ways.items():
            print(f"{kind:<10} {way:<20} " + "  ".join(f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
