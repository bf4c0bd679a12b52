"""Answers requests with one engine: from what was said before, else by reading a prompt and decoding.

Only the engine's thread is in here. The engine keeps the KV cache; here is kept what it said.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from jupyter_sc2.engines.base import Engine
from jupyter_sc2.engines.decoding.prompt_lookup import MAX_NGRAM, PromptLookup
from jupyter_sc2.errors import SC2Error
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline import grounding, postprocess
from jupyter_sc2.pipeline.debounce import AdaptiveDebounce
from jupyter_sc2.pipeline.generation import Generation, sampling_for_candidate
from jupyter_sc2.pipeline.suggestion_cache import SuggestionCache
from jupyter_sc2.prompt.builder import Prompt, PromptBuilder, PromptPlan
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Attribution, Completion, CompletionRequest, SamplingParams, Stats

logger = logging.getLogger(__name__)

# Completions in which the next ones are looked up.
LOOKUP_HISTORY = 8


@dataclass(eq=False)
class Job:
    """A request and who waits for its answer, which ends once, with a final update or a failure."""

    request: CompletionRequest  # with its sampling params set
    update: Callable[[Completion], None]
    failed: Callable[[SC2Error], None]
    arrived: float = field(default_factory=monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    waits: bool = False  # for a model, as none was there when it came
    loaded: float | None = None  # when that was there
    generation: Generation | None = None  # while it is decoded and another may go on with it
    goes_on: bool = False  # with the turn of an older one of its front end, which it has replaced
    again: bool = False  # what answered it first has ended by itself
    # Taken by the first end, and kept.
    _ended: threading.Lock = field(default_factory=threading.Lock)

    @property
    def typed(self) -> float:
        """When the key went down, by the same clock as `arrived`. Nobody's word for more than a second is taken."""
        return self.arrived - min(max(self.request.waited_s, 0.0), 1.0)

    @property
    def automatic(self) -> bool:
        return self.request.trigger == "automatic"

    @property
    def sampling(self) -> SamplingParams:
        assert self.request.sampling is not None
        return self.request.sampling

    def is_replaced_by(self, later: Job) -> bool:
        """Whether this is ghost text for the place that a later request of the same front end is for."""
        mine, other = self.request, later.request
        return self.automatic and (mine.front_end, mine.cell_id) == (other.front_end, other.cell_id)

    def ask_again(self) -> bool:
        """Makes it new for another engine; False if it was before."""
        if self.again:
            return False
        self.again = self.waits = True
        self.generation = None
        return True

    def say(self, completion: Completion, engine: Engine | None = None) -> None:
        if engine is not None:
            completion = replace(
                completion,
                model=engine.card.name,
                engine=engine.name,
                revision=engine.card.revision or "",
            )
        self._tell(self.update, completion)

    def finish(self, completion: Completion, engine: Engine | None = None) -> None:
        if not self._ended.acquire(blocking=False):
            return
        total_ms = (monotonic() - self.arrived) * 1000
        load_ms = None if self.loaded is None else max(0.0, self.loaded - self.arrived) * 1000
        stats = replace(completion.stats, total_ms=total_ms, load_ms=load_ms)
        self.say(replace(completion, stats=stats), engine)

    def fail(self, error: SC2Error) -> None:
        if self._ended.acquire(blocking=False):
            self._tell(self.failed, error)

    @staticmethod
    def _tell(listener: Callable[[Any], None], news: object) -> None:
        """A listener that fails is no failure of the model, and ends no thread."""
        try:
            listener(news)
        except Exception:
            logger.exception("A listener to a request failed")


# From a job that is being decoded to a later one that goes on with what is being said, if there is one.
Successor = Callable[[Job], "Job | None"]
# Waits for the next key of a job that is about to be decoded, for so many seconds or until waiting is of no use.
Pause = Callable[[Job, float], object]

CANCELLED = Completion(text="", finish_reason="cancelled", reason="cancelled")


class Attributor(Protocol):
    """Who knows where a text may come from; not `active` where nothing is indexed."""

    @property
    def active(self) -> bool: ...

    def matches(
        self, request: CompletionRequest, text: str, threshold: int, *, certain: bool = False
    ) -> tuple[Attribution, ...]: ...


class Completer:
    """What answers, for as long as its engine is loaded."""

    def __init__(
        self,
        engine: Engine,
        debounce: AdaptiveDebounce,
        namespace: grounding.Namespace | None = None,
        attributor: Attributor | None = None,
    ) -> None:
        self.engine = engine
        self._debounce = debounce
        self._namespace = namespace
        self._attributor = attributor
        self._epoch = 0  # of the namespace, when what is in the cache was said
        self._options: CompletionOptions | None = None  # the same
        self.builder = PromptBuilder(engine.card, engine.encode, engine.special_ids)
        self.cache = SuggestionCache()
        self._earlier: deque[Sequence[int]] = deque(maxlen=LOOKUP_HISTORY)
        self.tokens_read = 0

    def complete_from_cache(self, job: Job, options: CompletionOptions) -> bool:
        """Finishes a job that needs no model; False if it needs it."""
        request = job.request
        if self._namespace is not None and self._namespace.epoch != self._epoch:
            # What was said before a cell ran may be wrong after it.
            self._epoch = self._namespace.epoch
            self.cache.clear()
        if options != self._options:  # nor does what was said count under other settings
            self._options = options
            self.cache.clear()
        if job.cancelled.is_set():
            job.finish(CANCELLED, self.engine)
            return True
        if (reason := self._refusal(request, options)) is not None:
            job.finish(Completion(text="", finish_reason="stop", reason=reason), self.engine)
            return True
        text = self.cache.find(request) if job.automatic else None
        if text is None or self._refuted(request, text, options):
            return False
        reason = None if text else "nothing_to_add"
        completion = Completion(text=text, finish_reason="stop", source="cache", reason=reason)
        job.finish(self._with_attribution(request, completion, options), self.engine)
        return True

    def answer(
        self,
        job: Job,
        options: CompletionOptions,
        successor: Successor,
        adapt: Callable[[], None] = lambda: None,
        pause: Pause = lambda job, seconds: job.cancelled.wait(seconds),
    ) -> Job | None:
        """Has the model answer, and those that meanwhile go on from what it says.

        `adapt` is called before the prompt is read and before each token, to fit the engine to the moment. Returns a
        job that went on with what was said until it was something else than the user typed, and is not answered.
        """
        prompt = self._prompt(job.request, options)
        adapt()
        return self._decode(job, prompt, options, successor, adapt, pause)

    def prefetch(
        self, request: CompletionRequest, options: CompletionOptions, unwanted: Cancelled
    ) -> None:
        """Reads what a request like this will need, for nobody yet."""
        if self._is_other_language(request):
            return
        self._prefill(self._prompt(request, options), unwanted)

    def _refusal(self, request: CompletionRequest, options: CompletionOptions) -> str | None:
        """Why the model is not asked, or None."""
        reason = postprocess.skip_reason(request, prose=options.prose)
        if reason is None and self._is_other_language(request):
            reason = "other_language"
        return reason

    def _is_other_language(self, request: CompletionRequest) -> bool:
        """Whether the card does not name the language at the cursor; prose is asked for by a setting of its own."""
        return request.cell_type == "code" and not self.engine.card.knows(language_at(request))

    def _prefill(self, prompt: Prompt, unwanted: Cancelled) -> int:
        read = self.engine.prefill(prompt.ids, unwanted)
        self.tokens_read += read
        return read

    def arrange(self, request: CompletionRequest, options: CompletionOptions) -> PromptPlan:
        """What the model would read for a request whose sampling params are set."""
        budget, state = self._budget(request, options), self._state(request)
        return self.builder.arrange(
            request, budget=budget, state=state, excluded_sources=options.excluded_sources
        )

    def _prompt(self, request: CompletionRequest, options: CompletionOptions) -> Prompt:
        budget, state = self._budget(request, options), self._state(request)
        return self.builder.build(
            request, budget=budget, state=state, excluded_sources=options.excluded_sources
        )

    def _budget(self, request: CompletionRequest, options: CompletionOptions) -> int:
        """Prompt and completion stay within the window, where a sliding and a full attention are the same."""
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
        return grounding.checker(request, self._namespace)

    def _asked_confidence(self, request: CompletionRequest, options: CompletionOptions) -> float:
        """Who asks by a key of their own sees what there is."""
        if request.trigger == "invoke":
            return 0.0
        card = self.engine.card
        return card.confidence if options.confidence is None else options.confidence

    def _refuted(self, request: CompletionRequest, text: str, options: CompletionOptions) -> bool:
        check = self._check(request, options)
        return check is not None and check(text, True) is not None

    def _emit_partial(self, job: Job, completion: Completion, options: CompletionOptions) -> None:
        """Says a text that is not whole yet; not where it may turn out to be one that is to be blocked."""
        known = self._attributor
        if options.attribution != "block" or known is None or not known.active:
            job.say(completion, self.engine)

    def _with_attribution(
        self, request: CompletionRequest, completion: Completion, options: CompletionOptions
    ) -> Completion:
        """The completion with where it may come from, and without its text if that is to be blocked."""
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

    def _decode(
        self,
        job: Job,
        prompt: Prompt,
        options: CompletionOptions,
        successor: Successor,
        adapt: Callable[[], None],
        pause: Pause,
    ) -> Job | None:
        """Draws the candidates one after another; the later ones find the prompt in the KV cache."""
        first, running = job.request, _Running(job, len(prompt.ids))
        running.reused = len(prompt.ids) - self._prefill(prompt, running.cancelled)
        if job.automatic:
            due = job.typed + self._debounce.delay(job.request.front_end)
            pause(job, max(0.0, due - monotonic()))
        adapt()
        began = monotonic()
        texts: list[str] = []
        best: Completion | None = None
        for attempt in range(2 * first.candidates - 1):
            if len(texts) == first.candidates or running.cancelled():
                break
            generation = Generation(
                first,
                prompt,
                lambda request: self._check(request, options),
                confidence=self._asked_confidence(first, options),
            )
            if job.automatic and first.candidates == 1:
                job.generation = generation
            for asked in generation.prompts(self.engine.encode, self.engine.decode_bytes):
                if running.cancelled():
                    break
                sampling = sampling_for_candidate(job.sampling, attempt)
                self._draw(
                    running, generation, asked, sampling, len(texts), successor, options, adapt
                )
                if generation.diverged:
                    break
            running.job.generation = None
            self._earlier.append([*prompt.ids[-MAX_NGRAM:], *generation.ids])
            if generation.diverged:
                return running.job
            completion = generation.finish(cancelled=running.cancelled())
            if completion.finish_reason != "cancelled":
                self._debounce.record_latency(monotonic() - began)
            if best is None or (completion.text and completion.text not in texts):
                best = replace(completion, index=len(texts))
                texts.append(completion.text)
                judged = completion.reason != "low_confidence"
                if attempt == 0 and judged and completion.finish_reason != "cancelled":
                    shown = generation.typed + completion.text
                    self.cache.add(first, shown, generation.said, generation.scope)
                if len(texts) < first.candidates:
                    said = self._with_attribution(first, replace(best, finish_reason=None), options)
                    running.job.say(said, self.engine)
        stats = Stats(
            prompt_tokens=running.prompt_tokens,
            reused_tokens=running.reused,
            generated_tokens=running.generated,
            first_token_ms=running.first_token_ms,
        )
        completion = self._with_attribution(running.job.request, best or CANCELLED, options)
        running.job.finish(replace(completion, stats=stats), self.engine)
        return None

    def _draw(
        self,
        running: _Running,
        generation: Generation,
        asked: Prompt,
        sampling: SamplingParams,
        index: int,
        successor: Successor,
        options: CompletionOptions,
        adapt: Callable[[], None],
    ) -> None:
        """Decodes from one prompt, until nothing more would change what is shown or it is not what was typed."""
        draft = PromptLookup(asked.ids, self._earlier)
        stop_ids = self.builder.stop_ids
        for token in self.engine.generate(
            asked.ids, sampling, stop_ids, running.cancelled, asked.healed, draft
        ):
            # Before the token is taken: it may end what the first request asked for, but not what this one does.
            if running.job.generation is not None and (later := successor(running.job)) is not None:
                running.job.finish(replace(CANCELLED, text=generation.text), self.engine)
                later.generation = generation
                running.hand_over(later)
                if generation.retarget(later.request):
                    self._emit_partial(later, Completion(text=generation.text), options)
            running.count()
            if token.id in stop_ids:
                generation.stopped = True
                return
            if generation.add(self.engine.decode_bytes([token.id]), token):
                self._emit_partial(
                    running.job, Completion(text=generation.text, index=index), options
                )
            if generation.complete or generation.diverged:
                return
            adapt()


@dataclass(eq=False)
class _Running:
    """The job that is being decoded, which may be followed by another, and what that one has cost."""

    job: Job
    prompt_tokens: int
    reused: int = 0
    generated: int = 0
    first_token_ms: float | None = None

    def cancelled(self) -> bool:
        return self.job.cancelled.is_set()

    def count(self) -> None:
        self.generated += 1
        if self.first_token_ms is None:
            self.first_token_ms = (monotonic() - self.job.arrived) * 1000

    def hand_over(self, later: Job) -> None:
        """To a job that finds all of the prompt read."""
        self.job, self.reused = later, self.prompt_tokens
        self.generated, self.first_token_ms = 0, None
