"""What of a kernel's process could be changed by who is loaded into it."""

from __future__ import annotations

import builtins
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from typing import Any


def state() -> dict[str, Counter[str]]:
    """All of it, by kind; modules excepted, and what belongs to a module: its loggers without handlers."""
    from IPython import get_ipython

    shell = get_ipython()
    kernel = shell.kernel
    loggers = {
        name: logger
        for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]
        if isinstance(logger, logging.Logger)
    }
    kinds: dict[str, Any] = {
        "environment": map("=".join, os.environ.items()),
        "filters of warnings": map(repr, warnings.filters),
        "finders": map(repr, list.copy(sys.meta_path)),
        "the list of finders": [type(sys.meta_path).__name__, hex(id(sys.meta_path))],
        "path hooks": map(repr, sys.path_hooks),
        "path": sys.path,
        "logging": [
            f"{name}: {logger.handlers} {logger.filters} {[h.filters for h in logger.handlers]}"
            for name, logger in loggers.items()
            if logger.handlers or logger.filters
        ],
        "levels of logging": [
            f"{name}: {logger.level} {logger.propagate} {logger.disabled}"
            for name, logger in loggers.items()
            if (logger.level, logger.propagate, logger.disabled) != (0, True, False)
        ],
        "last resort": map(repr, logging.lastResort.filters if logging.lastResort else []),
        "comm targets": kernel.comm_manager.targets,
        "comms": kernel.comm_manager.comms,
        "control handlers": kernel.control_handlers,
        "shell handlers": kernel.shell_handlers,
        "events": [f"{n} {c}" for n, calls in shell.events.callbacks.items() for c in calls],
        "magics": [f"{kind} {n}" for kind, m in shell.magics_manager.magics.items() for n in m],
        "classes of magics": shell.magics_manager.registry,
        "configurables": [type(one).__name__ for one in shell.configurables],
        "configuration": [repr(shell.config)],
        "extensions": shell.extension_manager.loaded,
        "transformers": map(
            repr,
            [
                *shell.input_transformers_cleanup,
                *shell.input_transformers_post,
                *shell.ast_transformers,
            ],
        ),
        "builtins": vars(builtins),
        "streams": [*vars(sys.stdout), *vars(sys.stderr)],
        "hooks": map(
            repr,
            [
                sys.displayhook,
                sys.excepthook,
                sys.unraisablehook,
                threading.excepthook,
                sys.gettrace(),
                sys.getprofile(),
            ],
        ),
        "signals": [f"{s}: {signal.getsignal(s)}" for s in signal.valid_signals()],
        "limits": [f"{sys.getswitchinterval()} {sys.getrecursionlimit()} {gc.get_threshold()}"],
        "collections of garbage": map(repr, gc.callbacks),
        "priority": [str(os.getpriority(os.PRIO_PROCESS, 0))],
        "current directory": [os.getcwd()],
        "threads": [thread.name for thread in threading.enumerate()],
        "native threads": [_read(f"/proc/self/task/{id}/comm") for id in _list("/proc/self/task")],
        "descriptors": [_target(f"/proc/self/fd/{fd}") for fd in _list("/proc/self/fd")],
    }
    return {kind: Counter(map(str, values)) for kind, values in kinds.items()}


def differences(before: dict[str, Counter[str]]) -> dict[str, tuple[list[str], list[str]]]:
    """What has gone and what is new, by kind."""
    now = state()
    return {
        kind: (sorted(before[kind] - now[kind]), sorted(now[kind] - before[kind]))
        for kind in before
        if before[kind] != now[kind]
    }


def _list(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _target(link: str) -> str:
    try:
        target = os.readlink(link)
    except OSError:
        return ""  # the one that lists them
    # IPython's own, which it opens and closes as cells run.
    return "" if "history.sqlite" in target else target


def _read(file: str) -> str:
    try:
        with open(file) as opened:
            return opened.read().strip()
    except OSError:
        return ""
