"""Tells whether what was made here and kept on the disk is still what was written.

A file is sealed once it is whole: its size and its CRC-32 are noted, in a file of their own or in one that tells more.
Before it is loaded it is compared, which reads it at some 4 GB a second where it is in memory anyway; a process does so
once for each file, unless that changes. CRC-32 finds every burst of up to 32 wrong bits, and of other damages misses
one in 4 billion. It does not report who wrote a file: that is no matter in a cache of one's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
# How often it is told that the file is still being read, in pieces.
REPORT_EVERY = 64
# Bytes that a note may have; one with a thousand names has a tenth.
MAX_RECORD_BYTES = 1 << 20
REPLACED_SUFFIX = ".aside"

ChecksumRecord = Mapping[str, Any]

# What was found by reading a file, for as long as its status stays the same.
_known: dict[str, tuple[tuple[int, ...], int]] = {}


def nothing() -> None:
    pass


def record(file: Path, report: Callable[[], None] = nothing) -> ChecksumRecord:
    """The size and the checksum of a file that is whole; `report` is called now and then. Raises OSError."""
    return {"size": file.stat().st_size, "crc32": _checksum(file, report)}


def is_whole(file: Path, recorded: object, report: Callable[[], None] = nothing) -> bool:
    """Whether a file is there and is what was sealed; what cannot be read is not."""
    try:
        return (
            isinstance(recorded, Mapping)
            and file.is_file()
            and file.stat().st_size == recorded.get("size")
            and _checksum(file, report) == recorded.get("crc32")
        )
    except OSError:
        logger.debug("%s cannot be read", file, exc_info=True)
        return False


def write_record(file: Path, content: object) -> None:
    """Raises OSError."""
    atomic_write(file, json.dumps(content, indent=1).encode())


def read_record(file: Path) -> dict[str, Any] | None:
    """What a note says; None if there is none, or it cannot be read."""
    try:
        content = parse_json(read_limited(file, MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def quarantine(path: Path) -> None:
    """Renames what stands where something of ours is to be, in the place of what was renamed so before.

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
        status = os.fstat(stream.fileno())
        # The time of the last change of status is nobody's to set.
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # fmt: skip
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
        after = file.stat()
        if (after.st_mtime_ns, after.st_ctime_ns) == identity[3:]:
            _known[str(file)] = identity, checksum
    return checksum
