"""What the session is doing, as front ends show it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from jupyter_sc2.runtime.characters import escaped

logger = logging.getLogger(__name__)

# The stages of a load, as an engine reports them to `progress`: the state for each, and a sentence about it.
STAGES = {
    "importing": ("loading", ""),
    "waiting": ("downloading", "Another process downloads it; this one waits."),
    "quantizing": ("loading", "Quantizing the weights; this is done once."),
}


@dataclass(frozen=True)
class Status:
    """The session's `state`: "unloaded", "downloading", "loading", "ready", "generating" or "error".

    While a model loads, `stage` is "importing", "waiting", "downloading", "quantizing" or "loading". `seconds` is how
    long the load has taken so far, and with the first "ready" how long it took; else None.
    """

    state: str = "unloaded"
    model: str = ""
    engine: str = ""
    precision: str = ""
    progress: float | None = None
    message: str | None = None
    memory_bytes: int = 0
    stage: str = ""
    limitations: str = ""  # what the engine leaves out, in sentences
    seconds: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # A model's name may be a file's, and a message may repeat it.
        object.__setattr__(self, "model", escaped(self.model))
        if self.message is not None:
            lines = map(escaped, self.message.split("\n"))
            object.__setattr__(self, "message", "\n".join(lines))


class StatusBoard:
    """The current status, and the listeners that hear of each change.

    Who publishes a status that depends on what others publish holds `lock` meanwhile; two workers may do so at once.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self.lock = threading.RLock()
        self._listeners: list[Callable[[Status], None]] = []

    def subscribe(self, listener: Callable[[Status], None]) -> Callable[[], None]:
        """Calls `listener` at each change, on the thread that publishes it; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def publish(self, status: Status) -> None:
        with self.lock:
            if status == self.status:
                return
            self.status = status
            for listener in list(self._listeners):
                try:
                    listener(status)
                except Exception:
                    logger.exception("A listener to the session's status failed")

    def end_in_child(self) -> None:
        """After a fork: a thread that is not here may have held the lock."""
        self.lock, self._listeners = threading.RLock(), []
