"""Tells whether what was made here and kept on the disk is still what was written.

A file is sealed once it is whole: its size and its CRC-32 are noted, in a file of their own or in one that tells more.
Before it is loaded it is compared, which reads it at some 4 GB a second where it is in memory anyway; a process does so
once for each file, unless that changes. CRC-32 finds every burst of up to 32 wrong bits, and of other damages misses
one in 4 billion. It does not tell who wrote a file: that is no matter in a cache of one's own.
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

PIECE = 1 << 20
# How often it is told that the file is still being read, in pieces.
TELL_EACH = 64
# Bytes that a note may have; one with a thousand names has a tenth.
LONGEST_NOTE = 1 << 20
ASIDE = ".aside"

Seal = Mapping[str, Any]

# What was found by reading a file, for as long as its status stays the same.
_read: dict[str, tuple[tuple[int, ...], int]] = {}


def nothing() -> None:
    pass


def seal(file: Path, tell: Callable[[], None] = nothing) -> Seal:
    """The size and the checksum of a file that is whole; `tell` is called now and then. Raises OSError."""
    return {"size": file.stat().st_size, "crc32": _checksum(file, tell)}


def is_whole(file: Path, sealed: object, tell: Callable[[], None] = nothing) -> bool:
    """Whether a file is there and is what was sealed; what cannot be read is not."""
    try:
        return (
            isinstance(sealed, Mapping)
            and file.is_file()
            and file.stat().st_size == sealed.get("size")
            and _checksum(file, tell) == sealed.get("crc32")
        )
    except OSError:
        logger.debug("%s cannot be read", file, exc_info=True)
        return False


def write_note(note: Path, content: object) -> None:
    """Raises OSError."""
    atomic_write(note, json.dumps(content, indent=1).encode())


def read_note(note: Path) -> dict[str, Any] | None:
    """What a note says; None if there is none, or it cannot be read."""
    try:
        content = parse_json(read_limited(note, LONGEST_NOTE))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def quarantine(path: Path) -> None:
    """Renames what stands where something of ours is to be, in the place of what was renamed so before.

    Raises OSError.
    """
    aside = path.with_name(path.name + ASIDE)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)


def _checksum(file: Path, tell: Callable[[], None]) -> int:
    with file.open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        # The time of the last change of status is nobody's to set.
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # fmt: skip
        known = _read.get(str(file))
        if known is not None and known[0] == identity:
            return known[1]
        checksum, pieces = 0, 0
        piece = memoryview(bytearray(PIECE))
        while count := stream.readinto(piece):
            checksum = zlib.crc32(piece[:count], checksum)
            pieces += 1
            if pieces % TELL_EACH == 0:
                tell()
    with contextlib.suppress(OSError):  # unless it was written to meanwhile
        after = file.stat()
        if (after.st_mtime_ns, after.st_ctime_ns) == identity[3:]:
            _read[str(file)] = identity, checksum
    return checksum
