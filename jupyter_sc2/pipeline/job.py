"""A request on its way through the session, and who waits for its answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import SC2Error
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.turns import short_turns
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams

logger = logging.getLogger(__name__)

CANCELLED = Completion(text="", finish_reason="cancelled", reason="cancelled")


@dataclass(eq=False)
class Job:
    """A request and its listeners. It ends once, with a final update or a failure."""

    request: CompletionRequest  # with its sampling params set
    update: Callable[[Completion], None]
    failed: Callable[[SC2Error], None]
    arrived: float = field(default_factory=monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    waited_for_model: bool = False  # none was loaded when it arrived
    model_ready: float | None = None  # when that model was loaded
    continues_turn: bool = False  # of an older job of its front end, which it has replaced
    retried: bool = False  # the engine that worked on it first was lost
    speculative: bool = False  # nobody has requested it yet
    in_short_turns: bool = False  # see `hurry`
    _ended: threading.Lock = field(
        default_factory=threading.Lock
    )  # taken by the first end, for good

    @property
    def typed_at(self) -> float:
        """When the key went down, by the clock of `arrived`; at most a second before that, whatever the page says."""
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

    def retry(self) -> bool:
        """Makes it ready for another engine; False if that was done before."""
        if self.retried:
            return False
        self.retried = self.waited_for_model = True
        return True

    def hurry(self) -> None:
        """Until it ends, our threads get the GIL sooner; called once, before it is added."""
        self.in_short_turns = True
        short_turns.begin()

    def publish(self, completion: Completion, engine: Engine | None = None) -> None:
        if engine is not None:
            completion = replace(
                completion,
                model=engine.card.name,
                engine=engine.name,
                revision=engine.card.revision or "",
            )
        self._notify(self.update, completion)

    def finish(self, completion: Completion, engine: Engine | None = None) -> None:
        if not self._ended.acquire(blocking=False):
            return
        total_ms = (monotonic() - self.arrived) * 1000
        load_ms = None
        if self.model_ready is not None:
            load_ms = max(0.0, self.model_ready - self.arrived) * 1000
        stats = replace(completion.stats, total_ms=total_ms, load_ms=load_ms)
        self.publish(replace(completion, stats=stats), engine)
        self._end_hurry()

    def fail(self, error: SC2Error) -> None:
        if self._ended.acquire(blocking=False):
            self._notify(self.failed, error)
            self._end_hurry()

    def _end_hurry(self) -> None:
        if self.in_short_turns:
            short_turns.end()

    @staticmethod
    def _notify(listener: Callable[[Any], None], news: object) -> None:
        """A listener that fails is not a failure of the model, and ends no thread."""
        try:
            listener(news)
        except Exception:
            logger.exception("A listener to a request failed")
