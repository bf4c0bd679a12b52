"""Where the models that were quantized here are kept, so that this is done once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "JUPYTER_SC2_CACHE"


def cache_folder() -> Path:
    """The folder for what can be made again: that of $JUPYTER_SC2_CACHE, else the system's place for caches.

    It need not exist yet.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "jupyter-sc2"
