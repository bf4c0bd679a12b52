"""Cuts the holes of the model card: `python -m benchmarks.holes FOLDER > rows.jsonl`, then `jupyter sc2 eval holes
rows.jsonl`.

They are cut into the notebooks of the packages that the embedded model was never trained on. These come from the source
archives on PyPI, into FOLDER, in the versions that the model's `sources.json` names. With `--notebooks FOLDER`, ten of
these notebooks are written there instead, of 1,000 to 4,500 characters of code each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from jupyter_sc2.evaluation.holes import cut_holes
from jupyter_sc2.models.cards import SHIPPED_MODEL
from jupyter_sc2.notebook import Cell
from jupyter_sc2.training.corpus import HELD_OUT, Filter, fetch, read_tree, unpacked
from jupyter_sc2.training.overlap import Fragments

# Chosen by chance among the notebooks that have 1,000 to 4,500 characters of code in five cells or more.
TEN = (1, 22, 24, 56, 76, 77, 81, 82, 89, 92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notebooks", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    sources = json.loads((SHIPPED_MODEL / "sources.json").read_text())
    fetch([f"{s['name']}=={s['version']}" for s in sources if s["name"] in HELD_OUT], args.folder)
    documents = [
        document
        for root, source in unpacked(args.folder)
        if source.name in HELD_OUT
        for document in read_tree(root, source.name)
        if document.kind == "notebook"
    ]
    documents.sort(key=lambda document: document.package)
    kept = filter(Filter(Fragments(())), documents)
    notebooks = [(f"{d.package}{number}", d.cells) for number, d in enumerate(kept)]
    if args.notebooks is not None:
        write_ten(notebooks, args.notebooks)
        return
    for row in cut_holes(notebooks, count=args.count, seed=args.seed):
        print(json.dumps(row, ensure_ascii=False))


def write_ten(notebooks: list[tuple[str, tuple[Cell, ...]]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in TEN:
        name, cells = notebooks[number]
        write_notebook(cells, folder / f"{name}.ipynb")


def write_notebook(cells: Sequence[Cell], file: Path) -> None:
    """Writes the code cells that are not blank."""
    import nbformat

    code = [cell.source for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, code)))
    nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
