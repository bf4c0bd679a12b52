"""Python's parser, used where the user's code runs at the same time."""

from __future__ import annotations

import ast
import re

# Escapes that Python does not know. It warns of them, and to catch warnings is to change them for all threads.
UNKNOWN_ESCAPE = re.compile(r"((?:\\[\n\\'\"abfnrtvxNuU0-7])+)|\\(.)", re.DOTALL)


def parse(source: str) -> ast.Module | None:
    """The tree of a cell or a module; None if it is no Python. Offsets are those of the source."""
    if "\\" in source:
        # Two backslashes: the same in a string, and in code as little Python as the one.
        source = UNKNOWN_ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", source)
    try:  # as a notebook's cell, which may await at its top
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree: ast.Module = compile(source, "<cell>", "exec", flags, dont_inherit=True)
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
