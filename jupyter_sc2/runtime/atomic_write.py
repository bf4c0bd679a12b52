"""Atomic writes: a file has its new content completely, or its old one."""

from __future__ import annotations

import os
from pathlib import Path


def atomic_write(file: Path, data: bytes) -> None:
    """Writes a file beside it and renames that: a full disk or a crash leaves the old content. Raises OSError."""
    unfinished = file.with_name(file.name + ".part")
    with open(unfinished, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())  # or the new name may be on the disk before what it names
    os.replace(unfinished, file)
