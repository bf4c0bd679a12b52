"""Checksums of files in the cache, which reveal damage.

Once a file is complete, its size and CRC-32 are recorded, in a file of their own or in a manifest. They are compared
before the file is loaded, once per process unless the file changes; that reads at some 4 GB a second where the file is
in memory anyway. CRC-32 detects every burst of up to 32 wrong bits, and misses one in 4 billion of other damage. It
does not authenticate who wrote a file, which does not matter in the user's own cache.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
# `report` is called after so many chunks.
REPORT_EVERY = 64
# A record with a thousand names has a tenth of this.
MAX_RECORD_BYTES = 1 << 20
REPLACED_SUFFIX = ".aside"

ChecksumRecord = Mapping[str, Any]

# By file: its status when it was read, and its checksum.
_known: dict[str, tuple[tuple[int, ...], int]] = {}


def nothing() -> None:
    pass


def record(file: Path, report: Callable[[], None] = nothing) -> ChecksumRecord:
    """The size and the checksum of a file that is whole; `report` is called now and then. Raises OSError."""
    return {"size": file.stat().st_size, "crc32": _checksum(file, report)}


def is_whole(file: Path, recorded: Any, report: Callable[[], None] = nothing) -> bool:
    """Whether a file matches its checksum record; False if it cannot be read."""
    try:
        return may_be_whole(file, recorded) and _checksum(file, report) == recorded.get("crc32")
    except OSError:
        logger.debug("%s cannot be read", file, exc_info=True)
        return False


def may_be_whole(file: Path, recorded: Any) -> bool:
    """Whether a file has the recorded size and, if this process has read it before, the checksum."""
    try:
        status = file.stat()
    except OSError:
        return False
    if not isinstance(recorded, Mapping) or not stat.S_ISREG(status.st_mode):
        return False
    identity, checksum = _known.get(str(file), ((), 0))
    return status.st_size == recorded.get("size") and (
        identity != _identity(status) or checksum == recorded.get("crc32")
    )


def write_record(file: Path, content: object) -> None:
    """Raises OSError."""
    atomic_write(file, json.dumps(content, indent=1).encode())


def read_record(file: Path) -> dict[str, Any] | None:
    """The content of a record; None if there is none, or it cannot be read."""
    try:
        content = parse_json(read_limited(file, MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def quarantine(path: Path) -> None:
    """Renames a file or folder in the place of one of ours, over one that was renamed before.

    Raises OSError.
    """
    aside = path.with_name(path.name + REPLACED_SUFFIX)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)


def _checksum(file: Path, report: Callable[[], None]) -> int:
    with file.open("rb", buffering=0) as stream:
        identity = _identity(os.fstat(stream.fileno()))
        known = _known.get(str(file))
        if known is not None and known[0] == identity:
            return known[1]
        checksum, chunks = 0, 0
        chunk = memoryview(bytearray(READ_BYTES))
        while count := stream.readinto(chunk):
            checksum = zlib.crc32(chunk[:count], checksum)
            chunks += 1
            if chunks % REPORT_EVERY == 0:
                report()
    with contextlib.suppress(OSError):  # unless it was written to meanwhile
        if _identity(file.stat()) == identity:
            _known[str(file)] = identity, checksum
    return checksum


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # Unlike the modification time, that of the last change of status cannot be set.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
