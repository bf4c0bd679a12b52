"""Sets the threads of the OpenBLAS that a NumPy wheel has loaded.

OpenBLAS reads its environment variables when it is loaded. Where we have imported NumPy before the user's first cell
ran, what that cell sets would come too late.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

# The first that is set counts.
VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


def environment() -> tuple[str | None, ...]:
    """What the variables say now."""
    return tuple(os.environ.get(name) for name in VARIABLES)


def follow_environment(numpy: str) -> None:
    """Does what OpenBLAS would do if it was loaded now; nothing where the NumPy in this folder has none of its own."""
    import ctypes

    for file in _libraries(numpy):
        try:
            # Never loads one: what is not loaded yet will read the variables itself.
            library = ctypes.CDLL(file, getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_NOW", 0))
        except OSError:
            continue
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                name = f"{prefix}openblas_{{}}{suffix}"
                if hasattr(library, name.format("set_num_threads")):
                    threads = _wanted() or library[name.format("get_num_procs")]()
                    library[name.format("set_num_threads")](threads)


def _wanted() -> int | None:
    for value in environment():
        if value is not None and value.strip().isdigit() and int(value) > 0:
            return int(value)
    return None


def _libraries(numpy: str) -> Iterator[str]:
    """Where wheels have them: on Linux and Windows, and on macOS."""
    for folder in (f"{numpy}.libs", os.path.join(numpy, ".dylibs")):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        yield from (os.path.join(folder, name) for name in names if "openblas" in name)
