"""Linear layers with quantized weights: nf4 (QLoRA, arXiv 2305.14314) and LLM.int8 (arXiv 2208.07339).

bitsandbytes quantizes and multiplies. On the CPU its nf4 kernel is made for few tokens: it decodes each weight
again for every one of them. So many tokens at once, as in prefill, are multiplied another way here: the weights
are dequantized some rows at a time, and those rows multiplied as bf16 with all tokens.

Each layer keeps its tensors as buffers, so that a module's names and shapes are those of the file it is kept in.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
from torch import nn

from jupyter_sc2.errors import ModelLoadError

WEIGHTS_PER_SCALE = 64  # weights with one scale
SCALES_PER_SCALE = 256  # scales with one scale of their own, where they are quantized too
TILE_ROWS = 32  # rows that the CPU's kernel interleaves
# From this many tokens 4-bit weights are dequantized on the CPU. Measured on a Xeon with AMX; of 512 tokens nf4 takes a
# seventh of the time so.
DEQUANTIZE_FROM_TOKENS = 64
# Rows dequantized at a time: 25 MB as bf16 where they are longest. Each of a dozen operations ends when its slowest
# thread does, so where the cores have other work too, as in a kernel whose cell runs, small pieces are slower by far;
# and products of 512 tokens with 512 to 700 rows take oneDNN twice as long as they should.
DEQUANTIZED_ROWS = 1024
# Weights quantized at a time, which takes a tenth of a second; longer would hold up an exit.
QUANTIZED_AT_ONCE = 1 << 21
OUTLIER_THRESHOLD = 6.0  # inputs above it are multiplied in 16 bits
LOW_NIBBLES = 0x0F0F0F0F  # the lower half of each byte of an int32


class QuantizedLinear(nn.Module):
    """What both kinds share: their sizes, a bias, and how they come to their tensors."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def buffer(self, name: str, *shape: int, dtype: torch.dtype) -> None:
        """Announces a tensor, which comes later: from `quantize` or from a file."""
        self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The buffers for a `weight` (out, in)."""
        raise NotImplementedError

    def finalize(self) -> None:
        """Called once all tensors are there and on their device."""


class NF4Linear(QuantizedLinear):
    """4 bits a weight; each 64 inputs of a row have a scale, which may be compressed to 8 bits."""

    weight: torch.Tensor  # (out, in / 2) uint8
    absmax: torch.Tensor  # (out * in / 64,) float32, or uint8 with the two below
    absmax_scales: torch.Tensor  # (out * in / 64 / 256,) float32
    absmax_mean: torch.Tensor  # () float32

    def __init__(self, linear: nn.Linear, *, compressed: bool) -> None:
        super().__init__(linear)
        self.compressed = compressed
        self.buffer("weight", self.out_features, self.in_features // 2, dtype=torch.uint8)
        self._announce_scales(self.out_features * self.in_features // WEIGHTS_PER_SCALE)
        self._state: Any = None

    def _announce_scales(self, count: int) -> None:
        self.buffer("absmax", count, dtype=torch.uint8 if self.compressed else torch.float32)
        if self.compressed:
            self.buffer("absmax_scales", -(-count // SCALES_PER_SCALE), dtype=torch.float32)
            self.buffer("absmax_mean", dtype=torch.float32)

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        packed, absmax = self._quantize(weight)
        return {"weight": packed, **self._quantize_scales(absmax)}

    def _quantize(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = max(1, QUANTIZED_AT_ONCE // self.in_features)
        pieces = [
            _functional().quantize_4bit(piece, blocksize=WEIGHTS_PER_SCALE, quant_type="nf4")
            for piece in torch.split(weight, rows)
        ]
        packed = torch.cat([piece.reshape(-1, self.in_features // 2) for piece, _ in pieces])
        return packed, torch.cat([state.absmax for _, state in pieces])

    def _quantize_scales(self, absmax: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.compressed:
            return {"absmax": absmax}
        mean = absmax.mean()
        quantized, state = _functional().quantize_blockwise(
            absmax - mean, blocksize=SCALES_PER_SCALE
        )
        return {"absmax": quantized, "absmax_scales": state.absmax, "absmax_mean": mean}

    def finalize(self) -> None:
        functional = _functional()
        state2 = self._scales_state() if self.compressed else None
        self._state = functional.QuantState(
            absmax=self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=functional.get_4bit_type("nf4", device=self.weight.device),
            blocksize=WEIGHTS_PER_SCALE,
            quant_type="nf4",
            dtype=torch.float32 if self.bias is None else self.bias.dtype,
            offset=self.absmax_mean if self.compressed else None,
            state2=state2,
        )

    def _scales_state(self) -> Any:
        functional = _functional()
        code = functional.create_dynamic_map().to(self.weight.device)
        return functional.QuantState(
            absmax=self.absmax_scales, code=code, blocksize=SCALES_PER_SCALE, dtype=torch.float32
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = bitsandbytes().matmul_4bit(
            x, self.weight.view(-1, 1).t(), bias=self.bias, quant_state=self._state
        )
        return product


class TiledNF4Linear(NF4Linear):
    """The same in the order that bitsandbytes' kernel for CPUs with AVX512-BF16 reads, in bf16.

    A tile is 32 rows: for each two inputs the four weights of rows r and r + 16 stand in two bytes, one for each
    input, row r in their lower halves. That kernel wants its scales as bf16 (in / 64, out), so
    they are compressed in the file alone.
    """

    scales: torch.Tensor

    def _announce_scales(self, count: int) -> None:
        if self.compressed:
            super()._announce_scales(count)
        else:
            self.buffer(
                "scales",
                self.in_features // WEIGHTS_PER_SCALE,
                self.out_features,
                dtype=torch.bfloat16,
            )

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        packed, absmax = self._quantize(weight)
        if self.compressed:
            return {"weight": tile(packed), **self._quantize_scales(absmax)}
        return {"weight": tile(packed), "scales": self._ordered(absmax)}

    def _ordered(self, absmax: torch.Tensor) -> torch.Tensor:
        return absmax.view(self.out_features, -1).t().to(torch.bfloat16).contiguous()

    def finalize(self) -> None:
        self._code = _functional().get_4bit_type("nf4", device=self.weight.device)
        if self.compressed:
            absmax = _functional().dequantize_blockwise(self.absmax, self._scales_state())
            scales = self._ordered(absmax + self.absmax_mean)
            del self.absmax, self.absmax_scales, self.absmax_mean
            self.register_buffer("scales", scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)  # (T, in)
        product = self._many(rows) if len(rows) >= DEQUANTIZE_FROM_TOKENS else self._few(rows)
        return product.view(*x.shape[:-1], self.out_features)

    def _few(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
            rows,
            self.weight,
            (self.out_features, self.in_features),
            self.scales,
            self._code,
            WEIGHTS_PER_SCALE,
        )
        return product if self.bias is None else product.add_(self.bias)

    def _many(self, rows: torch.Tensor) -> torch.Tensor:
        # The order in which `untile` brings the inputs of a block.
        x = rows.view(len(rows), -1, 2, WEIGHTS_PER_SCALE // 2).transpose(2, 3).reshape(rows.shape)
        product = rows.new_empty(len(rows), self.out_features)
        for first in range(0, self.out_features, DEQUANTIZED_ROWS):
            part = slice(first, first + DEQUANTIZED_ROWS)
            packed = untile(self.weight[part])
            weight = torch.ops.bitsandbytes.dequantize_4bit.default(
                packed,
                self.scales[:, part].t().to(torch.float32).contiguous(),
                WEIGHTS_PER_SCALE,
                "nf4",
                (len(packed), self.in_features),
                rows.dtype,
            )
            if self.bias is None:
                torch.mm(x, weight.t(), out=product[:, part])
            else:
                torch.addmm(self.bias[part], x, weight.t(), out=product[:, part])
        return product


def tile(packed: torch.Tensor) -> torch.Tensor:
    """From rows (out, in / 2) with the first of two inputs in the upper half of each byte to tiles of that size."""
    rows, width = packed.shape
    halves = packed.view(-1, 2, TILE_ROWS // 2, width)  # (tiles, rows r and r + 16, r, in / 2)
    low, high = halves[:, 0], halves[:, 1]
    first = (low >> 4) | (high & 0xF0)
    second = (low & 0x0F) | (high << 4)
    return torch.stack([first, second], dim=-1).transpose(1, 2).reshape(rows, width)


def untile(tiled: torch.Tensor) -> torch.Tensor:
    """Back to rows (out, in / 2), but with the inputs k and k + 32 of each 64 beside one another.

    That order is the quick one: halves of bytes change places four bytes at a time.
    """
    rows, width = tiled.shape
    halves = tiled.view(torch.int32).view(
        -1, width * 2 // WEIGHTS_PER_SCALE, 2, WEIGHTS_PER_SCALE * TILE_ROWS // 16
    )
    first, second = halves[:, :, 0], halves[:, :, 1]  # inputs 0 to 31 and 32 to 63 of each 64
    # The lower halves of the first change places with the upper ones of the second.
    differ = (second >> 4).bitwise_xor_(first).bitwise_and_(LOW_NIBBLES)
    high = first ^ differ
    low = differ.bitwise_left_shift_(4).bitwise_xor_(second)
    out = torch.empty(
        len(halves),
        2,
        TILE_ROWS // 2,
        width * 2 // WEIGHTS_PER_SCALE,
        WEIGHTS_PER_SCALE // 4,
        dtype=torch.int16,
    )
    for index, half in enumerate((low, high)):
        pairs = half.view(torch.int16).view(len(halves), -1, WEIGHTS_PER_SCALE // 4, TILE_ROWS // 2)
        out[:, index].copy_(pairs.permute(0, 3, 1, 2))
    return out.view(torch.uint8).view(rows, width)


class Int8Linear(QuantizedLinear):
    """8 bits a weight and a scale for each row.

    Inputs above `OUTLIER_THRESHOLD` are multiplied in 16 bits, as in LLM.int8 (2208.07339).
    """

    weight: torch.Tensor  # (out, in) int8
    absmax: torch.Tensor  # (out,) float32

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.buffer("weight", self.out_features, self.in_features, dtype=torch.int8)
        self.buffer("absmax", self.out_features, dtype=torch.float32)

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = max(1, QUANTIZED_AT_ONCE // self.in_features)
        quantize = _functional().int8_vectorwise_quant
        pieces = [quantize(piece.to(torch.float16)) for piece in torch.split(weight, rows)]
        return {
            "weight": torch.cat([piece[0] for piece in pieces]),
            "absmax": torch.cat([piece[1] for piece in pieces]),
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # What bitsandbytes.matmul does, but for a warning at each call: that it casts to fp16, as it is meant to.
        rows = x.reshape(-1, self.in_features)
        quantized, scales, outliers = _functional().int8_vectorwise_quant(
            rows.to(torch.float16), threshold=OUTLIER_THRESHOLD
        )
        product, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(
            rows, quantized, self.weight, scales, self.absmax, outliers, self.bias
        )
        return product.reshape(*x.shape[:-1], self.out_features)  # type: ignore[no-any-return]


# bitsandbytes


def quantized_linear(linear: nn.Linear, precision: str, *, tiled: bool) -> QuantizedLinear | None:
    """The quantized layer in the place of `linear`, without its tensors; None if its sizes do not suit."""
    if precision == "8bit":
        return Int8Linear(linear)
    if linear.in_features % WEIGHTS_PER_SCALE or linear.out_features % TILE_ROWS:
        return None
    kind = TiledNF4Linear if tiled else NF4Linear
    return kind(linear, compressed=precision == "4bit-double")


@functools.cache
def reads_tiles() -> bool:
    """Whether this CPU has bitsandbytes' bf16 kernel, and that reads the order in which we write."""
    functional = _functional()
    if not getattr(functional, "has_avx512bf16", bool)():
        return False
    rows, columns = 2 * TILE_ROWS, 2 * WEIGHTS_PER_SCALE
    weight = torch.linspace(-9, 9, rows * columns).sin().view(rows, columns)
    layer = TiledNF4Linear(nn.Linear(columns, rows, bias=False, device="meta"), compressed=False)
    for name, tensor in layer.quantize(weight.to(torch.bfloat16)).items():
        layer._buffers[name] = tensor
    layer.finalize()
    x = torch.eye(columns, dtype=torch.bfloat16).roll(5, dims=1)
    try:
        return torch.allclose(layer._few(x), layer._many(x), rtol=0.02, atol=1e-3)
    except (RuntimeError, NotImplementedError):
        return False


def bitsandbytes(precision: str = "8bit or 4bit") -> Any:
    """The package; raises ModelLoadError where there is none."""
    if "bitsandbytes" in sys.modules and sys.modules["bitsandbytes"] is not None:
        return sys.modules["bitsandbytes"]
    # On CPUs with AVX512-BF16 its import has the package `kernels`, where there is one, download and run machine
    # code from the hub. Nothing from there is ever run here, so that package is hidden for the moment.
    hidden = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ModelLoadError(
            f"Precision {precision} needs the package bitsandbytes: pip install bitsandbytes."
        ) from error
    finally:
        del sys.modules["kernels"]
        if hidden is not None:
            sys.modules["kernels"] = hidden


def _functional() -> Any:
    return bitsandbytes().functional
