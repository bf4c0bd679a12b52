"""What tests run as a child process: ChildProcess starts `python -m tests.support.children` as it does llama.cpp."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.paths import ROOT

STARTER = """
import os, sys, time
from jupyter_sc2.runtime.child_process import ChildProcess
child = ChildProcess("tests.support.children", {"what": sys.argv[1]})
if sys.argv[1] == "serve":
    child.wait_until_it_speaks()
forked = 0
if "fork" in sys.argv:
    forked = os.fork()
    if not forked:
        time.sleep(60)
        os._exit(0)
while child.pid == child._process.pid:
    time.sleep(0.01)
print(child.pid, child._process.pid, forked, child.folder, flush=True)
if "leave" not in sys.argv:
    time.sleep(60)
"""


def work(options, tell):
    what = options["what"]
    if what == "load":  # as a library that holds the interpreter's lock until it is ready
        ctypes.PyDLL(None).sleep(60)
    if what == "exit":
        os._exit(3)
    if what == "crash":
        ctypes.string_at(0)
    tell({"ready": what})
    return True


class Started:
    """A process that has started a child; the numbers of both, of the child's guard, and of a forked process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        child, guard, forked, folder = process.stdout.readline().split(maxsplit=3)  # type: ignore[union-attr]
        self.child, self.guard, self.forked = int(child), int(guard), int(forked)
        self.folder = Path(folder.rstrip("\n"))


@contextmanager
def started(what: str, *more: str) -> Iterator[Started]:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, what, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    one = Started(process)
    try:
        yield one
    finally:
        for pid in (one.forked, one.guard, one.child):
            if pid and runs(pid):
                os.kill(pid, 9)
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


if __name__ == "__main__":
    from jupyter_sc2.runtime.child_process import run

    run(work)
