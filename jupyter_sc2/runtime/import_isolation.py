"""Import isolation: the modules that this package imports and those of the user's code stay apart.

A kernel finds modules in the notebook's folder and in folders that cells have put on `sys.path`. What our threads
import must not come from there, and what they have imported must not hide the user's own file of the same name. So
while the extension runs,

- an import on a thread of ours, or while the main thread is in our code, is searched for where packages are
  installed (`trusted_path`), and nowhere else;
- packages that only we have imported are kept in a table of our own and not in `sys.modules`. So is whatever else
  we have imported that a file of the user's hides. When the user's code imports such a name, it gets its own file if
  there is one, else the very modules that we use: NumPy cannot be loaded twice.

`import torch` makes 2,200 modules known, which refer to one another by name at any time. From then on only what a
file of the user's hides is kept apart.

What is imported on a thread is ours while it is inside `with own_imports`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

from jupyter_sc2.runtime import openblas
from jupyter_sc2.runtime.clock import monotonic, sleep
from jupyter_sc2.runtime.trusted_path import current_folder, folders_of, real, trusted_path
from jupyter_sc2.runtime.warning_filters import filters

PACKAGE = "jupyter_sc2"
# With one of these the modules of a model stay in sys.modules.
HEAVY_PACKAGES = {"torch", "transformers"}
# Seconds that a cell waits at its start, and who forks before it does, until an import of ours is done: with the
# embedded model 0.2 s at most, once in a kernel's life. `import torch` takes 3 to 4 s on two quiet cores.
CELL_WAIT_S = 0.5
FORK_WAIT_S = 5.0

bootstrap: Any = sys.modules["importlib._bootstrap"]
Module = Any  # what stands in sys.modules is a ModuleType, or whatever a module has put there in its place


class OwnImports:
    """Used with `with`, on any thread, nested too; never around code of the user's."""

    def __init__(self) -> None:
        self._finder = _Finder(self)
        self._installed = 0
        self._plain: list[Any] = []  # sys.meta_path as it was
        self._trust = _Trust()
        self._depths: dict[int, int] = {}  # by thread: how many `with` it is in
        # Top-level names that our threads imported and that are in sys.modules; then those that are not.
        self._found: set[str] = set()
        self._isolated = _IsolatedModules()
        self._lock = threading.Lock()
        self._without_user_modules = 0  # how many want the user's modules out of the way
        self._aside: dict[str, Module] = {}  # the user's, for the moment not in sys.modules
        self._heavy = False
        self._cell_runs = False
        self._looked: object = None  # at what the user's files were last looked at
        self._unswept = (
            False  # whether our threads have imported anything that the last sweep did not see
        )
        self._environment = openblas.environment()

    # Our own threads

    @property
    def ours(self) -> bool:
        """Whether what this thread imports now is ours."""
        return threading.get_ident() in self._depths

    @property
    def path(self) -> list[str]:
        """Where our threads look for what they import."""
        return self._trust.path

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._depths[thread] = self._depths.get(thread, 0) + 1

    def __exit__(self, *exc_info: object) -> None:
        thread = threading.get_ident()
        self._depths[thread] -= 1
        if not self._depths[thread]:
            del self._depths[thread]
        # Not each time: a sweep looks at folders, and beside a running cell a thread waits for the GIL after each look.
        if self._unswept:
            self.sweep()

    @contextmanager
    def without_user_modules(self) -> Iterator[None]:
        """The same, and modules of the user's that hide what is to be imported are not seen meanwhile.

        Who imports them on another thread gets them all the same. Not for long: they are not in sys.modules.
        """
        with self:
            with self._lock:
                self._without_user_modules += 1
                for top, _ in self._trust.hiding() if self._installed else ():
                    theirs = _family(top)
                    if not hasattr(theirs[top], "__path__"):  # what there is inside is ours
                        theirs = {top: theirs[top]}
                    self._aside |= theirs
                    for name in theirs:
                        sys.modules.pop(name, None)
            try:
                yield
            finally:
                with self._lock:
                    self._without_user_modules -= 1
                    if not self._without_user_modules:
                        self._bring_back()

    def _bring_back(self) -> None:
        aside, self._aside = self._aside, {}
        for top in [name for name in aside if "." not in name]:
            ours = {n: m for n, m in _family(top).items() if m is not aside.get(n)}
            self._isolated.modules |= ours
            self._found.discard(top)
            # Modules of ours are never without one another: other threads of ours may be using them.
            if not hasattr(aside[top], "__path__"):
                self._isolated.publish_inside(top)
                ours = {}
            sys.modules.update({n: m for n, m in aside.items() if _is_in(n, top)})
            for name in ours.keys() - aside.keys():
                sys.modules.pop(name, None)

    def to_blame(self, error: BaseException) -> tuple[str, str] | None:
        """The module of the user's that made an import of ours fail: its name and file."""
        hiding = dict(self._trust.hiding())
        reason: BaseException | None = error
        while hiding and reason is not None:
            names = [reason.name] if isinstance(reason, (ImportError, AttributeError)) else []
            if isinstance(reason, AttributeError) and isinstance(reason.obj, ModuleType):
                names = [reason.obj.__name__]
            for name in names:
                top = str(name).partition(".")[0]
                if top in hiding:
                    return top, hiding[top]
            reason = reason.__cause__ or reason.__context__
        return None

    # Joining the kernel, and leaving it

    def install(self) -> None:
        """From now on the imports are kept apart; once more for each further shell in this process."""
        self._installed += 1
        if self._installed == 1:
            self._plain = sys.meta_path
            sys.meta_path = _Finders(self, [self._finder, *self._plain])

    def uninstall(self) -> None:
        """Gives the modules that only we used to everybody, unless the user has another of that name."""
        self._installed -= 1
        if self._installed:
            return
        others = [finder for finder in list.copy(sys.meta_path) if finder is not self._finder]
        if isinstance(sys.meta_path, _Finders):
            self._plain[:] = others
            sys.meta_path = self._plain
        else:  # somebody has replaced the list
            sys.meta_path[:] = others
        self._isolated.publish_all()
        self._isolated.modules.clear()
        self._found.clear()
        self._heavy, self._looked = False, None

    def cell_begins(self) -> None:
        """Before code of the user's runs: what its files hide is out of its way."""
        end = monotonic() + CELL_WAIT_S
        while self.importing() and monotonic() < end:
            sleep(0.002)
        self.sweep()
        self._cell_runs = True

    def cell_ended(self) -> None:
        """What was in sys.modules while the user's code ran may be in use there: it stays."""
        self._cell_runs = False
        if not self._heavy:
            self._found &= sys.stdlib_module_names

    # Modules

    def sweep(self) -> None:
        """Takes what our threads have imported out of sys.modules, as far as it is to be kept apart."""
        if not self._installed or not self._found:
            return
        self._unswept = False
        if not self._heavy and not HEAVY_PACKAGES.isdisjoint(self._found):
            self._heavy = True
            self._found |= self._isolated.publish_all()
        # Never under the hands of who imports: a package that is taken away then would make that fail.
        quiet = not self._cell_runs or threading.current_thread() is threading.main_thread()
        if not self._heavy and quiet:
            if self.importing():
                self._unswept = True
            else:
                for top in list(self._found):
                    if top not in sys.stdlib_module_names:
                        self._isolate(top)
        self._isolate_what_is_hidden()

    def _isolate_what_is_hidden(self) -> None:
        folders = map(_changed_at, self._trust.users_entries())
        seen = (tuple(map(str, sys.path)), os.environ.get("PYTHONPATH"), *folders)
        if (seen, frozenset(self._found)) == self._looked:
            return
        for top in list(self._found):
            module = sys.modules.get(top)
            if module is None or _is_hidden(top, module):
                self._isolate(top)
        self._looked = (seen, frozenset(self._found))

    def _isolate(self, top: str) -> None:
        if self._isolated.take(top):
            self._found.discard(top)
        else:
            self._unswept = True

    # Finding

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """The spec for an import on a thread of ours."""
        if name in self._isolated.modules:
            return _spec_of_isolated(self, name, self._isolated.modules)
        parent = name.rpartition(".")[0]
        spec = self._search(name, self._of_parent(parent, path) if parent else None)
        if spec is None and not isinstance(sys.meta_path, _Finders):
            # Somebody has replaced the list, and the other finders are asked next.
            theirs = PathFinder.find_spec(name, path)
            if theirs is not None and theirs.loader is not None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if spec is not None and not parent and name != PACKAGE:
            self._found.add(name)
            self._unswept = True
            if name not in sys.stdlib_module_names:
                self._isolated.filters_before[name] = list(filters())
            if name == "numpy":
                self._environment = openblas.environment()
        return spec

    def _search(self, name: str, path: list[str] | None) -> ModuleSpec | None:
        for finder in list.copy(sys.meta_path):
            if finder is PathFinder:
                spec = PathFinder.find_spec(name, self._trust.path if path is None else path)
                if spec is not None:
                    return spec
            elif finder is not self._finder and self._trust.is_ours(finder):
                spec = finder.find_spec(name, path, None)
                if spec is not None and (path is not None or not self._trust.is_users(spec)):
                    return spec
        return None

    def _of_parent(self, parent: str, path: Sequence[str] | None) -> list[str]:
        """Where to look for what is in a package.

        A namespace package has a part in each folder of that name on sys.path, those of the user's among them.
        """
        entries = list(path or ())
        name = parent.partition(".")[0]
        if name == PACKAGE:  # wherever it runs from: a checkout may well be the current directory
            return entries
        top = _spec(self._isolated.modules.get(name, sys.modules.get(name)))
        if top is not None and self._trust.is_users(top):
            return []
        spec = _spec(sys.modules.get(parent))
        if spec is not None and spec.has_location:
            return entries
        depth = parent.count(".") + 1
        return [entry for entry in entries if self._trust.has(_above(entry, depth))]

    def hand_out(self, name: str) -> ModuleSpec | None:
        """The spec for an import by the user's code, where it is ours to say; None where it is not."""
        if name in self._aside:
            return _spec_of_isolated(self, name, self._aside)
        if name not in self._isolated.modules or "." in name:
            return None
        for finder in list.copy(sys.meta_path):
            if finder is self._finder or not hasattr(finder, "find_spec"):
                continue
            theirs: ModuleSpec | None = finder.find_spec(name, None, None)
            if theirs is None:
                continue
            if _same(theirs, self._isolated.modules[name]):
                return _spec_of_isolated(self, name, self._isolated.modules)
            if theirs.submodule_search_locations is None:
                self._isolated.publish_inside(name)
            return theirs
        return None

    def handed_out(self, name: str) -> None:
        """Called when an isolated module is being imported."""
        if name in self._aside:
            return
        self._isolated.publish(name)
        if self.ours:
            self._found.add(name.partition(".")[0])
            self._unswept = True
        elif name == "numpy" and self._environment != openblas.environment():
            self._environment = openblas.environment()
            with self:
                openblas.follow_environment(os.path.dirname(sys.modules[name].__file__ or ""))

    # Forks

    def importing(self) -> bool:
        """Whether a thread of ours, other than this one, is in the middle of an import."""
        here = threading.get_ident()
        if not self._depths.keys() - {here}:
            return False
        return any(owner in self._depths and owner != here for owner in _owners().values())

    def before_fork(self) -> None:
        """Waits until no import of ours is on its way.

        The lock of a module stays locked in the child for ever if another thread holds it at the fork.
        """
        if not self._depths.keys() - {threading.get_ident()}:
            return
        end = monotonic() + FORK_WAIT_S
        while True:
            # Who has just got the GIL keeps it for 5 ms, and the fork comes sooner.
            sleep(0.0005)
            if not self.importing() or monotonic() > end:
                return

    def after_fork_in_child(self) -> None:
        """None of our threads is here. What one of them was importing, if it took too long, is imported anew."""
        dead, self._depths = self._depths, {}
        dead.pop(threading.get_ident(), None)
        for name, owner in _owners().items():
            if owner in dead:
                bootstrap._module_locks.pop(name, None)
                if getattr(_spec(sys.modules.get(name)), "_initializing", False):
                    del sys.modules[name]
        self._lock, self._without_user_modules = threading.Lock(), 0
        self._bring_back()


class _IsolatedModules:
    """Modules of ours that are not in `sys.modules`, and the filters of warnings that they have set."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.filters_before: dict[str, list[Any]] = {}  # those that there were before an import
        self._filters: dict[str, list[Any]] = {}

    def take(self, top: str) -> bool:
        """Takes a module and its submodules out of sys.modules; False while another thread of ours imports them."""
        family = _family(top)
        if top in self.modules and top in family and family[top] is not self.modules[top]:
            return True  # the user's has come there since
        if any(getattr(_spec(module), "_initializing", False) for module in family.values()):
            return False
        self.modules |= family
        for name in family:
            sys.modules.pop(name, None)
        before = self.filters_before.get(top, [])
        for one in [f for f in filters() if _is_about(f, top) and f not in before]:
            filters().remove(one)
            self._filters.setdefault(top, []).append(one)
        return True

    def publish(self, top: str) -> None:
        """Puts a module and its submodules into sys.modules."""
        for name in [n for n in list(self.modules) if _is_in(n, top)]:
            sys.modules.setdefault(name, self.modules.pop(name))
        filters()[:0] = self._filters.pop(top, [])

    def publish_inside(self, top: str) -> None:
        """Lets modules of a package of ours find one another while a file of the user's has the package's name.

        The user's has nothing inside that could be meant.
        """
        modules = list(self.modules.items())
        sys.modules.update({n: m for n, m in modules if n != top and _is_in(n, top)})

    def publish_all(self) -> set[str]:
        """Puts what the user has no other of into sys.modules; returns the names."""
        published = set()
        for top in [name for name in list(self.modules) if "." not in name]:
            if top not in sys.modules and not _is_hidden(top, self.modules[top]):
                self.publish(top)
                published.add(top)
        return published


def _is_hidden(top: str, module: Module) -> bool:
    """Whether who imports this name gets a file of the user's, and not this module."""
    theirs = PathFinder.find_spec(top)
    return theirs is not None and theirs.loader is not None and not _same(theirs, module)


def _spec_of_isolated(imports: OwnImports, name: str, modules: dict[str, Module]) -> ModuleSpec:
    module = modules[name]
    own = _spec(module)
    spec = ModuleSpec(
        name,
        cast(Any, _IsolatedLoader(imports, name, module)),
        origin=None if own is None else own.origin,
        is_package=hasattr(module, "__path__"),
    )
    if hasattr(module, "__path__"):
        spec.submodule_search_locations = list(module.__path__)
    if own is not None:
        spec.has_location, spec.cached = own.has_location, own.cached
    return spec


class _Finders(list[Any]):
    """`sys.meta_path`, of which our threads see one finder: where that one finds nothing, nobody else is asked.

    To raise ModuleNotFoundError instead would not do: transformers asks importlib.util.find_spec for packages that
    need not be there, and expects None.
    """

    def __init__(self, imports: OwnImports, finders: list[Any]) -> None:
        super().__init__(finders)
        self._imports = imports

    def __iter__(self) -> Iterator[Any]:
        return iter((self._imports._finder,)) if self._imports.ours else super().__iter__()


class _Finder:
    """The first on `sys.meta_path`."""

    def __init__(self, imports: OwnImports) -> None:
        self._imports = imports

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        imports = self._imports
        return imports.find(name, path) if imports.ours else imports.hand_out(name)

    def find_distributions(self, *arguments: Any) -> Any:
        """For importlib.metadata, which asks the finders on `sys.meta_path`; others than ours are there for others."""
        return PathFinder.find_distributions(*arguments) if self._imports.ours else ()


class _IsolatedLoader:
    """Loads a module that is loaded: hands out what there is, and all that belongs to it."""

    def __init__(self, imports: OwnImports, name: str, module: Module) -> None:
        self._imports = imports
        self._name = name
        self._module = module
        self._own = (getattr(module, "__spec__", None), getattr(module, "__loader__", None))

    def create_module(self, spec: ModuleSpec) -> Module:
        return self._module

    def exec_module(self, module: Module) -> None:
        module.__spec__ = self._own[0]  # the import system has put that of `_spec_of_kept` there
        self._imports.handed_out(self._name)

    def __getattr__(self, name: str) -> Any:
        """Who asks what is installed gets the answers of the module's own loader."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own[1], name)


class _Trust:
    """Which folders are the user's, and which are not."""

    def __init__(self) -> None:
        self._started_in = current_folder()
        self._known: object = None
        self._path: list[str] = []
        self._folders: set[str] = set()
        self._users: set[str] = set()
        self._finders: dict[int, tuple[object, bool]] = {}
        self._nothing_hides: object = None  # in this state of sys.modules and sys.path
        self._real = cache(real)

    @property
    def path(self) -> list[str]:
        """Where to look for what is installed."""
        self._look()
        return self._path

    def has(self, folder: str) -> bool:
        """Whether packages are installed in this folder."""
        self._look()
        return self._real(folder) in self._folders

    def holds(self, spec: ModuleSpec) -> bool:
        """Whether this was found where packages are installed."""
        return any(self.has(folder) for folder in folders_of(spec))

    def is_users(self, spec: ModuleSpec) -> bool:
        """Whether this was found in a folder of the user's."""
        self._look()
        folders = {self._real(folder) for folder in folders_of(spec)}
        return not folders.isdisjoint(self._users - self._folders)

    def users_entries(self) -> list[str]:
        """What of sys.path is the user's; an empty entry is the current directory."""
        self._look()
        entries = [entry for entry in sys.path if isinstance(entry, str)]
        return [entry for entry in entries if self._real(entry or os.curdir) not in self._folders]

    def hiding(self) -> list[tuple[str, str]]:
        """Modules of the user's that are loaded and hide what is installed: their names and files."""
        state = (len(sys.modules), list(sys.path))
        if state == self._nothing_hides:
            return []
        found = []
        for name, module in list(sys.modules.items()):
            spec = None if "." in name else _spec(module)
            if spec is None or spec.origin is None or not spec.has_location:
                continue
            if self.holds(spec):
                continue
            installed = PathFinder.find_spec(name, self.path)
            if installed is not None and installed.loader is not None:
                found.append((name, spec.origin))
        if not found:
            self._nothing_hides = state
        return found

    def is_ours(self, finder: Any) -> bool:
        """Whether a finder comes with Python or with an installed package."""
        self._look()
        known = self._finders.get(id(finder))
        if known is None or known[0] is not finder:
            known = self._finders[id(finder)] = (finder, self._comes_installed(finder))
        return known[1]

    def _comes_installed(self, finder: Any) -> bool:
        kind = finder if isinstance(finder, type) else type(finder)
        top = str(getattr(kind, "__module__", "")).partition(".")[0]
        if top == "__main__" or not hasattr(finder, "find_spec"):
            return False
        if top in ("_frozen_importlib", "_frozen_importlib_external"):
            return True
        spec = _spec(sys.modules.get(top))
        return spec is not None and bool(folders_of(spec)) and not self.is_users(spec)

    def _look(self) -> None:
        """Works all this out anew if anything that it depends on is another."""
        # Jupyter's server puts the notebook's path there.
        notebook = os.environ.get("JPY_SESSION_NAME")
        entries = [entry for entry in sys.path if isinstance(entry, str)]
        known = (_here(), notebook, os.environ.get("PYTHONPATH"), entries)
        if known == self._known:
            return
        self._real.cache_clear()
        self._finders.clear()
        folders = (self._started_in, current_folder(), notebook and real(os.path.dirname(notebook)))
        users = {folder for folder in folders if folder}
        self._path = trusted_path(users)
        self._folders = {self._real(entry) for entry in self._path}
        self._users = users | {self._real(entry or os.curdir) for entry in entries}
        self._known = known


def _spec(module: Module) -> ModuleSpec | None:
    if not isinstance(module, ModuleType):  # what else may be there may run code when it is asked
        return None
    spec = module.__dict__.get("__spec__")
    return spec if isinstance(spec, ModuleSpec) else None


def _family(top: str) -> dict[str, Module]:
    """What of sys.modules belongs to this name."""
    return {n: m for n, m in list(sys.modules.items()) if _is_in(n, top)}


def _is_in(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}.")


def _same(found: ModuleSpec, module: Module) -> bool:
    """Whether it is this module that was found."""
    spec = _spec(module)
    if spec is None:
        return False
    if found.origin is None or spec.origin is None or not spec.has_location:
        return found.origin == spec.origin
    return real(found.origin) == real(spec.origin)


def _is_about(one: Any, top: str) -> bool:
    """Whether a filter of warnings is about those of this package."""
    _, message, category, _, _ = one
    text = getattr(message, "pattern", message) or ""
    return str(category.__module__).partition(".")[0] == top or text.startswith(f"{top}.")


def _above(entry: str, levels: int) -> str:
    for _ in range(levels):
        entry = os.path.dirname(entry)
    return entry


def _here() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _changed_at(entry: str) -> tuple[str, int]:
    try:
        path = os.path.abspath(entry)
        return path, os.stat(path).st_mtime_ns
    except OSError:
        return entry, 0


def _owners() -> dict[str, int]:
    """The modules that are being imported, and the threads that do so."""
    locks: dict[str, Any] = getattr(bootstrap, "_module_locks", {})
    owners = {name: getattr(lock(), "owner", None) for name, lock in list(locks.items())}
    return {name: owner for name, owner in owners.items() if owner is not None}


own_imports = OwnImports()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=own_imports.before_fork, after_in_child=own_imports.after_fork_in_child
    )
