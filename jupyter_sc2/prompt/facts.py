"""What is certain about live objects: which attributes, columns, keys and keyword arguments they have, and no others.

A completion is held against this, so doubt counts as not knowing: where a class looks attributes up by itself, a
function takes any keyword, or an attribute is computed, the answer is None. As in variables.py nothing of the user's
runs: classes are read through `type`, modules through their dictionaries.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jupyter_sc2.prompt.importable import members_of, modules_in
from jupyter_sc2.prompt.inspection import (
    attribute_of,
    inherited,
    is_a,
    module_of,
    module_state,
    mro_of,
    name_of,
    root_of,
    state_of,
)
from jupyter_sc2.prompt.keywords import keywords, library_of

# A name and what is taken from it, one after another: ("df", "groupby"), ("df", "[age]") for df["age"]. The keyword
# `import`, which is no name, stands for all that can be imported: ("import", "os", "path").
Path = tuple[str, ...]

MOST = 5_000  # columns, keys or attributes of one object
# Modules and classes that look attributes up by themselves, and are known to find no others than these.
COMPLETE_MODULES = frozenset(
    {"numpy", "scipy", "pandas", "polars", "sklearn", "matplotlib", "seaborn", "statsmodels"}
)
FINDS_COLUMNS = "pandas.core.generic.NDFrame"
FINDS_MODULES = "torch.nn.modules.module.Module"
PLAIN_LIBRARIES = sys.stdlib_module_names | {"numpy", "torch", "pandas", "polars", "pyarrow"}
FRAMES = frozenset({"pandas.DataFrame", "pandas.core.frame.DataFrame"})
SERIES = frozenset({"pandas.Series", "pandas.core.series.Series"})
POLARS = frozenset({"polars.dataframe.frame.DataFrame"})


@dataclass(frozen=True)
class Known:
    """What is certain of one value; None where it cannot be told."""

    attributes: frozenset[str] | None = None
    columns: tuple[str, ...] | None = None  # of a table; the keys of a dict
    parameters: tuple[str, ...] | None = None  # the keywords that it can be called with
    passed_on: frozenset[str] = frozenset()  # further ones that it may pass on to others
    library: str = ""  # of a function or class: the package that it comes from
    levels: tuple[str, ...] = ()  # of a table's index: some functions take their names as well
    modules: frozenset[str] | None = None  # of what can be imported: the modules in it
    grows: bool = False  # code that uses it may add attributes or keys


@dataclass(frozen=True)
class Facts:
    """What a kernel knows about the names and paths that some code uses."""

    names: frozenset[str] = frozenset()  # all that the namespace has; none if that is not known
    known: Mapping[Path, Known] = field(default_factory=dict)
    pending: tuple[str, ...] = ()  # the other cells that were not run as they stand


def gather(namespace: Mapping[str, Any], paths: Iterable[Path]) -> dict[Path, Known]:
    """What is certain of these paths; those that lead nowhere certain are left out."""
    found: dict[Path, Known] = {}
    for path in paths:
        try:
            if path[0] == "import":
                found[path] = _importable(path[1:])
                continue
            value = _follow(namespace, path)
            if value is not _UNKNOWN:
                found[path] = _known(value)
        except Exception:  # a library's own object in a state it does not expect
            continue
    return found


def _importable(module: Path) -> Known:
    loaded = sys.modules.get(".".join(module))
    is_module = type(loaded) is types.ModuleType
    return Known(
        attributes=_attributes(loaded) if is_module else members_of(module),
        modules=modules_in(module),
    )


_UNKNOWN = object()


@dataclass(frozen=True)
class _Instance:
    """Some instance of a class, such as the column of a frame, that need not be made to be known."""

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
        return _column(value, step[1:-1]) if _is(cls, FRAMES) else _UNKNOWN
    if is_a(value, _Instance):
        return _member(value.cls, step)
    if cls is types.ModuleType:
        return module_state(value).get(step, _UNKNOWN)
    if type in mro_of(cls):
        return _member(value, step)
    if _is(cls, FRAMES) and step in (_columns(value) or ()):
        return _column(value, step)
    if step in state_of(value):
        return state_of(value)[step] if _attributes(value) is not None else _UNKNOWN
    return _member(cls, step)


def _member(cls: type, step: str) -> Any:
    """A method, or a class in a class; what else is found there may be computed."""
    found = inherited(cls, step)
    if is_a(found, staticmethod) or is_a(found, classmethod):
        found = found.__func__
    return found if is_a(found, types.FunctionType) or is_a(found, type) else _UNKNOWN


def _known(value: Any) -> Known:
    if is_a(value, _Instance):
        return Known(attributes=value.attributes)
    cls = type(value)
    columns = _columns(value)
    plain_dict = cls is dict
    parameters, passed_on = keywords(value)
    return Known(
        attributes=_attributes(value),
        columns=columns,
        parameters=parameters,
        passed_on=passed_on,
        library=library_of(value),
        levels=_levels(value),
        grows=plain_dict or (cls is not types.ModuleType and bool(_own_state(cls))),
    )


def _is(cls: type, names: frozenset[str]) -> bool:
    return any(f"{module_of(base)}.{name_of(base)}" in names for base in mro_of(cls))


def _own_state(cls: type) -> bool:
    """Whether instances of a class that is not a table's or a module's keep attributes in a dictionary."""
    if _is(cls, FRAMES | SERIES | POLARS):
        return False
    return any(attribute_of(base, "__dict__") is not None for base in mro_of(cls))


# Attributes


def _attributes(value: Any) -> frozenset[str] | None:
    cls = type(value)
    if cls is types.ModuleType:
        return _module_names(value)
    names: set[str] = set()
    if type in mro_of(cls):  # a class
        if _finds_attributes(cls):
            return None
        names.update(*map(_names_in, mro_of(value)), *map(_names_in, mro_of(cls)))
        return frozenset(names)
    finder = _finds_attributes(cls)
    if finder == FINDS_COLUMNS:
        found = _columns(value) if _is(cls, FRAMES) else _series_labels(value)
        if found is None:
            return None
        names.update(found)
    elif finder == FINDS_MODULES:
        for kind in ("_parameters", "_modules", "_buffers"):
            names.update(islice(state_of(value).get(kind) or (), MOST))
    elif finder:
        return None
    names.update(*map(_names_in, mro_of(cls)))
    names.update(name for name in islice(state_of(value), MOST) if type(name) is str)
    return frozenset(names)


def _finds_attributes(cls: type) -> str:
    """The class that looks attributes up by itself, or "" where none does."""
    for base in mro_of(cls):
        if base in (object, type, types.ModuleType, super):
            continue
        found = attribute_of(base, "__getattribute__")
        # Many classes written in C name the usual function as theirs.
        usual = is_a(found, types.WrapperDescriptorType) and root_of(base) in PLAIN_LIBRARIES
        if attribute_of(base, "__getattr__") is not None or not (found is None or usual):
            return f"{module_of(base)}.{name_of(base)}"
    return ""


def _names_in(cls: type) -> list[str]:
    return list(type.__dict__["__dict__"].__get__(cls))


def _module_names(module: types.ModuleType) -> frozenset[str] | None:
    state = module_state(module)
    name = state.get("__name__")
    if type(name) is not str:
        return None
    if "__getattr__" in state and name.partition(".")[0] not in COMPLETE_MODULES:
        return None
    names = set(state)
    declared: Any = state.get("__all__")
    if type(declared) in (list, tuple):
        names.update(islice(declared, MOST))
    # Modules in a package count whether or not they are imported yet: the code may go on to do that.
    names.update(modules_in(tuple(name.split("."))) or ())
    return frozenset(n for n in names if type(n) is str)


# Columns


def _columns(value: Any) -> tuple[str, ...] | None:
    """All columns of a table, all keys of a dict; None if not all of them are names."""
    cls = type(value)
    if cls is dict:
        keys = list(islice(dict.keys(value), MOST + 1))
        if len(keys) > MOST or not all(type(key) is str for key in keys):
            return None
        return tuple(keys)
    if _is(cls, FRAMES):
        return _labels(state_of(value)["_mgr"].axes[0])
    if _is(cls, POLARS):
        return tuple(state_of(value)["_df"].columns()[:MOST])
    return None


def _levels(value: Any) -> tuple[str, ...]:
    if not _is(type(value), FRAMES):
        return ()
    index = state_of(value)["_mgr"].axes[1]
    names = [state_of(index).get("_name"), *(state_of(index).get("_names") or ())]
    return tuple(name for name in names if type(name) is str)


def _labels(index: Any) -> tuple[str, ...] | None:
    """The labels of a pandas index that are names; None if there are others, which code may mean by them."""
    if len(index) > MOST or name_of(type(index)) == "MultiIndex" or not _from_pandas(index):
        return None
    labels = list(index)
    return tuple(labels) if all(type(label) is str for label in labels) else None


def _column(frame: Any, name: str) -> Any:
    """The column of a frame, as some series; unless the frame has several columns of that name."""
    columns = _columns(frame)
    if columns is None or columns.count(name) != 1:
        return _UNKNOWN
    pandas = sys.modules.get("pandas")
    labels = _index_labels(state_of(frame)["_mgr"].axes[1])
    if pandas is None or labels is None:
        return _UNKNOWN
    names: set[str] = set(labels).union(*map(_names_in, mro_of(pandas.Series)))
    return _Instance(pandas.Series, frozenset(names))


def _series_labels(series: Any) -> tuple[str, ...] | None:
    return _index_labels(state_of(series)["_mgr"].axes[0])


def _index_labels(index: Any) -> tuple[str, ...] | None:
    """What an index adds to the attributes of a series: nothing if its labels are numbers or dates."""
    if not _from_pandas(index):
        return None
    numbered = name_of(type(index)) in (
        "RangeIndex",
        "DatetimeIndex",
        "PeriodIndex",
        "IntervalIndex",
    )
    return () if numbered or getattr(index.dtype, "kind", "O") in "iufbM" else _labels(index)


def _from_pandas(index: Any) -> bool:
    return root_of(type(index)) == "pandas"
