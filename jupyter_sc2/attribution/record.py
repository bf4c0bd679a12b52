"""Records of accepted suggestions: notes in the metadata of cells, which the front end writes.

Off unless the notebook's metadata say `{"jupyter_sc2": {"record": true}}`. A note contains the accepted text, so that a
report can tell how much of it is still there, even after the cell was moved or split: a note that is in several cells,
by its id, is about all of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jupyter_sc2.errors import RequestError
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.bounded_read import MAX_INPUT_BYTES, read_limited
from jupyter_sc2.types import Attribution

KEY = "jupyter_sc2"
# Shorter runs of words and symbols may be there by chance.
MIN_FRAGMENT_LEXEMES = 3


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted suggestion: when, from which model, where in its cell, and its matches at that time."""

    id: str
    text: str
    time: str = ""
    model: str = ""
    revision: str = ""
    engine: str = ""
    version: str = ""  # of this package
    offset: int = 0
    matches: list[dict[str, Any]] = []

    @property
    def attributions(self) -> list[Attribution]:
        found = []
        for match in self.matches:
            try:
                found.append(msgspec.convert(match, Attribution))
            except msgspec.ValidationError:
                continue
        return found


@dataclass(frozen=True)
class Retained:
    """A note, the numbers of its cells, and the share of its words that are still there."""

    accepted: Accepted
    cells: tuple[int, ...]
    share: float


def read(path: Path) -> Any:
    """A notebook's file as nbformat reads it, without converting it to another format. Raises RequestError."""
    import nbformat

    try:
        text = read_limited(path, MAX_INPUT_BYTES).decode()
        return nbformat.reads(text, as_version=nbformat.NO_CONVERT)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # nbformat raises whatever json and jsonschema raise
        raise RequestError(f"{path} is not a notebook that can be read.") from error


def is_on(document: Any) -> bool:
    """Whether the notebook's metadata ask for a record."""
    metadata = document.get("metadata", {}).get(KEY)
    return isinstance(metadata, Mapping) and metadata.get("record") is True


def notes(metadata: Mapping[str, Any]) -> list[Accepted]:
    """The notes in a cell's metadata; malformed ones are left out."""
    own = metadata.get(KEY)
    rows = own.get("accepted") if isinstance(own, Mapping) else None
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            found.append(msgspec.convert(row, Accepted))
        except msgspec.ValidationError:
            continue
    return found


def retained(cells: Sequence[tuple[str, Iterable[Accepted]]]) -> list[Retained]:
    """How much of each note is still in the cells, given as pairs of source and notes."""
    about: dict[str, Accepted] = {}
    where: dict[str, dict[int, None]] = {}
    for number, (_, accepted) in enumerate(cells):
        for one in accepted:
            about.setdefault(one.id, one)
            where.setdefault(one.id, {})[number] = None
    return [
        Retained(
            one,
            tuple(where[id]),
            share_of(one.text, [cells[number][0] for number in where[id]]),
        )
        for id, one in about.items()
    ]


def share_of(text: str, sources: Sequence[str]) -> float:
    """The share of a text's words and symbols that the sources contain in runs of `MIN_FRAGMENT_LEXEMES` or more, from
    0 to 1."""
    wanted = _words(text)
    if not wanted:
        return 0.0
    found = [False] * len(wanted)
    for source in sources:
        if text.strip() and text.strip() in source:
            return 1.0
        matcher = difflib.SequenceMatcher(None, wanted, _words(source), autojunk=False)
        for start, _, size in matcher.get_matching_blocks():
            if size >= min(MIN_FRAGMENT_LEXEMES, len(wanted)):
                found[start : start + size] = [True] * size
    return sum(found) / len(wanted)


def strip(path: Path) -> int:
    """Removes all notes from a notebook's file; returns the number of cells that had any. Raises RequestError."""
    import nbformat

    document = read(path)
    stripped = 0
    for cell in cells(document):
        own = cell.get("metadata", {}).get(KEY)
        if isinstance(own, Mapping) and "accepted" in own:
            rest = {name: value for name, value in own.items() if name != "accepted"}
            cell["metadata"].pop(KEY)
            if rest:
                cell["metadata"][KEY] = rest
            stripped += 1
    if stripped:
        text = nbformat.writes(document, version=nbformat.NO_CONVERT)  # type: ignore[no-untyped-call]
        try:
            atomic_write(path, (text if text.endswith("\n") else text + "\n").encode())
        except OSError as error:
            raise RequestError(
                f"{path} could not be written: {error.strerror or error}. It has not been changed."
            ) from error
    return stripped


def cells(document: Any) -> list[Any]:
    """All cells, also of notebooks older than version 4, which have worksheets."""
    sheets = document.get("worksheets")
    return [c for sheet in sheets for c in sheet["cells"]] if sheets else document.get("cells", [])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)
