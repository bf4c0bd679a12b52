"""The packed form of a model: linear layers in 4 bits, the table of embeddings in 8.

It is what ONNX Runtime's MatMulNBits computes with, so the graph (model.onnx, written by `engines/onnx/graph.py`)
refers to the bytes of model.safetensors, which exist once and are mapped. For a linear layer NAME with N outputs and K
inputs the file has

    NAME.weight   (N, K / 2) uint8: of two inputs the first in the lower half
    NAME.scales   (N, K / G) float32, which MatMulNBits takes as they are, so that they stay mapped
    NAME.middles  (N, K / G) bfloat16

where G inputs share a scale: 32 in small models, 64 in large ones. A weight is (q - 8) * scale + middle, q from 0 to
15. A table is (rows, columns) uint8 with scales (rows,) bfloat16, and its weights are (q - 128) * scale. All else is
bfloat16 or float32. Neighbours that the graph multiplies with as one matrix (queries, keys and values; gate and up) lie
next to each other.

Imports neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

INPUTS_PER_SCALE = 32  # inputs that share a scale, in small models
GRAPH = "model.onnx"
WEIGHTS = "model.safetensors"
# In config.json of such a model. `version` changes when older files cannot be read any more.
DESCRIPTION = {"linear": "int4", "embeddings": "int8", "version": 2}

# Of safetensors' kinds of numbers, the bits of each.
KINDS = {"U8": "<u1", "I8": "<i1", "BF16": "<u2", "F16": "<f2", "F32": "<f4"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its name, kind ("U8", "BF16", …) and shape, where in the file its bytes are, and those.

    bfloat16 has no type in NumPy, so its data are the 16 bits of each number; see `as_float`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: Any = None  # an Array; none where only a place in a file is planned
    offset: int = 0


def write_tensors(
    file: Path, tensors: Iterable[Tensor], data: Iterable[Array] | None = None
) -> None:
    """Writes a safetensors file whose data lie in this order; safetensors' own writer sorts by name.

    `data` are the arrays of tensors without, one after the other, so that not all of them are in memory at once.
    """
    from jupyter_sc2.runtime.own_numpy import np

    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * np.dtype(KINDS[tensor.kind]).itemsize
        begin, end = end, end + size
        header[tensor.name] = {
            "dtype": tensor.kind,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    unfinished = file.with_name(file.name + ".part")
    with unfinished.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in (tensor.data for tensor in tensors) if data is None else data:
            stream.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    os.replace(unfinished, file)


def map_file(file: Path) -> mmap:
    """The bytes of a file that is not empty, read from the disk when they are looked at."""
    with file.open("rb") as opened:
        return mmap(opened.fileno(), 0, access=ACCESS_READ)


def read_tensors(file: Path, mapped: mmap | None = None) -> dict[str, Tensor]:
    """All tensors of these kinds in a safetensors file, by name, as views of the mapped file."""
    from jupyter_sc2.runtime.own_numpy import np

    data = np.frombuffer(map_file(file) if mapped is None else mapped, np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in KINDS:
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        view = data[begin:end].view(KINDS[entry["dtype"]]).reshape(shape)
        tensors[name] = Tensor(name, entry["dtype"], shape, view, begin)
    return tensors


def as_float(bits: Array) -> Floats:
    """bfloat16 numbers, given as 16 bits each, in float32."""
    from jupyter_sc2.runtime.own_numpy import np

    whole: Floats = (bits.astype(np.uint32) << 16).view(np.float32)
    return whole


def parts(name: str) -> tuple[str, str]:
    """The names of the scales and of the middles that belong to the packed tensor `name`."""
    stem = name.removesuffix("weight")
    return f"{stem}scales", f"{stem}middles"


def unpacked(weight: Array, scales: Floats, middles: Floats | None) -> Floats:
    """The weights (N, K) of a linear layer, or, without middles, (rows, columns) of the table."""
    from jupyter_sc2.runtime.own_numpy import np

    if middles is None:
        full = (weight.astype(np.float32) - 128) * scales[:, None]
    else:
        levels = np.stack([weight & 15, weight >> 4], axis=-1).reshape(*scales.shape, -1)
        full = (levels.astype(np.float32) - 8) * scales[..., None] + middles[..., None]
    whole: Floats = full.reshape(len(weight), -1)
    return whole
