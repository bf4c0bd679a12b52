"""Writes the notebooks that certainty is compared on: `python -m benchmarks.calibration_notebooks NOTEBOOKS FOLDER`,
then `jupyter sc2 eval calibration FOLDER/*.ipynb`.

NOTEBOOKS is a file of public notebooks as `jupyter sc2 train --notebooks` reads it. Of its repositories those are taken
that the embedded model is not trained on for this purpose.
"""

from __future__ import annotations

import argparse
import lzma
from collections import Counter
from pathlib import Path

import nbformat

from jupyter_sc2.training.corpus import FOR_CALIBRATION, is_enough, parse_document
from jupyter_sc2.training.document import Document


def is_wanted(document: Document) -> bool:
    return document.package in FOR_CALIBRATION and is_enough(document)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    written: Counter[str] = Counter()
    with lzma.open(args.notebooks) as lines:
        documents = [document for document in map(parse_document, lines) if is_wanted(document)]
    for document in documents:
        cells = [cell.source for cell in document.cells if cell.cell_type == "code"]
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
        name = document.package.rpartition("/")[2]
        written[name] += 1
        nbformat.write(notebook, args.folder / f"{name}-{written[name]}.ipynb")
    print(f"{written.total()} notebooks: {dict(written)}")


if __name__ == "__main__":
    main()
