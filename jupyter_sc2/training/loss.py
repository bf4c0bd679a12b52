"""The cross-entropy of many tokens over a vocabulary without ever holding all of their logits.

In float32 those of 32,768 tokens and 16,384 words are 2.1 GB, and their slopes as much again. So the tokens are taken
a piece at a time from the hidden states to the loss and to its slopes in hidden states and table; these alone are kept
for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from jupyter_sc2.training.rows import IGNORED

PIECE = {"cuda": 8192}  # tokens: half a GB of logits in float32
PIECE_CPU = 1024

Piece = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def sum_of_losses(
    hidden: torch.Tensor,  # (N, H)
    table: torch.Tensor,  # (V, H): the output layer
    labels: torch.Tensor,  # (N,), IGNORED where there is none
    weights: torch.Tensor,  # (N,)
    piece: Piece | None = None,
) -> torch.Tensor:
    """The sum of the tokens' losses, each times its weight. `piece` is `slopes` or a compiled form of it."""
    total: torch.Tensor = _Sum.apply(hidden, table, labels, weights, piece or slopes)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def losses(hidden: torch.Tensor, table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each token's loss, (N,); 0 where there is no label."""
    weight = table.to(torch.bfloat16)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(
                (h.to(torch.bfloat16) @ weight.T).float(),
                said.long(),
                ignore_index=IGNORED,
                reduction="none",
            )
            for h, said in _pieces(hidden, labels)
        ]
    )


def slopes(
    hidden: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weighted sum of a piece's losses, and its slopes in the hidden states and in the table."""
    logits = (hidden @ table.T).float()  # (n, V)
    told = labels != IGNORED
    said = labels.clamp(min=0).long()[:, None]
    weights = (weights * told)[:, None]
    whole = logits.logsumexp(-1, keepdim=True)
    total = ((whole - logits.gather(-1, said)) * weights).sum()
    slope = (logits - whole).exp() * weights
    slope = slope.scatter_add(-1, said, -weights).to(hidden.dtype)
    return total, slope @ table, slope.T @ hidden


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        table: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        piece: Piece,
    ) -> torch.Tensor:
        weight = table.to(torch.bfloat16)
        total = torch.zeros((), device=hidden.device)
        of_hidden = []
        of_table = torch.zeros_like(table, dtype=torch.float32)
        for h, said, weighs in _pieces(hidden, labels, weights):
            loss, of_h, of_weight = piece(h.to(torch.bfloat16), weight, said, weighs)
            total += loss
            of_hidden.append(of_h)
            of_table += of_weight
        ctx.save_for_backward(torch.cat(of_hidden).to(hidden.dtype), of_table)
        return total

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_table = ctx.saved_tensors
        return of_hidden * slope, of_table * slope, None, None, None


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    size = PIECE.get(tensors[0].device.type, PIECE_CPU)
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
