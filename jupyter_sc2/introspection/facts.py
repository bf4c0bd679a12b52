"""What is certain about live objects: which attributes, columns, keys and keyword arguments they have, and no others.

Suggestions are checked against this, so anything doubtful counts as unknown: if a class looks attributes up itself, a
function takes any keyword, or an attribute is computed, the answer is None. As in variables.py none of the user's code
runs: classes are read through `type`, modules through their dictionaries.
"""

from __future__ import annotations

import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_sc2.introspection.importable import members_of, modules_in
from jupyter_sc2.introspection.inspection import (
    all_named,
    attribute_of,
    genuine,
    inherited,
    is_a,
    is_exactly,
    is_one_of,
    keys_of,
    loaded,
    module_state,
    mro_of,
    named,
    raw_module_state,
    raw_namespace_of,
    raw_state_of,
    root_of,
    state_of,
    text_of,
)
from jupyter_sc2.introspection.keywords import keywords, library_of
from jupyter_sc2.introspection.tables import (
    ARROW,
    DASK,
    DATA_ARRAYS,
    DATASETS,
    FRAMES,
    POLARS,
    SERIES,
    columns_of,
    is_kind,
    is_numbered,
    labels,
    manager_of,
)

# A name and the attributes or keys taken from it, one after another: ("df", "groupby"), ("df", "[age]") for df["age"].
# The keyword `import`, which cannot be a name, starts the path of a module: ("import", "os", "path").
Path = tuple[str, ...]

MAX_NAMES = 5_000  # columns, keys or attributes of one object
# Modules and classes that look attributes up themselves, and are known to find no others.
COMPLETE_MODULES = frozenset(
    {"numpy", "scipy", "pandas", "polars", "sklearn", "matplotlib", "seaborn", "statsmodels"}
)
FINDS_COLUMNS = "pandas.core.generic.NDFrame"
FINDS_MODULES = "torch.nn.modules.module.Module"
PLAIN_LIBRARIES = sys.stdlib_module_names | {"numpy", "torch", "pandas", "polars", "pyarrow"}
# Classes written in C that have further attributes, or those of another object.
FORWARDING = (
    *(types.MethodType, types.GenericAlias, types.UnionType, super, threading.local),
    *(weakref.ProxyType, weakref.CallableProxyType),
)
# Of these methods a class has one at least, if its instances have elements.
ELEMENTS = ("__iter__", "__getitem__", "__len__")
FORWARDING_BY_NAME = frozenset({"builtins.instancemethod", "decimal.Context", "numpy.object_"})


@dataclass(frozen=True)
class Known:
    """What is certain about one value; None where it is not known."""

    attributes: frozenset[str] | None = None
    # Of a table; the keys of a dict; the labels of a series.
    columns: tuple[str, ...] | None = None
    # Whether a column is one element, as that of a series.
    elements: bool = False
    # Whether it has no elements that could be taken one after another, as a number or a function.
    single: bool = False
    # Keyword arguments that it can be called with.
    parameters: tuple[str, ...] | None = None
    # Further keyword arguments that it may pass on to other functions.
    passed_on: frozenset[str] = frozenset()
    # Of a function or class: the package that it comes from.
    library: str = ""
    # Of a table's index: the names of its levels, which some functions accept as well.
    levels: tuple[str, ...] = ()
    # Of a package: the modules in it.
    modules: frozenset[str] | None = None
    # Whether "time.year" is a part of a column "time".
    parts: bool = False
    # Whether code that uses it may add attributes or keys.
    grows: bool = False


@dataclass(frozen=True)
class Facts:
    """What a kernel knows about the names and paths that a piece of code uses."""

    names: frozenset[str] = frozenset()  # all names of the namespace; empty if they are not known
    # Of some names those whose values have elements.
    collections: Callable[[Iterable[str]], frozenset[str]] = frozenset
    # The files that could be meant by the name of one; None where it exists, or that is not known.
    files: Callable[[str], frozenset[str] | None] = lambda name: None
    known: Mapping[Path, Known] = field(default_factory=dict)
    pending: tuple[str, ...] = ()  # the other cells that have not run in their current form


def gather(namespace: Mapping[str, Any], paths: Iterable[Path]) -> dict[Path, Known]:
    """What is certain about these paths, without those about which nothing is."""
    found: dict[Path, Known] = {}
    for path in paths:
        try:
            if path[0] == "import":
                found[path] = _importable(path[1:])
                continue
            value = _follow(namespace, path)
            if value is not _UNKNOWN:
                found[path] = _known(value)
        except Exception:  # an object in a state that its library does not expect
            continue
    return found


def _importable(module: Path) -> Known:
    found = loaded(".".join(module))
    attributes = members_of(module) if found is None else None
    if is_a(found, types.ModuleType):
        attributes = _attributes(found)
    return Known(attributes=attributes, modules=modules_in(module))


_UNKNOWN = object()


@dataclass(frozen=True)
class _Instance:
    """An instance of a class, such as the column of a frame, that need not exist to be known."""

    cls: type
    attributes: frozenset[str]


def _follow(namespace: Mapping[str, Any], path: Path) -> Any:
    try:
        value = namespace[path[0]]
    except KeyError:
        return _UNKNOWN
    for step in path[1:]:
        value = _step(value, step)
        if value is _UNKNOWN:
            break
    return value


def _step(value: Any, step: str) -> Any:
    cls = type(value)
    if step.startswith("["):
        return _column(value, step[1:-1]) if is_kind(cls, FRAMES) else _UNKNOWN
    if is_a(value, _Instance):
        return _member(value.cls, step)
    if cls is types.ModuleType:
        return module_state(value).get(step, _UNKNOWN)
    if _customizes_lookup(cls):
        return _UNKNOWN
    if is_a(value, type):
        return _member(value, step)
    state = state_of(value)
    made = inherited(cls, step)
    if made is None and is_kind(cls, FRAMES) and step in (_columns(value) or ()):
        return _column(value, step)
    if step in state and not _overrides(made):
        return state[step] if _attributes(value) is not None else _UNKNOWN
    return _UNKNOWN if step in state else _member(cls, step)


def _overrides(made: Any) -> bool:
    """Whether an attribute of a class, such as a property, takes precedence over the instance's own."""
    cls = type(made)
    return inherited(cls, "__set__") is not None or inherited(cls, "__delete__") is not None


def _member(cls: type, step: str) -> Any:
    """A method, or a class in a class; anything else found there may be computed."""
    found = inherited(cls, step)
    if is_exactly(found, staticmethod, classmethod):
        found = found.__func__
    return found if is_a(found, types.FunctionType) or is_a(found, type) else _UNKNOWN


def _known(value: Any) -> Known:
    if is_a(value, _Instance):
        return Known(attributes=value.attributes)
    cls = type(value)
    columns = _columns(value)
    parameters, passed_on = keywords(value)
    return Known(
        attributes=_attributes(value),
        columns=columns,
        elements=is_kind(cls, SERIES),
        single=has_elements(value) is False,
        parameters=parameters,
        passed_on=passed_on,
        library=library_of(value),
        levels=_levels(value),
        parts=is_kind(cls, DATASETS | DATA_ARRAYS),
        grows=cls is dict or (cls is not types.ModuleType and bool(_own_state(cls))),
    )


def collections(namespace: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """Of some names those whose values have elements that can be taken one after another."""
    return frozenset(name for name in names if has_elements(namespace.get(name)))


def has_elements(value: Any) -> bool | None:
    """Whether elements can be taken from a value one after another; None where its metaclass decides."""
    if is_a(value, type):
        return None
    return any(inherited(type(value), name) is not None for name in ELEMENTS)


def _own_state(cls: type) -> bool:
    """Whether instances of a class keep attributes in a dictionary; False for tables and arrays."""
    if is_kind(cls, FRAMES | SERIES | POLARS | ARROW | DASK | DATASETS | DATA_ARRAYS):
        return False
    return any(attribute_of(base, "__dict__") is not None for base in mro_of(cls))


# Attributes


def _attributes(value: Any) -> frozenset[str] | None:
    cls = type(value)
    finder = _finds_attributes(cls)
    if is_a(value, types.ModuleType):
        return None if finder else _module_names(value)
    if is_a(value, type):  # a class
        return None if finder else _names(*_namespaces(value), *_namespaces(cls))
    found: list[Mapping[Any, Any]] = [*_namespaces(cls), raw_state_of(value)]
    if finder == FINDS_COLUMNS:
        labelled = _columns(value) if is_kind(cls, FRAMES) else _series_labels(value)
        if labelled is None:
            return None
        found.append(dict.fromkeys(labelled))
    elif finder == FINDS_MODULES:
        state = state_of(value)
        found += [
            state[k] for k in ("_parameters", "_modules", "_buffers") if is_a(state.get(k), dict)
        ]
    elif finder:
        return None
    return _names(*found)


def _namespaces(cls: type) -> list[Mapping[Any, Any]]:
    return [raw_namespace_of(base) for base in mro_of(cls)]


def _names(*namespaces: Mapping[Any, Any]) -> frozenset[str] | None:
    """The names in all of these; None if there are keys other than strings, which may equal any name."""
    found: set[str] = set()
    for namespace in namespaces:
        keys = keys_of(namespace)
        if not all(type(key) is str for key in keys):
            return None
        found.update(keys)
    return frozenset(found)


def _finds_attributes(cls: type) -> str:
    """The base class that looks attributes up itself, or "" if none does."""
    for base in mro_of(cls):
        if is_one_of(base, (object, type, types.ModuleType)):
            continue
        if attribute_of(base, "__getattr__") is not None or _looks_up(base):
            return named(base) if genuine(base) else "unknown"
    return ""


def _customizes_lookup(cls: type) -> bool:
    """Whether reading an attribute of the class may give something other than its dictionary holds."""
    bases = (base for base in mro_of(cls) if not is_one_of(base, (object, type, types.ModuleType)))
    return any(map(_looks_up, bases))


def _looks_up(cls: type) -> bool:
    """Whether a class customizes attribute access."""
    if is_one_of(cls, FORWARDING) or named(cls) in FORWARDING_BY_NAME:
        return True
    found = attribute_of(cls, "__getattribute__")
    # Many classes written in C list the usual function as their own.
    usual = is_a(found, types.WrapperDescriptorType) and root_of(cls) in PLAIN_LIBRARIES
    return not (found is None or usual)


def _module_names(module: types.ModuleType) -> frozenset[str] | None:
    state = raw_module_state(module)
    name = state.get("__name__") if all_named(state) else None
    if type(name) is not str:
        return None
    complete = name.partition(".")[0] in COMPLETE_MODULES and sys.modules.get(name) is module
    if "__getattr__" in state and not complete:
        return None
    declared: Any = state.get("__all__")
    exported = declared if is_exactly(declared, list, tuple) else ()
    names = _names(state, *_namespaces(type(module)))
    # Modules in a package count whether or not they are imported yet: the code may do that next.
    modules = modules_in(tuple(name.split("."))) or frozenset()
    return names and names.union(modules, (text_of(one) for one in exported if is_a(one, str)))


# Columns


def _columns(value: Any) -> tuple[str, ...] | None:
    """All columns of a table, labels of a series, keys of a dict; None if not all of them are names."""
    if type(value) is not dict:
        return columns_of(value, MAX_NAMES)
    return tuple(value) if len(value) <= MAX_NAMES and all_named(value) else None


def _levels(value: Any) -> tuple[str, ...]:
    if not is_kind(type(value), FRAMES):
        return ()
    state = state_of(manager_of(value).axes[1])
    names = [state.get("_name"), *(state.get("_names") or ())]
    return tuple(name for name in names if type(name) is str)


def _column(frame: Any, name: str) -> Any:
    """The column of a frame, as an unspecified series; unknown if the frame has several columns of that name."""
    columns = _columns(frame)
    if columns is None or columns.count(name) != 1:
        return _UNKNOWN
    pandas = sys.modules.get("pandas")
    found = _index_labels(manager_of(frame).axes[1])
    if pandas is None or found is None:
        return _UNKNOWN
    names = _names(dict.fromkeys(found), *_namespaces(pandas.Series))
    return _UNKNOWN if names is None else _Instance(pandas.Series, names)


def _series_labels(series: Any) -> tuple[str, ...] | None:
    return _index_labels(manager_of(series).axes[0])


def _index_labels(index: Any) -> tuple[str, ...] | None:
    """The attributes that an index adds to a series: none if its labels are numbers or dates."""
    if is_numbered(index):
        return ()
    found = labels(index, MAX_NAMES + 1)
    if found is None or len(found) > MAX_NAMES or not all(type(label) is str for label in found):
        return None
    return tuple(found)
