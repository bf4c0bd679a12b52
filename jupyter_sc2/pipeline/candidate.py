"""The text of one completion while it is decoded: tokens to bytes, bytes to text, text to what may be shown."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jupyter_sc2.models.calibration import GENERIC, Calibration, Certainty, begins_line
from jupyter_sc2.pipeline import postprocess
from jupyter_sc2.pipeline.cut import ends_by_gain, probability_at
from jupyter_sc2.pipeline.fitting import QUOTES, is_settled
from jupyter_sc2.pipeline.grounding import Check, Violation, valid_prefix
from jupyter_sc2.pipeline.suggestion_cache import Suggestion, typed_since
from jupyter_sc2.prompt.builder import Prompt
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.types import (
    MAX_SEED,
    Completion,
    CompletionRequest,
    FinishReason,
    SamplingParams,
    TextToken,
    Token,
)

# Further candidates have to be sampled, or all would be the same.
CANDIDATE_TEMPERATURE = 0.7
# A browser redraws no more often than this, so a faster stream is only traffic. In seconds.
UPDATE_INTERVAL_S = 0.03
# Of the ends of a text, the best ones, that are tried for what fits behind them.
MAX_ENDS = 4
# How often the text may be taken back to a wrong word, or to another token, and decoded on from there.
MAX_RETRIES = 3


class Candidate:
    """Takes tokens; tells after each what may be shown, and whether more tokens would change nothing.

    When the user types the text that is being decoded, `retarget` moves the candidate to the later request. Text that
    `check` finds to contradict the live namespace or the grammar is repaired or cut (see grounding.py).

    The `text` that is shown is the beginning of the `whole` that is worth reading (see cut.py): `threshold` is the
    probability, from 0 to 1, that a word needs for that; with 0 all is shown. Text that was shown is not taken back.
    The completion's `confidence` is the probability that all of its text is right, by the `calibration` of the model
    and `shift`, its correction on this machine, in log-odds.
    """

    def __init__(
        self,
        request: CompletionRequest,
        prompt: Prompt,
        check: Check | None = None,
        *,
        threshold: float = 0.0,
        calibration: Calibration = GENERIC,
        shift: float = 0.0,
    ) -> None:
        self.ids: list[int] = []
        self.text = self.whole = ""
        self.complete = False
        self.stopped = False
        self._first = self._request = request
        self._prompt = prompt
        self._check = check
        self._violation: Violation | None = None
        self._threshold, self._calibration, self._shift = threshold, calibration, shift
        self.scope = postprocess.scope(request)
        self.typed = ""  # since the first request
        self._suffix_left = len(prompt.healing_suffix)  # bytes that the user has typed already
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = ""
        # Since the prompt that was last decoded from, or another way to the same place.
        self._steps: list[tuple[Token, bytes]] = []
        self._from_prompt = prompt
        self._unwanted: list[bytes] = []
        # The tokens of the raw text; what the user has typed of a word is no surprise.
        self._tokens: list[TextToken] = []
        self._shown = ""
        self._shown_at = -math.inf

    @property
    def raw_text(self) -> str:
        """All of the text so far, as it follows the first request's cursor."""
        return postprocess.strip_typed_whitespace(self._raw, self._first)

    def prompts(
        self, encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], bytes]
    ) -> Iterator[Prompt]:
        """The prompts to decode from: the request's own, then ones that continue from a part of the text.

        After a word that contradicts what is known, from before that word: the model then chooses among the words that
        are possible there. Where the whole text is unwanted, as it repeats a line, from the token of which the model
        was least certain.
        """
        yield self._prompt
        for _ in range(MAX_RETRIES):
            violation = self._violation
            text = self.whole
            if violation is None:
                text, _ = self._trimmed(final=True)
                violation = self._check(text, True) if self._check is not None else None
                if violation is None and not text and (prompt := self._backtrack(decode)):
                    yield prompt
                    continue
            if violation is None or not violation.choices:
                return
            # The only name that begins so is certain.
            before = self._probability_of(text[: max(0, violation.start)])
            if before < self._threshold and not violation.only:
                return
            yield self._repair(text, violation, encode)

    def _backtrack(self, decode: Callable[[Sequence[int]], bytes]) -> Prompt | None:
        """Takes another token where that costs the least probability; None where no alternative is known."""
        suffix = self._from_prompt.healing_suffix
        if self.typed or self._from_prompt.names or not self.raw_text.strip():
            return None
        self._unwanted.append(b"".join(data for _, data in self._steps))
        options = []
        written = b""
        for index, (token, data) in enumerate(self._steps):
            for id, logprob in token.alternatives:
                way = written + (other := decode([id]))
                text = way[len(suffix) :].decode(errors="replace")
                if not text.strip() or postprocess.is_comment(text, self._request):
                    continue
                if not any(unwanted.startswith(way) for unwanted in self._unwanted):
                    less = token.logprob - logprob
                    among = (
                        None
                        if token.constrained_logprob is None
                        else token.constrained_logprob - less
                    )
                    options.append((less, index, Token(id, logprob, among), other))
            written += data
        if not options:
            return None
        _, index, token, data = min(options, key=lambda option: option[0])
        steps = [*self._steps[:index], (token, data)]
        self._rewind(suffix)
        for step in steps:
            self._take(*step)
        rest = suffix[sum(len(data) for _, data in steps) :]
        return replace(self._prompt, ids=(*self._from_prompt.ids, *self.ids), healing_suffix=rest)

    def _repair(
        self, text: str, violation: Violation, encode: Callable[[str], list[int]]
    ) -> Prompt:
        """Takes the text back to before the wrong word, or to the end of what the user has typed of it."""
        suffix = self._prompt.healing_suffix.decode()
        before = suffix + self.raw_text[: self._visible_start]
        written = before + text
        start = len(before) + violation.start
        cut = max(0, start)
        names = [name[cut - start :] for name in violation.choices]
        if written[:cut].endswith(" "):  # most tokens begin with their blank
            cut -= 1
            names = [f" {name}" for name in names]
        tokens = self._tokens
        self._rewind(written[cut : len(suffix)].encode())
        self._raw = written[len(suffix) : cut]
        self._tokens = [token for token in tokens if token.end <= len(self._raw)]
        self.ids = encode(written[:cut])
        self._from_prompt = replace(
            self._prompt,
            ids=(*self._prompt.ids, *self.ids),
            names=tuple(name.encode() for name in names),
        )
        return self._from_prompt

    def _rewind(self, suffix: bytes) -> None:
        """Forgets the text. `suffix` are the bytes that the user has typed already and the model writes again."""
        self.ids, self._steps, self._raw = [], [], ""
        self._suffix_left = len(suffix)
        self._decoder.reset()
        self._tokens = []
        self._violation, self.complete, self.stopped = None, False, False

    def add(self, data: bytes, token: Token) -> bool:
        """Takes one token; returns whether there is something new to show."""
        self._take(token, data)
        return self._update_visible()

    def _take(self, token: Token, data: bytes) -> None:
        self.ids.append(token.id)
        self._steps.append((token, data))
        skipped = min(self._suffix_left, len(data))
        self._suffix_left -= skipped
        self._raw += self._decoder.decode(data[skipped:])
        if self._raw:
            logprob = (
                token.logprob if token.constrained_logprob is None else token.constrained_logprob
            )
            self._tokens.append(TextToken(len(self._raw), logprob))

    def is_compatible_with(self, request: CompletionRequest) -> bool:
        """Whether what is typed for `request` is what the model has written, or may still write."""
        typed = typed_since(self._first, request)
        if typed is None or self.complete:
            return False
        text = self.raw_text
        return text.startswith(typed) if len(typed) < len(text) else typed.startswith(text)

    def retarget(self, request: CompletionRequest, check: Check | None) -> bool:
        """Continues for a compatible request; returns whether there is something to show at once."""
        more = request.prefix[len(self._request.prefix) :]
        self.typed = request.prefix[len(self._first.prefix) :]
        self._request = request
        if postprocess.scope(request) == "block":  # by a ":" that was typed meanwhile
            self.scope = "block"
        self._check = check
        self._shown = self._shown[len(more) :] if self._shown.startswith(more) else ""
        self._shown_at = -math.inf
        return self._update_visible()

    @property
    def diverged(self) -> bool:
        """Whether the model has written something else than was typed meanwhile."""
        written = self.raw_text[: len(self.typed)]
        return not self.typed.startswith(written)

    @property
    def _visible_start(self) -> int:
        """The index in `raw_text` of the text that may be shown."""
        rest = self.raw_text[len(self.typed) :]
        return len(self.raw_text) - len(postprocess.strip_typed_whitespace(rest, self._request))

    def suggestion(self, shown: str) -> Suggestion:
        """What follows the first request's cursor, of which the final text was shown."""
        text = self.typed + self.whole
        return Suggestion(
            text, self.certainties, len(self.typed + shown), partial=self._is_cut_short
        )

    def _tokens_of(self, text: str, start: int) -> tuple[TextToken, ...]:
        """The tokens of a text that begins at this index of `raw_text`."""
        start += len(self._raw) - len(self.raw_text)
        tokens = (TextToken(token.end - start, token.logprob) for token in self._tokens)
        return tuple(token for token in tokens if 0 < token.end <= len(text))

    @property
    def certainties(self) -> tuple[Certainty, ...]:
        """Of the tokens of what was typed and of what may be shown: of a later request the typed ones count not."""
        typed = len(self.typed)
        tokens = self._tokens_of(self.typed + self.whole, self._visible_start - typed)
        new_line = not typed and begins_line(self._first.prefix)
        found = self._calibration.certainties(tokens, self._shift, new_line=new_line)
        return tuple(replace(one, probability=1.0) if one.end <= typed else one for one in found)

    def _ends(self, text: str, *, final: bool) -> list[int]:
        """Where the text may end, the best end first, and never before what is shown; [] shows nothing."""
        if not self._threshold:
            return [len(text)]
        typed = len(self.typed)
        certainties = [
            Certainty(one.end - typed, one.probability)
            for one in self.certainties
            if one.end > typed
        ]
        return ends_by_gain(
            text,
            certainties,
            self._threshold,
            self._request,
            final=final,
            shown=len(self._shown),
        )

    @property
    def _is_improbable(self) -> bool:
        """Whether what comes next would not be worth showing, also once all that is shown is accepted."""
        if not self._threshold:
            return False
        typed, known = len(self.typed), self.certainties
        whole, shown = (probability_at(typed + len(one), known) for one in (self.whole, self.text))
        return whole < self._threshold * shown

    @property
    def _is_cut_short(self) -> bool:
        """Whether decoding ended as what comes next would not be worth showing, in the middle of the text."""
        ended = self.stopped or self._trimmed(final=False)[1]
        return self._is_improbable and not ended

    def _probability_of(self, text: str) -> float:
        return probability_at(len(self.typed) + len(text), self.certainties)

    def _trimmed(self, *, final: bool) -> tuple[str, bool]:
        rest = self.raw_text[len(self.typed) :]
        return postprocess.trim(rest, self._request, self.scope, final=final)

    def _update_visible(self) -> bool:
        self.whole, self.complete = self._trimmed(final=False)
        ends = self._ends(self.whole, final=False)
        self.text = self.whole[: ends[0]] if ends else ""
        self.complete = self.complete or self._is_improbable
        now = monotonic()
        if self.complete or self.text == self._shown or now - self._shown_at < UPDATE_INTERVAL_S:
            return False
        if not is_settled(self._request):  # whether the text fits shows only when it is whole
            return False
        if postprocess.may_be_dropped(self.text, self._request):
            return False
        if self._check is not None and (found := self._check(self.whole, False)) is not None:
            if found.certain:
                self._violation, self.complete = found, True
                return False
            if found.start < len(self.text) or not self._threshold:
                return False
        if self.text != self.whole and not self._stands(self.text):
            return False
        self._shown, self._shown_at = self.text, now
        return not self.diverged

    def finish(self, *, cancelled: bool) -> Completion:
        self._raw += self._decoder.decode(b"", final=True)
        text, complete = self._trimmed(final=True)
        violation = self._check(text, True) if self._check is not None and not cancelled else None
        if violation is not None:
            text = valid_prefix(text, violation, self._request.prefix)
            text = postprocess.fitted(text, self._request)
            self._raw = (
                self.raw_text[: self._visible_start] + text
            )  # the cache is not to find the rest
        elif not (complete or self.complete or self.stopped or cancelled):
            text = postprocess.finished(text, self._request)
        if self._threshold:
            begun, self.whole = self.whole, text
            text = self._shown if cancelled else self._worth_showing(text, begun)
        else:
            self.whole = text
        confidence = self._probability_of(text) if text and self.certainties else None
        low = bool(self.whole) and not text and not cancelled
        if not text and not cancelled and (rest := self._rest_of_only_name):
            text = self.whole = rest
            low, confidence = False, 1.0
            self._raw = self.raw_text[: self._visible_start] + text
        reason = None if text else "nothing_to_add" if violation is None else "refuted"
        finish_reason: FinishReason = "length"
        if low:
            finish_reason, reason = "stop", "low_confidence"
        elif complete or self.stopped or self.complete:
            finish_reason = "stop"
        elif cancelled:
            finish_reason = reason = "cancelled"
        return Completion(
            text=text,
            finish_reason=finish_reason,
            mean_logprob=self._mean_logprob,
            confidence=confidence,
            tokens=self._tokens_of(text, self._visible_start),
            reason=reason,
        )

    def _worth_showing(self, whole: str, begun: str) -> str:
        """The beginning of the whole text that is shown; `begun` is the whole before what does not fit was cut."""
        ends = self._ends(whole, final=not self._is_cut_short)
        parts = [whole[:end] for end in ends] if whole.startswith(self._shown) else [self._shown]
        if not whole and not self.stopped:
            parts = [begun[:end] for end in self._ends(begun, final=False)]
        return next((part for part in parts[:MAX_ENDS] if self._stands(part)), self._shown)

    def _stands(self, part: str) -> bool:
        """Whether a part of a text could be the whole of one."""
        stands = postprocess.stands(part, self._request, self.scope)
        return stands and (self._check is None or self._check(part, True) is None)

    @property
    def _rest_of_only_name(self) -> str:
        """The rest of the only name that begins with what was typed; "" if there are several or none."""
        begun = self._check("", True) if self._check is not None else None
        rest = begun.rest if begun is not None else ""
        if rest.endswith(tuple(QUOTES)) and self._request.suffix[:1] == rest[-1]:
            rest = rest[:-1]
        return postprocess.fitted(rest, self._request)

    @property
    def _mean_logprob(self) -> float | None:
        logprobs = [token.logprob for token, _ in self._steps]
        return sum(logprobs) / len(logprobs) if logprobs else None


def sampling_for_candidate(sampling: SamplingParams, attempt: int) -> SamplingParams:
    """The settings for the first candidate; a temperature and a seed of its own for each further one."""
    if attempt == 0:
        return sampling
    seed = None if sampling.seed is None else (sampling.seed + attempt) % (MAX_SEED + 1)
    return replace(
        sampling, temperature=max(sampling.temperature, CANDIDATE_TEMPERATURE), seed=seed
    )
