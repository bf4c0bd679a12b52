"""Under `python -OO` modules have no docstrings, and transformers raises where some of its own have none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from importlib.util import find_spec
from types import CodeType
from typing import Any


@contextmanager
def with_docstrings(package: str) -> Iterator[None]:
    """Modules of this package that are imported meanwhile have theirs."""
    spec = find_spec(package) if sys.flags.optimize > 1 else None
    if spec is None or spec.origin is None:
        yield
        return
    root = os.path.dirname(spec.origin)

    def hook(path: str) -> FileFinder:
        if not _is_in(path, root):
            raise ImportError(path)
        loaders: list[Any] = [
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (_WithDocstrings, SOURCE_SUFFIXES),
        ]
        return FileFinder(path, *loaders)

    _forget(root)
    sys.path_hooks.insert(0, hook)
    try:
        yield
    finally:
        sys.path_hooks.remove(hook)
        _forget(root)


class _WithDocstrings(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew: what is cached on the disk is without."""
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=1)
        return code


def _forget(root: str) -> None:
    """Python remembers who finds what in a folder."""
    for path in [path for path in list(sys.path_importer_cache) if _is_in(path, root)]:
        sys.path_importer_cache.pop(path, None)


def _is_in(path: Any, root: str) -> bool:
    return isinstance(path, str) and (path == root or path.startswith(root + os.sep))
