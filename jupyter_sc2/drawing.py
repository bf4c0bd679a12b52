"""One completion while it is being decoded: tokens to bytes, bytes to text, text to what may be shown."""

from __future__ import annotations

import codecs
import math
import time
from dataclasses import replace

from jupyter_sc2 import postprocess
from jupyter_sc2.completion import Completion, CompletionRequest, SamplingParams, Token
from jupyter_sc2.prompt.layout import Prompt

# Further candidates have to be drawn with some chance, or all would be the same.
CANDIDATE_TEMPERATURE = 0.7
# A browser redraws no more often than this, so a faster stream is only traffic. In seconds.
UPDATE_INTERVAL = 0.03


class Drawing:
    """Takes tokens, and tells after each what may be shown and whether more would change nothing."""

    def __init__(self, request: CompletionRequest, prompt: Prompt) -> None:
        self._request = request
        self._scope = postprocess.scope(request)
        self._healed = len(prompt.healed)  # bytes that the user has typed already
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = ""
        self._logprobs: list[float] = []
        self._shown = ""
        self._shown_at = -math.inf
        self.text = ""
        self.complete = False
        self.stopped = False

    def add(self, data: bytes, token: Token) -> bool:
        """Takes one token; returns whether there is something new to show."""
        self._logprobs.append(token.logprob)
        skipped = min(self._healed, len(data))
        self._healed -= skipped
        self._raw += self._decoder.decode(data[skipped:])
        self.text, self.complete = postprocess.shape(
            self._raw, self._request, self._scope, final=False
        )
        now = time.monotonic()
        if self.complete or self.text == self._shown or now - self._shown_at < UPDATE_INTERVAL:
            return False
        self._shown, self._shown_at = self.text, now
        return True

    def finish(self, *, cancelled: bool) -> Completion:
        self._raw += self._decoder.decode(b"", final=True)
        text, complete = postprocess.shape(self._raw, self._request, self._scope, final=True)
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
