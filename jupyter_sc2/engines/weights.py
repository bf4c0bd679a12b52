"""Finds a model's files, downloads and verifies them. What cannot be loaded is refused here, in one line.

Only safetensors are read: they are plain numbers, while the older *.bin files are pickles, which run code when
they are opened. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jupyter_sc2.engines import Progress
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import EMBEDDED, EMBEDDED_FOLDER, ModelCard, find_card

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# What is fetched from the hub: numbers and JSON, neither code nor pickles.
PATTERNS = ("*.safetensors", "*.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Seconds until the hub counts as unreachable.
HUB_TIMEOUT = 5.0


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape and its safetensors dtype ("F32", "BF16", …)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


# Finding


def find(model: str, *, offline: bool, progress: Progress) -> tuple[ModelCard, Path]:
    """The model's card and the folder of its files, downloaded if need be. Raises ModelLoadError."""
    card = find_card(model)
    if card.name == EMBEDDED.name:
        if not (EMBEDDED_FOLDER / CONFIG).is_file():
            raise ModelLoadError(
                "The embedded model is missing from this installation: reinstall jupyter-sc2."
            )
        return card, EMBEDDED_FOLDER
    if card.hub_id is not None and not Path(model).expanduser().is_dir():
        return card, download(
            card.hub_id,
            card.revision,
            offline=offline or _offline_by_environment(),
            progress=progress,
        )
    folder = Path(model).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelLoadError(
            f"{model} {what}: give the folder that holds config.json and *.safetensors."
        )
    return card, folder


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises ModelLoadError if there is none or it cannot be read."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{folder} has no config.json, so it is not a model's folder."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{file} does not say what kind of model it is (model_type).")
    return config


def describe(card: ModelCard, config: Mapping[str, Any], parameters: int) -> ModelCard:
    """The card with what the files say: how far positions reach, how far a layer looks back, how large it is."""
    context = config.get("max_position_embeddings") or card.context
    window = config.get("sliding_window") or context
    size = card.parameters if card.parameters != "?" else _short(parameters)
    return replace(card, context=context, window=min(window, context), parameters=size)


# Downloading


def download(hub_id: str, revision: str | None, *, offline: bool, progress: Progress) -> Path:
    """The folder of a hub model in the hub's own cache; what is there already is not fetched again.

    Without a network, or with `offline`, what is on this disk is used. Raises ModelLoadError.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ModelLoadError(
            "Models of the hub need the package huggingface_hub: pip install huggingface_hub."
        ) from error
    if offline:
        return _cached(hub_id, revision, "offline is set")
    stopped: list[Exception] = []

    def tell(state: str, share: float | None) -> None:
        try:
            progress(state, share)
        except (
            Exception
        ) as error:  # who asked for the model gives up, which is no failure of the hub's
            stopped.append(error)
            raise

    with quiet("huggingface_hub"):
        try:
            # One request with a time limit. snapshot_download would ask without one, and from a pool of threads
            # that the interpreter waits for when it exits.
            info = hub.HfApi().model_info(
                hub_id, revision=revision, files_metadata=True, timeout=HUB_TIMEOUT
            )
            return _fetch(hub_id, revision, info, tell)
        except ModelLoadError:
            raise
        except errors.GatedRepoError as error:
            raise ModelLoadError(
                f"{hub_id} asks you to accept its licence first: do so on its page on the hub, then log in "
                "with `hf auth login`."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ModelLoadError(f"{hub_id} has no revision {revision!r}.") from error
        except errors.RepositoryNotFoundError as error:
            raise ModelLoadError(
                f"The hub has no model {hub_id}, or it is private: check the name, or log in with `hf auth login`."
            ) from error
        except errors.HFValidationError as error:
            raise ModelLoadError(
                f"{hub_id!r} cannot be the name of a model on the hub (owner/name)."
            ) from error
        except (
            Exception
        ) as error:  # each version of the hub's client has its own HTTP library and errors
            if stopped:
                raise stopped[0] from None
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EACCES,
                errno.EROFS,
            ):
                raise ModelLoadError(f"{hub_id} cannot be stored: {error.strerror}.") from error
            return _cached(hub_id, revision, "the hub cannot be reached", error)


def _offline_by_environment() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _cached(hub_id: str, revision: str | None, why: str, cause: Exception | None = None) -> Path:
    import huggingface_hub as hub

    try:
        with quiet("huggingface_hub"):
            return Path(
                hub.snapshot_download(
                    hub_id, revision=revision, allow_patterns=[*PATTERNS], local_files_only=True
                )
            )
    except Exception as error:
        raise ModelLoadError(
            f"{hub_id} is not on this disk and {why}: download it once with a network, or give a folder (./folder)."
        ) from (cause or error)


def _fetch(hub_id: str, revision: str | None, info: Any, progress: Progress) -> Path:
    import huggingface_hub as hub
    from huggingface_hub.constants import HF_HUB_CACHE

    files = {
        file.rfilename: file.size or 0 for file in info.siblings or () if _wanted(file.rfilename)
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelLoadError(
            f"{hub_id} has no *.safetensors: other formats are not loaded, for pickles (*.bin) can run code "
            "when they are opened."
        )
    missing = {
        name: size
        for name, size in files.items()
        if not isinstance(hub.try_to_load_from_cache(hub_id, name, revision=info.sha), str)
    }
    _check_disk(hub_id, Path(HF_HUB_CACHE), sum(missing.values()))
    meter = _meter(progress, sum(missing.values()))
    folder = Path()
    for name in sorted(files):
        file = hub.hf_hub_download(
            hub_id,
            name,
            revision=info.sha,
            etag_timeout=HUB_TIMEOUT,
            tqdm_class=meter if name in missing else None,
        )
        if name == CONFIG:
            folder = Path(file).parent
    if folder == Path():
        raise ModelLoadError(f"{hub_id} has no config.json, so it cannot be loaded.")
    _remember_revision(hub_id, revision or "main", info.sha)
    return folder


def _wanted(name: str) -> bool:
    # Files in folders below are other variants of the weights.
    return "/" not in name and any(Path(name).match(pattern) for pattern in PATTERNS)


def _check_disk(hub_id: str, cache: Path, needed: int) -> None:
    place = next((folder for folder in (cache, *cache.parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ModelLoadError(
            f"{hub_id} needs {_gb(needed)} of disk, and {place} has {_gb(free)} free."
        )


def _meter(progress: Progress, total: int) -> type:
    """A progress bar for the hub's client that draws nothing and tells `progress` instead."""
    from tqdm import tqdm

    done = 0.0

    class Meter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            done += n or 0
            progress("downloading", min(1.0, done / total) if total else None)
            return None

    progress("downloading", 0.0 if total else None)
    return Meter


def _remember_revision(hub_id: str, revision: str, sha: str) -> None:
    """Notes which commit a branch was, as the hub's client does: offline, the files are found by that."""
    from huggingface_hub.constants import HF_HUB_CACHE

    refs = Path(HF_HUB_CACHE) / ("models--" + hub_id.replace("/", "--")) / "refs"
    if revision != sha:
        with contextlib.suppress(OSError):
            (refs / revision).parent.mkdir(parents=True, exist_ok=True)
            (refs / revision).write_text(sha)


# Verifying


def read_headers(folder: Path) -> dict[str, Stored]:
    """All tensors that a folder's safetensors hold, by name. Reads headers only, so it takes milliseconds.

    Raises ModelLoadError for missing, truncated and unreadable files.
    """
    files = _shards(folder)
    if not files:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise ModelLoadError(
                f"{folder} has only {pickles[0]}, a pickle, which could run code when it is opened: "
                "save the model as safetensors."
            )
        raise ModelLoadError(f"{folder} has no *.safetensors, so there are no weights to load.")
    stored: dict[str, Stored] = {}
    for file in files:
        stored.update(_read_header(file))
    return stored


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"{index} cannot be read: {error}.") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelLoadError(
                f"{folder} lacks {name}, one of its {len(names)} files of weights."
            )
    return [folder / name for name in names]


def _read_header(file: Path) -> dict[str, Stored]:
    """A safetensors file is 8 bytes with the header's length, the header in JSON, and the data to its end."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelLoadError(_broken(file, "its header is cut off"))
            header = json.loads(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {
            name: Stored(file, tuple(entry["shape"]), entry["dtype"])
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(_broken(file, "its header is not a safetensors header")) from error
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror}.") from error
    if 8 + length + end != size:
        raise ModelLoadError(
            _broken(file, f"it has {size:,} bytes and should have {8 + length + end:,}")
        )
    return tensors


def _broken(file: Path, what: str) -> str:
    return f"{file} is damaged ({what}): delete it and download it again."


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, Stored], folder: Path
) -> None:
    """Every tensor the model has must be there with its shape; none is ever made up. Raises ModelLoadError."""
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            raise ModelLoadError(
                f"{stored[name].file} does not fit config.json: {name} has the shape {_shape(stored[name].shape)}, "
                f"and the model wants {_shape(shape)}."
            )
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelLoadError(
            f"The weights in {folder} lack {missing[0]}{more}, so the model would be partly random."
        )


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


# Memory


def check_memory(needed: int, name: str, precision: str) -> None:
    """Refuses what would make the machine swap or kill the kernel. Raises ModelLoadError."""
    free = free_memory()
    if free is not None and needed > free:
        hint = " Try precision 4bit." if precision != "4bit" else " Try a smaller model."
        raise ModelLoadError(
            f"{name} in {precision} needs about {_gb(needed)} of memory, and {_gb(free)} are free.{hint}"
        )


def free_memory() -> int | None:
    """Bytes of memory that can be had without swapping; None if this machine does not tell."""
    try:
        import psutil  # comes with ipykernel
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


# Words


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _short(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keeps what libraries log from this thread away from the user's notebook, where it would land in a cell.

    What they log from the user's own threads still shows: nothing but a filter on their handlers changes, and
    it goes again at the end.
    """
    thread = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread or not record.name.startswith(names)

    handlers = [handler for name in ("", *names) for handler in logging.getLogger(name).handlers]
    if logging.lastResort is not None:
        handlers.append(logging.lastResort)
    for handler in handlers:
        handler.addFilter(elsewhere)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(elsewhere)
