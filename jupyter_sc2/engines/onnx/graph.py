"""Writes the graph that ONNX Runtime computes a packed model with: model.onnx, beside the weights that it refers to.

    python -m jupyter_sc2.engines.onnx.graph FOLDER

It takes ids and what they see, and keys and values in buffers that are input and output at once; engine.py says
what goes in and comes out. The operators are ONNX's and those of ONNX Runtime's own domain, com.microsoft, as its
documentation of contributed operators describes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import PACKED
from jupyter_sc2.models.packed import GRAPH, INPUTS_PER_SCALE, WEIGHTS, Tensor, parts, read_tensors
from jupyter_sc2.runtime.atomic_write import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    from jupyter_sc2.runtime.own_numpy import np

KINDS = ("llama", "starcoder2")
OPSET = 18
IR_VERSION = 9  # of the file's format; ONNX Runtime 1.23 reads up to 11
OWN = "com.microsoft"
# Multiply with activations in 8 bits: the quickest that MatMulNBits has on a CPU.
ACCURACY_LEVEL = 4
# Sums of groups are products with a matrix of zeros and ones, which is quicker than a sum where that matrix is small.
MAX_SUMMED_BY_PRODUCT = 2048


def check_onnx() -> None:
    """Raises ModelLoadError where the package `onnx` is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ModelLoadError(
            "The package onnx is not installed, which writes the graph of a model for ONNX Runtime: "
            "pip install onnx."
        ) from error


def write_graph(folder: Path) -> None:
    """Writes `folder`/model.onnx for the packed model that is there. Raises ModelLoadError."""
    check_onnx()
    config = json.loads((folder / "config.json").read_text())
    if PACKED not in config or config["model_type"] not in KINDS:
        raise ModelLoadError(f"{folder} is not a packed model of the kind {' or '.join(KINDS)}.")
    graph = Graph(config, read_tensors(folder / WEIGHTS)).build()
    atomic_write(folder / GRAPH, graph.SerializeToString())


def value(name: str, kind: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output of a graph."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)


def rope_theta(config: dict[str, Any]) -> float:
    """The base of the rotary embedding's frequencies."""
    return float((config.get("rope_parameters") or {}).get("rope_theta") or 10000.0)


def rotations(theta: float, head_size: int, positions: int) -> tuple[Any, Any]:
    """The graph's tables of the rotary embedding: cosines and sines (positions, head_size / 2)."""
    frequencies = theta ** (np.arange(0, -head_size, -2) / head_size)
    angles = np.arange(positions)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class Graph:
    weights = WEIGHTS  # the file beside it that it refers to

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._config = config
        self._tensors = tensors
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._hidden: int = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self._key_heads: int = config["num_key_value_heads"]
        self.head_size: int = config.get("head_dim") or self._hidden // self._heads
        self._epsilon: float = config.get("rms_norm_eps") or config["norm_epsilon"]
        projected = (self._heads + 2 * self._key_heads) * self.head_size
        self._constant("qkv_shape", [1, -1, projected])
        self._constant("attended_shape", [-1, self._heads * self.head_size])

    @cached_property
    def _group(self) -> int:
        """Inputs that share a scale."""
        weight = self._tensors["model.layers.0.self_attn.q_proj.weight"]
        scales = self._tensors.get("model.layers.0.self_attn.q_proj.scales")
        return 2 * weight.shape[1] // scales.shape[1] if scales else INPUTS_PER_SCALE

    def build(self) -> onnx.ModelProto:
        states, block = self._embed(), ""
        for layer in range(self._config["num_hidden_layers"]):
            states, block = self._layer(layer, states, block)
        normed, _ = self._norm("model.norm", block, states)
        self._head(self._node("Gather", [normed, "rows"], "wanted", axis=0))
        inputs = [value("ids", "INT64", ["tokens"]), value("rows", "INT64", ["rows"])]
        outputs = [value("logits", "FLOAT", ["rows", self._config["vocab_size"]])]
        return self._model(inputs, outputs)

    def _model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The model of the nodes so far, with these inputs and outputs and those that attention takes and gives."""
        from onnx import helper

        size = self.head_size
        first, *more = inputs
        inputs = [
            first,
            value("positions", "INT64", [1, "tokens"]),
            value("last", "INT32", [1]),
            value("total", "INT32", []),
            value("attention_bias", "FLOAT", [1, 1, "tokens", "length"]),
            *more,
            value("cos", "FLOAT", ["positions", size // 2]),
            value("sin", "FLOAT", ["positions", size // 2]),
        ]
        outputs = [*outputs]
        for layer in range(self._config["num_hidden_layers"]):
            shape: list[int | str] = [1, self._key_heads, "capacity", size]
            for part in ("keys", "values"):
                inputs.append(value(f"{part}.{layer}", "FLOAT", shape))
                outputs.append(value(f"new_{part}.{layer}", "FLOAT", shape))
        graph = helper.make_graph(
            self._nodes, "packed", inputs, outputs, list(self._initializers.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(OWN, 1)],
            ir_version=IR_VERSION,
            producer_name="jupyter-sc2",
        )

    # The parts of the model

    def _embed(self) -> str:
        table, scales = "model.embed_tokens.weight", parts("model.embed_tokens.weight")[0]
        self._stored("table", [table])
        levels = self._node(
            "Cast", [self._node("Gather", ["table", "ids"], "levels")], "level", to=1
        )
        self._constant("zero_level", 128, np.float32)
        centered = self._node("Sub", [levels, "zero_level"], "centered")
        # Of each row one scale, as a column.
        self._full("row_scales", [scales], shape=(self._config["vocab_size"], 1))
        of_rows = self._node("Gather", ["row_scales", "ids"], "their_scales")
        return self._node("Mul", [centered, of_rows], "embedded")

    def _head(self, states: str) -> None:
        table, row_scales = "model.embed_tokens.weight", "row_scales"
        if "lm_head.weight" in self._tensors:
            table, row_scales = "lm_head.weight", "head_row_scales"
            scales, middles = parts(table)
            if middles in self._tensors:
                self._node("Identity", [self._linear("lm_head", ["lm_head"], states)], "logits")
                return
            self._full(row_scales, [scales], shape=(self._config["vocab_size"], 1))
        rows, groups = self._config["vocab_size"], self._hidden // self._group
        # The bytes of the table in the shape that a matrix has.
        self._stored("head", [table], shape=(rows, groups, self._group))
        self._constant("scale_shape", [rows, groups])
        self._node("Expand", [row_scales, "scale_shape"], "head_scales")
        self._node(
            "MatMulNBits",
            [states, "head", "head_scales"],
            "logits",
            domain=OWN,
            K=self._hidden,
            N=rows,
            bits=8,
            block_size=self._group,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _layer(self, layer: int, states: str, block: str) -> tuple[str, str]:
        """Of the states and the block that is to be added to them, the same after this layer."""
        name = f"model.layers.{layer}."
        flat, states = self._attend(layer, states, block)
        attended = self._linear(f"{name}attention", [f"{name}self_attn.o_proj"], flat)
        normed, states = self._norm(f"{name}post_attention_layernorm", attended, states)
        if f"{name}mlp.c_fc.weight" in self._tensors:
            wide = self._linear(f"{name}wide", [f"{name}mlp.c_fc"], normed)
            active = self._node("FastGelu", [wide], f"{name}inner", domain=OWN)
            return states, self._linear(f"{name}mlp", [f"{name}mlp.c_proj"], active)
        both = self._linear(f"{name}wide", [f"{name}mlp.gate_proj", f"{name}mlp.up_proj"], normed)
        gate, up = f"{name}gate", f"{name}up"
        self._node("Split", [both], [gate, up], axis=1, num_outputs=2)
        sigmoid = self._node("Sigmoid", [gate], f"{name}sigmoid")
        active = self._node("Mul", [gate, sigmoid], f"{name}silu")
        inner = self._node("Mul", [active, up], f"{name}inner")
        return states, self._linear(f"{name}mlp", [f"{name}mlp.down_proj"], inner)

    def _attend(self, layer: int, states: str, block: str) -> tuple[str, str]:
        """What the tokens of this layer attend to (T, heads * size), and the states with the block added."""
        name = f"model.layers.{layer}."
        normed, states = self._norm(f"{name}input_layernorm", block, states)
        projected = [f"{name}self_attn.{kind}_proj" for kind in "qkv"]
        qkv = self._linear(f"{name}qkv", projected, normed)
        window = self._config.get("sliding_window")
        self._node(
            "GroupQueryAttention",
            [
                self._node("Reshape", [qkv, "qkv_shape"], f"{name}qkv_3d"),
                *("", ""),
                *(f"keys.{layer}", f"values.{layer}", "last", "total", "cos", "sin"),
                *("positions", "attention_bias"),
            ],
            [f"{name}attended", f"new_keys.{layer}", f"new_values.{layer}"],
            domain=OWN,
            num_heads=self._heads,
            kv_num_heads=self._key_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=self.head_size**-0.5,
            local_window_size=window or -1,
        )
        flat = self._node("Reshape", [f"{name}attended", "attended_shape"], f"{name}attended_2d")
        return flat, states

    def _norm(self, name: str, block: str, states: str) -> tuple[str, str]:
        """The norm of the states with a block added, if there is one; and these states."""
        scales = [self._full(f"{name}.weight", [f"{name}.weight"])]
        if centered := f"{name}.bias" in self._tensors:
            scales.append(self._full(f"{name}.bias", [f"{name}.bias"]))
        kind = "LayerNormalization" if centered else "SimplifiedLayerNormalization"
        normed, summed = f"{name}.normed", f"{name}.states"
        if not block:
            settings: dict[str, Any] = {"axis": -1, "epsilon": self._epsilon, "stash_type": 1}
            self._node(kind, [states, *scales], normed, **settings)
            return normed, states
        self._node(
            f"Skip{kind}",
            [block, states, *scales],
            [normed, "", "", summed],
            domain=OWN,
            epsilon=self._epsilon,
        )
        return normed, summed

    def _linear(self, name: str, layers: Sequence[str], x: str) -> str:
        """The product of x (T, K) with these layers' weights, one below the other."""

        weights = [self._tensors[f"{layer}.weight"] for layer in layers]
        for layer in layers:
            if f"{layer}.scales" not in self._tensors:
                raise ModelLoadError(
                    f"{layer} is not packed, as its inputs are not a multiple of {self._group}: "
                    "there is no graph for such a model."
                )
        rows, columns = sum(w.shape[0] for w in weights), 2 * weights[0].shape[1]
        groups = columns // self._group
        self._stored(
            f"{name}.weight", [w.name for w in weights], shape=(rows, groups, self._group // 2)
        )
        scales, middles = ([f"{layer}.{part}" for layer in layers] for part in parts("weight"))
        self._stored(f"{name}.scales", scales, shape=(rows, groups))
        inputs = [x, f"{name}.weight", f"{name}.scales"]
        if f"{layers[0]}.bias" in self._tensors:
            bias = self._full(f"{name}.bias", [f"{layer}.bias" for layer in layers], shape=(rows,))
            inputs += ["", "", bias]
        product = self._node(
            "MatMulNBits",
            inputs,
            f"{name}.product",
            domain=OWN,
            K=columns,
            N=rows,
            bits=4,
            block_size=self._group,
            accuracy_level=ACCURACY_LEVEL,
        )
        # What the middles add: their products with the sums of each group of inputs.
        sums = self._sums(name, x, columns)
        full = self._full(f"{name}.middles", middles, shape=(rows, groups))
        return self._node("Gemm", [sums, full, product], f"{name}.result", transB=1)

    def _sums(self, name: str, x: str, columns: int) -> str:
        """The sums (T, groups) of each group of x (T, columns)."""
        groups = columns // self._group
        if columns > MAX_SUMMED_BY_PRODUCT:
            axis, shape = "last_axis", f"groups_of_{columns}"
            self._constant(axis, [-1])
            self._constant(shape, [-1, groups, self._group])
            grouped = self._node("Reshape", [x, shape], f"{name}.grouped")
            return self._node("ReduceSum", [grouped, axis], f"{name}.sums", keepdims=0)
        if f"sums_of_{columns}" not in self._initializers:
            matrix = np.repeat(np.eye(groups, dtype=np.float32), self._group, axis=0)
            self._constant(f"sums_of_{columns}", matrix, np.float32)
        return self._node("MatMul", [x, f"sums_of_{columns}"], f"{name}.sums")

    # What a graph is made of

    def _node(
        self,
        kind: str,
        inputs: list[str],
        outputs: str | list[str],
        domain: str = "",
        **settings: Any,
    ) -> str:
        """Adds a node; returns the name of its first output."""
        from onnx import helper

        names = [outputs] if isinstance(outputs, str) else outputs
        self._nodes.append(
            helper.make_node(kind, inputs, names, name=names[0], domain=domain, **settings)
        )
        return names[0]

    def _constant(self, name: str, value: Any, kind: Any = "int64") -> None:
        from onnx import numpy_helper

        self._initializers[name] = numpy_helper.from_array(np.array(value, kind), name)

    def _full(self, name: str, tensors: Sequence[str], shape: Sequence[int] = ()) -> str:
        """The same in float32, for tensors in bfloat16."""
        self._stored(f"{name}.bits", tensors, shape)
        return self._node("Cast", [f"{name}.bits"], name, to=1)

    def _stored(self, name: str, tensors: Sequence[str], shape: Sequence[int] = ()) -> None:
        """A constant whose bytes are those of these tensors of the file, which are neighbours."""
        import onnx

        found = [self._tensors[tensor] for tensor in tensors]
        for before, after in pairwise(found):
            if before.offset + before.data.nbytes != after.offset:
                raise ModelLoadError(
                    f"{before.name} and {after.name} are no neighbours in the file."
                )
        kinds = {
            "U8": onnx.TensorProto.UINT8,
            "BF16": onnx.TensorProto.BFLOAT16,
            "I8": onnx.TensorProto.INT8,
            "F32": onnx.TensorProto.FLOAT,
        }
        constant = onnx.TensorProto(name=name, data_type=kinds[found[0].kind])
        constant.dims.extend(shape or found[0].shape)
        constant.data_location = onnx.TensorProto.EXTERNAL
        where = {
            "location": self.weights,
            "offset": found[0].offset,
            "length": sum(tensor.data.nbytes for tensor in found),
        }
        for key, entry in where.items():
            constant.external_data.add(key=key, value=str(entry))
        self._initializers[name] = constant


if __name__ == "__main__":
    from jupyter_sc2.engines.onnx.packing import renew

    folder = Path(sys.argv[1])
    if json.loads((folder / "config.json").read_text())[PACKED].get("version", 1) == 1:
        renew(folder)
    write_graph(folder)
