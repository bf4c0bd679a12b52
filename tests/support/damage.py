"""Damage as disks do it."""

import os
from pathlib import Path


def flip_a_bit(file: Path) -> None:
    """The size and the time of the last change are the same."""
    data, status = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
