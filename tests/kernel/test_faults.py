"""A table of faults in real kernels: after each ghost text is back by itself, and nothing is left of what ended.

Each row is tried at random moments. JUPYTER_SC2_FAULT_ROUNDS=20, before a release, tries the whole table so often;
without it some rows of each kind are tried once.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

import psutil
import pytest
from _pytest.mark import ParameterSet

from tests.support import without_locks
from tests.support.children import runs, wait_until
from tests.support.kernels import FrontEnd
from tests.support.tiny import make_tiny_model

pytest.importorskip("torch")
for package in ("xllamacpp", "libgguf", "gguf"):
    pytest.importorskip(package)

from jupyter_sc2.engines.gguf import writer as gguf_writer  # noqa: E402

WHOLE = "JUPYTER_SC2_FAULT_ROUNDS" in os.environ
ROUNDS = int(os.environ.get("JUPYTER_SC2_FAULT_ROUNDS", "1"))
BACK, GONE = 5.0, 10.0  # seconds until ghost text is back, and until nothing is left
slow = pytest.mark.slow

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(300 + 60 * ROUNDS),
    pytest.mark.skipif(sys.platform == "win32", reason="there are no signals like these"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a GGUF file."""
    home = tmp_path_factory.mktemp("home")
    file = home / "tiny.gguf"
    gguf_writer.write_gguf(make_tiny_model(home / "tiny"), file, "F16", name="tiny")
    return file


@pytest.fixture
def temporary(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


class Kernel(FrontEnd):
    """A kernel with a model on llama.cpp, or the embedded one; counts the ends of each request."""

    def __init__(self, model: Path | None, temporary: Path, **more: str) -> None:
        self.temporary, self.asked = temporary, list[str]()
        super().__init__(TMPDIR=str(temporary), **more)
        self.begin(model)

    def begin(self, model: Path | None) -> None:
        self.engine = "llamacpp" if model else "onnxruntime"
        self.run(f"%load_ext jupyter_sc2\n%config SC2.model = {str(model or 'embedded')!r}")
        self.comm = self.open()
        self.comm.say({"type": "hello", "protocol": 1})
        self.comm.say({"type": "configure", "settings": {"confidence": 0.0, "max_tokens": 24}})

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.manager.provisioner.pid)

    def helper(self, seconds: float = 20.0) -> psutil.Process:
        """What runs the model: the last of the kernel's children, behind its guard."""
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = self.helpers()
            return len(found) == 2

        wait_until(there, seconds)
        return found[-1]

    def helpers(self) -> list[psutil.Process]:
        """The guard, and what it has forked."""
        found = []
        for process in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "jupyter_sc2.engines.llamacpp.server" in process.cmdline():
                    found.append(process)
        return found

    def settle(self) -> None:
        """Until its model answers."""
        wait_until(lambda: self.status.get("state") == "ready", 60)
        assert self.status["engine"] == self.engine, self.status

    @property
    def status(self) -> dict:
        told = [data for data in self.comm.heard if data["type"] in ("status", "hello")]
        return told[-1] if told else {}

    def ask(self, text: str) -> str:
        self.asked.append(self.comm.ask(text))
        return self.asked[-1]

    def comes_back(self, number: int) -> None:
        """Ghost text is back in time, although nobody does anything but type."""
        began = time.monotonic()
        while True:
            id = self.ask(f"import numpy as np\nx{number} = {int(1e6 * time.monotonic())}\nnp.")
            answer = self.comm.final(id, timeout=BACK)["content"]["data"]
            if answer["type"] == "update" and answer["model"] and answer["reason"] != "not_ready":
                break
            assert time.monotonic() - began < BACK, answer
            time.sleep(0.05)
        assert time.monotonic() - began < BACK, answer

    def each_has_one_end(self) -> None:
        for id in self.asked:
            self.comm.final(id, timeout=GONE)
        ends = [
            data["id"]
            for data in self.comm.heard
            if data.get("id") in self.asked
            and (data.get("finish_reason") or data["type"] == "error")
        ]
        assert sorted(ends) == sorted(self.asked)


@pytest.fixture
def start(model, temporary):
    kernels: list[Kernel] = []

    def start(engine: str = "llamacpp", **more: str) -> Kernel:
        kernels.append(Kernel(model if engine == "llamacpp" else None, temporary, **more))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()
    nothing_is_left(temporary)


def nothing_is_left(temporary: Path, *processes: psutil.Process) -> None:
    wait_until(lambda: not any(runs(one.pid) for one in processes), GONE)
    wait_until(lambda: [*temporary.glob("sc2-*")] == [], GONE)


LONG = "".join(f"def f{i}(x):\n    return x * {i}\n\n" for i in range(120))


def at_a_moment(kernel: Kernel, moment: str, number: int) -> psutil.Process:
    """What runs the model, at some moment while it does this."""
    if moment == "loading":
        if number:  # a new kernel loads by itself
            kernel.run("%sc2 unload")
            wait_until(lambda: not kernel.helpers())
            kernel.start("%sc2 load")
    else:
        kernel.settle()
    helper = kernel.helper() if kernel.engine == "llamacpp" else kernel.process
    if moment == "prefilling":
        kernel.ask(f"# {number} {random.random()}\n{LONG}\nx = ")
        time.sleep(random.uniform(0.0, 0.2))
    elif moment == "decoding":
        kernel.ask(f"y{number} = {random.random()} + ")
        time.sleep(random.uniform(0.0, 0.15))
    else:
        time.sleep(random.uniform(0.0, 0.3))
    return helper


def rows(*some: tuple[object, ...], of: Iterable[tuple[object, ...]]) -> list[ParameterSet]:
    """The whole table or some of its rows; the first is quick enough for each change."""
    chosen = [*some, *(row for row in of if row not in some)] if WHOLE else some
    return [pytest.param(*row, marks=slow if n else ()) for n, row in enumerate(chosen)]


MOMENTS = ("loading", "prefilling", "decoding", "idle")


@pytest.mark.parametrize(
    "moment, number",
    rows(
        ("idle", signal.SIGKILL),
        ("decoding", signal.SIGSTOP),
        ("loading", signal.SIGSEGV),
        ("prefilling", signal.SIGKILL),
        of=product(MOMENTS, (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV)),
    ),
)
def test_ghost_text_is_back_when_what_runs_the_model_is_killed_or_stopped(start, moment, number):
    kernel = start()
    for round in range(ROUNDS):
        helper = at_a_moment(kernel, moment, round)
        os.kill(helper.pid, number)
        kernel.comes_back(round)
        wait_until(lambda helper=helper: not runs(helper.pid), GONE)
        kernel.run("%sc2 load")  # so that it may end again
    kernel.each_has_one_end()


ENDS = {
    "killed": lambda kernel: kernel.process.kill(),
    "shut down": lambda kernel: kernel.manager.shutdown_kernel(),
    "terminated": lambda kernel: kernel.process.terminate(),
}


@pytest.mark.parametrize(
    "moment, how",
    rows(
        ("loading", "killed"),
        ("idle", "shut down"),
        of=product(("loading", "decoding", "idle"), ENDS),
    ),
)
def test_nothing_is_left_of_a_kernel_that_ends(start, temporary, moment, how):
    for _ in range(ROUNDS):
        kernel = start()
        helper = at_a_moment(kernel, moment, 0)
        processes = kernel.helpers()
        # A process that was forked has all that the kernel had open.
        kernel.start(
            "import os, time\nif not (child := os.fork()):\n    time.sleep(30); os._exit(0)"
        )
        time.sleep(0.3)
        ENDS[how](kernel)
        nothing_is_left(temporary, helper, *processes)


@slow
def test_nothing_is_left_of_a_kernel_that_is_started_anew(start, model, temporary):
    kernel = start()
    for round in range(ROUNDS):
        kernel.settle()
        before = kernel.helpers()
        kernel.disconnect()
        kernel.manager.restart_kernel()
        kernel.connect()
        kernel.begin(model)
        kernel.settle()
        wait_until(lambda before=before: not any(runs(one.pid) for one in before), GONE)
        assert len([*temporary.glob("sc2-*")]) == 1
        kernel.comes_back(round)


# What the system refuses for a while


@contextlib.contextmanager
def limited(kernel: Kernel, kind: int, limit: Callable[[psutil.Process], int]) -> Iterator[None]:
    """A limit for the kernel and its helpers; those that are started meanwhile are freed of it, too."""
    _, hard = before = kernel.process.rlimit(kind)
    for process in (kernel.process, *kernel.helpers()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(kind, (limit(process), hard))
    yield
    for process in (kernel.process, *kernel.process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(kind, before)


def little_memory(kernel: Kernel) -> contextlib.AbstractContextManager[None]:
    room = random.choice((1, 5, 20, 60, 200, 700)) << 20
    return limited(kernel, psutil.RLIMIT_AS, lambda process: process.memory_info().vms + room)


def full_disk(kernel: Kernel) -> contextlib.AbstractContextManager[None]:
    """No file can be written."""
    return limited(kernel, psutil.RLIMIT_FSIZE, lambda process: 0)


@contextlib.contextmanager
def no_threads(kernel: Kernel) -> Iterator[None]:
    """Root has no limit of threads; but nobody has memory for a stack of this size."""
    kernel.evaluate("__import__('threading').stack_size(1 << 46)")
    yield
    kernel.evaluate("__import__('threading').stack_size(0)")


SHORTAGES = {"memory": little_memory, "threads": no_threads, "disk": full_disk}


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has such limits")
@pytest.mark.parametrize(
    "engine, moment, shortage",
    rows(
        ("onnxruntime", "decoding", "memory"),
        ("onnxruntime", "loading", "disk"),
        ("onnxruntime", "prefilling", "threads"),
        ("llamacpp", "prefilling", "memory"),
        ("llamacpp", "decoding", "disk"),
        ("llamacpp", "idle", "threads"),
        of=product(("onnxruntime", "llamacpp"), MOMENTS, SHORTAGES),
    ),
)
def test_ghost_text_is_back_when_there_is_enough_again(start, engine, moment, shortage):
    kernel = start(engine)
    # Libraries end a kernel that has no more memory in the middle of their import, so it is looked for before.
    before = (engine, moment, shortage) == ("onnxruntime", "loading", "memory")
    for round in range(ROUNDS):
        helper = at_a_moment(kernel, "idle" if before else moment, round)
        if before:
            kernel.run("%sc2 unload")
        with SHORTAGES[shortage](kernel):
            if before:
                kernel.start("%sc2 load")
            if engine == "llamacpp" and round % 2 == 0:  # what is started instead needs all of it
                helper.kill()
            for number in range(random.randrange(1, 5)):
                kernel.ask(f"z{round}_{number} = {random.random()}\nnp.")
                time.sleep(random.uniform(0.0, 0.7))
        kernel.comes_back(round)
        kernel.run("%sc2 load")
    kernel.each_has_one_end()


@slow
@pytest.mark.parametrize("engine", ["onnxruntime", "llamacpp"])
def test_ghost_text_comes_and_comes_back_where_file_locks_are_refused(start, tmp_path, engine):
    library = without_locks.library(tmp_path)
    kernel = start(engine, LD_PRELOAD=str(library))
    assert kernel.evaluate(f"{library.name!r} in open('/proc/self/maps').read()") == "True"
    for round in range(ROUNDS):
        helper = at_a_moment(kernel, random.choice(("loading", "decoding", "idle")), round)
        if engine == "llamacpp":
            helper.kill()
        kernel.comes_back(round)
        kernel.run("%sc2 load")
    kernel.each_has_one_end()
