"""Completes requests on one engine at a time, for all front ends of a kernel.

A request waits in the scheduler (scheduler.py) until the worker whose engine answers (workers.py) takes it. The worker
pulls its generation token by token; between two pulls the session decides: publish the text, stop, or hand the
generation to a later request that the user has typed meanwhile. While nothing is asked, the worker prefills what may
be asked next, unless a cell runs.

Public methods may be called on any thread and do not block, except `complete` and `wait_ready`. The threads are daemons
and are never joined: a kernel that loads or generates shuts down at once.
"""

from __future__ import annotations

import logging
import os
import queue
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from weakref import WeakSet

from jupyter_sc2 import engines
from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import GenerationError, SC2Error
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline import grounding
from jupyter_sc2.pipeline.completer import Attributor, Completer
from jupyter_sc2.pipeline.debounce import AdaptiveDebounce
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.job import CANCELLED, Job
from jupyter_sc2.pipeline.recovery import Recovery
from jupyter_sc2.pipeline.request_queue import QUEUE_FULL
from jupyter_sc2.pipeline.scheduler import Scheduler
from jupyter_sc2.pipeline.serving import ServingLoop
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.pipeline.workers import Worker, Workers
from jupyter_sc2.prompt.builder import PromptPlan, PromptSpan
from jupyter_sc2.prompt.excerpt import excerpt
from jupyter_sc2.runtime.clock import monotonic_ns
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.types import Completion, CompletionRequest

logger = logging.getLogger(__name__)

Update = Callable[[Completion], None]
Fail = Callable[[SC2Error], None]


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
        feedback: Feedback | None = None,
        taken_back: Callable[[LoadOptions, LoadOptions], bool] = lambda failed, instead: False,
    ) -> None:
        """With `low_priority`, prefetching pauses while other processes want the cores.

        `taken_back` is called on a worker's thread where a load failed, with its options and those of what answers
        instead; it returns whether these count from now on.
        """
        self.recent: deque[CompletionRequest] = deque(maxlen=32)  # the newest last
        self._namespace = namespace
        self._attributor = attributor
        self._feedback = feedback
        self._debounce = AdaptiveDebounce()
        self._scheduler = Scheduler(options or CompletionOptions(), low_priority=low_priority)
        self._workers = Workers(
            self._run_worker,
            self._scheduler.queue,
            load_engine=load_engine,
            make_completer=self._make_completer,
            options=load_options or LoadOptions(),
        )
        self._recovery = Recovery(self._workers, taken_back)
        _sessions.add(self)

    # Loading

    @property
    def status(self) -> Status:
        return self._workers.board.status

    @property
    def engine(self) -> Engine | None:
        """What answers now. Only its own thread may use it while anything is asked."""
        serving = self._workers.serving
        return None if serving is None else serving.engine

    def subscribe(self, listener: Callable[[Status], None]) -> Callable[[], None]:
        """Calls `listener` from a worker's thread at each change of the status; returns what ends that."""
        return self._workers.board.subscribe(listener)

    @property
    def options(self) -> CompletionOptions:
        return self._scheduler.options

    def configure(self, options: CompletionOptions) -> None:
        self._scheduler.options = options

    def set_offline(self, offline: bool) -> None:
        """Whether loads use the network from now on, those with options of an earlier moment, too."""
        self._workers.offline = offline

    def load(self, options: LoadOptions | None = None) -> None:
        """Starts loading; what is loaded answers until then. A failure shows in the status."""
        with self._workers.changed:
            self._workers.begin(options)
        self._recovery.report_not_started()

    def ensure_loaded(self) -> None:
        """Loads unless something is loaded or loading, or was unloaded by the user."""
        with self._workers.changed:
            self._workers.ensure_loaded()
        self._recovery.report_not_started()

    def wait_ready(
        self, timeout: float | None = None, waiting: Callable[[Status], None] | None = None
    ) -> Status:
        """Waits until nothing loads any more. Raises ModelLoadError if the last load has failed.

        `waiting` is called with the status, five times a second.
        """
        return self._workers.wait_ready(timeout, waiting)

    def unload(self) -> None:
        """Gives the model's memory back. Ghost text stays away until something is loaded again."""
        with self._workers.changed:
            engine, waiting = self.engine, self._scheduler.queue.clear()
            self._scheduler.cancel_running()
            self._scheduler.shown.clear()
            self._workers.unload()
            alive = bool(self._workers.alive)
        for job in waiting:
            job.finish(CANCELLED, engine)
        if not alive:
            self._drain_if_idle()

    # Completing

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        """Asks for a completion. `update` gets the text so far, again and again, and last a final one.

        Exactly one final update (`finish_reason` set) or one call of `fail` ends each request. Both are called
        from a worker's thread, or at once by whoever ends a request that only waits: with a newer one, by cancelling
        it, by unloading; or where nothing is loaded and nothing will be, or too many requests wait.
        """
        request = excerpt(request)
        job = Job(self._with_sampling(request), update, fail)
        if job.automatic:
            self._debounce.record_keystroke(job.typed_at, request.front_end)
        self.recent.append(request)
        workers, replaced = self._workers, None
        with workers.changed:
            closed, full = workers.closed, self._scheduler.queue.is_full(job)
            if not closed and not full:
                if not job.automatic:
                    workers.unloaded_by_user = False
                    if not workers.busy:
                        workers.load_error = None
                workers.ensure_loaded()
                job.waited_for_model = workers.serving is None
                if self._scheduler.kernel_is_busy and not job.waited_for_model:
                    job.hurry()
                replaced = self._scheduler.add(job)
                workers.start_fallback_if_needed()
                workers.changed.notify_all()
            busy = workers.busy
        if closed:
            job.fail(GenerationError("jupyter-sc2 was unloaded."))
        elif full:
            job.finish(QUEUE_FULL, self.engine)
        elif replaced is not None:
            replaced.finish(CANCELLED, self.engine)
        self._recovery.report_not_started()
        if not busy:
            self._drain_if_idle()

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
        serving = self._workers.serving
        completer = None if serving is None else serving.completer
        if completer is None:
            return None
        plan = completer.arrange(self._with_sampling(request), self.options)
        return completer.builder.pieces(plan), plan

    def cancel(self, request_id: str) -> None:
        """Ends a request with a final update: at once if it waits, else at the next token or prefill chunk."""
        with self._workers.changed:
            waiting = self._scheduler.cancel(request_id)
            self._workers.changed.notify_all()
        for job in waiting:
            job.finish(CANCELLED, self.engine)

    def accepted(self) -> None:
        """Tells that the user has accepted a suggestion of the model that answers."""
        if self._feedback is not None and (engine := self.engine) is not None:
            self._feedback.accepted(engine.card.name)

    def adjusted_confidence(self) -> float | None:
        """The confidence that counts, where accepts and rejects have moved it; None where they have not."""
        if self._feedback is None or (engine := self.engine) is None:
            return None
        wanted = self.options.confidence
        wanted = engine.card.confidence if wanted is None else wanted
        moved = self._feedback.threshold(engine.card.name, wanted)
        return None if round(moved, 2) == round(wanted, 2) else moved

    def reset_feedback(self) -> None:
        """Forgets what the user's accepts and rejects have adjusted."""
        if self._feedback is not None:
            self._feedback.reset()

    def prefetch(self, request: CompletionRequest) -> None:
        """Prefills what a front end may ask next, as soon as there is nothing else to do."""
        with self._workers.changed:
            self._scheduler.prefetch(self._with_sampling(request))
            self._workers.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is completed and nothing is prefilled."""
        with self._workers.changed:
            return self._scheduler.idle

    @property
    def tokens_read(self) -> int:
        """Prompt tokens that the model has read since it was loaded, also those that nobody needed."""
        serving = self._workers.serving
        return serving.completer.tokens_read if serving and serving.completer else 0

    @property
    def tokens_ahead(self) -> tuple[int, int]:
        """Tokens decoded before anybody had requested them, since the model was loaded, and how many were used."""
        serving = self._workers.serving
        completer = serving.completer if serving else None
        return (completer.decoded_ahead, completer.used_ahead) if completer else (0, 0)

    def set_kernel_busy(self, running: bool) -> None:
        """While a cell of the user's runs, nothing is computed ahead."""
        with self._workers.changed:
            self._scheduler.set_kernel_busy(running)
            self._workers.changed.notify_all()

    def close(self) -> None:
        """Ends the threads at their next token; returns at once."""
        with self._workers.changed:
            self._scheduler.cancel_running()
            self._workers.shut_down()
        self._drain_if_idle()

    def end_in_child(self) -> None:
        """After a fork, in the child: none of the threads is here, and the session is closed."""
        self._workers.end_in_child()
        self._scheduler = Scheduler(self.options)

    def _with_sampling(self, request: CompletionRequest) -> CompletionRequest:
        """The request with the settings of this moment, which the cache compares, and only what is near the cursor."""
        return replace(excerpt(request), sampling=request.sampling or self.options.sampling)

    def _make_completer(self, engine: Engine) -> Completer:
        return Completer(engine, self._debounce, self._namespace, self._attributor, self._feedback)

    def _drain_if_idle(self) -> None:
        """If nothing is loaded and nothing will be, publishes that and finishes the jobs that still wait."""
        workers = self._workers
        with workers.changed:
            if workers.busy and not workers.closed:
                return
            jobs = self._scheduler.queue.clear()
            error = workers.load_error
            unloaded = workers.unloaded_by_user and not workers.alive
        if unloaded:
            workers.board.publish(Status(model=workers.options.model))
        for job in jobs:
            if workers.closed:
                job.fail(GenerationError("jupyter-sc2 was unloaded."))
            elif not job.automatic and error is not None:
                job.fail(error)
            else:
                job.finish(Completion(text="", finish_reason="stop", reason="not_ready"))

    # On a worker's thread

    def _run_worker(self, worker: Worker) -> None:
        """All of a worker's life; its imports are ours."""
        with gate.guarded(), own_imports:
            try:
                if self._workers.open(worker):
                    self._recovery.watch(worker)
                    ServingLoop(worker, self._scheduler, self._workers, self._recovery).run()
            except Exception as error:
                with silence:
                    self._recovery.fail(worker, error)
            finally:
                with silence:
                    self._workers.close(worker)
                    self._drain_if_idle()


def _end_in_child() -> None:
    for session in list(_sessions):
        session.end_in_child()


_sessions: WeakSet[Session] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)
