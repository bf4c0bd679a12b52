"""A folder of the cache for what is made of a model once: written beside its place, and moved there when it is whole.

One process makes it at a time, and others wait. A record in it says what it was made of, and the checksum of each file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_sc2.models import checksums, file_lock, unfinished
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.progress import Progress

RECORD = "made.json"
# Bytes of the disk that are left free.
SPARE_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Kept:
    """What is kept at `place`: these `files`, made of what `source` describes."""

    place: Path
    source: Mapping[str, Any]
    files: Sequence[str]

    def is_whole(
        self,
        progress: Progress = lambda state, share: None,
        unread: Callable[[str], bool] = lambda name: False,
    ) -> bool:
        """Whether it is there, made of this source, and undamaged; `unread` names files that need not be compared."""
        found = checksums.read_record(self.place / RECORD) or {}
        sums = found.get("files")
        if not isinstance(sums, dict) or any(found.get(k) != self.source[k] for k in self.source):
            return False
        return all(
            ((self.place / name).is_file() and unread(name))
            or checksums.is_whole(
                self.place / name, sums.get(name), lambda: progress("loading", None)
            )
            for name in self.files
        )

    def make(
        self,
        write: Callable[[Path], None],
        size: int,
        progress: Progress = lambda state, share: None,
        unread: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Calls `write` with a folder for the files, some `size` bytes, unless they are there. Raises OSError."""
        lock = self.place.with_name(self.place.name + ".lock")
        with file_lock.locked(lock, lambda: progress("loading", None)):
            if not self.is_whole(progress, unread):
                self._make(write, size)

    def discard(self) -> None:
        """Has it made again the next time, as it is damaged."""
        with contextlib.suppress(OSError):
            (self.place / RECORD).unlink()

    def _make(self, write: Callable[[Path], None], size: int) -> None:
        unfinished.sweep(self.place.parent)
        free = shutil.disk_usage(self.place.parent).free
        if size + SPARE_DISK_BYTES > free:
            raise OSError(f"it takes {format_bytes(size)}, and {format_bytes(free)} are free")
        part = unfinished.place_in(self.place.parent)
        part.mkdir(mode=0o700)
        try:
            write(part)
            sums = {name: checksums.record(part / name) for name in self.files}
            checksums.write_record(part / RECORD, {**self.source, "files": sums})
            part.chmod(0o755)
            if self.place.is_dir() and not self.place.is_symlink():
                shutil.rmtree(self.place)
            elif os.path.lexists(self.place):
                checksums.quarantine(self.place)
            part.rename(self.place)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def keep_newest(folder: Path, most: int) -> None:
    """Deletes the least recently used of the folders in this one, where there are more."""
    kept = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for old in sorted(kept, key=lambda path: path.stat().st_mtime)[:-most]:
        shutil.rmtree(old, ignore_errors=True)
