"""The packed form of a small model: linear layers in 4 bits, the table of embeddings in 8, with torch alone.

A row's inputs come in groups of 32, each with a scale and a middle: weight = (q - 8) * scale + middle, q from 0 to 15.
Torch has kernels for that on the CPU, made for few tokens: one token takes a fifth of the time that it takes in
bf16, while from some 16 on a bf16 product is quicker. So the weights are there in both forms; a small model can
afford that.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import nn

from jupyter_sc2.engines.linear import QuantizedLinear

GROUP = 32
FEW = 16  # tokens
# Of a group's range: what is cut off at its ends is rounded worse, the rest better.
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.72)


class Int4Linear(QuantizedLinear):
    """4 bits a weight. `settle` replaces the file's tensors by what is computed with.

    With `exact` that is the product in full for any number of tokens.
    """

    weight: torch.Tensor  # (out, in / 2) uint8: of two inputs the first in the lower half
    scales: torch.Tensor  # (in / 32, out, 2) bfloat16: scale and middle
    full: torch.Tensor  # (out, in), in what is computed
    packed: torch.Tensor  # in the order of torch's kernel

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, *, exact: bool = False) -> None:
        super().__init__(linear)
        self.dtype, self.exact = dtype, exact
        rows, columns = self.out_features, self.in_features
        self.buffer("weight", rows, columns // 2, dtype=torch.uint8)
        self.buffer("scales", columns // GROUP, rows, 2, dtype=torch.bfloat16)

    def settle(self) -> None:
        levels = unpack(self.weight)  # (out, in) uint8
        full = dequantize_int4(self.weight, self.scales).to(self.dtype)
        self.register_buffer("full", full)
        self.exact = self.exact or self.weight.device.type != "cpu"
        if not self.exact:
            pack: Any = torch.ops.aten._convert_weight_to_int4pack_for_cpu
            self.register_buffer("packed", pack(levels.to(torch.int32), 1))
            self.register_buffer("scales", self.scales.to(self.dtype))
        del self.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.exact or x.numel() > FEW * self.in_features:
            return nn.functional.linear(x, self.full, self.bias)
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.reshape(-1, self.in_features), self.packed, GROUP, self.scales
        ).view(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product.add_(self.bias)


class Int8Table(nn.Module):
    """Embeddings with 8 bits a number, each row with a scale. The output layer reads the same tensors."""

    weight: torch.Tensor  # (vocabulary, hidden) int8
    scales: torch.Tensor  # (vocabulary,) bfloat16

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        for name, shape, kind in (
            ("weight", (rows, columns), torch.int8),
            ("scales", (rows,), torch.bfloat16),
        ):
            self.register_buffer(name, torch.empty(shape, dtype=kind, device="meta"))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids].to(self.dtype) * self.scales[ids].to(self.dtype).unsqueeze(-1)


class Int8Head(nn.Module):
    """The output layer over a table of embeddings."""

    def __init__(self, table: Int8Table, *, exact: bool = False) -> None:
        super().__init__()
        self._table = [table]  # in a list: as a module of its own its tensors would have two names
        self._exact = exact

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (table,) = self._table
        if x.device.type == "cpu" and not self._exact:
            rows = x.reshape(-1, x.shape[-1])
            product = torch._weight_int8pack_mm(rows, table.weight, table.scales.to(x.dtype))
            return product.view(*x.shape[:-1], len(table.weight))
        product = nn.functional.linear(x, table.weight.to(x.dtype))
        return product * table.scales.to(x.dtype)


def exchange_packed(
    model: nn.Module, names: Container[str], dtype: torch.dtype, *, exact: bool
) -> None:
    """Puts packed layers in the place of those that `names`, the tensors of a file, have in packed form."""
    causal_model: Any = model
    head = causal_model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if f"{path}.scales" not in names:
            continue
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, key = path.rpartition(".")
            setattr(model.get_submodule(parent), key, Int4Linear(module, dtype, exact=exact))
        elif isinstance(module, nn.Embedding):
            table = Int8Table(module.num_embeddings, module.embedding_dim, dtype)
            causal_model.set_input_embeddings(table)
            causal_model.set_output_embeddings(Int8Head(table, exact=exact))


def quantize_int4(
    weight: torch.Tensor, ranges: Sequence[float] = RANGES
) -> dict[str, torch.Tensor]:
    """The tensors of an Int4Linear for a `weight` (out, in).

    Of several ranges for each group the one with the smallest squared error is taken.
    """
    rows, columns = weight.shape
    groups = weight.float().view(rows, -1, GROUP)  # (out, groups, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best = torch.full((rows, columns // GROUP, 1), torch.inf)
    scale, middle = torch.zeros_like(best), torch.zeros_like(best)
    for share in ranges:
        half = (high - low) / 2 * share
        # Rounded as they will be stored.
        step = (half / 7.5).to(torch.bfloat16).float().clamp(min=1e-8)
        center = ((high + low) / 2 + step / 2).to(torch.bfloat16).float()
        restored = nearest_levels(groups, step, center).sub(8) * step + center
        error = (restored - groups).square().sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale, middle = torch.where(better, step, scale), torch.where(better, center, middle)
    levels = nearest_levels(groups, scale, middle).view(rows, columns)
    both = torch.cat([scale, middle], dim=-1)  # (out, groups, 2)
    return {
        "weight": pack_levels(levels.to(torch.uint8)),
        "scales": both.transpose(0, 1).to(torch.bfloat16).contiguous(),
    }


def nearest_levels(weights: torch.Tensor, step: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return ((weights - center) / step + 8).round().clamp(0, 15)


def pack_levels(levels: torch.Tensor) -> torch.Tensor:
    """(out, in) uint8, each from 0 to 15, to (out, in / 2)."""
    return (levels[:, 0::2] | (levels[:, 1::2] << 4)).contiguous()


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """(out, in / 2) to (out, in), each from 0 to 15."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).view(len(packed), -1)


def dequantize_int4(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(out, in) float32 from the tensors of an Int4Linear."""
    rows = len(packed)
    levels = unpack(packed).view(rows, -1, GROUP).float().sub(8)
    scale, middle = scales.transpose(0, 1).float().unsqueeze(-1).unbind(2)  # (out, groups, 1) each
    restored: torch.Tensor = levels * scale + middle
    return restored.view(rows, -1)


def unpacked(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(rows, columns) float32 from the tensors of an Int4Linear or an Int8Table."""
    if scales.ndim == 3:
        return dequantize_int4(weight, scales)
    return weight.float() * scales.float().unsqueeze(1)


def quantize_int8(table: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of an Int8Table for a `table` (rows, columns)."""
    scales = (table.float().abs().amax(1) / 127).to(torch.bfloat16)
    levels = (table.float() / scales.float().clamp(min=1e-8).unsqueeze(1)).round().clamp(-127, 127)
    return {"weight": levels.to(torch.int8), "scales": scales}
