"""Which request the model works on next, and what a newer request does to an older one.

A new automatic request replaces older automatic ones of the same front end and place: the newest keystroke wins. If
the user has typed what the model is writing, the newer request takes over that generation instead. An invoked request
may interrupt ghost text, never the reverse. Front ends take turns (request_queue.py).

A session calls all this with its lock held, and finishes the jobs that it gets back without it.
"""

from __future__ import annotations

from collections import OrderedDict

from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.generation import Generation
from jupyter_sc2.pipeline.job import Job
from jupyter_sc2.pipeline.next_suggestion import ShownTexts
from jupyter_sc2.pipeline.request_queue import RequestQueue
from jupyter_sc2.types import CompletionRequest

# Front ends for which something may be prefilled, the newest ones.
MAX_PREFETCHES = 16


class Scheduler:
    """The jobs that wait, the generations under way, and the requests that may come next."""

    def __init__(self, options: CompletionOptions, *, low_priority: bool = False) -> None:
        """With `low_priority`, prefetching pauses while other processes want the cores."""
        self.options = options
        self.low_priority = low_priority
        self.kernel_is_busy = False
        self.queue = RequestQueue()
        self.running: list[Generation] = []
        self.prefetching = False
        self._prefetches: OrderedDict[str, CompletionRequest] = OrderedDict()  # by front end
        self.shown = ShownTexts()

    @property
    def idle(self) -> bool:
        """Whether nothing is completed and nothing is prefilled."""
        return not (
            self.queue or self.running or self._prefetches or self.prefetching or self.shown
        )

    def add(self, job: Job) -> Job | None:
        """Queues a job; returns the one that it has replaced."""
        self.shown.drop(job.request.front_end)
        for generation in self.running:
            other = generation.job
            replaced = other.is_replaced_by(job)
            continues = replaced and job.automatic and generation.can_continue_as(job.request)
            if other.speculative:
                if not continues:
                    other.cancelled.set()
                continue
            if not replaced:
                continue
            if continues:
                job.continues_turn = not other.continues_turn
            elif not (job.automatic and self._is_last_of_its_turn(other)):
                other.cancelled.set()
                job.continues_turn = True
        self._prefetches.pop(job.request.front_end, None)  # the job itself is prefilled instead
        return self.queue.add(job)

    def cancel(self, request_id: str) -> list[Job]:
        """Cancels the jobs of a request; returns those that were still waiting."""
        waiting = [job for job in self.queue if job.request.id == request_id]
        for job in waiting:
            self.queue.remove(job)
        for generation in self.running:
            if generation.job.request.id == request_id:
                generation.job.cancelled.set()
        return waiting

    def cancel_running(self) -> None:
        for generation in self.running:
            generation.job.cancelled.set()

    def start_next(self, ready: float) -> Generation:
        """Takes out the job whose turn it is, for a model that can answer since `ready`. There has to be one."""
        job = self.queue.next()
        job.model_ready = ready if job.waited_for_model else None
        generation = Generation(job, self.options)
        self.running.append(generation)
        return generation

    def hand_over(self, generation: Generation) -> Job | None:
        """Makes it the generation of the waiting job that it can continue as; returns the job that it was for.

        If another job waits for its place, that cancels it.
        """
        later = self.queue.ghost_text_at(generation.job)
        if later is None:
            return None
        if not generation.can_continue_as(later.request):
            if not self._is_last_of_its_turn(generation.job):
                generation.job.cancelled.set()
            return None
        self.queue.remove(later)
        older = generation.job
        later.continues_turn = older.continues_turn
        generation.pass_to(later)
        return older

    def give_turn_away(self, job: Job) -> tuple[bool, Job | None]:
        """For a job whose generation has diverged: whether it waits again, and the job that it replaces there.

        It waits if it has continued a turn once already and another front end waits.
        """
        if self.queue.ghost_text_at(job) is not None:
            job.cancelled.set()
        waits = self._is_last_of_its_turn(job) and not job.cancelled.is_set()
        job.continues_turn = not waits
        return waits, self.queue.add(job) if waits else None

    def _is_last_of_its_turn(self, job: Job) -> bool:
        """Whether a newer key has to wait: one has replaced another in this turn, and other front ends wait for theirs.

        Or who types faster than the model answers would either keep them waiting or have no answer in any turn.
        """
        return job.continues_turn and self.queue.others_wait(job)

    # Prefetching

    def prefetch(self, request: CompletionRequest) -> None:
        """Remembers what its front end may ask next, in place of what it was before."""
        for generation in self._speculative():
            ahead = generation.job.request
            if ahead.front_end == request.front_end and ahead.cell_id != request.cell_id:
                generation.job.cancelled.set()  # the user has gone elsewhere
        self._prefetches[request.front_end] = request
        self._prefetches.move_to_end(request.front_end)
        if len(self._prefetches) > MAX_PREFETCHES:
            self._prefetches.popitem(last=False)

    @property
    def may_prefetch(self) -> bool:
        return bool(self._prefetches) and not self.kernel_is_busy

    def next_prefetch(self) -> CompletionRequest:
        """The newest comes last, as the engine's memory then holds it."""
        self.prefetching = True
        return self._prefetches.popitem(last=False)[1]

    def has_newer_prefetch(self, request: CompletionRequest) -> bool:
        return request.front_end in self._prefetches

    def end_prefetch(self, request: CompletionRequest, *, interrupted: bool) -> None:
        """An interrupted one is resumed later, unless something was asked meanwhile: that is prefilled instead."""
        self.prefetching = False
        if interrupted and not self.queue and request.front_end not in self._prefetches:
            self._prefetches[request.front_end] = request

    # The suggestion after the next

    @property
    def may_speculate(self) -> bool:
        return not self.kernel_is_busy and self.shown.wait_s == 0

    def start_speculation(self, job: Job) -> Generation:
        generation = Generation(job, self.options)
        self.running.append(generation)
        return generation

    def set_kernel_busy(self, running: bool) -> None:
        """While a cell runs, nothing is computed that nobody has requested."""
        self.kernel_is_busy = running
        if running:
            self.shown.clear()
            for generation in self._speculative():
                generation.job.cancelled.set()

    def _speculative(self) -> list[Generation]:
        return [generation for generation in self.running if generation.job.speculative]
