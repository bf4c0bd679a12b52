"""The values that travel between the front ends, the session and the engines. All are frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from jupyter_sc2.errors import RequestError, SettingsError
from jupyter_sc2.notebook import CellType, Notebook, replace_surrogates
from jupyter_sc2.runtime.characters import escaped

FinishReason = Literal["stop", "length", "cancelled"]
Trigger = Literal["automatic", "invoke"]
Source = Literal["model", "cache"]
MAX_SEED = 2**63 - 1  # what servers take, and all engines here


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one completion is drawn. At `temperature` 0 what is likeliest is taken; only `max_tokens` counts besides."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise SettingsError(f"max_tokens must be 1 or more, not {self.max_tokens}.")
        if not 0 <= self.temperature <= 2:
            raise SettingsError(f"temperature must lie between 0 and 2, not {self.temperature}.")
        if self.top_k < 0:
            raise SettingsError(f"top_k must be 0 (no limit) or more, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must lie above 0 and up to 1, not {self.top_p}.")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise SettingsError(f"seed must lie between 0 and {MAX_SEED}, not {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """A cell with a cursor in it, and the notebook around it.

    `offset` counts code points: `text[:offset]` is the prefix, `text[offset:]` the suffix. `notebook` may
    hold the cell itself (then `cell_id` tells which it is); its stored source is ignored in favour of `text`.
    """

    text: str
    offset: int
    notebook: Notebook = field(default_factory=Notebook)
    cell_id: str | None = None
    language: str = "python"
    trigger: Trigger = "automatic"
    candidates: int = 1
    sampling: SamplingParams | None = None  # None: the session's own
    id: str = ""
    waited_s: float = 0.0  # seconds that it has waited already, from the key that it is for
    front_end: str = ""  # who asks; ids and places (cells) are each front end's own

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= len(self.text):
            raise RequestError(
                f"The cursor (offset {self.offset}) lies outside the text, which has {len(self.text)} characters."
            )
        if not 1 <= self.candidates <= 10:
            raise RequestError(f"candidates must lie between 1 and 10, not {self.candidates}.")
        # One code point for one, so that the offset stays right.
        object.__setattr__(self, "text", replace_surrogates(self.text))

    @property
    def prefix(self) -> str:
        return self.text[: self.offset]

    @property
    def suffix(self) -> str:
        return self.text[self.offset :]

    @property
    def cell_type(self) -> CellType:
        """The type of the cell, as far as the notebook knows it."""
        position = self.notebook.position(self.cell_id)
        return "code" if position is None else self.notebook.cells[position].cell_type


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one completion cost. Times count from the request's arrival in the session.

    `load_ms` of them the request has waited until a model was there; None if one was.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    first_token_ms: float | None = None
    total_ms: float = 0.0
    load_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Indexed code that a text, with what stands around it, has in common with: where that is, and its licence.

    `path` is within the package, folder or archive called `source`; `lines` count from 1, both included. Not
    `verified` is what only the index says, as the file is not at hand any more.
    """

    source: str
    version: str = ""
    licence: str = ""
    path: str = ""
    lines: tuple[int, int] | None = None
    lexemes: int = 0
    verified: bool = True

    def __str__(self) -> str:
        lines = "" if self.lines is None else ":{}-{}".format(*self.lines)
        unsure = "" if self.verified else ", by the index alone"
        name = f"{self.source} {self.version}".rstrip()
        return escaped(
            f"{name}, {self.path}{lines} ({self.licence}; {self.lexemes} lexemes{unsure})"
        )


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What is proposed at the cursor: the whole insertion so far, never a delta.

    The last of a stream has its `finish_reason` set; if its text is empty, `reason` says why.
    """

    text: str
    index: int = 0
    finish_reason: FinishReason | None = None
    mean_logprob: float | None = None
    confidence: float | None = None  # see Drawing
    source: Source = "model"
    reason: str | None = None
    model: str = ""
    engine: str = ""
    revision: str = ""  # of the model's weights, where it is known
    attribution: tuple[
        Attribution, ...
    ] = ()  # where the text may come from, the longest match first
    policy: str = ""  # with an attribution: what is to be done about it, "show", "warn" or "block"
    stats: Stats = Stats()


@dataclass(frozen=True)
class Token:
    """One decoded token: its id and its natural-log probability under the model.

    `among_allowed` is that among the tokens that were allowed, where only some were and the engine can tell. `others`
    are the ids that were the next likeliest, each with its log-probability, where the engine can tell and nothing was
    left to chance.
    """

    id: int
    logprob: float
    constrained_logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class Choices(bytes):
    """Names of which an engine is to spell one, the model's choice; as bytes, the first of them.

    It stands in the place of the bytes that are to be spelled out at the start of a completion: an engine that can
    spell no more than one takes the first. What runs on beyond a name must not go on with the name; an empty name
    says that one was spelled and may end here.
    """

    names: tuple[bytes, ...]

    def __new__(cls, names: Iterable[bytes]) -> Choices:
        """There is at least one name."""
        names = tuple(names)
        choices = super().__new__(cls, names[0])
        choices.names = names
        return choices

    def __bool__(self) -> bool:
        return True  # there is something to be held to, even where a name may end
