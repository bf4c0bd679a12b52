"""The extension of Jupyter Server: tells the page which command installs jupyter-sc2 where a kernel runs.

The page's part may come with the server while a kernel's environment has no jupyter-sc2. What is installed there has
to come from where the server's own copy came from: a package index, a wheel or a folder (PEP 610, `direct_url.json`).
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

NAME = "jupyter-sc2"
# Read in labextension/src/ui/install-command.ts.
OPTION = "jupyterSc2Install"


def install_command(direct_url: str | None) -> str:
    """The magic that installs what this `direct_url.json` describes; None for a copy from an index.

    What is not there any more, such as a wheel in a folder for downloads, cannot be installed again: then the index
    is tried, too.
    """
    try:
        found = json.loads(direct_url) if direct_url else {}
        url, vcs = str(found.get("url", "")), found.get("vcs_info", {})
        if vcs:
            return _pip(f"{vcs['vcs']}+{url}@{vcs['commit_id']}")
        if not url.startswith("file:"):
            return _pip(url)
        path = Path(url2pathname(unquote(urlsplit(url).path)))
        return _pip(str(path) if path.exists() else "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return _pip("")


def _pip(source: str) -> str:
    """IPython expands braces and dollar signs in a magic's line, and the shell what is not quoted."""
    if not source or any(character in source for character in '"`${}\n'):
        source = NAME
    quoted = f'"{source}"' if any(c.isspace() or c in "&;|<>()'*?#" for c in source) else source
    return f"%pip install {quoted}"


def _direct_url() -> str | None:
    try:
        return metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_sc2.server"}]


def _load_jupyter_server_extension(server: Any) -> None:
    page_config = server.web_app.settings.setdefault("page_config_data", {})
    page_config[OPTION] = install_command(_direct_url())
