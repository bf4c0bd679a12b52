"""Draws what a kernel took during a soak: `python -m benchmarks.memory_curve CURVE.svg NAME=FILE.csv…`.

The files are those of `benchmarks.front_ends soak --csv`. Above the memory by request, below descriptors and threads;
of llama.cpp the kernel and its process are one line each.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help=".svg or .png")
    parser.add_argument("curves", nargs="+", metavar="NAME=FILE.csv")
    args = parser.parse_args()
    draw(args.picture, {name: read(Path(file)) for name, file in map(_split, args.curves)})


def _split(text: str) -> tuple[str, str]:
    name, _, file = text.rpartition("=")
    return name, file


def read(file: Path) -> dict[str, list[float]]:
    """The columns of a table by name."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def draw(picture: Path, curves: dict[str, dict[str, list[float]]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    # Text as text, and no date or random names: a small file that changes only with the figures.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sc2", "font.size": 9})
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 4.5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    colours = iter(pyplot.rcParams["axes.prop_cycle"].by_key()["color"])
    for name, columns in curves.items():
        for prefix, whose in (("", "kernel"), ("llamacpp ", "llama.cpp's process")):
            if not any(columns[f"{prefix}memory"]):
                continue
            at, colour = columns["requests"], next(colours)
            above.plot(at, columns[f"{prefix}memory"], color=colour, label=f"{name}: {whose}")
            below.plot(at, columns[f"{prefix}descriptors"], color=colour)
            below.plot(at, columns[f"{prefix}threads"], color=colour, linestyle=":")
    above.set(ylabel="resident memory, MB", ylim=(0, None))
    above.legend(loc="lower right", frameon=False)
    below.set(ylabel="descriptors; dotted:\nthreads", xlabel="requests", ylim=(0, None))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    metadata = {"Date": None} if picture.suffix == ".svg" else None
    figure.savefig(picture, metadata=metadata, dpi=120)


if __name__ == "__main__":
    main()
