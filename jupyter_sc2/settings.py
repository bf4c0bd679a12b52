"""The settings as traits, each with its range, default and help text.

The panel, `%config SC2`, `%sc2 settings`, JupyterLab's settings and IPython's config files set these traits, and only
the traits check the values. Lower packages get frozen values (options.py) and no traitlets objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Enum, Float, Int, TraitError, Unicode, validate
from traitlets.config import Configurable
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import ModelLoadError, SettingsError
from jupyter_sc2.models.cards import find_card
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.prompt.sources import (
    CELL_SOURCES,
    SETTINGS,
    SOURCES,
    ContextSource,
    setting_of,
)
from jupyter_sc2.runtime.entry_points import ENGINES_GROUP, registered
from jupyter_sc2.types import MAX_SEED, SamplingParams

MODES = ("automatic", "manual", "off")
AFTER_ENTER = ("off", "smart", "always")
ENGINES = ("auto", "onnxruntime", "transformers", "llamacpp", "openai")
# Those of torch and bitsandbytes and, in capitals as llama.cpp writes them, of GGUF files.
PRECISIONS = (
    *("auto", "fp32", "bf16", "fp16", "8bit", "int4", "4bit", "4bit-double"),
    *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"),
)
# What to do when a suggestion matches indexed code; without an index, nothing.
ATTRIBUTION = ("off", "show", "warn", "block")
# What to do where a suggestion uses a well-known name that nothing imports.
IMPORTS = ("off", "ask", "on")

NEXT_SUGGESTION = ("auto", "on", "off")


def _context_traits() -> dict[str, Any]:
    return {
        name: Bool(setting.default, help=setting.help).tag(config=True)
        for name, setting in SETTINGS.items()
    }


if TYPE_CHECKING:
    _Enum = Enum[str]
else:  # in traitlets before 5.13 it has two type arguments, before 5.10 none
    _Enum = Enum


class _EngineName(_Enum):
    """An engine of this package, or one that another package registers.

    Those are looked up only when a name is none of ours, or when all of them are asked for.
    """

    @property
    def values(self) -> list[str]:
        return [*ENGINES, *(name for name in registered(ENGINES_GROUP) if name not in ENGINES)]

    @values.setter
    def values(self, values: Any) -> None:
        """traitlets sets them when the trait is made."""

    def validate(self, obj: Any, value: Any) -> Any:
        return value if value in ENGINES else super().validate(obj, value)


class SC2(Configurable):
    """The settings of jupyter-sc2 in one kernel."""

    mode = Enum(
        MODES,
        default_value="automatic",
        help="When ghost text appears: automatic (while typing), manual (only on `Alt+\\`) or off.",
    ).tag(config=True)
    after_enter = Enum(
        AFTER_ENTER,
        default_value="always",
        help="Ghost text after Enter: off, smart (below `:`, an open bracket, a comment or an accept) or always.",
    ).tag(config=True)
    model = Unicode(
        "embedded",
        help="Model name (`jupyter sc2 models`), Hub id (owner/name), or path (./folder, ./model.gguf).",
    ).tag(config=True)
    engine = _EngineName(
        ENGINES,
        default_value="auto",
        help="Engine: onnxruntime (embedded, int4), transformers (PyTorch), llamacpp (GGUF) or openai (a server).",
    ).tag(config=True)
    precision = Enum(
        PRECISIONS,
        default_value="auto",
        help="Precision of the weights: auto picks what suits this machine; 8bit, int4 and 4bit quantize.",
    ).tag(config=True)
    server = Unicode(
        "",
        help="Completions server to use: a URL such as http://host:8000, or auto for a running `jupyter sc2 serve`.",
    ).tag(config=True)
    max_tokens = Int(64, min=1, max=1024, help="Maximum number of tokens in a completion.").tag(
        config=True
    )
    temperature = Float(
        0.0, min=0.0, max=2.0, help="Sampling temperature; 0 disables sampling."
    ).tag(config=True)
    top_k = Int(
        0, min=0, max=1000, help="Sample from the k most likely tokens; 0 for no limit."
    ).tag(config=True)
    top_p = Float(
        0.95,
        min=0.01,
        max=1.0,
        help="Nucleus sampling: keep the smallest set of tokens whose probabilities sum to p.",
    ).tag(config=True)
    seed = Int(
        None,
        allow_none=True,
        min=0,
        max=MAX_SEED,
        help="Random seed, for reproducible sampling.",
    ).tag(config=True)
    context_tokens = Int(
        2048,
        min=128,
        max=16384,
        help="Maximum prompt length in tokens; longer prompts are slower.",
    ).tag(config=True)
    # context_cells, context_variables, …: one for each source of context that can be left out.
    locals().update(_context_traits())
    grounding = Bool(
        True, help="Repair or reject suggestions that contradict live variables or Python syntax."
    ).tag(config=True)
    imports = Enum(
        IMPORTS,
        default_value="ask",
        help="Add the import that a suggestion lacks, such as numpy as np: off, ask (shown beside it first) or on.",
    ).tag(config=True)
    confidence = Float(
        None,
        allow_none=True,
        min=0.0,
        max=1.0,
        help="Probability (0 to 1) from which a word is shown: higher is fewer and surer. None: the model's default.",
    ).tag(config=True)
    adaptive_confidence = Bool(
        True,
        help="Let accepted suggestions, and those you type past, adjust within small bounds what is shown.",
    ).tag(config=True)
    prose = Bool(False, help="Also complete Markdown and raw cells while you type.").tag(
        config=True
    )
    next_suggestion = Enum(
        NEXT_SUGGESTION,
        default_value="auto",
        help="Compute the next suggestion while one is shown: auto (unless the model is on a server), on or off.",
    ).tag(config=True)
    threads = Int(
        0,
        min=0,
        max=256,
        help="CPU threads for the model; 0: as many as help, but one while a cell runs or the cores are busy.",
    ).tag(config=True)
    offline = Bool(
        False, help="Never use the network: load only models that are on this disk."
    ).tag(config=True)
    attribution = Enum(
        ATTRIBUTION,
        default_value="show",
        help="What to do when a suggestion matches indexed code: off, show, warn or block.",
    ).tag(config=True)
    attribution_lexemes = Int(
        65,
        min=50,
        max=1000,
        help="Minimum length of a match, with the code around it, in names, operators and literals.",
    ).tag(config=True)
    statistics = Bool(
        True,
        help="Keep usage statistics, in a file on this machine (`%sc2 stats`): counts and times, no code.",
    ).tag(config=True)
    allowed = Bool(
        True,
        help="Administrator switch: False disables completion, and users cannot override it.",
    ).tag(config=True)

    @validate("model")
    def _check_model(self, proposal: Bunch) -> str:
        """Rejects a misspelt name when it is set, and not later on the session's thread.

        With a server any name is accepted, as only the server knows its models.
        """
        if self.server:
            return str(proposal.value)
        try:
            find_card(proposal.value)
        except ModelLoadError as error:
            raise TraitError(str(error)) from error
        return str(proposal.value)

    @validate("allowed")
    def _check_allowed(self, proposal: Bunch) -> bool:
        if proposal.value and not self.allowed:
            raise TraitError("the configuration of this kernel forbids completion.")
        return bool(proposal.value)

    @validate("temperature", "top_p", "confidence")
    def _check_finite(self, proposal: Bunch) -> float | None:
        """NaN passes traitlets' min and max: it is neither below nor above anything."""
        if proposal.value is None:
            return None
        if math.isnan(proposal.value):
            raise TraitError(f"{proposal.trait.name} cannot be {proposal.value}.")
        return float(proposal.value)

    def set(self, name: str, value: object) -> None:
        """Changes one setting; text is converted to the setting's type. Raises SettingsError in one line."""
        trait = self.settings().get(name)
        if trait is None:
            raise SettingsError(
                f"There is no setting named {name!r}. Settings are: {', '.join(self.settings())}."
            )
        try:
            setattr(self, name, trait.from_string(value) if isinstance(value, str) else value)
        except (TraitError, ValueError) as error:
            raise SettingsError(f"{name} cannot be {value!r}: {_reason(trait, error)}") from error

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """The traits that are settings, by name, in the order of their definitions."""
        own = cls.class_own_traits(config=True)
        return {name: own[name] for name in vars(cls) if name in own}

    def load_options(self) -> LoadOptions:
        return LoadOptions.of(self)

    def completion_options(self) -> CompletionOptions:
        return CompletionOptions(
            sampling=SamplingParams(
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=self.seed,
            ),
            context_tokens=self.context_tokens,
            attribution=self.attribution,
            attribution_lexemes=self.attribution_lexemes,
            grounding=self.grounding,
            imports=self.imports,
            confidence=self.confidence,
            prose=self.prose,
            next_suggestion=self.next_suggestion,
            excluded_sources=frozenset(
                name for name in CELL_SOURCES if not self.includes(SOURCES[name])
            ),
        )

    def includes(self, source: ContextSource) -> bool:
        """Whether the text of this source is in the prompt."""
        name = setting_of(source)
        return not name or bool(getattr(self, name))


def asks_server(settings: SC2) -> bool:
    """Whether the model is one on a server."""
    return bool(settings.server) and settings.engine in ("auto", "openai")


def in_order(names: Iterable[str]) -> list[str]:
    """The names in the order to set them: `server` first, as it decides which models are accepted."""
    return sorted(names, key=lambda name: name != "server")


def _reason(trait: Any, error: Exception) -> str:
    low, high = getattr(trait, "min", None), getattr(trait, "max", None)
    if low is not None and high is not None:
        return f"it must lie between {low} and {high}."
    if isinstance(trait, Enum):
        return f"it must be one of {', '.join(map(str, trait.values or ()))}."
    return str(error)
