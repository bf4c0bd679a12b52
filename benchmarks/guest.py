"""Measures the model as a guest in the user's kernel: `python -m benchmarks.guest [ENGINE ...]`.

Its cost: how much longer a pure-Python loop, and matrix products on all cores, take in a cell while five requests a
second come, either one per key or each for another line of some 30 new tokens. Rounds with and without requests
alternate, in one kernel.

Its speed: how soon the first text comes after a pause in typing on a quiet machine, beside two busy processes, and
beside a cell that runs such a loop or such products, and at how many of the pauses within 2 s.

The model is the embedded one; `--model` selects another. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from benchmarks.embedded import LINES
from jupyter_sc2.usage import percentile
from tests.support.kernels import Comm, FrontEnd

START = """
_c = get_ipython().config.SC2
_c.engine, _c.model, _c.threads, _c.offline = {engine!r}, {model!r}, {threads}, True
_c.confidence, _c.grounding = 0.0, False
from jupyter_sc2 import extension as _e
_e.load(get_ipython())
del _c, _e
import time
"""
# Cells that take some seconds on two cores; each prints how long it took.
LOOP = """
_began = time.perf_counter()
_sum = 0
for _i in range({count}):
    _sum += _i * _i
print(time.perf_counter() - _began)
"""
PRODUCTS = """
import numpy
_a = numpy.random.default_rng(0).random((1500, 1500))
_began = time.perf_counter()
for _ in range({count}):
    _a @ _a
print(time.perf_counter() - _began)
"""
CELLS = (("a pure-Python loop", LOOP, 2_000_000), ("matrix products on all cores", PRODUCTS, 4))
# The same in endless loops.
ENDLESS = {
    "a pure-Python loop": "_i = 0\nwhile True:\n    _i += 1",
    "matrix products on all cores": "import numpy\n_a = numpy.random.random((1500, 1500))\nwhile True:\n    _a @ _a",
}
BUSY = "while True: pass"
REQUESTS_PER_SECOND = 5
SOON_S = 2.0
# The cell above, about 1,000 tokens.
ABOVE = "\n".join(
    f"table_{number} = pd.read_csv('measurements_{number}.csv').groupby('station').mean()"
    for number in range(40)
)


class Typist:
    """A front end with a notebook whose requests are all different."""

    def __init__(self, front: FrontEnd) -> None:
        self.comm: Comm = front.open()
        self._front = front
        self._count = self._lines = 0
        self._text = self._ahead = ""  # of the line that is typed
        self.comm.say({"type": "hello"})
        self.comm.wait_for(type="status", state="ready", timeout=120)
        cells = [{"id": "a", "source": f"import pandas as pd\n{ABOVE}"}, {"id": "b", "source": ""}]
        self.comm.say({"type": "notebook", "rev": 1, "cells": cells, "active": "b"})

    def ask(self) -> str:
        """Sends a request for a line that no cache knows; returns its id."""
        self._lines += 1
        _, before, typed = LINES[self._lines % len(LINES)]
        return self._send(f"step_{self._lines} = {self._lines}\n{before}{typed}")

    def type_key(self) -> str:
        """Types the next character and sends a request; returns its id."""
        if not self._ahead:
            self._lines += 1
            _, before, typed = LINES[self._lines % len(LINES)]
            self._text, self._ahead = f"step_{self._lines} = {self._lines}\n{before}", typed
        self._text, self._ahead = self._text + self._ahead[0], self._ahead[1:]
        return self._send(self._text)

    def _send(self, text: str) -> str:
        self._count += 1
        id = f"t{self._count}"
        message = {"type": "complete", "id": id, "text": text, "offset": len(text), "cell_id": "b"}
        self.comm.say(message)
        return id

    def first_text(self, within: float) -> float | None:
        """Milliseconds from the request to the first text; None if there is none within so many seconds."""
        began = time.monotonic()
        id = self.ask()

        def found() -> list[dict]:
            return [
                m
                for m in self.comm.messages
                if m["content"]["data"].get("id") == id
                and (m["content"]["data"].get("text") or m["content"]["data"].get("finish_reason"))
            ]

        try:
            message = self._front.wait(found, within)[0]
        except AssertionError:
            return None
        if not message["content"]["data"].get("text"):
            return None
        return (message["time"] - began) * 1000

    @contextmanager
    def asking(self, ask: Callable[[], str]) -> Iterator[None]:
        """Calls the function five times a second inside the block."""
        stop = threading.Event()

        def type_on() -> None:
            while not stop.wait(1 / REQUESTS_PER_SECOND):
                ask()

        thread = threading.Thread(target=type_on)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def seconds(front: FrontEnd, code: str) -> float:
    """The duration that a cell prints."""
    cell = front.start(code)
    front.finish(cell, 300)
    return float(front.text(cell))


def calibrated(front: FrontEnd, code: str, count: int, wanted: float) -> str:
    """The cell, with a count that makes it take about so many seconds."""
    seconds(front, code.format(count=count))
    took = seconds(front, code.format(count=count))
    return code.format(count=max(1, int(count * wanted / took)))


def slowed(front: FrontEnd, typist: Typist, rounds: int, wanted: float) -> None:
    for name, code, count in CELLS:
        cell = calibrated(front, code, count, wanted)
        alone: list[float] = []
        kinds = {typist.type_key: list[float](), typist.ask: list[float]()}
        for _ in range(rounds):
            for ask, shares in kinds.items():
                alone.append(seconds(front, cell))
                with typist.asking(ask):
                    shares.append(seconds(front, cell) / alone[-1])
                time.sleep(1)
        longer = " | ".join(spread(shares) for shares in kinds.values())
        print(f"| {name} | {statistics.median(alone):.2f} s | {longer} |", flush=True)


def spread(shares: list[float]) -> str:
    middle, least, most = (
        f"{100 * (share - 1):+.0f}"
        for share in (statistics.median(shares), min(shares), max(shares))
    )
    return f"{middle} % ({least} to {most})"


@contextmanager
def busy_processes(count: int = 2) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def running(front: FrontEnd, code: str) -> Iterator[None]:
    cell = front.start(code)
    time.sleep(1)
    try:
        yield
    finally:
        front.interrupt(cell)


def waited(front: FrontEnd, typist: Typist, pauses: int) -> None:
    scenes: list[tuple[str, Callable[[], object]]] = [
        ("a quiet machine", nullcontext),
        ("two busy processes", busy_processes),
        *(
            (f"a cell: {name}", lambda code=code: running(front, code))
            for name, code in ENDLESS.items()
        ),
    ]
    for name, scene in scenes:
        with scene():  # type: ignore[attr-defined]
            times = []
            for _ in range(pauses):
                time.sleep(1)
                times.append(typist.first_text(10))
        shown = sorted(time for time in times if time is not None)
        soon = sum(time <= SOON_S * 1000 for time in shown)
        p50, p90 = percentile(shown, 0.5), percentile(shown, 0.9)
        said = "never" if p50 is None or p90 is None else f"{p50:.0f} ms | {p90:.0f} ms"
        print(f"| {name} | {said} | {soon} of {pauses} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", default=["auto"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int, default=0, help="the setting")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pauses", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="that a cell takes alone")
    args = parser.parse_args()
    for engine in args.engines:
        front = FrontEnd()
        try:
            start = START.format(engine=engine, model=args.model, threads=args.threads)
            front.run(start)
            typist = Typist(front)
            typist.first_text(30)
            print(f"\n{args.model} on {engine}\n")
            print("| beside | first text p50 | p90 | within 2 s |\n|---|---|---|---|")
            waited(front, typist, args.pauses)
            print(
                "\n| cell | alone | longer while five keys a second are typed | while five lines are |"
            )
            print("|---|---|---|---|")
            slowed(front, typist, args.rounds, args.seconds)
        finally:
            front.close()


if __name__ == "__main__":
    main()
