"""Writes of which an interruption leaves nothing half-done that anybody would read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from jupyter_sc2.runtime.clock import now

# What a killed process left unfinished is removed after so long.
STALE_S = 24 * 3600


def atomic_write(file: Path, data: bytes) -> None:
    """Writes a file beside it and renames that: a full disk or a crash leaves the old content. Raises OSError.

    Of two processes that write at once, the later one wins.
    """
    prefix, suffix = f".{file.name}.", ".part"
    for old in file.parent.glob(f"{prefix}*{suffix}"):
        with contextlib.suppress(OSError):
            if now() - old.stat().st_mtime > STALE_S:
                old.unlink()
    unfinished = file.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        with open(unfinished, "xb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())  # or the new name may be on the disk before its content
        with contextlib.suppress(OSError):  # there is no old one, whose permissions it would keep
            os.chmod(unfinished, file.stat().st_mode & 0o777)
        os.replace(unfinished, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def append_line(file: Path, line: str) -> None:
    """Appends a line, on a line of its own also where an interruption has left an unfinished one. Raises OSError."""
    with open(file, "ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) != b"\n":
                opened.write(b"\n")
        opened.write(f"{line}\n".encode())
