"""Keeps ONNX Runtime from reporting to Microsoft.

Since 1.32 its wheels do so by themselves: an import starts two threads, writes a device id and a database of events
into the user's cache folder, and sends them. Nothing that is called later takes that back; a variable that is read
during the import prevents it, for the life of the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "ORT_DISABLE_TELEMETRY"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Around `import onnxruntime`. What the user has set stands, and `os.environ` is not touched."""
    if VARIABLE in os.environ:
        yield
        return
    os.putenv(VARIABLE, "1")
    try:
        yield
    finally:
        os.unsetenv(VARIABLE)
