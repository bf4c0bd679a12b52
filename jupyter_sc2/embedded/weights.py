"""The weights that a training begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_sc2.errors import ModelLoadError


def unpacked_model(folder: Path) -> Any:
    """The model in a folder in float32; one that is packed, as the shipped one is, is unpacked."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from jupyter_sc2.engines.int4 import unpacked

    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "packed"):
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    del config.packed  # or what is trained would be taken for packed as well
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".scales")]:
        key = name.removesuffix("scales") + "weight"
        tensors[key] = unpacked(tensors[key], tensors.pop(name))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    missing, _ = model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    if set(missing) - set(model._tied_weights_keys or ()):
        raise ModelLoadError(f"{folder} lacks {', '.join(missing)}.")
    return model
