"""Engines turn prompt ids into completion ids; they know no notebook and no IPython.

Only the session's thread calls an engine, so none of them has a lock. An engine keeps the KV cache of what
it last read and reads again only from the first id that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jupyter_sc2.completion import SamplingParams, Token
    from jupyter_sc2.models import ModelCard

Cancelled = Callable[[], bool]
# Called with "downloading" or "loading", and the share done from 0 to 1, or None.
Progress = Callable[[str, float | None], None]


class Engine(Protocol):
    """A loaded model."""

    card: ModelCard
    precision: str  # "fp32", "bf16", "8bit", "4bit"
    name: str  # "transformers"

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens by their text, as this model's tokenizer has them."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: never a special id, whatever the text says, and nothing added around it."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens; special tokens give none."""

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads `ids` into the KV cache; returns how many had to be read. Stops early when cancelled."""

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        healed: bytes = b"",
    ) -> Iterator[Token]:
        """Reads `ids`, then decodes up to `sampling.max_tokens` tokens, a stop id last where one came.

        `healed` are bytes cut from the end of the prompt to reach a token boundary: the first tokens are
        constrained to spell them out again (token healing), and they count towards the output.
        """

    def memory_bytes(self) -> int:
        """What the weights and the KV cache take."""

    def close(self) -> None:
        """Gives the memory back."""


def load_engine(
    model: str,
    *,
    precision: str = "auto",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> Engine:
    """Loads a model by its name, its hub id or a local folder. Raises ModelLoadError in the user's terms."""
    from jupyter_sc2.engines.transformers import load

    return load(model, precision=precision, threads=threads, offline=offline, progress=progress)
