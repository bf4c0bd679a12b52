"""The values that travel between the front ends, the session and the engines. All are frozen."""

from __future__ import annotations

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
    companion: bool = (
        False  # this kernel does not run the document: its variables mean nothing there
    )
    path: str = ""  # of a text file, relative to the server's root; "" for a notebook and a console
    file_extension: str = (
        ""  # of the kernel's language, without the dot, where the kernel names one
    )
    adds_imports: bool = False  # the front end can add the imports that a suggestion lacks

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
            f"{name}, {self.path}{lines} ({self.licence}; {self.lexemes} words and symbols{unsure})"
        )


@dataclass(frozen=True, kw_only=True)
class MissingImport:
    """An import that a text lacks: the name it uses, the line that binds the name, and from where on it uses it.

    `offset` is the index in the text at which the name ends, 0 if it stands before the cursor.
    """

    name: str
    code: str
    offset: int = 0


@dataclass(frozen=True)
class TextToken:
    """A token of a text: the index in the text at which it ends, and its natural-log probability under the model."""

    end: int
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What is proposed at the cursor: the whole insertion so far, never a delta.

    The last of a stream has its `finish_reason` set; if its text is empty, `reason` says why.
    """

    text: str
    index: int = 0
    finish_reason: FinishReason | None = None
    mean_logprob: float | None = None
    confidence: float | None = None  # see Candidate
    tokens: tuple[
        TextToken, ...
    ] = ()  # of the text, where their probabilities are known; for evaluation
    source: Source = "model"
    reason: str | None = None
    model: str = ""
    engine: str = ""
    revision: str = ""  # of the model's weights, where it is known
    attribution: tuple[
        Attribution, ...
    ] = ()  # where the text may come from, the longest match first
    policy: str = ""  # with an attribution: what is to be done about it, "show", "warn" or "block"
    imports: tuple[MissingImport, ...] = ()  # that are to be added with the text
    stats: Stats = Stats()


@dataclass(frozen=True)
class Token:
    """One decoded token: its id and its natural-log probability under the model.

    `constrained_logprob` is its log-probability among the tokens that were allowed, where only some were and the engine
    can tell. `alternatives` are the ids that were next most likely, each with its log-probability, where the engine can
    tell and nothing was sampled.
    """

    id: int
    logprob: float
    constrained_logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SpellingConstraint:
    """The bytes that the first tokens of a completion have to spell: one of `alternatives`, the model's choice.

    For token healing there is one alternative, the end of the prompt that was cut off, and the last token may run on
    beyond it. With `whole_names` the alternatives are names: what follows must not continue the name, and an empty
    alternative says that a name is spelled and may end here. An engine that can spell only one takes the `first`.
    """

    alternatives: tuple[bytes, ...]
    whole_names: bool = False

    def __post_init__(self) -> None:
        if not (self.alternatives if self.whole_names else any(self.alternatives)):
            raise ValueError("A constraint needs something to spell.")

    @classmethod
    def for_suffix(cls, suffix: bytes) -> SpellingConstraint | None:
        """To spell the end of a prompt again; None if nothing was cut off."""
        return cls((suffix,)) if suffix else None

    @property
    def first(self) -> bytes:
        return self.alternatives[0]

    def advance(self, token_bytes: bytes) -> SpellingConstraint | None:
        """What is left to spell after a token that was allowed; None once the constraint is satisfied."""
        count = len(token_bytes)
        if not self.whole_names:
            return SpellingConstraint.for_suffix(self.first[count:])
        left = tuple(
            name[count:] for name in self.alternatives if name and name.startswith(token_bytes)
        )
        # A name that its quote or equals sign has closed is complete.
        if b"" in left and not is_name_byte(token_bytes[-1:]):
            return None
        return SpellingConstraint(left, whole_names=True) if token_bytes and left else None


def is_name_byte(byte: bytes) -> bool:
    """Whether it may be part of a name; bytes above ASCII count as letters."""
    return byte.isalnum() or byte == b"_" or byte >= b"\x80"
