"""One completion while it is being decoded: tokens to bytes, bytes to text, text to what may be shown."""

from __future__ import annotations

import codecs
import math
import time
from dataclasses import replace

from jupyter_sc2 import postprocess
from jupyter_sc2.completion import Completion, CompletionRequest, SamplingParams, Token
from jupyter_sc2.prompt.layout import Prompt
from jupyter_sc2.type_through import typed_since

# Further candidates have to be drawn with some chance, or all would be the same.
CANDIDATE_TEMPERATURE = 0.7
# A browser redraws no more often than this, so a faster stream is only traffic. In seconds.
UPDATE_INTERVAL = 0.03


class Drawing:
    """Takes tokens, and tells after each what may be shown and whether more would change nothing.

    Who types what is being said need not begin anew: the drawing goes on for the later request.
    """

    def __init__(self, request: CompletionRequest, prompt: Prompt) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.complete = False
        self.stopped = False
        self._first = self._request = request
        self._scope = postprocess.scope(request)
        self.typed = ""  # since the first request
        self._healed = len(prompt.healed)  # bytes that the user has typed already
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = ""
        self._logprobs: list[float] = []
        self._shown = ""
        self._shown_at = -math.inf

    @property
    def said(self) -> str:
        """All of the text so far, as it would stand behind the first request's cursor."""
        return postprocess.without_doubled_blanks(self._raw, self._first)

    def add(self, data: bytes, token: Token) -> bool:
        """Takes one token; returns whether there is something new to show."""
        self.ids.append(token.id)
        self._logprobs.append(token.logprob)
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
        self._shown, self._shown_at = "", -math.inf
        return self._look()

    @property
    def astray(self) -> bool:
        """Whether something else was said than was typed meanwhile."""
        said = self.said[: len(self.typed)]
        return not self.typed.startswith(said)

    def _look(self) -> bool:
        rest = self.said[len(self.typed) :]
        self.text, self.complete = postprocess.shape(rest, self._request, self._scope, final=False)
        now = time.monotonic()
        if self.complete or self.text == self._shown or now - self._shown_at < UPDATE_INTERVAL:
            return False
        self._shown, self._shown_at = self.text, now
        return not self.astray

    def finish(self, *, cancelled: bool) -> Completion:
        self._raw += self._decoder.decode(b"", final=True)
        rest = self.said[len(self.typed) :]
        text, complete = postprocess.shape(rest, self._request, self._scope, final=True)
        mean = sum(self._logprobs) / len(self._logprobs) if self._logprobs else None
        if complete or self.stopped:
            return Completion(
                text=text,
                finish_reason="stop",
                mean_logprob=mean,
                reason=None if text else "nothing_to_add",
            )
        if cancelled:
            return Completion(
                text=text, finish_reason="cancelled", mean_logprob=mean, reason="cancelled"
            )
        return Completion(
            text=text,
            finish_reason="length",
            mean_logprob=mean,
            reason=None if text else "nothing_to_add",
        )


def varied(sampling: SamplingParams, attempt: int) -> SamplingParams:
    """The first candidate as the settings say; the others drawn, each with a seed of its own."""
    if attempt == 0:
        return sampling
    seed = None if sampling.seed is None else sampling.seed + attempt
    return replace(
        sampling, temperature=max(sampling.temperature, CANDIDATE_TEMPERATURE), seed=seed
    )
