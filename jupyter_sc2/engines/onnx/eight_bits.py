"""Weights and activations in 8 bits: what the two ways to compute with them share (prefill.py, int8.py).

Each output of a layer has a scale, and each token. ONNX Runtime multiplies so where the processor has instructions
for it (VNNI, AMX, dot products of Arm). The weights are computed from the packed ones (models/packed.py) and kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.onnx.graph import OWN, Graph, value
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cache_dir import cache_folder, quantized_place
from jupyter_sc2.models.kept import Kept, keep_newest
from jupyter_sc2.models.packed import GRAPH, WEIGHTS, Tensor, as_float, parts, unpacked
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.hardware import free_memory
from jupyter_sc2.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    from jupyter_sc2.runtime.own_numpy import np

logger = logging.getLogger(__name__)

# Layers that the graph multiplies with as one matrix: the first, and those behind it in the same matrix.
JOINED = {"self_attn.q_proj": ("k_proj", "v_proj"), "mlp.gate_proj": ("up_proj",)}
# Each environment has its own copy of the embedded model.
MAX_MODELS = 4
# Weights that are rounded at a time.
ROUNDED_AT_ONCE = 1 << 20
# A model of one product, by which a processor shows that it adds up products of 8 bits without an overflow.
PROBE = "product.onnx"
PROBED = 64  # numbers in each row of it


def keep(
    runtime: Any,
    folder: Path,
    name: str,
    write: Callable[[Path], None],
    *,
    version: int,
    memory: int,
    progress: Progress,
    is_unread: Callable[[Path], bool],
) -> Kept | None:
    """The graph and the weights that `write` makes of the packed model in `folder`, in the cache's folder `name`.

    They are written if need be, again with another `version`. None where the processor is no quicker with them, or
    there is no room, of which `write` takes so many bytes of `memory`. The weights at a place that `is_unread` are not
    compared.
    """
    status, free = (folder / WEIGHTS).stat(), free_memory()
    if free is not None and free < memory:
        return None
    source = {"format": version, "source": [status.st_size, status.st_mtime_ns]}
    place = cache_folder() / name / quantized_place(folder, "int8").name
    kept = Kept(place, source, (GRAPH, WEIGHTS))

    def unread(file: str) -> bool:
        return file == WEIGHTS and is_unread(place)

    try:
        if not adds_exactly(runtime):
            return None
        if not kept.is_whole(progress, unread):
            kept.make(write, size_in_eight_bits(folder), progress, unread)
            keep_newest(place.parent, MAX_MODELS)
    # No room, no package onnx, or a model of another kind.
    except (OSError, ImportError, ModelLoadError):
        logger.debug("Weights in 8 bits cannot be kept", exc_info=True)
        return None
    with contextlib.suppress(OSError):  # a folder that may only be read
        os.utime(place)
    return kept


def size_in_eight_bits(folder: Path) -> int:
    """Bytes of the packed model in `folder` in 8 bits."""
    return 2 * (folder / WEIGHTS).stat().st_size


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

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__(config, tensors)
        self._constant("one", 1, np.float32)
        self._constant("middle_level", 128, np.uint8)
        self._constant("most", 127, np.float32)
        self._constant("last_axis", [-1])

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
