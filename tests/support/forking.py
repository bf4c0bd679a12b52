"""Forks children of a kernel while a model loads and while it decodes, in the ways that people do.

    python -m tests.support.forking [forks of each kind] [kind …]

prints how many children came back, how many failed and how many hung. Each child imports what we import, numpy and
onnxruntime, and computes something. While a model loads there is room for a few forks only, so that takes as many
kernels as it needs: our own imports are part of the load.
"""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

# Seconds after which a child hangs. One that imports all of torch takes 4 on a quiet machine.
PATIENCE = 60


def child(value: float = 2.0) -> float:
    """What a child does."""
    import numpy as np
    import onnxruntime

    assert onnxruntime.get_available_providers()
    return float((np.full((50, 50), value) @ np.ones((50, 50))).sum())


RIGHT = 250_000.0
WORKERS = 4


# Children that are forked one soon after the other, so that some hit any moment of an import.
BURST, PAUSE = 8, 0.015


def os_fork() -> list[bool]:
    """Several: who waited for each would fork once while a model loads."""
    children = []
    for _ in range(BURST):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if child() == RIGHT else 2
            finally:
                os._exit(code)
        children.append(pid)
        time.sleep(PAUSE)
    results = []
    try:
        while children:
            results.append(os.waitpid(children[0], 0)[1] == 0)
            children.pop(0)
    except TimeoutError:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    return results


def leaving_by_exit() -> bool:
    """A child that ends as Python programs do, with exit handlers."""
    pid = os.fork()
    if pid == 0:
        import atexit

        code = 0 if child() == RIGHT else 2
        atexit._run_exitfuncs()
        os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def pool() -> list[bool]:
    with multiprocessing.get_context("fork").Pool(WORKERS) as workers:
        return [one == RIGHT for one in workers.map(child, [2.0] * WORKERS, chunksize=1)]


def process_pool() -> list[bool]:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as workers:
        return [one == RIGHT for one in workers.map(child, [2.0] * WORKERS)]


class Rows:
    """A data set whose rows take NumPy to make."""

    def __len__(self) -> int:
        return WORKERS

    def __getitem__(self, index: int) -> float:
        return child()


def data_loader() -> list[bool]:
    from torch.utils.data import DataLoader

    return [float(row) == RIGHT for row in DataLoader(Rows(), num_workers=WORKERS)]


def joblib_fork() -> list[bool]:
    from joblib import Parallel, delayed

    jobs = [delayed(child)() for _ in range(WORKERS)]
    return [one == RIGHT for one in Parallel(WORKERS, backend="multiprocessing")(jobs)]


def before_exec() -> bool:
    done = subprocess.run([sys.executable, "-c", ""], preexec_fn=child)
    return done.returncode == 0


KINDS: dict[str, Callable[[], bool] | Callable[[], list[bool]]] = {
    "os.fork": os_fork,
    "os.fork, exit handlers": leaving_by_exit,
    "multiprocessing.Pool": pool,
    "ProcessPoolExecutor": process_pool,
    "torch DataLoader": data_loader,
    "joblib": joblib_fork,
    "subprocess, preexec_fn": before_exec,
}
NEEDS = {"torch DataLoader": "torch", "joblib": "joblib"}


def available() -> list[str]:
    return [k for k in KINDS if k not in NEEDS or importlib.util.find_spec(NEEDS[k]) is not None]


@contextmanager
def limited():
    """TimeoutError when this takes longer than PATIENCE."""

    def give_up(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def forked(kind: str, goes_on: Callable[[], bool], most: int) -> dict[str, int]:
    """Forks again and again as long as something goes on; how many came back, and the longest time in ms."""
    came = {"back": 0, "failed": 0, "hung": 0, "longest": 0}
    while came["back"] + came["failed"] + came["hung"] < most and goes_on():
        started = time.monotonic()
        try:
            with limited():
                right = KINDS[kind]()
            for one in right if isinstance(right, list) else [right]:
                came["back" if one else "failed"] += 1
        except TimeoutError:
            came["hung"] += 1
        except Exception as error:
            print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr)
            came["failed"] += 1
        came["longest"] = max(came["longest"], round(1000 * (time.monotonic() - started)))
    return came


# In the kernel


def session():
    from IPython import get_ipython

    from jupyter_sc2 import extension

    return extension._running[get_ipython()].session


def while_loading(kind: str, most: int) -> dict[str, int]:
    """Our imports are part of the load, if nothing was loaded before."""
    loading = session()
    loading.load()
    return forked(kind, lambda: loading.status.state not in ("ready", "generating"), most)


def while_decoding(kind: str, most: int) -> dict[str, int]:
    from jupyter_sc2.types import CompletionRequest, SamplingParams

    decoding = session()
    decoding.load()
    decoding.wait_ready(60)
    end = threading.Event()

    def ask() -> None:
        number = 0
        while not end.is_set():
            number += 1
            text = f"import numpy as np\n\ndef function_{number}(values):\n    "
            request = CompletionRequest(
                text=text, offset=len(text), sampling=SamplingParams(max_tokens=32)
            )
            list(decoding.complete(request))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return forked(kind, lambda: True, most)
    finally:
        end.set()
        asking.join()


# Outside


def in_a_kernel(kind: str, state: str, most: int, **options: str) -> dict[str, int]:
    """What `while_loading` or `while_decoding` says in a new kernel with the embedded model."""
    from tests.support.kernels import FrontEnd

    kernel = FrontEnd(JUPYTER_SC2_EMBEDDED="", **options)
    try:
        module = NEEDS.get(kind, "tests")
        cell = kernel.start(
            f"import {module}, warnings; from tests.support import forking\n"
            "warnings.simplefilter('ignore')\n"  # Python 3.12: that a process with threads forks
            "get_ipython().run_line_magic('load_ext', 'jupyter_sc2')\n"
            f"print(forking.{state}({kind!r}, {most}))"
        )
        kernel.finish(cell, timeout=(most + 2) * PATIENCE)
        sys.stderr.write(kernel.text(cell, "stderr"))
        outputs = kernel.text(cell)
        assert outputs, [message["content"].get("evalue") for message in kernel.outputs(cell)]
        return ast.literal_eval(outputs.splitlines()[-1])
    finally:
        kernel.close()


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print("| | while | forks | failed | hung | longest, s |")
    print("|---|---|---|---|---|---|")
    for kind in sys.argv[2:] or available():
        for state in ("while_loading", "while_decoding"):
            sums = {"back": 0, "failed": 0, "hung": 0, "longest": 0}
            while (done := sums["back"] + sums["failed"] + sums["hung"]) < most:
                came = in_a_kernel(kind, state, most - done)
                for name in ("back", "failed", "hung"):
                    sums[name] += came[name]
                sums["longest"] = max(sums["longest"], came["longest"])
            print(
                f"| {kind} | {state.removeprefix('while_')} | {done} | {sums['failed']} | {sums['hung']} "
                f"| {sums['longest'] / 1000:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
