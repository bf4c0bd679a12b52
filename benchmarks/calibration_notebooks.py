"""Writes the notebooks that certainty is compared on: `python -m benchmarks.calibration_notebooks NOTEBOOKS FOLDER`,
then `jupyter sc2 eval calibration FOLDER/*.ipynb`.

NOTEBOOKS is a file of public notebooks as `jupyter sc2 train --notebooks` reads it. Of its repositories those are taken
that the embedded model is not trained on for this purpose.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.holes import write_notebook
from jupyter_sc2.training.corpus import FOR_CALIBRATION, read_notebooks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    written: Counter[str] = Counter()
    for document in read_notebooks(args.notebooks, FOR_CALIBRATION):
        name = document.package.rpartition("/")[2]
        written[name] += 1
        write_notebook(document.cells, args.folder / f"{name}-{written[name]}.ipynb")
    print(f"{written.total()} notebooks: {dict(written)}")


if __name__ == "__main__":
    main()
