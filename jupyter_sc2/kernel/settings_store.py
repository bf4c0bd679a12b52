"""Saves settings in the JSON config file of the IPython profile, which new kernels and terminals read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited
from jupyter_sc2.settings import SC2

# Next to the user's ipython_config.py, which may hold code and is never modified.
FILE = "ipython_config.json"
MAX_FILE_BYTES = 16 << 20
# For administrators, in their own config file.
ADMIN_ONLY = ("allowed",)


def save(shell: InteractiveShell, settings: SC2) -> Path:
    """Saves the settings that differ from the defaults, in place of those saved before. Raises SettingsError."""
    file = _file(shell)
    values = {
        name: getattr(settings, name)
        for name, trait in SC2.settings().items()
        if name not in ADMIN_ONLY and getattr(settings, name) != trait.default_value
    }
    _write(file, values)
    return file


def reset(shell: InteractiveShell) -> Path:
    """Removes the saved settings; other config files still count. Raises SettingsError."""
    file = _file(shell)
    _write(file, {})
    return file


def _file(shell: InteractiveShell) -> Path:
    profile: Any = shell.profile_dir
    if profile is None:
        raise SettingsError("This shell has no profile, and so no config file to save settings in.")
    folder = Path(profile.location)
    wanted = Path(os.environ.get("IPYTHONDIR") or Path.home() / ".ipython").expanduser()
    if not _is_writable(wanted) and folder.is_relative_to(tempfile.gettempdir()):
        # IPython warns about this itself, but in the server's log.
        raise SettingsError(
            f"Nothing was saved: {wanted} cannot be written to, and {folder}, which IPython uses instead, does not "
            "last. Set the variable IPYTHONDIR to a folder that can be written to."
        )
    return folder / FILE


def _is_writable(folder: Path) -> bool:
    """Whether IPython can write there; it creates the folder itself, but not its parents."""
    there = folder if folder.exists() else folder.parent
    return there.is_dir() and os.access(there, os.W_OK)


def _write(file: Path, values: dict[str, Any]) -> None:
    try:
        # An empty one is what a full disk has left.
        read = read_limited(file, MAX_FILE_BYTES) if os.path.lexists(file) else b""
        config = parse_json(read) if read.strip() else {}
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
        config.pop("SC2", None)
        if values:
            config["SC2"] = values
        if config:
            atomic_write(file, (json.dumps(config, indent=2) + "\n").encode())
        else:
            file.unlink(missing_ok=True)
    except ValueError as error:
        raise SettingsError(
            f"Nothing was saved: {file} does not hold JSON ({error}). Correct or delete it."
        ) from error
    except OSError as error:
        raise SettingsError(f"{file} could not be written: {error.strerror or error}.") from error
