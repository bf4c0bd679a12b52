"""What is true of each model: where its weights are, what its special tokens are called, how it is prompted.

Special tokens are named by their text and resolved to ids through the tokenizer in use, never by number.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from jupyter_sc2.errors import ModelLoadError

Order = Literal["spm", "psm"]

# StarCoder2's names for the roles that a layout needs (arXiv 2402.19173, table 5).
STARCODER2_SPECIAL: Mapping[str, str] = MappingProxyType(
    {
        "fim_prefix": "<fim_prefix>",
        "fim_middle": "<fim_middle>",
        "fim_suffix": "<fim_suffix>",
        "repo_name": "<repo_name>",
        "file_sep": "<file_sep>",
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


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model. `window` is how far back a layer looks, `context` how far the positions reach, in tokens."""

    name: str
    licence: str
    parameters: str
    hub_id: str | None = None
    revision: str | None = None
    context: int = 16384
    window: int = 4096
    order: Order = "spm"
    special: Mapping[str, str] = field(default_factory=lambda: STARCODER2_SPECIAL)
    stop: tuple[str, ...] = STARCODER2_STOP
    note: str = ""


EMBEDDED = ModelCard(
    name="embedded",
    licence="Apache-2.0",
    parameters="7M",
    context=1024,
    window=1024,
    note="Ships with the package and works offline: small and quick, for ordinary lines only.",
)

STARCODER2_3B = ModelCard(
    name="starcoder2-3b",
    licence="BigCode OpenRAIL-M",
    parameters="3B",
    hub_id="bigcode/starcoder2-3b",
    note="The model this project is made for: 17 languages, 6.1 GB in bf16, 1.8 GB in 4 bits.",
)

CARDS: Mapping[str, ModelCard] = MappingProxyType(
    {card.name: card for card in (EMBEDDED, STARCODER2_3B)}
)

EMBEDDED_FOLDER = Path(__file__).parent / "embedded" / "model"


def find_card(model: str) -> ModelCard:
    """The card for a name, a hub id ("owner/name") or a local folder; unknown ones are taken for StarCoder2's kin.

    Raises ModelLoadError for a word that is none of these.
    """
    for card in CARDS.values():
        if model in (card.name, card.hub_id):
            return card
    folder = Path(model).expanduser()
    if folder.is_dir() or model.startswith((".", "/", "~")) or folder.is_absolute():
        name = folder.resolve().name
        return replace(
            STARCODER2_3B,
            name=name,
            hub_id=None,
            licence="unknown",
            parameters="?",
            note="A local folder.",
        )
    if model.count("/") == 1 and not model.endswith("/"):
        return replace(
            STARCODER2_3B, name=model, hub_id=model, licence="unknown", parameters="?", note=""
        )
    close = difflib.get_close_matches(model, CARDS, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ModelLoadError(
        f"There is no model named {model!r}.{hint} Known are {', '.join(CARDS)}; "
        "a folder is given as ./folder, a model of the hub as owner/name."
    )
