"""A small model in 8 bits throughout: where the processor multiplies integers of 8 bits, the quickest for all passes.

The packed weights, in 4 bits, are rounded once more, to 8 bits with a scale for each output, and so are the activations
of each token. Some inputs of a layer are far larger than the others, which would leave these few levels. So inputs are
divided by factors, and the weights multiplied by them, as in SmoothQuant (Xiao et al. 2022): the factors of what a norm
gives are part of its weights, and those of what is multiplied with a gate are part of the layer before. They are taken
from what the model computes for a text of a few hundred tokens.

The result is a model of its own in the cache folder, which needs about as much memory as the packed one once that is
prepacked (prepacked.py).
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.onnx.eight_bits import (
    EightBits,
    in_eight_bits,
    joined,
    keep,
    size_in_eight_bits,
)
from jupyter_sc2.engines.onnx.graph import Graph, rope_theta, rotations, value
from jupyter_sc2.errors import ModelLoadError, in_one_line
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
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import usable_cores
from jupyter_sc2.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    from jupyter_sc2.runtime.own_numpy import np

FORMAT = 1  # raised whenever the same packed weights give other bytes
# Smaller ones are quick anyway. Of larger ones a pass over one token reads the weights, and those in 4 bits are fewer.
MIN_BYTES, MAX_BYTES = 32 << 20, 512 << 20
# Smaller sizes of inputs and weights count as this.
LEAST = 1e-5
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# What the factors are taken from.
TEXT = '''import numpy as np
import pandas as pd
import matplotlib.pyplot as plt
from sklearn.linear_model import LinearRegression

# Measurements of two stations, one row a day
df = pd.read_csv("data/measurements.csv", parse_dates=["date"])
df = df.dropna(subset=["temperature"]).set_index("date")
monthly = df.groupby([df.index.month, "station"])["temperature"].agg(["mean", "std"])
print(monthly.head(10))

fig, ax = plt.subplots(figsize=(8, 4))
for name, group in df.groupby("station"):
    ax.plot(group.index, group["temperature"].rolling(7).mean(), label=name)
ax.set_xlabel("Date")
ax.legend()
plt.show()


class Model:
    """Predicts the temperature from yesterday's."""

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = alpha
        self._fitted = LinearRegression()

    def fit(self, X, y):
        if len(X) != len(y):
            raise ValueError(f"{len(X)} rows, but {len(y)} values")
        self._fitted.fit(np.asarray(X).reshape(-1, 1), y)
        return self


x = df["temperature"].shift(1).to_numpy()[1:]
model = Model(alpha=0.5).fit(x, df["temperature"].to_numpy()[1:])
errors = [abs(a - b) for a, b in zip(x, model._fitted.predict(x.reshape(-1, 1)))]
print("mean error: %.2f" % (sum(errors) / len(errors)))
!ls -l data
SELECT station, AVG(temperature) FROM measurements WHERE year = 2020 GROUP BY station;
'''


def make(
    runtime: Any,
    folder: Path,
    progress: Progress = lambda state, share: None,
    is_stored: Callable[[Path], bool] = lambda made: False,
) -> Path | None:
    """The folder of the packed model in `folder` in 8 bits, which is written if need be.

    None where it would not be quicker, or there is no room. `runtime` is the module onnxruntime. Weights that
    `is_stored` are not compared, as they are not read.
    """
    if not MIN_BYTES <= (folder / WEIGHTS).stat().st_size <= MAX_BYTES:
        return None
    kept = keep(
        runtime,
        folder,
        "int8",
        lambda part: _write(runtime, folder, part),
        version=FORMAT,
        memory=2 * size_in_eight_bits(folder),
        progress=progress,
        is_unread=is_stored,
    )
    return kept.place if kept else None


# The model


def _write(runtime: Any, folder: Path, part: Path) -> None:
    mapped = map_file(folder / WEIGHTS)
    tensors = read_tensors(folder / WEIGHTS, mapped)
    config = json.loads((folder / "config.json").read_text())
    ids = Tokenizer(folder / "tokenizer.json").encode(TEXT)
    largest = _largest_inputs(runtime, config, tensors, mapped, ids)
    with background.pool(usable_cores()) as pool:
        factors = _factors(tensors, largest, pool)
        write_tensors(part / WEIGHTS, _rounded(tensors, factors, pool))
    graph = _Int8Graph(config, read_tensors(part / WEIGHTS)).build()
    atomic_write(part / GRAPH, graph.SerializeToString())


def _rounded(
    tensors: Mapping[str, Tensor], factors: Mapping[str, Floats], pool: Any
) -> Iterator[Tensor]:
    """All tensors of the model in 8 bits: of a matrix levels (in, out) and scales (out,)."""
    norms = {_norm_before(layer): of_inputs for layer, of_inputs in factors.items()}
    written = set()
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if name in (TABLE, HEAD) and parts(name)[1] not in tensors:
            scales = as_float(tensors[parts(name)[0]].data)
            if name == TABLE:
                yield tensor
                yield Tensor(parts(TABLE)[0], "F32", (len(scales), 1), scales[:, None])
            if name == HEAD or HEAD not in tensors:
                levels = (tensor.data.astype(np.int16) - 128).clip(-127, 127).astype(np.int8).T
                yield from _matrix("head", levels, scales)
        elif kind == "weight" and f"{layer}.scales" in tensors:
            if layer not in written:
                written.update(joined(layer))
                levels, scales = in_eight_bits(tensors, name, pool, factors.get(layer))
                after = factors.get(layer.replace("gate_proj", "down_proj"))
                if after is not None and layer.endswith("gate_proj"):
                    scales[len(after) :] /= after  # of up_proj, which is joined to it
                yield from _matrix("head" if name == HEAD else layer, levels, scales)
        elif kind not in ("scales", "middles"):
            full = as_float(tensor.data) if tensor.kind == "BF16" else tensor.data
            if layer in norms:
                full = full / norms[layer]
            yield Tensor(name, "F32", full.shape, np.ascontiguousarray(full, np.float32))


def _matrix(layer: str, levels: Any, scales: Floats) -> Iterator[Tensor]:
    yield Tensor(f"{layer}.weight", "I8", levels.shape, levels)
    yield Tensor(f"{layer}.scales", "F32", scales.shape, scales)


class _Int8Graph(EightBits):
    def _head(self, states: str) -> None:
        self._node("Identity", [self._linear("head", ["head"], states)], "logits")


# The factors


def _factors(
    tensors: Mapping[str, Tensor], largest: Mapping[str, Floats], pool: Any
) -> dict[str, Floats]:
    """By layer, what its inputs are divided by and its weights multiplied, given how large its inputs are."""

    def largest_weights(layer: str) -> Floats:
        weight, scales, middles = (
            tensors[name].data for name in (f"{layer}.weight", *parts(f"{layer}.weight"))
        )
        size: Floats = np.abs(unpacked(weight, scales, as_float(middles))).max(0)
        return size

    def factors(layer: str) -> Floats:
        weights = np.max([largest_weights(one) for one in joined(layer)], 0)
        found = np.sqrt(np.maximum(largest[layer], LEAST) / np.maximum(weights, LEAST))
        mean: Floats = found / np.exp(np.log(found).mean())
        return mean.astype(np.float32)

    return dict(zip(largest, pool.map(factors, largest), strict=True))


def _norm_before(layer: str) -> str:
    """The norm that gives the inputs of a layer; "" if none does."""
    block, _, name = layer.rsplit(".", 2)
    return {
        "q_proj": f"{block}.input_layernorm",
        "gate_proj": f"{block}.post_attention_layernorm",
        "c_fc": f"{block}.post_attention_layernorm",
    }.get(name, "")


def _largest_inputs(
    runtime: Any,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    file: mmap.mmap,
    ids: Sequence[int],
) -> dict[str, Floats]:
    """By layer, the largest size (K,) of each of its inputs, where the model reads these ids. Raises ModelLoadError."""
    graph = _Observed(config, tensors)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = usable_cores()
    count, size = len(ids), graph.head_size
    cosines, sines = rotations(rope_theta(config), size, count)
    empty = np.zeros((1, config["num_key_value_heads"], count, size), np.float32)
    inputs: dict[str, Any] = {
        "ids": np.array(ids, np.int64),
        "rows": np.array([count - 1], np.int64),
        "positions": np.arange(count)[None],
        "last": np.array([count - 1], np.int32),
        "total": np.array(count, np.int32),
        "attention_bias": np.zeros((1, 1, count, count), np.float32),
        "cos": cosines,
        "sin": sines,
    }
    for layer in range(config["num_hidden_layers"]):
        inputs |= {f"keys.{layer}": empty, f"values.{layer}": empty}
    model = graph.build_with(file).SerializeToString()
    try:
        with gate:
            session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            values = session.run(list(graph.observed.values()), inputs)
    except Exception as error:  # it raises a dozen classes
        raise ModelLoadError(f"ONNX Runtime cannot run the model: {in_one_line(error)}") from error
    return {layer: np.abs(v).max(0) for layer, v in zip(graph.observed, values, strict=True)}


class _Observed(Graph):
    """The packed model, which gives the inputs of its layers, too; with all constants in itself."""

    def build_with(self, file: mmap.mmap) -> onnx.ModelProto:
        model = self.build()
        self.observed: dict[str, str] = {}
        for layer in range(self._config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            self.observed[f"{name}self_attn.q_proj"] = f"{name}input_layernorm.normed"
            gated = f"{name}mlp.down_proj.weight" in self._tensors
            first = f"{name}mlp.gate_proj" if gated else f"{name}mlp.c_fc"
            self.observed[first] = f"{name}post_attention_layernorm.normed"
            if gated and f"{name}mlp.up_proj.bias" not in self._tensors:
                self.observed[f"{name}mlp.down_proj"] = f"{name}inner"
        model.graph.output.extend(
            value(output, "FLOAT", ["tokens", "size"]) for output in self.observed.values()
        )
        for constant in model.graph.initializer:
            if constant.external_data:
                place = {entry.key: entry.value for entry in constant.external_data}
                offset = int(place["offset"])
                constant.raw_data = file[offset : offset + int(place["length"])]
                constant.ClearField("external_data")
                constant.ClearField("data_location")
        return model
