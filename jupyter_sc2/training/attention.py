"""Attention along the trees of training rows, for transformers' models.

In rows of trees a token sees a tenth of the row. On CUDA, flex attention leaves out the keys that no token of a block
sees, but only if it is compiled, and it refuses a backward pass on a CPU. There `_Blocks` leaves them out, with plain
products. Elsewhere attention is torch's fused one with a mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from jupyter_sc2.training.rows import visible

NAME = "sc2-tree"  # among transformers' attention functions
BLOCK = 128  # queries whose keys are gathered together; 32 and 64 were slower


def install(model: Any) -> None:
    """Makes the model attend along trees; its attention mask is then one of `dense_mask` or `block_mask`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def dense_mask(tokens: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, (B, 1, T, T) bfloat16, for rows of `Token`s (B, T, 7)."""
    seen = visible(tokens)
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=tokens.device)
    return mask.masked_fill_(~seen, -torch.inf)


def block_mask(tokens: torch.Tensor) -> BlockMask:
    """The same mask for flex attention: which blocks of keys to read, and which keys are seen within them."""
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
    """The attention that transformers calls in each layer; returns (B, T, H, D)."""
    # Rotary embeddings make them float32. Autocast converts them for fused attention, but not in all versions of torch
    # for flex attention.
    query, key = query.to(value.dtype), key.to(value.dtype)
    shared = query.shape[1] // key.shape[1]
    if isinstance(attention_mask, BlockMask):
        mixed = flex_attention(
            query,
            key,
            value,
            block_mask=attention_mask,
            scale=scaling,
            enable_gqa=shared > 1,
        )
    elif query.device.type == "cpu":
        return _in_blocks(query, key, value, attention_mask, scaling), None
    else:
        key, value = (x.repeat_interleave(shared, dim=1) if shared > 1 else x for x in (key, value))
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
    return mixed.transpose(1, 2).contiguous(), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed: torch.Tensor = _Blocks.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return mixed


class _Blocks(torch.autograd.Function):
    """Attention to the keys that at least one query of a block sees, forward and backward, one block at a time.

    Torch's fused kernel for the CPU computes all pairs, in the backward pass at a tenth of the speed of its products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows, heads, length, size = query.shape
        groups = key.shape[1]
        shared = heads // groups
        mixed = query.new_empty(rows, length, groups, shared, size)
        weights = []
        for row, at, seen, added in _seen_blocks(mask):
            queries = _grouped(query[row, :, at], groups)
            bias = added.to(query.dtype).repeat(shared, 1)
            keys = key[row].index_select(1, seen)
            scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
            weight = scores.softmax(-1)
            found = weight @ value[row].index_select(1, seen)
            mixed[row, at] = found.view(groups, shared, -1, size).permute(2, 0, 1, 3)
            weights.append(weight)
        ctx.save_for_backward(query, key, value, mask, *weights)
        ctx.scale = scale
        return mixed.view(rows, length, heads, size)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of the inputs; `of_x` is the gradient of `x`."""
        query, key, value, mask, *weights = ctx.saved_tensors
        groups, size = key.shape[1], key.shape[3]
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        gradient = gradient.transpose(1, 2)
        for (row, at, seen, _), weight in zip(_seen_blocks(mask), weights, strict=True):
            queries, of_mixed = (_grouped(x[row, :, at], groups) for x in (query, gradient))
            of_value[row].index_add_(1, seen, (weight.transpose(1, 2) @ of_mixed).float())
            of_weight = of_mixed @ value[row].index_select(1, seen).transpose(1, 2)
            of_scores = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            of_scores *= ctx.scale
            found = of_scores @ key[row].index_select(1, seen)
            of_query[row, :, at] = found.view(query.shape[1], -1, size)
            of_key[row].index_add_(1, seen, (of_scores.transpose(1, 2) @ queries).float())
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None


def _grouped(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Queries (H, N, D) by the head of keys that they share, (G, H / G * N, D)."""
    return heads.reshape(groups, -1, heads.shape[-1])


class Block(NamedTuple):
    """N successive queries of a row."""

    row: int
    at: slice
    seen: torch.Tensor  # the positions of the K keys that one of them sees, (K,)
    mask: torch.Tensor  # what is added to the scores of these keys, (N, K)


_blocks = WeakTensorKeyDictionary()  # by mask, which is the same for all layers


def _seen_blocks(mask: torch.Tensor) -> list[Block]:
    if mask not in _blocks:
        _blocks[mask] = [
            _block(row, slice(start, start + BLOCK), of_row)
            for row, of_row in enumerate(mask[:, 0])
            for start in range(0, len(of_row), BLOCK)
        ]
    found: list[Block] = _blocks[mask]
    return found


def _block(row: int, at: slice, mask: torch.Tensor) -> Block:
    seen = (mask[at] == 0).any(0).nonzero()[:, 0]
    return Block(row, at, seen, mask[at].index_select(1, seen))
