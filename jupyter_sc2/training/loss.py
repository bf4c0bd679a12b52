"""The cross-entropy of many tokens over a vocabulary, without holding all of their logits at once.

In float32 the logits of 32,768 tokens for a vocabulary of 16,384 are 2.1 GB, and their gradients as much again. So a
piece of the tokens at a time is taken from the hidden states to the loss and to its gradients with respect to hidden
states and output layer. Only these gradients are stored for the backward pass.
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
    """The weighted sum of the tokens' losses. `piece` is `loss_and_gradients` or a compiled form of it."""
    piece = piece or loss_and_gradients
    if hidden.device.type == "cpu":  # a GPU would have to wait until their number is known
        labelled = (labels != IGNORED).nonzero()[:, 0]
        hidden, labels, weights = (x.index_select(0, labelled) for x in (hidden, labels, weights))
    total: torch.Tensor = _Sum.apply(hidden, table, labels, weights, piece)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def losses(hidden: torch.Tensor, table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each token's loss, (N,); 0 where there is no label."""
    dtype = _product_dtype(hidden)
    weight = table.to(dtype)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(
                (h.to(dtype) @ weight.T).float(),
                targets.long(),
                ignore_index=IGNORED,
                reduction="none",
            )
            for h, targets in _pieces(hidden, labels)
        ]
    )


def loss_and_gradients(
    hidden: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weighted sum of the losses of n tokens, and its gradients with respect to `hidden` and `table`."""
    logits = (hidden @ table.T).float()  # (n, V)
    labelled = labels != IGNORED
    targets = labels.clamp(min=0).long()[:, None]
    weights = (weights * labelled)[:, None]
    normalizer = logits.logsumexp(-1, keepdim=True)
    total = ((normalizer - logits.gather(-1, targets)) * weights).sum()
    of_logits = (logits - normalizer).exp() * weights
    of_logits = of_logits.scatter_add(-1, targets, -weights).to(hidden.dtype)
    return total, of_logits @ table, of_logits.T @ hidden


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
        dtype = _product_dtype(hidden)
        weight = table.to(dtype)
        total = torch.zeros((), device=hidden.device)
        of_hidden = []
        of_table = torch.zeros_like(table, dtype=torch.float32)
        for h, targets, w in _pieces(hidden, labels, weights):
            loss, of_h, of_weight = piece(h.to(dtype), weight, targets, w)
            total += loss
            of_hidden.append(of_h)
            of_table += of_weight
        ctx.save_for_backward(torch.cat(of_hidden).to(hidden.dtype), of_table)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_table = ctx.saved_tensors
        return of_hidden * gradient, of_table * gradient, None, None, None


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype of products with `hidden`: autocast's where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    size = PIECE.get(tensors[0].device.type, PIECE_CPU)
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
