"""The cache of quantized weights: a model is quantized once and loads in seconds afterwards.

A stored model is a folder: the tensors in one safetensors file, which is mapped, and manifest.json, which names that
file, its checksum (models/checksums.py) and its source. The manifest is written last and atomically, so the remains of
a killed quantization are never loaded. A model that no longer matches its source, or is damaged, is made again. One
process writes at a time, and others wait for it, except on a disk without locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jupyter_sc2.engines.torch.model_builder import (
    Reader,
    Skeleton,
    best_device,
    skeleton,
    stream_weights,
)
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import checksums, file_lock
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models.cache_dir import quantized_place
from jupyter_sc2.models.cards import QUANTIZED
from jupyter_sc2.runtime.characters import is_plain_name
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.progress import Progress

FORMAT = 2  # raised whenever the same name means other bytes
MANIFEST = "manifest.json"
# Smaller ones are quantized in a second or two.
MIN_MODEL_PARAMS = 200_000_000
# Bytes of the disk that are left free.
SPARE_DISK_BYTES = 1 << 30
# Tensors begin at multiples of this many bytes: no number is misaligned, and vectors are whole.
ALIGNMENT_BYTES = 64
# Bytes of the header for each tensor besides its name: dtype, shape and place in JSON, and the padding's.
ENTRY_BYTES = 300
REMADE_NOTICE = "The kept weights in {} were damaged, and were made again."
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int64: "I64",
}


def load(empty: Skeleton, folder: Path, progress: Progress) -> tuple[nn.Module, str]:
    """The model with its weights, and a sentence for the user about the cache, or "".

    Raises ModelLoadError if the source cannot be read.
    """
    why = ""
    if empty.nbytes >= MIN_MODEL_PARAMS:
        try:
            file, remade = _store(empty, folder, progress)
            _read(file, empty)
            return empty.complete(), REMADE_NOTICE.format(empty.precision) if remade else ""
        except OSError as error:
            reason = error.strerror or str(error)
            why = f"Quantizing again at each load, since the result cannot be kept: {reason}."
    stream_weights(empty, empty.put, progress)
    return empty.complete(), why


def make(folder: Path, precision: str, progress: Progress) -> Path:
    """Quantizes the model in `folder` to one of `QUANTIZED` for this machine; returns its folder.

    A stored model that still matches is not made again. Raises ModelLoadError.
    """
    if precision not in QUANTIZED:
        raise ModelLoadError(
            f"{precision} is not a precision to quantize to: use one of {', '.join(QUANTIZED)}."
        )
    config, stored = model_files.read_config(folder), model_files.read_headers(folder)
    with model_files.keep_logs_out("transformers", "bitsandbytes", "torch", "filelock"):
        empty = skeleton(config, stored, folder, precision=precision, device=best_device())
        try:
            file, _ = _store(empty, folder, progress)
            return file.parent
        except OSError as error:
            raise ModelLoadError(
                f"{_place(empty, folder)} cannot be written: {error.strerror or error}."
            ) from error


def _store(empty: Skeleton, folder: Path, progress: Progress) -> tuple[Path, bool]:
    """The file of the stored model, made if need be, and whether it replaces a damaged one.

    Raises OSError if it cannot be written.
    """
    place, wanted = _place(empty, folder), _identity(empty, folder)
    file, damaged = _find_stored(place, wanted, progress)
    if file:
        return file, False
    if place.exists() and not place.is_dir():
        checksums.quarantine(place)
    place.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(place.name + ".lock")
    with file_lock.locked(lock, lambda: progress("loading", None)) as alone:
        file, _ = _find_stored(place, wanted, progress)
        if file:  # another process has made it meanwhile
            return file, damaged
        # Without locks another process may be writing one of them just now.
        leftovers = list(place.glob("*.safetensors*")) if alone else []
        for leftover in leftovers:
            # Windows deletes no file that a process has mapped.
            with contextlib.suppress(OSError):
                leftover.unlink()
        free = shutil.disk_usage(place).free
        if empty.nbytes + SPARE_DISK_BYTES > free:
            raise OSError(
                f"it takes {format_bytes(empty.nbytes)} and {place} has {format_bytes(free)} free"
            )
        file = place / f"weights-{uuid.uuid4().hex[:8]}.safetensors"
        try:
            with _Writer(file, empty.tensors) as writer:
                stream_weights(empty, writer.add, progress)
            if (place / MANIFEST).is_dir():
                checksums.quarantine(place / MANIFEST)
            made = {**wanted, "file": file.name, **checksums.record(file, _reporting(progress))}
            checksums.write_record(place / MANIFEST, made)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return file, damaged


def _find_stored(
    place: Path, wanted: dict[str, Any], progress: Progress
) -> tuple[Path | None, bool]:
    """The file with the tensors, if one was made from the `wanted` source; else whether it is damaged."""
    if not os.path.lexists(place / MANIFEST):
        return None, False
    manifest = checksums.read_record(place / MANIFEST)
    if manifest is None:
        return None, True
    if any(manifest.get(key) != value for key, value in wanted.items()):
        return None, False
    name = manifest.get("file")
    if is_plain_name(name) and checksums.is_whole(place / name, manifest, _reporting(progress)):
        return place / name, False
    return None, True


def _reporting(progress: Progress) -> Callable[[], None]:
    return lambda: progress("loading", None)


def _place(empty: Skeleton, folder: Path) -> Path:
    return quantized_place(folder, f"{empty.precision}-{empty.order}")


def _identity(empty: Skeleton, folder: Path) -> dict[str, Any]:
    """What the stored tensors depend on. Files count by name, size and time, as reading 6 GB would take long."""
    files = sorted({entry.file.resolve() for entry, _ in empty.source.values()})
    config = hashlib.sha256((folder / model_files.CONFIG).read_bytes()).hexdigest()
    return {
        "format": FORMAT,
        "precision": empty.precision,
        "order": empty.order,
        "dtype": str(empty.dtype).removeprefix("torch."),
        "bitsandbytes": "" if empty.precision == "int4" else version("bitsandbytes"),
        "config": config,
        "source": [
            [file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files
        ],
    }


def _read(file: Path, empty: Skeleton) -> None:
    """Gives the model its tensors, as views of the mapped file."""
    reader = Reader(keep_open=True)
    for name in empty.tensors:
        with gate, torch.inference_mode():
            empty.put(name, reader.read(file, name))
    with gate:
        del reader


class _Writer:
    """Writes a safetensors file one tensor after the other.

    The library's own writer wants all of them at once, which would double the memory. The header comes first in
    the file, so room is left for it.
    """

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        self._file = file
        room = 8 + sum(len(name.encode()) + ENTRY_BYTES for name in names)
        self._start = -(-room // 4096) * 4096
        self._header: dict[str, Any] = {}
        self._end = 0

    def __enter__(self) -> _Writer:
        self._stream = self._file.open("xb")
        self._stream.seek(self._start)
        return self

    def add(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.detach().cpu().contiguous()
        self._add(name, DTYPES[tensor.dtype], list(tensor.shape), tensor.view(-1).view(torch.uint8))
        # The format allows no holes, but tensors that nobody reads.
        if rest := -self._end % ALIGNMENT_BYTES:
            padding = torch.zeros(rest, dtype=torch.uint8)
            self._add(f"padding.{len(self._header)}", "U8", [rest], padding)

    def _add(self, name: str, dtype: str, shape: list[int], data: torch.Tensor) -> None:
        offsets = [self._end, self._end + data.numel()]
        self._header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        self._stream.write(data.numpy().data)
        self._end = offsets[1]

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._stream:
            if kind is None:
                header = json.dumps(self._header).encode().ljust(self._start - 8)
                self._stream.seek(0)
                self._stream.write(len(header).to_bytes(8, "little") + header)
                self._stream.flush()
                os.fsync(self._stream.fileno())
