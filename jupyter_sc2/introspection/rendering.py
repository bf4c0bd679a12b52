"""How live variables appear in a prompt: one comment line for each.

    # df: DataFrame (891, 5) int64 survived, pclass; object sex; float64 age, fare
    # X: ndarray (891, 3) float64
    # options: dict 'sep', 'header'
    # clean(table, drop=True): function, Removes what is empty.

They change with every run, so they come last, right before the current cell: the text above them stays in the KV cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jupyter_sc2.introspection.secrets import tells, type_without_values

MAX_LINE_CHARS = 240


@dataclass(frozen=True)
class Variable:
    """The description of one name: what it is, and details that help to write code with it."""

    name: str  # with its signature, if it can be called
    kind: str
    detail: str = ""


def describe(variables: Iterable[Variable], *, sign: str = "#", limit: int = 1_200) -> str:
    """The comment lines, in the given order; as many as fit in `limit` characters."""
    lines: list[str] = []
    for variable in variables:
        parts = (f"{sign} {variable.name}: {variable.kind}", variable.detail)
        line = _shorten(" ".join(" ".join(parts).split()))
        limit -= len(line) + 1
        if limit < 0:
            break
        lines.append(f"{line}\n")
    return "".join(lines)


def table_detail(shape: tuple[int, ...], columns: Iterable[tuple[str, str]]) -> str:
    """Shape and columns of a table, the columns (name, dtype) grouped by dtype in order of first appearance.

    Columns whose names may be secrets are left out.
    """
    groups: dict[str, list[str]] = {}
    for name, dtype in columns:
        if tells(name):
            groups.setdefault(type_without_values(dtype), []).append(name)
    size = "(" + ", ".join("?" if length < 0 else str(length) for length in shape) + ")"
    return f"{size} " + "; ".join(f"{dtype} {', '.join(names)}" for dtype, names in groups.items())


def _shorten(line: str) -> str:
    """Cuts a long line after its last whole item."""
    if len(line) <= MAX_LINE_CHARS:
        return line
    cut = max(line.rfind(",", 0, MAX_LINE_CHARS - 2), line.rfind(";", 0, MAX_LINE_CHARS - 2))
    return line[: cut if cut > MAX_LINE_CHARS // 2 else MAX_LINE_CHARS - 2].rstrip() + " …"
