"""Snapshots of a notebook: frozen values that a prompt is laid out from.

A snapshot comes from a front end (whole, or as a change to an older one), from an .ipynb file, or from what
was run in an IPython terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jupyter_sc2.errors import RequestError
from jupyter_sc2.reading import LARGEST_GIVEN, read_limited
from jupyter_sc2.unwarned import unwarned

OUTPUT_LENGTH = 2000  # characters kept of one output
CellType = Literal["code", "markdown", "raw"]


def replace_surrogates(text: str) -> str:
    """Replaces lone surrogates, which no tokenizer can encode, by U+FFFD, one for one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


@dataclass(frozen=True, kw_only=True)
class Cell:
    id: str
    source: str
    cell_type: CellType = "code"
    execution_count: int | None = None
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", replace_surrogates(self.source))


@dataclass(frozen=True)
class Notebook:
    """The cells in their order on the page, and the front end's revision number of this state.

    `language` is the kernel's, where a file tells it; a front end tells it with each request.
    """

    cells: tuple[Cell, ...] = ()
    rev: int = 0
    language: str = "python"

    def above(self, cell_id: str | None) -> tuple[Cell, ...]:
        """The cells above the one with this id; all of them if there is none such."""
        for index, cell in enumerate(self.cells):
            if cell.id == cell_id:
                return self.cells[:index]
        return self.cells

    def changed(
        self, cells: Iterable[Cell], *, order: Sequence[str] | None = None, rev: int = 0
    ) -> Notebook:
        """This notebook with some cells replaced or added and, where `order` is given, in that order.

        Cells that `order` does not name are gone. Raises RequestError if it names one nobody has seen.
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
        """Code cells in the order in which they were run, as in an IPython terminal."""
        return cls(tuple(Cell(id=f"in-{n}", source=source) for n, source in enumerate(sources, 1)))

    @classmethod
    def from_file(cls, path: Path) -> Notebook:
        """The cells of an .ipynb file. Raises RequestError if it is not one."""
        import nbformat

        try:
            text = read_limited(path, LARGEST_GIVEN).decode()
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
    """A cell of nbformat's. What front ends can do without may be missing or be anything."""
    id, count, outputs = cell.get("id"), cell.get("execution_count"), cell.get("outputs")
    return Cell(
        id=id if isinstance(id, str) else f"cell-{index}",
        source=cell["source"],
        cell_type=cell["cell_type"],
        execution_count=count if isinstance(count, int) else None,
        outputs=output_texts(outputs if isinstance(outputs, list) else ()),
    )


def _language(metadata: Mapping[str, Any]) -> str:
    """The kernel's language by a notebook's metadata."""
    for key, name in (("kernelspec", "language"), ("language_info", "name")):
        told = metadata.get(key)
        language = told.get(name) if isinstance(told, Mapping) else None
        if isinstance(language, str) and language:
            return language
    return "python"


def output_texts(outputs: Iterable[object]) -> tuple[str, ...]:
    """The texts of outputs, each a string or a dict as nbformat has it; none of those that have no text."""
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
    return replace_surrogates(output[:OUTPUT_LENGTH]) if isinstance(output, str) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
