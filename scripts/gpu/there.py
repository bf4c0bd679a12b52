"""The steps that need torch on the machine with the GPU; run.py starts each in a process of its own.

    python -m scripts.gpu.there trial WORK SECONDS          measures the loss of the start weights, then speeds
    python -m scripts.gpu.there learn WORK UNTIL MINUTES    trains, or resumes the training
    python -m scripts.gpu.there export WORK                 writes the newest checkpoint in bf16, then in 4 bits

Each writes its results as soon as it has them, because it may be stopped at any time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.gpu.pieces import read_json, write_json

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CHECKPOINTS = ("decay.pt", "checkpoint.pt")
TRIED_SECONDS = 10.0  # for each mode, after the first pass, in which it is compiled
TRIAL_DOCUMENTS = 1_500
SPARE_CORES = 4  # for the training's own process and for rounding, which slows down tenfold where threads share a core
ROWS_BESIDE = 16  # rows for rounding weights while the training needs the cores
RESTART_SECONDS = 45.0  # between a restart and its first step


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def recipe_of(work: Path) -> Any:
    """The recipe for the device, with the settings that were given or measured here."""
    from jupyter_sc2.training.recipe import Recipe

    set_here = read_json(work / "recipe.json", {})
    set_here.pop("dense", None)
    return replace(Recipe.for_device(device()), **set_here)


def loss_of(model: Path, measured: Any, on: str) -> dict[str, float | None]:
    """The loss of the model in a folder, packed or not, on these rows; the same everywhere except for rounding."""
    from jupyter_sc2.training.recipe import Recipe
    from jupyter_sc2.training.run import Run

    with tempfile.TemporaryDirectory() as output:
        run = Run(Recipe(), model, Path(output), device=on)
        return run.losses_on(measured, digits=4)


def trial(work: Path, seconds: float) -> None:
    """Measures the speed of the training by mode and micro-batch, and the loss of the start weights."""
    import torch

    until = time.monotonic() + seconds
    on = device()
    start = work / "start"
    name = torch.cuda.get_device_name() if on == "cuda" else "cpu"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "tried": []}
    found |= {k: v for k, v in read_json(work / "trial.json", {}).items() if k in ("tried", "best")}

    whole = (start / "model.safetensors").exists()
    if whole:
        rows = read_json(work / "rows.json")["measured"]
        expected = read_json(work / "manifest.json")["start_loss"]
        found["start_loss"], found["expected"] = loss_of(start, rows, on), expected
        say(f"loss of the start weights {found['start_loss']}, expected {expected}")
        write_json(work / "trial.json", found)
    if found.get("best"):
        return

    corpus = sorted((work / "corpus").glob("*.jsonl"))
    if not corpus:
        say("no text has arrived for a trial")
        return
    recipe = recipe_of(work)
    batch, found["row_speed"] = trial_batch(corpus[0], start, recipe, on)
    model = start if whole else random_model(start, work / "random")
    with tempfile.TemporaryDirectory() as output:
        try_modes(work, found, recipe, model, batch, on, until, Path(output))


def trial_batch(corpus: Path, start: Path, recipe: Any, on: str) -> tuple[Any, int]:
    """Rows for the largest micro-batch that is tried, (R, T, 7), and the tokens a second of making them."""
    import torch

    from jupyter_sc2.training.corpus import load_documents
    from jupyter_sc2.training.feed import FIELDS
    from jupyter_sc2.training.rows import Sampler, packed_row
    from jupyter_sc2.training.tokenizer import encoder, load_tokenizer

    documents = list(islice(load_documents(corpus), TRIAL_DOCUMENTS))
    sampler, encode = Sampler(documents), encoder(load_tokenizer(start))
    most = max(recipe.micro_batch * (2 if on == "cuda" else 1), recipe.row)
    began = time.monotonic()
    made = [
        torch.frombuffer(
            bytearray(
                packed_row(sampler, encode, seed=0, step=0, place=n, length=recipe.row).tobytes()
            ),
            dtype=torch.int32,
        )
        for n in range(most // recipe.row)
    ]
    batch = torch.stack(made).view(-1, recipe.row, FIELDS)
    speed = batch[..., 0].numel() / (time.monotonic() - began)
    say(f"one process makes rows at {speed:,.0f} tokens/s; there are {os.cpu_count()} cores")
    return batch, round(speed)


def try_modes(
    work: Path,
    found: dict[str, Any],
    recipe: Any,
    model: Path,
    batch: Any,
    on: str,
    until: float,
    output: Path,
) -> None:
    """Times each mode and micro-batch while there is time; each result is written at once."""
    import torch

    from jupyter_sc2.training.run import Run

    run = Run(recipe, model, output, device=on)
    if on == "cuda":
        run.compile()
        for line in run.settle(batch):
            say(line)
    micro = recipe.micro_batch
    # The most promising first: the time may be up before all are tried. Each new size is compiled.
    wanted = [(run.modes[0], micro)]
    if on == "cuda":
        wanted += [(run.modes[0], 2 * micro)]
        wanted += [(m, micro) for m in run.modes[1:] if m.compiled]
    for mode, size in wanted:
        took = max((one["first_seconds"] for one in found["tried"]), default=0.0)
        if found["tried"] and time.monotonic() + 1.5 * took > until:
            say("no time left to try more")
            break
        try:
            one = timed(run, batch, mode, replace(recipe, micro_batch=size), on, until)
        except torch.OutOfMemoryError:
            say(f"micro-batches of {size} tokens do not fit the memory")
            torch.cuda.empty_cache()
            continue
        say(json.dumps(one))
        found["tried"].append(one)
        found["best"] = max(found["tried"], key=lambda one: one["tokens_per_second"])
        write_json(work / "trial.json", found)


def timed(run: Any, batch: Any, mode: Any, recipe: Any, on: str, until: float) -> dict[str, Any]:
    """The speed and the memory of one mode and micro-batch."""
    import torch

    from jupyter_sc2.training.meter import known_peak, memory_used
    from jupyter_sc2.training.run import micro_rows

    rows = batch[: micro_rows(len(batch), recipe.row, recipe.micro_batch)]
    run.recipe = recipe
    began = time.monotonic()
    loss = float(run.add_gradients(rows, mode))
    first = time.monotonic() - began
    began, steps = time.monotonic(), 0
    enough = min(began + TRIED_SECONDS, until)
    while not steps or time.monotonic() < enough:
        float(run.add_gradients(rows, mode))  # waits for the device
        steps += 1
    speed = steps * rows[..., 0].numel() / (time.monotonic() - began)
    flop = speed * 6 * run.model.num_parameters() / 1e12
    peak = known_peak(torch.cuda.get_device_name() if on == "cuda" else "cpu")
    run.optimizer.zero_grad(set_to_none=False)
    return {
        "attention": "flex" if mode.flex else "dense",
        "compiled": mode.compiled,
        "micro_batch": recipe.micro_batch,
        "tokens_per_second": round(speed),
        "teraflops": round(flop, 2),
        "utilisation": round(flop / peak, 4) if peak else None,
        "first_seconds": round(first, 1),
        "memory_gb": round(memory_used(on) or 0, 2),
        "loss": round(loss, 4),
    }


def random_model(start: Path, folder: Path) -> Path:
    """A model of the same shape with random weights, for a trial before all weights are there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(start)
    if hasattr(config, "packed"):
        del config.packed
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    say("the weights are not complete yet: random ones are used, whose loss says nothing")
    return folder


def learn(work: Path, until: float, minutes: float) -> None:
    from jupyter_sc2.training import run as of_run
    from jupyter_sc2.training.train import train

    if read_json(work / "recipe.json", {}).get("dense"):
        compiled = of_run.Run.compile

        def without_flex(self: Any, *args: Any, **options: Any) -> None:
            compiled(self, *args, **options)
            self.modes = [mode for mode in self.modes if not mode.flex]

        of_run.Run.compile = without_flex  # type: ignore[method-assign]
    output = work / "output"
    # A run that is resumed has to end at the same time. Once its rate falls, its minutes cannot be changed.
    seconds, fixed = state_of(output)
    if fixed:
        minutes = fixed / 60
    elif seconds:
        minutes = (seconds + max(0.0, until - time.time() - RESTART_SECONDS)) / 60
    say(f"training for {minutes:.2f} minutes, of which {seconds / 60:.2f} are done")
    workers = max(1, (os.cpu_count() or 2) - SPARE_CORES)
    figures = train(
        work / "documents.jsonl",
        work / "start",
        output,
        minutes=minutes,
        recipe=recipe_of(work),
        workers=workers if device() == "cuda" else 0,
        stop=lambda: time.time() > until,
        report=say,
    )
    write_json(work / "trained.json", figures)


def newest(output: Path) -> Path | None:
    """The newest checkpoint."""
    paths = [output / name for name in CHECKPOINTS if (output / name).exists()]
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def load(path: Path) -> dict[str, Any]:
    import torch

    values: dict[str, Any] = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    return values


def state_of(output: Path) -> tuple[float, float | None]:
    """The seconds that the training has run and, if its rate was falling already, the seconds of its budget."""
    if path := newest(output):
        values = load(path)
        falling = values["budget"][0] if path.name == "decay.pt" else None
        return values["state"]["seconds"], falling
    return 0.0, None


def export(work: Path) -> None:
    """Writes the newest checkpoint to `results/STEP/master` and `results/STEP/packed`, with `figures.json` for both."""
    import torch

    # One at a time: an earlier call may have been cut off while its export continues.
    lock = (work / "export.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    is_training = read_json(work / "training.json", {}).get("state") == "running"
    if is_training:  # the training has priority
        os.nice(5)
        torch.set_num_threads(max(1, min(SPARE_CORES - 1, os.cpu_count() or 1)))
    path = newest(work / "output")
    if path is None:
        say("no checkpoint yet")
        return
    values = load(path)
    state = values["state"]
    folder = work / "results" / f"{state['step']:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    figures = read_json(folder / "figures.json") or first_figures(work, values)
    say(f"step {state['step']}, {state['tokens']:,} tokens: the {figures['weights']} weights")
    rows = read_json(work / "rows.json")
    master, packed = folder / "master", folder / "packed"

    def note() -> None:
        write_json(folder / "figures.json", figures)

    note()
    if not master.exists():
        write_master(work, values, figures, master)
    if figures["master_loss"] is None:
        figures["master_loss"] = loss_of(master, rows["measured"], device())
        say(f"loss in bf16 {figures['master_loss']}, of the start {figures['start_loss']}")
        note()
    if not packed.exists():
        from jupyter_sc2.engines.onnx.packing import pack

        began = time.monotonic()
        some = rows["pack"][: ROWS_BESIDE if is_training else None]
        pack(master, folder / "packed.part", some)
        write_json(folder / "packed.part" / "training.json", figures)
        os.replace(folder / "packed.part", packed)
        figures["rounding_seconds"] = round(time.monotonic() - began, 1)
        say(f"rounded in {figures['rounding_seconds']} s")
        note()
    if figures["packed_loss"] is None:
        figures["packed_loss"] = loss_of(packed, rows["measured"], device())
        say(f"loss in 4 bits {figures['packed_loss']}")
        note()


def is_averaged(values: dict[str, Any]) -> bool:
    """Whether a checkpoint's averaged weights are at least as good as its last ones."""
    curve = values["state"]["curve"]
    point = curve[-1] if curve else {}
    mean, last = point.get("held_out_averaged"), point.get("held_out")
    return bool(values["average"]) and (mean is None or last is None or mean <= last)


def first_figures(work: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The figures of a checkpoint before anything is made of it."""
    state = values["state"]
    return {
        "step": state["step"],
        "tokens": state["tokens"],
        "seconds": round(state["seconds"], 1),
        "weights": "averaged" if is_averaged(values) else "last",
        "curve": state["curve"],
        "recipe": values["recipe"],
        "start_loss": read_json(work / "manifest.json")["start_loss"],
        "speed": read_json(work / "trained.json", {}).get("speed"),
        "master_loss": None,
        "packed_loss": None,
    }


def write_master(work: Path, values: dict[str, Any], figures: dict[str, Any], master: Path) -> None:
    """Writes a checkpoint's weights as a model in bf16, in one move."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(work / "start")
    if hasattr(config, "packed"):
        del config.packed
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(values["model"])
    if is_averaged(values):
        with torch.no_grad():
            for weight, of_it in zip(model.parameters(), values["average"], strict=True):
                weight.copy_(of_it)
    figures["parameters"] = model.num_parameters()
    part = master.with_name("master.part")
    model.to(torch.bfloat16).save_pretrained(part)
    for name in TOKENIZER:
        shutil.copy(work / "start" / name, part / name)
    write_json(part / "training.json", figures)
    os.replace(part, master)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["trial", "learn", "export"])
    parser.add_argument("work", type=Path)
    parser.add_argument("numbers", type=float, nargs="*")
    args = parser.parse_args()
    if args.step == "trial":
        trial(args.work, *args.numbers)
    elif args.step == "learn":
        learn(args.work, *args.numbers)
    else:
        export(args.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
