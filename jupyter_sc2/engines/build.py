"""Builds a torch module from a configuration and the tensors of a folder.

This replaces transformers' `from_pretrained` and takes its model classes only. That one sets the process's
default dtype while it works, loads from a pool of threads that the interpreter waits for at its exit, draws
progress bars into the user's cell, fills in missing tensors at random, and quantizes only after the whole
model is in memory. Here tensors are read and quantized one by one: the peak stays near the final size.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from jupyter_sc2.engines import Progress
from jupyter_sc2.engines.gate import gate
from jupyter_sc2.engines.weights import Stored, check_shapes
from jupyter_sc2.errors import ModelLoadError

# Up to this size tensors are copied into memory. Larger files stay mapped: that loads in a second, and the pages
# are shared between kernels, but a mapped file that somebody overwrites in place kills the process that reads it.
COPY_BELOW = 1 << 30


def architecture(config: Mapping[str, Any], folder: Path) -> tuple[type[nn.Module], Any]:
    """The model class for a config.json, and the configuration as an object. Raises ModelLoadError.

    Only classes of transformers itself count; code that lies beside the weights is never run.
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
            f"{folder} is of the kind {kind!r}, which the installed transformers cannot write text with."
        )
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ModelLoadError(
            f"{folder} is already quantized ({method}): take the original weights and set the precision."
        )
    try:
        settings = CONFIG_MAPPING[kind].from_dict(
            {key: value for key, value in config.items() if key != "auto_map"}
        )
    except Exception as error:  # transformers checks configurations with errors of several kinds
        raise ModelLoadError(
            f"{folder}/config.json is not a configuration of {kind}: {_one_line(error)}"
        ) from error
    croppable = {"full_attention", "sliding_attention"}
    if not croppable.issuperset(getattr(settings, "layer_types", None) or ()):
        raise ModelLoadError(
            f"{folder} has layers whose memory cannot be cut back, so it would reread each prompt."
        )
    import transformers

    return getattr(transformers, class_name), settings


def build(
    config: Mapping[str, Any],
    stored: Mapping[str, Stored],
    folder: Path,
    *,
    precision: str,
    device: torch.device,
    progress: Progress,
) -> nn.Module:
    """The model in eval mode with its weights in `precision` on `device`. Raises ModelLoadError."""
    model = _skeleton(config, folder)
    tied = _tied(model)
    # A tied tensor has two names and some files store it under both, some under either.
    renamed = {tied.get(name, name): entry for name, entry in stored.items()}
    file_names = {tied.get(name, name): name for name in stored}
    expected = {name: tuple(tensor.shape) for name, tensor in _tensors(model) if name not in tied}
    check_shapes(expected, renamed, folder)

    dtype = compute_dtype(precision, device)
    quantized = _to_quantize(model, precision) if precision in ("8bit", "4bit") else {}
    copy = sum(renamed[name].elements for name in expected) * 4 < COPY_BELOW
    reader = _Reader()
    total, done = sum(renamed[name].elements for name in expected), 0
    progress("loading", 0.0)
    # In the order of the files, which reads the disk from front to back.
    for name in sorted(expected, key=lambda name: (renamed[name].file, name)):
        entry = renamed[name]
        with gate, torch.inference_mode():
            tensor = reader.read(entry.file, file_names[name])
            if name in quantized:
                _quantize(model, name, tensor.to(dtype), precision, device)
            else:
                if tensor.is_floating_point():
                    tensor = tensor.to(device=device, dtype=dtype)
                # Read tensors are views of the mapped file unless something converted them.
                _assign(model, name, tensor.clone() if copy else tensor)
        if done * 50 // total != (done + entry.elements) * 50 // total:
            progress("loading", (done + entry.elements) / total)
        done += entry.elements
    with gate:
        del tensor, reader  # in here, see gate
        for name, source in tied.items():
            _assign(model, name, _get(model, source))
        for (
            module
        ) in model.modules():  # tables that are computed, such as the frequencies of the positions
            for key, buffer in module.named_buffers(recurse=False):
                module._buffers[key] = buffer.to(device)
        return model.eval().requires_grad_(False)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What is computed in; quantized weights are multiplied in bf16 where that is quick."""
    if precision == "fp32" or (precision in ("8bit", "4bit") and not quick_bf16(device)):
        return torch.float32
    return torch.bfloat16


def quick_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed natively: on the CPU that wants AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return True
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in names if (check := getattr(torch.cpu, name, None)) is not None)


def weight_bytes(model: nn.Module) -> int:
    """What the weights take, with the scales of quantized ones."""
    seen: dict[tuple[int, int], int] = {}
    for tensor in _all_tensors(model):
        seen[tensor.data_ptr(), tensor.nbytes] = (
            tensor.nbytes
        )  # tied weights and aliases count once
    return sum(seen.values())


class _EmptyOnMeta(TorchFunctionMode):
    """Makes a module's weights without memory, in this thread only; what is computed stays real."""

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


def _skeleton(config: Mapping[str, Any], folder: Path) -> nn.Module:
    model_class, settings = architecture(config, folder)
    try:
        with gate, _EmptyOnMeta():
            return model_class(settings)
    except Exception as error:  # impossible sizes fail in many ways
        raise ModelLoadError(
            f"{folder}/config.json describes no model that can be built: {_one_line(error)}"
        ) from error


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and stored buffers by name, a tied one under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    kept = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in kept:
            yield name, buffer


def _tied(model: nn.Module) -> dict[str, str]:
    """The names of tensors that are another one's: {"lm_head.weight": "model.embed_tokens.weight"}."""
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


class _Reader:
    """Reads tensors; keeps the file that it read from last open."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._open: Any = None

    def read(self, file: Path, name: str) -> torch.Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            if file != self._file:
                self._open = safe_open(str(file), framework="pt", device="cpu")
                self._file = file
            tensor: torch.Tensor = self._open.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"{file} is damaged ({_one_line(error)}): delete it and download it again."
            ) from error
        return tensor


# Quantization (bitsandbytes)


def _to_quantize(model: nn.Module, precision: str) -> dict[str, nn.Linear]:
    """The linear layers worth quantizing, by the name of their weight; the output layer stays exact."""
    causal_model: Any = model
    head = causal_model.get_output_embeddings()
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and _divides(module, precision)
    }


def _divides(linear: nn.Linear, precision: str) -> bool:
    # bitsandbytes' 4-bit kernel for the CPU wants blocks of 64 inputs and 32 outputs; others stay as they are.
    return precision == "8bit" or (linear.in_features % 64 == 0 and linear.out_features % 32 == 0)


def _quantize(
    model: nn.Module, name: str, tensor: torch.Tensor, precision: str, device: torch.device
) -> None:
    bnb = _bitsandbytes(precision)
    path, _, _ = name.rpartition(".")
    old: Any = model.get_submodule(path)
    common = {"bias": old.bias is not None, "device": "meta"}
    new: Any
    if precision == "4bit":
        # The CPU kernel cannot read compressed scales; elsewhere they save 0.4 bits a weight.
        kind = {"quant_type": "nf4", "compress_statistics": device.type != "cpu"}
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, compute_dtype=tensor.dtype, **kind, **common
        )
        new.weight = bnb.nn.Params4bit(tensor, requires_grad=False, module=new, **kind).to(device)
    else:
        _silence_int8()
        # LLM.int8() (2208.07339): inputs above 6 are multiplied in full precision.
        new = bnb.nn.Linear8bitLt(
            old.in_features, old.out_features, has_fp16_weights=False, threshold=6.0, **common
        )
        new.weight = bnb.nn.Int8Params(tensor, requires_grad=False, has_fp16_weights=False).to(
            device
        )
    if old.bias is not None:
        new.bias = old.bias
    parent, _, key = path.rpartition(".")
    setattr(model.get_submodule(parent), key, new.eval())


def _bitsandbytes(precision: str) -> Any:
    if "bitsandbytes" in sys.modules and sys.modules["bitsandbytes"] is not None:
        return sys.modules["bitsandbytes"]
    # On CPUs with AVX512-BF16 its import has the package `kernels`, where there is one, download and run machine
    # code from the hub. Nothing from there is ever run here, so that package is hidden for the moment.
    hidden = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ModelLoadError(
            f"Precision {precision} needs the package bitsandbytes: pip install bitsandbytes."
        ) from error
    finally:
        del sys.modules["kernels"]
        if hidden is not None:
            sys.modules["kernels"] = hidden


_silenced: set[int] = set()


def _silence_int8() -> None:
    """bitsandbytes warns that it casts bf16 to fp16: true, meant to be, and no news in the user's cell."""
    thread = threading.get_ident()
    if thread not in _silenced:
        _silenced.add(thread)
        logger = logging.getLogger("bitsandbytes.autograd._functions")
        logger.addFilter(lambda record: record.thread != thread)


def _all_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        quant_state = getattr(getattr(module, "weight", None), "quant_state", None)  # 4 bits
        while quant_state is not None:
            for key in ("absmax", "code", "offset"):
                if isinstance(tensor := getattr(quant_state, key, None), torch.Tensor):
                    yield tensor
            quant_state = getattr(quant_state, "state2", None)
        for holder in (getattr(module, "weight", None), getattr(module, "state", None)):  # 8 bits
            for key in ("CB", "SCB"):
                if isinstance(tensor := getattr(holder, key, None), torch.Tensor):
                    yield tensor


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:200] or type(error).__name__
