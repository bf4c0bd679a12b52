"""The folder for models that were quantized or packed on this machine, so that this is done once."""

from __future__ import annotations

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
