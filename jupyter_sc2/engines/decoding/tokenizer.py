"""Text to ids and ids to bytes, exactly.

Reads tokenizer.json with the `tokenizers` library itself: that file is all a fast tokenizer is, and nothing of
a model's repository is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.decoding.token_healing import TokenPrefixIndex
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited

# Bytes: the largest that are published have 35 MB.
MAX_FILE_BYTES = 256 << 20
# As many numbers as tokens are made room for.
MAX_VOCABULARY = 1 << 24


class Tokenizer:
    """The vocabulary of one model.

    `special_ids` are the tokens that steer the model, by their text. Only a prompt's layout may use them: text
    that happens to contain "<fim_middle>" is encoded as ordinary characters.
    """

    def __init__(self, file: Path) -> None:
        """Raises ModelLoadError if the file is missing or cannot be read."""
        try:
            spec = read_spec(file)
            control = [token for token in spec.get("added_tokens", []) if _is_control(token)]
            # Some models mark their control tokens as ordinary ("special": false), and then text could write them.
            for token in control:
                token["special"] = True
            self._tokenizer = _from_spec(spec)
        except FileNotFoundError as error:
            raise ModelLoadError(
                f"{file.parent} has no tokenizer.json, and without its tokenizer a model cannot be used."
            ) from error
        except Exception as error:  # the Rust library raises plain Exception
            raise ModelLoadError(
                f"{file} cannot be read as a tokenizer: {_first_line(error)}"
            ) from error
        self.special_ids: dict[str, int] = {token["content"]: token["id"] for token in control}
        self._special = frozenset(self.special_ids.values())
        self._added = {token["id"]: token["content"] for token in spec.get("added_tokens", [])}
        self._byte_level = _uses_byte_level(spec.get("decoder"))

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: never a special id, and nothing added around it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens, which may begin or end inside a character; special tokens give none."""
        table = self.bytes_of
        return b"".join(table[id] if 0 <= id < len(table) else b"" for id in ids)

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """The bytes of every token by its id; none for special tokens and for unused ids."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, id in vocabulary.items():
            if id in self._special:
                continue
            if id in self._added:
                table[id] = self._added[id].encode()
            elif self._byte_level:
                table[id] = byte_level_bytes(token)
            else:
                table[id] = sentencepiece_bytes(token)
        return table

    @cached_property
    def spelling(self) -> TokenPrefixIndex:
        """For token healing; built at its first use (about 30 ms for 49,152 tokens)."""
        return TokenPrefixIndex(self.bytes_of)

    def __len__(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size


def read_spec(file: Path) -> dict[str, Any]:
    """The content of tokenizer.json. Raises OSError, or another exception if it is not a tokenizer."""
    spec = parse_json(read_limited(file, MAX_FILE_BYTES))
    vocabulary = spec["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    for id in (*ids, *(token["id"] for token in spec.get("added_tokens") or ())):
        if not isinstance(id, int) or not 0 <= id < MAX_VOCABULARY:
            raise ValueError(f"a token has the number {id!r}"[:80])
    return dict(spec)


def _from_spec(spec: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer as FastTokenizer

    spec = {**spec, "normalizer": _exact(spec.get("normalizer"))}
    spec["pre_tokenizer"] = _exact(spec.get("pre_tokenizer"))
    tokenizer = FastTokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True  # "encode them as the text they are"
    # A tokenizer.json may carry the lengths of somebody's training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _exact(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer without the blank that sentencepiece puts before every text.

    A prompt is encoded in several parts, and each would begin with one.
    """
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        kept = {key: value for key, value in part.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            return {**part, key: [one for p in part[key] if (one := _exact(p)) is not None]}
    return part


def _is_control(token: dict[str, Any]) -> bool:
    # Added tokens are also used for plain text such as runs of blanks; those stay what they are.
    content: str = token["content"]
    return bool(token.get("special")) or (
        len(content) > 2 and content[0] == "<" and content[-1] == ">"
    )


def _uses_byte_level(decoder: dict[str, Any] | None) -> bool:
    if decoder is None:
        return False
    if decoder["type"] == "Sequence":
        return any(_uses_byte_level(part) for part in decoder["decoders"])
    return bool(decoder["type"] == "ByteLevel")


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one visible character.

    Bytes that are visible in Latin-1 stand for themselves, the other 68 for the characters from U+0100 on, in
    their order (GPT-2, Radford et al. 2019).
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(0x100)).difference(visible))
    alphabet = {chr(byte): byte for byte in visible}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(hidden)})
    return alphabet


_ALPHABET = _byte_alphabet()


def byte_level_bytes(token: str) -> bytes:
    try:
        return bytes(_ALPHABET[char] for char in token)
    except KeyError:  # not written in the alphabet: a token that somebody put in by hand
        return token.encode()


def sentencepiece_bytes(token: str) -> bytes:
    # Sentencepiece writes a blank as U+2581, and single bytes as <0x0A>.
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _first_line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), type(error).__name__)


def missing(names: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """Those of the special tokens `names` that the tokenizer does not have."""
    return [name for name in names if name not in tokenizer.special_ids]
