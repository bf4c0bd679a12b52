"""The embedded model's tokenizer: byte-level BPE with StarCoder2's special tokens at StarCoder2's ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_sc2.models import STARCODER2_SPECIAL
from jupyter_sc2.prompt.layout import Segment

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


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocabulary: int = 6144) -> None:
    """Learns the merges and writes what `AutoTokenizer` loads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Each digit alone, then GPT-2's split into words, each with the blank before it: StarCoder2's way.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<fim_pad>",
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer, set up so that the name of a special token in somebody's text stays text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoder(tokenizer: Tokenizer) -> Callable[[Sequence[Segment]], list[int]]:
    """A function from segments to ids, each segment encoded on its own."""

    def encode(segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            if isinstance(segment, str):
                ids.extend(tokenizer.encode(segment, add_special_tokens=False).ids)
            else:
                ids.append(SPECIAL_TOKENS.index(STARCODER2_SPECIAL[segment.role]))
        return ids

    return encode
