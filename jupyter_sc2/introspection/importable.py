"""What can be imported in this process, found out without importing anything.

The answer comes from the files, as Python would find them. Anything doubtful counts as unknown: where another finder is
active, a module is compiled, or it creates names as it runs, the answer is None.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from itertools import islice

from jupyter_sc2.introspection.inspection import (
    genuine,
    is_a,
    is_exactly,
    loaded,
    module_state,
    plain,
    root_of,
    text_of,
)
from jupyter_sc2.source.parsing import parse

Path = tuple[str, ...]  # ("os", "path"); () is the root of all modules

MAX_FOLDER_ENTRIES = 5_000
# Of a module that is parsed: Python's parser lets no other thread run meanwhile.
MAX_MODULE_CHARS = 60_000
# Modules that are parsed for one query, following their star imports.
MAX_MODULES_READ = 8
# Finders that find nothing beyond the folders of sys.path, and those of packages that find modules of their own.
USUAL_FINDERS = frozenset(
    {"_frozen_importlib", "_frozen_importlib_external", "_distutils_hack", "_pytest"}
)
OWN_FINDERS = frozenset({"six", "transformers"})
# Code that creates names which are not in a module's source.
MAKES_NAMES = re.compile(
    r"\bdef __getattr__|\b(?:globals|locals|vars|exec|setattr)\(|\blazy|__class__\s*="
)


def modules_in(package: Path) -> frozenset[str] | None:
    """The modules of a package, by their last names; all top-level modules for ()."""
    if package and package[0] in OWN_FINDERS:
        return None
    folders = _folders(package)
    if folders is None or (not folders and not _source_of(package)):
        return None  # a compiled module may contain others
    names: set[str] = set()
    for folder in folders:
        found = _modules_in(folder, _changed(folder))
        if found is None:
            return None
        names |= found
    prefix = "".join(f"{part}." for part in package)
    below = (name[len(prefix) :] for name in plain(sys.modules) if name.startswith(prefix))
    names.update(name.partition(".")[0] for name in below)
    return frozenset(names if package else names.union(sys.builtin_module_names))


def is_installed(module: str) -> bool:
    """Whether a module of the standard library or of an installed package can be imported.

    Not a file of the same name in the folder in which the user works, which would be imported instead.
    """
    if module.partition(".")[0] in sys.builtin_module_names:
        return True
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        try:
            # Without its path this would import the package.
            spec = PathFinder.find_spec(".".join(parts[:count]), path)
        except (ImportError, ValueError, OSError):
            return False
        if spec is None or spec.origin is None:
            return False
        path = list(spec.submodule_search_locations or [])
        if count == 1:
            folder = os.path.dirname(os.path.dirname(spec.origin) if path else spec.origin)
            if os.path.realpath(folder) == os.path.realpath(os.curdir):
                return False
    return True


def members_of(module: Path) -> frozenset[str] | None:
    """The names and modules that `from module import` accepts, for a module that is not loaded yet."""
    names = _of_source(module, []) if module else None
    modules = modules_in(module)
    return None if names is None or modules is None else names | modules


def _of_source(module: Path, above: list[str]) -> frozenset[str] | None:
    """The names that a module's source binds; None if there may be others, or if there is no source.

    `above` are the files that were read for this already.
    """
    file = _source_of(module)
    if not file or file in above or len(above) == MAX_MODULES_READ:
        return None
    above.append(file)
    read = _read(file, _changed(file))
    if read is None:
        return None
    names, stars = read
    found = set(names)
    package = module if os.path.basename(file) == "__init__.py" else module[:-1]
    for level, name in stars:
        base = package[: len(package) - level + 1] if level else ()
        more = _of_source((*base, *name.split(".")) if name else base, above)
        if more is None:
            return None
        found |= more
    return frozenset(found)


@lru_cache(maxsize=256)
def _read(file: str, changed: float) -> tuple[frozenset[str], tuple[tuple[int, str], ...]] | None:
    """The names that a file binds, and its star imports: how many levels up, and from where."""
    try:
        with open(file, encoding="utf-8") as opened:
            source = opened.read(MAX_MODULE_CHARS + 1)
    except (OSError, ValueError):
        return None
    if (
        len(source) > MAX_MODULE_CHARS
        or MAKES_NAMES.search(source)
        or (tree := parse(source)) is None
    ):
        return None
    names, stars = {"__name__", "__file__", "__doc__", "__path__"}, []
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")], level=level, module=module):
                stars.append((level, module or ""))
            case ast.alias(name=name, asname=alias):
                names.add(alias or name.partition(".")[0])
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
    return frozenset(names), tuple(stars)


def _source_of(module: Path) -> str:
    for folder in _folders(module[:-1]) or ():
        for name in (os.path.join(module[-1], "__init__.py"), f"{module[-1]}.py"):
            if os.path.isfile(file := os.path.join(folder, name)):
                return file
    return ""


def _folders(package: Path) -> list[str] | None:
    """The folders that contain a package's modules, none if it is not a package; None if that is not known."""
    if not package:
        return _search_path()
    found = loaded(".".join(package))
    if is_a(found, types.ModuleType):
        path = module_state(found).get("__path__", [])
        if not is_exactly(path, list, tuple):
            return None  # a namespace package, whose folders may change
        return [folder for folder in path if type(folder) is str]
    above = _folders(package[:-1])
    if above is None:
        return None
    folders = [os.path.join(folder, package[-1]) for folder in above]
    return [folder for folder in folders if os.path.isdir(folder)]


def _search_path() -> list[str] | None:
    for finder in list(sys.meta_path):
        cls: type = finder if is_a(finder, type) else type(finder)  # type: ignore[assignment]
        if root_of(cls) not in USUAL_FINDERS | OWN_FINDERS or not genuine(cls):
            return None
    folders = []
    for folder in [text_of(folder) for folder in list(sys.path) if is_a(folder, str)]:
        folder = folder or os.curdir
        if os.path.isfile(folder):
            return None  # an archive
        if os.path.isdir(folder):
            folders.append(folder)
    return folders


def _changed(file: str) -> float:
    try:
        return os.stat(file).st_mtime
    except OSError:
        return 0.0


@lru_cache(maxsize=256)
def _modules_in(folder: str, changed: float) -> frozenset[str] | None:
    """The modules whose files are in a folder; None if it has too many entries."""
    try:
        with os.scandir(folder) as entries:
            found = list(islice(entries, MAX_FOLDER_ENTRIES + 1))
    except OSError:
        return frozenset()
    return None if len(found) > MAX_FOLDER_ENTRIES else frozenset(_module_names(found))


def _module_names(entries: list[os.DirEntry[str]]) -> Iterator[str]:
    for entry in entries:
        name, _, ending = entry.name.partition(".")
        if name.isidentifier() and (not ending or ending.endswith(("py", "pyc", "so", "pyd"))):
            yield name
