"""Loads the weights that a training starts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_sc2.errors import ModelLoadError


def unpacked_model(folder: Path) -> Any:
    """The model in a folder, in float32. A packed one, such as the one that the package ships, is unpacked."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from jupyter_sc2.models.packed import WEIGHTS, as_float, parts, read_tensors, unpacked

    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "packed"):
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    del config.packed  # or the trained model would be taken for a packed one
    stored = {
        name: as_float(tensor.data) if tensor.kind == "BF16" else tensor.data
        for name, tensor in read_tensors(folder / WEIGHTS).items()
    }
    tensors = {}
    for name, data in stored.items():
        scales, middles = parts(name)
        if name.endswith("weight") and scales in stored:
            data = unpacked(data, stored[scales], stored.get(middles))
        if name.endswith(("weight", "bias")):
            tensors[name] = torch.from_numpy(data)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    missing, _ = model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    if set(missing) - set(model._tied_weights_keys or ()):
        raise ModelLoadError(f"{folder} lacks {', '.join(missing)}.")
    return model
