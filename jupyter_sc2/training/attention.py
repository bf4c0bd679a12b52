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
KEYS = 32  # the products of a CPU take so many at a time


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
    These are quick only for arrays without gaps, so queries and the keys that they see are put together in advance.
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
        groups = key.shape[1]
        blocks, seen = _seen_blocks(mask, groups)
        queries = _by_block(query * scale, groups)
        keys, values = (x.reshape(-1, x.shape[-1]).index_select(0, seen) for x in (key, value))
        mixed = torch.empty_like(queries)
        weights = []
        for block, of_block, into in zip(blocks, queries, mixed, strict=True):
            scores = of_block @ block.of(keys, groups).transpose(1, 2)
            scores.view(-1, *block.mask.shape).add_(block.mask)
            weights.append(scores.softmax(-1))
            torch.bmm(weights[-1], block.of(values, groups), out=into)
        ctx.save_for_backward(queries, keys, values, mask, *weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape)
        return _from_blocks(mixed, query.shape).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of the inputs; `of_x` is the gradient of `x`."""
        queries, keys, values, mask, *weights = ctx.saved_tensors
        query_shape, key_shape = ctx.shapes
        groups = key_shape[1]
        blocks, seen = _seen_blocks(mask, groups)
        of_mixed = _by_block(gradient.transpose(1, 2), groups)
        of_queries, of_keys, of_values = (torch.empty_like(x) for x in (queries, keys, values))
        for number, (block, weight) in enumerate(zip(blocks, weights, strict=True)):
            of_block = of_mixed[number]
            torch.bmm(weight.transpose(1, 2), of_block, out=block.of(of_values, groups))
            of_weight = of_block @ block.of(values, groups).transpose(1, 2)
            of_scores = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            torch.bmm(of_scores, block.of(keys, groups), out=of_queries[number])
            torch.bmm(of_scores.transpose(1, 2), queries[number], out=block.of(of_keys, groups))
        of_key, of_value = (
            torch.zeros(key_shape).view(-1, key_shape[-1]).index_add_(0, seen, x.float())
            for x in (of_keys, of_values)
        )
        return (
            _from_blocks(of_queries, query_shape) * ctx.scale,
            of_key.view(key_shape).to(keys.dtype),
            of_value.view(key_shape).to(values.dtype),
            None,
            None,
        )


def _by_block(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Queries (B, H, T, D) by block, and in it by the head of keys that they share: (N, G, H / G * BLOCK, D)."""
    rows, _, length, size = heads.shape
    padded = torch.nn.functional.pad(heads, (0, 0, 0, -length % BLOCK))
    split = padded.reshape(rows, groups, -1, padded.shape[2] // BLOCK, BLOCK, size)
    return split.permute(0, 3, 1, 2, 4, 5).reshape(-1, groups, split.shape[2] * BLOCK, size)


def _from_blocks(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The reverse of `_by_block`, in this shape (B, H, T, D)."""
    rows, heads, length, size = shape
    groups = blocks.shape[1]
    split = blocks.view(rows, -1, groups, heads // groups, BLOCK, size).permute(0, 2, 3, 1, 4, 5)
    return split.reshape(rows, heads, -1, size)[:, :, :length]


class Block(NamedTuple):
    """BLOCK successive queries of a row, the last ones perhaps made up."""

    row: int
    at: slice  # of the row
    gathered: slice  # of the rows of all gathered keys
    mask: torch.Tensor  # what is added to the scores of its keys, (BLOCK, K)

    def of(self, gathered: torch.Tensor, groups: int) -> torch.Tensor:
        """This block's part of gathered keys, (G, K, D)."""
        return gathered[self.gathered].view(groups, -1, gathered.shape[-1])


_blocks = WeakTensorKeyDictionary()  # by mask, which is the same for all layers


def _seen_blocks(mask: torch.Tensor, groups: int) -> tuple[list[Block], torch.Tensor]:
    """The blocks of queries in the order of `_by_block`, and which rows of the keys (B G T, D) to gather for them."""
    if mask not in _blocks:
        blocks, gathered, end = [], [], 0
        for row, of_row in enumerate(mask[:, 0]):
            of_groups = torch.arange(row * groups, (row + 1) * groups)[:, None] * len(of_row)
            for start in range(0, len(of_row), BLOCK):
                at = slice(start, start + BLOCK)
                seen, added = _seen(of_row[at])
                gathered.append((of_groups + seen).flatten())
                blocks.append(Block(row, at, slice(end, end + groups * len(seen)), added))
                end += groups * len(seen)
        _blocks[mask] = blocks, torch.cat(gathered)
    found: tuple[list[Block], torch.Tensor] = _blocks[mask]
    return found


def _seen(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of the keys that a block's queries see, (K,), and the mask of these, (BLOCK, K).

    Keys that none of them sees make K a multiple of KEYS.
    """
    seen = (mask == 0).any(0).nonzero()[:, 0]
    unseen = -len(seen) % KEYS
    shown = torch.nn.functional.pad(mask.index_select(1, seen), (0, unseen), value=-torch.inf)
    return (
        torch.nn.functional.pad(seen, (0, unseen)),
        torch.nn.functional.pad(shown, (0, 0, 0, BLOCK - len(mask))),
    )
