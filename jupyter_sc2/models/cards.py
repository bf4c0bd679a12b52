"""Model cards: where the weights of each model are, its special tokens, and how it is prompted.

The cards are in `models.toml` beside this module, and the user's own in `jupyter_sc2_models.toml`, in any of
Jupyter's configuration folders. Special tokens are named by their text and resolved to ids through the
tokenizer in use, never by number.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.calibration import GENERIC, Calibration
from jupyter_sc2.runtime.bounded_read import read_limited
from jupyter_sc2.runtime.characters import escaped, is_plain_path
from jupyter_sc2.source.languages import IPYTHON, UNKNOWN, canonical

Order = Literal["spm", "psm", "left-to-right"]
NotebookLayout = Literal["outside", "inside", "jupyter"]
# Old names of a card's keys, which users' files may still have.
OLD_KEYS = {"trunk": "notebook_layout", "heals": "token_healing", "ways": "beam_width"}
FIM_ROLES = ("fim_prefix", "fim_suffix", "fim_middle")

ALL_LANGUAGES = "*"

SHIPPED_FILE = Path(__file__).parent / "models.toml"
USER_FILE = "jupyter_sc2_models.toml"
MAX_FILE_BYTES = 4 << 20  # bytes; a thousand models have a tenth
TRAINING_FILE = "training.json"  # what `jupyter sc2 train` leaves in the folder of a model
CALIBRATION_FILE = "calibration.json"  # what `jupyter sc2 eval calibration --fit` puts beside it

# StarCoder2's names for the roles that a layout needs (arXiv 2402.19173, table 5).
STARCODER2_SPECIAL: Mapping[str, str] = MappingProxyType(
    {
        "fim_prefix": "<fim_prefix>",
        "fim_middle": "<fim_middle>",
        "fim_suffix": "<fim_suffix>",
        "repo_name": "<repo_name>",
        "file_sep": "<file_sep>",
        "jupyter_start": "<jupyter_start>",
        "jupyter_text": "<jupyter_text>",
        "jupyter_code": "<jupyter_code>",
        "jupyter_output": "<jupyter_output>",
    }
)

# Whatever follows one of these belongs to another document. StarCoder2's authors name <file_sep> as the stop.
STARCODER2_STOP = (
    "<|endoftext|>",
    "<file_sep>",
    "<repo_name>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)


# In config.json: the tensors are those of models/packed.py. And the precision that such a model has by itself.
PACKED = "packed"
# What users see instead of a precision's key; the others are shown as they are typed.
PRECISION_NAMES = {PACKED: "4-bit"}
# The precisions that are made by quantizing on load.
QUANTIZED = ("8bit", "int4", "4bit", "4bit-double")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder, from which all others follow. `gated` MLPs have three matrices, others two.

    `packed` weights are stored in 4 bits, and computed with in that form and in full (models/packed.py). `bias` tells
    which parts have one: "none", "qkv", "linear" for all matrices, "all" for the norms too.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    gated: bool = False
    bias: Literal["none", "qkv", "linear", "all"] = "none"
    packed: bool = False

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices, which are what quantization makes smaller."""
        return self.layers * (self.attention + self.mlp)

    @property
    def attention(self) -> int:
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def mlp(self) -> int:
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def embedding(self) -> int:
        """Weights of the embedding and the output layer, which are one matrix if tied."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def rest(self) -> int:
        """Norms and biases."""
        norms = (2 * self.layers + 1) * self.hidden
        qkv = self.head_dim * (self.heads + 2 * self.kv_heads)
        up = self.intermediate * (2 if self.gated else 1)
        linear = qkv + up + 2 * self.hidden
        per_layer = {"none": 0, "qkv": qkv, "linear": linear, "all": linear}[self.bias]
        return norms * (2 if self.bias == "all" else 1) + self.layers * per_layer

    @property
    def parameters(self) -> int:
        return self.linear + self.embedding + self.rest

    def kv_bytes(self, bytes_per_value: float = 2.0) -> int:
        """Bytes of the KV cache for each token."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Shape | None:
        """The shape that a config.json describes; None if it does not say enough."""
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            starcoder2 = config["model_type"] == "starcoder2"
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                intermediate=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", starcoder2)),
                gated=not starcoder2,
                bias=_bias(config),
                packed=PACKED in config,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None


def _bias(config: Mapping[str, Any]) -> Literal["none", "qkv", "linear", "all"]:
    if config["model_type"] == "starcoder2":
        return "all" if config.get("use_bias", True) else "none"
    if config["model_type"] == "qwen2":
        return "qkv"
    return "linear" if config.get("mlp_bias") else "none"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model. `window` is how far back a layer looks, `context` how far the positions reach, in tokens.

    `models.toml` tells what each field means. Without `order`'s filling in, and for a role in `special` that
    the tokenizer has no token for, a prompt does without.
    """

    name: str
    licence: str = "unknown"
    licence_summary: str = ""
    licence_url: str = ""
    parameters: str = "?"
    family: str = "starcoder2"
    hub_id: str | None = None
    revision: str | None = None
    gguf: str | None = None
    gguf_file: str = "*[-._]{precision}.gguf"
    context: int = 16384
    window: int = 4096
    order: Order = "spm"
    path: Literal["inside", "before"] = "inside"
    notebook_layout: NotebookLayout = "outside"
    token_healing: bool = False
    beam_width: int = 1
    languages: tuple[str, ...] = ("python",)
    special: Mapping[str, str] = field(default_factory=lambda: STARCODER2_SPECIAL)
    stop: tuple[str, ...] = STARCODER2_STOP
    shape: Shape | None = None
    confidence: float = 0.0
    calibration: Calibration = GENERIC
    note: str = ""

    def __post_init__(self) -> None:
        # What is displayed may come from a server, a file's header or a file's name.
        for name in ("name", "licence", "licence_summary", "licence_url", "parameters", "note"):
            object.__setattr__(self, name, escaped(getattr(self, name)))

    def knows(self, language: str) -> bool:
        """Whether the model may be asked for this language, by the name that source/languages.py has for it."""
        names = {canonical(name) for name in self.languages}
        if language == IPYTHON:  # who has learned Python has seen notebooks
            language = "python"
        return language in names or (ALL_LANGUAGES in names and language != UNKNOWN)

    @property
    def notebook_is_a_file(self) -> bool:
        """Whether the cells above are a file of their own, before the block that is filled in."""
        return self.notebook_layout == "outside" and "file_sep" in self.special

    @property
    def licence_line(self) -> str:
        """The licence, what it asks for, and where its text is."""
        if self.licence == "unknown":
            return "unknown here; see " + (
                "its page on the hub." if self.hub_id else "where it is from."
            )
        where = f" ({self.licence_url})" if self.licence_url else ""
        return f"{self.licence}. {self.licence_summary}".rstrip() + where


EMBEDDED = ModelCard(
    name="embedded",
    licence="Apache-2.0",
    licence_summary="Free to use, change and pass on; keep the licence and the notices.",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    parameters="109M",
    context=2048,
    window=2048,
    confidence=0.25,  # see docs/measured.md
    note="Ships with the package and works offline: small and fast, for ordinary lines only.",
)


def was_trained_here(folder: Path) -> bool:
    """Whether `jupyter sc2 train` made the model."""
    return (folder / TRAINING_FILE).exists()


def as_trained(card: ModelCard, folder: Path) -> ModelCard:
    """The card with what is true of the models that `jupyter sc2 train` makes, if the one in this folder is."""
    if not was_trained_here(folder):
        return card
    card = replace(card, token_healing=True, beam_width=4, languages=("python",))
    calibration = _calibration_in(folder)
    return card if calibration is None else replace(card, calibration=calibration)


def _calibration_in(folder: Path) -> Calibration | None:
    """The curve that was fitted for the model in this folder; None if none was, or it cannot be read."""
    try:
        return Calibration.from_json(
            json.loads(read_limited(folder / CALIBRATION_FILE, MAX_FILE_BYTES))
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


SHIPPED_MODEL = Path(__file__).parents[1] / "embedded" / "model"
# Who has tuned a small model (`jupyter sc2 train`) can give it to everybody on a machine.
EMBEDDED_FOLDER = Path(os.environ.get("JUPYTER_SC2_EMBEDDED") or SHIPPED_MODEL)
EMBEDDED = as_trained(EMBEDDED, EMBEDDED_FOLDER)
if EMBEDDED_FOLDER != SHIPPED_MODEL:
    EMBEDDED = replace(
        EMBEDDED,
        licence="unknown",
        licence_summary="",
        licence_url="",
        parameters="?",
        confidence=0.0,
        note="This machine's own small model (JUPYTER_SC2_EMBEDDED).",
    )


def cards() -> dict[str, ModelCard]:
    """All models that are known by name: the embedded one, those of this package, the user's that are right."""
    return _read_cards()[0]


def card_errors() -> list[ModelLoadError]:
    """What is wrong in the user's files: for each file or model one error that names file, table and key."""
    _, errors, unreadable = _read_cards()
    return [*unreadable, *errors.values()]


def _read_cards() -> tuple[dict[str, ModelCard], dict[str, ModelLoadError], list[ModelLoadError]]:
    """The known models, the errors of others by their name, and those of files that cannot be read at all."""
    known = {EMBEDDED.name: EMBEDDED, **_shipped().cards}
    errors: dict[str, ModelLoadError] = {}
    unreadable: list[ModelLoadError] = []
    for path in _users_files():
        try:
            file = _File(path, _shipped().tables)
        except ModelLoadError as error:
            unreadable.append(error)
        else:
            known |= file.cards
            errors |= file.errors
    return known, errors, unreadable


def find_card(model: str) -> ModelCard:
    """The card for a name, a hub id ("owner/name"), a folder or a .gguf file; raises ModelLoadError for none.

    An unknown one gets the layout of the model that it is named after, or StarCoder2's; `with_known_layout` corrects
    that once its tokenizer is there.
    """
    if model == EMBEDDED.name:  # whatever the user's files say
        return EMBEDDED
    known, errors, unreadable = _read_cards()
    if model in errors:
        raise errors[model]
    for card in known.values():
        if model in (card.name, card.hub_id):
            return card
    path = Path(model).expanduser()
    if model.lower().endswith(".gguf"):
        return _unknown_model(known, path.stem, note="A local file.")
    if path.is_dir() or model.startswith((".", "/", "~")) or path.is_absolute():
        card = _unknown_model(known, path.resolve().name, note="A local folder.")
        return as_trained(card, path)
    if model.count("/") == 1 and is_plain_path(model):
        card = _unknown_model(known, model.partition("/")[2])
        return replace(card, name=model, hub_id=model)
    if unreadable:  # the name may be in there
        raise unreadable[0]
    close = difflib.get_close_matches(model, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ModelLoadError(
        f"There is no model named {model!r}.{hint} Known are {', '.join(known)}; "
        "a folder is given as ./folder, a model of the hub as owner/name."
    )


def with_known_layout(card: ModelCard, special_tokens: Collection[str]) -> ModelCard:
    """The card with the layout that fits a tokenizer's special tokens: of its own family, or of one that does.

    Among families with all their fill-in-the-middle tokens in the tokenizer, the one with the most tokens counts.
    """

    def found(one: ModelCard) -> int:
        if any(one.special.get(role) not in special_tokens for role in FIM_ROLES):
            return 0
        return sum(token in special_tokens for token in one.special.values())

    if found(card) == len(card.special):
        return card
    best = max([card, *_shipped().cards.values()], key=found)
    return card if found(best) <= found(card) else _with_layout(card, best)


def _unknown_model(known: Mapping[str, ModelCard], name: str, note: str = "") -> ModelCard:
    namesake = next((c for n, c in known.items() if name.lower().startswith(n)), ModelCard(name=""))
    card = ModelCard(name=name, context=namesake.context, window=namesake.window, note=note)
    return _with_layout(card, namesake)


def _with_layout(card: ModelCard, model: ModelCard) -> ModelCard:
    names = ("family", "order", "path", "notebook_layout", "languages", "special", "stop")
    return replace(card, **{name: getattr(model, name) for name in names})


# Reading the files


@cache
def _shipped() -> _File:
    return _File(SHIPPED_FILE, {})


def _users_files() -> Iterator[Path]:
    from jupyter_core.paths import jupyter_config_path

    # The first folder counts most, so it is read last.
    for folder in reversed(jupyter_config_path()):
        if (file := Path(folder) / USER_FILE).is_file():
            yield file


class _File:
    """A file of cards. `tables` of another may be referred to: families and licences."""

    def __init__(self, file: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self._file = file
        read = self._read()
        if unknown := sorted(read.keys() - {"model", "family", "licence"}):
            raise ModelLoadError(f"{file}: there is no table [{unknown[0]}]; use [model.NAME].")
        self.tables: dict[str, dict[str, Any]] = {}
        for kind in ("model", "family", "licence"):
            own = read.get(kind, {})
            if not (isinstance(own, dict) and all(isinstance(t, dict) for t in own.values())):
                raise ModelLoadError(f"{file}: [{kind}] holds tables: [{kind}.NAME].")
            self.tables[kind] = {**tables.get(kind, {}), **own}
        self.cards: dict[str, ModelCard] = {}
        self.errors: dict[str, ModelLoadError] = {}  # by the model that is left out
        for name, table in read.get("model", {}).items():
            try:
                self.cards[name] = self._card(name, dict(table))
            except ModelLoadError as error:
                self.errors[name] = error

    def _read(self) -> dict[str, Any]:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            return tomllib.loads(read_limited(self._file, MAX_FILE_BYTES).decode())
        except OSError as error:
            raise ModelLoadError(f"{self._file} cannot be read: {error.strerror}.") from error
        except RecursionError as error:
            raise ModelLoadError(f"{self._file} is nested too deep.") from error
        except ValueError as error:  # also what is not UTF-8
            raise ModelLoadError(f"{self._file} is not a TOML file: {error}.") from error

    def _card(self, name: str, table: dict[str, Any]) -> ModelCard:
        import msgspec  # not at the top: what trains a model needs the cards, and nothing that reads files of them

        family = table.get("family", "starcoder2")
        if family not in self.tables["family"]:
            known = ", ".join(self.tables["family"])
            raise self._wrong(name, "family", f"must be one of {known}, not {family!r}")
        values = {**self.tables["family"][family], **table, "name": name}
        values = {OLD_KEYS.get(key, key): value for key, value in values.items()}
        values.setdefault("window", values.get("context", ModelCard.window))
        licence = self.tables["licence"].get(values.get("licence", ""), {})
        values.setdefault("licence_summary", licence.get("summary", ""))
        values.setdefault("licence_url", licence.get("url", ""))
        self._refuse_unknown(name, values, ModelCard)
        if isinstance(shape := values.get("shape"), dict):
            self._refuse_unknown(name, shape, Shape, "shape.")
        try:
            card = msgspec.convert(values, ModelCard)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            key = where.strip(".`") or "?"
            raise self._wrong(name, key, f"is wrong: {what}") from error
        # Some become names of files, with "-" for what has a meaning in paths.
        for key in ("name", "hub_id", "revision", "gguf"):
            value = getattr(card, key) or "-"
            most = {"name": 9, "revision": 9}.get(key, 1)
            if not is_plain_path(value.replace(":", "-")) or value.count("/") > most:
                raise self._wrong(name, key, f"is no plain name: {value!r}")
        try:
            card.gguf_file.format(precision="")
        except (LookupError, ValueError, AttributeError) as error:
            raise self._wrong(name, "gguf_file", "has braces other than {precision}") from error
        if not 1 <= card.beam_width <= 16:
            raise self._wrong(name, "beam_width", f"must be from 1 to 16, not {card.beam_width}")
        if not card.languages:
            raise self._wrong(name, "languages", "must name at least one language")
        roles = (*STARCODER2_SPECIAL, "bos")
        for role in card.special:
            if role not in roles:
                raise self._wrong(name, f"special.{role}", f"is no role: {', '.join(roles)}")
        return card

    def _refuse_unknown(
        self, name: str, table: Mapping[str, Any], kind: Any, above: str = ""
    ) -> None:
        allowed = [one.name for one in fields(kind)]
        for key in table:
            if key not in allowed:
                close = difflib.get_close_matches(key, allowed, n=1)
                hint = f"; did you mean {above}{close[0]}?" if close else ""
                raise self._wrong(name, f"{above}{key}", f"is no key of a model{hint}")

    def _wrong(self, name: str, key: str, what: str) -> ModelLoadError:
        return ModelLoadError(
            f"{self._file}, table [model.{name}]: {key} {what.removesuffix('.')}."
        )
