"""Languages: their file endings and comment signs, and which one a cell is in below a cell magic."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jupyter_sc2.completion import CompletionRequest

# File ending and comment sign by language; other languages get a plain text file and "#".
LANGUAGES: Mapping[str, tuple[str, str]] = {
    "python": ("py", "#"),
    "r": ("r", "#"),
    "julia": ("jl", "#"),
    "javascript": ("js", "//"),
    "typescript": ("ts", "//"),
    "scala": ("scala", "//"),
    "bash": ("sh", "#"),
    "sql": ("sql", "--"),
    "html": ("html", "//"),
    "css": ("css", "//"),
    "latex": ("tex", "%"),
    "ruby": ("rb", "#"),
    "perl": ("pl", "#"),
    "rust": ("rs", "//"),
    "c": ("c", "//"),
    "c++": ("cpp", "//"),
    "cython": ("pyx", "#"),
    "java": ("java", "//"),
    "go": ("go", "//"),
    "json": ("json", "//"),
    "yaml": ("yaml", "#"),
    "toml": ("toml", "#"),
    "markdown": ("md", "#"),
}
# What cell magics begin cells in another language; %%time, %%capture and their like go on in Python.
MAGIC_LANGUAGES: Mapping[str, str] = {
    "bash": "bash",
    "sh": "bash",
    "script": "bash",
    "system": "bash",
    "sx": "bash",
    "sql": "sql",
    "bigquery": "sql",
    "html": "html",
    "HTML": "html",
    "css": "css",
    "javascript": "javascript",
    "js": "javascript",
    "R": "r",
    "julia": "julia",
    "ruby": "ruby",
    "perl": "perl",
    "latex": "latex",
    "markdown": "markdown",
    "cython": "cython",
}
CELL_MAGIC = re.compile(r"\s*%%(?P<name>\w+)(?P<line>[^\n]*)\n")


def of_cell_magic(request: CompletionRequest) -> tuple[str, str, str]:
    """The language of the cell, the prefix and the suffix: below `%%bash` it is bash, without that line."""
    found = CELL_MAGIC.match(request.text)
    if found is None or found.end() > request.offset:
        return request.language, request.prefix, request.suffix
    language = language_of(found["name"], found["line"])
    if language is None:
        return request.language, request.prefix, request.suffix
    return language, request.text[found.end() : request.offset], request.suffix


def language_of(magic: str, line: str) -> str | None:
    """The language of a cell that begins with this cell magic; None if it is the notebook's own."""
    if magic in ("writefile", "file"):
        ending = line.strip().rpartition(".")[2] if "." in line else ""
        return next((name for name, (known, _) in LANGUAGES.items() if known == ending), "text")
    return MAGIC_LANGUAGES.get(magic)
