"""A file is there whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path


def atomic_write(file: Path, data: bytes) -> None:
    """Writes next to the file first: a full disk or an end in the middle leaves what stood there. Raises OSError."""
    unfinished = file.with_name(file.name + ".part")
    with open(unfinished, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())  # or the new name may be on the disk before what it names
    os.replace(unfinished, file)
