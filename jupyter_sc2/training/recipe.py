"""The recipe of the embedded model's training: the numbers, by kind of device, and the learning rate's schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jupyter_sc2.training.corpus import HELD_OUT

# GB that all layers store for the backward pass, if not compiled (see run.py): 46 for 32,768 tokens.
PLAIN_GB_PER_TOKEN = 1.4e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training. The defaults are those for a CPU; the optimizer is AdamW."""

    tokens_per_step: int = 4096
    row: int = 1024  # tokens
    micro_batch: int = 2_080  # tokens at once, in whole rows; their activations take 3 GB
    # Of the loss in each of `rows.PARTS`. A cell of the trunk is the prefix of several branches as well.
    weights: tuple[float, float, float] = (0.5, 0.3, 1.5)
    rate: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 20.0  # steps
    decay: float = 0.3  # the last share of the run, in which the rate falls to zero
    decay_shape: Literal["linear", "1-sqrt"] = "linear"
    weight_decay: float = 0.05
    clip: float = 1.0
    average: int = 0  # steps over which weights are averaged; 0 for no averaged weights
    checkpoint_every: float = 300.0  # seconds
    report_every: int = 10  # steps
    held_out: frozenset[str] = field(default=HELD_OUT)

    @property
    def rows_per_step(self) -> int:
        return max(1, self.tokens_per_step // self.row)

    @classmethod
    def for_device(cls, kind: str, memory_gb: float = 80.0) -> Recipe:
        """The defaults for "cuda" with so much memory, or for another kind of device.

        Those for CUDA are for 150 to 300 million tokens in a few minutes, starting from trained weights. The reason for
        each stands next to it. The embedded model was trained on an H200 with steps of half the size, a rate of 8e-4,
        weights averaged over 100 steps and otherwise these; the two have not been compared.
        """
        if kind != "cuda":
            return cls()
        row, micro_batch = 2048, 2**15
        while micro_batch > row and micro_batch * PLAIN_GB_PER_TOKEN > 0.6 * memory_gb:
            micro_batch //= 2
        return cls(
            # 600 to 1,200 steps. A quarter of the 2**20 with which models of this size are trained from scratch: below
            # a critical batch size, which grows with the number of training tokens, noisy steps cost little (arXiv
            # 2410.21676), and more steps are worth more than smoother ones.
            tokens_per_step=2**18,
            # Prompts have up to 2,048 tokens. A tree is cut off at the end of a row: half as many as in rows of 1,024.
            row=row,
            micro_batch=micro_batch,
            # Scaled with the square root of the batch size (arXiv 2205.10287), 0.0004 would become 0.0032, about the
            # rate with which so small a model is trained from scratch. In continued training on another kind of text,
            # a higher rate learns more of it and forgets more of the old (arXiv 2308.04014, 2403.08763): so a third.
            rate=1e-3,
            warmup=30.0,  # 8 million tokens; in continued training its length hardly matters (arXiv 2308.04014)
            # A constant rate with a decay at the end is as good as a cosine if the decay takes a fifth of the steps or
            # more. Short runs gain from a longer one, and 1 - sqrt is better than linear (arXiv 2405.18392).
            decay=0.35,
            decay_shape="1-sqrt",
            weight_decay=0.1,  # usual; over 1,000 steps at this rate it takes away a tenth at most
            # Averaged weights of a constant rate gain most of what a decay does (arXiv 2306.03241, 2405.18392). They
            # are the best result if the machine has to be given back before the decay.
            average=60,
            checkpoint_every=150.0,  # 1.7 GB each
        )


def schedule(progress: float, step: int, recipe: Recipe) -> float:
    """The learning rate's factor at this share of the run: rising, constant, and falling to zero at the end."""
    up = (step + 1) / max(1.0, recipe.warmup)
    left = min(1.0, max(0.0, 1 - progress) / recipe.decay) if recipe.decay else 1.0
    down = left if recipe.decay_shape == "linear" else 1 - (1 - left) ** 0.5
    return min(1.0, up, down)
