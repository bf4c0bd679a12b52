"""The embedded model's tokenizer: byte-level BPE with StarCoder2's special tokens at StarCoder2's ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_sc2.models.cards import STARCODER2_SPECIAL
from jupyter_sc2.prompt.builder import Segment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In this order they are ids 0 to 15, as in StarCoder2 (arXiv 2402.19173, table 5).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<repo_name>",
    "<file_sep>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)
END = SPECIAL_TOKENS.index("<|endoftext|>")


def write_tokenizer(folder: Path, tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> None:
    """Writes tokenizer.json and its configuration; the tokens' ids are their indices in `tokens`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_bpe({token: index for index, token in enumerate(tokens)}, merges)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<fim_pad>",
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def byte_level_bpe(ids: Mapping[str, int], merges: Sequence[tuple[str, ...]]) -> Tokenizer:
    """A tokenizer that splits digits one by one and words like GPT-2, as those of StarCoder2 and SmolLM2 do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab=dict(ids), merges=[(left, right) for left, right in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in ids])
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer, set up so that the name of a special token in somebody's text stays text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoder(tokenizer: Tokenizer) -> Callable[[Sequence[Segment]], list[int]]:
    """A function from segments to ids, each segment encoded on its own; roles without a token are left out."""

    # The same few texts are in every prompt, and a suffix is encoded twice, with the middle and without it.
    @lru_cache(maxsize=256)
    def ids_of(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def encode(segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            if isinstance(segment, str):
                ids.extend(ids_of(segment))
            elif segment.role in STARCODER2_SPECIAL:
                ids.append(SPECIAL_TOKENS.index(STARCODER2_SPECIAL[segment.role]))
        return ids

    return encode
