"""Keeps what libraries log in the background out of the user's notebook, where it would land in a cell."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def keep_logs_out(*names: str) -> Iterator[None]:
    """Nothing that the loggers `names` log from this thread is shown.

    What they log from the user's own threads still shows: nothing but a filter on their handlers changes, and
    it goes again at the end.
    """
    thread = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread or not record.name.startswith(names)

    handlers = [handler for name in ("", *names) for handler in logging.getLogger(name).handlers]
    if logging.lastResort is not None:
        handlers.append(logging.lastResort)
    for handler in handlers:
        handler.addFilter(elsewhere)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(elsewhere)
