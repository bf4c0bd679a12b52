"""Prints what `plan` predicts for models and precisions beside what is measured then; a Markdown table.

python -m benchmarks.predictions [--threads 1] [--passes 12] MODEL:PRECISION ...

MODEL is a name or a folder. A token is a pass over one, below a hundred; the median of the passes is taken. With
`--threads 1` both are for one thread, and measured is its CPU time, which other processes change little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from benchmarks.precisions import CONTEXT, ids
from jupyter_sc2.engines import load_engine
from jupyter_sc2.models.files import card_and_shape
from jupyter_sc2.models.machine_speed import measure
from jupyter_sc2.models.plan import plan
from jupyter_sc2.runtime.hardware import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", metavar="MODEL:PRECISION")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--passes", type=int, default=12)
    arguments = parser.parse_args()
    here = machine()
    here = replace(here, cores=arguments.threads or here.cores)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    print(
        "| model, precision | predicted, ms a token | measured | difference | loads: predicted, s | measured |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for row in arguments.rows:
        model, _, precision = row.rpartition(":")
        _, shape = card_and_shape(model)
        rows = plan(shape, here, tokens=CONTEXT, precision=precision, speed=measure(here.cores))
        (option,) = [found for found in rows if found.chosen]
        start = time.perf_counter()
        engine = load_engine(model, precision=precision, threads=arguments.threads, offline=True)
        load, times = time.perf_counter() - start, []
        engine.prefill(ids(CONTEXT), lambda: False)
        for count in range(1, arguments.passes + 1):
            begin = clock()
            engine.prefill(ids(CONTEXT + count), lambda: False)
            times.append(1e3 * (clock() - begin))
        engine.close()
        predicted, measured = option.ms_per_token, statistics.median(times)
        print(
            f"| {model}, {precision} | {predicted:.1f} | {measured:.1f} | {predicted / measured - 1:+.0%} "
            f"| {option.load_seconds:.1f} | {load:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
