"""Reads objects past what their classes put in the place of attributes: nothing that could be the user's code runs.

Types are told by their method resolution order, and what is read of an object is read through the descriptors that
stand in its classes' dictionaries. Two classes are never compared, as a metaclass may say what `==` and `in` do, and
no name is used that is not exactly a string: to look one up in a dictionary may compare it with a key of the user's.
"""

from __future__ import annotations

import operator
import sys
import threading
import types
import weakref
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any


class _Classes:
    """Classes of which something holds for good. Told apart by identity: to hash one may run its metaclass's code."""

    def __init__(self) -> None:
        self._kept: dict[int, weakref.ref[type]] = {}

    def __contains__(self, cls: type) -> bool:
        kept = self._kept.get(id(cls))
        return kept is not None and kept() is cls

    def add(self, cls: type) -> None:
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        self._kept[id(cls)] = weakref.ref(cls)


MOST_KEPT = 10_000  # classes
_genuine = _Classes()
_all_named = _Classes()  # keys that are no strings get into a class only when it is made


def mro_of(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return found


def is_one_of(cls: type, classes: Iterable[type]) -> bool:
    """`in` without comparing classes, which a metaclass may answer."""
    return any(cls is one for one in classes)


def is_a(value: object, cls: type) -> bool:
    """`isinstance` without asking the object what its class is."""
    return is_one_of(cls, mro_of(type(value)))


def is_exactly(value: object, *classes: type) -> bool:
    """Whether a value is of one of these classes, and of none derived from them."""
    return is_one_of(type(value), classes)


def text_of(value: str) -> str:
    """The characters of a string, whatever a subclass says that they are."""
    return str.__str__(value)


def keys_of(names: Mapping[Any, Any]) -> list[Any]:
    """The keys of a dictionary at this moment, read as a dictionary."""
    return list(dict.keys(names) if is_a(names, dict) else names)  # type: ignore[arg-type]


def all_named(names: Mapping[Any, Any]) -> bool:
    """Whether all keys are exactly strings, so that no other can answer to a name."""
    # No loop of Python's, as there may be a hundred thousand.
    return all(map(operator.is_, map(type, keys_of(names)), repeat(str)))


def plain(names: Mapping[Any, Any]) -> Mapping[str, Any]:
    """A dictionary in which a name can be looked up: only of keys that are exactly strings, read as a dictionary."""
    if is_exactly(names, dict, types.MappingProxyType) and all_named(names):
        return names
    items: Any = dict.items(names) if is_a(names, dict) else names.items()  # type: ignore[arg-type]
    return {key: value for key, value in list(items) if type(key) is str}


def name_of(cls: type) -> str:
    return text_of(type.__dict__["__name__"].__get__(cls))


def module_of(cls: type) -> str:
    found = type.__dict__["__module__"].__get__(cls)
    return found if type(found) is str else ""


def root_of(cls: type) -> str:
    """The package that a class says it comes from."""
    return module_of(cls).partition(".")[0]


def named(cls: type) -> str:
    """The class as it names itself: "module.Class"."""
    return f"{module_of(cls)}.{name_of(cls)}"


def genuine(cls: type, package: str = "") -> bool:
    """Whether a class is what it says it is: its module has it under its name. A class can call itself anything.

    With `package`, also whether it comes from there.
    """
    if package and root_of(cls) != package:
        return False
    if cls in _genuine:
        return True
    module: Any = sys.modules.get(module_of(cls))
    if not is_a(module, types.ModuleType) or module_state(module).get(name_of(cls)) is not cls:
        return False
    _genuine.add(cls)
    return True


def contradicted(cls: type) -> bool:
    """Whether a class calls itself what another one is, or says it comes from where nothing was loaded from."""
    if genuine(cls):
        return False
    module: Any = sys.modules.get(module_of(cls))
    if not is_a(module, types.ModuleType):
        return True
    found = module_state(module).get(name_of(cls))
    return found is not None and found is not cls


def raw_namespace_of(cls: type) -> Mapping[Any, Any]:
    """The class's own dictionary, with what no code can name: keys that are not exactly strings."""
    namespace: Mapping[Any, Any] = type.__dict__["__dict__"].__get__(cls)
    return namespace


def attribute_of(cls: type, name: str) -> Any:
    """What stands in the class's own dictionary."""
    namespace = raw_namespace_of(cls)
    if cls not in _all_named:
        if not all_named(namespace):
            return plain(namespace).get(name)
        _all_named.add(cls)
    return namespace.get(name)


def inherited(cls: type, name: str) -> Any:
    """What stands in the dictionary of the first class that has it; None if none does."""
    found = (attribute_of(base, name) for base in mro_of(cls))
    return next((made for made in found if made is not None), None)


def read(value: object, name: str, package: str) -> Any:
    """An attribute as the package's own class reads it, past those that subclasses put in its place.

    Raises AttributeError where no class of the package's has it.
    """
    for cls in mro_of(type(value)):
        found = attribute_of(cls, name)
        if found is not None and genuine(cls, package):
            return found.__get__(value, cls)
    raise AttributeError(name)


def state_of(value: object) -> Mapping[str, Any]:
    """The instance's dictionary, not a property of that name."""
    return plain(raw_state_of(value))


def raw_state_of(value: object) -> Mapping[Any, Any]:
    """The same with what no code can name: keys that are not exactly strings."""
    for cls in mro_of(type(value)):
        found = attribute_of(cls, "__dict__")
        if is_exactly(found, types.GetSetDescriptorType, types.MemberDescriptorType):
            if found.__objclass__ is threading.local:
                break  # to ask for it in another thread makes it there, by the user's own __init__
            state: Mapping[Any, Any] = found.__get__(value)
            return state if is_a(state, dict) else {}
    return {}


def module_state(module: types.ModuleType) -> Mapping[str, Any]:
    """A module's own dictionary."""
    return plain(raw_module_state(module))


def raw_module_state(module: types.ModuleType) -> Mapping[Any, Any]:
    descriptor: Any = vars(types.ModuleType)["__dict__"]
    state: Mapping[Any, Any] = descriptor.__get__(module)
    return state


def defined_in(cls: type, name: str) -> type | None:
    """The first class in the method resolution order that has it."""
    return next((base for base in mro_of(cls) if attribute_of(base, name) is not None), None)


def loaded(module: str) -> Any:
    """A module that was imported, by a name that is the user's; else None."""
    return plain(sys.modules).get(module)
