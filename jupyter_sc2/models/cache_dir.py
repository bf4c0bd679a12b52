"""The folder for models that were quantized or packed on this machine, so that this is done once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "JUPYTER_SC2_CACHE"


def cache_folder() -> Path:
    """The folder for what can be made again: that of $JUPYTER_SC2_CACHE, else the system's place for caches.

    It need not exist yet.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    # Without "Cache" at its end, as it was on Windows from the first version on.
    return user_cache_path("jupyter-sc2", appauthor=False, opinion=False)


def quantized_place(folder: Path, kind: str) -> Path:
    """Where what is made of the original weights in `folder` is kept.

    A snapshot of the hub's cache has its commit as its name; a later commit takes the place of an earlier one.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
    return cache_folder() / "quantized" / f"{home.name.removeprefix('models--')}-{kind}-{digest}"
