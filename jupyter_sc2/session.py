"""One engine, one thread. Every front end in the kernel asks the same session.

An automatic request replaces any automatic request before it: the newest keystroke wins, and never waits for
the completion of an older one. Invoked requests go first and wait their turn among themselves. Loading is work
of the same thread; what was asked meanwhile is answered when the model is there.

Nothing here blocks its caller, `complete` and `wait_ready` excepted. The thread is a daemon and is never
joined: a kernel that loads or generates shuts down at once.
"""

from __future__ import annotations

import codecs
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from jupyter_sc2 import engines, postprocess
from jupyter_sc2.completion import Completion, CompletionRequest, SamplingParams, Stats, Token
from jupyter_sc2.errors import GenerationError, ModelLoadError, SC2Error
from jupyter_sc2.models import EMBEDDED
from jupyter_sc2.prompt.layout import Layout, Prompt
from jupyter_sc2.settings import CompletionOptions, LoadOptions
from jupyter_sc2.type_through import TypeThroughCache

logger = logging.getLogger(__name__)

Update = Callable[[Completion], None]
Fail = Callable[[SC2Error], None]

# Below this much memory the loaded model stays until its successor is there.
KEEP_WHILE_LOADING = 1 << 30
# Further candidates have to be drawn with some chance, or all would be the same.
CANDIDATE_TEMPERATURE = 0.7
# A browser redraws no more often than this, so a faster stream is only traffic. In seconds.
UPDATE_INTERVAL = 0.03


@dataclass(frozen=True)
class Status:
    """What the session is about: "unloaded", "downloading", "loading", "ready", "generating" or "error"."""

    state: str = "unloaded"
    model: str = ""
    engine: str = ""
    precision: str = ""
    progress: float | None = None
    message: str | None = None
    memory_bytes: int = 0


@dataclass(eq=False)
class _Job:
    request: CompletionRequest
    update: Update
    fail: Fail
    arrived: float
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Superseded(Exception):
    """Ends a load that nobody waits for any more."""


class Session:
    """Completes requests on a background thread."""

    def __init__(
        self,
        *,
        load_engine: Callable[..., engines.Engine] = engines.load_engine,
        options: CompletionOptions | None = None,
        load_options: LoadOptions | None = None,
    ) -> None:
        self._load_engine = load_engine
        self._options = options or CompletionOptions()
        self._load_options = load_options or LoadOptions()
        self._engine: engines.Engine | None = None
        self._layout: Layout | None = None
        self._cache = TypeThroughCache()
        self._status = Status(model=self._load_options.model)
        self._listeners: list[Callable[[Status], None]] = []
        # Guarded by _changed, which is notified when one of them changes.
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._running: _Job | None = None
        self._to_load: LoadOptions | None = None
        self._loading = False
        self._load_error: ModelLoadError | None = None
        self._to_unload = False
        self._held = False  # unloaded on purpose: only an explicit act loads again
        self._closed = False
        self._thread: threading.Thread | None = None

    # What the front ends call, on any thread

    @property
    def status(self) -> Status:
        return self._status

    def subscribe(self, listener: Callable[[Status], None]) -> Callable[[], None]:
        """Calls `listener` from the session's thread at each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def configure(self, options: CompletionOptions) -> None:
        self._options = options

    def load(self, options: LoadOptions | None = None) -> None:
        """Starts loading; what is loaded stays in use until then. A failure shows in the status."""
        with self._changed:
            self._to_load = options or self._load_options
            self._load_error = None
            self._to_unload = self._held = False
            self._wake()

    def want(self) -> None:
        """Loads unless something is loaded or loading, or was unloaded on purpose."""
        with self._changed:
            idle = self._engine is None and self._to_load is None and not self._loading
            if idle and not self._held and self._load_error is None:
                self._to_load = self._load_options
                self._wake()

    def wait_ready(self, timeout: float | None = None) -> Status:
        """Waits until nothing loads any more. Raises ModelLoadError once what was last asked for has failed."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._closed or self._load_error or not (self._loading or self._to_load),
                timeout,
            )
            if not done:
                raise ModelLoadError(f"{self._status.model} is still loading.")
            if self._load_error is not None:
                raise self._load_error
        return self._status

    def unload(self) -> None:
        """Gives the model's memory back. Ghost text stays away until something is loaded again."""
        with self._changed:
            self._to_load, self._to_unload, self._held = None, True, True
            for job in self._jobs:
                job.cancelled.set()
            if self._running is not None:
                self._running.cancelled.set()
            self._wake()

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        """Asks for a completion. `update` gets the text so far, again and again, and last a final one.

        Exactly one final update (`finish_reason` set) or one call of `fail` ends each request. Both are called
        from the session's thread.
        """
        job = _Job(request, update, fail, time.monotonic())
        with self._changed:
            if self._closed:
                fail(GenerationError("jupyter-sc2 was unloaded."))
                return
            running = [self._running] if self._running is not None else []
            for other in [*self._jobs, *running]:
                # An invoked request may interrupt ghost text, never the reverse.
                if other.request.trigger == "automatic":
                    other.cancelled.set()
            if request.trigger == "invoke":
                self._held, self._load_error = False, None
            self.want()  # before the job is there to be taken: it would find no engine
            self._jobs.append(job)
            self._wake()

    def complete(self, request: CompletionRequest) -> Iterator[Completion]:
        """The same for a caller that waits. Raises SC2Error; closing the iterator cancels the request."""
        answers: queue.SimpleQueue[Completion | SC2Error] = queue.SimpleQueue()
        request = replace(request, id=request.id or f"wait-{time.monotonic_ns()}")
        try:  # around all of it: a ctrl-C may come as soon as the thread has the request
            self.submit(request, answers.put, answers.put)
            while True:
                try:
                    # A ctrl-C that comes just before the wait is noticed only when that ends.
                    answer = answers.get(timeout=0.2)
                except queue.Empty:
                    continue
                if isinstance(answer, SC2Error):
                    raise answer
                yield answer
                if answer.finish_reason is not None:
                    return
        finally:
            self.cancel(request.id)

    def cancel(self, request_id: str) -> None:
        """Ends a request at the next token or prefill chunk; it then gets a final update like any other."""
        with self._changed:
            running = [self._running] if self._running is not None else []
            for job in [*self._jobs, *running]:
                if job.request.id == request_id:
                    job.cancelled.set()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread at its next token; returns at once."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()

    # The thread

    def _wake(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="jupyter-sc2", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._closed:
                    break
                unload, self._to_unload = self._to_unload, False
                load, self._to_load = self._to_load, None
                self._loading = load is not None
                job = None if unload or load else self._next_job()
                self._running = job
            if unload:
                self._drop_engine()
                self._set_status(Status(model=self._load_options.model))
            elif load:
                self._load(load)
                with self._changed:
                    self._loading = False
                    self._changed.notify_all()
            elif job is not None:
                self._complete(job)
                with self._changed:
                    self._running = None
        self._drop_engine()

    def _has_work(self) -> bool:
        return bool(self._closed or self._jobs or self._to_load or self._to_unload)

    def _next_job(self) -> _Job:
        """Cancelled ones first, as they only want to hear so; then invoked ones; then ghost text."""
        job = min(
            self._jobs,
            key=lambda job: (
                not job.cancelled.is_set(),
                job.request.trigger == "automatic",
                job.arrived,
            ),
        )
        self._jobs.remove(job)
        return job

    def _set_status(self, status: Status) -> None:
        if status == self._status:
            return
        self._status = status
        for listener in list(self._listeners):
            try:
                listener(status)
            except Exception:
                logger.exception("A listener to the session's status failed")

    # Loading

    def _load(self, options: LoadOptions) -> None:
        if self._engine is not None and self._engine.memory_bytes() > KEEP_WHILE_LOADING:
            self._drop_engine()
        try:
            engine = self._try_load(options)
        except _Superseded:
            return
        except ModelLoadError as error:
            with self._changed:
                self._load_error = error
                self._changed.notify_all()  # who waits need not wait for what falls in
            self._load_options = options
            self._fall_back(options, error)
        else:
            self._load_options = options
            self._use(engine)

    def _try_load(self, options: LoadOptions) -> engines.Engine:
        def progress(state: str, share: float | None) -> None:
            with self._changed:
                if self._to_load is not None or self._to_unload or self._closed:
                    raise _Superseded
            self._set_status(Status(state=state, model=options.model, progress=share))

        try:
            progress("loading", None)
            return self._load_engine(
                options.model,
                precision=options.precision,
                threads=options.threads or None,
                offline=options.offline,
                progress=progress,
            )
        except (_Superseded, ModelLoadError):
            raise
        except Exception as error:
            logger.debug("Loading failed", exc_info=True)
            raise ModelLoadError(
                f"{options.model} could not be loaded: {_one_line(error)}"
            ) from error

    def _fall_back(self, options: LoadOptions, error: ModelLoadError) -> None:
        """Something that answers is better than nothing: what was loaded before, else the embedded model."""
        if self._engine is not None:
            self._use(self._engine, message=f"{error} {self._engine.card.name} stays loaded.")
            return
        if options.model != EMBEDDED.name:
            try:
                engine = self._try_load(LoadOptions(threads=options.threads))
            except (_Superseded, ModelLoadError):
                pass
            else:
                self._use(engine, message=f"{error} The embedded model answers instead.")
                return
        self._set_status(Status(state="error", model=options.model, message=str(error)))

    def _use(self, engine: engines.Engine, message: str | None = None) -> None:
        if engine is not self._engine:
            self._drop_engine()
            self._engine = engine
            self._layout = Layout(engine.card, engine.encode, engine.special_ids)
        self._set_status(self._status_of(engine, "ready", message))

    def _status_of(self, engine: engines.Engine, state: str, message: str | None = None) -> Status:
        return Status(
            state=state,
            model=engine.card.name,
            engine=engine.name,
            precision=engine.precision,
            memory_bytes=engine.memory_bytes(),
            message=message,
        )

    def _drop_engine(self) -> None:
        engine, self._engine, self._layout = self._engine, None, None
        self._cache.clear()
        if engine is not None:
            engine.close()

    # Completing

    def _complete(self, job: _Job) -> None:
        try:
            self._answer(job)
        except SC2Error as error:
            job.fail(error)
        except Exception as error:
            logger.debug("Completing failed", exc_info=True)
            job.fail(GenerationError(f"The model failed while completing: {_one_line(error)}"))

    def _answer(self, job: _Job) -> None:
        # The settings of this moment, so that the cache tells what was made with others.
        sampling = job.request.sampling or self._options.sampling
        job.request = replace(job.request, sampling=sampling)
        request, engine, layout = job.request, self._engine, self._layout
        if job.cancelled.is_set():
            self._finish(job, Completion(text="", finish_reason="cancelled", reason="cancelled"))
            return
        if engine is None or layout is None:
            if request.trigger == "invoke" and self._load_error is not None:
                raise self._load_error
            self._finish(job, Completion(text="", finish_reason="stop", reason="not_ready"))
            return
        if (reason := postprocess.hopeless(request)) is not None:
            self._finish(job, Completion(text="", finish_reason="stop", reason=reason))
            return
        if request.trigger == "automatic" and (text := self._cache.find(request)):
            self._finish(job, Completion(text=text, finish_reason="stop", source="cache"))
            return
        message = self._status.message
        self._set_status(replace(self._status, state="generating"))
        try:
            prompt = layout.build(request, budget=self._budget(engine, sampling))
            self._generate(job, engine, layout, prompt, sampling)
        finally:
            self._set_status(self._status_of(engine, "ready", message))

    def _budget(self, engine: engines.Engine, sampling: SamplingParams) -> int:
        """Prompt and completion stay within the window, where a sliding and a full attention are the same."""
        room = min(engine.card.window, engine.card.context) - sampling.max_tokens
        return max(16, min(self._options.context_tokens, room))

    def _generate(
        self,
        job: _Job,
        engine: engines.Engine,
        layout: Layout,
        prompt: Prompt,
        sampling: SamplingParams,
    ) -> None:
        """Draws the candidates one after another; the later ones find the prompt in the KV cache."""
        request = job.request
        reused = len(prompt.ids) - engine.prefill(prompt.ids, job.cancelled.is_set)
        texts: list[str] = []
        best: Completion | None = None
        generated, first_token_ms = 0, None
        for attempt in range(2 * request.candidates - 1):
            if len(texts) == request.candidates or job.cancelled.is_set():
                break
            drawing = _Drawing(request, prompt)
            for token in engine.generate(
                prompt.ids,
                _varied(sampling, attempt),
                layout.stop_ids,
                job.cancelled.is_set,
                prompt.healed,
            ):
                generated += 1
                if first_token_ms is None:
                    first_token_ms = (time.monotonic() - job.arrived) * 1000
                if token.id in layout.stop_ids:
                    drawing.stopped = True
                    break
                if drawing.add(engine.decode_bytes([token.id]), token):
                    self._say(job, engine, Completion(text=drawing.text, index=len(texts)))
                if drawing.complete:
                    break
            completion = drawing.finish(cancelled=job.cancelled.is_set())
            if best is None or (completion.text and completion.text not in texts):
                best = replace(completion, index=len(texts))
                texts.append(completion.text)
                if len(texts) < request.candidates:
                    self._say(job, engine, replace(best, finish_reason=None))
        best = best or Completion(text="", finish_reason="cancelled", reason="cancelled")
        if best.finish_reason != "cancelled":
            self._cache.add(request, texts[0])
        self._finish(
            job,
            replace(
                best,
                stats=Stats(
                    prompt_tokens=len(prompt.ids),
                    reused_tokens=reused,
                    generated_tokens=generated,
                    first_token_ms=first_token_ms,
                ),
            ),
        )

    def _say(self, job: _Job, engine: engines.Engine, completion: Completion) -> None:
        job.update(replace(completion, model=engine.card.name, engine=engine.name))

    def _finish(self, job: _Job, completion: Completion) -> None:
        total_ms = (time.monotonic() - job.arrived) * 1000
        completion = replace(completion, stats=replace(completion.stats, total_ms=total_ms))
        if self._engine is not None:
            self._say(job, self._engine, completion)
        else:
            job.update(completion)


class _Drawing:
    """One completion while it is being decoded: bytes to text, text to what may be shown."""

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


def _varied(sampling: SamplingParams, attempt: int) -> SamplingParams:
    """The first candidate as the settings say; the others drawn, each with a seed of its own."""
    if attempt == 0:
        return sampling
    seed = None if sampling.seed is None else sampling.seed + attempt
    return replace(
        sampling, temperature=max(sampling.temperature, CANDIDATE_TEMPERATURE), seed=seed
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
