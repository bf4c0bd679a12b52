"""Makes tiny random models of StarCoder2's architecture: real files, real tokenizers, milliseconds to load.

python tests/support/tiny.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jupyter_sc2.training.tokenizer import SPECIAL_TOKENS as SPECIAL

# What the merges are learned from: enough for tokens of several letters, blanks before words, and runs of blanks.
TEXT = (
    "import numpy as np\nimport pandas as pd\n",
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n",
    "for index, value in enumerate(values):\n        print(index, value)\n",
    "naïve café, 東京 and 🎉 in a string\n",
)


def make_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    sliding_window: int | None = 2048,
    context: int = 2048,
    special: tuple[str, ...] = SPECIAL,
    vocab_size: int = 400,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 128,
    tie: bool = True,
    dtype: str = "float32",
) -> Path:
    """Writes config.json, tokenizer.json, tokenizer_config.json and model.safetensors into `folder`.

    The weights are random and larger than a fresh model's (standard deviation 0.2 instead of 0.02): then what is
    likely depends on all of the text before, and a test sees it when a position was read wrongly.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(special, vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    names: dict[str, Any] = {
        "tokenizer_class": "GPT2TokenizerFast",
        "additional_special_tokens": list(special),
    }
    if special:
        names |= {"bos_token": special[0], "eos_token": special[0], "unk_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))

    config = Starcoder2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        sliding_window=sliding_window,
        tie_word_embeddings=tie,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=True,
    )
    config.architectures = ["Starcoder2ForCausalLM"]
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))

    with torch.random.fork_rng(devices=[]):
        model = Starcoder2ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tie and name == "lm_head.weight":
            continue
        value = torch.empty(tensor.shape).normal_(0.0, 0.2, generator=generator)
        if "layernorm.weight" in name or name == "model.norm.weight":
            value += 1.0
        tensors[name] = value.to(getattr(torch, dtype))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_tokenizer(special: tuple[str, ...] = SPECIAL, vocab_size: int = 400) -> Any:
    """A byte-level BPE as StarCoder2's: digits on their own, special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
