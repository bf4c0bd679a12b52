"""Measures passes on ONNX Runtime with weights in 8 bits and in 4, in turn, in one process; prints a table.

A large model decodes with weights in 4 bits in either case.

python -m benchmarks.prefill [--model MODEL] [--precision int4] [--threads 2] [--rounds 6] [1 16 128 ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any
from unittest import mock

from benchmarks.precisions import prefill
from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.onnx import int8
from jupyter_sc2.engines.onnx import prefill as in_8_bits

LENGTHS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 1900)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lengths", nargs="*", type=int, default=LENGTHS, metavar="TOKENS")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    wide = load(args)
    with (
        mock.patch.object(in_8_bits, "make", return_value=None),
        mock.patch.object(int8, "make", return_value=None),
    ):
        narrow = load(args)
    print("| tokens | 4 bits, ms | 8 bits, ms | in the same round |\n| --- | --- | --- | --- |")
    for length in args.lengths:
        times: list[list[float]] = []
        for number in range(args.rounds):
            clock = time.perf_counter
            times.append([1e3 * prefill(one, length, clock, number) for one in (narrow, wide)])
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        ratio = statistics.median(slow / quick for slow, quick in times)
        print(f"| {length} | {medians[0]:.0f} | {medians[1]:.0f} | {ratio:.1f} |", flush=True)


def load(args: argparse.Namespace) -> Any:
    return load_engine(
        args.model,
        engine="onnxruntime",
        precision=args.precision,
        threads=args.threads,
        offline=True,
    )


if __name__ == "__main__":
    main()
