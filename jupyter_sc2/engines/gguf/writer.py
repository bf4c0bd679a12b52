"""Makes a GGUF file from the original weights, in any of llama.cpp's usual precisions.

Tensors are read, quantized and written in blocks of some megabytes, so the peak of memory stays below a gigabyte
whatever the model's size, and no intermediate file is needed. libgguf quantizes the numbers, bit for bit like ggml.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from jupyter_sc2.engines.gguf import EXTRA
from jupyter_sc2.engines.gguf.header import TOKEN_HEALING_KEY
from jupyter_sc2.engines.gguf.vocabulary import Vocabulary, read_vocabulary
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import unfinished
from jupyter_sc2.models.cards import was_trained_here
from jupyter_sc2.models.files import Stored, check_layers, read_config, read_headers
from jupyter_sc2.models.quant_mix import tensor_type
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import format_bytes

if TYPE_CHECKING:
    import torch

# The architectures by their names in config.json, and their names in the package gguf.
ARCHITECTURES = {"starcoder2": "STARCODER2", "llama": "LLAMA", "gemma": "GEMMA", "qwen2": "QWEN2"}
# Numbers that are quantized at once: 8 MB of float32.
QUANTIZED_AT_ONCE = 1 << 21


def write_gguf(
    folder: Path,
    file: Path,
    precision: str,
    *,
    name: str,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Writes the model of a folder with config.json, tokenizer.json and *.safetensors to `file`.

    `precision` is one of plan.GGUF; `progress` is called with the share done. `file` appears only when it is complete.
    Raises ModelLoadError.
    """
    check_packages()
    source = _Source(folder, precision)
    part = unfinished.place_in(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(file.parent, others=f".{glob.escape(file.name)}.*.part")
        _check_disk(file, sum(tensor.nbytes for tensor in source.tensors))
        _write(source, part, name=name, progress=progress)
        os.replace(part, file)
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_packages() -> None:
    """Raises ModelLoadError where the packages for making GGUF files are not installed."""
    try:
        import gguf  # noqa: F401
        import libgguf  # noqa: F401
    except ImportError as error:
        raise ModelLoadError(
            f"Making a GGUF file needs the package {error.name}: {EXTRA}."
        ) from error


def _check_disk(file: Path, needed: int) -> None:
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise ModelLoadError(
            f"{file} needs {format_bytes(needed)} of disk, and {file.parent} has {format_bytes(free)} free."
        )


# Reading


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the new file: its name and type there, and the stored tensor that it is made of."""

    name: str
    type: str
    source: str
    stored: Stored

    @property
    def nbytes(self) -> int:
        return _row_bytes(self.type, self.stored.shape[-1]) * self.rows

    @property
    def rows(self) -> int:
        return self.stored.elements // self.stored.shape[-1]


class _Source:
    """The model in a folder: the sizes that GGUF asks for, and the tensors to write."""

    def __init__(self, folder: Path, precision: str) -> None:
        from jupyter_sc2.engines.torch.model_builder import architecture

        self.folder, self.precision = folder, precision
        raw = read_config(folder)
        kind = raw["model_type"]
        if kind not in ARCHITECTURES:
            raise ModelLoadError(
                f"{folder} has a model of type {kind!r}; GGUF files are made here only of {', '.join(ARCHITECTURES)}."
            )
        self.kind = kind
        _, self.config = architecture(raw, folder)
        rope = getattr(self.config, "rope_parameters", None) or {}
        if rope.get("rope_type", "default") != "default":
            raise ModelLoadError(
                f"{folder} scales its positions ({rope['rope_type']}), which cannot be converted to GGUF here: "
                "use a published GGUF file."
            )
        self.rope_theta = float(rope.get("rope_theta", 10000.0))
        self.heads = int(self.config.num_attention_heads)
        self.key_heads = int(getattr(self.config, "num_key_value_heads", None) or self.heads)
        self.head_size = int(
            getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads
        )
        self._stored = read_headers(folder)
        check_layers(self.config.num_hidden_layers, self._stored, folder)
        if self.config.vocab_size > max(
            max(entry.shape, default=0) for entry in self._stored.values()
        ):
            raise ModelLoadError(
                f"{folder}/config.json claims {self.config.vocab_size:,} tokens, but no tensor has so many rows."
            )
        self.vocabulary: Vocabulary = read_vocabulary(folder, int(self.config.vocab_size))
        self.tensors = list(self._plan())

    def _plan(self) -> Iterator[_Tensor]:
        import gguf

        layers = int(self.config.num_hidden_layers)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, ARCHITECTURES[self.kind]), layers)
        tied = bool(getattr(self.config, "tie_word_embeddings", False))
        for source, entry in self._stored.items():
            if source == "lm_head.weight" and tied:
                continue
            # Computed from rope_theta; old versions stored it.
            if source.endswith("rotary_emb.inv_freq"):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise ModelLoadError(f"{entry.file} has {source}, which GGUF has no name for.")
            kind = tensor_type(
                name,
                entry.shape,
                self.precision,
                layers=layers,
                group=self.heads // self.key_heads,
                tied=tied,
            )
            yield _Tensor(name, kind, source, entry)

    def read(self, tensor: _Tensor) -> torch.Tensor:
        """The tensor as (rows, columns), with the order of rows and the offset that llama.cpp expects."""
        from jupyter_sc2.engines.torch.model_builder import Reader

        # A view of the mapped file, unless it is packed there.
        value = Reader(keep_open=False).read(
            tensor.stored.file, tensor.source, is_packed=tensor.stored.packed
        )
        if self.kind == "llama" and ".self_attn.q_proj." in tensor.source:
            value = _interleaved(value, self.heads)
        elif self.kind == "llama" and ".self_attn.k_proj." in tensor.source:
            value = _interleaved(value, self.key_heads)
        elif self.kind == "gemma" and tensor.source.endswith("norm.weight"):
            value = value.float() + 1  # Gemma stores the scales of its norms minus one
        return value.reshape(tensor.rows, -1)


def _interleaved(value: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head with its two halves interleaved.

    Rotary embeddings turn neighbouring rows in llama.cpp, and rows half a head apart in transformers.
    """
    rest = value.shape[1:]
    halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(value.shape)


# Writing


def _write(source: _Source, file: Path, *, name: str, progress: Callable[[float], None]) -> None:
    import gguf

    architecture = gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, ARCHITECTURES[source.kind])]
    writer = gguf.GGUFWriter(file, architecture)
    _add_numbers(writer, source, name)
    _add_vocabulary(writer, source.vocabulary, source.config)
    for tensor in source.tensors:
        writer.add_tensor_info(
            tensor.name,
            tensor.stored.shape,
            None,  # type: ignore[arg-type]  # only asked where no type is given
            tensor.nbytes,
            raw_dtype=gguf.GGMLQuantizationType[tensor.type],
        )
    total, done = sum(tensor.stored.elements for tensor in source.tensors), 0
    workers = os.cpu_count() or 1
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with background.pool(workers, "jupyter-sc2-quantize") as pool:
            for tensor in source.tensors:
                with gate:
                    value = source.read(tensor)
                writer.write_tensor_data(_QuantizedTensor(tensor, value, pool, workers))  # type: ignore[arg-type]
                with gate:
                    del value
                done += tensor.stored.elements
                progress(done / total)
    finally:
        writer.close()


class _QuantizedTensor:
    """A tensor for GGUFWriter that is quantized while it is written."""

    def __init__(
        self, tensor: _Tensor, value: torch.Tensor, pool: ThreadPoolExecutor, workers: int
    ) -> None:
        self.nbytes = tensor.nbytes
        self._tensor, self._value, self._pool, self._workers = tensor, value, pool, workers

    def tofile(self, stream: BinaryIO) -> None:
        rows = max(1, QUANTIZED_AT_ONCE // self._tensor.stored.shape[-1])
        starts = range(0, self._tensor.rows, rows)
        # A few at a time: quantized blocks wait in memory for the disk.
        some = 2 * self._workers
        for index in range(0, len(starts), some):
            batch = starts[index : index + some]
            for packed in self._pool.map(lambda start: self._pack(start, start + rows), batch):
                stream.write(packed)

    def _pack(self, start: int, end: int) -> bytes:
        import gguf
        import libgguf

        numbers = _float32(self._value[start:end])
        packed = libgguf.quantize_rows(numbers, gguf.GGMLQuantizationType[self._tensor.type])
        return bytes(packed.tobytes())


def _float32(value: torch.Tensor) -> Any:
    """The numbers as float32. NumPy converts them because it uses only the calling thread; torch uses more."""
    import numpy as np
    import torch

    if value.dtype == torch.bfloat16:  # unknown to NumPy: the upper half of a float32
        upper = value.contiguous().view(torch.int16).numpy().view(np.uint16)
        return (upper.astype(np.uint32) << 16).view(np.float32)
    return value.numpy().astype(np.float32)


def _row_bytes(type: str, columns: int) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]]
    return columns // block * size


def _add_numbers(writer: Any, source: _Source, name: str) -> None:
    import gguf

    config, key_heads = source.config, source.key_heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{source.precision}"]))
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(source.heads)
    writer.add_head_count_kv(key_heads)
    writer.add_key_length(source.head_size)
    writer.add_value_length(source.head_size)
    writer.add_rope_dimension_count(source.head_size)
    writer.add_rope_freq_base(source.rope_theta)
    if source.kind == "starcoder2":
        writer.add_layer_norm_eps(float(config.norm_epsilon))
    else:
        writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    if window := getattr(config, "sliding_window", None):
        writer.add_sliding_window(int(window))
    if was_trained_here(source.folder):
        writer.add_bool(TOKEN_HEALING_KEY, True)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, config: Any) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for key, id in vocabulary.fim.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", id)
    for key in ("bos", "eos", "pad"):
        found: Any = getattr(config, f"{key}_token_id", None)
        found = found[0] if isinstance(found, list) else found
        if found is not None and 0 <= found < len(vocabulary.tokens):
            getattr(writer, f"add_{key}_token_id")(found)
    # Prompts are built token by token, and nothing may be added to them.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
