"""Reading a prompt with weights in 8 bits: three to five times as many tokens a second as with those in 4.

ONNX Runtime's product for weights in 4 bits is made for few tokens. Where the processor multiplies integers of 8 bits,
long prompts are read sooner with weights and activations in 8 bits (eight_bits.py). The weights are mapped by a graph
of their own, which ends at the keys and values of the last layer: what follows the last token of a prompt is computed
as always.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.onnx.eight_bits import (
    JOINED,
    EightBits,
    in_eight_bits,
    joined,
    keep,
    size_in_eight_bits,
)
from jupyter_sc2.engines.onnx.graph import value
from jupyter_sc2.models.kept import Kept
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
from jupyter_sc2.runtime.hardware import usable_cores
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
# Fewer bytes of weights are read quickly as they are.
MIN_BYTES = 64 << 20


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
    size = size_in_eight_bits(folder)
    if size < MIN_BYTES:
        return None
    kept = keep(
        runtime,
        folder,
        "prefill",
        lambda part: _write(folder, part, progress),
        version=FORMAT,
        memory=size,
        progress=progress,
        is_unread=lambda place: True,
    )
    return Prefill(runtime, folder, kept) if kept else None


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


class _PrefillGraph(EightBits):
    """It takes the embeddings of tokens, and all else that the graph for decoding takes but ids and rows."""

    def build(self) -> onnx.ModelProto:
        states, block = "states", ""
        last = self._config["num_hidden_layers"] - 1
        for layer in range(last):
            states, block = self._layer(layer, states, block)
        self._attend(last, states, block)
        return self._model([value("states", "FLOAT", ["tokens", self._hidden])], [])
