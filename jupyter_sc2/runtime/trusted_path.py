"""Where packages are installed: what of `sys.path` the interpreter itself put there, whatever was done to it since.

It is worked out anew from what Python's start goes by, and not remembered: by the time this runs, a cell may have
changed `sys.path`. Nothing here imports a module that a kernel has not loaded already.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Collection, Iterator
from importlib.machinery import ModuleSpec

# Where a kernel's own packages lie there are ours, too, whatever launched it has put there.
KERNELS_OWN = ("IPython", "ipykernel", "traitlets")


def trusted_path(untrusted: Collection[str]) -> list[str]:
    """The folders and archives, in the order of Python's start.

    The folders `untrusted`, named as by `real`, are left out, though never the standard library's and site-packages.
    """
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    stdlib, sites = list(_stdlib()), list(_sites())
    others = [*(entry for folder in sites for entry in _of_pth_files(folder)), *_of_packages()]
    fixed = {real(entry) for entry in (*stdlib, *sites)}
    return list(
        {
            real(entry): entry
            for entry in (*before, *stdlib, *sites, *others)
            if os.path.isabs(entry) and (real(entry) in fixed or real(entry) not in untrusted)
        }.values()
    )


def real(path: str) -> str:
    """The one name of a file or folder that has several."""
    return os.path.normcase(os.path.realpath(path))


def current_folder() -> str | None:
    """The current directory; None where it was deleted."""
    try:
        return real(os.getcwd())
    except OSError:
        return None


def folders_of(spec: ModuleSpec) -> list[str]:
    """The entries of the path under which a module or package without a parent was found; none if it has no file."""
    if spec.origin is None or not spec.has_location:
        return [os.path.dirname(folder) for folder in spec.submodule_search_locations or ()]
    folder = os.path.dirname(spec.origin)
    return [os.path.dirname(folder) if spec.submodule_search_locations is not None else folder]


def _stdlib() -> Iterator[str]:
    library = os.path.dirname(os.__file__)
    yield os.path.join(
        os.path.dirname(library), f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    )
    yield library
    yield os.path.join(library, "lib-dynload")
    for prefix in (sys.base_exec_prefix, sys.exec_prefix):
        if os.name == "nt":
            yield os.path.join(prefix, "DLLs")
        elif sys.platlibdir != "lib":
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            yield os.path.join(prefix, sys.platlibdir, version, "lib-dynload")


def _sites() -> Iterator[str]:
    if site.ENABLE_USER_SITE:
        yield site.getusersitepackages()
    yield from site.getsitepackages()


def _of_pth_files(folder: str) -> Iterator[str]:
    """What the .pth files in a folder add to the path; their lines of code are not run again."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if not name.endswith(".pth") or name.startswith("."):
            continue
        try:
            # Not as "utf-8-sig": that would import a codec, in the middle of a search for a module.
            with open(os.path.join(folder, name), "rb") as file:
                lines = file.read().decode(errors="replace").lstrip("\ufeff").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                entry = os.path.join(folder, line.rstrip())
                if os.path.exists(entry):
                    yield os.path.abspath(entry)


def _of_packages() -> Iterator[str]:
    for name in (*KERNELS_OWN, "jupyter_sc2"):
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if isinstance(spec, ModuleSpec):
            yield from folders_of(spec)
