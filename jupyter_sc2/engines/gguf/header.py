"""The header of a GGUF file, which precedes the weights: the model's sizes, its vocabulary, its special tokens."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.decoding.token_healing import TokenPrefixIndex
from jupyter_sc2.engines.decoding.tokenizer import byte_level_bytes, sentencepiece_bytes
from jupyter_sc2.engines.gguf import EXTRA
from jupyter_sc2.engines.gguf.vocabulary import BYTE, CONTROL, NORMAL, USER_DEFINED
from jupyter_sc2.errors import ModelLoadError

TOKEN_HEALING_KEY = "jupyter_sc2.heals"

# The limits of a header. The largest published ones have 20 MB, 300,000 tokens and 2,000 tensors.
MAX_HEADER_BYTES = 256 << 20
MAX_ENTRIES = 10_000
MAX_ELEMENTS = 1 << 24
MAX_TENSORS = 1 << 18
# The limit of lengths, widths and counts; the longest published context has 10 million tokens.
MAX_SIZE = (1 << 31) - 1
# GGUF's types of values: the bytes of those with a fixed size, and the two others.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class GGUFHeader:
    """The header of one file. The weights are not read, but the size of the file shows whether all are there."""

    def __init__(self, file: Path) -> None:
        """Raises ModelLoadError for a file that is missing, damaged, or not GGUF."""
        try:
            from libgguf import read_gguf_header
        except ImportError as error:
            raise ModelLoadError(f"GGUF models need the package libgguf: {EXTRA}.") from error
        if not file.is_file():
            raise ModelLoadError(f"{file} does not exist.")
        try:
            _check_counts(file)
            header = read_gguf_header(file)
            self._values = {key: entry.value for key, entry in header.metadata.items()}
            self.weight_bytes = sum(tensor.nbytes or 0 for tensor in header.tensors)
            self._bytes_in: dict[str, int] = {}
            for tensor in header.tensors:
                known = self._bytes_in.get(tensor.qtype, 0)
                self._bytes_in[tensor.qtype] = known + (tensor.nbytes or 0)
            self.parameters = sum(_elements(tensor.shape) for tensor in header.tensors)
            end = max((t.data_offset + (t.nbytes or 0) for t in header.tensors), default=0)
            self._file = file
            self.architecture = str(self._values["general.architecture"])
            self.tokens: list[str] = self._all("tokenizer.ggml.tokens", str)
            self._kinds: list[int] = self._all("tokenizer.ggml.token_type", int)
            if len(self.tokens) != len(self._kinds):
                raise ValueError("its tokens and their types differ in number")
        except OSError as error:
            raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}.") from error
        except KeyError as error:
            raise ModelLoadError(f"{file} is not a language model: it has no {error}.") from error
        except Exception as error:  # libgguf raises errors of several types
            raise ModelLoadError(
                f"{file} is damaged or not a GGUF file ({error}): download or make it again."
            ) from error
        if not header.tensors or end > file.stat().st_size:
            raise ModelLoadError(
                f"{file} is cut off: it has {file.stat().st_size:,} bytes and should have {end:,}. "
                "Download or make it again."
            )

    def number(self, key: str, default: int) -> int:
        """A number of the model's architecture, such as "context_length"; the default if it is missing or 0.

        If it differs from layer to layer, the largest. Raises ModelLoadError if it is not a size.
        """
        name = f"{self.architecture}.{key}"
        value = self._values.get(name)
        if value is None:
            return default
        sizes = value if isinstance(value, list) else [value]
        if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in sizes):
            raise ModelLoadError(
                f"{self._file} is damaged ({name} has to be a whole number from 0 to {MAX_SIZE:,}): download or make "
                "it again."
            )
        return max(sizes, default=0) or default

    def _all(self, key: str, kind: type) -> list[Any]:
        """The elements of an array. Raises KeyError if it is missing, ValueError if they are of another type."""
        elements = self._values[key]
        if not isinstance(elements, list) or not all(type(one) is kind for one in elements):
            raise ValueError(f"{key} is not an array of {'strings' if kind is str else 'numbers'}")
        return elements

    @property
    def token_healing(self) -> bool:
        """See ModelCard.token_healing; only files that were made here state it."""
        return bool(self._values.get(TOKEN_HEALING_KEY))

    @property
    def licence(self) -> str:
        return str(self._values.get("general.license") or "unknown")

    @cached_property
    def precision(self) -> str:
        """The precision, such as "Q4_K_M" or "F16"; empty if the file does not state it."""
        from libgguf import LlamaFileType

        try:
            return str(LlamaFileType(self._values["general.file_type"]).name).removeprefix(
                "MOSTLY_"
            )
        except (KeyError, ValueError, TypeError):
            return ""

    def share_of(self, types: Collection[str]) -> float:
        """The share of the weights' bytes that is in tensors of these ggml types, from 0 to 1."""
        return sum(self._bytes_in.get(type, 0) for type in types) / max(1, self.weight_bytes)

    def kv_bytes(self, tokens: int) -> int:
        """The bytes of the KV cache for so many tokens, in fp16."""
        heads = self.number("attention.head_count", 1)
        size = self.number("embedding_length", 0) // heads
        sizes = sum(self.number(f"attention.{part}_length", size) for part in ("key", "value"))
        key_heads = self.number("attention.head_count_kv", heads)
        return 2 * tokens * self.number("block_count", 0) * key_heads * sizes

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens, by their text; some files mark them as user-defined."""
        return {
            token: id
            for id, (token, kind) in enumerate(zip(self.tokens, self._kinds, strict=True))
            if kind == CONTROL
            or (kind == USER_DEFINED and len(token) > 2 and token[0] == "<" and token[-1] == ">")
        }

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """The bytes of each token, by its id; empty for special tokens and unused ids."""
        special = set(self.special_ids.values())
        byte_level = self._values.get("tokenizer.ggml.model") == "gpt2"
        spell = byte_level_bytes if byte_level else sentencepiece_bytes
        table = [b""] * len(self.tokens)
        for id, (token, kind) in enumerate(zip(self.tokens, self._kinds, strict=True)):
            if id in special:
                continue
            if kind in (NORMAL, BYTE):
                table[id] = spell(token)
            elif kind == USER_DEFINED:
                table[id] = token.encode() if byte_level else sentencepiece_bytes(token)
        return table

    @cached_property
    def spelling(self) -> TokenPrefixIndex:
        """The index for token healing, built at its first use."""
        return TokenPrefixIndex(self.bytes_of)


def _check_counts(file: Path) -> None:
    """Checks a header's counts before it is read into memory. Raises OSError, and ValueError for what no model has.

    An entry is a name (its length in 8 bytes, then the text), a type (4 bytes) and a value of that type; an array
    begins with the type and the number of its elements. A tensor is a name, its dimensions (their number in 4 bytes,
    then 8 for each), its type (4) and its offset (8). Numbers are little-endian (GGUF, version 3).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF" or size < 24:
            raise ValueError("it does not begin like one")
        data = mmap.mmap(stream.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ)
    with data:
        try:
            _walk(data)
        except (struct.error, OverflowError) as error:
            raise ValueError("its header is cut off") from error


def _walk(data: mmap.mmap) -> None:
    short, long = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    (tensors,), (entries,) = long(data, 8), long(data, 16)
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise ValueError(f"its header claims {tensors:,} tensors and {entries:,} entries")
    at = 24
    for _ in range(entries):
        at += 8 + long(data, at)[0]
        (kind,), count = short(data, at), 1
        at += 4
        if kind == ARRAY:
            (kind,), (count,) = short(data, at), long(data, at + 4)
            at += 12
            if count > MAX_ELEMENTS:
                raise ValueError(f"its header claims {count:,} elements")
        if kind == STRING:
            for _ in range(count):
                at += 8 + long(data, at)[0]
        elif kind in VALUE_BYTES:
            at += count * VALUE_BYTES[kind]
        else:
            raise ValueError(f"its header has a value of the unknown type {kind}")
    for _ in range(tensors):
        at += 8 + long(data, at)[0]
        at += 16 + 8 * short(data, at)[0]
    if at > len(data):
        raise struct.error


def _elements(shape: Sequence[Any]) -> int:
    product = 1
    for length in shape:
        product *= int(length)
    return product
