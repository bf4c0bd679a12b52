"""Finds the GGUF file of a model: one that is given, was made here earlier, is on the hub, or is made now."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import checksums
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models.cache_dir import cache_folder
from jupyter_sc2.models.cards import ModelCard, find_card
from jupyter_sc2.models.plan import GGUF, choose_gguf
from jupyter_sc2.runtime.hardware import machine
from jupyter_sc2.runtime.progress import Progress

# Below this many parameters half precision is quick enough, and nothing is lost.
SMALL_MODEL_PARAMS = 500_000_000
# The tokens in the KV cache for which the precision is chosen.
PLANNED_TOKENS = 4096


class Found(NamedTuple):
    """A model's card and its GGUF file, and a sentence about a damaged file that was replaced, or ""."""

    card: ModelCard
    file: Path
    notice: str = ""


def find(model: str, precision: str, *, offline: bool, progress: Progress) -> Found:
    """The model's GGUF file in that precision, downloaded or made if need be. Raises ModelLoadError.

    A damaged one that was made here earlier is replaced.
    """
    card = find_card(model)
    if model.lower().endswith(".gguf"):
        return Found(card, Path(model).expanduser())
    if precision != "auto" and precision not in GGUF:
        raise ModelLoadError(
            f"llama.cpp reads GGUF, which has no precision {precision!r}: use auto or one of {', '.join(GGUF)}."
        )
    wanted = best_precision(model) if precision == "auto" else precision
    folder = Path(model).expanduser()
    damaged = False
    if card.hub_id is not None and not folder.is_dir():
        # A file that was made from a model of the hub no longer needs the original.
        file = place(card, folder, wanted)
        if _is_whole(file, progress):
            return Found(card, file)
        damaged = os.path.lexists(file)
    try:
        if card.gguf is not None:
            # Its repository may lack this precision or be out of reach, and the original may be on this disk.
            with contextlib.suppress(ModelLoadError):
                file = model_files.gguf(card, precision, offline=offline, progress=progress)
                return Found(card, file, _replaced_notice(card, wanted) if damaged else "")
        card, folder = model_files.find(model, offline=offline, progress=progress)
        file = place(card, folder, wanted)
        if not damaged and _is_whole(file, progress):
            return Found(card, file)
        damaged = os.path.lexists(file)
        make(card, folder, wanted, lambda share: progress("quantizing", share))
    except ModelLoadError as error:
        if not damaged:
            raise
        raise ModelLoadError(f"{file} is damaged, and cannot be made again: {error}") from error
    return Found(card, file, _replaced_notice(card, wanted) if damaged else "")


def make(card: ModelCard, folder: Path, precision: str, progress: Callable[[float], None]) -> Path:
    """Makes the GGUF file of a folder's weights where `find` looks for it. Raises ModelLoadError."""
    from jupyter_sc2.engines.gguf.writer import write_gguf

    file = place(card, folder, precision)
    _delete_older(file)
    try:
        if os.path.lexists(file) and not (file.is_file() and _record_file(file).is_file()):
            checksums.quarantine(file)  # nothing shows that it was made here
        write_gguf(folder, file, precision, name=card.name, progress=progress)
        checksums.write_record(_record_file(file), checksums.record(file))
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be written: {error.strerror or error}.") from error
    return file


def _record_file(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _is_whole(file: Path, progress: Progress) -> bool:
    record = checksums.read_record(_record_file(file))
    return checksums.is_whole(file, record, lambda: progress("loading", None))


def _replaced_notice(card: ModelCard, precision: str) -> str:
    return (
        f"The stored GGUF file of {card.name} in {precision} was damaged, or not made by this version, "
        "and was replaced."
    )


def best_precision(model: str) -> str:
    """The precision for this machine: F16 for a small model, else the one that fits."""
    try:
        _, shape = model_files.card_and_shape(model)
    except ModelLoadError:  # nothing of it is on this disk yet
        return "Q4_K_M"
    if shape.parameters < SMALL_MODEL_PARAMS:
        return "F16"
    name, _ = choose_gguf(shape, machine(), PLANNED_TOKENS)
    return name


def place(card: ModelCard, folder: Path, precision: str) -> Path:
    """The path of the GGUF file that is made of a folder's weights; other weights in the same folder have another."""
    if card.hub_id is not None:
        name = card.hub_id.replace("/", "--")
    else:
        where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        name = f"{card.name}-{where}-{_fingerprint(folder)}"
    return cache_folder() / "gguf" / f"{name}-{precision}.gguf"


def _fingerprint(folder: Path) -> str:
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    stats = [(file.name, file.stat()) for file in sorted(files) if file.is_file()]
    facts = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


def _delete_older(file: Path) -> None:
    """Deletes the files that were made of earlier weights in the same folder."""
    parts = file.name.split("-")
    if len(parts) < 4 or "--" in file.name:
        return
    stem, precision = "-".join(parts[:-2]), parts[-1]
    for other in file.parent.glob(f"{stem}-????????-{precision}"):
        if other == file:
            continue
        for old in (other, _record_file(other)):
            with contextlib.suppress(OSError):
                old.unlink()
