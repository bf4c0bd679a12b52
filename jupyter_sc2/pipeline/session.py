"""One engine answers at a time. Every front end in the kernel asks the same session.

An automatic request replaces any automatic request before it of the same front end and place: the newest keystroke
wins, and never waits for the completion of an older one. Front ends take turns (see request_queue.py).

Each engine has a worker, a thread that loads it, uses it and closes it; nobody else calls it. While one loads,
the one before it goes on answering; if there is none, or it was too large to stay, the embedded model answers
meanwhile. What is asked before any engine is there is answered when the first one is.

What runs a model may end by itself: a process of its own that was killed, a pass for which there was no memory. Then
it is started again once, the embedded model answers meanwhile what was asked, and the status says so. If no thread or
no memory is to be had for a load, the next request tries again.

A request that goes on where a running one says what was typed meanwhile takes over what is said.

While nothing is asked, what is likely to be asked next is read ahead, unless a cell runs.

Nothing here blocks its caller, `complete` and `wait_ready` excepted. The threads are daemons and are never
joined: a kernel that loads or generates shuts down at once.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from weakref import WeakSet

from jupyter_sc2 import engines
from jupyter_sc2.engines.base import Engine, ExternalEngine
from jupyter_sc2.errors import EngineLost, GenerationError, ModelLoadError, SC2Error
from jupyter_sc2.models.cards import EMBEDDED, find_card
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline import grounding
from jupyter_sc2.pipeline.completer import CANCELLED, Attributor, Completer, Job
from jupyter_sc2.pipeline.debounce import AdaptiveDebounce
from jupyter_sc2.pipeline.request_queue import QUEUE_FULL, RequestQueue
from jupyter_sc2.prompt.builder import PromptPlan, PromptSpan
from jupyter_sc2.prompt.excerpt import excerpt
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.characters import escaped
from jupyter_sc2.runtime.child_process import Restarts
from jupyter_sc2.runtime.clock import monotonic, monotonic_ns
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.priority import Pauses
from jupyter_sc2.runtime.threads import Load, threads_that_help
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Completion, CompletionRequest

logger = logging.getLogger(__name__)

Update = Callable[[Completion], None]
Fail = Callable[[SC2Error], None]

# Below this much memory the loaded model stays until its successor is there.
KEEP_WHILE_LOADING = 1 << 30
# Front ends for which something is to be read ahead, the newest ones.
MAX_PREFETCHES = 16
# Seconds until a load that failed for want of memory or a thread may be tried again, if something is asked.
RETRY_AFTER = 2.0
# The same where another model answers meanwhile.
RETRY_LATER = 60.0
# What the system lacks may be there a moment later: by the number of an error, and in the words of Python, ONNX Runtime
# and torch.
SCARCE = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EFBIG)
SCARCE_IN_WORDS = (
    "can't start new thread",
    "bad_alloc",
    "bad allocation",
    "can't allocate",
    "allocate memory",
)
# So often a model may fail one request after the other until it is loaded anew.
MOST_FAILURES = 3
# What an engine's `progress` tells beyond the states of a status: the state for it, and the rest in words.
STAGES = {
    "importing": ("loading",),
    "waiting": ("downloading", "Another process downloads it; this one waits."),
    "quantizing": ("loading", "It is quantized, which is done once."),
}


@dataclass(frozen=True)
class Status:
    """What the session is about: "unloaded", "downloading", "loading", "ready", "generating" or "error".

    While it loads, `stage` is "importing", "waiting", "downloading", "quantizing" or "loading". `seconds` is how long
    the load has taken so far, and with the first "ready" how long it took; else None.
    """

    state: str = "unloaded"
    model: str = ""
    engine: str = ""
    precision: str = ""
    progress: float | None = None
    message: str | None = None
    memory_bytes: int = 0
    stage: str = ""
    seconds: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # A model's name may be a file's, and a message may repeat it.
        object.__setattr__(self, "model", escaped(self.model))
        if self.message is not None:
            lines = map(escaped, self.message.split("\n"))
            object.__setattr__(self, "message", "\n".join(lines))


class LoadSuperseded(Exception):
    """Ends a load that nobody waits for any more."""


@dataclass(eq=False)
class _Worker:
    """What answers, and what it was loaded with. `retired` tells its thread to end.

    `predecessors` are retired ones; their memory has to be free before this one loads.
    """

    options: LoadOptions
    predecessors: list[_Worker]
    fallback: bool = False
    retired: bool = False
    failures: int = 0  # one after the other
    because: str = ""  # why it is loaded, where nobody has asked for that
    completer: Completer | None = None
    memory_bytes: int = 0
    began: float = field(default_factory=monotonic)
    ready: float = math.inf  # since when it can answer
    load: Load | None = None  # of the cores; made by its thread

    @property
    def engine(self) -> Engine | None:
        return None if self.completer is None else self.completer.engine


class Session:
    """Completes requests on a background thread."""

    def __init__(
        self,
        *,
        load_engine: Callable[..., Engine] = engines.load_engine,
        options: CompletionOptions | None = None,
        load_options: LoadOptions | None = None,
        low_priority: bool = False,
        namespace: grounding.Namespace | None = None,
        attributor: Attributor | None = None,
        taken_back: Callable[[LoadOptions, LoadOptions], bool] = lambda failed, instead: False,
    ) -> None:
        """With `gives_way`, reading ahead pauses while others want the cores.

        `taken_back` is called on a worker's thread where a load failed, with its options and those of what answers
        instead: whether these count from now on.
        """
        self._load_engine = load_engine
        self._taken_back = taken_back
        self._namespace = namespace
        self._attributor = attributor
        self.recent: deque[CompletionRequest] = deque(maxlen=32)  # what was asked, the newest last
        self._options = options or CompletionOptions()
        self._load_options = load_options or LoadOptions()
        self._offline: bool | None = None  # as in the options of each load until it is set
        self._low_priority = low_priority
        self._debounce = AdaptiveDebounce()
        self._status = Status(model=self._load_options.model)
        self._listeners: list[Callable[[Status], None]] = []
        self._status_lock = threading.RLock()  # two workers may have a status to tell
        # Guarded by _changed, which is notified when one of them changes.
        self._changed = threading.Condition()
        self._queue = RequestQueue()
        self._running: list[Job] = []
        self._ahead: OrderedDict[str, CompletionRequest] = OrderedDict()  # by front end
        self._prefetches = False
        self._kernel_is_busy = False
        self._workers: list[_Worker] = []  # whose threads have not ended
        self._serving: _Worker | None = None
        self._loading: _Worker | None = None
        self._fallback: _Worker | None = None  # that loads, too
        self._load_error: ModelLoadError | None = None
        self._settled = threading.Event()  # set while nothing loads
        self._settled.set()
        self._retry_at = math.inf  # when what has failed to load may be tried again by itself
        self._untold: list[tuple[_Worker, ModelLoadError]] = []  # whose threads did not start
        self._restarts = Restarts()
        self._unloaded_by_user = False  # unloaded on purpose: only an explicit act loads again
        self._closed = False
        _sessions.add(self)

    # What the front ends call, on any thread

    @property
    def status(self) -> Status:
        return self._status

    @property
    def engine(self) -> Engine | None:
        """What answers now. Only its own thread may use it while anything is asked."""
        return None if self._serving is None else self._serving.engine

    def subscribe(self, listener: Callable[[Status], None]) -> Callable[[], None]:
        """Calls `listener` from a worker's thread at each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def configure(self, options: CompletionOptions) -> None:
        self._options = options

    def set_offline(self, offline: bool) -> None:
        """Whether loads use the network from now on, those with options of an earlier moment, too."""
        self._offline = offline

    def load(self, options: LoadOptions | None = None) -> None:
        """Starts loading; what is loaded answers until then. A failure shows in the status."""
        self._restarts.forget()
        with self._changed:
            if self._closed:
                return
            self._unloaded_by_user = False
            self._begin_load(options or self._load_options)
        self._tell_untold()

    def ensure_loaded(self) -> None:
        """Loads unless something is loaded or loading, or was unloaded on purpose."""
        with self._changed:
            self._load_if_wanted()
        self._tell_untold()

    def _load_if_wanted(self) -> None:
        """Also where that has failed for a reason that may have passed. Holding _changed."""
        if self._unloaded_by_user or self._closed or self._loading is not None:
            return
        fresh = not self._busy() and self._load_error is None
        if fresh or (self._load_error is not None and monotonic() >= self._retry_at):
            self._begin_load(self._load_options)

    def _begin_load(self, options: LoadOptions, because: str = "") -> None:
        """Holding _changed."""
        self._load_error, self._retry_at = None, math.inf
        older, serving = self._loading, self._serving
        if older is not None:
            older.retired = True
        if serving is not None and serving.memory_bytes > KEEP_WHILE_LOADING:
            serving.retired, self._serving = True, None
        self._loading = self._start(options, because=because)
        if self._loading is not None:
            self._settled.clear()
        if self._loading is None and serving is not None:
            serving.retired, self._serving = False, serving
        self._changed.notify_all()

    def wait_ready(
        self, timeout: float | None = None, waiting: Callable[[Status], None] | None = None
    ) -> Status:
        """Waits until nothing loads any more. Raises ModelLoadError once what was last asked for has failed.

        `waiting` is called with the status, five times a second.
        """
        deadline = math.inf if timeout is None else monotonic() + timeout
        while True:
            # With no lock of the session's: a debugger may suspend this thread as soon as it goes on, for minutes.
            done = self._settled.wait(max(0.0, min(0.2, deadline - monotonic())))
            if done:
                if (error := self._load_error) is not None:
                    raise error
                return self._status
            if waiting is not None:
                waiting(self._status)
            if monotonic() >= deadline:
                raise ModelLoadError(f"{self._status.model} is still loading.")

    def unload(self) -> None:
        """Gives the model's memory back. Ghost text stays away until something is loaded again."""
        with self._changed:
            self._unloaded_by_user = True
            for worker in self._workers:
                worker.retired = True
            engine, self._serving = self.engine, None
            self._loading = self._fallback = None
            self._settled.set()
            waiting = self._queue.clear()
            for job in self._running:
                job.cancelled.set()
            self._changed.notify_all()
            nobody = not self._workers
        for job in waiting:
            job.finish(CANCELLED, engine)
        if nobody:
            self._drain_if_idle()

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        """Asks for a completion. `update` gets the text so far, again and again, and last a final one.

        Exactly one final update (`finish_reason` set) or one call of `fail` ends each request. Both are called
        from a worker's thread, or at once by whoever ends a request that only waits: with a newer one, by cancelling
        it, by unloading; or where nothing is loaded and nothing will be, or too many requests wait.
        """
        request = excerpt(request)
        job = Job(self._with_sampling(request), update, fail)
        if job.automatic:
            self._debounce.key(job.typed, request.front_end)
        self.recent.append(request)
        replaced: Job | None = None
        with self._changed:
            closed, full = self._closed, self._queue.is_full(job)
            if not closed and not full:
                replaced = self._line_up(job)
            nobody = not self._busy()
        if closed:
            job.fail(GenerationError("jupyter-sc2 was unloaded."))
        elif full:
            job.finish(QUEUE_FULL, self.engine)
        elif replaced is not None:
            replaced.finish(CANCELLED, self.engine)
        self._tell_untold()
        if nobody:
            self._drain_if_idle()

    def _line_up(self, job: Job) -> Job | None:
        """Has a job wait for its turn; returns the one that it has replaced. Whoever calls this has the lock."""
        for other in self._running:
            # An invoked request may interrupt ghost text, never the reverse.
            if not other.is_replaced_by(job):
                continue
            if job.automatic and _agrees(other, job):
                job.goes_on = not other.goes_on
            elif not (job.automatic and self._ends_turn(other)):
                other.cancelled.set()
                job.goes_on = True
        if not job.automatic:
            self._unloaded_by_user = False
            if not self._busy():
                self._load_error = None
        self._load_if_wanted()
        job.waits = self._serving is None
        replaced = self._queue.add(job)
        self._ahead.pop(job.request.front_end, None)  # what is asked now is read instead
        self._stand_in()
        self._changed.notify_all()
        return replaced

    def complete(self, request: CompletionRequest) -> Iterator[Completion]:
        """The same for a caller that waits. Raises SC2Error; closing the iterator cancels the request."""
        answers: queue.SimpleQueue[Completion | SC2Error] = queue.SimpleQueue()
        request = replace(request, id=request.id or f"wait-{monotonic_ns()}")
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

    def explain_prompt(
        self, request: CompletionRequest
    ) -> tuple[list[PromptSpan], PromptPlan] | None:
        """What the model that answers would read for this request; None while there is none."""
        with self._changed:
            completer = self._serving.completer if self._serving is not None else None
        if completer is None:
            return None
        plan = completer.arrange(self._with_sampling(request), self._options)
        return completer.builder.pieces(plan), plan

    def cancel(self, request_id: str) -> None:
        """Ends a request with a final update: at once if it waits, else at the next token or prefill chunk."""
        with self._changed:
            waiting = [job for job in self._queue if job.request.id == request_id]
            for job in waiting:
                self._queue.remove(job)
            for job in self._running:
                if job.request.id == request_id:
                    job.cancelled.set()
            self._changed.notify_all()
        for job in waiting:
            job.finish(CANCELLED, self.engine)

    def prefetch(self, request: CompletionRequest) -> None:
        """Says what its front end may ask next: that is read as soon as there is nothing else to do."""
        with self._changed:
            self._ahead[request.front_end] = self._with_sampling(request)
            self._ahead.move_to_end(request.front_end)
            if len(self._ahead) > MAX_PREFETCHES:
                self._ahead.popitem(last=False)
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked and nothing is read ahead."""
        with self._changed:
            return not (self._queue or self._running or self._ahead or self._prefetches)

    @property
    def tokens_read(self) -> int:
        """Prompt tokens that the model has read since it was loaded, also those that nobody needed."""
        serving = self._serving
        return serving.completer.tokens_read if serving and serving.completer else 0

    def set_kernel_busy(self, running: bool) -> None:
        """While a cell of the user's runs, nothing is read ahead."""
        with self._changed:
            self._kernel_is_busy = running
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads at their next token; returns at once."""
        with self._changed:
            self._closed = True
            self._settled.set()
            for job in self._running:
                job.cancelled.set()
            self._changed.notify_all()
        self._drain_if_idle()

    def _end_in_child(self) -> None:
        """After a fork: none of the threads is here, and one of them may have held a lock.

        The engine stays where it is: to free it would wait for threads of its own that are not here either.
        """
        self._changed, self._status_lock = threading.Condition(), threading.RLock()
        self._closed, self._settled = True, threading.Event()
        self._settled.set()
        self._queue, self._running, self._listeners = RequestQueue(), [], []

    def _with_sampling(self, request: CompletionRequest) -> CompletionRequest:
        """What is answered: with the settings of this moment, so that the cache tells what was made with others, and
        without what is far from the cursor."""
        return replace(excerpt(request), sampling=request.sampling or self._options.sampling)

    # The workers' threads

    def _busy(self) -> bool:
        return not (self._serving is None and self._loading is None and self._fallback is None)

    def _start(
        self, options: LoadOptions, *, fallback: bool = False, because: str = ""
    ) -> _Worker | None:
        """Holding _changed. None if the system has no thread for it, which `_tell_untold` then tells."""
        predecessors = [one for one in self._workers if one.retired]
        worker = _Worker(options, predecessors, fallback, because=because)
        try:
            background.Thread(self._work, worker).start()
        except (RuntimeError, MemoryError) as error:
            self._untold.append((worker, _no_thread(options, error)))
            return None
        self._workers.append(worker)  # nobody can look before the lock is given back
        return worker

    def _start_fallback(self) -> _Worker | None:
        return self._start(LoadOptions(threads=self._load_options.threads), fallback=True)

    def _stand_in(self) -> None:
        """Loads the embedded model where something is asked and what would answer still loads. Holding _changed."""
        embedded = self._loading is None or _is_embedded(self._loading.options)
        if self._queue and self._serving is None and self._fallback is None and not embedded:
            self._fallback = self._start_fallback()

    def _tell_untold(self) -> None:
        """Tells of workers whose threads did not start. Not holding _changed."""
        with self._changed:
            untold, self._untold = self._untold, []
        for worker, error in untold:
            self._failed(worker, error)

    def _work(self, worker: _Worker) -> None:
        """All of a worker's life; what is imported meanwhile is ours."""
        with gate.guarded(), own_imports:
            self._live(worker)

    def _live(self, worker: _Worker) -> None:
        try:
            self._load_and_serve(worker)
        except LoadSuperseded:
            pass
        except ModelLoadError as error:
            with silence:
                self._failed(worker, error)
        except EngineLost as error:
            with silence:
                self._lost_while_loading(worker, error)
        except Exception as error:  # no memory for what is around a model, say
            logger.debug("A worker failed", exc_info=True)
            with silence:
                if self._serving is worker:
                    self._lost(worker, _model_failed(error))
                else:
                    self._failed(worker, _load_error(worker.options, error))
        finally:
            with silence:
                self._close(worker)
            with self._changed:
                self._workers.remove(worker)
                self._changed.notify_all()
            with silence:
                self._drain_if_idle()

    def _load_and_serve(self, worker: _Worker) -> None:
        # Only what takes moments to import is imported apart.
        with (
            silence,
            own_imports.without_user_modules() if _is_embedded(worker.options) else own_imports,
        ):
            engine = self._try_load(worker)
        with silence:
            worker.completer = Completer(engine, self._debounce, self._namespace, self._attributor)
            worker.load = Load()
            answers = self._activate(worker)
            if answers and isinstance(engine, ExternalEngine):
                engine.when_lost(partial(self._hear_of_loss, worker))
        if answers:
            self._serve(worker, worker.completer)

    def _close(self, worker: _Worker) -> None:
        if worker.completer is None:
            return
        try:
            worker.completer.engine.close()
        except Exception:
            logger.debug("An engine could not be closed", exc_info=True)
        with gate:  # what it has left of tensors goes with it
            worker.completer = None

    def _serve(self, worker: _Worker, completer: Completer) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._queue
                        or worker.retired
                        or self._closed
                        or (self._ahead and not self._kernel_is_busy)
                    )
                )
                if worker.retired or self._closed:
                    return
                job = ahead = None
                late = self._queue.take_late(worker.ready)
                if self._queue:
                    job = self._queue.next()
                    job.loaded = worker.ready if job.waits else None
                    self._running.append(job)
                else:  # the newest last, as it is then found in the engine's memory
                    _, ahead = self._ahead.popitem(last=False)
                self._prefetches = ahead is not None
            with silence, own_imports:
                for one in late:
                    one.finish(QUEUE_FULL, completer.engine)
                if job is not None:
                    self._answer(worker, completer, job)
                elif ahead is not None:
                    self._prefetch(worker, completer, ahead)

    def _drain_if_idle(self) -> None:
        """Where nothing is loaded and nothing will be: says so, also to those who still wait."""
        with self._changed:
            if self._busy() and not self._closed:
                return
            jobs = self._queue.clear()
            error = self._load_error
            unloaded = self._unloaded_by_user and not self._workers
        if unloaded:
            self._set_status(Status(model=self._load_options.model))
        for job in jobs:
            if self._closed:
                job.fail(GenerationError("jupyter-sc2 was unloaded."))
            elif not job.automatic and error is not None:
                job.fail(error)
            else:
                job.finish(Completion(text="", finish_reason="stop", reason="not_ready"))

    def _set_status(self, status: Status) -> None:
        with self._status_lock:
            if status == self._status:
                return
            self._status = status
            for listener in list(self._listeners):
                try:
                    listener(status)
                except Exception:
                    logger.exception("A listener to the session's status failed")

    # Loading

    def _try_load(self, worker: _Worker) -> Engine:
        options = worker.options
        terms = _terms(options.model)  # once: it may read files

        def given_up() -> bool:
            return worker.retired or self._closed

        def progress(state: str, share: float | None) -> None:
            with self._changed:
                if given_up():
                    raise LoadSuperseded
                shown = worker is self._loading
                message = self._meanwhile(state, terms)
            if shown:  # nobody waits for a stopgap
                self._set_status(
                    Status(
                        state=STAGES.get(state, (state,))[0],
                        model=options.model,
                        progress=share,
                        message=message,
                        stage=state,
                        seconds=monotonic() - worker.began,
                    )
                )

        with self._changed:
            self._changed.wait_for(
                lambda: given_up() or not any(one in self._workers for one in worker.predecessors)
            )
        try:
            progress("importing", None)
            return self._load_engine(
                options.model,
                engine=options.engine,
                precision=options.precision,
                server=options.server,
                threads=options.threads or None,
                offline=options.offline if self._offline is None else self._offline,
                progress=progress,
            )
        except (LoadSuperseded, EngineLost):
            raise
        except Exception as error:
            logger.debug("Loading failed", exc_info=True)
            failure = _load_error(options, error)
            if failure is error:
                raise
            raise failure from error

    def _meanwhile(self, state: str, terms: Sequence[str] = ()) -> str | None:
        """What there is to know about a load besides how far it is."""
        because = self._loading.because if self._loading is not None else ""
        said = [because, *STAGES.get(state, (state,))[1:]]
        if state == "downloading":
            said += terms
        if self._serving is not None and self._serving.engine is not None:
            said.append(f"{_display_name(self._serving.engine)} answers meanwhile.")
            said.append(self._serving.engine.notice)
        return " ".join(filter(None, said)) or None

    def _activate(self, worker: _Worker) -> bool:
        """Makes a loaded worker the one that answers; False if nobody wants it any more."""
        engine = worker.engine
        assert engine is not None
        worker.memory_bytes = engine.memory_bytes()
        with self._changed:
            if worker.retired or self._closed:
                return False
            if self._serving is not None:
                self._serving.retired = True
            worker.ready = monotonic()
            self._serving = worker
            if worker.fallback:
                self._fallback = None
            else:
                if self._fallback is not None:
                    self._fallback.retired, self._fallback = True, None
                self._load_options = worker.options
        # Before those who wait for it go on: they look at the status.
        with self._status_lock:
            with self._changed:  # what was meant to be loaded may have failed just now
                loading = worker.fallback and self._loading is not None
                message = self._meanwhile("") if loading else engine.notice or None
                if worker.fallback and self._load_error is not None:
                    message = f"{self._load_error} The embedded model answers instead."
            if self._serving is worker:  # another may have taken over in turn
                about = self._status if loading else self._status_of(worker, "ready")
                if not loading:
                    about = replace(about, seconds=worker.ready - worker.began)
                self._set_status(replace(about, message=message))
        with self._changed:
            if self._loading is worker:
                self._loading = None
                self._settled.set()
            self._changed.notify_all()
        return True

    def _failed(self, worker: _Worker, error: ModelLoadError) -> None:
        """Something that answers is better than nothing: what was loaded before, else the embedded model."""
        with self._changed:
            if worker.retired or self._closed:
                return
            if worker.fallback:
                self._fallback = None
                if self._load_error is not None and _may_pass(error):
                    self._retry_at = monotonic() + RETRY_AFTER
            else:
                self._loading = None
                began = worker in self._workers
                self._do_without(worker.options, error, RETRY_LATER if began else RETRY_AFTER)
            instead = self._serving or self._fallback
            self._changed.notify_all()  # who waits need not wait for what falls in
        for_good = not worker.fallback and not _may_pass(error)
        if for_good and instead and self._taken_back(worker.options, instead.options):
            self._load_options = instead.options
        self._tell_failure(error)
        self._tell_untold()

    def _do_without(self, options: LoadOptions, error: ModelLoadError, again: float) -> None:
        """After `again` seconds it may be tried again by itself, if what has failed may pass. Holding _changed."""
        self._load_error, self._load_options = error, options
        if _may_pass(error):
            again = again if self._serving is not None else RETRY_AFTER
            self._retry_at = monotonic() + again
        if self._serving is None and self._fallback is None and not _is_embedded(options):
            self._fallback = self._start_fallback()

    def _tell_failure(self, error: SC2Error) -> None:
        """The status after something has failed to load."""
        with self._changed:
            serving, told = self._serving, self._load_error
            waiting = self._loading is not None or self._fallback is not None
        if serving is not None and serving.engine is not None:
            does = "answers instead" if serving.fallback else "stays loaded"
            answers = f"{_display_name(serving.engine)} {does}. {serving.engine.notice}".rstrip()
            self._set_status(self._status_of(serving, "ready", f"{error} {answers}"))
        elif told is not None and not waiting:
            self._set_status(
                Status(state="error", model=self._load_options.model, message=str(told))
            )
        with self._changed:
            if self._loading is None:
                self._settled.set()

    def _hear_of_loss(self, worker: _Worker, error: EngineLost) -> None:
        with silence, own_imports:
            self._lost(worker, EngineLost(error.happened))

    def _lost(self, worker: _Worker, error: EngineLost) -> None:
        """What runs a worker's model has ended by itself: it is started again, if that was not done just before.

        Called on any thread, and maybe more than once.
        """
        gone: ModelLoadError | None = None
        with self._changed:
            if self._serving is not worker or worker.retired or self._closed:
                return
            worker.retired, self._serving = True, None
            if self._loading is worker:  # it was just about to take over
                self._loading = None
            restarts = self._loading is None and self._restarts.delay() is not None
            if restarts and not worker.fallback:
                self._begin_load(worker.options, f"{error.happened}: it is started again.")
            elif restarts:
                self._fallback = self._start_fallback()
            elif self._loading is None:
                gone = ModelLoadError(
                    f"{error.happened} again, soon after it was started anew: it stays away until it is loaded "
                    f"(%sc2 load {worker.options.model})."
                )
                gone.__cause__ = error.__cause__
                options = self._load_options if worker.fallback else worker.options
                self._do_without(options, gone, RETRY_LATER)
            self._stand_in()
            self._changed.notify_all()
        self._tell_loss(gone)
        self._tell_untold()

    def _lost_while_loading(self, worker: _Worker, error: EngineLost) -> None:
        """As `_lost`, for what has not answered yet."""
        with self._changed:
            again = (
                self._loading is worker and not self._closed and self._restarts.delay() is not None
            )
            if again:
                self._begin_load(worker.options, f"{error.happened}: it is started again.")
        if again:
            self._tell_loss(None)
            self._tell_untold()
        else:
            self._failed(worker, ModelLoadError(f"{worker.options.model}: {error.happened}."))

    def _tell_loss(self, gone: ModelLoadError | None) -> None:
        if gone is not None:
            self._tell_failure(gone)
            return
        with self._status_lock:
            with self._changed:
                loading = self._loading
                if loading is None or not loading.because or self._serving is loading:
                    return
                status = Status(
                    state="loading",
                    model=loading.options.model,
                    message=self._meanwhile("importing"),
                    stage="importing",
                    seconds=monotonic() - loading.began,
                )
            self._set_status(status)

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

    def _answer(self, worker: _Worker, completer: Completer, job: Job) -> None:
        answering = job
        lost: EngineLost | None = None
        broken: EngineLost | None = None

        def successor(running: Job) -> Job | None:
            nonlocal answering
            if self._queue and (later := self._claim_follow_up(running)) is not None:
                answering = later
                return later
            return None

        def pause(job: Job, seconds: float) -> None:
            """As long as nobody else waits."""
            with self._changed:
                self._changed.wait_for(
                    lambda: job.cancelled.is_set() or self._queue.others_wait(job), seconds
                )

        try:
            if completer.complete_from_cache(job, self._options):
                return
            self._tell_of(worker, "generating")
            try:
                adapt = partial(self._use_threads_that_help, worker, completer)
                unanswered = completer.answer(job, self._options, successor, adapt, pause)
                while unanswered is not None and not self._gave_turn_away(unanswered):
                    unanswered = completer.answer(
                        unanswered, self._options, successor, adapt, pause
                    )
                worker.failures = 0
            finally:
                worker.memory_bytes = completer.engine.memory_bytes()
                self._tell_of(worker, "ready")
        except EngineLost as error:
            lost = error
        except SC2Error as error:
            answering.fail(error)
        except BaseException as error:
            # A panic in Rust is no Exception, and this thread is to live on.
            logger.debug("Completing failed", exc_info=True)
            answering.fail(
                GenerationError(f"The model failed while completing: {_one_line(error)}")
            )
            worker.failures += 1
            # Where that was done just now it does not help: the model stays, and each request says what happens.
            fresh = bool(worker.because) and monotonic() - worker.began < RETRY_LATER
            if worker.failures >= MOST_FAILURES and not fresh:
                broken = _model_failed(error)
        finally:
            with self._changed:
                self._running.remove(answering)
                cancelled = answering.cancelled.is_set()
                asks_again = lost is not None and not cancelled and answering.ask_again()
                replaced = self._queue.add(answering) if asks_again else None
        if lost is not None:
            if cancelled:
                answering.finish(CANCELLED)
            elif not asks_again:
                answering.fail(lost)
            if replaced is not None:
                replaced.finish(CANCELLED)
            self._lost(worker, lost)
            with self._changed:
                self._stand_in()  # what was lost may have been known before
            self._tell_untold()
            self._drain_if_idle()
        elif broken is not None:
            self._lost(worker, broken)

    def _claim_follow_up(self, running: Job) -> Job | None:
        """A waiting job that goes on from what is being said; another one for its place cancels it."""
        with self._changed:
            job = self._queue.ghost_text_at(running)
            if job is None:
                return None
            if not _agrees(running, job):
                if not self._ends_turn(running):
                    running.cancelled.set()
                return None
            self._queue.remove(job)
            job.goes_on = running.goes_on
            self._running[self._running.index(running)] = job
            return job

    def _ends_turn(self, running: Job) -> bool:
        """Whether a newer key has to wait: one has replaced another in this turn, and other front ends wait for theirs.

        Or who types faster than the model answers would either keep them waiting or have no answer in any turn.
        """
        return running.goes_on and self._queue.others_wait(running)

    def _gave_turn_away(self, job: Job) -> bool:
        """Whether a job that has to be asked anew waits again: it has gone on in a turn once, and others wait."""
        with self._changed:
            if self._queue.ghost_text_at(job) is not None:
                job.cancelled.set()
            again = self._ends_turn(job) and not job.cancelled.is_set()
            job.goes_on = not again
            replaced = self._queue.add(job) if again else None
        if replaced is not None:
            replaced.finish(CANCELLED, self.engine)
        return again

    def _prefetch(self, worker: _Worker, completer: Completer, request: CompletionRequest) -> None:
        def unwanted() -> bool:
            newer = request.front_end in self._ahead
            return (
                bool(self._queue) or newer or self._kernel_is_busy or worker.retired or self._closed
            )

        def wait(seconds: float) -> None:
            with self._changed:
                self._changed.wait_for(unwanted, seconds)
            self._use_threads_that_help(worker, completer)

        def ended() -> bool:
            if self._low_priority:
                pauses()
            return unwanted()

        assert worker.load is not None
        pauses = Pauses(worker.load.crowded, wait)
        try:
            self._use_threads_that_help(worker, completer)
            completer.prefetch(request, self._options, ended)
        except EngineLost as error:
            self._lost(worker, error)
        except BaseException:  # nobody has asked: who asks for it will hear
            logger.debug("Reading ahead failed", exc_info=True)
        with self._changed:
            self._prefetches = False
            # Taken up again when the cell has ended, or by the next engine; who asks something reads that instead.
            interrupted = self._kernel_is_busy or worker.retired
            if interrupted and not self._queue and request.front_end not in self._ahead:
                self._ahead[request.front_end] = request

    def _use_threads_that_help(self, worker: _Worker, completer: Completer) -> None:
        """For what the engine does next on the calling thread."""
        assert worker.load is not None
        count = threads_that_help(
            worker.load.cores(),
            cell_runs=self._kernel_is_busy,
            setting=worker.options.threads,
        )
        completer.engine.use_threads(count)

    def _tell_of(self, worker: _Worker, state: str) -> None:
        """The status of the worker that answers; while another loads, that is what the status is about."""
        with self._status_lock:
            if self._serving is worker and self._loading is None:
                self._set_status(self._status_of(worker, state, self._status.message))


def _end_in_child() -> None:
    for session in list(_sessions):
        session._end_in_child()


def _agrees(running: Job, later: Job) -> bool:
    if running.generation is None or language_at(running.request) != language_at(later.request):
        return False
    return running.generation.is_compatible_with(later.request)


def _terms(model: str) -> list[str]:
    """The licence of what is downloaded, and what it asks for."""
    try:
        return [f"Licence: {find_card(model).licence_line}"]
    except ModelLoadError:
        return []


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _load_error(options: LoadOptions, error: Exception) -> ModelLoadError:
    """What went wrong with a load, in the user's terms."""
    if (hiding := own_imports.to_blame(error)) is not None:
        name, file = hiding
        failure = ModelLoadError(
            f"{options.model} could not be loaded: {file} hides the package {name}. "
            "Rename the file and restart the kernel."
        )
    elif isinstance(error, ModelLoadError):
        return error
    elif _may_pass(error):
        failure = ModelLoadError(
            f"{options.model} could not be loaded, as there is no memory for it ({_one_line(error)}). "
            "A later request tries again."
        )
    else:
        failure = ModelLoadError(f"{options.model} could not be loaded: {_one_line(error)}")
    failure.__cause__ = error
    return failure


def _no_thread(options: LoadOptions, error: BaseException) -> ModelLoadError:
    failure = ModelLoadError(
        f"{options.model} could not be loaded, as the system starts no thread for it (a limit on processes or on "
        "memory). A later request tries again."
    )
    failure.__cause__ = error
    return failure


def _model_failed(error: BaseException) -> EngineLost:
    lost = EngineLost(f"The model failed ({_one_line(error)})")
    if _may_pass(error):  # not the error itself: it would keep the model in memory
        lost.__cause__ = MemoryError()
    return lost


def _may_pass(error: BaseException) -> bool:
    """Whether this is for want of memory, threads or descriptors, of which there may be enough a moment later."""
    reason: BaseException | None = error
    seen: set[int] = set()
    while reason is not None and id(reason) not in seen:
        seen.add(id(reason))
        if isinstance(reason, MemoryError):
            return True
        if isinstance(reason, OSError) and reason.errno in SCARCE:
            return True
        said = str(reason).lower()
        if not isinstance(reason, SC2Error) and any(words in said for words in SCARCE_IN_WORDS):
            return True
        reason = reason.__cause__ or reason.__context__
    return False


def _is_embedded(options: LoadOptions) -> bool:
    """Whether this is what would stand in for any other model that is not there."""
    here = options.engine in ("auto", "onnxruntime", "transformers") and not options.server
    return options.model == EMBEDDED.name and here


def _display_name(engine: Engine) -> str:
    return "The embedded model" if engine.card.name == EMBEDDED.name else engine.card.name


_sessions: WeakSet[Session] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)
