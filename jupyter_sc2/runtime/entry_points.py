"""Entry points of installed packages, such as engines. Looking them up imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sc2.runtime.import_isolation import own_imports

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENGINES_GROUP = "jupyter_sc2.engines"


def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; of two with one name the first on the path counts.

    Only where packages are installed: metadata in the notebook's folder registers nothing. Reads one small file of
    each distribution, so it is called when a name is not a known one, and not at every start.
    """
    from importlib import metadata

    found: dict[str, EntryPoint] = {}
    for distribution in metadata.distributions(path=own_imports.path):
        for entry in distribution.entry_points:
            if entry.group == group:
                found.setdefault(entry.name, entry)
    return found
