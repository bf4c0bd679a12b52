"""Attention along the trees of training rows, for transformers' models.

On a CPU the mask is a tensor and attention is torch's fused one. On CUDA flex attention leaves out what no token of a
block sees, which in rows of trees is most; it can be compiled only, and has no backward pass on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from jupyter_sc2.training.rows import visible

NAME = "sc2-tree"  # among transformers' kinds of attention


def install(model: Any) -> None:
    """Makes the model attend along trees; it then takes a mask of `dense_mask` or `block_mask`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def dense_mask(tokens: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, (B, 1, T, T) bfloat16, for rows of `Token`s (B, T, 7)."""
    seen = visible(tokens)
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=tokens.device)
    return mask.masked_fill_(~seen, -torch.inf)


def block_mask(tokens: torch.Tensor) -> BlockMask:
    """The same for flex attention: which blocks to look at, and what is seen within them."""
    tree, shared, own = (tokens[..., n].contiguous() for n in (3, 4, 5))  # (B, T)

    def seen(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        trunk = (k >= tree[b, q]) & (k < shared[b, q])
        itself = (k >= own[b, q]) & (k <= q)
        return trunk | itself

    rows, length, _ = tokens.shape
    return create_block_mask(seen, rows, None, length, length, device=str(tokens.device))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, T, D)
    key: torch.Tensor,  # (B, H / G, T, D): G heads share one
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer; gives (B, T, H, D)."""
    # Positions have turned them into float32. Autocast sees to that for the one, and not in all versions for the other.
    query, key = query.to(value.dtype), key.to(value.dtype)
    shares = query.shape[1] // key.shape[1]
    if isinstance(attention_mask, BlockMask):
        mixed = flex_attention(
            query,
            key,
            value,
            block_mask=attention_mask,
            scale=scaling,
            enable_gqa=shares > 1,
        )
    else:
        key, value = (x.repeat_interleave(shares, dim=1) if shares > 1 else x for x in (key, value))
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
    return mixed.transpose(1, 2).contiguous(), None
