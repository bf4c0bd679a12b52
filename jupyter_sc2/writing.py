"""A file is there whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, data: bytes) -> None:
    """Writes next to the file first: a full disk or an end in the middle leaves what stood there. Raises OSError."""
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_bytes(data)
    os.replace(unfinished, file)
