"""A cache of the weights as ONNX Runtime prepacks them, which kernels share.

At each load the runtime repacks the weights in the order of this processor's compute kernels, in memory of the process:
95 MB for the embedded model. A file of them is mapped, loads in half the time, and is in memory once for all kernels.
The file belongs to one processor, one version of the runtime and one model; where the processor is not known (other
systems than Linux), nothing is stored. A damaged file is made again.

The scales are in the file twice: the runtime packs them with the weights, and reads them as they were only while it
loads. So it gets those from a mapping of our own, whose pages are given back afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import checksums, unfinished
from jupyter_sc2.models.cache_dir import cache_folder
from jupyter_sc2.models.kept import keep_newest
from jupyter_sc2.models.packed import GRAPH, WEIGHTS, map_file
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.atomic_write import atomic_write

if TYPE_CHECKING:
    import numpy as np
else:
    from jupyter_sc2.runtime.own_numpy import np

FORMAT = 2  # raised whenever the same model gives other files
# A smaller model is not worth a file.
MIN_MODEL_BYTES = 32 << 20
# The disk space that is needed, as a multiple of the model's size.
FILE_SIZE_RATIO = 4
# A home that several kinds of machines share has a file for each.
MAX_FILES = 4
DATA = "weights.bin"
SCALES = "scales.json"  # where in DATA they are: by name, the offset and the shape
CHECKSUMS = "seals.json"

FILES = (GRAPH, SCALES, DATA)

Options = Callable[[], Any]

logger = logging.getLogger(__name__)


class Damaged(ModelLoadError):
    """The stored weights were damaged, and are deleted."""


def open_session(runtime: Any, folder: Path, options: Options) -> Any:
    """An InferenceSession for `folder`/model.onnx, from the stored weights, which are made if there are none.

    `runtime` is the module onnxruntime, `options` makes new SessionOptions. Raises Damaged, upon which the weights in
    `folder` have to be checked if they were not, and what ONNX Runtime raises.
    """

    def session(file: Path, chosen: Any) -> Any:
        # Some installers link each file to a store; the weights have to lie in the graph's own folder.
        return runtime.InferenceSession(
            str(file.resolve()), chosen, providers=["CPUExecutionProvider"]
        )

    place = _place(folder, runtime.__version__)
    if place is None:
        return session(folder / GRAPH, options())
    if is_stored(runtime, folder):
        # ONNX Runtime loads on one core, and takes longer than a second one to read the weights for their checksum.
        with background.pool(1) as pool:
            whole = pool.submit(_is_whole, place)
            try:
                stored = _open_stored(runtime, place, options(), session)
            except Exception:  # gone meanwhile
                stored = None
                logger.debug("The stored weights cannot be loaded", exc_info=True)
        if not whole.result():
            stored = None
            with contextlib.suppress(OSError):
                _clear(place)
            if not is_stored(runtime, folder):  # so the next load does not begin with it
                raise Damaged(f"{place} was damaged.")
        if stored is not None:
            with contextlib.suppress(OSError):  # a folder that may only be read
                os.utime(place)
            return stored
    try:
        _clear(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(place.parent, others=".*")
        free = shutil.disk_usage(place.parent).free
        if free < FILE_SIZE_RATIO * (folder / WEIGHTS).stat().st_size:
            return session(folder / GRAPH, options())
        part = unfinished.place_in(place.parent)
        part.mkdir(mode=0o700)
    except OSError:  # a disk that is full or may not be written
        return session(folder / GRAPH, options())
    try:
        made = session(folder / GRAPH, _storing(options(), part / GRAPH))
        atomic_write(part / SCALES, json.dumps(_scales(part / GRAPH)).encode())
        records = {name: checksums.record(part / name) for name in FILES}
        checksums.write_record(part / CHECKSUMS, records)
        _move(part, place)
        return made
    except Exception:
        return session(folder / GRAPH, options())
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_stored(runtime: Any, folder: Path) -> bool:
    """Whether the prepacked weights of `folder`/model.onnx are stored, so that any session maps them.

    Of weights that this process has not read yet only the size is compared.
    """
    place = _place(folder, runtime.__version__)
    return place is not None and _is_whole(place, checksums.may_be_whole)


def _is_whole(place: Path, compare: Callable[[Path, object], bool] = checksums.is_whole) -> bool:
    """Whether the files are what was written; `compare` says so of the weights, which it reads once by a process."""
    records = checksums.read_record(place / CHECKSUMS) or {}
    return all(
        checksums.is_whole(place / name, records.get(name)) for name in (GRAPH, SCALES)
    ) and compare(place / DATA, records.get(DATA))


def _open_stored(
    runtime: Any, place: Path, options: Any, session: Callable[[Path, Any], Any]
) -> Any:
    """The session of stored weights."""
    mapped = map_file(place / DATA)
    data = np.frombuffer(mapped, np.uint8)
    scales = []
    for name, (offset, shape) in json.loads((place / SCALES).read_text()).items():
        found = data[offset:][: 4 * math.prod(shape)].view(np.float32).reshape(shape)
        scales.append(runtime.OrtValue.ortvalue_from_numpy(found))
        options.add_initializer(name, scales[-1])
    stored = session(place / GRAPH, options)
    stored.scales = scales  # they have to exist as long as it does
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_DONTNEED)
    return stored


def _scales(graph: Path) -> dict[str, tuple[int, list[int]]]:
    """The offsets and shapes of the scales that a stored graph has in its file of weights, by name."""
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    names = {node.input[2] for node in model.node if node.op_type == "MatMulNBits"}
    scales = {}
    for constant in model.initializer:
        place = {entry.key: entry.value for entry in constant.external_data}
        if constant.name in names and "offset" in place:
            scales[constant.name] = int(place["offset"]), list(constant.dims)
    return scales


def _clear(place: Path) -> None:
    """Removes a damaged entry, or renames a file that is not ours. Raises OSError."""
    if _is_whole(place):  # another process was first
        return
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        checksums.quarantine(place)


def _storing(options: Any, file: Path) -> Any:
    """These options, extended so that the optimized graph and the prepacked weights are written."""
    options.optimized_model_filepath = str(file)
    for name, value in (
        ("optimized_model_external_initializers_file_name", DATA),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{name}", value)
    return options


def _move(part: Path, place: Path) -> None:
    """Moves it to its place, unless another process was first, and deletes the least recently used entries."""
    part.chmod(0o755)
    try:
        part.rename(place)
    except OSError:
        return
    keep_newest(place.parent, MAX_FILES)


def _place(folder: Path, version: str) -> Path | None:
    """The folder of the stored weights, whether or not it exists; None if nothing is to be stored."""
    processor = _processor()
    if not processor or (folder / WEIGHTS).stat().st_size < MIN_MODEL_BYTES:
        return None
    files = [(folder / name).resolve() for name in (GRAPH, WEIGHTS)]
    about = [
        FORMAT,
        version,
        processor,
        *((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files),
    ]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return cache_folder() / "onnxruntime" / key


def _processor() -> str:
    """What distinguishes this processor from one with other instructions; "" if that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    fields = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(fields)}))
