"""The keyword arguments that a function or a class takes, as far as they are certain."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jupyter_sc2.introspection.inspection import (
    attribute_of,
    inherited,
    is_a,
    is_exactly,
    is_one_of,
    module_of,
    module_state,
    mro_of,
    plain,
    raw_namespace_of,
    root_of,
    state_of,
    text_of,
)

# Packages whose decorators do not change a function's keywords.
FAITHFUL_DECORATORS = frozenset({"sklearn", "seaborn", "matplotlib"})
# Functions of these libraries that take any keyword pass them on to others of them, in the end to artists' setters.
PLOTTING = frozenset({"seaborn", "matplotlib"})
# The exceptions, which pass them on to a writer of images, a user's class, or settings.
ELSEWHERE = frozenset(
    {"savefig", "figure", "subplots", "subplot", "subplot_mosaic", "axes", "rc", "rc_context"}
)

UNKNOWN: tuple[tuple[str, ...] | None, frozenset[str]] = (None, frozenset())


def keywords(value: Any) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    """The keywords that a function or class names, and those that it may pass on; None if it may take any."""
    if _is_of_numpy(value):
        value = value._implementation
    if is_a(value, types.FunctionType):
        return _of_function(value)
    if not is_a(value, type):
        return UNKNOWN
    metaclasses = (base for base in mro_of(type(value)) if not is_one_of(base, (type, object)))
    if any(attribute_of(base, "__call__") is not None for base in metaclasses):
        return UNKNOWN
    found = []
    for name in ("__init__", "__new__"):
        made = inherited(value, name)
        if type(made) is staticmethod:
            made = made.__func__
        if is_a(made, types.FunctionType):
            found.append(_of_function(made))
        elif made is not object.__dict__[name]:
            return UNKNOWN
    # If there are both, `__new__` may create an object of another class, and `__init__` is not called.
    return found[0] if len(found) == 1 else UNKNOWN


def _is_of_numpy(value: Any) -> bool:
    """Whether it is one of numpy's array functions, which keep their implementation."""
    numpy: Any = sys.modules.get("numpy")
    kind = type(module_state(numpy).get("sum")) if is_a(numpy, types.ModuleType) else None
    return kind is not types.FunctionType and type(value) is kind


def library_of(value: Any) -> str:
    """The package that a function or class comes from, else ""."""
    if is_a(value, types.FunctionType):
        module = value.__module__
        return module.partition(".")[0] if type(module) is str else ""
    return root_of(value) if is_a(value, type) else ""


def _of_function(
    function: types.FunctionType,
) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    inner = _undecorated(function)
    if inner is None:
        return UNKNOWN
    code = inner.__code__
    if not code.co_flags & 8:  # CO_VARKEYWORDS
        return _named(code), frozenset()
    # A function of a module, or a method of a plot's axes; not a constructor.
    name = text_of(function.__name__)
    plots = text_of(function.__qualname__) in (name, f"Axes.{name}")
    if plots and library_of(inner) in PLOTTING and text_of(inner.__name__) not in ELSEWHERE:
        loaded = (name for name in plain(sys.modules) if name.partition(".")[0] in PLOTTING)
        return _named(code), _vocabulary(frozenset(loaded))
    return UNKNOWN


def _undecorated(function: types.FunctionType) -> types.FunctionType | None:
    for _ in range(10):
        inner = state_of(function).get("__wrapped__")
        if inner is None:
            break
        if library_of(function) not in FAITHFUL_DECORATORS or not is_a(inner, types.FunctionType):
            return None
        function = inner
    return function


def _named(code: types.CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_varnames[code.co_posonlyargcount : count]


@lru_cache(maxsize=1)
def _vocabulary(modules: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*map(_words_of, modules))


@lru_cache(maxsize=1024)
def _words_of(module: str) -> frozenset[str]:
    """The names in a module's functions and methods: parameters, string constants, and what setters set."""
    found = sys.modules.get(module)
    if type(found) is not types.ModuleType:
        return frozenset()
    words: set[str] = set()
    for name, function in _functions(found):
        inner = _undecorated(function)
        if inner is not None:
            words.update(_named(inner.__code__), _strings(inner.__code__.co_consts))
        if name.startswith("set_"):
            words.add(name[4:])
    return frozenset(words)


def _functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    state = module_state(module)
    members = list(state.items())
    own = state.get("__name__")
    for value in list(state.values()):
        if is_a(value, type) and type(own) is str and module_of(value) == own:
            members += plain(raw_namespace_of(value)).items()
    for name, value in members:
        if is_a(value, types.FunctionType):
            yield name, value


def _strings(constants: tuple[Any, ...]) -> Iterator[str]:
    for constant in constants:
        if type(constant) is str and constant.isidentifier():
            yield constant
        elif is_exactly(constant, tuple, frozenset):
            yield from _strings(tuple(constant))
