"""Builds a torch module from a configuration and the tensors of a folder.

Of transformers only the model classes are used. Its `from_pretrained` sets the process's default dtype while it works,
loads with a pool of threads for which the interpreter waits at exit, draws progress bars into the user's cell, fills in
missing tensors at random, and quantizes only after the whole model is in memory. Here tensors are read and quantized
one by one, so the peak of memory stays near the final size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from jupyter_sc2.engines.torch.attention import ROW_BY_ROW
from jupyter_sc2.engines.torch.bnb_linear import (
    QuantizedLinear,
    bitsandbytes,
    quantized_linear,
    reads_tiles,
)
from jupyter_sc2.engines.torch.int4_linear import (
    Int8Embedding,
    Int8Head,
    bytes_in_tile,
    int4_linear,
)
from jupyter_sc2.errors import ModelLoadError, in_one_line
from jupyter_sc2.models import packed
from jupyter_sc2.models.cards import PACKED, QUANTIZED
from jupyter_sc2.models.files import Stored, check_layers, check_shapes
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import processor_has_bf16
from jupyter_sc2.runtime.progress import Progress

# The tensors of a model below this size are copied into memory. Larger models stay mapped: they load in a second, and
# kernels share their pages, but a mapped file that somebody overwrites in place kills the process that reads it.
COPY_BELOW_BYTES = 1 << 30


@dataclass(frozen=True)
class Skeleton:
    """A model without its weights, and where they come from. The names are those of the model's `state_dict`."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    precision: str
    order: str  # of 4-bit weights in memory: "rows", or that of a kernel for the CPU
    # The tensors of the model, on the meta device; tied ones under one name.
    tensors: Mapping[str, torch.Tensor]
    # The stored tensor for each of them, and its name in the folder.
    source: Mapping[str, tuple[Stored, str]]
    tied: Mapping[str, str]

    @cached_property
    def nbytes(self) -> int:
        """The bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Gives the model one of its tensors, which may be a view of a mapped file."""
        tensor = tensor.to(self.device)
        _assign(self.model, name, tensor.clone() if self.nbytes < COPY_BELOW_BYTES else tensor)

    def complete(self) -> nn.Module:
        """The model in eval mode, once all its tensors have been put there."""
        with gate, torch.inference_mode():
            for name, source in self.tied.items():
                _assign(self.model, name, _get(self.model, source))
            for module in self.model.modules():
                # Computed tables, such as the frequencies of rotary embeddings.
                for key, buffer in module.named_buffers(recurse=False):
                    module._buffers[key] = buffer.to(self.device)
                if isinstance(module, QuantizedLinear):
                    module.finalize()
            return self.model.eval().requires_grad_(False)


def skeleton(
    config: Mapping[str, Any],
    stored: Mapping[str, Stored],
    folder: Path,
    *,
    precision: str,
    device: torch.device,
) -> Skeleton:
    """The model that the files describe, in `precision`. Raises ModelLoadError if tensors are missing or do not fit."""
    model: Any = _empty_model(config, stored, folder)
    dtype = compute_dtype(precision, device)
    if PACKED in config and precision in QUANTIZED:
        raise ModelLoadError(
            f"{folder} is packed in 4 bits already, and can only be loaded as it is."
        )
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ROW_BY_ROW)
    tied = _tied(model)
    # A tied tensor has two names; some files store it under both, others under one of them.
    source = {tied.get(name, name): (entry, name) for name, entry in stored.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in _tensors(model) if name not in tied}
    check_shapes(expected, {name: entry for name, (entry, _) in source.items()}, folder)
    order = "rows"
    with gate, torch.inference_mode():
        if precision == "int4":
            order = f"tiles{_int4_tile(device)}"
            tied |= _replace_embeddings(model, dtype)
            _replace_linear_layers(model, lambda linear: int4_linear(linear, dtype))
        elif precision in QUANTIZED:
            bitsandbytes(precision)
            tiled = device.type == "cpu" and precision != "8bit" and reads_tiles()
            order = "tiled" if tiled else "rows"
            _replace_linear_layers(
                model, lambda linear: quantized_linear(linear, precision, tiled=tiled)
            )
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() and name in expected else tensor
            for name, tensor in _tensors(model)
            if name not in tied
        }
    source = {name: source[name] for name in expected}
    return Skeleton(model, device, dtype, precision, order, tensors, source, tied)


def stream_weights(
    skeleton: Skeleton, put: Callable[[str, torch.Tensor], None], progress: Progress
) -> None:
    """Reads the folder's tensors one by one, and calls `put` with those of the model, on the CPU or the device.

    A linear layer that is to be quantized is, and its parts are put instead of its weight. Some tensors are views of
    mapped files. Raises ModelLoadError for damaged files.
    """
    elements = {name: entry.elements for name, (entry, _) in skeleton.source.items()}
    # Quantized tensors are not views of the file, and the pages of an open file would count as this process's memory.
    reader = Reader(keep_open=skeleton.precision not in QUANTIZED)
    total, done = sum(elements.values()), 0
    progress("loading", 0.0)
    # In the order of the files, so that the disk is read from front to back.
    for name in sorted(elements, key=lambda name: (skeleton.source[name][0].file, name)):
        entry, file_name = skeleton.source[name]
        path, _, key = name.rpartition(".")
        module = skeleton.model.get_submodule(path)
        with gate, torch.inference_mode():
            tensor = reader.read(entry.file, file_name, is_packed=entry.packed)
            if (
                skeleton.precision in QUANTIZED
                and isinstance(module, QuantizedLinear)
                and key == "weight"
            ):
                tensor = tensor.to(device=skeleton.device, dtype=skeleton.dtype)
                for part, quantized in module.quantize(tensor).items():
                    put(f"{path}.{part}", quantized)
                del quantized
            else:
                if tensor.is_floating_point():
                    tensor = tensor.to(device=skeleton.device, dtype=skeleton.dtype)
                put(name, tensor)
            del tensor  # in here, see gate
        if done * 50 // total != (done + elements[name]) * 50 // total:
            progress("loading", (done + elements[name]) / total)
        done += elements[name]
    with gate:
        del reader


def architecture(config: Mapping[str, Any], folder: Path) -> tuple[type[nn.Module], Any]:
    """The model class for a config.json, and the configuration as an object. Raises ModelLoadError.

    Only classes of transformers itself are used; code that comes with the weights is never run.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config["model_type"]
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if class_name is None or kind not in CONFIG_MAPPING:
        if "auto_map" in config:
            raise ModelLoadError(
                f"{folder} needs Python code of its own to run (auto_map), which is never executed."
            )
        raise ModelLoadError(
            f"{folder} has a model of type {kind!r}, with which the installed transformers cannot generate text."
        )
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method", "unknown")
        raise ModelLoadError(
            f"{folder} is already quantized ({method}): use the original weights and set the precision."
        )
    try:
        settings = CONFIG_MAPPING[kind].from_dict(
            {key: value for key, value in config.items() if not _is_irrelevant(key)}
        )
    except Exception as error:  # transformers checks configurations, with errors of several types
        raise ModelLoadError(
            f"{folder}/config.json is not a configuration of {kind}: {in_one_line(error)}"
        ) from error
    croppable = {"full_attention", "sliding_attention"}
    if not croppable.issuperset(getattr(settings, "layer_types", None) or ()):
        raise ModelLoadError(
            f"{folder} has layers whose cache cannot be shortened, so each prompt would be read from its start."
        )
    import transformers

    return getattr(transformers, class_name), settings


# Keys about training and about what a model returns; some of their values raise an error in the middle of a pass.
OTHER_KEYS = ("auto_map", "return_dict", "use_cache", "id2label", "label2id", "problem_type")


def _is_irrelevant(key: str) -> bool:
    """Whether a key of config.json is about training, outputs or code, and not about what the weights compute."""
    return key in OTHER_KEYS or "dropout" in key or key.startswith("output_")


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the computation; with quantized weights it is bf16 where that is quick."""
    if precision in ("bf16", "fp16", "fp32"):
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    if quick_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def quick_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed natively, which on a CPU takes AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return True
    return processor_has_bf16()


def weight_bytes(model: nn.Module) -> int:
    """The bytes of the weights, with the scales of quantized ones; tied ones count once."""
    tensors = (*model.parameters(), *model.buffers())
    return sum({(tensor.data_ptr(), tensor.nbytes): tensor.nbytes for tensor in tensors}.values())


class _EmptyOnMeta(TorchFunctionMode):
    """Creates a module's weights on the meta device, without memory, in this thread only; computed tensors are real."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _empty_model(
    config: Mapping[str, Any], stored: Mapping[str, Stored], folder: Path
) -> nn.Module:
    model_class, settings = architecture(config, folder)
    check_layers(getattr(settings, "num_hidden_layers", 0), stored, folder)
    try:
        with gate, _EmptyOnMeta():
            return model_class(settings)
    except Exception as error:  # impossible sizes fail in many ways
        raise ModelLoadError(
            f"{folder}/config.json describes no model that can be built: {in_one_line(error)}"
        ) from error


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and stored buffers by name, a tied one under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    stored = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in stored:
            yield name, buffer


def _tied(model: nn.Module) -> dict[str, str]:
    """The further names of tied tensors, with the first name: {"lm_head.weight": "model.embed_tokens.weight"}."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in _tensors(model):
        source = first.setdefault(id(tensor), name)
        if source != name:
            tied[name] = source
    return tied


def _get(model: nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), key)
    return tensor


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    if key in module._buffers:
        module._buffers[key] = tensor
    else:
        module._parameters[key] = (
            tensor
            if isinstance(tensor, nn.Parameter)
            else nn.Parameter(tensor, requires_grad=False)
        )


class Reader:
    """Reads tensors as views of a mapped file, which stays open as long as there are views or, with `keep_open`, until
    another file is read."""

    def __init__(self, *, keep_open: bool) -> None:
        self._keep_open = keep_open
        self._file: Path | None = None
        self._open: Any = None

    def read(self, file: Path, name: str, *, is_packed: bool = False) -> torch.Tensor:
        """A tensor of the file; a packed one is unpacked to float32, in memory of its own."""
        from safetensors import SafetensorError, safe_open

        try:
            if file != self._file or not self._keep_open:
                self._open = safe_open(str(file), framework="pt", device="cpu")
                self._file = file
            tensor: torch.Tensor = self._open.get_tensor(name)
            if is_packed:
                scales, middles = packed.parts(name)
                has_middles = middles in set(self._open.keys())
                tensor = torch.from_numpy(
                    packed.unpacked(
                        tensor.numpy(),
                        self._open.get_tensor(scales).float().numpy(),
                        self._open.get_tensor(middles).float().numpy() if has_middles else None,
                    )
                )
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"{file} is damaged ({in_one_line(error)}): delete it and download it again."
            ) from error
        return tensor


def _replace_linear_layers(
    model: nn.Module, replacement: Callable[[nn.Linear], QuantizedLinear | None]
) -> None:
    """Replaces the linear layers that are worth quantizing, except for the output layer."""
    causal_model: Any = model
    head = causal_model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            layer = replacement(module)
            if layer is not None:
                _put_module(model, path, layer)


def _replace_embeddings(model: nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """Replaces the embedding and the output layer by 8-bit ones, both or neither; returns the names that this ties."""
    causal_model: Any = model
    table, head = causal_model.get_input_embeddings(), causal_model.get_output_embeddings()
    if type(table) is not nn.Embedding or type(head) is not nn.Linear:
        return {}  # a subclass may compute something else as well
    paths = {id(module): path for path, module in model.named_modules()}
    _put_module(model, paths[id(table)], Int8Embedding(table, dtype))
    _put_module(model, paths[id(head)], Int8Head(head, dtype))
    if head.weight is not table.weight:
        return {}
    return {f"{paths[id(head)]}.scales": f"{paths[id(table)]}.scales"}


def _put_module(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, key = path.rpartition(".")
    setattr(model.get_submodule(parent), key, module)


def _int4_tile(device: torch.device) -> int:
    """The bytes of a tile of 4-bit weights on this CPU. Raises ModelLoadError where torch has no product for them."""
    size = bytes_in_tile() if device.type == "cpu" else 0
    if not size:
        where = "this processor" if device.type == "cpu" else "a GPU"
        raise ModelLoadError(
            f"int4 is for CPUs with AVX2 or AVX-512; on {where} set precision 4bit."
        )
    return size
