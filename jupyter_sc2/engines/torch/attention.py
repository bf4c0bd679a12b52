"""Attention on the CPU for a few tokens at a time: fast, and the same for each token as in a pass of its own.

Heads that share their keys are taken together, as so many queries. For one query torch's kernel has no matrix product
in bf16, which with a thousand tokens before it made attention most of what a small model's pass took.

The kernel also takes the keys in another order for some numbers of queries, which in bf16 is now and then enough for
another token to be the most likely. Draft tokens are read several at a time, and the output must not depend on them.
So the tokens of a short pass are computed one by one. The hypotheses of a beam search are always read together, and are
computed together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROW_BY_ROW = "jupyter_sc2_row_by_row"
ROW_BY_ROW_TOKENS = 4  # tokens: a drawn one and three guessed ones


def attend_row_by_row(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' `sdpa`.

    Takes a query (B, heads, T, size), keys and values (B, kv heads, L, size) and None or a boolean mask (B, 1, T, L),
    gives (B, T, heads, size).
    """
    count, length = query.shape[2], key.shape[2]
    if count > ROW_BY_ROW_TOKENS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling")
    if count > 1 and attention_mask is not None and not bool(attention_mask[0, 0, -1, -2]):
        # Ways: a token does not see the one before it.
        return _attend(query, key, value, attention_mask, scale).transpose(1, 2), None
    rows = []
    for row in range(count):
        end = length - count + row + 1  # what comes later is not seen
        mask = None if attention_mask is None else attention_mask[:, :, row : row + 1, :end]
        if mask is not None and bool(mask.all()):
            mask = None  # as a pass over one token has none
        one = query[:, :, row : row + 1]
        rows.append(_attend(one, key[:, :, :end], value[:, :, :end], mask, scale))
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Queries (B, heads, T, size) with a mask (B, 1, T, L) or None; gives (B, heads, T, size)."""
    batch, _, _, size = query.shape
    groups = query.reshape(batch, key.shape[1], -1, size)
    if mask is not None:  # one row for each token of each head of a group
        mask = mask.repeat(1, 1, query.shape[1] // key.shape[1], 1)
    out = nn.functional.scaled_dot_product_attention(groups, key, value, mask, scale=scale)
    return out.reshape(query.shape)


AttentionInterface.register(ROW_BY_ROW, attend_row_by_row)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
