"""Writes the packed form of a model: layers in 4 bits, embeddings in 8 (see engines/int4.py).

SmolLM2's weights come out of a 4-bit file, and what training adds to each is mostly less than half a step of that grid:
rounded one by one they would be what they were before it. So what rounding one input's weights does to the layer's
results is made up for by the inputs that are rounded after it, as far as inputs go together in real text (GPTQ,
arXiv 2210.17323).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.int4 import (
    GROUP,
    nearest_levels,
    pack_levels,
    quantize_int4,
    quantize_int8,
)
from jupyter_sc2.models import TRAINED

if TYPE_CHECKING:
    import torch

# No range is cut off: the grid of the file that the weights come out of is kept where they have changed little.
WHOLE = (1.0,)
# Of the mean of its diagonal, added to the inputs' moments so that their inverse exists.
DAMPING = 0.01


def pack(source: Path, output: Path, rows: Sequence[Sequence[int]] = ()) -> None:
    """Packs the model folder `source` (bf16 or fp32 safetensors) into the folder `output`.

    `rows` of ids are texts like those that the model will read; without any, each weight is rounded by itself.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    output.mkdir(parents=True, exist_ok=True)
    moments = measure(source, rows) if rows else {}
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(source / "model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            table = "embed_tokens" in name
            if tensor.ndim != 2 or not (table or packable(tensor)):
                tensors[name] = tensor.to(torch.bfloat16)
                continue
            parts = quantize_int8(tensor) if table else quantize_int4(tensor, WHOLE)
            if (moment := moments.get(name.removesuffix(".weight"))) is not None:
                parts["weight"] = compensated(tensor.float(), parts["scales"], moment)
            for key, part in parts.items():
                tensors[name.removesuffix("weight") + key] = part
    part_file = output / "model.part"
    save_file(tensors, str(part_file), metadata={"format": "pt"})
    part_file.chmod(0o644)  # it is written for its owner alone
    os.replace(part_file, output / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["packed"] = {"linear": "int4", "embeddings": "int8"}
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", TRAINED):
        if (source / name).exists():
            shutil.copy(source / name, output / name)


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
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for row in rows:
            model(input_ids=torch.tensor([list(row)]), use_cache=False)
    return moments


def compensated(weight: torch.Tensor, scales: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """The levels of a weight (out, in) on the grid that `scales` (in / 32, out, 2) tell, packed as in Int4Linear."""
    import torch

    weight = weight.clone()
    rows, columns = weight.shape
    moments = moments.clone()
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    inverse = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True
    )
    levels = torch.empty(rows, columns, dtype=torch.uint8)
    for group in range(columns // GROUP):
        step, middle = scales[group].float().unbind(-1)  # (out,) each
        here = slice(group * GROUP, (group + 1) * GROUP)
        part, factors = weight[:, here], inverse[here, here]
        errors = torch.empty_like(part)
        for index in range(GROUP):
            column = part[:, index]
            level = nearest_levels(column, step, middle)
            levels[:, here.start + index] = level.to(torch.uint8)
            error = (column - (level - 8) * step - middle) / factors[index, index]
            part[:, index:] -= error.unsqueeze(1) * factors[index, index:].unsqueeze(0)
            errors[:, index] = error
        weight[:, here.stop :] -= errors @ inverse[here, here.stop :]
    return pack_levels(levels)


def packable(weight: torch.Tensor) -> bool:
    """Whether a weight (out, in) falls into groups of inputs."""
    return weight.shape[1] % GROUP == 0
