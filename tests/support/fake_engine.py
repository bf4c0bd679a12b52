"""A scripted engine: everything above the engine is tested with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from jupyter_sc2.engines.base import Capabilities, DraftFn, no_draft
from jupyter_sc2.models.cards import EMBEDDED, STARCODER2_STOP, ModelCard
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token

SPECIAL_IDS = {name: index for index, name in enumerate(STARCODER2_STOP)}
FIRST_BYTE = len(SPECIAL_IDS)


class FakeEngine:
    """Answers with what was queued, byte by byte; ids are bytes behind the special tokens.

    `prompts` is what it was asked, `gate` holds it before each token when cleared, `hold_after` once it has said
    something, `error` is raised once.
    """

    name = "fake"
    precision = "fp32"
    notice = ""

    def __init__(self, *answers: str, card: ModelCard = EMBEDDED) -> None:
        self.card = card
        self.capabilities = Capabilities(constraints="suffix")
        self.answers = list(answers)
        self.prompts: list[tuple[int, ...]] = []
        self.samplings: list[SamplingParams] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.error: Exception | None = None
        self.closed = False
        self.threads = 0  # to use
        self.held = self.reading = self.slow_prefill = False
        self.logprob: Callable[[str], float] = lambda said: -0.5  # of what comes after that
        self._hold_after: str | None = None
        self._read: tuple[int, ...] = ()

    @property
    def special_ids(self) -> dict[str, int]:
        return SPECIAL_IDS

    def encode(self, text: str) -> list[int]:
        return [FIRST_BYTE + byte for byte in text.encode()]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(id - FIRST_BYTE for id in ids if id >= FIRST_BYTE)

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        common = 0
        for old, new in zip(self._read, ids, strict=False):
            if old != new:
                break
            common += 1
        self.reading = True
        while self.slow_prefill and not cancelled():
            time.sleep(0.005)
        self.slow_prefill = self.reading = False
        self._read = tuple(ids)
        return len(ids) - common

    def hold_after(self, said: str | None) -> None:
        """Waits once it has said this, whether cancelled or not, until told to hold after nothing."""
        self._hold_after, self.held = said, False

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        constraint: SpellingConstraint | None = None,
        draft: DraftFn = no_draft,
    ) -> Iterator[Token]:
        self.prompts.append(tuple(ids))
        self.samplings.append(sampling)
        self.started.set()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        answer = self.answers.pop(0) if self.answers else ""
        start = constraint.first if constraint is not None else b""
        data = start + answer.encode()
        for count, byte in enumerate(data):
            while not self.gate.wait(0.01):
                if cancelled():
                    return
            while self._hold_after is not None and data[len(start) : count].decode(
                errors="ignore"
            ) == (self._hold_after):
                self.held = True
                time.sleep(0.005)
            if cancelled() or count == sampling.max_tokens + len(start):
                return
            yield Token(
                FIRST_BYTE + byte, self.logprob(data[len(start) : count].decode(errors="ignore"))
            )
        yield Token(SPECIAL_IDS["<file_sep>"], -0.1)

    def use_threads(self, count: int) -> None:
        self.threads = count

    def memory_bytes(self) -> int:
        return 1000

    def close(self) -> None:
        self.closed = True

    def asked(self, index: int = -1) -> str:
        """A prompt it was given, in text."""
        names = {id: name for name, id in SPECIAL_IDS.items()}
        pieces: list[str] = []
        data = b""
        for id in self.prompts[index]:
            if id in names:
                pieces += [data.decode(), names[id]]
                data = b""
            else:
                data += bytes([id - FIRST_BYTE])
        return "".join([*pieces, data.decode()])
