"""Linear layers in 4 bits for the CPU, by torch's own matrix product, and embeddings in 8 bits.

Each 64 inputs of a row have a scale and a middle: a weight is (level - 8) * scale + middle. They are fitted to the
weights by least squares, without data. Torch multiplies in the order in which `_convert_weight_to_int4pack_for_cpu`
writes the levels.

That product decodes each weight again for every four tokens. So many tokens, as in prefill, are multiplied another
way: the weights are dequantized some rows at a time, and those rows multiplied with all tokens.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from jupyter_sc2.engines.torch.bnb_linear import (
    DEQUANTIZE_FROM_TOKENS,
    QUANTIZED_AT_ONCE,
    QuantizedLinear,
)

INPUTS_PER_SCALE = 64
LEVELS = 16
# Of a group's range, where the fit begins. What is cut off at the ends is rounded worse, the rest better.
RANGES = (1.0, 0.9, 0.8)
FIT_ROUNDS = 2
# A layer's rows must be a multiple of this.
ROWS_AT_ONCE = 64
# Weights dequantized at a time, 8 MB as bf16.
DEQUANTIZED_AT_ONCE = 1 << 22
# The lower half of every other byte of an int32, and what makes of such a half v the bf16 number 128 + v.
NIBBLES = 0x000F000F
ONES = 0x43004300


class Int4Linear(QuantizedLinear):
    """4 bits a weight."""

    weight: torch.Tensor  # (out, in / 2) uint8, in torch's order
    scales: torch.Tensor  # (in / 64, out, 2): scale and middle

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear)
        self.dtype = dtype
        groups = self.in_features // INPUTS_PER_SCALE
        self.buffer("weight", self.out_features, self.in_features // 2, dtype=torch.uint8)
        self.buffer("scales", groups, self.out_features, 2, dtype=dtype)

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = multiple(QUANTIZED_AT_ONCE // self.in_features)
        pieces = [self._quantize(piece) for piece in torch.split(weight, rows)]
        return {
            "weight": torch.cat([levels for levels, _ in pieces]),
            "scales": torch.cat([scales for _, scales in pieces], dim=1),
        }

    def _quantize(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        groups = weight.float().reshape(-1, INPUTS_PER_SCALE)
        scale, middle = fit(groups, self.dtype)
        levels = to_levels(groups, scale, middle).view(weight.shape).to(torch.int32)
        scales = torch.cat([scale, middle], dim=1).view(len(weight), -1, 2).transpose(0, 1)
        return packed(levels), scales.to(self.dtype).contiguous()

    def finalize(self) -> None:
        """The layer keeps its tensors as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)  # (T, in)
        product = self._many(rows) if len(rows) >= DEQUANTIZE_FROM_TOKENS else self._few(rows)
        return product.view(*x.shape[:-1], self.out_features)

    def _few(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
            rows.contiguous(), self.weight, INPUTS_PER_SCALE, self.scales
        )
        return product if self.bias is None else product.add_(self.bias)

    def _many(self, rows: torch.Tensor) -> torch.Tensor:
        at_once = multiple(DEQUANTIZED_AT_ONCE // self.in_features)
        product = rows.new_empty(len(rows), self.out_features)
        for first in range(0, self.out_features, at_once):
            part = slice(first, first + at_once)
            found = rows @ dequantized(self.weight[part], self.scales[:, part])
            in_order(found, product[:, part])
        return product if self.bias is None else product.add_(self.bias)


# Rounding


def fit(groups: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and middles (groups, 1), rounded as `dtype`, of weights (groups, 64) in float32.

    With given levels the best scale and middle are a straight line's through the weights, and with given scales the
    best levels are the nearest; so they are found in turn, from several beginnings, of which the best is taken.
    """
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    mean = groups.mean(1, keepdim=True)
    centred = groups - mean
    tiny = torch.finfo(torch.bfloat16).tiny
    best = torch.full_like(mean, torch.inf)
    scale, middle = torch.zeros_like(mean), torch.zeros_like(mean)
    for share in RANGES:
        step = ((high - low) * (share / (LEVELS - 1))).clamp_(min=tiny)
        center = (low + high).div_(2).add_(step, alpha=0.5)
        for _ in range(FIT_ROUNDS):
            levels = to_levels(groups, step, center)
            level = levels.mean(1, keepdim=True)
            levels.sub_(level)
            slope = (levels * centred).sum(1, keepdim=True) / levels.square_().sum(1, keepdim=True)
            step = torch.where(slope > tiny, slope, step)  # not so where all weights are one
            center = mean + step * (LEVELS // 2 - level)
        step, center = step.to(dtype).float(), center.to(dtype).float()
        restored = to_levels(groups, step, center).sub_(LEVELS // 2).mul_(step).add_(center)
        error = restored.sub_(groups).square_().sum(1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale, middle = torch.where(better, step, scale), torch.where(better, center, middle)
    return scale, middle


def to_levels(groups: torch.Tensor, scale: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """The nearest levels, from 0 to 15, as floats."""
    nearest = torch.sub(groups, middle).div_(scale).add_(LEVELS // 2).round_()
    return nearest.clamp_(0, LEVELS - 1)


# Torch's order


def packed(levels: torch.Tensor) -> torch.Tensor:
    """Levels (out, in) int32 in the order that torch's product reads, (out, in / 2) uint8."""
    tiles: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(levels, 1)
    return tiles.view(torch.uint8)


@functools.cache
def bytes_in_tile() -> int:
    """How many bytes of a tile belong to one input: 32 where torch uses AVX-512, 16 with AVX2, 0 where neither.

    Each version of torch's product has its own order, which is found by packing. A tile is twice as many rows: byte b
    has row b in its lower half, and in its upper one the row b of the tile's second half.
    """
    inputs = INPUTS_PER_SCALE
    levels = torch.arange(2 * ROWS_AT_ONCE * inputs).mul_(0x9E3779B1).bitwise_right_shift_(13)
    levels = levels.remainder_(LEVELS).to(torch.int32).view(-1, inputs)
    try:
        found = packed(levels)
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0
    for size in (32, 16):
        first, second = levels.view(-1, 2, size, inputs).transpose(0, 1)  # (tiles, size, in)
        tiles = (first | second << 4).transpose(1, 2).to(torch.uint8)
        if torch.equal(found, tiles.reshape(found.shape)):
            return size
    return 0


def dequantized(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Some rows of a layer as (in, rows), in the order that `in_order` undoes.

    Levels are taken out four bytes at a time: the lower halves of bytes 0 and 2, the upper ones, the lower halves of
    bytes 1 and 3, the upper ones. So the rows come in the order (byte odd, half, tile, byte // 2).
    """
    rows, inputs, size = len(weight), weight.shape[1] * 2, bytes_in_tile()
    tiles = rows // (2 * size)
    by_input = weight.view(tiles, inputs, size).view(torch.complex128).transpose(0, 1)
    words = by_input.contiguous().view(torch.int32).view(inputs, 1, rows // 8)
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32).view(4, 1)
    halves = torch.bitwise_right_shift(words, shifts)  # (in, 4, rows / 8)
    halves.bitwise_and_(NIBBLES).bitwise_or_(ONES)  # two numbers each, 128 + level
    numbers = halves.view(torch.bfloat16).view(-1, INPUTS_PER_SCALE, rows)
    ordered = scales.view(-1, tiles, 2, size // 2, 2, 2).permute(5, 0, 4, 2, 1, 3)
    scale, middle = ordered.reshape(2, -1, 1, rows)
    numbers = numbers.sub_(128 + LEVELS // 2).to(scale.dtype)
    return torch.addcmul(middle, numbers, scale, out=numbers).view(inputs, rows)


def in_order(found: torch.Tensor, product: torch.Tensor) -> None:
    """Copies a product (T, rows) with the rows of `dequantized` into their places."""
    tokens, rows = found.shape
    size = bytes_in_tile()
    even, odd = found.view(tokens, 2, rows // 2).unbind(1)
    halves = torch.stack([even, odd], dim=-1).view(tokens, 2, -1, size).view(torch.complex128)
    places = product.view(tokens, -1, 2, size).view(torch.complex128)
    places.copy_(halves.transpose(1, 2))


def multiple(rows: int) -> int:
    return max(1, rows // ROWS_AT_ONCE) * ROWS_AT_ONCE


# Embeddings


class Int8Head(QuantizedLinear):
    """The output layer in 8 bits: a scale for each token."""

    weight: torch.Tensor  # (tokens, in) int8
    scales: torch.Tensor  # (tokens,)

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear)
        self.buffer("weight", self.out_features, self.in_features, dtype=torch.int8)
        self.buffer("scales", self.out_features, dtype=dtype)

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = max(1, QUANTIZED_AT_ONCE // self.in_features)
        levels, scales = [], []
        for piece in torch.split(weight, rows):
            numbers = piece.float()
            scale = (numbers.abs().amax(1, keepdim=True) / 127).to(self.scales.dtype)
            step = scale.float().clamp(min=torch.finfo(torch.bfloat16).tiny)
            levels.append(numbers.div_(step).round_().clamp_(-127, 127).to(torch.int8))
            scales.append(scale.squeeze(1))
        return {"weight": torch.cat(levels), "scales": torch.cat(scales)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        if len(rows) < DEQUANTIZE_FROM_TOKENS:
            product: torch.Tensor = torch.ops.aten._weight_int8pack_mm.default(
                rows.contiguous(), self.weight, self.scales
            )
        else:
            at_once = max(1, DEQUANTIZED_AT_ONCE // self.in_features)
            pieces = [rows @ piece.to(x.dtype).t() for piece in torch.split(self.weight, at_once)]
            product = torch.cat(pieces, dim=1).mul_(self.scales)
        if self.bias is not None:
            product = product.add_(self.bias)
        return product.view(*x.shape[:-1], self.out_features)


class Int8Embedding(Int8Head):
    """The table of embeddings in the same form, so that both can be one."""

    def __init__(self, embedding: nn.Embedding, dtype: torch.dtype) -> None:
        rows, columns = embedding.num_embeddings, embedding.embedding_dim
        super().__init__(nn.Linear(columns, rows, bias=False, device="meta"), dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids].to(self.scales.dtype) * self.scales[ids].unsqueeze(-1)


def int4_linear(linear: nn.Linear, dtype: torch.dtype) -> Int4Linear | None:
    """The layer in 4 bits in the place of `linear`, without its tensors; None if its sizes do not suit."""
    if linear.in_features % INPUTS_PER_SCALE or linear.out_features % ROWS_AT_ONCE:
        return None
    return Int4Linear(linear, dtype)
