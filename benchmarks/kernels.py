"""Measures what the default model adds to a kernel: `python -m benchmarks.kernels [ENGINE]`; on Linux.

Memory compared with no model (resident, its own, and PSS for each of five kernels), with the model loaded and with
2,040 tokens in its cache; how long the load takes, and how soon after a kernel's first idle there is text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.guest import START
from tests.support.kernels import FrontEnd

KERNELS = 5
FILL = """
_e = next(iter(__import__('jupyter_sc2').extension._running.values())).session.engine
_t = '\\n'.join(f'value_{i} = df["col{i}"].mean() + {i}' for i in range(400))
_e.prefill(_e.encode(_t)[:2040], lambda: False)
del _e, _t
"""
TEXT = "import matplotlib.pyplot as "


class Kernel:
    def __init__(self) -> None:
        self.front = FrontEnd()
        cell = self.front.start("import os; print(os.getpid())")
        self.front.finish(cell, 60)
        self.pid = int(self.front.text(cell))

    def memory(self) -> dict[str, float]:
        """In MB: resident memory, the anonymous part of it, and the kernel's share (PSS)."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        size = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines}
        return {"resident": size["Rss"], "own": size["Anonymous"], "share": size["Pss"]}

    def first_text(self, engine: str) -> tuple[float, float]:
        """Loads the model and sends a request at once: seconds to the first text, and seconds that the load took."""
        began = time.monotonic()
        self.front.run(START.format(engine=engine, model="embedded", threads=0))
        comm = self.front.open()
        comm.say({"type": "hello"})
        comm.say(
            {"type": "notebook", "rev": 1, "cells": [{"id": "a", "source": ""}], "active": "a"}
        )
        asked = {"type": "complete", "id": "t1", "text": TEXT, "offset": len(TEXT)}
        comm.say({**asked, "cell_id": "a"})

        def found() -> list[dict]:
            return [m for m in comm.messages if m["content"]["data"].get("text")]

        text = self.front.wait(found, 60)[0]["time"] - began
        loads = [m["content"]["data"].get("seconds") or 0 for m in comm.messages]
        return text, max(loads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", nargs="?", default="auto")
    args = parser.parse_args()
    Kernel().first_text(args.engine)  # fills the caches for later kernels
    kernels = [Kernel() for _ in range(KERNELS)]
    before = [kernel.memory() for kernel in kernels]
    times = [kernel.first_text(args.engine) for kernel in kernels]
    time.sleep(2)
    rows = {"loaded": [kernel.memory() for kernel in kernels]}
    for kernel in kernels:
        kernel.front.run(FILL)
    time.sleep(2)
    rows["2,040 tokens"] = [kernel.memory() for kernel in kernels]
    print("\n| | resident, more than without | its own | share of each of five, with Python's |")
    print("|---|---|---|---|")
    for name, now in rows.items():
        more = {
            kind: statistics.median(n[kind] - b[kind] for n, b in zip(now, before, strict=True))
            for kind in ("resident", "own")
        }
        share = statistics.mean(one["share"] for one in now)
        print(f"| {name} | {more['resident']:.0f} MB | {more['own']:.0f} MB | {share:.0f} MB |")
    text, load = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"\nfirst text {text:.2f} s after the first idle, load {load:.2f} s (medians of five)")
    for kernel in kernels:
        kernel.front.close()


if __name__ == "__main__":
    main()
