"""The engines of a session: loading, replacing and closing them.

Each engine has a worker, a daemon thread that loads it, uses it and closes it; nobody else calls it. While one loads,
the one before it continues to answer; if there is none, or it was too large to stay, the embedded model answers
meanwhile as a fallback. What happens after a failure is in recovery.py.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jupyter_sc2.engines.base import Engine, limitations
from jupyter_sc2.errors import EngineLost, ModelLoadError
from jupyter_sc2.models.cards import EMBEDDED, find_card
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.completer import Completer
from jupyter_sc2.pipeline.load_errors import load_error, no_thread
from jupyter_sc2.pipeline.request_queue import RequestQueue
from jupyter_sc2.pipeline.status import STAGES, Status, StatusBoard
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.child_process import Restarts
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.progress import note_of
from jupyter_sc2.runtime.threads import Load, threads_that_help

logger = logging.getLogger(__name__)

# A loaded model that takes no more than this stays until its successor is ready.
KEEP_WHILE_LOADING_BYTES = 1 << 30


class LoadSuperseded(Exception):
    """Ends a load that is not wanted any more."""


@dataclass(eq=False)
class Worker:
    """A thread with one engine. `retired` tells the thread to end.

    `predecessors` are retired workers whose memory has to be free before this one loads.
    """

    options: LoadOptions
    predecessors: list[Worker]
    fallback: bool = False
    retired: bool = False
    failures: int = 0  # one after the other
    cause: str = ""  # of a load that nobody has asked for, in a sentence
    completer: Completer | None = None
    memory_bytes: int = 0
    began: float = field(default_factory=monotonic)
    ready: float = math.inf  # since when it can answer
    load: Load | None = None  # of the cores; made by its thread

    @property
    def engine(self) -> Engine | None:
        return None if self.completer is None else self.completer.engine

    @property
    def display_name(self) -> str:
        name = self.engine.card.name if self.engine is not None else self.options.model
        return "The embedded model" if name == EMBEDDED.name else name

    @property
    def notice(self) -> str:
        return self.engine.notice if self.engine is not None else ""

    def status(self, state: str, message: str | None = None) -> Status:
        engine = self.engine
        if engine is None:
            return Status(model=self.options.model)
        return Status(
            state=state,
            model=engine.card.name,
            engine=engine.name,
            precision=engine.precision,
            memory_bytes=self.memory_bytes,
            message=message,
            limitations=limitations(engine),
        )

    def use_helpful_threads(self, *, cell_runs: bool) -> None:
        """For what the engine computes next on the calling thread."""
        assert self.load is not None and self.engine is not None
        count = threads_that_help(
            self.load.cores, cell_runs=cell_runs, setting=self.options.threads
        )
        self.engine.use_threads(count)

    def close(self) -> None:
        if self.completer is None:
            return
        try:
            self.completer.engine.close()
        except Exception:
            logger.debug("An engine could not be closed", exc_info=True)
        with gate:  # its last tensors are freed with it
            self.completer = None


class Workers:
    """All workers of a session, and which of them answers.

    `run` is what a worker's thread does; it calls `open`, and `close` in the end. Of the queue it matters only whether
    anything waits.
    """

    def __init__(
        self,
        run: Callable[[Worker], None],
        queue: RequestQueue,
        *,
        load_engine: Callable[..., Engine],
        make_completer: Callable[[Engine], Completer],
        options: LoadOptions,
    ) -> None:
        self.load_engine = load_engine
        self.offline: bool | None = None  # as in the options of each load until it is set
        self.board = StatusBoard(Status(model=options.model))
        self._run = run
        self._queue = queue
        self._make_completer = make_completer
        self.settled = threading.Event()  # set while nothing loads
        self.settled.set()
        self.restarts = Restarts()
        # Guarded by `changed`, which is notified when one of them changes.
        self.changed = threading.Condition()
        self.options = options
        self.alive: list[Worker] = []  # whose threads have not ended
        self.serving: Worker | None = None
        self.fallback: Worker | None = None  # that loads, too
        self.load_error: ModelLoadError | None = None
        self.retry_at = math.inf  # when what has failed to load may be tried again automatically
        self.unloaded_by_user = False  # only an explicit act loads again
        self.closed = False
        self.loading: Worker | None = None
        self.not_started: list[tuple[Worker, ModelLoadError]] = []  # their threads

    @property
    def busy(self) -> bool:
        """Whether something answers, or will."""
        return not (self.serving is None and self.loading is None and self.fallback is None)

    # Asked for by the session, on any thread

    def begin(self, options: LoadOptions | None = None) -> None:
        """Starts loading because the user has asked for it; holding the lock."""
        self.restarts.forget()
        if not self.closed:
            self.unloaded_by_user = False
            self.start(options or self.options)

    def ensure_loaded(self) -> None:
        """Starts loading unless that was done, or the user has unloaded; holding the lock.

        Tries again what has failed, if the cause may have passed.
        """
        if self.unloaded_by_user or self.closed or self.loading is not None:
            return
        fresh = not self.busy and self.load_error is None
        if fresh or (self.load_error is not None and monotonic() >= self.retry_at):
            self.start(self.options)

    def start(self, options: LoadOptions, cause: str = "") -> None:
        """Starts loading in place of what is loading now; holding the lock."""
        self.load_error, self.retry_at = None, math.inf
        older, serving = self.loading, self.serving
        if older is not None:
            older.retired = True
        if serving is not None and serving.memory_bytes > KEEP_WHILE_LOADING_BYTES:
            serving.retired, self.serving = True, None
        self.loading = self._start_thread(options, cause=cause)
        if self.loading is not None:
            self.settled.clear()
        if self.loading is None and serving is not None:
            serving.retired, self.serving = False, serving
        self.changed.notify_all()

    def _start_thread(
        self, options: LoadOptions, *, fallback: bool = False, cause: str = ""
    ) -> Worker | None:
        """Holding the lock. None if the system has no thread for it, which `not_started` then holds."""
        predecessors = [one for one in self.alive if one.retired]
        worker = Worker(options, predecessors, fallback, cause=cause)
        try:
            background.Thread(self._run, worker).start()
        except (RuntimeError, MemoryError) as error:
            self.not_started.append((worker, no_thread(options, error)))
            return None
        self.alive.append(worker)  # nobody can look before the lock is released
        return worker

    def start_fallback(self) -> None:
        """Starts loading the embedded model, to answer until something else can; holding the lock."""
        self.fallback = self._start_thread(LoadOptions(threads=self.options.threads), fallback=True)

    def start_fallback_if_needed(self) -> None:
        """Loads the embedded model if something waits while another model loads; holding the lock."""
        embedded = self.loading is None or is_embedded(self.loading.options)
        if self._queue and self.serving is None and self.fallback is None and not embedded:
            self.start_fallback()

    def wait_ready(self, timeout: float | None, waiting: Callable[[Status], None] | None) -> Status:
        """See Session."""
        deadline = math.inf if timeout is None else monotonic() + timeout
        while True:
            # Without the lock: a debugger may suspend this thread as soon as it continues, for minutes.
            if self.settled.wait(max(0.0, min(0.2, deadline - monotonic()))):
                if (error := self.load_error) is not None:
                    raise error
                return self.board.status
            if waiting is not None:
                waiting(self.board.status)
            if monotonic() >= deadline:
                raise ModelLoadError(f"{self.board.status.model} is still loading.")

    def unload(self) -> None:
        """Holding the lock."""
        self.unloaded_by_user = True
        for worker in self.alive:
            worker.retired = True
        self.loading = self.serving = self.fallback = None
        self.settled.set()
        self.changed.notify_all()

    def shut_down(self) -> None:
        """Holding the lock."""
        self.closed = True
        self.settled.set()
        self.changed.notify_all()

    def end_in_child(self) -> None:
        """After a fork: none of the threads is here, and one of them may have held a lock.

        The engine stays where it is: to free it would wait for threads of its own that are not here either.
        """
        self.changed, self.closed, self.settled = threading.Condition(), True, threading.Event()
        self.settled.set()
        self.board.end_in_child()

    # On a worker's thread

    def open(self, worker: Worker) -> bool:
        """Loads a worker's engine and makes it the one that answers; False if it is not wanted any more."""
        # Only a model that imports in moments is imported without the user's modules.
        embedded = is_embedded(worker.options)
        with silence, own_imports.without_user_modules() if embedded else own_imports:
            engine = self._load(worker)
        with silence:
            worker.completer = self._make_completer(engine)
            worker.load = Load()
            return self._activate(worker, engine)

    def _load(self, worker: Worker) -> Engine:
        options = worker.options
        terms = _terms(options.model)  # once: it may read files

        def unwanted() -> bool:
            return worker.retired or self.closed

        def progress(stage: str, share: float | None) -> None:
            with self.changed:
                if unwanted():
                    raise LoadSuperseded
                shown = worker is self.loading
                message = self.loading_message(stage, terms)
            if shown:  # nobody waits for a fallback
                state, _ = STAGES.get(stage, (str(stage), ""))
                seconds = monotonic() - worker.began
                status = Status(state, options.model, stage=stage, seconds=seconds)
                self.board.publish(replace(status, progress=share, message=message))

        with self.changed:
            self.changed.wait_for(
                lambda: unwanted() or not any(one in self.alive for one in worker.predecessors)
            )
        try:
            progress("importing", None)
            return self.load_engine(
                options.model,
                engine=options.engine,
                precision=options.precision,
                server=options.server,
                threads=options.threads or None,
                offline=options.offline if self.offline is None else self.offline,
                progress=progress,
            )
        except (LoadSuperseded, EngineLost):
            raise
        except Exception as error:
            logger.debug("Loading failed", exc_info=True)
            failure = load_error(options, error)
            if failure is error:
                raise
            raise failure from error

    def loading_message(self, stage: str, terms: Sequence[str] = ()) -> str | None:
        """What there is to say about a load besides how far it is; holding the lock."""
        sentences = [self.loading.cause if self.loading is not None else ""]
        sentences.append(STAGES.get(stage, (stage, ""))[1])
        sentences.append(note_of(stage))
        if stage == "downloading":
            sentences += terms
        if self.serving is not None and self.serving.engine is not None:
            sentences.append(f"{self.serving.display_name} answers meanwhile.")
            sentences.append(self.serving.notice)
        return " ".join(filter(None, sentences)) or None

    def _activate(self, worker: Worker, engine: Engine) -> bool:
        """Makes a loaded worker the one that answers; False if it is not wanted any more."""
        worker.memory_bytes = engine.memory_bytes()
        with self.changed:
            if worker.retired or self.closed:
                return False
            if self.serving is not None:
                self.serving.retired = True
            worker.ready = monotonic()
            self.serving = worker
            if worker.fallback:
                self.fallback = None
            else:
                if self.fallback is not None:
                    self.fallback.retired, self.fallback = True, None
                self.options = worker.options
        # Before those who wait for it continue: they look at the status.
        with self.board.lock:
            with self.changed:  # the load that the fallback stands in for may have failed just now
                loading = worker.fallback and self.loading is not None
                message = self.loading_message("") if loading else engine.notice or None
                if worker.fallback and self.load_error is not None:
                    message = f"{self.load_error} The embedded model answers instead."
            if self.serving is worker:  # another may have taken over in turn
                status = self.board.status
                if not loading:
                    seconds = worker.ready - worker.began
                    status = replace(worker.status("ready"), seconds=seconds)
                self.board.publish(replace(status, message=message))
        with self.changed:
            if self.loading is worker:
                self.loading = None
                self.settled.set()
            self.changed.notify_all()
        return True

    def close(self, worker: Worker) -> None:
        """The last thing that a worker's thread does here."""
        worker.close()
        with self.changed:
            self.alive.remove(worker)
            self.changed.notify_all()

    # While it answers

    def report(self, worker: Worker, state: str) -> None:
        """Publishes the state of the worker that answers; while another loads, the status is about that one."""
        with self.board.lock:
            if self.serving is worker and self.loading is None:
                self.board.publish(worker.status(state, self.board.status.message))


def is_embedded(options: LoadOptions) -> bool:
    """Whether this is the model that also serves as the fallback."""
    local = options.engine in ("auto", "onnxruntime", "transformers") and not options.server
    return options.model == EMBEDDED.name and local


def _terms(model: str) -> list[str]:
    """The licence of a model that is downloaded, and its conditions."""
    try:
        return [f"Licence: {find_card(model).licence_line}"]
    except ModelLoadError:
        return []
