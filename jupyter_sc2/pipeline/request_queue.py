"""Requests that wait for the model: whose turn it is, what a newer one replaces, and how many may wait.

Front ends take turns: the one that has waited longest is next, with one request, and then queues again behind the
others. Among the requests of one front end, invoked ones go first. A newer request replaces ghost text that waits for
the same front end and place, and takes its place in the queue.

A session calls this with its lock held. Whoever takes a job out has to end it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from jupyter_sc2.pipeline.job import Job
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.types import Completion

# Of one front end, of either kind, and of all front ends together: each request holds its notebook.
MAX_WAITING = 16
MAX_WAITING_IN_ALL = 128
# Behind others of its own front end: a slow model would need minutes for a full queue.
MAX_WAIT_S = 20.0

QUEUE_FULL = Completion(text="", finish_reason="stop", reason="queue_full")


class RequestQueue:
    def __init__(self) -> None:
        # By front end, in the order of their turns; none is empty.
        self._line: OrderedDict[str, list[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._line.values()))

    def __iter__(self) -> Iterator[Job]:
        return (job for jobs in self._line.values() for job in jobs)

    def is_full(self, job: Job) -> bool:
        """Whether this job has to be turned away. Ghost text has not where it can replace its own front end's."""
        own = self._of_its_kind(job)
        return not (job.automatic and own) and self._is_crowded(own)

    def add(self, job: Job) -> Job | None:
        """Lines up a job; returns the one that it has replaced.

        Where it goes on in a turn that its front end has already, that front end is next.
        """
        older = self.ghost_text_at(job)
        own = self._of_its_kind(job)
        if older is None and job.automatic and own and self._is_crowded(own):
            older = own[0]
        jobs = self._line.setdefault(job.request.front_end, [])
        if older is None:
            jobs.append(job)
        else:
            jobs[jobs.index(older)] = job
            job.continues_turn = job.continues_turn or older.continues_turn
        if job.continues_turn:
            self._line.move_to_end(job.request.front_end, last=False)
        return older

    def next(self) -> Job:
        """Takes the job out whose turn it is. There has to be one."""
        front_end, own = next(iter(self._line.items()))
        job = _first(own)
        self._line.move_to_end(front_end)
        self.remove(job)
        return job

    def take_late(self, ready: float) -> list[Job]:
        """Takes those out that have waited too long; not the first of each front end, which is next there.

        Nobody was kept waiting before the model was `ready`, on the clock of `Job.arrived`.
        """
        limit = monotonic() - MAX_WAIT_S
        late = [
            job
            for own in self._line.values()
            for job in own
            if job is not _first(own) and max(job.arrived, ready) <= limit
        ]
        for job in late:
            self.remove(job)
        return late

    def remove(self, job: Job) -> None:
        own = self._line[job.request.front_end]
        own.remove(job)
        if not own:
            del self._line[job.request.front_end]

    def clear(self) -> list[Job]:
        """Takes all out."""
        jobs = list(self)
        self._line.clear()
        return jobs

    def ghost_text_at(self, job: Job) -> Job | None:
        """The automatic job that waits for the same front end and place, of which there is one at most."""
        own = self._line.get(job.request.front_end, ())
        return next((one for one in own if one.is_replaced_by(job)), None)

    def others_wait(self, job: Job) -> bool:
        """Whether another front end waits for its turn."""
        return any(front_end != job.request.front_end for front_end in self._line)

    def _of_its_kind(self, job: Job) -> list[Job]:
        own = self._line.get(job.request.front_end, ())
        return [one for one in own if one.automatic == job.automatic]

    def _is_crowded(self, own: list[Job]) -> bool:
        return len(own) >= MAX_WAITING or len(self) >= MAX_WAITING_IN_ALL


def _first(jobs: list[Job]) -> Job:
    """The one of a front end that is next there."""
    return min(jobs, key=lambda job: (job.automatic, not job.continues_turn))
