"""Tunes the embedded model on a CPU in the minutes that one is willing to wait.

The schedule follows the clock and not the number of steps: how many steps an hour has depends on what else
the machine does. The rate is level until the last part of the time and falls to zero in it. The checkpoint that
a longer run goes on from is the one before that fall, so that any number of runs make one long training.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jupyter_sc2.embedded.corpus import HELD_OUT, Document
from jupyter_sc2.embedded.examples import build_example
from jupyter_sc2.embedded.rows import UNTOLD, Sampler, Token, prompts, rows, visible
from jupyter_sc2.embedded.tokenizer import encoder, load_tokenizer
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import TRAINED

if TYPE_CHECKING:
    import torch

HELD_OUT_ROW = 1024
MIDDLES = (0.0, 0.0, 1.0)  # weights as `Recipe.weights`
TOKENS_AT_ONCE = 2_080  # of whole rows; what they need in between takes 3 GB
WORTH_COMPILING = 600.0  # seconds
COMPILERS = ("g++", "clang++", "cl")
STATE = ("step", "seconds", "tokens", "loss", "curve")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the model is trained. Rates are those of AdamW."""

    tokens_per_step: int = 4096
    row: int = 1024  # tokens
    # Of each of `rows.PARTS`. A cell of the trunk is the prefix of several branches as well.
    weights: tuple[float, float, float] = (0.5, 0.3, 1.5)
    rate: float = 4e-4
    warmup: float = 20.0  # steps
    decay: float = 0.3  # share of the time
    weight_decay: float = 0.05
    clip: float = 1.0
    checkpoint_every: float = 300.0
    held_out: frozenset[str] = field(default=HELD_OUT)


def schedule(progress: float, step: int, recipe: Recipe) -> float:
    """The learning rate's factor at this share of the time: up, level, and down to zero at the end."""
    return max(0.0, min(1.0, (step + 1) / recipe.warmup, (1 - progress) / recipe.decay))


def draw_texts(documents: Sequence[Document], rng: Random, *, count: int) -> Iterator[str]:
    """The texts of `count` examples, in the mix of the training."""
    sampler = Sampler([d for d in documents if d.package not in HELD_OUT])
    for _ in range(count):
        example = build_example(sampler.draw(rng), rng)
        yield from (part for part in example.sequence() if isinstance(part, str))


def draw_rows(
    documents: Sequence[Document], model: Path, *, count: int = 48, length: int = 512
) -> list[list[int]]:
    """Rows of ids in the mix of the training, one prompt after another, for the tokenizer in the folder `model`."""
    sampler = Sampler([d for d in documents if d.package not in HELD_OUT])
    encode = encoder(load_tokenizer(model))
    return prompts(sampler, encode, Random("pack"), count=count, length=length)


def train(
    documents: Sequence[Document],
    start: Path,
    output: Path,
    *,
    minutes: float,
    seed: int = 0,
    recipe: Recipe | None = None,
    threads: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Tunes the model in the folder `start` on the documents and leaves the result in the folder `output`.

    `minutes` count from the beginning of the training, over all of its runs: stopped and called again it goes on
    from its last checkpoint, and called with more minutes than before from where the rate began to fall.
    Returns the figures that it also writes to `training.json` there.
    """
    # Before torch loads: a thread that waits by spinning keeps the core that its slower sibling could move to,
    # which on a machine with other work made steps ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    recipe = recipe or Recipe()
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (output / name).write_bytes((start / name).read_bytes())
    encode = encoder(load_tokenizer(output))
    sampler = Sampler([d for d in documents if d.package not in recipe.held_out])
    others = [d for d in documents if d.package in recipe.held_out]
    count = 24 if others else 0
    held_out = rows(Sampler(others), encode, Random(1), count=count, length=HELD_OUT_ROW)

    run = Run(recipe, start, output)
    budget = minutes * 60
    if run.load(budget):
        report(f"going on from step {run.step}, minute {run.seconds / 60:.1f}")
    if budget - run.seconds > WORTH_COMPILING and any(map(shutil.which, COMPILERS)):
        report("compiling: the first step takes a minute or two")
        run.compile()
    rows_per_step = max(1, recipe.tokens_per_step // recipe.row)
    while run.seconds < budget:
        started = clock()
        # Seeded by the step, so that a run that was stopped sees the same examples as one that was not.
        rng = Random(f"{seed} {run.step}")
        batch = rows(sampler, encode, rng, count=rows_per_step, length=recipe.row)
        run.learn(batch, schedule(run.seconds / budget, run.step, recipe))
        taken = clock() - started
        run.seconds += taken
        if run.step % 10 == 0:
            speed, left = rows_per_step * recipe.row / taken, (budget - run.seconds) / 60
            report(
                f"step {run.step}  loss {run.loss:.3f}  {speed:,.0f} tokens/s  {left:.1f} min left"
            )
        if run.seconds - run.saved_at > recipe.checkpoint_every or run.seconds >= budget:
            report(f"checkpoint {json.dumps(run.measure(held_out))}")
            run.save(budget)
    return run.finish(output)


class Run:
    """A model in training: what a checkpoint holds."""

    def __init__(self, recipe: Recipe, start: Path, output: Path) -> None:
        import torch

        self.recipe = recipe
        self.level = output / "checkpoint.pt"  # before the rate falls
        self.falling = output / "decay.pt"
        self.model: Any = unpacked_model(start)
        self.model.train()
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        rest = [p for p in self.model.parameters() if p.ndim != 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.step = 0
        self.seconds = self.saved_at = 0.0
        self.tokens = 0
        self.loss = 0.0  # smoothed
        self.curve: list[dict[str, Any]] = []

    def compile(self) -> None:
        """Makes one kernel of what is done between the products of a layer; where that fails, all stays as it is."""
        import torch

        torch._dynamo.config.suppress_errors = True
        logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)  # or it prints the traceback
        for layer in self.model.get_decoder().layers:
            layer.compile(dynamic=False)

    def learn(self, batch: list[list[Token]], factor: float) -> None:
        """One step with the rate at this factor of the recipe's, a few rows at a time, which bounds the memory."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * factor
        total = 0.0
        rows = max(1, TOKENS_AT_ONCE // len(batch[0]))
        for part in torch.tensor(batch).split(rows):  # type: ignore[no-untyped-call]
            loss: Any = _mean(_losses(self.model, part), part, self.recipe.weights)
            loss = loss * len(part) / len(batch)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        # Zeroed and not freed: fresh pages for half a gigabyte cost more than writing to it.
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        self.tokens += len(batch) * len(batch[0])
        self.loss = 0.95 * self.loss + 0.05 * total if self.loss else total

    def measure(self, held_out: list[list[Token]]) -> dict[str, Any]:
        """A point of the curve: the loss so far, and that on packages never trained on."""
        import torch

        kinds = {"held_out": self.recipe.weights, "held_out_middles": MIDDLES}
        losses: dict[str, list[float]] = {kind: [] for kind in kinds}
        with torch.no_grad():
            for batch in (torch.tensor([row]) for row in held_out):
                each = _losses(self.model, batch)
                for kind, weights in kinds.items():
                    losses[kind].append(_mean(each, batch, weights).item())
        point = {
            "minutes": round(self.seconds / 60, 1),
            "tokens": self.tokens,
            "loss": round(self.loss, 3),
            **{kind: round(fmean(of), 3) if of else None for kind, of in losses.items()},
        }
        self.curve.append(point)
        return point

    def save(self, budget: float) -> None:
        """Replaces the checkpoint in one move: being stopped here leaves the older one."""
        import torch

        self.saved_at = self.seconds
        values = {
            "state": {name: getattr(self, name) for name in STATE},
            "budget": budget,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        falls = self.seconds / budget > 1 - self.recipe.decay
        path = self.falling if falls else self.level
        part = path.with_suffix(".part")
        torch.save(values, part)
        os.replace(part, path)

    def load(self, budget: float) -> bool:
        """Takes up the checkpoint for this budget of seconds if there is one."""
        import torch

        for path in (self.falling, self.level):
            if not path.exists():
                continue
            values = torch.load(path, weights_only=True)
            if path == self.falling and values["budget"] != budget:
                continue  # made for a shorter time
            for name, value in values["state"].items():
                setattr(self, name, value)
            self.saved_at = self.seconds
            self.model.load_state_dict(values["model"])
            self.optimizer.load_state_dict(values["optimizer"])
            return True
        return False

    def finish(self, output: Path) -> dict[str, Any]:
        """Writes the weights in bf16 and the figures."""
        import torch

        figures = {
            "parameters": self.model.num_parameters(),
            "recipe": {**asdict(self.recipe), "held_out": sorted(self.recipe.held_out)},
            **{name: getattr(self, name) for name in STATE},
        }
        self.model.to(torch.bfloat16).save_pretrained(output)
        (output / TRAINED).write_text(json.dumps(figures, indent=1) + "\n")
        return figures


def unpacked_model(folder: Path) -> Any:
    """The model in a folder in float32; one that is packed, as the shipped one is, is unpacked."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from jupyter_sc2.engines.int4 import unpacked

    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "packed"):
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    del config.packed  # or what is trained would be taken for packed as well
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".scales")]:
        key = name.removesuffix("scales") + "weight"
        tensors[key] = unpacked(tensors[key], tensors.pop(name))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    missing, _ = model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    if set(missing) - set(model._tied_weights_keys or ()):
        raise ModelLoadError(f"{folder} lacks {', '.join(missing)}.")
    return model


def _losses(model: Any, batch: torch.Tensor) -> torch.Tensor:
    """The loss of each token in rows of `Token`s, (B, T, 7); gives (B, T), 0 where there is no label."""
    import torch

    ids, labels, positions, *_ = batch.unbind(-1)
    seen = visible(batch)
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, -torch.inf)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        )  # logits: (B, T, V)
    each = torch.nn.functional.cross_entropy(
        output.logits.float().flatten(0, 1), labels.flatten(), ignore_index=UNTOLD, reduction="none"
    )
    return each.view_as(labels)


def _mean(losses: torch.Tensor, batch: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The mean of what `_losses` gives over what has a label, each part with its weight."""
    import torch

    _, labels, *_, parts = batch.unbind(-1)
    counts = torch.tensor(weights)[parts] * (labels != UNTOLD)
    return (losses * counts).sum() / counts.sum()
