"""Snapshots of a notebook: frozen values that prompts are built from.

A snapshot comes from a front end (whole, or as a change to an older one), from an .ipynb file, or from the history of
an IPython terminal.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jupyter_sc2.errors import RequestError
from jupyter_sc2.runtime.bounded_read import MAX_INPUT_BYTES, read_limited
from jupyter_sc2.runtime.warning_filters import unwarned

SURROGATE = re.compile("[\ud800-\udfff]")
MAX_OUTPUT_CHARS = 2000  # of one output
CellType = Literal["code", "markdown", "raw"]


def replace_surrogates(text: str) -> str:
    """Replaces lone surrogates, which no tokenizer can encode, by U+FFFD, one for one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATE.sub("\ufffd", text)
    return text


@dataclass(frozen=True, kw_only=True)
class Cell:
    id: str
    source: str
    cell_type: CellType = "code"
    execution_count: int | None = None
    outputs: tuple[str, ...] = ()
    path: str = ""  # of a text file that is open beside the one that is completed

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", replace_surrogates(self.source))


@dataclass(frozen=True)
class Notebook:
    """The cells in document order, and the front end's revision number of this state.

    `language` is the kernel's language if the snapshot comes from a file; front ends send it with each request.
    """

    cells: tuple[Cell, ...] = ()
    rev: int = 0
    language: str = "python"

    # Cached, as they are needed at each keystroke while the notebook stays the same.

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {cell.id: index for index, cell in reversed(list(enumerate(self.cells)))}

    @cached_property
    def _code(self) -> Sequence[int]:
        return [index for index, cell in enumerate(self.cells) if cell.cell_type == "code"]

    @cached_property
    def _above(self) -> dict[str | None, tuple[Cell, ...]]:
        return {}

    @cached_property
    def _hashes(self) -> dict[str | None, int]:
        return {}

    def position(self, cell_id: str | None) -> int | None:
        """The index of the cell with this id; None if there is no such cell."""
        return None if cell_id is None else self._positions.get(cell_id)

    def above(self, cell_id: str | None) -> tuple[Cell, ...]:
        """The cells above the one with this id, the same tuple each time; all cells if there is no such cell."""
        above = self._above.get(cell_id)
        if above is None:
            above = self.cells[: self.position(cell_id)]
            self._above.clear()
            self._above[cell_id] = above
        return above

    def hash_above(self, cell_id: str | None) -> int:
        """A hash of the cells above the one with this id."""
        found = self._hashes.get(cell_id)
        if found is None:
            found = hash(self.above(cell_id))
            self._hashes.clear()
            self._hashes[cell_id] = found
        return found

    def code_below(self, cell_id: str | None) -> Cell | None:
        """The first code cell below the one with this id; None if there is none."""
        position = self.position(cell_id)
        place = len(self._code) if position is None else bisect(self._code, position)
        return self.cells[self._code[place]] if place < len(self._code) else None

    def changed(
        self, cells: Iterable[Cell], *, order: Sequence[str] | None = None, rev: int = 0
    ) -> Notebook:
        """This notebook with some cells replaced or added and, where `order` is given, in that order.

        Cells that `order` does not name are removed. Raises RequestError if it names an unknown cell.
        """
        by_id = {cell.id: cell for cell in self.cells} | {cell.id: cell for cell in cells}
        try:
            return Notebook(tuple(by_id[id] for id in (by_id if order is None else order)), rev)
        except KeyError as error:
            raise RequestError(
                f"The notebook's order names an unknown cell: {error.args[0]!r}."
            ) from None

    @classmethod
    def from_sources(cls, sources: Iterable[str]) -> Notebook:
        """Code cells in the order of their execution, as in an IPython terminal."""
        return cls(tuple(Cell(id=f"in-{n}", source=source) for n, source in enumerate(sources, 1)))

    @classmethod
    def from_file(cls, path: Path) -> Notebook:
        """The cells of an .ipynb file. Raises RequestError if it is not one."""
        import nbformat

        try:
            text = read_limited(path, MAX_INPUT_BYTES).decode()
            with unwarned:
                document = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
        except Exception as error:  # nbformat raises what json and jsonschema happen to raise
            raise RequestError(
                f"{path} is not a notebook that can be read: {_first_line(error)}"
            ) from error
        for index, cell in enumerate(document.cells):
            for name in ("cell_type", "source"):
                if not isinstance(cell.get(name), str):
                    raise RequestError(
                        f"{path} is not a notebook that can be read: cell {index} has no {name} that is text."
                    )
        return cls(
            tuple(_cell(index, cell) for index, cell in enumerate(document.cells)),
            language=_language(document.metadata),
        )


def _cell(index: int, cell: Mapping[str, Any]) -> Cell:
    """A cell from nbformat's. Fields that are not required may be missing or of any type."""
    id, count, outputs = cell.get("id"), cell.get("execution_count"), cell.get("outputs")
    return Cell(
        id=id if isinstance(id, str) else f"cell-{index}",
        source=cell["source"],
        cell_type=cell["cell_type"],
        execution_count=count if isinstance(count, int) else None,
        outputs=output_texts(outputs if isinstance(outputs, list) else ()),
    )


def _language(metadata: Mapping[str, Any]) -> str:
    """The kernel's language according to the notebook's metadata; "python" by default."""
    for key, name in (("kernelspec", "language"), ("language_info", "name")):
        entry = metadata.get(key)
        language = entry.get(name) if isinstance(entry, Mapping) else None
        if isinstance(language, str) and language:
            return language
    return "python"


def output_texts(outputs: Iterable[object]) -> tuple[str, ...]:
    """The texts of outputs, each a string or a dict in nbformat's format; outputs without text are skipped."""
    return tuple(text for output in outputs if (text := _output_text(output)))


def _output_text(output: object) -> str:
    if isinstance(output, Mapping):
        data = output.get("data")
        if isinstance(data, Mapping):
            output = data.get("text/plain")
        elif "ename" in output:
            output = f"{output['ename']}: {output.get('evalue', '')}"
        else:
            output = output.get("text") if output.get("name") != "stderr" else ""
    if isinstance(output, Sequence) and not isinstance(output, str):  # nbformat's lines
        output = "".join(line for line in output if isinstance(line, str))
    return replace_surrogates(output[:MAX_OUTPUT_CHARS]) if isinstance(output, str) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
