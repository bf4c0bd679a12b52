"""Attention that rounds the same for a few tokens in one pass as for each of them alone.

Torch's kernel takes the keys in another order for one query than for several, which in bf16 is now and then enough
for another token to be the likeliest. Guessed tokens are read several at a time, and what is decoded must not depend
on whether something was guessed. So the queries of a short pass are taken one by one, each as in a pass of its own;
the packed linear layers (int4.py) compute row by row anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROW_BY_ROW = "jupyter_sc2_row_by_row"
# Tokens: a drawn one and three guessed ones. One by one those take no longer than together; 16 take half as long again.
FEW = 4


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
    if not 1 < count <= FEW:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows = []
    for row in range(count):
        end = length - count + row + 1  # what comes later is not seen
        mask = None if attention_mask is None else attention_mask[:, :, row : row + 1, :end]
        if mask is not None and bool(mask.all()):
            mask = None  # as a pass over one token has none
        out, _ = sdpa_attention_forward(
            module, query[:, :, row : row + 1], key[:, :, :end], value[:, :, :end], mask, **kwargs
        )
        rows.append(out)
    return torch.cat(rows, dim=1), None


AttentionInterface.register(ROW_BY_ROW, attend_row_by_row)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
