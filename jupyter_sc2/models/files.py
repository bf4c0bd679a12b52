"""Finds a model's files and checks them. What cannot be loaded is refused here, in one line.

Only safetensors are read: they are plain numbers, while the older *.bin files are pickles, which run code when
they are opened. Sizes are checked before anything is built of them: what a file says costs no more than reading it.
Nothing here imports torch.
"""

from __future__ import annotations

import fnmatch
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import hub, packed
from jupyter_sc2.models.cards import (
    EMBEDDED,
    EMBEDDED_FOLDER,
    USER_FILE,
    ModelCard,
    Shape,
    find_card,
)
from jupyter_sc2.models.machine_speed import measured, measured_soon
from jupyter_sc2.models.plan import AUTO_GGUF, GGUF, TORCH, PrecisionOption, plan, smaller
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited
from jupyter_sc2.runtime.characters import is_plain_name
from jupyter_sc2.runtime.hardware import Machine, format_bytes, machine, may_have_gpu
from jupyter_sc2.runtime.hardware import free_memory as free_memory
from jupyter_sc2.runtime.log_filter import keep_logs_out as keep_logs_out
from jupyter_sc2.runtime.progress import Progress

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# What is fetched from the hub: numbers and JSON, neither code nor pickles.
PATTERNS = ("*.safetensors", "*.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Bytes. The largest that are published have 1, 10 and 10 MB; safetensors' own library reads no longer header.
MAX_CONFIG_BYTES = 16 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_HEADER_BYTES = 100_000_000
# The most that config.json may say, several times of what is published.
MAX_LAYERS = 1000
MAX_HEADS = 4096
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 31
# By the names of these sizes in the configurations of transformers' models.
CONFIG_LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), MAX_LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), MAX_HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), MAX_HEADS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "head_dim"), MAX_WIDTH),
    **dict.fromkeys(("n_embd", "n_inner", "d_model", "ffn_dim"), MAX_WIDTH),
    "vocab_size": MAX_VOCABULARY,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), MAX_POSITIONS),
    "sliding_window": MAX_POSITIONS,
}
# What is an object in config.json, or null.
TABLES = ("rope_parameters", "rope_scaling", "quantization_config")
# Bits of safetensors' kinds of numbers.
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape and its safetensors dtype ("F32", "BF16", …).

    A `packed` one is several in the file (packed.py); its shape is that of the weights.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    packed: bool = False

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
        return card, download(card, "auto", offline=offline, progress=progress)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelLoadError(
            f"{model} {what}: give the folder that holds config.json and *.safetensors."
        )
    return card, folder


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises ModelLoadError if there is none, it cannot be read, or its sizes are absurd."""
    file = folder / CONFIG
    if not file.exists():
        raise ModelLoadError(f"{folder} has no config.json, so it is not a model's folder.")
    config = _read_json(file, MAX_CONFIG_BYTES)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{file} does not say what kind of model it is (model_type).")
    for name, value in _named(config):
        if name in CONFIG_LIMITS and not _is_size(value, CONFIG_LIMITS[name]):
            raise ModelLoadError(
                f"{file} describes no model: {name} has to be a whole number from 1 to {CONFIG_LIMITS[name]:,}, "
                f"and is {_short(value)}."
            )
        if isinstance(value, float) and math.isnan(value):
            raise ModelLoadError(f"{file} describes no model: {name} is no number (NaN).")
        if name == "rope_theta" and not (isinstance(value, (int, float)) and 0 < value < 1e30):
            raise ModelLoadError(
                f"{file} describes no model: rope_theta has to be a number above 0, and is {_short(value)}."
            )
        if name in TABLES:
            raise ModelLoadError(
                f"{file} describes no model: {name} has to be an object, and is {_short(value)}."
            )
    return config


def largest(value: Any) -> Any:
    """A size in config.json, of which some models have one for each layer."""
    return max(value, default=None) if isinstance(value, list) else value


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What stands in a configuration and in those within it; null is as good as nothing."""
    waiting = [config]
    while waiting:
        for name, value in waiting.pop().items():
            if isinstance(value, Mapping) and name not in CONFIG_LIMITS:
                waiting.append(value)
            elif value is not None:
                yield name, value


def _is_size(value: Any, most: int) -> bool:
    if isinstance(value, list):  # some models have one for each layer
        return all(not isinstance(one, list) and _is_size(one, most) for one in value)
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and abs(value) < 10**30 else repr(value)[:40]
    return "false" if value is False else "true" if value is True else text


def check_layers(layers: int, stored: Mapping[str, Stored], folder: Path) -> None:
    """There cannot be more layers than tensors; to build them would take long. Raises ModelLoadError."""
    if layers > len(stored):
        raise ModelLoadError(
            f"{folder}/config.json describes {layers:,} layers, and there are {len(stored):,} tensors: "
            "they do not belong together."
        )


def _read_json(file: Path, most: int) -> Any:
    """A file of up to `most` bytes. Raises ModelLoadError."""
    try:
        return parse_json(read_limited(file, most))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ModelLoadError(f"{file} cannot be read: {reason}.") from error


def describe(card: ModelCard, config: Mapping[str, Any], parameters: int) -> ModelCard:
    """The card with what the files say: how far positions reach, how far a layer looks back, how large it is."""
    context = largest(config.get("max_position_embeddings")) or card.context
    window = largest(config.get("sliding_window")) or context
    size = card.parameters if card.parameters != "?" else in_billions(parameters)
    return replace(card, context=context, window=min(window, context), parameters=size)


def card_and_shape(model: str) -> tuple[ModelCard, Shape]:
    """A model's card and its shape, from the card or from config.json, without a network. Raises ModelLoadError."""
    card = find_card(model)
    if card.shape is not None:
        return card, card.shape
    folder: Path | None = Path(model).expanduser()
    if card.name == EMBEDDED.name:
        folder = EMBEDDED_FOLDER
    elif card.hub_id is not None:
        folder = hub.cached_folder(card.hub_id, card.revision)
    if folder is None or not folder.is_dir():
        raise ModelLoadError(
            f"The sizes of {card.name} are not known before its config.json is on this disk."
        )
    config = read_config(folder)
    shape = Shape.from_config(config)
    if shape is None:
        raise ModelLoadError(f"{folder}/config.json does not give the sizes of the model.")
    return describe(card, config, shape.parameters), shape


def plan_for(
    options: LoadOptions, *, tokens: int, may_wait: bool = True
) -> tuple[ModelCard, Machine, list[PrecisionOption]]:
    """What loading with these options would choose on this machine, and what else there is. Raises ModelLoadError.

    `tokens` are those of the prompt that the KV cache is for. With `may_wait` the machine's speed is measured now if it
    never was, and torch is imported unless the model does without it; otherwise torch is imported only where there is
    a GPU to ask it for, and a thread measures.
    """
    card, shape = card_and_shape(options.model)
    ask_torch = "torch" in sys.modules or (not shape.packed and (may_wait or may_have_gpu()))
    here = machine(by_torch=ask_torch)
    rows = plan(
        shape,
        here,
        tokens=min(tokens, card.window),
        engine=options.engine,
        precision=options.precision,
        speed=measured(here) if may_wait else measured_soon(here),
    )
    return card, here, rows


def plans_for(
    options: LoadOptions, models: Iterable[str], *, tokens: int
) -> dict[str, list[PrecisionOption]]:
    """The same for several models, without those whose sizes are not known. Never imports torch.

    Without torch a GPU is not seen: speeds are those of the processor, which is measured if it never was.
    """
    here = machine(by_torch="torch" in sys.modules)
    speed, found = measured(here), {}
    for model in dict.fromkeys(models):
        with suppress(ModelLoadError):
            card, shape = card_and_shape(model)
            limit = min(tokens, card.window)
            found[model] = plan(
                shape,
                here,
                tokens=limit,
                engine=options.engine,
                precision=options.precision,
                speed=speed,
            )
    return found


# Downloading


def download(
    card: ModelCard, precision: str, *, offline: bool, progress: Progress, verify: bool = False
) -> Path:
    """The folder with the weights of a model of the hub, or the GGUF file that the precision asks for.

    What is there already is not fetched again, unless `verify` finds it damaged. Raises ModelLoadError.
    """
    if precision in GGUF:
        return gguf(card, precision, offline=offline, progress=progress, verify=verify)
    if card.hub_id is None:
        raise ModelLoadError(f"{card.name} is not a Hub model; there is nothing to download.")
    return hub.fetch(
        card.hub_id,
        card.revision,
        lambda names: _safetensors(card, names),
        offline=offline,
        progress=progress,
        verify=verify,
    )


def gguf(
    card: ModelCard,
    precision: str,
    *,
    offline: bool,
    progress: Progress,
    verify: bool = False,
) -> Path:
    """A GGUF file from the repository that the card names; "auto" takes the usual precision that is there.

    Raises ModelLoadError, also where there is no such file: it can be made of the original weights.
    """
    if card.gguf is None:
        raise ModelLoadError(
            f"No GGUF files of {card.name} are known: give a file (./model.gguf), or `gguf` in {USER_FILE}."
        )
    found: list[str] = []

    def choose(names: Sequence[str]) -> Sequence[str]:
        for wanted in (*AUTO_GGUF, *GGUF) if precision == "auto" else (precision,):
            pattern = card.gguf_file.format(precision=wanted).lower()
            if hits := [name for name in names if fnmatch.fnmatch(name.lower(), pattern)]:
                found[:] = hits[:1]
                return hits[:1]
        there = [name for name in names if name.lower().endswith(".gguf")]
        raise ModelLoadError(
            f"{card.gguf} has no file in {precision}; it has {', '.join(there) or 'none at all'}."
        )

    folder = hub.fetch(card.gguf, None, choose, offline=offline, progress=progress, verify=verify)
    return folder / found[0]


def bytes_on_disk(card: ModelCard) -> int:
    """How much of a model's weights is on this disk, original ones and GGUF files."""
    if card.name == EMBEDDED.name:
        folders: list[Path | None] = [EMBEDDED_FOLDER]
    else:
        folders = [
            hub.cached_folder(id, revision)
            for id, revision in ((card.hub_id, card.revision), (card.gguf, None))
            if id is not None
        ]
    return sum(
        file.stat().st_size
        for folder in dict.fromkeys(folders)
        if folder is not None
        for file in folder.iterdir()
        if file.suffix in (".safetensors", ".gguf") and file.is_file()
    )


def _safetensors(card: ModelCard, names: Sequence[str]) -> Sequence[str]:
    # Files in folders below are other variants of the weights.
    top = [name for name in names if "/" not in name]
    wanted = [name for name in top if any(Path(name).match(pattern) for pattern in PATTERNS)]
    if not any(name.endswith(".safetensors") for name in wanted):
        raise ModelLoadError(
            f"{card.hub_id} has no *.safetensors: other formats are not loaded, for pickles (*.bin) can run code "
            "when they are opened."
        )
    if CONFIG not in wanted:
        raise ModelLoadError(f"{card.hub_id} has no config.json, so it cannot be loaded.")
    return wanted


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
    return _joined(stored)


def _joined(stored: dict[str, Stored]) -> dict[str, Stored]:
    """With the parts of packed tensors as one."""
    joined = dict(stored)
    for name, entry in stored.items():
        scales, middles = packed.parts(name)
        if name.endswith("weight") and scales in stored:
            rows = entry.shape[0]
            columns = entry.shape[1] * (2 if middles in stored else 1)
            joined[name] = replace(entry, shape=(rows, columns), packed=True)
            joined.pop(scales)
            joined.pop(middles, None)
    return joined


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        listed = _read_json(index, MAX_INDEX_BYTES)["weight_map"].values()
        names = sorted({name if is_plain_name(name) else repr(name) for name in listed})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{index} does not say which file has which weights.") from error
    for name in names:
        if not is_plain_name(name) or not (folder / name).is_file():
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
            if length > MAX_HEADER_BYTES:
                raise ModelLoadError(_broken(file, f"its header has {length:,} bytes"))
            header = parse_json(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 0
        for entry in sorted(entries.values(), key=lambda entry: entry["data_offsets"]):
            end = _end_of(entry, end)
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


def _end_of(entry: Mapping[str, Any], begin: int) -> int:
    """Where the data of a tensor end that has to begin there: the format allows no holes. Raises ValueError."""
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = (*shape, start, end)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 62 for n in numbers):  # fmt: skip
        raise ValueError("no place")
    if not isinstance(dtype, str):
        raise ValueError("no kind of numbers")
    # A kind that only a later version of the format knows is refused by whoever reads it.
    bits = DTYPE_BITS.get(dtype)
    if start != begin or (bits is not None and math.prod(shape) * bits != (end - start) * 8):
        raise ValueError("another place")
    return int(end)


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


def check_memory(needed: int, name: str, precision: str, *, packed: bool = False) -> None:
    """Refuses what would make the machine swap or kill the kernel. Raises ModelLoadError."""
    free = free_memory()
    if free is not None and needed > free:
        here = machine(by_torch=precision in TORCH)
        raise ModelLoadError(
            f"{name} in {precision} needs about {format_bytes(needed)} of memory, and "
            f"{format_bytes(free)} are free. Try {smaller(precision, here, packed=packed)}."
        )


# Words


def in_billions(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)
