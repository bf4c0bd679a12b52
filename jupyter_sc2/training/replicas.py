"""Replicas of a model in training on a CPU: processes that compute the gradients of a part of each step's rows.

Threads that share a product wait for the slowest of them at the end of each short operation, so two are hardly faster
than one. Processes wait for one another once a step. All map the same weights, and each has a file for its gradients,
which the training adds to its own before it takes the step. Rows go to a replica through a pipe, and their loss comes
back through another. If a replica ends, for lack of memory for example, the training continues without it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch

from jupyter_sc2.runtime.hardware import free_memory, usable_cores
from jupyter_sc2.training.feed import FIELDS, last_line, start_module
from jupyter_sc2.training.recipe import PLAIN_GB_PER_TOKEN, Recipe
from jupyter_sc2.training.run import Run, weight_of

# Before a part's rows: how many there are, their length, and the weight of the whole step's tokens.
HEADER = struct.Struct("<iid")
LOSS = struct.Struct("<d")
# Bytes for each parameter: a replica has its gradients and what is computed in bf16, the training also the weights, two
# moments and an average.
REPLICA_BYTES, TRAINING_BYTES = 8, 28
# Memory for the corpus.
CORPUS_BYTES = 3e9
MEMORY_FILES = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The settings of the replicas, as they read them from a file."""

    recipe: Recipe
    start: Path
    weights: Path
    threads: int
    compiled: bool


def default_processes(recipe: Recipe, parameters: int) -> int:
    """The number of processes that compute on a CPU: one for each core, or as many as the free memory allows."""
    free = free_memory()
    if free is None:
        return 1
    activations = recipe.micro_batch * PLAIN_GB_PER_TOKEN * 1e9
    left = free - CORPUS_BYTES - TRAINING_BYTES * parameters - activations
    fitting = 1 + int(max(0.0, left) / (REPLICA_BYTES * parameters + activations))
    return min(fitting, usable_cores())


class Replicas:
    """The replicas of a run, with which its steps are computed from now on."""

    def __init__(
        self,
        run: Run,
        start: Path,
        *,
        count: int,
        threads: int,
        compiled: bool,
        report: Callable[[str], None],
    ) -> None:
        self._run, self._report = run, report
        self._parameters = list(run.model.parameters())
        size = 4 * sum(p.numel() for p in self._parameters)
        self._folder = tempfile.TemporaryDirectory(
            prefix="sc2-replicas-", dir=_folder_for((count + 1) * size)
        )
        self._replicas: list[_Replica] = []
        try:
            self._begin(start, count, threads, compiled)
        except BaseException:
            self.close()
            raise
        run.compute = self.add_gradients

    def _begin(self, start: Path, count: int, threads: int, compiled: bool) -> None:
        folder = Path(self._folder.name)
        weights = folder / "weights"
        with torch.no_grad():
            for parameter, shared in zip(
                self._parameters, mapped(weights, self._parameters), strict=True
            ):
                parameter.data = shared.copy_(parameter)
        task = Task(
            recipe=replace(self._run.recipe, average=0),
            start=start.absolute(),
            weights=weights,
            threads=threads,
            compiled=compiled,
        )
        file = folder / "task.pickle"
        file.write_bytes(pickle.dumps(task))
        for number in range(count):
            self._replicas.append(_Replica(file, number, self._parameters))

    def add_gradients(self, rows: torch.Tensor) -> torch.Tensor:
        """Adds the gradients of a step's rows to those of the weights; returns the rows' loss."""
        run, weight = self._run, weight_of(rows, self._run.recipe)
        own, *parts = torch.tensor_split(rows, 1 + len(self._replicas))
        for replica, part in zip(self._replicas, parts, strict=True):
            replica.begin(part, weight)
        loss = run.add_gradients(own, run.modes[0], weight=weight)
        for replica, part in zip(list(self._replicas), parts, strict=True):
            try:
                found = replica.loss()
            except _ReplicaLost as lost:
                self._report(f"{lost} The training goes on without it.")
                self._replicas.remove(replica)
                replica.end()
                loss += run.add_gradients(part, run.modes[0], weight=weight)
                continue
            loss += found
            torch._foreach_add_([p.grad for p in self._parameters], replica.gradients)
        return loss

    def close(self) -> None:
        """Ends the replicas, and gives the model weights of its own."""
        for replica in self._replicas:
            replica.end()
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
        self._folder.cleanup()

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ReplicaLost(Exception):
    """A replica has ended; its text is a sentence for the user."""


class _Replica:
    """A process with the model, as the training sees it."""

    def __init__(self, task: Path, number: int, parameters: Sequence[torch.Tensor]) -> None:
        file = task.with_name(f"gradients-{number}")
        self.gradients = mapped(file, parameters)
        self._errors = task.with_name(f"{number}.errors")
        with self._errors.open("wb") as errors:
            self._process = start_module(
                __name__, str(task), str(file), stdin=subprocess.PIPE, stderr=errors
            )

    def begin(self, rows: torch.Tensor, weight: float) -> None:
        """Starts computing a part of a step."""
        to = self._process.stdin
        assert to
        with contextlib.suppress(OSError):  # if the process has ended, `loss` raises
            to.write(HEADER.pack(len(rows), rows.shape[1], weight))
            to.write(rows.contiguous().numpy().tobytes())
            to.flush()

    def loss(self) -> float:
        """The part's loss, once its gradients are there. Raises _ReplicaLost."""
        pipe = self._process.stdout
        assert pipe
        data = pipe.read(LOSS.size)
        if len(data) == LOSS.size:
            return float(LOSS.unpack(data)[0])
        code = self._process.wait()
        reason = (last_line(self._errors) if code > 0 else "") or f"status {code}"
        raise _ReplicaLost(f"A process that computed gradients has ended ({reason}).")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(OSError):
                pipe.close()


def mapped(file: Path, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Float32 tensors in the shapes of these, in a file; all processes that map it share the memory."""
    sizes = [tensor.numel() for tensor in like]
    flat = torch.from_file(str(file), shared=True, size=sum(sizes), dtype=torch.float32)
    return [part.view_as(t) for part, t in zip(torch.split(flat, sizes), like, strict=True)]


def _folder_for(size: int) -> Path | None:
    """A folder whose files are in memory, if it has room; else None, for the folder of temporary files."""
    try:
        return MEMORY_FILES if shutil.disk_usage(MEMORY_FILES).free > size else None
    except OSError:
        return None


def _work(task: Task, file: Path, source: IO[bytes], to: IO[bytes]) -> None:
    """Computes parts until the training closes its pipe."""
    torch.set_num_threads(task.threads)
    run = Run(task.recipe, task.start, task.weights.parent)
    parameters = list(run.model.parameters())
    weights, gradients = mapped(task.weights, parameters), mapped(file, parameters)
    for parameter, values, gradient in zip(parameters, weights, gradients, strict=True):
        parameter.data, parameter.grad = values, gradient
    if task.compiled:
        run.compile()
    while header := source.read(HEADER.size):
        count, length, weight = HEADER.unpack(header)
        data = bytearray(source.read(4 * count * length * FIELDS))
        rows = torch.frombuffer(data, dtype=torch.int32).view(count, length, FIELDS)
        if len(run.modes) > 1:
            run.settle(rows)
            run.modes = run.modes[:1]
        run.zero_gradients()
        to.write(LOSS.pack(float(run.add_gradients(rows, run.modes[0], weight=weight))))
        to.flush()


def _main(task: str, gradients: str) -> None:
    # The training handles Ctrl-C and SIGTERM; this process ends with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no loss
    with contextlib.suppress(BrokenPipeError):
        _work(pickle.loads(Path(task).read_bytes()), Path(gradients), sys.stdin.buffer, to)
    # The training was killed, because otherwise it would have killed this process: nothing else removes its files.
    shutil.rmtree(Path(task).parent, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
