"""Makes a folder with random weights in a known model's full shape, which cost as much as the real ones.

python -m benchmarks.full_shape FOLDER [--model starcoder2-3b] [--layers N]

Written in bf16, one layer a file: 6 GB and a minute for StarCoder2-3B. The tokenizer is that of the tests' small model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from tests.support.paths import SMALL_MODEL

# The shapes that can be made, as their models' config.json describes them.
CONFIGS = {
    "starcoder2-3b": {
        "model_type": "starcoder2",
        "architectures": ["Starcoder2ForCausalLM"],
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
        "sliding_window": 4096,
        "rope_theta": 999999.4420358813,
        "use_bias": True,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
}
STANDARD_DEVIATION = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=CONFIGS, default="starcoder2-3b")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.model, layers=arguments.layers)


def make(folder: Path, model: str = "starcoder2-3b", *, layers: int | None = None) -> Path:
    """Writes the folder, unless it is there already."""
    import torch
    from safetensors.torch import save_file

    config = dict(CONFIGS[model])
    if layers is not None:
        config["num_hidden_layers"] = layers
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> torch.Tensor:
        drawn = torch.empty(shape, dtype=torch.bfloat16)
        return drawn.normal_(std=STANDARD_DEVIATION, generator=generator)

    def linear(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": weight(rows, columns),
            f"{name}.bias": torch.zeros(rows, dtype=torch.bfloat16),
        }

    hidden, wide = int(config["hidden_size"]), int(config["intermediate_size"])
    keys = hidden // int(config["num_attention_heads"]) * int(config["num_key_value_heads"])

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": torch.ones(hidden, dtype=torch.bfloat16),
            f"{name}.bias": torch.zeros(hidden, dtype=torch.bfloat16),
        }

    files = [{"model.embed_tokens.weight": weight(int(config["vocab_size"]), hidden)}]
    files[0] |= norm("model.norm")
    save_file(files[0], folder / "model-embed.safetensors")
    places = dict.fromkeys(files[0], "model-embed.safetensors")
    for index in range(int(config["num_hidden_layers"])):
        path = f"model.layers.{index}"
        tensors = {
            **linear(f"{path}.self_attn.q_proj", hidden, hidden),
            **linear(f"{path}.self_attn.k_proj", keys, hidden),
            **linear(f"{path}.self_attn.v_proj", keys, hidden),
            **linear(f"{path}.self_attn.o_proj", hidden, hidden),
            **linear(f"{path}.mlp.c_fc", wide, hidden),
            **linear(f"{path}.mlp.c_proj", hidden, wide),
            **norm(f"{path}.input_layernorm"),
            **norm(f"{path}.post_attention_layernorm"),
        }
        file = f"model-{index:02}.safetensors"
        save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SMALL_MODEL / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


if __name__ == "__main__":
    main()
