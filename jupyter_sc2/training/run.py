"""A model in training: its weights, its steps, and its checkpoints.

Weights, gradients and AdamW's two moments are float32, so that small steps are not rounded away. Autocast computes the
products in bf16, or in float32 on a processor without it; converting the weights takes less than a hundredth of a
micro-batch's time. TF32 stays off: little is left in float32, and some versions of transformers compute the angles of
rotary embeddings as a float32 product, which TF32's 11 bits would get wrong by up to a radian at position 2,048.

Memory on a GPU for 108.6 million parameters: 16 bytes each, and 4 more for the averaged weights, are 2.2 GB. A layer
stores some 20 kB a token for the backward pass if it is compiled and 50 kB if not, which is 18 or 46 GB for 28 layers
and micro-batches of 32,768 tokens. A piece of logits (loss.py) takes 1.3 GB, a dense mask of 16 rows of 2,048 tokens
0.1 GB.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from jupyter_sc2.errors import ModelLoadError, SC2Error, in_one_line
from jupyter_sc2.runtime.hardware import give_back_memory, processor_has_bf16
from jupyter_sc2.training import attention, loss
from jupyter_sc2.training.recipe import Recipe
from jupyter_sc2.training.rows import IGNORED, Token
from jupyter_sc2.training.weights import unpacked_model

CHECKPOINT_KEYS = {"state", "budget", "model", "optimizer", "average"}
STATE = ("step", "seconds", "tokens", "loss", "curve", "seed")
MIDDLES = (0.0, 0.0, 1.0)  # as `Recipe.weights`, for the loss of the middles alone
# How far compiled and plain computation may differ: in nats, and as a share of the gradients' norm. On two rows one and
# two threads of a CPU, which add in another order, differed by 0.002 and 0.002.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 0.01, 0.03
# On a CPU arrays of ever different sizes leave gaps between them: 1 GB in 20 micro-batches, until they are given back.
TRIM_EVERY = 4  # steps

Budget = tuple[float | None, int | None]  # seconds, tokens


class TrainingError(SC2Error):
    """A training cannot continue."""


class Run:
    """A model in training, with everything that a checkpoint holds."""

    def __init__(
        self,
        recipe: Recipe,
        start: Path,
        output: Path,
        *,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.kind = torch.device(device).type
        # Without instructions for it a product in bf16 takes six times as long as in float32.
        self._bf16 = self.kind != "cpu" or processor_has_bf16()
        self.checkpoint = output / "checkpoint.pt"  # from before the rate falls
        self.decay_checkpoint = output / "decay.pt"  # from while it falls
        self.model: Any = unpacked_model(start).to(device)
        self.model.train()
        attention.install(self.model)
        self._table = _table_of(self.model)
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        rest = [p for p in self.model.parameters() if p.ndim != 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            betas=recipe.betas,
            fused=True,
        )
        self.average = (
            [p.detach().clone() for p in self.model.parameters()] if recipe.average else []
        )
        self.step = 0
        self.seconds = self.saved_at = 0.0
        self.tokens = 0
        self.loss = 0.0  # smoothed
        self.curve: list[dict[str, Any]] = []
        self.seed = seed
        self._calls = 0  # of `add_gradients`
        self._piece: loss.Piece = loss.loss_and_gradients
        self.modes = [Mode(flex=False, compiled=False)]  # tried in this order
        # Adds the gradients of a step's rows to those of the weights, and returns the loss.
        self.compute: Callable[[torch.Tensor], torch.Tensor] = lambda rows: self.add_gradients(
            rows, self.modes[0]
        )

    def compile(self, backend: str = "inductor") -> None:
        """Compiles the operations between a layer's matrix products into one kernel, and on CUDA its attention into
        another.

        One layer is compiled for all, which takes a minute less than compiling the whole model.
        """
        logging.getLogger("torch._dynamo").setLevel(
            logging.CRITICAL
        )  # a failure is reported in one line
        for layer in self.model.get_decoder().layers:
            layer.compile(dynamic=False, backend=backend)
        # On a CPU pieces have several sizes.
        self._piece = torch.compile(
            loss.loss_and_gradients, dynamic=self.kind == "cpu", backend=backend
        )
        flex = [Mode(flex=True, compiled=True)] if self.kind == "cuda" else []
        self.modes = [*flex, Mode(flex=False, compiled=True), Mode(flex=False, compiled=False)]

    def learn(self, rows: torch.Tensor, factor: float) -> float:
        """Takes one step on rows (R, T, 7), at this factor of the recipe's rate; returns the rows' loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * factor
        found = self.compute(rows)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if not torch.isfinite(found):
            raise TrainingError(f"The loss of step {self.step} is {found}; a lower rate may help.")
        self.optimizer.step()
        self.zero_gradients()
        self.step += 1
        self.tokens += rows.shape[0] * rows.shape[1]
        total = float(found)
        self.loss = 0.95 * self.loss + 0.05 * total if self.loss else total
        self._take_average()
        return total

    def add_gradients(
        self, rows: torch.Tensor, mode: Mode, *, split: int = 1, weight: float | None = None
    ) -> torch.Tensor:
        """Adds the gradients of the rows' loss to those of the weights; returns the loss.

        Micro-batches are `split` times smaller than usual, which changes only the memory that is needed. `weight` is
        that of all tokens of the step (`weight_of`) if these rows are only a part of it.
        """
        rows = rows.to(self.device)
        weights = _weights(rows, self.recipe.weights)
        weights /= weights.sum() if weight is None else weight
        size = micro_rows(len(rows), rows.shape[1], self.recipe.micro_batch // split)
        total = torch.zeros((), device=self.device)
        for part, of_part in zip(torch.split(rows, size), torch.split(weights, size), strict=True):
            mask = attention.block_mask(part) if mode.flex else attention.dense_mask(part)
            piece = self._piece if mode.compiled else None
            with self._computing(mode):
                found = loss.sum_of_losses(
                    self._hidden(part, mask),
                    self._table,
                    part[..., 1].flatten(),
                    of_part.flatten(),
                    piece,
                )
            with mode.stance():
                found.backward()  # type: ignore[no-untyped-call]
            total += found.detach()
        self._calls += 1
        if self.kind == "cpu" and self._calls % TRIM_EVERY == 0:
            give_back_memory()
        return total

    def settle(self, rows: torch.Tensor) -> list[str]:
        """Drops the modes of computation that do not work here, or compute wrong results; returns lines that say which
        and why.

        They are tried on the first micro-batch of these rows, and its loss and gradients are compared with plain ones.
        """
        lines: list[str] = []
        rows = rows[: micro_rows(len(rows), rows.shape[1], self.recipe.micro_batch)]
        plain, plain_norm = self._try(rows, self.modes[-1], split=2)
        while len(self.modes) > 1:
            mode = self.modes[0]
            try:
                found, norm = self._try(rows, mode)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                apart, norm_apart = abs(found - plain), abs(norm / plain_norm - 1)
                figures = f"loss {found:.4f}, plain {plain:.4f}; gradient norm {norm:.3f}, plain {plain_norm:.3f}"
                if apart < LOSS_TOLERANCE and norm_apart < GRADIENT_TOLERANCE:
                    return [*lines, f"{mode}: {figures}"]
                reason = f"wrong ({figures})"
            self.zero_gradients()
            self.modes.pop(0)
            lines.append(f"{mode} does not work here, {self.modes[0]} is used: {reason}")
        return lines

    def _try(self, rows: torch.Tensor, mode: Mode, split: int = 1) -> tuple[float, float]:
        """The loss of the rows and the norm of its gradients."""
        self.zero_gradients()
        found = self.add_gradients(rows, mode, split=split)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.zero_gradients()
        return float(found), float(norm)

    def measure(self, held_out: Sequence[Sequence[Token]]) -> dict[str, Any]:
        """Adds a point to the curve: the loss so far, and the loss on held-out packages."""
        point = {
            "minutes": round(self.seconds / 60, 1),
            "tokens": self.tokens,
            "loss": round(self.loss, 3),
            **self.losses_on(held_out),
        }
        if self.average:
            with self.averaged():
                found = self.losses_on(held_out)
            point |= {f"{kind}_averaged": value for kind, value in found.items()}
        self.curve.append(point)
        return point

    @torch.no_grad()
    def losses_on(
        self, rows: Sequence[Sequence[Token]], digits: int = 3
    ) -> dict[str, float | None]:
        """The mean loss of these rows, computed without compiling; the same on each device except for rounding."""
        kinds = {"held_out": self.recipe.weights, "held_out_middles": MIDDLES}
        if not rows:
            return dict.fromkeys(kinds)
        found: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}
        plain = self.modes[-1]
        tokens = torch.tensor(rows, dtype=torch.int32, device=self.device)
        for part in torch.split(tokens, 8 if self.kind == "cuda" else 1):
            with self._computing(plain):
                hidden = self._hidden(part, attention.dense_mask(part))
                each = loss.losses(hidden, self._table, part[..., 1].flatten()).view(part.shape[:2])
            for kind, weights in kinds.items():
                counts = _weights(part, weights)
                found[kind].append((each * counts).sum(-1) / counts.sum(-1))
        return {
            kind: round(torch.cat(means).mean().item(), digits) for kind, means in found.items()
        }

    def _hidden(self, rows: torch.Tensor, mask: Any) -> torch.Tensor:
        """The last layer's hidden states, (B T, H)."""
        ids, _, positions, *_ = rows.unbind(-1)
        read = self.model.get_decoder()(
            input_ids=ids.long(),
            attention_mask=mask,
            position_ids=positions.long(),
            use_cache=False,
        )
        hidden: torch.Tensor = read.last_hidden_state
        return hidden.flatten(0, 1)

    @contextmanager
    def _computing(self, mode: Mode) -> Iterator[None]:
        with mode.stance(), torch.autocast(self.kind, dtype=torch.bfloat16, enabled=self._bf16):
            yield

    def zero_gradients(self) -> None:
        # Zeroed, not freed: new pages for half a gigabyte cost more than writing to it.
        self.optimizer.zero_grad(set_to_none=False)

    @torch.no_grad()
    def _take_average(self) -> None:
        """Updates the averaged weights: first the mean of all steps, later a moving average of the last ones."""
        if self.average:
            share = max(1 / self.recipe.average, 1 / (self.step + 1))
            for mean, weight in zip(self.average, self.model.parameters(), strict=True):
                mean.lerp_(weight, share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the model the averaged weights inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for mean, weight in zip(self.average, self.model.parameters(), strict=True):
            mean.data, weight.data = weight.data, mean.data

    def save(self, budget: Budget, progress: float) -> Path:
        """Replaces the checkpoint in one move: an interruption leaves the previous one intact."""
        self.saved_at = self.seconds
        values = {
            "state": self.state(),
            "budget": budget,
            "recipe": {**asdict(self.recipe), "held_out": sorted(self.recipe.held_out)},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        path = self.decay_checkpoint if progress > 1 - self.recipe.decay else self.checkpoint
        part = path.with_suffix(".part")
        try:
            torch.save(values, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # the latter as torch says that a disk is full
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise TrainingError(
                f"{path} cannot be written: {in_one_line(error)}. What was written before is as it was."
            ) from error
        return path

    def load(self, budget: Budget) -> bool:
        """Resumes from the checkpoint for this budget if there is one; returns whether there was."""
        for path in (self.decay_checkpoint, self.checkpoint):
            if not path.exists():
                continue
            try:
                values = torch.load(path, weights_only=True, map_location=self.device)
                if not values.keys() >= CHECKPOINT_KEYS:
                    raise ValueError("it is not a checkpoint")
            except (PermissionError, IsADirectoryError) as error:
                raise SC2Error(f"{path} cannot be read: {error.strerror}.") from error
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a cut or foreign file raises almost anything
                raise SC2Error(
                    f"{path} is damaged: delete it, and the training resumes from the checkpoint before it or starts "
                    "again."
                ) from error
            if path == self.decay_checkpoint and values["budget"] != budget:
                continue  # its rate fell towards the end of another budget
            for name, value in values["state"].items():
                setattr(self, name, value)
            self.saved_at = self.seconds
            self.model.load_state_dict(values["model"])
            self.optimizer.load_state_dict(values["optimizer"])
            if self.average and values["average"]:
                self.average = values["average"]
            return True
        return False

    def state(self) -> dict[str, Any]:
        """The fields of the run that a checkpoint keeps, besides weights and optimizer."""
        return {name: getattr(self, name) for name in STATE}

    def write(self, folder: Path) -> None:
        """Writes the weights in bf16, and the averaged ones to `averaged` inside the folder. The run cannot be used
        afterwards."""
        self.model.to(torch.bfloat16).save_pretrained(folder)
        if self.average:
            with torch.no_grad():
                for mean, weight in zip(self.average, self.model.parameters(), strict=True):
                    weight.copy_(mean)
            self.model.save_pretrained(folder / "averaged")


class Mode:
    """A mode of computing a step: the kind of attention, compiled or not."""

    def __init__(self, *, flex: bool, compiled: bool) -> None:
        self.flex, self.compiled = flex, compiled

    def __str__(self) -> str:
        masked = "flex attention" if self.flex else "attention with a dense mask"
        return f"{masked}, layers {'' if self.compiled else 'not '}compiled"

    def stance(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.compiled else torch.compiler.set_stance("force_eager")


def weight_of(rows: torch.Tensor, recipe: Recipe) -> float:
    """The weight of the loss of all tokens in these rows, by which each token's is divided."""
    return float(_weights(rows, recipe.weights).sum())


def micro_rows(rows: int, length: int, tokens: int) -> int:
    """How many of a step's rows are read at once: as many as `tokens` allow, an equal number each time."""
    most = max(1, min(rows, tokens // length))
    return next(size for size in range(most, 0, -1) if rows % size == 0)


def _weights(rows: torch.Tensor, of_parts: Sequence[float]) -> torch.Tensor:
    """The weight of each token's loss, (R, T)."""
    labels, parts = rows[..., 1], rows[..., 6]
    return torch.tensor(of_parts, device=rows.device)[parts.long()] * (labels != IGNORED)


def _table_of(model: Any) -> torch.Tensor:
    """The output layer's weight (V, H). Raises ModelLoadError if the layer does more than multiply with it."""
    head = model.get_output_embeddings()
    scaled = any(
        getattr(model.config, name, None) for name in ("final_logit_softcapping", "logit_scale")
    )
    if getattr(head, "bias", None) is not None or scaled:
        raise ModelLoadError(
            f"{type(model).__name__} cannot be trained: its output layer does more than a product."
        )
    table: torch.Tensor = head.weight
    return table
