"""The loop of a worker's thread: takes what is next from the scheduler, and pulls its generation token by token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from jupyter_sc2.errors import EngineLost, GenerationError, SC2Error
from jupyter_sc2.pipeline.completer import Completer
from jupyter_sc2.pipeline.generation import Generation
from jupyter_sc2.pipeline.job import CANCELLED, Job
from jupyter_sc2.pipeline.load_errors import in_one_line
from jupyter_sc2.pipeline.next_suggestion import DELAY_S, ShownText
from jupyter_sc2.pipeline.recovery import Recovery
from jupyter_sc2.pipeline.request_queue import QUEUE_FULL
from jupyter_sc2.pipeline.scheduler import Scheduler
from jupyter_sc2.pipeline.workers import Worker, Workers
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.priority import Pauses
from jupyter_sc2.types import Completion, CompletionRequest

logger = logging.getLogger(__name__)


class ServingLoop:
    """Answers with one worker's engine until the worker is retired or the session is closed."""

    def __init__(
        self, worker: Worker, scheduler: Scheduler, workers: Workers, recovery: Recovery
    ) -> None:
        assert worker.completer is not None
        self._worker = worker
        self._completer: Completer = worker.completer
        self._scheduler = scheduler
        self._workers = workers
        self._recovery = recovery

    def run(self) -> None:
        scheduler, worker = self._scheduler, self._worker
        while True:
            generation = ahead = shown = None
            with self._workers.changed:
                self._workers.changed.wait_for(
                    lambda: (
                        self._is_over()
                        or scheduler.queue
                        or scheduler.may_prefetch
                        or scheduler.may_speculate
                    ),
                    scheduler.shown.wait_s,
                )
                if self._is_over():
                    scheduler.shown.clear()
                    return
                late = scheduler.queue.take_late(worker.ready)
                if scheduler.queue:
                    generation = scheduler.start_next(worker.ready)
                elif scheduler.may_prefetch:
                    ahead = scheduler.next_prefetch()
                elif scheduler.may_speculate:
                    shown = scheduler.shown.next()
            with silence, own_imports:
                for job in late:
                    job.finish(QUEUE_FULL, self._completer.engine)
                if generation is not None:
                    self._work_on(generation)
                elif ahead is not None:
                    self._prefetch(ahead)
                elif shown is not None:
                    self._speculate(shown)

    def _is_over(self) -> bool:
        return self._worker.retired or self._workers.closed

    # Completing

    def _work_on(self, generation: Generation) -> None:
        """Completes the job, and those that take the generation over; whatever happens, each of them ends."""
        lost: EngineLost | None = None
        failed: BaseException | None = None
        try:
            self._complete(generation)
        except EngineLost as error:
            lost = error
        except SC2Error as error:
            generation.job.fail(error)
        except BaseException as error:
            # A panic in Rust is not an Exception, and this thread has to survive it.
            logger.debug("Completing failed", exc_info=True)
            message = f"The model failed while completing: {in_one_line(error)}"
            generation.job.fail(GenerationError(message))
            failed = error
        job = generation.job
        wanted = not (job.cancelled.is_set() or job.speculative)
        with self._workers.changed:
            self._scheduler.running.remove(generation)
            retried = lost is not None and wanted and job.retry()
            replaced = self._scheduler.queue.add(job) if retried else None
        if replaced is not None:
            replaced.finish(CANCELLED)
        if lost is not None:
            if not wanted:
                job.finish(CANCELLED)
            elif not retried:
                job.fail(lost)
            self._recovery.lost(self._worker, lost)
            with self._workers.changed:
                self._workers.start_fallback_if_needed()  # the loss may have been known before
            self._recovery.report_not_started()
        elif failed is not None and not job.speculative:
            self._recovery.failed_request(self._worker, failed)

    def _complete(self, generation: Generation) -> None:
        completer, job = self._completer, generation.job
        cached = completer.complete_from_cache(job, generation.options)
        if cached is not None:
            job.finish(cached, completer.engine)
            self._note_shown(generation, cached)
            return
        if not job.speculative:
            self._workers.report(self._worker, "generating")
        try:
            self._decode(generation)
            while generation.diverged and not self._gave_turn_away(generation.job):
                generation.restart(self._scheduler.options)
                self._decode(generation)
            self._worker.failures = 0
        finally:
            self._worker.memory_bytes = completer.engine.memory_bytes()
            self._workers.report(self._worker, "ready")

    def _decode(self, generation: Generation) -> None:
        """Between any two tokens: hand the generation over, publish, or let it see that its job is cancelled."""
        completer, engine = self._completer, self._completer.engine
        self._use_helpful_threads()
        completer.prefill(generation)
        if generation.job.automatic and not generation.job.speculative:
            self._wait_for_next_key(generation.job)
        self._use_helpful_threads()
        pause = self._pauses(lambda: generation.cancelled() or bool(self._scheduler.queue))
        for completion in completer.run(generation):
            if completion is None:
                self._use_helpful_threads()
                if (older := self._hand_over(generation)) is not None:
                    older.finish(replace(CANCELLED, text=generation.text), engine)
                    completion = completer.retarget(generation, older)
                    self._workers.report(self._worker, "generating")
                elif generation.job.speculative:
                    pause()
            if completion is not None and completion.finish_reason is None:
                generation.job.publish(completion, engine)
            elif completion is not None:
                generation.job.finish(completion, engine)
                self._note_shown(generation, completion)

    def _wait_for_next_key(self, job: Job) -> None:
        """As long as the debounce says, and nobody else waits."""
        due = job.typed_at + self._completer.debounce.delay(job.request.front_end)
        with self._workers.changed:
            self._workers.changed.wait_for(
                lambda: job.cancelled.is_set() or self._scheduler.queue.others_wait(job),
                max(0.0, due - monotonic()),
            )

    def _hand_over(self, generation: Generation) -> Job | None:
        """To a job that waits and that it can continue as; returns the one that it was for."""
        if not self._scheduler.queue or not generation.can_be_handed_over:
            return None
        with self._workers.changed:
            return self._scheduler.hand_over(generation)

    def _note_shown(self, generation: Generation, completion: Completion) -> None:
        """What follows a text that is shown may be computed ahead, unless the settings say otherwise."""
        job, completer = generation.job, self._completer
        first = next(iter(generation.finished), completion)  # of several candidates
        wanted = generation.options.next_suggestion
        if wanted == "auto":
            wanted = "off" if completer.engine.capabilities.remote else "on"
        if job.speculative or not first.text or completion.finish_reason == "cancelled":
            return
        with self._workers.changed:
            if wanted == "on" and not self._scheduler.kernel_is_busy:
                shown = ShownText(job.request, first.text, job.typed_at + DELAY_S)
                self._scheduler.shown.add(shown)

    def _gave_turn_away(self, job: Job) -> bool:
        """Whether a job that has to begin anew waits for another turn."""
        with self._workers.changed:
            waits, replaced = self._scheduler.give_turn_away(job)
        if replaced is not None:
            replaced.finish(CANCELLED, self._completer.engine)
        return waits

    def _use_helpful_threads(self) -> None:
        self._worker.use_helpful_threads(cell_runs=self._scheduler.kernel_is_busy)

    # Prefetching

    def _prefetch(self, request: CompletionRequest) -> None:
        worker, scheduler, changed = self._worker, self._scheduler, self._workers.changed

        def unwanted() -> bool:
            newer = scheduler.has_newer_prefetch(request)
            return bool(scheduler.queue) or newer or scheduler.kernel_is_busy or self._is_over()

        pause = self._pauses(unwanted)

        def cancelled() -> bool:
            pause()
            return unwanted()

        try:
            self._use_helpful_threads()
            self._completer.prefetch(request, scheduler.options, cancelled)
        except EngineLost as error:
            self._recovery.lost(worker, error)
        except BaseException:  # nobody has asked: who asks for it will hear
            logger.debug("Prefetching failed", exc_info=True)
        with changed:
            interrupted = scheduler.kernel_is_busy or worker.retired
            scheduler.end_prefetch(request, interrupted=interrupted)

    def _pauses(self, unwanted: Callable[[], bool]) -> Callable[[], None]:
        """Called again and again by work that nobody has requested; yields to other processes."""
        load, changed = self._worker.load, self._workers.changed
        assert load is not None
        if not self._scheduler.low_priority:
            return lambda: None

        def wait(seconds: float) -> None:
            with changed:
                changed.wait_for(unwanted, seconds)
            self._use_helpful_threads()

        return Pauses(load.crowded, wait)

    # The suggestion after the next

    def _speculate(self, shown: ShownText) -> None:
        """Completes what is likely to be requested after a text is accepted, until there is something to show."""
        for request in shown.requests():
            answers: list[Completion] = []
            job = Job(request, answers.append, lambda error: None, speculative=True)
            with self._workers.changed:
                if self._scheduler.queue or self._scheduler.kernel_is_busy or self._is_over():
                    return
                generation = self._scheduler.start_speculation(job)
            self._work_on(generation)
            answer = answers[-1] if answers else CANCELLED
            if answer.finish_reason == "cancelled":
                return
            if answer.reason != "nothing_to_add":
                break
        with self._workers.changed:
            self._scheduler.shown.done(shown)
