"""Adding imports to a cell."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from jupyter_sc2.source.incomplete import CELL_MAGICS, complete_tree


def with_imports(source: str, imports: Sequence[str]) -> str:
    """The cell with these lines behind the docstring and the imports with which it begins, else at its top.

    A cell magic stays the first line.
    """
    if not imports:
        return source
    magics = CELL_MAGICS.match(source)
    lines = source.split("\n")
    place = source[: magics.end()].count("\n") if magics else 0
    completed = complete_tree(source, "", "")
    for node in completed[0].body if completed else ():
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        place = node.end_lineno or place
    return "\n".join([*lines[:place], *imports, *lines[place:]])
