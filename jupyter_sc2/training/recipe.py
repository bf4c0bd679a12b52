"""The recipe of the embedded model's training: the numbers, by kind of device, and the learning rate's schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jupyter_sc2.training.corpus import HELD_OUT

# What all layers keep for the backward pass where they are not compiled (run.py): 46 GB for 32,768 tokens.
PLAIN_GB_PER_TOKEN = 1.4e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the model is trained. The defaults are those for a CPU; rates are those of AdamW."""

    tokens_per_step: int = 4096
    row: int = 1024  # tokens
    micro_batch: int = 2_080  # tokens at once, in whole rows; what they need in between takes 3 GB
    # Of each of `rows.PARTS`. A cell of the trunk is the prefix of several branches as well.
    weights: tuple[float, float, float] = (0.5, 0.3, 1.5)
    rate: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 20.0  # steps
    decay: float = 0.3  # the last share of the run, in which the rate falls to zero
    decay_shape: Literal["linear", "1-sqrt"] = "linear"
    weight_decay: float = 0.05
    clip: float = 1.0
    average: int = 0  # steps that the averaged weights look back; without them 0
    checkpoint_every: float = 300.0  # seconds
    report_every: int = 10  # steps
    held_out: frozenset[str] = field(default=HELD_OUT)

    @classmethod
    def for_device(cls, kind: str, memory_gb: float = 80.0) -> Recipe:
        """The defaults for "cuda" with so much memory, or for another kind of device.

        Those for CUDA are for 150 to 300 million tokens in a few minutes, from weights that have been trained
        before; what they are chosen by is said beside each. None has been measured on a GPU yet.
        """
        if kind != "cuda":
            return cls()
        row, micro_batch = 2048, 2**15
        while micro_batch > row and micro_batch * PLAIN_GB_PER_TOKEN > 0.6 * memory_gb:
            micro_batch //= 2
        return cls(
            # 600 to 1,200 steps. Four times less than the 2**20 that models of this size are trained from nothing
            # with: below a critical size, which grows with the tokens trained on, a step's noise costs little
            # (arXiv 2410.21676), and more steps are worth more than smoother ones.
            tokens_per_step=2**18,
            # Inference reads up to 2,048; and a tree is cut off at the end of a row, so half as many are.
            row=row,
            micro_batch=micro_batch,
            # By the square root of the step's size (arXiv 2205.10287) 0.0004 would become 0.0032, which is about
            # what so small a model is trained from nothing with. Going on with another kind of text, a higher rate
            # takes more of it up and forgets more of what was there (arXiv 2308.04014, 2403.08763): a third of it.
            rate=1e-3,
            warmup=30.0,  # 8 million tokens; in continued training its length hardly matters (arXiv 2308.04014)
            # A level rate and then a fall are as good as a cosine from a fall over a fifth of the steps on, short
            # runs gain from a longer one, and 1 - sqrt is better than a straight line (arXiv 2405.18392).
            decay=0.35,
            decay_shape="1-sqrt",
            weight_decay=0.1,  # usual; over 1,000 steps at this rate it takes away a tenth at most
            # Averages of a level run are worth most of a fall (arXiv 2306.03241, 2405.18392): that is what there
            # is where the machine has to be given back before the rate could fall.
            average=60,
            checkpoint_every=150.0,  # 1.7 GB each
        )


def schedule(progress: float, step: int, recipe: Recipe) -> float:
    """The learning rate's factor at this share of the run: rising, constant, and falling to zero at the end."""
    up = (step + 1) / max(1.0, recipe.warmup)
    left = min(1.0, max(0.0, 1 - progress) / recipe.decay) if recipe.decay else 1.0
    down = left if recipe.decay_shape == "linear" else 1 - (1 - left) ** 0.5
    return min(1.0, up, down)
