"""Writes notebooks that the embedded model has not read, for `jupyter sc2 eval calibration FOLDER/*.ipynb`:

    python -m benchmarks.calibration_notebooks FOLDER --notebooks FILE     which certainty is fitted on
    python -m benchmarks.calibration_notebooks FOLDER --archives FOLDER    which it is compared on

FILE has public notebooks as `jupyter sc2 train --notebooks` reads it; taken are the repositories that the model is not
trained on for this purpose. The others are the notebooks in the source archives of packages of which its corpus has
nothing; the archives are fetched from PyPI into the second folder.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.holes import write_notebook
from jupyter_sc2.errors import RequestError
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.training.corpus import FOR_CALIBRATION, fetch, read_notebooks

UNREAD = [
    "allesfitter==1.0.8",
    "celerite==0.4.3rc3",
    "colorcet==3.2.1rc0",
    "coolprop==6.8.0",
    "iminuit==2.29.0",
    "juliet==2.2.1",
    "mofapy2==0.6.2",
    "poliastro==0.9.1",
    "ptitprince==0.3.1",
    "pygenomeviz==1.4.1",
    "pytorch-ignite==0.6.0.dev20260923",
    "rioxarray==0.2.0",
    "sherpa==4.10.1",
    "sits==0.6.8",
]
MIN_CELLS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--notebooks", type=Path, metavar="FILE")
    source.add_argument("--archives", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = of_repositories(args.notebooks) if args.notebooks else of_packages(args.archives)
    written: Counter[str] = Counter()
    for name, cells in found:
        written[name] += 1
        write_notebook(cells, args.folder / f"{name}-{written[name]}.ipynb")
    print(f"{written.total()} notebooks: {dict(written)}")


def of_repositories(file: Path) -> Iterable[tuple[str, tuple[Cell, ...]]]:
    for document in read_notebooks(file, FOR_CALIBRATION):
        yield document.package.rpartition("/")[2], document.cells


def of_packages(archives: Path) -> Iterable[tuple[str, tuple[Cell, ...]]]:
    fetch(UNREAD, archives)
    for pinned in UNREAD:
        for file in sorted((archives / pinned).rglob("*.ipynb")):
            if ".ipynb_checkpoints" in file.parts:
                continue
            try:
                cells = Notebook.from_file(file).cells
            except RequestError:  # an empty file
                continue
            code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
            if len(code) >= MIN_CELLS:
                yield pinned.partition("==")[0], tuple(code)


if __name__ == "__main__":
    main()
