"""A tokenizer.json in GGUF's terms: tokens, their types, merges or scores, and how text is split into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.decoding.tokenizer import Tokenizer, read_spec
from jupyter_sc2.errors import ModelLoadError

# GGUF's types of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# GGUF's keys for the tokens of FIM, and what models call them.
FIM_KEYS = {
    "fim_pre": ("<fim_prefix>", "<|fim_prefix|>", "<PRE>"),
    "fim_suf": ("<fim_suffix>", "<|fim_suffix|>", "<SUF>"),
    "fim_mid": ("<fim_middle>", "<|fim_middle|>", "<MID>"),
    "fim_pad": ("<fim_pad>", "<|fim_pad|>"),
    "fim_rep": ("<repo_name>", "<|repo_name|>"),
    "fim_sep": ("<file_sep>", "<|file_sep|>", "<|file_separator|>"),
}

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names for ways to split text into words, by the pattern in tokenizer.json.
PATTERNS = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A vocabulary as GGUF stores it. `kinds` are the types of the tokens.

    `model` and `pre` are llama.cpp's names for the algorithm and for the splitting of text before it.
    """

    model: str  # "gpt2": byte-level BPE with merges; "llama": sentencepiece's with scores
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    fim: Mapping[str, int] = field(default_factory=dict)


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a folder with tokenizer.json, filled up to the model's `size`. Raises ModelLoadError."""
    file = folder / "tokenizer.json"
    control = set(Tokenizer(file).special_ids.values())
    try:
        spec = read_spec(file)
        model, added = spec["model"], spec.get("added_tokens", [])
        ids: dict[str, int] = dict(model["vocab"])
        if model["type"] != "BPE":
            raise ModelLoadError(
                f"{file} is not a BPE tokenizer, and GGUF files are made here only with one."
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{file} cannot be read as a tokenizer: {error}.") from error
    ids.update({token["content"]: token["id"] for token in added})
    if max(ids.values(), default=-1) >= size:
        raise ModelLoadError(
            f"{file} has {max(ids.values()) + 1} tokens and the model {size}: they do not belong together."
        )
    tokens = [f"[PAD{id}]" for id in range(size)]
    kinds = [UNUSED] * size
    pieces = bool(model.get("byte_fallback"))
    for token, id in ids.items():
        tokens[id], kinds[id] = token, _kind(token) if pieces else NORMAL
    for token in added:
        kinds[token["id"]] = CONTROL if token["id"] in control else USER_DEFINED
    if pieces and model.get("unk_token") in ids:
        kinds[ids[model["unk_token"]]] = UNKNOWN
    fim = {
        key: ids[name]
        for key, names in FIM_KEYS.items()
        for name in names
        if name in ids and kinds[ids[name]] == CONTROL
    }
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if pieces:
        return Vocabulary(
            model="llama",
            pre="default",
            tokens=tokens,
            kinds=kinds,
            fim=fim,
            scores=_scores(tokens, merges),
        )
    return Vocabulary(
        model="gpt2", pre=_pre(spec, file), tokens=tokens, kinds=kinds, fim=fim, merges=merges
    )


def _kind(token: str) -> int:
    return BYTE if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's scores: the earlier a token is merged, the higher. Tokens that no merge makes have the lowest."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), index)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _pre(spec: dict[str, Any], file: Path) -> str:
    """llama.cpp's name for the way in which text is split into words before merging. Raises ModelLoadError."""
    splitter = spec.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter])
    match steps:
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True},
        ]:
            return "starcoder"
        case [{"type": "ByteLevel", "use_regex": True}]:
            return "gpt-2"
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"},
            {"type": "ByteLevel", "use_regex": False},
        ] if pattern in PATTERNS:
            return PATTERNS[pattern]
    raise ModelLoadError(
        f"{file} splits text in a way that llama.cpp has no name for: use a published GGUF file, "
        "or the engine transformers."
    )
