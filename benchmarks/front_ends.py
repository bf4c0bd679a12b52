"""Measures several front ends at one kernel: `python -m benchmarks.front_ends share` or `soak`; on Linux.

`share`: six front ends, each with a notebook of its own, one of which types ten times as fast. How many texts each
gets, compared with its fair share: as many as it requested, but no more than the same limit for all.

`soak`: a number of requests from three front ends in large notebooks that change all the time. How many of them got a
last message, why, and when the last one came; meanwhile the memory, descriptors and threads of the kernel and of the
process that runs llama.cpp (`--engine llamacpp`). `--csv FILE` writes these by request, and `benchmarks.memory_curve`
draws them. 10,000 requests take nine minutes at the default rate.

The model is the embedded one. Exits with 1 if a front end got less than half of its share, if a request got no last
message, or two, or if memory, descriptors or threads grew after the first thousand requests, of two thousand or more.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import psutil

from benchmarks.embedded import LINES
from benchmarks.guest import START
from tests.support.kernels import FrontEnd

SLOW, FAST = 1.0, 10.0  # keys a second
LOST_AFTER_S = 600.0  # before the last answers count as lost
SAMPLES = 200  # of a soak
SETTLED = 1000  # requests after which nothing is to grow any more
# How much more the last quarter of what follows may take than the first: memory as a share, and numbers.
MAX_GROWTH, MAX_MORE = 0.03, 2
HELPER = "jupyter_sc2.engines.llamacpp.server"


class Window:
    """A front end with a notebook, and the answers to each of its requests."""

    def __init__(self, kernel: FrontEnd, name: str, cells: int, lines: int, chance: random.Random):
        self.name = name
        self.comm = kernel.open()
        self.asked: dict[str, float] = {}
        self.finals: dict[str, list[dict]] = {}
        self._chance = chance
        self._lines = lines
        self._count = 0
        self._rev = 0
        self._text = self._ahead = ""
        self._cells = {f"{name}-{n}": self._source() for n in range(cells)}
        self.comm.say({"type": "hello"})
        self._tell(list(self._cells), whole=True)

    def type_key(self) -> None:
        """Types the next character in the last cell, and asks there."""
        if not self._ahead:
            _, before, typed = self._chance.choice(LINES)
            self._text = f"step_{self._count} = {self._count}\n{before}"
            self._ahead = typed
        self._text, self._ahead = self._text + self._ahead[0], self._ahead[1:]
        self._ask(list(self._cells)[-1], self._text, len(self._text), "automatic")

    def ask_anywhere(self, invoked: float) -> None:
        """Changes a cell, brings one in or takes one out, and asks somewhere in another one."""
        chance = self._chance
        changed = [chance.choice(list(self._cells))]
        if chance.random() < 0.1:
            del self._cells[chance.choice(list(self._cells))]
            new = f"{self.name}-new-{self._count}"
            self._cells[new] = self._source()
            changed = [new]
        else:
            self._cells[changed[0]] = self._source()
        self._tell(changed)
        id = chance.choice(list(self._cells))
        text = f"{self._cells[id]}\n{chance.choice(LINES)[2]}"
        offset = len(text) if chance.random() < 0.8 else chance.randrange(len(text))
        self._ask(id, text, offset, "invoke" if chance.random() < invoked else "automatic")

    def hear(self, data: dict) -> None:
        if data.get("id") in self.asked and (data["type"] == "error" or data.get("finish_reason")):
            self.finals.setdefault(data["id"], []).append(data)

    @property
    def texts(self) -> int:
        finals = (one for ones in self.finals.values() for one in ones)
        return sum(bool(one.get("text")) and one["finish_reason"] != "cancelled" for one in finals)

    def _source(self) -> str:
        number = self._chance.randrange(10**6)
        return "\n".join(
            f"table_{number}_{n} = pd.read_csv('measurements_{n}.csv').groupby('station').mean()"
            for n in range(self._lines)
        )

    def _tell(self, changed: list[str], whole: bool = False) -> None:
        cells = [{"id": id, "source": self._cells[id]} for id in changed]
        base = {} if whole else {"base": self._rev, "order": list(self._cells)}
        self._rev += 1
        self.comm.say({"type": "notebook", "rev": self._rev, "cells": cells, **base})

    def _ask(self, cell: str, text: str, offset: int, trigger: str) -> None:
        self._count += 1
        id = str(self._count)  # the same in each window
        self.asked[id] = time.monotonic()
        asked = {"type": "complete", "id": id, "text": text, "offset": offset, "trigger": trigger}
        self.comm.say({**asked, "cell_id": cell, "rev": self._rev})


class Kernel:
    """A kernel with the embedded model, and its windows."""

    def __init__(self, engine: str) -> None:
        self.front = FrontEnd()
        cell = self.front.start("import os; print(os.getpid())")
        self.front.finish(cell)
        self.pid = int(self.front.text(cell))
        self.front.run(START.format(engine=engine, model="embedded", threads=0))
        self.windows: dict[str, Window] = {}
        self._heard = 0
        self.last_at = 0.0

    def open(self, name: str, **notebook) -> Window:
        window = Window(self.front, name, **notebook)
        self.windows[window.comm.id] = window
        return window

    def hear(self) -> None:
        """Takes in what has come since, and keeps none of it."""
        with self.front._news:  # or what comes in between is lost
            news, self.front.iopub[:] = list(self.front.iopub), []
        for message in news:
            window = self.windows.get(message["content"].get("comm_id", ""))
            if window is not None and message["msg_type"] == "comm_msg":
                window.hear(message["content"]["data"])
                self.last_at = message["time"]

    def open_requests(self) -> int:
        self.hear()
        return sum(len(one.asked) - len(one.finals) for one in self.windows.values())

    def taken(self) -> dict[str, float]:
        """Resident memory in MB, open descriptors and threads, of the kernel and of what runs llama.cpp, or 0."""
        kernel = psutil.Process(self.pid)
        helpers = []
        for child in kernel.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if HELPER in child.cmdline():
                    helpers.append(child)
        return _taken("", [kernel]) | _taken("llamacpp ", helpers)


def _taken(prefix: str, processes: list[psutil.Process]) -> dict[str, float]:
    return {
        f"{prefix}memory": round(sum(one.memory_info().rss for one in processes) / 2**20, 1),
        f"{prefix}descriptors": sum(one.num_fds() for one in processes),
        f"{prefix}threads": sum(one.num_threads() for one in processes),
    }


def fair_shares(asked: list[int], texts: int) -> list[float]:
    """All texts dealt out one by one among those that asked for more."""
    shares, left = [0.0] * len(asked), float(texts)
    while left > 1e-9 and (wanting := [n for n, most in enumerate(asked) if shares[n] < most]):
        part = min(left / len(wanting), min(asked[n] - shares[n] for n in wanting))
        for n in wanting:
            shares[n] += part
        left -= part * len(wanting)
    return shares


def share(kernel: Kernel, seconds: float) -> bool:
    chance = random.Random(0)
    names = ["quick", *(f"slow {n}" for n in range(1, 6))]
    windows = [kernel.open(name, cells=10, lines=1, chance=chance) for name in names]
    for window in windows:  # each notebook is read once
        window.ask_anywhere(1.0)
    while kernel.open_requests():
        time.sleep(0.1)
    for window in windows:
        window.asked.clear()
        window.finals.clear()
    gaps = [1 / FAST] + [1 / SLOW] * 5
    began = time.monotonic()
    due = [began + chance.random() * gap for gap in gaps]
    while (now := min(due)) < began + seconds:
        time.sleep(max(0.0, now - time.monotonic()))
        index = due.index(now)
        windows[index].type_key()
        due[index] += gaps[index]
    kernel.hear()
    texts = [window.texts for window in windows]
    shares = fair_shares([len(window.asked) for window in windows], sum(texts))
    print("| front end | keys | texts | fair share |\n|---|---|---|---|")
    for window, got, fair in zip(windows, texts, shares, strict=True):
        print(f"| {window.name} | {len(window.asked)} | {got} | {fair:.0f} |")
    return all(got >= fair / 2 for got, fair in zip(texts, shares, strict=True))


def soak(
    kernel: Kernel, count: int, cells: int, rate: float, invoked: float, file: Path | None
) -> bool:
    chance = random.Random(0)
    windows = [kernel.open(f"w{n}", cells=cells, lines=4, chance=chance) for n in range(3)]
    windows[0].comm.wait_for(type="status", state="ready", timeout=300)
    levels: list[dict[str, float]] = []
    with contextlib.ExitStack() as closing:
        table = None if file is None else closing.enter_context(file.open("w", newline=""))
        began = time.monotonic()
        for number in range(1, count + 1):
            chance.choice(windows).ask_anywhere(invoked)
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            if number % max(1, count // SAMPLES) == 0:
                seconds = round(time.monotonic() - began, 1)
                about = {"requests": number, "seconds": seconds, "open": kernel.open_requests()}
                levels.append(about | kernel.taken())
                _tell(levels, table)
    ended = time.monotonic()
    at_end = kernel.open_requests()
    while kernel.open_requests() and time.monotonic() < ended + LOST_AFTER_S:
        time.sleep(0.2)
    finals = [ones for window in windows for ones in window.finals.values()]
    reasons = Counter(_outcome(ones[0]) for ones in finals)
    lost, twice = kernel.open_requests(), sum(len(ones) > 1 for ones in finals)
    print(f"\n{count} requests in {ended - began:.0f} s: {dict(reasons.most_common())}")
    print(
        f"open at the end {at_end}, the last answer {max(0.0, kernel.last_at - ended):.1f} s later"
    )
    print(f"without a last message {lost}, with two {twice}")
    level = _is_level(levels, min(SETTLED, count // 2))
    return (level or count < 2 * SETTLED) and not lost and not twice


def _tell(levels: list[dict[str, float]], table: TextIO | None) -> None:
    """Prints the last level, and writes it to the table, at once: a soak that is stopped leaves what it has."""
    last = levels[-1]
    if len(levels) == 1:
        print("| " + " | ".join(last) + " |\n" + "|---" * len(last) + "|")
    if len(levels) == 1 or len(levels) % 10 == 0:
        print("| " + " | ".join(f"{value:g}" for value in last.values()) + " |", flush=True)
    if table is not None:
        writer = csv.DictWriter(table, last)
        if len(levels) == 1:
            writer.writeheader()
        writer.writerow(last)
        table.flush()


def _is_level(levels: list[dict[str, float]], settled: int) -> bool:
    """Prints how much the last quarter took more than the first, of what came after so many requests."""
    later = [level for level in levels if level["requests"] >= settled]
    quarter = max(1, len(later) // 4)
    level = True
    for name in [name for name in later[0] if name not in ("requests", "seconds", "open")]:
        values = [one[name] for one in later]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        most = first * (1 + MAX_GROWTH) if name.endswith("memory") else first + MAX_MORE
        level = level and last <= most
        if last:
            print(f"{name}: {first:g} to {last:g}, from {min(values):g} to {max(values):g}")
    return level


def _outcome(final: dict) -> str:
    return str(final.get("code") or final.get("reason") or "text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("share", "soak"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of share")
    parser.add_argument("--count", type=int, default=10_000, help="requests of soak")
    parser.add_argument("--cells", type=int, default=200, help="of each notebook of soak")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of soak")
    parser.add_argument("--invoked", type=float, default=0.15, help="share of these")
    parser.add_argument("--engine", default="auto", help="auto or llamacpp")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="for the levels of soak")
    args = parser.parse_args()
    kernel = Kernel(args.engine)
    try:
        if args.what == "share":
            good = share(kernel, args.seconds)
        else:
            good = soak(kernel, args.count, args.cells, args.rate, args.invoked, args.csv)
    finally:
        kernel.front.close()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
