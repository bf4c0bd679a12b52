"""Keeps the user's warning filters, and what they do with warnings, off the threads that hold `unwarned`.

`warnings.simplefilter("error")` in a cell makes an exception of each warning in the process, also of one that a
library means for its own developers while our thread imports it; `catch_warnings(record=True)` records ours with
theirs. There is one list of filters for all threads, so another filter would hold for the user's as well, and taking
it back could undo what their code has set meanwhile.

So that list stays as it is. Python's C code, which issues warnings, looks it up as `warnings.filters`, and while some
thread is unwarned that attribute tells which thread asks: ours ignore all warnings.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from types import ModuleType
from typing import Any

# The modules of `warnings`' own functions, the second from Python 3.14 on. They read and replace the real list.
OWN = ("warnings", "_py_warnings")
IGNORE_ALL = [("ignore", None, Warning, None, 0)]


class Unwarned:
    """Used with `with`, by any number of threads, nested too; not around a `yield`."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._plain: type[ModuleType] | None = None  # the class of `warnings` before

    def __enter__(self) -> None:
        self._own.depth = getattr(self._own, "depth", 0) + 1
        with self._lock:
            self._threads += 1
            if self._plain is None and type(warnings) is ModuleType:
                self._plain, warnings.__class__ = type(warnings), _Warnings

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads and self._plain is not None:
                warnings.__class__, self._plain = self._plain, None
        self._own.depth -= 1

    @property
    def holds(self) -> bool:
        """Whether warnings are ignored on this thread."""
        return bool(getattr(self._own, "depth", 0))


class _Warnings(ModuleType):
    """The module `warnings` meanwhile."""

    @property
    def filters(self) -> Any:
        return IGNORE_ALL if _is_ours(sys._getframe(1)) else filters()

    @filters.setter
    def filters(self, value: Any) -> None:
        if not _is_ours(sys._getframe(1)):
            vars(warnings)["filters"] = value


def _is_ours(frame: Any) -> bool:
    """Whether the code that runs there is to find all warnings ignored."""
    if not unwarned.holds:
        return False
    # `warnings._deprecated` warns by itself.
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
    return module not in OWN or name == "_deprecated"


def filters() -> list[Any]:
    """The real list, which is the user's, on any thread."""
    found: list[Any] = vars(warnings)["filters"]
    return found


unwarned = Unwarned()
if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads that were inside, and perhaps a lock that one of them held.
    os.register_at_fork(after_in_child=unwarned._reset)
