"""Settings for good: in the JSON config file of the IPython profile, which new kernels and terminals read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.settings import SC2

# Next to the user's own ipython_config.py, which may hold code and is never written to.
FILE = "ipython_config.json"
# What is for an administrator to say.
ADMIN_ONLY = ("allowed",)


def save(shell: InteractiveShell, settings: SC2) -> Path:
    """Keeps what differs from the defaults, and forgets what was kept before. Raises SettingsError."""
    file = _file(shell)
    values = {
        name: getattr(settings, name)
        for name, trait in SC2.settings().items()
        if name not in ADMIN_ONLY and getattr(settings, name) != trait.default_value
    }
    _write(file, values)
    return file


def reset(shell: InteractiveShell) -> Path:
    """New kernels start with the defaults again, or with what other config files say. Raises SettingsError."""
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
        # IPython itself warns of this, in the server's log.
        raise SettingsError(
            f"Nothing was saved: {wanted} cannot be written to, and {folder}, which IPython uses instead, does not "
            "last. Set the variable IPYTHONDIR to a folder that can be written to."
        )
    return folder / FILE


def _is_writable(folder: Path) -> bool:
    """Whether IPython can keep its things there; it makes the folder, but not those above."""
    there = folder if folder.exists() else folder.parent
    return there.is_dir() and os.access(there, os.W_OK)


def _write(file: Path, values: dict[str, Any]) -> None:
    try:
        config = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
        config.pop("SC2", None)
        if values:
            config["SC2"] = values
        if config:
            atomic_write(file, (json.dumps(config, indent=2) + "\n").encode())
        else:
            file.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} could not be written: {error}.") from error
