"""One completion while it is being decoded: tokens to bytes, bytes to text, text to what may be shown."""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from jupyter_sc2 import postprocess
from jupyter_sc2.completion import (
    Choices,
    Completion,
    CompletionRequest,
    FinishReason,
    SamplingParams,
    Token,
)
from jupyter_sc2.grounding import Check, Refutation, sound_part
from jupyter_sc2.prompt.layout import Prompt
from jupyter_sc2.type_through import typed_since

# Further candidates have to be drawn with some chance, or all would be the same.
CANDIDATE_TEMPERATURE = 0.7
# A browser redraws no more often than this, so a faster stream is only traffic. In seconds.
UPDATE_INTERVAL = 0.03
# The tokens by which it is judged whether to show anything: waiting for the whole line would be slow, and what is shown
# is not taken back.
JUDGED = 3
# How many words of one completion may be replaced; each time it is decoded on from there.
REPAIRS = 3


class Drawing:
    """Takes tokens, and tells after each what may be shown and whether more would change nothing.

    Who types what is being said need not begin anew: the drawing goes on for the later request. With `checking`,
    text is held against what is known where a request is made (see grounding.py). Where the model's `confidence`, the
    mean probability (geometric) of the first tokens from 0 to 1, is less than is asked for, nothing is shown.
    """

    def __init__(
        self,
        request: CompletionRequest,
        prompt: Prompt,
        checking: Callable[[CompletionRequest], Check | None] = lambda request: None,
        *,
        confidence: float = 0.0,
    ) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.complete = False
        self.stopped = False
        self._first = self._request = request
        self._prompt = prompt
        self._checking = checking
        self._check = checking(request)
        self._refutation: Refutation | None = None
        self._asked_confidence = confidence
        self._scope = postprocess.scope(request)
        self.typed = ""  # since the first request
        self._healed = len(prompt.healed)  # bytes that the user has typed already
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = ""
        self._logprobs: list[float] = []
        self._judged: list[float] = []  # of these what the user has typed of a word is no surprise
        self._shown = ""
        self._shown_at = -math.inf

    @property
    def said(self) -> str:
        """All of the text so far, as it would stand behind the first request's cursor."""
        return postprocess.without_doubled_blanks(self._raw, self._first)

    def attempts(self, encode: Callable[[str], list[int]]) -> Iterator[Prompt]:
        """The prompts to decode from: the request's own and, while a word is refuted, ones that go on before it.

        The model then chooses among the words that can stand there.
        """
        yield self._prompt
        for _ in range(REPAIRS):
            if self.unsure:
                return
            text, refutation = self.text, self._refutation
            if refutation is None and self._check is not None:
                text, _ = self._shape(final=True)
                refutation = self._check(text, True)
            if refutation is None or not refutation.choices:
                return
            yield self._mended(text, refutation, encode)

    def _mended(
        self, text: str, refutation: Refutation, encode: Callable[[str], list[int]]
    ) -> Prompt:
        """Takes the text back to before the refuted word, or to where the user has typed a beginning of it."""
        healed = self._prompt.healed.decode()
        before = healed + self.said[: self._from]
        written = before + text
        start = len(before) + refutation.start
        cut = max(0, start)
        names = [name[cut - start :] for name in refutation.choices]
        if written[:cut].endswith(" "):  # most tokens begin with their blank
            cut -= 1
            names = [f" {name}" for name in names]
        self._raw = written[len(healed) : cut]
        self._healed = len(written[cut : len(healed)].encode())
        self._decoder.reset()
        self._logprobs.clear()
        self._judged.clear()
        self._refutation, self.complete, self.stopped = None, False, False
        self.ids = encode(written[:cut])
        return replace(
            self._prompt,
            ids=(*self._prompt.ids, *self.ids),
            healed=Choices(name.encode() for name in names),
        )

    def add(self, data: bytes, token: Token) -> bool:
        """Takes one token; returns whether there is something new to show."""
        self.ids.append(token.id)
        self._logprobs.append(token.logprob)
        if token.among_allowed is not None or not self._healed:
            self._judged.append(
                token.logprob if token.among_allowed is None else token.among_allowed
            )
        skipped = min(self._healed, len(data))
        self._healed -= skipped
        self._raw += self._decoder.decode(data[skipped:])
        return self._look()

    def agrees(self, request: CompletionRequest) -> bool:
        """Whether what is typed for `request` is what is being said, or may still be said."""
        typed = typed_since(self._first, request)
        if typed is None or self.complete:
            return False
        said = self.said
        return said.startswith(typed) if len(typed) < len(said) else typed.startswith(said)

    def go_on_for(self, request: CompletionRequest) -> bool:
        """Goes on for a request that `agrees`; returns whether there is something to show at once."""
        self.typed = request.prefix[len(self._first.prefix) :]
        self._request = request
        self._check = self._checking(request)
        self._shown, self._shown_at = "", -math.inf
        return self._look()

    @property
    def confidence(self) -> float | None:
        first = self._judged[:JUDGED]
        return math.exp(sum(first) / len(first)) if first else None

    @property
    def unsure(self) -> bool:
        """Whether the model is less sure than is asked for, as far as that is known."""
        judged = len(self._judged) >= JUDGED or self.complete or self.stopped
        confidence = self.confidence
        return judged and confidence is not None and confidence < self._asked_confidence

    @property
    def astray(self) -> bool:
        """Whether something else was said than was typed meanwhile."""
        said = self.said[: len(self.typed)]
        return not self.typed.startswith(said)

    @property
    def _from(self) -> int:
        """Where in what is said the text begins that may be shown."""
        rest = self.said[len(self.typed) :]
        return len(self.said) - len(postprocess.without_doubled_blanks(rest, self._request))

    def _shape(self, *, final: bool) -> tuple[str, bool]:
        rest = self.said[len(self.typed) :]
        return postprocess.shape(rest, self._request, self._scope, final=final)

    def _look(self) -> bool:
        self.text, self.complete = self._shape(final=False)
        if self._asked_confidence:
            self.complete |= self.unsure
            if len(self._judged) < JUDGED:
                return False
        now = time.monotonic()
        if self.complete or self.text == self._shown or now - self._shown_at < UPDATE_INTERVAL:
            return False
        if self._check is not None and (found := self._check(self.text, False)) is not None:
            if found.certain:
                self._refutation, self.complete = found, True
            return False
        self._shown, self._shown_at = self.text, now
        return not self.astray

    def finish(self, *, cancelled: bool) -> Completion:
        self._raw += self._decoder.decode(b"", final=True)
        text, complete = self._shape(final=True)
        refutation = self._check(text, True) if self._check is not None and not cancelled else None
        if refutation is not None:
            text = sound_part(text, refutation, self._request.prefix)
            self._raw = self.said[: self._from] + text  # the rest is not to be found again
        unsure = self.unsure and not cancelled and not (self.stopped and not text)
        if unsure:
            text = ""
        reason = None if text else "nothing_to_add" if refutation is None else "refuted"
        finish_reason: FinishReason = "length"
        if unsure:
            finish_reason, reason = "stop", "low_confidence"
        elif complete or self.stopped:
            finish_reason = "stop"
        elif cancelled:
            finish_reason = reason = "cancelled"
        return Completion(
            text=text,
            finish_reason=finish_reason,
            mean_logprob=self._mean_logprob,
            confidence=self.confidence,
            reason=reason,
        )

    @property
    def _mean_logprob(self) -> float | None:
        return sum(self._logprobs) / len(self._logprobs) if self._logprobs else None


def varied(sampling: SamplingParams, attempt: int) -> SamplingParams:
    """The first candidate as the settings say; the others drawn, each with a seed of its own."""
    if attempt == 0:
        return sampling
    seed = None if sampling.seed is None else sampling.seed + attempt
    return replace(
        sampling, temperature=max(sampling.temperature, CANDIDATE_TEMPERATURE), seed=seed
    )
