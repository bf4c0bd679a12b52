"""Writes the packed form of a model: layers in 4 bits, embeddings in 8 (see models/packed.py).

Weights that are rounded one by one lose much of what training has added to them. So what rounding one input's weights
does to the layer's results is made up for by the inputs that are rounded after it, as far as inputs go together in real
text (GPTQ, arXiv 2210.17323).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.models.cards import PACKED, TRAINING_FILE
from jupyter_sc2.models.packed import (
    DESCRIPTION,
    GRAPH,
    INPUTS_PER_SCALE,
    WEIGHTS,
    Tensor,
    as_float,
    parts,
    read_tensors,
    write_tensors,
)
from jupyter_sc2.runtime.hardware import processor_has_bf16

if TYPE_CHECKING:
    import torch

# Of a group's range: what is cut off at its ends is rounded worse, the rest better.
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.72)
# Of the mean of its diagonal, added to the inputs' moments so that their inverse exists.
DAMPING = 0.01
# The order of a layer's matrices in the file: those that the graph takes as one lie next to each other.
ORDER = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
    *("c_fc", "c_proj"),
)


def pack(source: Path, output: Path, rows: Sequence[Sequence[int]] = ()) -> None:
    """Packs the model folder `source` (bf16 or fp32 safetensors) into the folder `output`.

    `rows` of ids are texts like those that the model will read; without any, each weight is rounded by itself. The
    graph for ONNX Runtime is not written here: see graph.py.
    """
    import torch
    from safetensors import safe_open

    output.mkdir(parents=True, exist_ok=True)
    moments = measure(source, rows) if rows else {}
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(source / WEIGHTS), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            table = "embed_tokens" in name
            if tensor.ndim != 2 or not (table or packable(tensor)):
                tensors[name] = tensor.to(torch.bfloat16)
                continue
            if table:
                quantized = quantize_int8(tensor)
            else:
                quantized = quantize_int4(tensor, moments.get(name.removesuffix(".weight")))
            for key, part in quantized.items():
                tensors[name.removesuffix("weight") + key] = part
    write_packed([_as_array(name, tensor) for name, tensor in tensors.items()], output)
    for name in ("tokenizer.json", "tokenizer_config.json", TRAINING_FILE):
        if (source / name).exists():
            shutil.copy(source / name, output / name)
    describe(json.loads((source / "config.json").read_text()), output)


def write_packed(tensors: Iterable[Tensor], output: Path) -> None:
    """Writes the tensors in their order; a graph that refers to those of before goes."""
    (output / GRAPH).unlink(missing_ok=True)
    write_tensors(output / WEIGHTS, in_order(tensors))


def describe(config: dict[str, Any], output: Path) -> None:
    """Writes config.json of a packed model."""
    text = json.dumps({**config, PACKED: DESCRIPTION}, indent=2)
    (output / "config.json").write_text(text + "\n")


def renew(folder: Path) -> None:
    """Brings what an earlier version of this package has packed into today's form, number by number the same."""
    import numpy as np

    config = json.loads((folder / "config.json").read_text())
    renewed: list[Tensor] = []
    tensors = read_tensors(folder / WEIGHTS)
    for name, old in tensors.items():
        if name.endswith(".scales") and old.data.ndim == 3:  # (K / 32, N, 2): scale and middle
            for part, data in zip(
                parts(name.removesuffix("scales") + "weight"),
                np.moveaxis(old.data, 2, 0),
                strict=True,
            ):
                kind, array = "BF16", np.ascontiguousarray(data.T)
                if part.endswith(".scales"):
                    kind, array = "F32", as_float(array)
                renewed.append(Tensor(part, kind, array.shape, array))
        elif old.kind == "I8":
            table = (old.data.astype(np.int16) + 128).astype(np.uint8)
            renewed.append(Tensor(name, "U8", old.shape, table))
        else:
            renewed.append(Tensor(name, old.kind, old.shape, np.array(old.data)))
    del tensors, old
    write_packed(renewed, folder)
    describe(config, folder)


def in_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors in the order in which a file has them."""
    return sorted(tensors, key=_place)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where in the file a tensor lies: layer by layer, and of each matrices, scales, middles, norms."""
    layer = re.match(r"model\.layers\.(\d+)\.", tensor.name)
    module, _, part = tensor.name.rpartition(".")
    matrix = module.rpartition(".")[2]
    if matrix in ORDER:
        kinds = ("weight", "scales", "middles", "bias")
        return (int(layer.group(1)) if layer else -1, kinds.index(part), ORDER.index(matrix))
    return (int(layer.group(1)) if layer else -1, 9, tensor.name)


def _as_array(name: str, tensor: torch.Tensor) -> Tensor:
    import torch

    shape = tuple(tensor.shape)
    if tensor.dtype == torch.bfloat16:
        return Tensor(name, "BF16", shape, tensor.contiguous().view(torch.int16).numpy())
    kind = "U8" if tensor.dtype == torch.uint8 else "F32"
    return Tensor(name, kind, shape, tensor.contiguous().numpy())


def measure(source: Path, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """How the inputs of each layer go together on these rows: by the layer's name, sums of products (in, in)."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    moments: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            x = inputs[0].flatten(0, -2).float()
            with torch.autocast("cpu", enabled=False):
                moments[name] = moments[name] + x.T @ x if name in moments else x.T @ x

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and packable(module.weight):
            module.register_forward_hook(note(name))
    bf16 = processor_has_bf16()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for row in rows:
            model(input_ids=torch.tensor([list(row)]), use_cache=False)
    return moments


def packable(weight: torch.Tensor) -> bool:
    """Whether a weight (out, in) falls into groups of inputs."""
    return weight.shape[1] % INPUTS_PER_SCALE == 0


def quantize_int4(
    weight: torch.Tensor,
    moments: torch.Tensor | None = None,
    *,
    ranges: Sequence[float] = RANGES,
) -> dict[str, torch.Tensor]:
    """The packed parts of a linear layer's `weight` (out, in).

    With `moments` (in, in), as `measure` returns them, what rounding one input's weights does to the layer's results is
    made up for by the inputs after it. A group's scale and middle are chosen when it is reached, for the weights as
    they are then: of several ranges the one that changes the results least is taken.
    """
    import torch

    weight = weight.float().clone()
    rows, columns = weight.shape
    inverse = torch.eye(columns) if moments is None else _inverse(moments)
    levels = torch.empty(rows, columns, dtype=torch.uint8)
    scales, middles = torch.empty(2, rows, columns // INPUTS_PER_SCALE)
    for group in range(columns // INPUTS_PER_SCALE):
        here = slice(group * INPUTS_PER_SCALE, (group + 1) * INPUTS_PER_SCALE)
        part, factors = weight[:, here], inverse[here, here]
        step, middle = best_grid(part, factors.diagonal() ** -2, ranges)
        scales[:, group], middles[:, group] = step, middle
        errors = torch.empty_like(part)
        for index in range(INPUTS_PER_SCALE):
            column = part[:, index]
            level = nearest_levels(column, step, middle)
            levels[:, here.start + index] = level.to(torch.uint8)
            error = (column - (level - 8) * step - middle) / factors[index, index]
            part[:, index:] -= error.unsqueeze(1) * factors[index, index:].unsqueeze(0)
            errors[:, index] = error
        weight[:, here.stop :] -= errors @ inverse[here, here.stop :]
    return {
        "weight": pack_levels(levels),
        "scales": scales,
        "middles": middles.to(torch.bfloat16),
    }


def _inverse(moments: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of these moments."""
    import torch

    moments = moments.clone()
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def best_grid(
    groups: torch.Tensor, costs: torch.Tensor, ranges: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and middle of each group (out, 32), (out,) each, rounded as they will be stored.

    Of several ranges the one with the smallest sum of squared errors is taken; `costs` (32,) weight the inputs' errors.
    """
    import torch

    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best = torch.full_like(low, torch.inf)
    scale, middle = torch.zeros_like(best), torch.zeros_like(best)
    for share in ranges:
        half = (high - low) / 2 * share
        step = (half / 7.5).to(torch.bfloat16).float().clamp(min=1e-8)
        center = ((high + low) / 2 + step / 2).to(torch.bfloat16).float()
        restored = nearest_levels(groups, step, center).sub(8) * step + center
        error = ((restored - groups).square() * costs).sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale, middle = torch.where(better, step, scale), torch.where(better, center, middle)
    return scale.squeeze(-1), middle.squeeze(-1)


def nearest_levels(weights: torch.Tensor, step: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return ((weights - center) / step + 8).round().clamp(0, 15)


def pack_levels(levels: torch.Tensor) -> torch.Tensor:
    """(out, in) uint8, each from 0 to 15, to (out, in / 2)."""
    return (levels[:, 0::2] | (levels[:, 1::2] << 4)).contiguous()


def quantize_int8(table: torch.Tensor) -> dict[str, torch.Tensor]:
    """The packed parts of a `table` (rows, columns) of embeddings."""
    import torch

    scales = (table.float().abs().amax(1) / 127).to(torch.bfloat16)
    levels = (table.float() / scales.float().clamp(min=1e-8).unsqueeze(1)).round().clamp(-127, 127)
    return {"weight": (levels + 128).to(torch.uint8), "scales": scales}
