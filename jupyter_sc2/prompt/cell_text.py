"""How a cell of the notebook is written into a prompt, one function for each source of text in a cell."""

from __future__ import annotations

import re
from functools import lru_cache

from jupyter_sc2.introspection.secrets import in_text
from jupyter_sc2.notebook import Cell
from jupyter_sc2.source.languages import LANGUAGES

# In characters.
MAX_CELL = 4_000
MAX_MARKDOWN = 600
MAX_OUTPUT = 400
# The text/plain form of a plot ("<Figure size 640x480>"), which carries no information.
BARE = re.compile(r"\[?<[^\n]*>\]?")


def cell_text(cell: Cell, language: str = "python", *, comment: bool = True) -> str:
    """The source of a cell: code as it is, Markdown as comments, nothing for a raw cell.

    Without `comment` Markdown stays as it is, for a layout that has a place for it.
    """
    return code_text(cell) or markdown_text(cell, language, comment=comment)


def code_text(cell: Cell, language: str = "python", *, comment: bool = True) -> str:
    """The first lines of a code cell; nothing for other cells."""
    source = cell.source.strip("\n").rstrip()
    if not source or cell.cell_type != "code" or cell.path:
        return ""
    return f"{first_lines(source, MAX_CELL)}\n\n"


def file_text(cell: Cell, language: str = "python", *, comment: bool = True) -> str:
    """The path and the first lines of a text file that is open beside the one that is completed."""
    source = cell.source.strip("\n").rstrip()
    if not source or not cell.path:
        return ""
    return f"{cell.path}\n{first_lines(_without_secrets(source), MAX_CELL)}\n\n"


def markdown_text(cell: Cell, language: str = "python", *, comment: bool = True) -> str:
    """The first lines of a Markdown cell, with `comment` as comments of `language`; nothing for other cells."""
    source = cell.source.strip("\n").rstrip()
    if not source or cell.cell_type != "markdown":
        return ""
    text = first_lines(source, MAX_MARKDOWN)
    return (_commented(text, language) if comment else text) + "\n\n"


def output_text(cell: Cell, language: str = "python", *, comment: bool = True) -> str:
    """The first lines of a code cell's outputs, with `comment` as comments; nothing for plots and the like.

    A line with a secret in it is replaced by "…".
    """
    texts = (text.strip("\n").rstrip() for text in cell.outputs)
    text = "\n".join(text for text in texts if text and not BARE.fullmatch(text))
    if not text or cell.cell_type != "code":
        return ""
    text = first_lines(_without_secrets(text), MAX_OUTPUT).rstrip()
    return (_commented(f"Output:\n{text}", language) if comment else text) + "\n\n"


def first_lines(text: str, limit: int) -> str:
    """The text up to the last line end within `limit` characters."""
    if len(text) <= limit:
        return text
    cut = text.rfind("\n", 0, limit)
    return text[: cut + 1 if cut >= 0 else limit]


@lru_cache(maxsize=512)
def _without_secrets(text: str) -> str:
    return "\n".join("…" if in_text(line) else line for line in text.split("\n"))


def _commented(text: str, language: str) -> str:
    _, sign = LANGUAGES.get(language, ("txt", "#"))
    return "\n".join(f"{sign} {line}".rstrip() for line in text.splitlines())
