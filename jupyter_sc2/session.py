"""One engine answers at a time. Every front end in the kernel asks the same session.

An automatic request replaces any automatic request before it: the newest keystroke wins, and never waits for
the completion of an older one. Invoked requests go first and wait their turn among themselves.

Each engine has a worker, a thread that loads it, uses it and closes it; nobody else calls it. While one loads,
the one before it goes on answering; if there is none, or it was too large to stay, the embedded model answers
meanwhile. What is asked before any engine is there is answered when the first one is.

Nothing here blocks its caller, `complete` and `wait_ready` excepted. The threads are daemons and are never
joined: a kernel that loads or generates shuts down at once.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from jupyter_sc2 import engines, grounding, postprocess
from jupyter_sc2.completion import Completion, CompletionRequest, SamplingParams, Stats
from jupyter_sc2.drawing import Drawing, varied
from jupyter_sc2.errors import GenerationError, ModelLoadError, SC2Error
from jupyter_sc2.models import EMBEDDED
from jupyter_sc2.prompt.layout import Arrangement, Layout, Piece, Prompt
from jupyter_sc2.settings import CompletionOptions, LoadOptions
from jupyter_sc2.type_through import TypeThroughCache

logger = logging.getLogger(__name__)

Update = Callable[[Completion], None]
Fail = Callable[[SC2Error], None]

# Below this much memory the loaded model stays until its successor is there.
KEEP_WHILE_LOADING = 1 << 30
# What an engine's `progress` tells beyond the states of a status: the state for it, and the rest in words.
STAGES = {
    "waiting": ("downloading", "Another process downloads it; this one waits."),
    "quantizing": ("loading", "It is quantized, which is done once."),
}


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


@dataclass(eq=False)
class _Worker:
    """An engine, what is kept for it, and what it was loaded with. `retired` tells its thread to end.

    `predecessors` are retired ones; their memory has to be free before this one loads.
    """

    options: LoadOptions
    predecessors: list[_Worker]
    stopgap: bool = False
    retired: bool = False
    engine: engines.Engine | None = None
    layout: Layout | None = None
    memory_bytes: int = 0
    cache: TypeThroughCache = field(default_factory=TypeThroughCache)
    epoch: int = 0  # of the namespace that the cached completions were made with


class Session:
    """Completes requests on a background thread."""

    def __init__(
        self,
        *,
        load_engine: Callable[..., engines.Engine] = engines.load_engine,
        options: CompletionOptions | None = None,
        load_options: LoadOptions | None = None,
        namespace: grounding.Namespace | None = None,
    ) -> None:
        self._load_engine = load_engine
        self._namespace = namespace
        self.recent: deque[CompletionRequest] = deque(maxlen=32)  # what was asked, the newest last
        self._options = options or CompletionOptions()
        self._load_options = load_options or LoadOptions()
        self._status = Status(model=self._load_options.model)
        self._listeners: list[Callable[[Status], None]] = []
        self._telling = threading.RLock()  # two workers may have a status to tell
        # Guarded by _changed, which is notified when one of them changes.
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._running: list[_Job] = []
        self._workers: list[_Worker] = []  # whose threads have not ended
        self._serving: _Worker | None = None
        self._loading: _Worker | None = None
        self._stopgap: _Worker | None = None  # that loads, too
        self._load_error: ModelLoadError | None = None
        self._held = False  # unloaded on purpose: only an explicit act loads again
        self._closed = False

    # What the front ends call, on any thread

    @property
    def status(self) -> Status:
        return self._status

    def subscribe(self, listener: Callable[[Status], None]) -> Callable[[], None]:
        """Calls `listener` from a worker's thread at each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def configure(self, options: CompletionOptions) -> None:
        self._options = options

    def load(self, options: LoadOptions | None = None) -> None:
        """Starts loading; what is loaded answers until then. A failure shows in the status."""
        with self._changed:
            if self._closed:
                return
            self._load_error, self._held = None, False
            if self._loading is not None:
                self._loading.retired = True
            if self._serving is not None and self._serving.memory_bytes > KEEP_WHILE_LOADING:
                self._serving.retired, self._serving = True, None
            self._loading = self._start(options or self._load_options)
            self._changed.notify_all()

    def want(self) -> None:
        """Loads unless something is loaded or loading, or was unloaded on purpose."""
        with self._changed:
            if not self._busy() and not self._held and self._load_error is None:
                self.load()

    def wait_ready(
        self, timeout: float | None = None, waiting: Callable[[Status], None] | None = None
    ) -> Status:
        """Waits until nothing loads any more. Raises ModelLoadError once what was last asked for has failed.

        `waiting` is called with the status, five times a second.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                done = self._changed.wait_for(
                    lambda: self._closed or self._load_error or self._loading is None,
                    max(0.0, min(0.2, deadline - time.monotonic())),
                )
                if self._load_error is not None:
                    raise self._load_error
            if done:
                return self._status
            if waiting is not None:
                waiting(self._status)
            if time.monotonic() >= deadline:
                raise ModelLoadError(f"{self._status.model} is still loading.")

    def unload(self) -> None:
        """Gives the model's memory back. Ghost text stays away until something is loaded again."""
        with self._changed:
            self._held = True
            for worker in self._workers:
                worker.retired = True
            self._serving = self._loading = self._stopgap = None
            for job in [*self._jobs, *self._running]:
                job.cancelled.set()
            self._changed.notify_all()
            nobody = not self._workers
        if nobody:
            self._ended()

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        """Asks for a completion. `update` gets the text so far, again and again, and last a final one.

        Exactly one final update (`finish_reason` set) or one call of `fail` ends each request. Both are called
        from a worker's thread, or at once where nothing is loaded and nothing will be.
        """
        job = _Job(request, update, fail, time.monotonic())
        self.recent.append(request)
        with self._changed:
            if self._closed:
                fail(GenerationError("jupyter-sc2 was unloaded."))
                return
            for other in [*self._jobs, *self._running]:
                # An invoked request may interrupt ghost text, never the reverse.
                if other.request.trigger == "automatic":
                    other.cancelled.set()
            if request.trigger == "invoke":
                self._held = False
                if not self._busy():
                    self._load_error = None
            self.want()
            self._jobs.append(job)
            embedded = self._loading is None or _is_embedded(self._loading.options)
            if self._serving is None and self._stopgap is None and not embedded:
                self._stopgap = self._start_stopgap()
            self._changed.notify_all()
            nobody = not self._busy()
        if nobody:
            self._ended()

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

    def explain(self, request: CompletionRequest) -> tuple[list[Piece], Arrangement] | None:
        """What the model that answers would read for this request; None while there is none."""
        with self._changed:
            worker = self._serving
            engine, layout = (worker.engine, worker.layout) if worker is not None else (None, None)
        if engine is None or layout is None:
            return None
        budget = self._budget(engine, request.sampling or self._options.sampling)
        arrangement = layout.arrange(request, budget=budget, state=self._state(request))
        return layout.pieces(arrangement), arrangement

    def cancel(self, request_id: str) -> None:
        """Ends a request at the next token or prefill chunk; it then gets a final update like any other."""
        with self._changed:
            for job in [*self._jobs, *self._running]:
                if job.request.id == request_id:
                    job.cancelled.set()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads at their next token; returns at once."""
        with self._changed:
            self._closed = True
            for job in self._running:
                job.cancelled.set()
            self._changed.notify_all()

    # The workers' threads

    def _busy(self) -> bool:
        return not (self._serving is None and self._loading is None and self._stopgap is None)

    def _start(self, options: LoadOptions, *, stopgap: bool = False) -> _Worker:
        worker = _Worker(options, [one for one in self._workers if one.retired], stopgap)
        self._workers.append(worker)
        threading.Thread(target=self._work, args=(worker,), name="jupyter-sc2", daemon=True).start()
        return worker

    def _start_stopgap(self) -> _Worker:
        return self._start(LoadOptions(threads=self._load_options.threads), stopgap=True)

    def _work(self, worker: _Worker) -> None:
        """All of a worker's life."""
        try:
            worker.engine = self._try_load(worker)
        except _Superseded:
            pass
        except ModelLoadError as error:
            self._failed(worker, error)
        else:
            if self._take_over(worker):
                self._serve(worker)
            worker.engine.close()
            worker.engine = worker.layout = None
        with self._changed:
            self._workers.remove(worker)
            self._changed.notify_all()
        self._ended()

    def _serve(self, worker: _Worker) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or worker.retired or self._closed)
                if worker.retired or self._closed:
                    return
                job = self._next_job()
                self._running.append(job)
            try:
                self._complete(worker, job)
            finally:
                with self._changed:
                    self._running.remove(job)

    def _ended(self) -> None:
        """Where nothing is loaded and nothing will be: says so, also to those who still wait."""
        with self._changed:
            if self._busy() and not self._closed:
                return
            jobs, self._jobs = self._jobs, []
            error = self._load_error
            unloaded = self._held and not self._workers
        if unloaded:
            self._set_status(Status(model=self._load_options.model))
        for job in jobs:
            if self._closed:
                job.fail(GenerationError("jupyter-sc2 was unloaded."))
            elif job.cancelled.is_set():
                self._finish(
                    job, Completion(text="", finish_reason="cancelled", reason="cancelled")
                )
            elif job.request.trigger == "invoke" and error is not None:
                job.fail(error)
            else:
                self._finish(job, Completion(text="", finish_reason="stop", reason="not_ready"))

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
        with self._telling:
            if status == self._status:
                return
            self._status = status
            for listener in list(self._listeners):
                try:
                    listener(status)
                except Exception:
                    logger.exception("A listener to the session's status failed")

    # Loading

    def _try_load(self, worker: _Worker) -> engines.Engine:
        options = worker.options

        def given_up() -> bool:
            return worker.retired or self._closed

        def progress(state: str, share: float | None) -> None:
            with self._changed:
                if given_up():
                    raise _Superseded
                shown = worker is self._loading
                message = self._meanwhile(state)
            if shown:  # nobody waits for a stopgap
                state = STAGES.get(state, (state,))[0]
                self._set_status(
                    Status(state=state, model=options.model, progress=share, message=message)
                )

        with self._changed:
            self._changed.wait_for(
                lambda: given_up() or not any(one in self._workers for one in worker.predecessors)
            )
        try:
            progress("loading", None)
            return self._load_engine(
                options.model,
                engine=options.engine,
                precision=options.precision,
                server=options.server,
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

    def _meanwhile(self, state: str) -> str | None:
        """What there is to know about a load besides how far it is."""
        _, *said = STAGES.get(state, (state,))
        if self._serving is not None and self._serving.engine is not None:
            said.append(f"{_called(self._serving.engine)} answers meanwhile.")
        return " ".join(said) or None

    def _take_over(self, worker: _Worker) -> bool:
        """Makes a loaded worker the one that answers; False if nobody wants it any more."""
        engine = worker.engine
        assert engine is not None
        worker.layout = Layout(engine.card, engine.encode, engine.special_ids)
        worker.memory_bytes = engine.memory_bytes()
        with self._changed:
            if worker.retired or self._closed:
                return False
            if self._serving is not None:
                self._serving.retired = True
            self._serving = worker
            if worker.stopgap:
                self._stopgap = None
            else:
                if self._stopgap is not None:
                    self._stopgap.retired, self._stopgap = True, None
                self._load_options = worker.options
            loading = worker.stopgap and self._loading is not None
            message = self._meanwhile("") if loading else engine.notice or None
            if worker.stopgap and self._load_error is not None:
                message = f"{self._load_error} The embedded model answers instead."
        # Before those who wait for it go on: they look at the status.
        with self._telling:
            if self._serving is worker:  # another may have taken over in turn
                about = self._status if loading else self._status_of(worker, "ready")
                self._set_status(replace(about, message=message))
        with self._changed:
            if self._loading is worker:
                self._loading = None
            self._changed.notify_all()
        return True

    def _failed(self, worker: _Worker, error: ModelLoadError) -> None:
        """Something that answers is better than nothing: what was loaded before, else the embedded model."""
        with self._changed:
            if worker.retired or self._closed:
                return
            serving = self._serving
            if worker.stopgap:
                self._stopgap = None
            else:
                self._loading, self._load_error = None, error
                self._load_options = worker.options
                embedded = _is_embedded(worker.options)
                if serving is None and self._stopgap is None and not embedded:
                    self._stopgap = self._start_stopgap()
            told = self._load_error
            waiting = self._loading is not None or self._stopgap is not None
            self._changed.notify_all()  # who waits need not wait for what falls in
        if serving is not None and serving.engine is not None:
            does = "answers instead" if serving.stopgap else "stays loaded"
            answers = f"{_called(serving.engine)} {does}."
            self._set_status(self._status_of(serving, "ready", f"{error} {answers}"))
        elif told is not None and not waiting:
            self._set_status(
                Status(state="error", model=self._load_options.model, message=str(told))
            )

    def _status_of(self, worker: _Worker, state: str, message: str | None = None) -> Status:
        engine = worker.engine
        if engine is None:
            return Status(model=worker.options.model)
        return Status(
            state=state,
            model=engine.card.name,
            engine=engine.name,
            precision=engine.precision,
            memory_bytes=worker.memory_bytes,
            message=message,
        )

    # Completing

    def _complete(self, worker: _Worker, job: _Job) -> None:
        try:
            self._answer(worker, job)
        except SC2Error as error:
            job.fail(error)
        except Exception as error:
            logger.debug("Completing failed", exc_info=True)
            job.fail(GenerationError(f"The model failed while completing: {_one_line(error)}"))

    def _answer(self, worker: _Worker, job: _Job) -> None:
        # The settings of this moment, so that the cache tells what was made with others.
        sampling = job.request.sampling or self._options.sampling
        job.request = replace(job.request, sampling=sampling)
        request, engine, layout = job.request, worker.engine, worker.layout
        assert engine is not None and layout is not None
        if job.cancelled.is_set():
            completion = Completion(text="", finish_reason="cancelled", reason="cancelled")
            self._finish(job, completion, engine)
            return
        self._note_run(worker)
        if (reason := postprocess.hopeless(request, prose=self._options.prose)) is not None:
            self._finish(job, Completion(text="", finish_reason="stop", reason=reason), engine)
            return
        if request.trigger == "automatic" and (text := worker.cache.find(request)):
            self._finish(job, Completion(text=text, finish_reason="stop", source="cache"), engine)
            return
        self._tell_of(worker, "generating")
        try:
            budget = self._budget(engine, sampling)
            prompt = layout.build(request, budget=budget, state=self._state(request))
            self._generate(job, worker, engine, layout, prompt, sampling)
        finally:
            worker.memory_bytes = engine.memory_bytes()
            self._tell_of(worker, "ready")

    def _note_run(self, worker: _Worker) -> None:
        """What was proposed before a cell ran may be wrong after it."""
        epoch = self._namespace.epoch if self._namespace is not None else 0
        if epoch != worker.epoch:
            worker.epoch = epoch
            worker.cache.clear()

    def _state(self, request: CompletionRequest) -> str:
        return self._namespace.state(request) if self._namespace is not None else ""

    def _check(self, request: CompletionRequest) -> grounding.Check | None:
        if self._namespace is None or not self._options.grounding or not grounding.applies(request):
            return None
        return grounding.checker(request, self._namespace)

    def _tell_of(self, worker: _Worker, state: str) -> None:
        """The status of the worker that answers; while another loads, that is what the status is about."""
        with self._telling:
            if self._serving is worker and self._loading is None:
                self._set_status(self._status_of(worker, state, self._status.message))

    def _budget(self, engine: engines.Engine, sampling: SamplingParams) -> int:
        """Prompt and completion stay within the window, where a sliding and a full attention are the same."""
        room = min(engine.card.window, engine.card.context) - sampling.max_tokens
        return max(16, min(self._options.context_tokens, room))

    def _generate(
        self,
        job: _Job,
        worker: _Worker,
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
            drawing = Drawing(request, prompt, self._check(request))
            for asked in drawing.attempts(engine.encode):
                for token in engine.generate(
                    asked.ids,
                    varied(sampling, attempt),
                    layout.stop_ids,
                    job.cancelled.is_set,
                    asked.healed,
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
            worker.cache.add(request, texts[0])
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
            engine,
        )

    def _say(self, job: _Job, engine: engines.Engine, completion: Completion) -> None:
        job.update(replace(completion, model=engine.card.name, engine=engine.name))

    def _finish(
        self, job: _Job, completion: Completion, engine: engines.Engine | None = None
    ) -> None:
        total_ms = (time.monotonic() - job.arrived) * 1000
        completion = replace(completion, stats=replace(completion.stats, total_ms=total_ms))
        if engine is not None:
            self._say(job, engine, completion)
        else:
            job.update(completion)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_embedded(options: LoadOptions) -> bool:
    """Whether this is what would stand in for any other model that is not there."""
    here = options.engine in ("auto", "transformers") and not options.server
    return options.model == EMBEDDED.name and here


def _called(engine: engines.Engine) -> str:
    return "The embedded model" if engine.card.name == EMBEDDED.name else engine.card.name
