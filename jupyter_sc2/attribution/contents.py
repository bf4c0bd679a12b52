"""The content of an index's `index.json`: which sources are indexed, and which packs are valid."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jupyter_sc2.attribution.sources import Source
from jupyter_sc2.runtime.bounded_read import read_limited

FORMAT = 1
MAX_FILE_BYTES = 256 << 20  # 100,000 sources take a fifth of this


class SourceEntry(msgspec.Struct, kw_only=True):
    """A source in the index; `lexemes` and `files` count those of its lexemes and files that are in the index."""

    kind: str
    name: str
    root: str
    version: str = ""
    licence: str = ""
    notices: list[str] = []
    lexemes: int = 0
    files: int = 0

    def source(self) -> Source:
        return Source(
            kind=self.kind,
            name=self.name,
            root=self.root,
            version=self.version,
            licence=self.licence,
            notices=tuple(self.notices),
        )


class PackEntry(msgspec.Struct):
    """A valid pack; `dead` are the numbers of its files that were replaced or removed since it was written."""

    name: str
    dead: list[int] = []


class Contents(msgspec.Struct):
    """The content of index.json."""

    format: int = FORMAT
    sources: dict[str, SourceEntry] = {}
    packs: list[PackEntry] = []


def read_contents(file: Path) -> Contents:
    """The content of an `index.json`. Raises OSError, or ValueError if this version cannot read it."""
    contents = msgspec.json.decode(read_limited(file, MAX_FILE_BYTES), type=Contents)
    if contents.format != FORMAT:
        raise ValueError(f"format {contents.format}")
    return contents
