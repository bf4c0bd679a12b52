"""Python's parser, safe to use while the user's code runs in the same process."""

from __future__ import annotations

import ast
import re

# Escapes that Python does not know. It warns about them, and catching warnings would change the filters of all threads.
UNKNOWN_ESCAPE = re.compile(r"((?:\\[\n\\'\"abfnrtvxNuU0-7])+)|\\(.)", re.DOTALL)


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a cell or a module; None if it is not valid Python. Offsets are those of the source."""
    if "\\" in source:
        # Two backslashes mean the same in a string, and are as invalid in code as one.
        source = UNKNOWN_ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", source)
    try:  # as a notebook's cell, which may use `await` at its top level
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree: ast.Module = compile(source, "<cell>", "exec", flags, dont_inherit=True)
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
