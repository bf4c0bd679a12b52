"""What a GGUF file says about itself before its weights: the model, its vocabulary, its special tokens."""

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

# Of a header. The largest that are published have 20 MB, 300,000 tokens and 2,000 tensors.
MAX_HEADER_BYTES = 256 << 20
MAX_ENTRIES = 10_000
MAX_ELEMENTS = 1 << 24
MAX_TENSORS = 1 << 18
# Of lengths, widths and counts; the longest context that is published has 10 million tokens.
MAX_SIZE = (1 << 31) - 1
# GGUF's kinds of values: the bytes of those that have always the same number, and the two others.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class GGUFHeader:
    """The header of one file; its weights are not read, but that they are all there is checked."""

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
                raise ValueError("it has not as many kinds of tokens as tokens")
        except OSError as error:
            raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}.") from error
        except KeyError as error:
            raise ModelLoadError(
                f"{file} is not a language model: it does not give {error}."
            ) from error
        except Exception as error:  # the library has errors of several kinds
            raise ModelLoadError(
                f"{file} is damaged or no GGUF file ({error}): download or make it again."
            ) from error
        if not header.tensors or end > file.stat().st_size:
            raise ModelLoadError(
                f"{file} is cut off: it has {file.stat().st_size:,} bytes and should have {end:,}. "
                "Download or make it again."
            )

    def number(self, key: str, default: int) -> int:
        """A number of the model's architecture, such as "context_length"; the default for 0, too.

        Raises ModelLoadError for what is no size.
        """
        name = f"{self.architecture}.{key}"
        value = self._values.get(name)
        if value is None:
            return default
        # Some numbers differ from layer to layer.
        sizes = value if isinstance(value, list) else [value]
        if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in sizes):
            raise ModelLoadError(
                f"{self._file} is damaged ({name} has to be a whole number from 0 to {MAX_SIZE:,}): download or make "
                "it again."
            )
        return max(sizes, default=0) or default

    def _all(self, key: str, kind: type) -> list[Any]:
        """The elements of an array. Raises KeyError for none, ValueError for others than of this kind."""
        elements = self._values[key]
        if not isinstance(elements, list) or not all(type(one) is kind for one in elements):
            raise ValueError(f"{key} is no array of {'texts' if kind is str else 'numbers'}")
        return elements

    @property
    def token_healing(self) -> bool:
        """See ModelCard.token_healing; only files that are made here tell it."""
        return bool(self._values.get(TOKEN_HEALING_KEY))

    @property
    def licence(self) -> str:
        return str(self._values.get("general.license") or "unknown")

    @cached_property
    def precision(self) -> str:
        """ "Q4_K_M", "F16", …; "" if the file does not tell."""
        from libgguf import LlamaFileType

        try:
            return str(LlamaFileType(self._values["general.file_type"]).name).removeprefix(
                "MOSTLY_"
            )
        except (KeyError, ValueError, TypeError):
            return ""

    def share_of(self, types: Collection[str]) -> float:
        """How much of the weights' bytes is in these of ggml's types, from 0 to 1."""
        return sum(self._bytes_in.get(type, 0) for type in types) / max(1, self.weight_bytes)

    def kv_bytes(self, tokens: int) -> int:
        """What the KV cache takes for so many tokens, in fp16."""
        heads = self.number("attention.head_count", 1)
        size = self.number("embedding_length", 0) // heads
        sizes = sum(self.number(f"attention.{part}_length", size) for part in ("key", "value"))
        key_heads = self.number("attention.head_count_kv", heads)
        return 2 * tokens * self.number("block_count", 0) * key_heads * sizes

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The tokens that steer the model, by their text; some files mark them as the user's own."""
        return {
            token: id
            for id, (token, kind) in enumerate(zip(self.tokens, self._kinds, strict=True))
            if kind == CONTROL
            or (kind == USER_DEFINED and len(token) > 2 and token[0] == "<" and token[-1] == ">")
        }

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """The bytes of every token by its id; none for special tokens and for unused ids."""
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
        """For token healing; built at its first use."""
        return TokenPrefixIndex(self.bytes_of)


def _check_counts(file: Path) -> None:
    """Walks over the header before it is read into memory. Raises ValueError for what no model has, OSError.

    An entry is a name (its length in 8 bytes, then the text), a kind (4 bytes) and a value of that kind; an array has
    the kind and the number of its elements first. A tensor is a name, its dimensions (their number in 4 bytes, then 8
    for each), its type (4) and its place (8). Numbers are little-endian (GGUF, version 3).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF" or size < 24:
            raise ValueError("it does not begin as one")
        data = mmap.mmap(stream.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ)
    with data:
        try:
            _walk(data)
        except (struct.error, OverflowError) as error:
            raise ValueError("its header has no end") from error


def _walk(data: mmap.mmap) -> None:
    short, long = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    (tensors,), (entries,) = long(data, 8), long(data, 16)
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise ValueError(f"its header tells of {tensors:,} tensors and {entries:,} entries")
    at = 24
    for _ in range(entries):
        at += 8 + long(data, at)[0]
        (kind,), count = short(data, at), 1
        at += 4
        if kind == ARRAY:
            (kind,), (count,) = short(data, at), long(data, at + 4)
            at += 12
            if count > MAX_ELEMENTS:
                raise ValueError(f"its header tells of {count:,} elements")
        if kind == STRING:
            for _ in range(count):
                at += 8 + long(data, at)[0]
        elif kind in VALUE_BYTES:
            at += count * VALUE_BYTES[kind]
        else:
            raise ValueError(f"its header has a value of the kind {kind}")
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
