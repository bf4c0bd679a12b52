"""What an engine is: a loaded model that turns prompt ids into completion ids. It knows no notebook and no IPython.

Only one thread at a time prefills and decodes, so that engines need no lock for it; `encode` and `decode_bytes` may be
called on any thread meanwhile. An engine keeps the KV cache of what it last read and reads again only from the first id
that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from jupyter_sc2.errors import EngineLost, GenerationError
from jupyter_sc2.runtime.progress import Cancelled

if TYPE_CHECKING:
    from jupyter_sc2.models.cards import ModelCard
    from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token

# From the ids decoded so far to draft ids that may follow, which an engine can verify in one pass.
DraftFn = Callable[[Sequence[int]], Sequence[int]]


def no_draft(drawn: Sequence[int]) -> Sequence[int]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do beyond decoding token by token. What it cannot do it leaves out, without an error."""

    # Hypotheses that it follows at temperature 0, as many as the model's card asks for where it can; 1 is greedy.
    beam_width: int = 1
    # Draft tokens that one pass verifies; 0 where `draft` is never called.
    max_draft_tokens: int = 0
    # Whether tokens come with their log-probabilities; else these are 0, and the model's confidence is unknown.
    logprobs: bool = True
    # Whether tokens that were decoded greedily come with `alternatives`.
    alternatives: bool = False
    # Whether the model is on a server, where a token that nobody reads may cost money or somebody else's time.
    remote: bool = False
    # Which constraints hold its tokens: "none" (the bytes go back to the prompt), "suffix" (of several alternatives the
    # first) or "names".
    constraints: Literal["none", "suffix", "names"] = "none"


class Engine(Protocol):
    """A loaded model."""

    card: ModelCard
    capabilities: Capabilities
    precision: str  # "fp32", "bf16", "8bit", "int4", "4bit", "Q4_K_M", …; "" if a server does not report it
    name: str  # "onnxruntime", "transformers", "llamacpp", "openai"
    notice: str  # what the user should know about this load, in a sentence; or ""

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens by their text, as this model's tokenizer has them."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: never a special id, whatever the text says, and nothing added around it.

        Also called while another thread decodes, to show a prompt.
        """

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens; special tokens give none."""

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads `ids` into the KV cache; returns how many were not in it. Stops early when cancelled."""

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        constraint: SpellingConstraint | None = None,
        draft: DraftFn = no_draft,
    ) -> Iterator[Token]:
        """Reads `ids`, then decodes up to `sampling.max_tokens` tokens, a stop id last where one came.

        The first tokens spell what `constraint` asks for, and count towards `max_tokens`. Draft tokens from `draft`
        may save passes; they never change what is decoded.
        """

    def use_threads(self, count: int) -> None:
        """Limits the threads that later calls on the calling thread compute with, if the engine can."""

    def memory_bytes(self) -> int:
        """Bytes of the weights and the KV cache."""

    def close(self) -> None:
        """Releases the memory."""


@runtime_checkable
class ExternalEngine(Protocol):
    """An engine whose model runs elsewhere, in another process say, which may end at any time.

    Its methods then raise EngineLost.
    """

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Calls `tell` once, on another thread, when that has happened."""


def limitations(engine: Engine) -> str:
    """What the engine leaves out of what its model is used with elsewhere, in sentences; "" if nothing."""
    found = []
    width, can = engine.card.beam_width, engine.capabilities
    if can.beam_width < width:
        found.append(
            f"This engine decodes greedily; onnxruntime and transformers search {width} beams with this model."
        )
    if can.constraints == "none":
        found.append(
            "The server takes no constraints: the model is not held to the words that are possible at the cursor."
        )
    if not can.logprobs:
        found.append(
            "The server promises no log-probabilities; without them the setting confidence has no effect."
        )
    return " ".join(found)


def check_length(ids: Sequence[int], card: ModelCard, *, where: str = "") -> None:
    """Raises GenerationError for a prompt that is empty or longer than the model's context (on the server `where`)."""
    if not ids:
        raise GenerationError("There is nothing to complete: the prompt is empty.")
    if len(ids) >= card.context:
        on = f" on {where}" if where else ""
        raise GenerationError(
            f"The prompt has {len(ids)} tokens and {card.name}{on} reaches {card.context}: lower context_tokens."
        )
