"""Trains the embedded model on a CPU in the minutes that one is willing to wait.

The schedule follows the clock and not the number of steps: how many steps an hour has depends on what else
the machine does, and the decay to zero at the end is worth too much to miss it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from jupyter_sc2.embedded.corpus import (
    HELD_OUT,
    PACKAGES,
    Document,
    build_corpus,
    fetch,
    load_documents,
)
from jupyter_sc2.embedded.examples import build_example
from jupyter_sc2.embedded.tokenizer import END, encoder, load_tokenizer, train_tokenizer
from jupyter_sc2.prompt.layout import Segment

if TYPE_CHECKING:
    import torch

__all__ = ["Recipe", "build_corpus", "fetch", "schedule", "train", "train_tokenizer"]

# How often each kind of document is drawn. Notebooks are the fewest and count the most.
MIX = {"notebook": 0.40, "example": 0.27, "doctest": 0.12, "docs": 0.09, "library": 0.12}
STATE = ("step", "seconds", "tokens", "loss", "curve")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The model's shape and how it is trained."""

    vocabulary: int = 6144
    hidden: int = 320
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    tokens_per_step: int = 4096
    row: int = 512
    # Rows twice as long from here on: cheap, and it stretches how far back the model can look.
    long_rows_from: float = 0.75
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    clip: float = 1.0
    checkpoint_every: float = 180.0
    held_out: frozenset[str] = field(default=HELD_OUT)


def schedule(progress: float, *, warmup: float = 0.02, decay: float = 0.45) -> float:
    """The learning rate's factor at this share of the time: up, level, and down to zero at the end."""
    return max(0.0, min(1.0, progress / warmup, (1 - progress) / decay))


class Sampler:
    """Draws documents: first by kind, then by length within it.

    A package with a hundred times the text comes ten times as often, so that none drowns the rest.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        sizes: dict[tuple[str, str], float] = {}
        lengths = [
            min(sum(len(cell.source) for cell in document.cells), 10_000) for document in documents
        ]
        for document, length in zip(documents, lengths, strict=True):
            key = (document.kind, document.package)
            sizes[key] = sizes.get(key, 0) + length
        self._kinds: dict[str, tuple[list[Document], list[float]]] = {}
        for document, length in zip(documents, lengths, strict=True):
            group, totals = self._kinds.setdefault(document.kind, ([], []))
            group.append(document)
            weight = length / sizes[(document.kind, document.package)] ** 0.5
            totals.append(weight + (totals[-1] if totals else 0))

    def draw(self, rng: Random) -> Document:
        kinds = list(self._kinds)
        (kind,) = rng.choices(kinds, [MIX[kind] for kind in kinds])
        group, totals = self._kinds[kind]
        (document,) = rng.choices(group, cum_weights=totals)
        return document


def rows(
    sampler: Sampler,
    encode: Callable[[Sequence[Segment]], list[int]],
    rng: Random,
    *,
    count: int,
    length: int,
) -> list[list[int]]:
    """Rows of ids, each begun with a document's start, as a prompt is, and filled with further ones."""
    filled = []
    for _ in range(count):
        row: list[int] = []
        while len(row) < length:
            row += [*encode(build_example(sampler.draw(rng), rng)), END]
        filled.append(row[:length])
    return filled


def train(
    *,
    corpus: Path,
    output: Path,
    minutes: float,
    seed: int = 0,
    resume: bool = True,
    recipe: Recipe | None = None,
    threads: int | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains on the corpus that `build_corpus` made and leaves a model folder in `output`.

    Where there is no corpus yet it is gathered first; the minutes are those of the training alone.
    Stopped in between and called again, it goes on from its last checkpoint. Returns the figures it also
    writes to `output/training.json`.
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
    if not (corpus / "documents.jsonl").exists():
        report(f"gathering source archives of {len(PACKAGES)} packages in {corpus}")
        fetch(PACKAGES, corpus / "archives")
        build_corpus(corpus / "archives", corpus)
    documents = list(load_documents(corpus / "documents.jsonl"))
    sampler = Sampler([d for d in documents if d.package not in recipe.held_out])
    if not (resume and (output / "tokenizer.json").exists()):
        texts = _tokenizer_texts(sampler, Random(seed))
        train_tokenizer(texts, output, vocabulary=recipe.vocabulary)
    encode = encoder(load_tokenizer(output))
    others = [d for d in documents if d.package in recipe.held_out]
    count = 12 if others else 0
    held_out = rows(Sampler(others), encode, Random(1), count=count, length=recipe.row + 1)

    run = Run(recipe, output / "checkpoint.pt")
    if resume and run.load():
        report(f"going on from step {run.step}")
    budget = minutes * 60
    while run.seconds < budget:
        started = time.monotonic()
        progress = run.seconds / budget
        length = recipe.row * (2 if progress >= recipe.long_rows_from else 1)
        # Seeded by the step, so that a run that was stopped sees the same examples as one that was not.
        rng = Random(f"{seed} {run.step}")
        count = max(1, recipe.tokens_per_step // length)
        run.learn(rows(sampler, encode, rng, count=count, length=length + 1), schedule(progress))
        taken = time.monotonic() - started
        run.seconds += taken
        if run.step % 20 == 0:
            speed, left = count * length / taken, (budget - run.seconds) / 60
            report(
                f"step {run.step}  loss {run.loss:.3f}  {speed:,.0f} tokens/s  {left:.1f} min left"
            )
        if run.seconds - run.saved_at > recipe.checkpoint_every or run.seconds >= budget:
            report(f"checkpoint {json.dumps(run.measure(held_out))}")
            run.save()
    return run.finish(output)


class Run:
    """A model in training: what a checkpoint holds."""

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.model = new_model(recipe)
        self.optimizers = _optimizers(self.model, recipe)
        self._rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.step = 0
        self.seconds = self.saved_at = 0.0
        self.tokens = 0
        self.loss = 0.0  # smoothed
        self.curve: list[dict[str, Any]] = []

    def learn(self, batch: list[list[int]], factor: float) -> None:
        """One step, with the learning rates at this factor of the recipe's."""
        import torch

        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss: Any = _loss(self.model, torch.tensor(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.tokens += len(batch) * (len(batch[0]) - 1)
        self.loss = 0.95 * self.loss + 0.05 * loss.item() if self.loss else loss.item()

    def measure(self, held_out: list[list[int]]) -> dict[str, Any]:
        """A point of the curve: the loss so far, and that on packages never trained on."""
        import torch

        losses = []
        with torch.no_grad():
            for row in held_out:
                losses.append(_loss(self.model, torch.tensor([row])).item())
        point = {
            "minutes": round(self.seconds / 60, 1),
            "tokens": self.tokens,
            "loss": round(self.loss, 3),
            "held_out": round(sum(losses) / len(losses), 3) if losses else None,
        }
        self.curve.append(point)
        return point

    def save(self) -> None:
        """Replaces the checkpoint in one move: being stopped here leaves the older one."""
        import torch

        self.saved_at = self.seconds
        values = {
            "state": {name: getattr(self, name) for name in STATE},
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(values, part)
        os.replace(part, self.checkpoint)

    def load(self) -> bool:
        """Takes up the checkpoint if there is one."""
        import torch

        if not self.checkpoint.exists():
            return False
        values = torch.load(self.checkpoint, weights_only=True)
        for name, value in values["state"].items():
            setattr(self, name, value)
        self.saved_at = self.seconds
        self.model.load_state_dict(values["model"])
        for optimizer, state in zip(self.optimizers, values["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return True

    def finish(self, output: Path) -> dict[str, Any]:
        """Writes the weights in bf16 and the figures."""
        import torch

        figures = {
            "parameters": self.model.num_parameters(),
            "recipe": {**asdict(self.recipe), "held_out": sorted(self.recipe.held_out)},
            **{name: getattr(self, name) for name in STATE},
        }
        self.model.to(torch.bfloat16).save_pretrained(output)
        (output / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
        return figures


def new_model(recipe: Recipe) -> Any:
    """A StarCoder2 of the recipe's shape with random weights."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    config = Starcoder2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=4 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=2 * recipe.row,
        sliding_window=None,
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        tie_word_embeddings=True,
        use_bias=True,
        bos_token_id=END,
        eos_token_id=END,
    )
    return Starcoder2ForCausalLM(config)


def _optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, which halved the tokens to the same loss, AdamW for the rest."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.02),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits  # (B, T, V)
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def _tokenizer_texts(sampler: Sampler, rng: Random, *, count: int = 12_000) -> Iterator[str]:
    """What the tokenizer learns from: the mix of the training, and the words that every prompt has."""
    for _ in range(count):
        yield from (part for part in build_example(sampler.draw(rng), rng) if isinstance(part, str))
