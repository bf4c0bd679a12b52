"""StarCoder2 in `int4`: the original weights in the packed form, made once, without torch, and kept on the disk.

A weight is (level - 8) * scale + middle, and 64 inputs share scale and middle, which are fitted to the weights by least
squares, without data. Embeddings, and an output layer of their own, have 8 bits. A folder of the cache has what
models/packed.py describes, with the graph (see models/kept.py).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.onnx import graph
from jupyter_sc2.engines.onnx.packing import describe, in_order
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models.cache_dir import quantized_place
from jupyter_sc2.models.cards import Shape
from jupyter_sc2.models.files import Stored
from jupyter_sc2.models.kept import Kept
from jupyter_sc2.models.packed import (
    GRAPH,
    WEIGHTS,
    Tensor,
    as_float,
    parts,
    read_tensors,
    write_tensors,
)
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.hardware import usable_cores
from jupyter_sc2.runtime.progress import Progress

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

INPUTS_PER_SCALE = 64
NORMS = ("input_layernorm", "post_attention_layernorm")
LEVELS = 16
# Of a group's range, where the fit begins. What is cut off at the ends is rounded worse, the rest better.
RANGES = (1.0, 0.9, 0.8)
FIT_ROUNDS = 2
# Weights that are rounded at a time, so that they stay in a core's cache.
ROUNDED_AT_ONCE = 1 << 17
KINDS_OF_WEIGHTS = ("BF16", "F16", "F32")
FORMAT = 1  # raised whenever the same original gives other bytes
FILES = ("config.json", "tokenizer.json", GRAPH, WEIGHTS)


class CannotKeep(ModelLoadError):
    """There is no room, or no right, to keep the weights on the disk."""


def can_make(config: Mapping[str, Any]) -> bool:
    """Whether this is a StarCoder2 whose sizes fit the packed form."""
    shape = Shape.from_config(config)
    if shape is None or shape.packed or config["model_type"] != "starcoder2":
        return False
    inputs = (shape.hidden, shape.intermediate, shape.heads * shape.head_dim)
    return shape.head_dim % 16 == 0 and all(one % INPUTS_PER_SCALE == 0 for one in inputs)


def make(
    folder: Path,
    progress: Progress = lambda state, share: None,
    unread: Callable[[Path], bool] = lambda place: False,
) -> Path:
    """The folder of the packed form of the original weights in `folder`, made if there is none that still matches.

    `unread` says of such a folder that its weights will not be read, so that their checksum need not be compared.
    Raises ModelLoadError if the original cannot be read, CannotKeep if the result cannot be written.
    """
    stored, place = model_files.read_headers(folder), quantized_place(folder, "int4")
    for name in _expected(_shape(folder)):
        if name in stored and stored[name].dtype not in KINDS_OF_WEIGHTS:
            raise ModelLoadError(
                f"{stored[name].file} does not fit config.json: {name} has numbers of the kind {stored[name].dtype}, "
                "and weights are BF16, F16 or F32."
            )
    if not (folder / "tokenizer.json").is_file():
        raise ModelLoadError(
            f"{folder} has no tokenizer.json, and without its tokenizer a model cannot be used."
        )
    kept = Kept(place, _identity(folder, stored), FILES)

    def is_unread(name: str) -> bool:
        return name == WEIGHTS and unread(place)

    if kept.is_whole(progress, is_unread):
        return place
    size = sum(entry.elements for entry in stored.values()) * 5 // 8
    try:
        kept.make(lambda part: _write(folder, stored, part, progress), size, progress, is_unread)
    except OSError as error:
        raise CannotKeep(f"{place} cannot be written: {error.strerror or error}.") from error
    return place


def _write(folder: Path, stored: Mapping[str, Stored], part: Path, progress: Progress) -> None:
    graph.check_onnx()
    _write_weights(folder, stored, part / WEIGHTS, progress)
    config = model_files.read_config(folder)
    theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
    said = {
        "norm_epsilon": config.get("norm_epsilon", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    describe({**config, **said}, part)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, part / name)
    graph.write_graph(part)


def _identity(folder: Path, stored: Mapping[str, Stored]) -> dict[str, Any]:
    """What the result depends on. Weights count by name, size and time, as reading 6 GB would take long."""
    files = sorted({entry.file.resolve() for entry in stored.values()})
    return {
        "format": FORMAT,
        "config": hashlib.sha256((folder / model_files.CONFIG).read_bytes()).hexdigest(),
        "tokenizer": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "source": [
            [file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files
        ],
    }


# The tensors


def _write_weights(
    folder: Path, stored: Mapping[str, Stored], file: Path, progress: Progress
) -> None:
    expected = _expected(_shape(folder))
    model_files.check_shapes(expected, stored, folder)
    source = {part.name: name for name in expected for part in _parts(name, expected[name])}
    planned = in_order(part for name in expected for part in _parts(name, expected[name]))
    total, done = sum(stored[name].elements for name in expected), 0

    def arrays() -> Iterator[Array]:
        nonlocal done
        ready: dict[str, Array] = {}
        for part in planned:
            if part.name not in ready:
                name = source[part.name]
                ready |= _rounded(read_tensors(stored[name].file)[name], pool)
                done += stored[name].elements
                progress("loading", done / total)
            yield ready.pop(part.name)

    progress("loading", 0.0)
    with background.pool(usable_cores()) as pool:
        write_tensors(file, planned, arrays())


def _shape(folder: Path) -> Shape:
    shape = Shape.from_config(model_files.read_config(folder))
    assert shape is not None  # see can_make
    return shape


def _expected(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of StarCoder2's tensors."""
    hidden, queries = shape.hidden, shape.heads * shape.head_dim
    keys, wide = shape.kv_heads * shape.head_dim, shape.intermediate
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.c_fc": (wide, hidden),
        "mlp.c_proj": (hidden, wide),
    }
    norms = [f"model.layers.{layer}.{name}" for layer in range(shape.layers) for name in NORMS]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for layer in range(shape.layers):
        for name, sizes in matrices.items():
            found[f"model.layers.{layer}.{name}.weight"] = sizes
            if shape.bias != "none":
                found[f"model.layers.{layer}.{name}.bias"] = sizes[:1]
    for norm in (*norms, "model.norm"):
        found |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    if not shape.tied:
        found["lm_head.weight"] = (shape.vocab, hidden)
    return found


def _parts(name: str, sizes: tuple[int, ...]) -> list[Tensor]:
    """What a tensor becomes in the file: names, kinds and shapes, without data."""
    if len(sizes) == 1:
        return [Tensor(name, "F32", sizes)]
    rows, columns = sizes
    scales, middles = parts(name)
    if _has_8_bits(name):
        return [Tensor(name, "U8", sizes), Tensor(scales, "BF16", (rows,))]
    groups = columns // INPUTS_PER_SCALE
    return [
        Tensor(name, "U8", (rows, columns // 2)),
        Tensor(scales, "F32", (rows, groups)),
        Tensor(middles, "BF16", (rows, groups)),
    ]


def _has_8_bits(name: str) -> bool:
    return name in ("model.embed_tokens.weight", "lm_head.weight")


def _rounded(tensor: Tensor, pool: ThreadPoolExecutor) -> dict[str, Array]:
    """The data of what a tensor becomes, by their names."""
    import numpy as np

    if len(tensor.shape) == 1:
        return {tensor.name: _floats(tensor, slice(None))}
    rows, columns = tensor.shape
    at_once = max(1, ROUNDED_AT_ONCE // columns)
    quantize = quantize_int8 if _has_8_bits(tensor.name) else quantize_int4

    def block(first: int) -> tuple[Array, ...]:
        return quantize(_floats(tensor, slice(first, first + at_once)))

    names = [part.name for part in _parts(tensor.name, tensor.shape)]
    blocks = pool.map(block, range(0, rows, at_once))
    return dict(zip(names, map(np.concatenate, zip(*blocks, strict=True)), strict=True))


def _floats(tensor: Tensor, rows: slice) -> Floats:
    """The numbers of these rows."""
    import numpy as np

    if tensor.kind == "BF16":
        return as_float(tensor.data[rows])
    return np.asarray(tensor.data[rows], np.float32)


# Rounding


def quantize_int4(weight: Floats) -> tuple[Array, Floats, Array]:
    """Levels (out, in / 2) uint8, scales (out, in / 64), middles likewise in bfloat16, of some rows of a matrix."""
    groups = weight.reshape(-1, INPUTS_PER_SCALE)
    scale, middle = fit(groups)
    levels = _levels(groups, scale, middle).astype("uint8").reshape(weight.shape)
    sizes = (len(weight), -1)
    packed = levels[:, 0::2] | levels[:, 1::2] << 4
    return packed, scale.reshape(sizes), to_bfloat16(middle).reshape(sizes)


def fit(groups: Floats) -> tuple[Floats, Floats]:
    """Scales and middles (groups, 1) of weights (groups, 64); the middles as bfloat16 stores them.

    With given levels the best scale and middle are a straight line's through the weights, and with given scales the
    best levels are the nearest; so they are found in turn, from several beginnings, of which the best is taken.
    """
    import numpy as np

    low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    mean = groups.mean(1, keepdims=True)
    centred = groups - mean
    tiny = np.float32(1e-30)
    best = np.full_like(mean, np.inf)
    scale, middle = np.ones_like(mean), np.zeros_like(mean)
    for share in RANGES:
        step = np.maximum((high - low) * np.float32(share / (LEVELS - 1)), tiny)
        center = (low + high) / 2 + step / 2
        for _ in range(FIT_ROUNDS):
            levels = _levels(groups, step, center)
            level = levels.mean(1, keepdims=True)
            levels -= level
            spread = np.einsum("gi,gi->g", levels, levels)[:, None]
            slope = np.einsum("gi,gi->g", levels, centred)[:, None] / np.maximum(spread, tiny)
            step = np.where(slope > tiny, slope, step)  # not so where all weights are one
            center = mean + step * (LEVELS // 2 - level)
        center = as_float(to_bfloat16(center))
        error = _levels(groups, step, center)
        error -= LEVELS // 2
        error *= step
        error += center - groups
        loss = np.einsum("gi,gi->g", error, error)[:, None]
        better = loss < best
        best = np.where(better, loss, best)
        scale, middle = np.where(better, step, scale), np.where(better, center, middle)
    return scale, middle


def _levels(groups: Floats, scale: Floats, middle: Floats) -> Floats:
    """The nearest levels, from 0 to 15."""
    import numpy as np

    nearest = groups - middle
    nearest /= scale
    nearest += LEVELS // 2
    np.rint(nearest, out=nearest)
    return np.clip(nearest, 0, LEVELS - 1, out=nearest)


def quantize_int8(table: Floats) -> tuple[Array, Array]:
    """Levels (rows, columns) uint8 and scales (rows,) in bfloat16 of some rows of a table."""
    import numpy as np

    scales = to_bfloat16(np.abs(table).max(1) / 127)
    steps = np.maximum(as_float(scales), np.float32(1e-30))[:, None]
    levels = np.clip(np.rint(table / steps), -127, 127) + 128
    return levels.astype(np.uint8), scales


def to_bfloat16(numbers: Floats) -> Array:
    """The nearest bfloat16 numbers, as their 16 bits; of two that are as near the even one."""
    import numpy as np

    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
