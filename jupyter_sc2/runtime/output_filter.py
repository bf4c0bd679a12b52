"""Keeps what other packages print and log on our threads out of the user's cells and terminal.

Whatever a thread prints in a kernel lands in some cell of the user's. So the thread that calls a foreign package
holds `silence` meanwhile, and what it writes to stdout and stderr goes to this module's debug log instead. Warnings
are ignored there (see warning_filters.py).

Nothing is changed for other threads. A redirected stream would hold for all of them, and taking it back could undo
what the user's code has set meanwhile. Here the two streams get a `write` of their own for the moment, which asks on
whose thread it is called. What is written past Python, by compiled code straight to the file descriptor, is not seen
here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from jupyter_sc2.runtime.warning_filters import unwarned

logger = logging.getLogger(__name__)


class Silence:
    """Used with `with`, by any number of threads, nested too; not around a `yield`."""

    def __init__(self) -> None:
        # Handlers that other packages make when they are imported keep the streams of that moment.
        self._first = (sys.stdout, sys.stderr)
        self._own = threading.local()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._covered: list[_Write] = []

    @property
    def holds(self) -> bool:
        """Whether what this thread writes now is kept back."""
        return bool(getattr(self._own, "depth", 0))

    def __enter__(self) -> None:
        unwarned.__enter__()
        self._own.depth = getattr(self._own, "depth", 0) + 1
        with self._lock:
            self._threads += 1
            for stream in {id(one): one for one in (*self._first, sys.stdout, sys.stderr)}.values():
                self._cover(stream)

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                for write in self._covered:
                    write.uncover()
                self._covered.clear()
        self._own.depth -= 1
        unwarned.__exit__()

    def _cover(self, stream: Any) -> None:
        try:
            # Not vars(), which would run the user's code for an object of theirs.
            attributes = object.__getattribute__(stream, "__dict__")
        except AttributeError:  # no stream at all (pythonw), or one that takes no attributes
            return
        if not isinstance(attributes.get("write"), _Write):
            self._covered.append(_Write(self, stream, attributes))

    def log_suppressed(self, text: str) -> None:
        """Logs suppressed output at debug level."""
        # A level that the user's code gives to all logging is meant for what that code does.
        asked = logger.level or logging.getLogger("jupyter_sc2").level
        if text.strip() and asked and logger.isEnabledFor(logging.DEBUG):
            # The note itself may be written to a stream.
            depth, self._own.depth = self._own.depth, 0
            try:
                logger.debug("Not shown: %s", text.strip())
            finally:
                self._own.depth = depth


class _Write:
    """A stream's `write` while some thread is silent."""

    def __init__(self, silence: Silence, stream: Any, attributes: dict[str, Any]) -> None:
        self._silence = silence
        self._stream = stream
        self._attributes = attributes
        self._before = attributes.get("write")  # None: that of its class
        attributes["write"] = self

    def __call__(self, text: str) -> Any:
        if self._silence.holds:
            self._silence.log_suppressed(text)
            return len(text)
        if self._before is not None:
            return self._before(text)
        return type(self._stream).write(self._stream, text)

    def uncover(self) -> None:
        """Gives the stream its own `write` back, unless somebody has replaced this one meanwhile."""
        if self._attributes.get("write") is self:
            if self._before is None:
                del self._attributes["write"]
            else:
                self._attributes["write"] = self._before


silence = Silence()
if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads that were silent, and perhaps a lock that one of them held.
    os.register_at_fork(after_in_child=silence._reset)
