"""Trains the embedded model, on a GPU or on a CPU, for a given number of minutes or tokens.

    from jupyter_sc2.training.train import Recipe, train

    figures = train(
        Path("documents.jsonl"),        # or a sequence of Documents
        Path("start"), Path("output"),  # folders of models; the start may be packed
        minutes=8, tokens=300_000_000,  # whichever ends first
        recipe=replace(Recipe.for_device("cuda"), rate=8e-4),
        workers=14,                     # processes that prepare rows
        stop=lambda: time.monotonic() > deadline,
    )

The files in `output`:

    model.safetensors, config.json, tokenizer…   the model in bf16, at the end
    averaged/                                    the same with averaged weights, if `Recipe.average`
    training.json                                the figures that `train` returns: losses, speed, recipe
    checkpoint.pt                                everything needed to resume, from before the rate falls
    decay.pt                                     the same while it falls; usable with the same minutes and tokens only

The learning rate is constant until the last part of the run, in which it falls to zero. Any number of runs make one
long training: called again, it resumes from the checkpoint, and with more minutes or tokens from the one before the
fall. With `tokens` alone a run is the same whether or not it was interrupted, on a CPU bit for bit; with `minutes` it
depends on the machine's speed. SIGTERM, or `stop` returning true, ends a run after the current step: checkpoint and
model are written, but the rate has not fallen.

Only torch, transformers, tokenizers and safetensors have to be installed. meter.py calculates the speed that a GPU
should reach, run.py the memory it needs, and recipe.py gives the reasons for its recipe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from jupyter_sc2.errors import in_one_line
from jupyter_sc2.models.cards import TRAINING_FILE
from jupyter_sc2.models.file_lock import locked
from jupyter_sc2.runtime.hardware import usable_cores
from jupyter_sc2.training.corpus import HELD_OUT, load_documents
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.examples import build_example
from jupyter_sc2.training.feed import FIELDS, Feed, Plan
from jupyter_sc2.training.meter import Meter, known_peak, memory_used, speed_text
from jupyter_sc2.training.recipe import Recipe, schedule
from jupyter_sc2.training.rows import Sampler, prompts, rows
from jupyter_sc2.training.tokenizer import encoder, load_tokenizer
from jupyter_sc2.training.weights import unpacked_model

if TYPE_CHECKING:
    from jupyter_sc2.training.run import Budget, Run

__all__ = ["Recipe", "draw_rows", "draw_texts", "schedule", "train", "unpacked_model"]

HELD_OUT_ROW_TOKENS = 1024
HELD_OUT_ROWS = 24
# On a CPU compiling takes a minute or two.
WORTH_COMPILING_SECONDS = 600.0
WORTH_COMPILING_TOKENS = 300_000
COMPILERS = ("g++", "clang++", "cl")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def draw_texts(documents: Sequence[Document], rng: Random, *, count: int) -> Iterator[str]:
    """The texts of `count` examples, in the training's mix."""
    sampler = Sampler([d for d in documents if d.package not in HELD_OUT])
    for _ in range(count):
        example = build_example(sampler.draw(rng), rng)
        yield from (part for part in example.sequence() if isinstance(part, str))


def draw_rows(
    documents: Sequence[Document], model: Path, *, count: int = 48, length: int = 512
) -> list[list[int]]:
    """Rows of ids in the training's mix, one prompt after another, for the tokenizer in the folder `model`."""
    sampler = Sampler([d for d in documents if d.package not in HELD_OUT])
    encode = encoder(load_tokenizer(model))
    return prompts(sampler, encode, Random("pack"), count=count, length=length)


def train(
    documents: Sequence[Document] | Path,
    start: Path,
    output: Path,
    *,
    minutes: float | None = None,
    tokens: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    device: str | None = None,
    workers: int | None = None,
    processes: int | None = 1,
    threads: int | None = None,
    compiled: bool | None = None,
    peak: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains the model in the folder `start` on the documents and writes the result to the folder `output`.

    `minutes` and `tokens` count from the beginning of the training, over all of its runs. Minutes include compiling,
    measuring and checkpoints, but not the time before the first step and after the last. `device` is by default CUDA if
    there is a GPU; `peak` is its TFLOP/s in bf16, needed only for an unknown GPU. `workers` are processes that prepare
    rows: by default none on a CPU, elsewhere one fewer than there are cores. On a CPU several `processes` can compute
    together (replicas.py), with None one for each core as far as memory allows; `threads` are those of each, by default
    as many as there are cores for it. Returns the figures that are also written to `training.json`.
    """
    # Before torch is loaded. A thread that spins while it waits occupies the core to which a slower one could move; on
    # a machine with other work steps took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if minutes is None and tokens is None:
        raise ValueError("train() needs minutes or tokens")
    device, kind, memory_gb = _device(device)
    recipe = recipe or Recipe.for_device(kind, memory_gb)
    torch.manual_seed(seed)
    budget = (None if minutes is None else minutes * 60, tokens)
    with _alone(output):
        run = _resumed(recipe, start, output, device, seed, budget, report)
        processes = _processes(run, processes)
        if processes > 1 and not threads:
            threads = max(1, usable_cores() // processes)
        if threads:
            torch.set_num_threads(threads)
        if workers is None:
            workers = max(1, (os.cpu_count() or 2) - 1) if kind != "cpu" else 0
        with _feed(documents, output, run, workers) as feed, _sigterm() as terminated:
            held_out, fixed = _measured_rows(documents, output, recipe.held_out)
            figures: dict[str, Any] = {"device": _name(device)}
            figures["fixed_row"] = run.losses_on(fixed, digits=4)["held_out"]
            report(f"{figures['device']}: loss of the fixed row {figures['fixed_row']}")
            if compiled is None:
                compiled = _worth_compiling(kind, budget, run)
            if compiled:
                report("compiling: the first step takes a minute or two")
                run.compile()
            if kind != "cpu" and not run.step:
                report(f"before: {json.dumps(run.measure(held_out))}")
            peak = peak or known_peak(figures["device"])
            loop = _Loop(
                run, feed, held_out, budget, peak, lambda: stop() or terminated(), clock, report
            )
            with _replicas(run, start, processes, threads, compiled, report):
                figures |= loop.train()
        figures["memory_gb"] = memory_used(kind)
        _write(run, output, figures, report)
        return figures


def _device(device: str | None) -> tuple[str, str, float]:
    """The device, by default CUDA if there is one, its kind, and the memory of a GPU in GB."""
    import torch

    from jupyter_sc2.training.run import TrainingError

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.empty(0, device=device).device.type
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise TrainingError(f"There is no device {device} here: {reason}") from error
    if kind != "cuda":
        return device, kind, 0.0
    return device, kind, torch.cuda.get_device_properties(device).total_memory / 1e9


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keeps other processes from training in this folder: they would overwrite each other's checkpoints."""
    import filelock

    from jupyter_sc2.training.run import TrainingError

    try:
        with locked(output / ".lock"):
            yield
    except filelock.Timeout:
        raise TrainingError(
            f"Another process is training in {output}. Wait until it has ended, or choose another folder."
        ) from None


def _resumed(
    recipe: Recipe,
    start: Path,
    output: Path,
    device: str,
    seed: int,
    budget: Budget,
    report: Callable[[str], None],
) -> Run:
    """The run in the folder `output`, from its checkpoint if there is one, else from the weights in `start`."""
    from jupyter_sc2.training.run import Run

    for name in TOKENIZER:
        (output / name).write_bytes((start / name).read_bytes())
    run = Run(recipe, start, output, device=device, seed=seed)
    if run.load(budget):
        report(f"resuming from step {run.step}, minute {run.seconds / 60:.1f}")
        if run.seed != seed:
            report(f"its seed is used: {run.seed}")
    return run


def _feed(documents: Sequence[Document] | Path, tokenizer: Path, run: Run, workers: int) -> Feed:
    """The rows of a run from its current step on."""
    recipe = run.recipe
    plan = Plan(
        documents=documents,
        tokenizer=tokenizer.absolute(),
        seed=run.seed,
        rows_per_step=recipe.rows_per_step,
        length=recipe.row,
        held_out=recipe.held_out,
    )
    return Feed(plan, start=run.step, workers=workers)


def _processes(run: Run, wanted: int | None) -> int:
    """How many processes compute."""
    if run.kind != "cpu" or wanted == 1:
        return 1
    from jupyter_sc2.training.replicas import default_processes

    if wanted is None:
        wanted = default_processes(run.recipe, run.model.num_parameters())
    return min(run.recipe.rows_per_step, wanted)


def _replicas(
    run: Run,
    start: Path,
    processes: int,
    threads: int | None,
    compiled: bool,
    report: Callable[[str], None],
) -> AbstractContextManager[Any]:
    """The processes that compute beside this one."""
    if processes == 1:
        return nullcontext()
    from jupyter_sc2.training.replicas import Replicas

    threads = threads or 1
    try:
        made = Replicas(
            run, start, count=processes - 1, threads=threads, compiled=compiled, report=report
        )
    except (OSError, RuntimeError) as error:  # the latter as torch says that a disk is full
        report(f"Other processes cannot compute beside this one: {in_one_line(error)}")
        return nullcontext()
    report(f"{processes} processes compute, with {threads} thread{'s' * (threads != 1)} each")
    return made


class _Loop:
    """The steps of a run, with its clock, its reports and its checkpoints."""

    def __init__(
        self,
        run: Run,
        feed: Feed,
        held_out: list[Any],
        budget: Budget,
        peak: float | None,
        stop: Callable[[], bool],
        clock: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._run, self._feed, self._held_out = run, feed, held_out
        self._budget, self._stop, self._clock, self._report = budget, stop, clock, report
        self._parameters = run.model.num_parameters()
        self._overall, self._recent = (Meter(self._parameters, peak) for _ in range(2))
        self._mark = clock()
        self._compiles = len(run.modes) > 1  # in the first step

    def train(self) -> dict[str, Any]:
        """Takes steps until the budget is used up or `stop` says so; returns the figures."""
        run, recipe = self._run, self._run.recipe
        figures: dict[str, Any] = {}
        stopped = False
        while not stopped and self._progress() < 1:
            loss = self._step()
            stopped = self._stop()
            self._measure_time()
            progress = self._progress()
            if run.step % recipe.report_every == 1 or recipe.report_every == 1:
                speed = speed_text(self._recent.read())
                self._report(f"step {run.step}  loss {loss:.3f}  {speed}  {progress:.1%} done")
            over = stopped or progress >= 1
            if over:
                figures["speed"] = self._overall.read()
            if over or run.seconds - run.saved_at > recipe.checkpoint_every:
                self._report(f"checkpoint {json.dumps(run.measure(self._held_out))}")
                run.save(self._budget, progress)
        if stopped and self._progress() < 1:
            self._report(
                f"stopped at step {run.step}: the rate has not fallen to zero; the run can be resumed"
            )
        return figures | {
            "parameters": self._parameters,
            "recipe": {**asdict(recipe), "held_out": sorted(recipe.held_out)},
            **run.state(),
            "stopped": stopped,
        }

    def _step(self) -> float:
        """Takes one step; returns its loss."""
        import torch

        run, plan = self._run, self._feed.plan
        self._began, self._waited = self._clock(), self._feed.waited
        made = torch.frombuffer(self._feed.step(), dtype=torch.int32)
        batch = made.view(plan.rows_per_step, plan.length, FIELDS)
        self._size = batch[..., 0].numel()
        if self._compiles:
            for line in run.settle(batch):
                self._report(line)
        return run.learn(batch, schedule(self._progress(), run.step, run.recipe))

    def _measure_time(self) -> None:
        """Adds the time since the last step to the run, and the step to the speed."""
        now = self._clock()
        self._run.seconds += now - self._mark
        self._mark = now
        # Compiling is not part of the overall speed.
        for meter in (self._recent,) if self._compiles else (self._recent, self._overall):
            meter.add(self._size, now - self._began, self._feed.waited - self._waited)
        self._compiles = False

    def _progress(self) -> float:
        return _progress(self._run.seconds, self._run.tokens, self._budget)


def _write(run: Run, output: Path, figures: dict[str, Any], report: Callable[[str], None]) -> None:
    """Writes the model, its averaged weights and the figures."""
    if "speed" in figures:
        report(f"overall: {speed_text(figures['speed'])}; at most {figures['memory_gb']} GB")
    run.write(output)
    (output / TRAINING_FILE).write_text(json.dumps(figures, indent=1) + "\n")
    if (output / "averaged").exists():
        for name in (*TOKENIZER, TRAINING_FILE):
            shutil.copy(output / name, output / "averaged" / name)


def _measured_rows(
    documents: Sequence[Document] | Path, tokenizer: Path, names: Iterable[str]
) -> tuple[list[Any], list[Any]]:
    """Rows of the held-out packages, and one row of the others that is the same in every run."""
    everything = list(load_documents(documents)) if isinstance(documents, Path) else documents
    encode = encoder(load_tokenizer(tokenizer))
    out = [d for d in everything if d.package in names]
    count = HELD_OUT_ROWS if out else 0
    held_out = rows(Sampler(out), encode, Random(1), count=count, length=HELD_OUT_ROW_TOKENS)
    rest = Sampler([d for d in everything if d.package not in names])
    return held_out, rows(rest, encode, Random("fixed"), count=1, length=HELD_OUT_ROW_TOKENS)


def _progress(seconds: float, tokens: int, budget: tuple[float | None, int | None]) -> float:
    """The share of the run that is done, by time or by tokens, whichever is larger."""
    shares = (
        done / most
        for done, most in zip((seconds, tokens), budget, strict=True)
        if most is not None
    )
    return max(shares)


def _worth_compiling(kind: str, budget: Budget, run: Run) -> bool:
    if kind != "cpu":
        return kind == "cuda"
    time_left = budget[0] is None or budget[0] - run.seconds > WORTH_COMPILING_SECONDS
    tokens_left = budget[1] is None or budget[1] - run.tokens > WORTH_COMPILING_TOKENS
    return time_left and tokens_left and any(map(shutil.which, COMPILERS))


def _name(device: str) -> str:
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return device


@contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Catches SIGTERM inside the block; the function that it yields returns whether one has come."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
