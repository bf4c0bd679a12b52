"""Where the GGUF file of a model is: given, made here before, on the hub, or still to be made."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from jupyter_sc2.engines import Progress, weights
from jupyter_sc2.engines.cache import cache_folder
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.hardware import machine
from jupyter_sc2.models import ModelCard, find_card
from jupyter_sc2.plan import GGUF, choose_gguf

# Below this many parameters half precision is quick enough, and nothing is lost.
SMALL = 500_000_000
# The tokens that the KV cache is for when the precision is chosen.
TOKENS = 4096


def find(
    model: str, precision: str, *, offline: bool, progress: Progress
) -> tuple[ModelCard, Path]:
    """The model's card and its GGUF file in that precision, downloaded or made if need be.

    Raises ModelLoadError.
    """
    card = find_card(model)
    if model.lower().endswith(".gguf"):
        return card, Path(model).expanduser()
    if precision != "auto" and precision not in GGUF:
        raise ModelLoadError(
            f"llama.cpp reads GGUF, where there is no precision {precision!r}: take auto or one of {', '.join(GGUF)}."
        )
    wanted = best_precision(model) if precision == "auto" else precision
    if (file := made_before(model, card, wanted)) is not None:
        return card, file
    if card.gguf is not None:
        # A model's repository need not have each precision; and without a network there may be the original.
        with contextlib.suppress(ModelLoadError):
            return card, weights.gguf(card, precision, offline=offline, progress=progress)
    card, folder = weights.find(model, offline=offline, progress=progress)
    file = place(card, folder, wanted)
    if not file.is_file():
        from jupyter_sc2.engines.gguf import write_gguf

        _forget_older(file)
        write_gguf(
            folder,
            file,
            wanted,
            name=card.name,
            progress=lambda share: progress("quantizing", share),
        )
    return card, file


def best_precision(model: str) -> str:
    """F16 for a small model, else what fits this machine."""
    try:
        _, shape = weights.card_and_shape(model)
    except ModelLoadError:  # nothing of it is on this disk yet
        return "Q4_K_M"
    if shape.parameters < SMALL:
        return "F16"
    name, _ = choose_gguf(shape, machine(), TOKENS)
    return name


def made_before(model: str, card: ModelCard, precision: str) -> Path | None:
    """The file that was made here earlier; that of a hub's model needs no original beside it any more."""
    folder = Path(model).expanduser()
    if card.hub_id is None or folder.is_dir():
        return None  # the name of the file depends on what is in the folder
    file = place(card, folder, precision)
    return file if file.is_file() else None


def place(card: ModelCard, folder: Path, precision: str) -> Path:
    """Where the GGUF file made of a folder's weights is kept. Other weights in the same folder have another file."""
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


def _forget_older(file: Path) -> None:
    """Deletes what was made of weights that were in the same folder before."""
    parts = file.name.split("-")
    if len(parts) < 4 or "--" in file.name:
        return
    stem, precision = "-".join(parts[:-2]), parts[-1]
    for other in file.parent.glob(f"{stem}-????????-{precision}"):
        with contextlib.suppress(OSError):
            other.unlink()
