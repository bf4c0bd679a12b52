"""Writes the packed form of a model: layers in 4 bits, embeddings in 8 (see engines/int4.py)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_sc2.engines.int4 import GROUP, dequantize_int4, quantize_int4, quantize_int8

if TYPE_CHECKING:
    import torch

# No range is cut off: training rounds by the same rule, and in time to get used to it.
WHOLE = (1.0,)


def pack(source: Path, output: Path) -> None:
    """Packs the model folder `source` (bf16 or fp32 safetensors) into the folder `output`."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    output.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(source / "model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            table = "embed_tokens" in name
            if tensor.ndim != 2 or not (table or packable(tensor)):
                tensors[name] = tensor.to(torch.bfloat16)
                continue
            parts = quantize_int8(tensor) if table else quantize_int4(tensor, WHOLE)
            for key, part in parts.items():
                tensors[name.removesuffix("weight") + key] = part
    part_file = output / "model.part"
    save_file(tensors, str(part_file), metadata={"format": "pt"})
    os.replace(part_file, output / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["packed"] = {"linear": "int4", "embeddings": "int8"}
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, output / name)


def packable(weight: torch.Tensor) -> bool:
    """Whether a weight (out, in) falls into groups of inputs."""
    return weight.shape[1] % GROUP == 0


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """What is left of a weight (out, in) once it is packed, as float32."""
    parts = quantize_int4(weight, WHOLE)
    return dequantize_int4(parts["weight"], parts["scales"])
