"""A document of the corpus: the cells of one notebook, script or page, and its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jupyter_sc2.notebook import Cell

Kind = Literal["notebook", "example", "docs", "doctest", "library"]


@dataclass(frozen=True)
class Document:
    kind: Kind
    package: str
    cells: tuple[Cell, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(cell.source for cell in self.cells)
