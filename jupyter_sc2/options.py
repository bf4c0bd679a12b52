"""The settings as frozen values, for all packages below the extension."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from jupyter_sc2.prompt.sources import DEFAULT_EXCLUDED
from jupyter_sc2.types import SamplingParams


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which weights are loaded, and how."""

    model: str = "embedded"
    engine: str = "auto"
    precision: str = "auto"
    server: str = ""
    threads: int = 0
    offline: bool = False

    @classmethod
    def of(cls, source: object) -> LoadOptions:
        """From the attributes of these names: of the settings, or of a command's arguments."""
        return cls(**{one.name: getattr(source, one.name) for one in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """How a request is completed."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    context_tokens: int = 2048
    attribution: str = "show"
    attribution_lexemes: int = 65
    grounding: bool = True
    imports: str = "ask"
    confidence: float | None = None
    prose: bool = False
    next_suggestion: str = "auto"  # on unless the model is on a server; or "on", "off"
    # Of the sources that cells above are written from (CELL_SOURCES), those that are left out.
    excluded_sources: frozenset[str] = DEFAULT_EXCLUDED
