"""Prepares training rows ahead of the device that reads them, in separate processes.

Worker n of N makes the rows n, n + N, n + 2N, … of the run, in order, and writes them to its standard output; rows are
taken from the workers in turn. So the order is the same for any number of workers. The number of rows ahead is bounded:
a worker blocks on its pipe, and a worker whose parent is gone finds the pipe broken and exits.

The workers are plain processes and not those of `multiprocessing`, which would import the parent's main module again,
and with it torch. This module runs with only `tokenizers` installed.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.runtime import background
from jupyter_sc2.training.corpus import load_documents
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.rows import Sampler, Token, packed_row
from jupyter_sc2.training.tokenizer import encoder, load_tokenizer

FIELDS = len(Token._fields)
STEPS_AHEAD = 3
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false"}  # each worker uses one core


class FeedError(SC2Error):
    """The rows for the training could not be made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows that a run reads. `documents` are the documents themselves, or the file that `load_documents` reads."""

    documents: Sequence[Document] | Path
    tokenizer: Path
    seed: int
    rows_per_step: int
    length: int
    held_out: frozenset[str]


class RowMaker:
    """Makes the rows of a plan, one at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        documents: Iterable[Document] = (
            load_documents(plan.documents) if isinstance(plan.documents, Path) else plan.documents
        )
        self._sampler = Sampler([d for d in documents if d.package not in plan.held_out])
        self._encode = encoder(load_tokenizer(plan.tokenizer))

    def make(self, index: int) -> bytes:
        """Row `index`, counted from the beginning of the run, as bytes of 32-bit integers."""
        step, place = divmod(index, self._plan.rows_per_step)
        seed, length = self._plan.seed, self._plan.length
        row = packed_row(
            self._sampler, self._encode, seed=seed, step=step, place=place, length=length
        )
        return row.tobytes()


class Feed:
    """The rows of a plan, step by step from `start` on; without workers they are made on demand."""

    def __init__(self, plan: Plan, *, start: int = 0, workers: int = 0) -> None:
        self.plan = plan
        self.waited = 0.0  # seconds of waiting for rows, in all
        self._next = start * plan.rows_per_step
        self._maker = None if workers else RowMaker(plan)
        self._workers: list[_Worker] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if workers:
            self._folder = tempfile.TemporaryDirectory(prefix="sc2-rows-")
            file = Path(self._folder.name) / "plan.pickle"
            with file.open("wb") as to:
                pickle.dump(plan, to, protocol=pickle.HIGHEST_PROTOCOL)
            ahead = max(2, STEPS_AHEAD * plan.rows_per_step // workers)
            size = plan.length * FIELDS * 4
            self._workers = [
                _Worker(file, self._next + n, workers, size, ahead) for n in range(workers)
            ]

    def step(self) -> bytearray:
        """The next step's rows, concatenated."""
        began = time.monotonic()
        made = bytearray()
        for index in range(self._next, self._next + self.plan.rows_per_step):
            if self._maker:
                made += self._maker.make(index)
            else:
                # In turn from where this feed began, which need not be row 0.
                made += self._workers[(index - self._first) % len(self._workers)].take()
        self._next += self.plan.rows_per_step
        self.waited += time.monotonic() - began
        return made

    @property
    def _first(self) -> int:
        return self._workers[0].first

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        if self._folder:
            self._folder.cleanup()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_module(
    name: str, *arguments: str, stderr: IO[bytes], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Starts a process that runs this module and finds what this one finds; its output is a pipe."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", name, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
    )


def last_line(errors: Path) -> str:
    """The last line that a process has written to this file; "" if it has written none."""
    lines = errors.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


class _Worker:
    """A process that makes rows, and the thread that reads them."""

    def __init__(self, plan: Path, first: int, every: int, size: int, ahead: int) -> None:
        self.first = first
        self._size = size
        self._made: queue.Queue[bytes] = queue.Queue(ahead)
        self._errors = plan.with_name(f"{first}.errors")
        with self._errors.open("wb") as errors:
            self._process = start_module(__name__, str(plan), str(first), str(every), stderr=errors)
        background.Thread(self._drain, name=f"sc2-rows-{first}").start()

    def take(self) -> bytes:
        """The next row. Raises FeedError if the worker has failed."""
        row = self._made.get()
        if row:
            return row
        self._made.put(b"")  # for the next call
        code = self._process.wait()
        reason = last_line(self._errors) or f"it ended with status {code}"
        raise FeedError(f"A process that makes rows has failed: {reason}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        while not self._made.empty():  # the thread may be blocked by a full queue
            self._made.get_nowait()

    def _drain(self) -> None:
        pipe = self._process.stdout
        assert pipe
        with pipe:
            while len(row := pipe.read(self._size)) == self._size:
                self._made.put(row)
        self._made.put(b"")


def _work(plan: Path, first: int, every: int, to: IO[bytes]) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the parent handles Ctrl-C, and this process ends with it
    maker = RowMaker(pickle.loads(plan.read_bytes()))
    gc.freeze()  # otherwise the collector scans all documents again and again
    try:
        for index in count(first, every):
            to.write(maker.make(index))
            to.flush()
    except BrokenPipeError:
        os._exit(0)  # no reader is left; the interpreter would complain that it cannot flush


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.stdout.buffer)
