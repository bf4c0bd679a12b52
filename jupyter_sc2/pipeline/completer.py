"""Completes requests with one engine: from the suggestions made before, else by prefilling a prompt and decoding.

Only the engine's thread calls a Completer, `arrange` excepted. The engine keeps the KV cache; this keeps the
suggestions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from jupyter_sc2.engines.base import Engine
from jupyter_sc2.engines.decoding.prefix_cache import common_length
from jupyter_sc2.engines.decoding.prompt_lookup import MAX_NGRAM, PromptLookup
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline import grounding, postprocess
from jupyter_sc2.pipeline.candidate import Candidate, sampling_for_candidate
from jupyter_sc2.pipeline.cut import ends_by_gain, probability_at
from jupyter_sc2.pipeline.debounce import AdaptiveDebounce
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.generation import Generation
from jupyter_sc2.pipeline.imports import Importable
from jupyter_sc2.pipeline.job import CANCELLED, Job
from jupyter_sc2.pipeline.suggestion_cache import Remainder, SuggestionCache
from jupyter_sc2.prompt.builder import Prompt, PromptBuilder, PromptPlan
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import (
    Attribution,
    Completion,
    CompletionRequest,
    MissingImport,
    SamplingParams,
)

# Completions in which prompt lookup searches for draft tokens.
LOOKUP_HISTORY = 8
# What nobody has requested yet is not worth reading more than this; the notebook is read again where its window moves.
MAX_TOKENS_READ_AHEAD = 256


class Attributor(Protocol):
    """Finds out where a text may come from; not `active` if nothing is indexed."""

    @property
    def active(self) -> bool: ...

    def matches(
        self, request: CompletionRequest, text: str, threshold: int, *, certain: bool = False
    ) -> tuple[Attribution, ...]: ...


class Completer:
    """One engine's completions, for as long as it is loaded."""

    def __init__(
        self,
        engine: Engine,
        debounce: AdaptiveDebounce,
        namespace: grounding.Namespace | None = None,
        attributor: Attributor | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        self.engine = engine
        self.builder = PromptBuilder(engine.card, engine.encode, engine.special_ids)
        self.cache = SuggestionCache()
        self.tokens_read = 0
        # Decoded before anybody had requested them, and those of them that were shown then.
        self.decoded_ahead = self.used_ahead = 0
        self._last_prompt: Sequence[int] = ()
        self.debounce = debounce
        self._namespace = namespace
        self._attributor = attributor
        self._feedback = feedback or Feedback(enabled=lambda: False)
        # The namespace's state and the settings that the cached suggestions were made with.
        self._epoch = 0
        self._options: CompletionOptions | None = None
        self._earlier: deque[Sequence[int]] = deque(maxlen=LOOKUP_HISTORY)

    def complete_from_cache(self, job: Job, options: CompletionOptions) -> Completion | None:
        """The completion of a job that does not need the model; None if it does."""
        request = job.request
        if self._namespace is not None and self._namespace.epoch != self._epoch:
            # A suggestion of before a cell ran may be wrong after it.
            self._epoch = self._namespace.epoch
            self.cache.clear()
        if options != self._options:
            self._options = options
            self.cache.clear()
        if job.automatic and not job.speculative:
            self._feedback.typed(self.engine.card.name, request)
        if job.cancelled.is_set():
            return CANCELLED
        if (reason := self._refusal(request, options)) is not None:
            return Completion(text="", finish_reason="stop", reason=reason)
        found = self.cache.find(request) if job.automatic else None
        text = None if found is None else self._worth_showing(found, request, options)
        if found is None or text is None or self._is_refuted(request, text, options):
            return None
        completion = Completion(
            text=text,
            finish_reason="stop",
            confidence=probability_at(len(text), found.certainties) if text else None,
            source="cache",
            reason=None if text else "nothing_to_add",
        )
        if job.speculative:
            return completion
        found.show(len(text))
        self._feedback.show(request, text, found.certainties)
        if text:
            self.used_ahead += found.suggestion.tokens_ahead
            found.suggestion.tokens_ahead = 0
        return self._annotated(request, completion, options)

    def _worth_showing(
        self, found: Remainder, request: CompletionRequest, options: CompletionOptions
    ) -> str | None:
        """The beginning of a remainder that is shown, at least what was shown before; None asks the model."""
        threshold = self._threshold(request, options)
        if not threshold or not found.text:
            return None if found.suggestion.partial else found.text
        ends = ends_by_gain(
            found.text,
            found.certainties,
            threshold,
            request,
            final=not found.suggestion.partial,
            shown=found.shown,
        )
        parts = (found.text[:end] for end in ends)
        return next(
            (
                part
                for part in parts
                if len(part) == found.shown or postprocess.stands(part, request)
            ),
            None,
        )

    def prefill(self, generation: Generation) -> None:
        """Builds the generation's prompt and reads it into the KV cache."""
        generation.prompt = self._prompt(generation.job.request, generation.options)
        if generation.job.speculative:
            ids = generation.prompt.ids
            if len(ids) - common_length(ids, self._last_prompt) > MAX_TOKENS_READ_AHEAD:
                generation.job.cancelled.set()
        read = self._prefill(generation.prompt, generation.cancelled)
        generation.reused_tokens = len(generation.prompt.ids) - read

    def run(self, generation: Generation) -> Iterator[Completion | None]:
        """Decodes the candidates one after another; the later ones find the prompt in the KV cache.

        Yields None before each token is taken: then the caller may cancel the job, or hand the generation over to a
        later one and `retarget` it. Yields a completion when there is more text to show, and last the final one, with
        its `finish_reason`. Ends without that if the text has `diverged` from what was typed meanwhile.
        """
        began, first = monotonic(), generation.job
        finished = generation.finished
        for attempt in range(2 * first.request.candidates - 1):
            if len(finished) == first.request.candidates or generation.cancelled():
                break
            sampling = sampling_for_candidate(first.sampling, attempt)
            candidate = self._new_candidate(generation)
            yield from self._decode(generation, candidate, sampling)
            if candidate.diverged:
                generation.diverged = True
                return
            completion = candidate.finish(cancelled=generation.cancelled())
            requested = not generation.job.speculative
            if completion.finish_reason != "cancelled":
                if requested:
                    self.debounce.record_latency(monotonic() - began)
                if attempt == 0:
                    suggestion = candidate.suggestion(completion.text)
                    suggestion.tokens_ahead = 0 if requested else generation.tokens_ahead
                    self.cache.add(first.request, suggestion, candidate.raw_text, candidate.scope)
                    if first.automatic and requested:
                        shown = suggestion.text[: suggestion.shown]
                        self._feedback.show(first.request, shown, suggestion.certainties)
            known = [one.text for one in finished]
            if not finished or (completion.text and completion.text not in known):
                finished.append(replace(completion, index=len(finished)))
                if len(finished) < first.request.candidates:
                    whole = replace(finished[-1], finish_reason=None)
                    yield self._annotated(first.request, whole, generation.options)
        last = finished[-1] if finished else CANCELLED
        if generation.job.speculative:
            yield last
            return
        last = self._annotated(generation.job.request, last, generation.options)
        yield replace(last, stats=generation.stats)

    def retarget(self, generation: Generation, older: Job) -> Completion | None:
        """Moves the candidate to the job that has taken over from `older`; returns what that shows at once."""
        candidate, request = generation.candidate, generation.job.request
        assert candidate is not None
        if older.speculative:
            self.used_ahead += generation.tokens_ahead
            self._feedback.typed(self.engine.card.name, request)
        shows = candidate.retarget(request, self._check(request, generation.options))
        return self._partial(generation, candidate.text) if shows else None

    def prefetch(
        self, request: CompletionRequest, options: CompletionOptions, cancelled: Cancelled
    ) -> None:
        """Prefills the prompt of a request that may come next."""
        if not self._is_other_language(request):
            self._prefill(self._prompt(request, options), cancelled)

    def arrange(self, request: CompletionRequest, options: CompletionOptions) -> PromptPlan:
        """What the model would read for a request whose sampling params are set."""
        budget, state = self._budget(request, options), self._state(request)
        return self.builder.arrange(
            request, budget=budget, state=state, excluded_sources=options.excluded_sources
        )

    # Decoding

    def _new_candidate(self, generation: Generation) -> Candidate:
        assert generation.prompt is not None
        request, options = generation.job.request, generation.options
        return Candidate(
            request,
            generation.prompt,
            self._check(request, options),
            threshold=self._threshold(request, options),
            calibration=self.engine.card.calibration,
            shift=self._feedback.correction(self.engine.card.name).shift,
        )

    def _decode(
        self, generation: Generation, candidate: Candidate, sampling: SamplingParams
    ) -> Iterator[Completion | None]:
        generation.candidate = candidate
        for prompt in candidate.prompts(self.engine.encode, self.engine.decode_bytes):
            if generation.cancelled():
                break
            yield from self._decode_from(prompt, generation, candidate, sampling)
            if candidate.diverged:
                break
        generation.candidate = None
        assert generation.prompt is not None
        self._earlier.append([*generation.prompt.ids[-MAX_NGRAM:], *candidate.ids])

    def _decode_from(
        self,
        prompt: Prompt,
        generation: Generation,
        candidate: Candidate,
        sampling: SamplingParams,
    ) -> Iterator[Completion | None]:
        """Until more tokens would not change what is shown, or the text has diverged from what was typed."""
        stop_ids = self.builder.stop_ids
        for token in self.engine.generate(
            prompt.ids,
            sampling,
            stop_ids,
            generation.cancelled,
            prompt.constraint,
            PromptLookup(prompt.ids, self._earlier),
        ):
            # Before the token is taken: it may end what the first job asked for, but not what a later one does.
            yield None
            self.decoded_ahead += generation.job.speculative
            generation.count_token()
            if token.id in stop_ids:
                candidate.stopped = True
                return
            if candidate.add(self.engine.decode_bytes([token.id]), token):
                yield self._partial(generation, candidate.text)
            if candidate.complete or candidate.diverged:
                return

    def _partial(self, generation: Generation, text: str) -> Completion | None:
        """A text that is not whole yet; None where the whole may have to be blocked."""
        attributor = self._attributor
        blocks = generation.options.attribution == "block"
        if blocks and attributor is not None and attributor.active:
            return None
        found = self._missing_imports(generation.job.request, text, generation.options, final=False)
        return Completion(text=text, index=len(generation.finished), imports=found)

    # What a request needs

    def _refusal(self, request: CompletionRequest, options: CompletionOptions) -> str | None:
        """The reason why the model is not asked, or None."""
        reason = postprocess.skip_reason(request, prose=options.prose)
        if reason is None and self._is_other_language(request):
            reason = "other_language"
        return reason

    def _is_other_language(self, request: CompletionRequest) -> bool:
        """Whether the model's card does not name the language at the cursor; prose has a setting of its own."""
        return request.cell_type == "code" and not self.engine.card.knows(language_at(request))

    def _prefill(self, prompt: Prompt, cancelled: Cancelled) -> int:
        read = self.engine.prefill(prompt.ids, cancelled)
        self.tokens_read += read
        self._last_prompt = prompt.ids
        return read

    def _prompt(self, request: CompletionRequest, options: CompletionOptions) -> Prompt:
        budget, state = self._budget(request, options), self._state(request)
        return self.builder.build(
            request, budget=budget, state=state, excluded_sources=options.excluded_sources
        )

    def _budget(self, request: CompletionRequest, options: CompletionOptions) -> int:
        """In tokens. Prompt and completion stay within the window, where sliding and full attention are the same."""
        card, sampling = self.engine.card, request.sampling or SamplingParams()
        room = min(card.window, card.context) - sampling.max_tokens
        return max(16, min(options.context_tokens, room))

    def _state(self, request: CompletionRequest) -> str:
        return self._namespace.state(request) if self._namespace is not None else ""

    def _check(
        self, request: CompletionRequest, options: CompletionOptions
    ) -> grounding.Check | None:
        if self._namespace is None or not options.grounding or not grounding.applies(request):
            return None
        return grounding.checker(request, self._namespace, self._importable(request, options))

    def _importable(
        self, request: CompletionRequest, options: CompletionOptions
    ) -> Importable | None:
        """None where no import is added: without grounding nothing is looked up."""
        if options.imports == "off" or not options.grounding:
            return None
        return Importable.for_request(request, self._namespace)

    def _missing_imports(
        self, request: CompletionRequest, text: str, options: CompletionOptions, *, final: bool
    ) -> tuple[MissingImport, ...]:
        importable = self._importable(request, options) if text else None
        return () if importable is None else importable.missing(text, final=final)

    def _threshold(self, request: CompletionRequest, options: CompletionOptions) -> float:
        """0 for an invoked request, as who asks for a suggestion sees what there is, and for unknown probabilities."""
        if request.trigger == "invoke" or not self.engine.capabilities.logprobs:
            return 0.0
        card = self.engine.card
        threshold = card.confidence if options.confidence is None else options.confidence
        return self._feedback.threshold(card.name, threshold)

    def _is_refuted(
        self, request: CompletionRequest, text: str, options: CompletionOptions
    ) -> bool:
        check = self._check(request, options)
        return check is not None and check(text, True) is not None

    def _annotated(
        self, request: CompletionRequest, completion: Completion, options: CompletionOptions
    ) -> Completion:
        """The completion with its possible origins, and the imports that it lacks."""
        completion = self._with_attribution(request, completion, options)
        found = self._missing_imports(request, completion.text, options, final=True)
        return replace(completion, imports=found) if found else completion

    def _with_attribution(
        self, request: CompletionRequest, completion: Completion, options: CompletionOptions
    ) -> Completion:
        """The completion with its possible origins, and without its text if the policy is to block it."""
        policy = options.attribution
        cancelled = completion.finish_reason == "cancelled"
        if self._attributor is None or policy == "off" or cancelled or not completion.text:
            return completion
        found = self._attributor.matches(
            request,
            completion.text,
            options.attribution_lexemes,
            certain=policy == "block",
        )
        if not found:
            return completion
        if policy == "block":
            completion = replace(completion, text="", reason="matches_indexed_code")
        return replace(completion, attribution=found, policy=policy)
