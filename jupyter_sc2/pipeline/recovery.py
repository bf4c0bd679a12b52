"""What happens after an engine has failed: at its load, at a request, or because its process has ended.

Something that answers is better than nothing: what was loaded before stays, else the embedded model is loaded. An
engine that is lost is started again once. If the system has no thread or no memory for a load, a later request tries
again. So it does with a server that has answered before and is away, after delays that double.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from jupyter_sc2.engines.base import ExternalEngine
from jupyter_sc2.errors import EngineLost, ModelLoadError, SC2Error, ServerLost
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.load_errors import is_transient, load_error, model_failed
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.pipeline.workers import LoadSuperseded, Worker, Workers, is_embedded
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.http_retries import LOST_SERVERS
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence

logger = logging.getLogger(__name__)

# Until a load that failed for want of memory or a thread may be tried again, if something is asked.
RETRY_AFTER_S = 2.0
# The same where another model answers meanwhile; and for so long a lost engine is not started again twice.
RETRY_LATER_S = 60.0
# So many requests a model may fail, one after the other, until it is loaded anew.
MAX_FAILURES = 3


class Recovery:
    """Decides after a failure what answers instead and what is loaded again. None of its methods holds the lock."""

    def __init__(
        self, workers: Workers, taken_back: Callable[[LoadOptions, LoadOptions], bool]
    ) -> None:
        """`taken_back` is called with the options of a load that failed for good and those of what answers instead."""
        self._workers = workers
        self._taken_back = taken_back
        # The server that was lost, and how often it was asked in vain since. Guarded by the lock.
        self._away: LoadOptions | None = None
        self._away_failures = 0

    def report_not_started(self) -> None:
        """Handles workers whose threads did not start. Called without the lock."""
        with self._workers.changed:
            not_started, self._workers.not_started = self._workers.not_started, []
        for worker, error in not_started:
            self._failed(worker, error)

    def fail(self, worker: Worker, error: Exception) -> None:
        """For whatever ended a worker's thread."""
        match error:
            case LoadSuperseded():
                pass
            case ModelLoadError():
                self._failed(worker, error)
            case EngineLost():
                self._lost_while_loading(worker, error)
            case _:  # no memory for the bookkeeping around a model, say
                logger.debug("A worker failed", exc_info=error)
                if self._workers.serving is worker:
                    self.lost(worker, model_failed(error))
                else:
                    self._failed(worker, load_error(worker.options, error))

    def _failed(self, worker: Worker, error: ModelLoadError) -> None:
        """The model that was loaded before stays; if there is none, the embedded model is loaded."""
        with self._workers.changed:
            if worker.retired or self._workers.closed:
                return
            if worker.fallback:
                self._workers.fallback = None
                if self._workers.load_error is not None and is_transient(error):
                    self._workers.retry_at = monotonic() + RETRY_AFTER_S
            else:
                self._workers.loading = None
                began = worker in self._workers.alive
                retry_after_s = RETRY_LATER_S if began else RETRY_AFTER_S
                self._do_without(worker.options, error, retry_after_s)
            instead = self._workers.serving or self._workers.fallback
            self._workers.changed.notify_all()  # who waits need not wait for the fallback
        returns = is_transient(error) or self._may_return(worker.options, error)
        for_good = not worker.fallback and not returns
        if for_good and instead and self._taken_back(worker.options, instead.options):
            self._workers.options = instead.options
        self._report_failure(error)
        self.report_not_started()

    def _do_without(
        self, options: LoadOptions, error: ModelLoadError, retry_after_s: float
    ) -> None:
        """Holding the lock."""
        self._workers.load_error, self._workers.options = error, options
        if self._may_return(options, error):
            self._away_failures += 1
            delay = LOST_SERVERS.delay(self._away_failures)
            self._workers.retry_at = monotonic() + (delay or 0.0)
        elif is_transient(error):
            self._workers.retry_at = monotonic() + (
                retry_after_s if self._workers.serving is not None else RETRY_AFTER_S
            )
        if (
            self._workers.serving is None
            and self._workers.fallback is None
            and not is_embedded(options)
        ):
            self._workers.start_fallback()

    def _may_return(self, options: LoadOptions, error: ModelLoadError) -> bool:
        """Whether this is the server that was lost, and it is still away."""
        return options == self._away and isinstance(error.__cause__, ServerLost)

    def _report_failure(self, error: SC2Error) -> None:
        """Publishes the status after something has failed to load."""
        with self._workers.changed:
            serving, failure = self._workers.serving, self._workers.load_error
            waiting = self._workers.loading is not None or self._workers.fallback is not None
        if serving is not None and serving.engine is not None:
            does = "answers instead" if serving.fallback else "stays loaded"
            message = f"{error} {serving.display_name} {does}. {serving.notice}".rstrip()
            self._workers.board.publish(serving.status("ready", message))
        elif failure is not None and not waiting:
            self._workers.board.publish(
                Status("error", self._workers.options.model, message=str(failure))
            )
        with self._workers.changed:
            if self._workers.loading is None:
                self._workers.settled.set()

    def failed_request(self, worker: Worker, error: BaseException) -> None:
        """For a request that the model failed: after MAX_FAILURES it is loaded anew, once."""
        worker.failures += 1
        # If it was loaded anew just now that does not help: the model stays, and each request reports what happens.
        fresh = bool(worker.cause) and monotonic() - worker.began < RETRY_LATER_S
        if worker.failures >= MAX_FAILURES and not fresh:
            self.lost(worker, model_failed(error))

    def watch(self, worker: Worker) -> None:
        """Hears of it when the engine of a worker is lost while nothing is asked."""
        if isinstance(worker.engine, ExternalEngine):
            worker.engine.when_lost(partial(self._hear_of_loss, worker))

    def _hear_of_loss(self, worker: Worker, error: EngineLost) -> None:
        with silence, own_imports:
            self.lost(worker, EngineLost(error.happened))

    def lost(self, worker: Worker, error: EngineLost) -> None:
        """A worker's engine was lost: it is started again, unless that was done just before.

        Called on any thread, and maybe more than once.
        """
        gone: ModelLoadError | None = None
        with self._workers.changed:
            if self._workers.serving is not worker or worker.retired or self._workers.closed:
                return
            worker.retired, self._workers.serving = True, None
            if self._workers.loading is worker:  # it was just about to take over
                self._workers.loading = None
            away = isinstance(error, ServerLost)
            if away:
                self._away, self._away_failures = worker.options, 0
            restarts = self._workers.loading is None and (
                away or self._workers.restarts.delay() is not None
            )
            if restarts and not worker.fallback:
                again = "it is asked again" if away else "it is started again"
                self._workers.start(worker.options, f"{error.happened}: {again}.")
            elif restarts:
                self._workers.start_fallback()
            elif self._workers.loading is None:
                gone = ModelLoadError(
                    f"{error.happened} again, soon after it was started anew: it stays away until it is loaded "
                    f"(%sc2 load {worker.options.model})."
                )
                gone.__cause__ = error.__cause__
                options = self._workers.options if worker.fallback else worker.options
                self._do_without(options, gone, RETRY_LATER_S)
            self._workers.start_fallback_if_needed()
            self._workers.changed.notify_all()
        self._report_loss(gone)
        self.report_not_started()

    def _lost_while_loading(self, worker: Worker, error: EngineLost) -> None:
        """As `lost`, for an engine that has not answered yet."""
        with self._workers.changed:
            again = (
                self._workers.loading is worker
                and not self._workers.closed
                and self._workers.restarts.delay() is not None
            )
            if again:
                self._workers.start(worker.options, f"{error.happened}: it is started again.")
        if again:
            self._report_loss(None)
            self.report_not_started()
        else:
            self._failed(worker, ModelLoadError(f"{worker.options.model}: {error.happened}."))

    def _report_loss(self, gone: ModelLoadError | None) -> None:
        if gone is not None:
            self._report_failure(gone)
            return
        with self._workers.board.lock:
            with self._workers.changed:
                loading = self._workers.loading
                if loading is None or not loading.cause or self._workers.serving is loading:
                    return
                status = Status("loading", loading.options.model, stage="importing")
                message = self._workers.loading_message("importing")
            seconds = monotonic() - loading.began
            self._workers.board.publish(replace(status, message=message, seconds=seconds))
