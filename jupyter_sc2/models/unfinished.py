"""Unfinished files and folders beside finished ones: their names tell which process is making them.

So what a killed process has left behind is removed, and what another one is writing is not.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from jupyter_sc2.runtime.child_process import Identity
from jupyter_sc2.runtime.clock import now

DAY_S = 24 * 3600.0
_NAME = re.compile(r"\.(\d+-\d+\.\d\d-[0-9a-f]{8})\.[^.]+")


def place_in(folder: Path) -> Path:
    """A path for what this process is about to make; nothing is there."""
    me = Identity.of(os.getpid()).name
    return folder / f".{me}.{secrets.token_hex(4)}"


def sweep(folder: Path, others: str = "") -> None:
    """Removes what killed processes have not finished: of those here at once, of other machines' after a day.

    What has another name stays, which in a user's folder may be anything. `others` is a pattern for names that an
    earlier version gave; those are removed after a day.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if not _is_left(path, others):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _is_left(path: Path, others: str) -> bool:
    name = _NAME.fullmatch(path.name)
    maker = Identity.named(name[1]) if name else None
    if maker is not None:
        return not maker.lives()
    ours = name is not None or fnmatchcase(path.name, others)
    return ours and now() - path.lstat().st_mtime > DAY_S
