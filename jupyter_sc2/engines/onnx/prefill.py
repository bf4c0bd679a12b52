"""Reading a prompt with weights in 8 bits: three to five times as many tokens a second as with those in 4.

ONNX Runtime's product for weights in 4 bits is made for few tokens. Where the processor multiplies integers of 8 bits
(VNNI, AMX, dot products of Arm), long prompts are read sooner with weights and activations in 8 bits: each output of a
layer has a scale, and each token. The weights are computed from the packed ones (models/packed.py), kept on the disk,
and mapped by a graph of their own, which ends at the keys and values of the last layer: what follows the last token of
a prompt is computed as always.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.onnx.graph import OWN, Graph, value
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cache_dir import cache_folder, quantized_place
from jupyter_sc2.models.kept import Kept, keep_newest
from jupyter_sc2.models.packed import (
    GRAPH,
    WEIGHTS,
    Tensor,
    as_float,
    map_file,
    parts,
    read_tensors,
    unpacked,
    write_tensors,
)
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.hardware import free_memory, usable_cores
from jupyter_sc2.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    from jupyter_sc2.runtime.own_numpy import np

logger = logging.getLogger(__name__)

FORMAT = 2  # raised whenever the same packed weights give other bytes
# Layers that the graph multiplies with as one matrix: the first, and those behind it in the same matrix.
JOINED = {"self_attn.q_proj": ("k_proj", "v_proj"), "mlp.gate_proj": ("up_proj",)}
# Fewer bytes of weights are read quickly as they are.
MIN_BYTES = 64 << 20
# Each environment has its own copy of the embedded model.
MAX_MODELS = 4
# Weights that are rounded at a time.
ROUNDED_AT_ONCE = 1 << 20
# A model of one product, by which a processor shows that it adds up products of 8 bits without an overflow.
PROBE = "product.onnx"
PROBED = 64  # numbers in each row of it


class Prefill:
    """What reads prompts for the packed model in `folder`: its embeddings, and its weights in 8 bits that are kept.

    `runtime` is the module onnxruntime.
    """

    def __init__(self, runtime: Any, folder: Path, kept: Kept) -> None:
        table = "model.embed_tokens.weight"
        tensors = read_tensors(folder / WEIGHTS)
        self._levels, self._scales = tensors[table].data, tensors[parts(table)[0]].data
        self.runtime, self._kept = runtime, kept
        self._mapped: mmap.mmap | None = None
        self._weights: dict[str, Any] = {}

    def embeddings(self, ids: Sequence[int]) -> Floats:
        """(T, hidden) of T tokens, as the graph for decoding computes them."""
        rows = list(ids)
        return unpacked(self._levels[rows], as_float(self._scales[rows]), None)

    def open_session(self, options: Any) -> Any:
        """An InferenceSession that computes with the weights as they lie in the file; None if that is damaged."""
        try:
            if self._mapped is None:
                if not self._kept.is_whole():
                    self._kept.discard()
                    return None
                self._map(self._kept.place / WEIGHTS)
            # The product takes what it needs of a weight at a time in the processor's own order, which is slower by a
            # third at most than a copy of all of it in that order.
            options.add_session_config_entry("session.disable_prepacking", "1")
            for name, weight in self._weights.items():
                options.add_initializer(name, weight)
            return self.runtime.InferenceSession(
                str(self._kept.place / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except Exception:  # it raises a dozen classes
            logger.debug("Weights in 8 bits cannot be loaded", exc_info=True)
            return None

    def _map(self, file: Path) -> None:
        mapped = map_file(file)
        value_of = self.runtime.OrtValue.ortvalue_from_numpy
        self._weights = {
            tensor.name: value_of(tensor.data)
            for tensor in read_tensors(file, mapped).values()
            if tensor.kind == "I8"
        }
        self._mapped = mapped

    def give_back_memory(self) -> None:
        """Takes the weights out of the memory of the process; they stay in the system's cache of files."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError):
                self._mapped.madvise(mmap.MADV_DONTNEED)


def make(
    runtime: Any, folder: Path, progress: Progress = lambda state, share: None
) -> Prefill | None:
    """Of the packed model in `folder`. Its weights are written if need be, and checked when they are first used.

    None where reading would not be quicker, or there is no room. `runtime` is the module onnxruntime.
    """
    status, free = (folder / WEIGHTS).stat(), free_memory()
    size = 2 * status.st_size
    if size < MIN_BYTES or (free is not None and free < size):
        return None
    source = {"format": FORMAT, "source": [status.st_size, status.st_mtime_ns]}
    place = cache_folder() / "prefill" / quantized_place(folder, "int8").name
    kept = Kept(place, source, (GRAPH, WEIGHTS))

    def is_unread(name: str) -> bool:
        return name == WEIGHTS

    try:
        if not adds_exactly(runtime):
            return None
        if not kept.is_whole(progress, is_unread):
            kept.make(lambda part: _write(folder, part, progress), size, progress, is_unread)
            keep_newest(place.parent, MAX_MODELS)
    # No room, no package onnx, or a model of another kind.
    except (OSError, ImportError, ModelLoadError):
        logger.debug("Weights in 8 bits cannot be kept", exc_info=True)
        return None
    with contextlib.suppress(OSError):  # a folder that may only be read
        os.utime(place)
    return Prefill(runtime, folder, kept)


def adds_exactly(runtime: Any) -> bool:
    """Whether this processor multiplies unsigned with signed numbers of 8 bits and adds them up without an overflow.

    One that does not (AVX2 without VNNI) would be no quicker, either. Raises OSError.
    """
    file = cache_folder() / PROBE
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, _probe().SerializeToString())
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception:  # damaged; it raises a dozen classes
        file.unlink()
        return False
    (product,) = session.run(None, {"levels": np.full((PROBED, PROBED), 255, np.uint8)})
    return bool((product == PROBED * 255 * 127).all())


def _probe() -> onnx.ModelProto:
    """255 times 127, added up."""
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.full((PROBED, PROBED), 127, np.int8), "weight")
    node = helper.make_node("MatMulInteger", ["levels", "weight"], ["product"])
    inputs = [value("levels", "UINT8", ["rows", PROBED])]
    outputs = [value("product", "INT32", ["rows", PROBED])]
    return helper.make_model(
        helper.make_graph([node], "product", inputs, outputs, [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


# The weights


def _write(folder: Path, part: Path, progress: Progress) -> None:
    tensors = read_tensors(folder / WEIGHTS)
    planned = list(_planned(tensors))
    with background.pool(usable_cores()) as pool:

        def arrays() -> Iterator[Any]:
            scales: Any = None
            for number, tensor in enumerate(planned):
                if tensor.data is not None:
                    yield tensor.data
                elif tensor.name.endswith(".scales"):
                    yield scales
                else:
                    levels, scales = in_eight_bits(tensors, tensor.name, pool)
                    yield levels
                progress("loading", number / len(planned))

        write_tensors(part / WEIGHTS, planned, arrays())
    config = json.loads((folder / "config.json").read_text())
    graph = _PrefillGraph(config, read_tensors(part / WEIGHTS)).build()
    atomic_write(part / GRAPH, graph.SerializeToString())


def _planned(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """What is written: of a matrix, levels (in, out) and scales (out,), of all that are one; the rest as it is."""
    behind = {name for names in JOINED.values() for name in names}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if not name.startswith("model.layers."):
            continue
        if kind == "weight" and f"{layer}.scales" in tensors:
            if layer.rpartition(".")[2] in behind:
                continue
            rows = sum(tensors[f"{one}.weight"].shape[0] for one in joined(layer))
            yield Tensor(name, "I8", (2 * tensor.shape[1], rows))
            yield Tensor(f"{layer}.scales", "F32", (rows,))
        elif kind not in ("scales", "middles"):
            yield Tensor(name, tensor.kind, tensor.shape, tensor.data)


def joined(layer: str) -> list[str]:
    """This layer, and those that the graph multiplies with in the same matrix."""
    for name, others in JOINED.items():
        if layer.endswith(name):
            module = layer.rpartition(".")[0]
            return [layer, *(f"{module}.{other}" for other in others)]
    return [layer]


def in_eight_bits(
    tensors: Mapping[str, Tensor], name: str, pool: Any, factors: Floats | None = None
) -> tuple[Any, Floats]:
    """Levels (in, out) int8 and scales (out,) of the layer whose weight has this name, and of those joined to it.

    With factors (in,) of the weights that are multiplied by them.
    """
    packed = [
        [tensors[part].data for part in (f"{layer}.weight", *parts(f"{layer}.weight"))]
        for layer in joined(name.removesuffix(".weight"))
    ]
    weight, scales, middles = (np.concatenate(of_all) for of_all in zip(*packed, strict=True))
    rows, columns = len(weight), 2 * weight.shape[1]
    levels = np.empty((columns, rows), np.int8)
    steps = np.empty(rows, np.float32)
    at_once = max(1, ROUNDED_AT_ONCE // columns)

    def block(first: int) -> None:
        here = slice(first, first + at_once)
        full = unpacked(weight[here], scales[here], as_float(middles[here]))
        if factors is not None:
            full *= factors
        step = np.maximum(np.abs(full).max(1) / 127, np.float32(1e-30))
        full /= step[:, None]
        steps[here] = step
        levels[:, here] = np.rint(full, out=full).T

    list(pool.map(block, range(0, rows, at_once)))
    return levels, steps


class EightBits(Graph):
    """It multiplies with weights and activations in 8 bits."""

    def _layers(self) -> range:
        self._constant("one", 1, np.float32)
        self._constant("middle_level", 128, np.uint8)
        self._constant("most", 127, np.float32)
        self._constant("last_axis", [-1])
        return range(self._config["num_hidden_layers"])

    def _linear(self, name: str, layers: Sequence[str], x: str) -> str:
        levels, steps = self._rounding(x)
        weight, scales = f"{layers[0]}.weight", f"{layers[0]}.scales"
        for constant in (weight, scales):
            self._stored(constant, [constant])
        product = self._node(
            "MatMulIntegerToFloat",
            [levels, weight, "one", scales, "middle_level"],
            f"{name}.product",
            domain=OWN,
        )
        scaled = self._node("Mul", [product, steps], f"{name}.scaled")
        if f"{layers[0]}.bias" not in self._tensors:
            return scaled
        shape = self._tensors[scales].shape
        bias = self._full(f"{name}.bias", [f"{layer}.bias" for layer in layers], shape)
        return self._node("Add", [scaled, bias], f"{name}.result")

    def _rounding(self, x: str) -> tuple[str, str]:
        """The levels (T, K) uint8 of x, around 128, and their steps (T, 1); of a row of zeros the step is 0."""
        sizes = self._node("Abs", [x], f"{x}.sizes")
        largest = self._node("ReduceMax", [sizes, "last_axis"], f"{x}.largest", keepdims=1)
        per_unit = self._node("Div", ["most", largest], f"{x}.per_unit")
        scaled = self._node("Mul", [x, per_unit], f"{x}.scaled")
        levels = self._node("QuantizeLinear", [scaled, "one", "middle_level"], f"{x}.levels")
        return levels, self._node("Div", [largest, "most"], f"{x}.steps")


class _PrefillGraph(EightBits):
    """It takes the embeddings of tokens, and all else that the graph for decoding takes but ids and rows."""

    def build(self) -> onnx.ModelProto:
        states, block = "states", ""
        *layers, last = self._layers()
        for layer in layers:
            states, block = self._layer(layer, states, block)
        self._attend(last, states, block)
        return self._model([value("states", "FLOAT", ["tokens", self._hidden])], [])
