"""Engines: which of them runs a model, and loading it. `base.Engine` says what they have in common.

Other packages can bring engines of their own, under the entry point group `jupyter_sc2.engines`. The name of an entry
point is what the setting `engine` is set to; it refers to a function with the signature of `LoadFn`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import ModelLoadError, in_one_line
from jupyter_sc2.models.cards import EMBEDDED, EMBEDDED_FOLDER, PACKED, QUANTIZED, Shape
from jupyter_sc2.models.packed import GRAPH
from jupyter_sc2.runtime.entry_points import ENGINES_GROUP, registered
from jupyter_sc2.runtime.hardware import (
    address_space_left,
    format_bytes,
    machine,
    may_have_gpu,
)
from jupyter_sc2.runtime.progress import Progress

# Bytes of address space that have to be left when a model is loaded in this process: the embedded one and its libraries
# take 530 MB, most of which is never touched.
MIN_ADDRESS_SPACE_BYTES = 640 << 20


class LoadFn(Protocol):
    """What another package registers as an engine. Called on a thread of its own, which alone uses the engine."""

    def __call__(
        self,
        model: str,
        *,
        precision: str,
        server: str,
        threads: int | None,
        offline: bool,
        progress: Progress,
    ) -> Engine:
        """The loaded model.

        The arguments are the settings of these names; `threads` is None where the engine is to choose. `progress`
        takes a state ("downloading" or "loading") and the share that is done, from 0 to 1, or None; what it raises ends
        the load. Raises ModelLoadError with one line for the user.
        """


def load_engine(
    model: str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    server: str = "",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> Engine:
    """Loads a model by its name, its hub id, a local folder or a GGUF file, or asks a server for it.

    Raises ModelLoadError in the user's terms.
    """
    name = choose_engine(model, engine, precision, server)
    if name == "transformers" and engine == "auto" and precision in ("auto", "int4"):
        from jupyter_sc2.models import files

        _, folder = files.find(model, offline=offline, progress=progress)
        offline = True  # its files are on this disk now; the hub need not be asked again
        name = "onnxruntime" if runs_without_torch(folder, precision) else name
    match name:
        case "openai":
            from jupyter_sc2.engines.openai import engine as openai_engine

            progress("loading", None)
            return openai_engine.load(model, server=server, offline=offline, progress=progress)
        case "llamacpp":
            from jupyter_sc2.engines.llamacpp import engine as llamacpp_engine

            progress("loading", None)
            return llamacpp_engine.load(
                model, precision=precision, threads=threads, offline=offline, progress=progress
            )
        case "onnxruntime":
            _check_room(model)
            from jupyter_sc2.engines.onnx import engine as onnx_engine
            from jupyter_sc2.engines.onnx.int4 import CannotKeep

            progress("loading", None)
            try:
                return onnx_engine.load(
                    model, precision=precision, threads=threads, offline=offline, progress=progress
                )
            except CannotKeep:
                if engine != "auto":
                    raise
            # Torch rounds the weights at each load, in memory.
            return load_engine(
                model,
                engine="transformers",
                precision="int4",
                threads=threads,
                offline=offline,
                progress=progress,
            )
        case "transformers":
            _check_room(model)
            from jupyter_sc2.engines.torch.docstrings import with_docstrings

            with with_docstrings("transformers"):
                from jupyter_sc2.engines.torch import engine as torch_engine

                progress("loading", None)
                return torch_engine.load(
                    model, precision=precision, threads=threads, offline=offline, progress=progress
                )
    return _registered(name)(
        model,
        precision=precision,
        server=server,
        threads=threads,
        offline=offline,
        progress=progress,
    )


def _registered(name: str) -> LoadFn:
    """What another package registers as the engine `name`; imported here. Raises ModelLoadError."""
    found = registered(ENGINES_GROUP).get(name)
    if found is None:
        raise ModelLoadError(f"No installed package has an engine named {name}.")
    try:
        load: LoadFn = found.load()
    except Exception as error:  # whatever a package raises where it is imported
        package = "" if found.dist is None else f" of {found.dist.name}"
        raise ModelLoadError(
            f"The engine {name}{package} cannot be imported: {in_one_line(error)}"
        ) from error
    return load


def _check_room(model: str) -> None:
    """Raises ModelLoadError, caused by a MemoryError, where a library might end the kernel for want of address space.

    OpenBLAS and the tokenizers do that, at their import and in the middle of a load.
    """
    left = address_space_left()
    if left is not None and left < MIN_ADDRESS_SPACE_BYTES:
        raise ModelLoadError(
            f"{model} is not loaded: this process may take only {format_bytes(left)} more of address space "
            "(ulimit -v), and libraries end a kernel that reaches its limit. "
            f"{format_bytes(MIN_ADDRESS_SPACE_BYTES)} are needed."
        ) from MemoryError()


def choose_engine(model: str, engine: str, precision: str, server: str) -> str:
    """The engine that is named, else the one that the server, the file or the precision asks for."""
    if engine != "auto":
        return engine
    if server:
        return "openai"
    if model.endswith(".gguf") or precision[:1] in "QF":
        return "llamacpp"
    if precision in ("auto", PACKED, *QUANTIZED) and _is_packed(model):
        return "onnxruntime"
    return "transformers"


def runs_without_torch(folder: Path, precision: str) -> bool:
    """Whether original weights run on ONNX Runtime: StarCoder2 in `int4`, which is set or chosen for this machine.

    Raises ModelLoadError if config.json cannot be read.
    """
    from jupyter_sc2.engines.onnx import int4
    from jupyter_sc2.models import files, plan

    config = files.read_config(folder)
    shape = Shape.from_config(config)
    if shape is None or not int4.can_make(config) or not _has_onnxruntime():
        return False
    here = machine(by_torch=may_have_gpu())
    if precision == "auto":
        precision, _ = plan.choose(shape, here, plan.PLANNED_TOKENS)
    return precision == "int4" and not here.gpu and plan.on_onnxruntime(shape, precision)


def _is_packed(model: str) -> bool:
    """Whether it is the embedded model, or a folder, that ONNX Runtime can compute with and is there to do so."""
    folder = EMBEDDED_FOLDER if model == EMBEDDED.name else Path(model).expanduser()
    return (folder / GRAPH).is_file() and _has_onnxruntime()


def _has_onnxruntime() -> bool:
    try:
        return find_spec("onnxruntime") is not None
    except ValueError:  # something else of the user's by that name is in sys.modules
        return True
