"""Reads objects past what their classes define in place of attributes: nothing runs that could be the user's code.

Types are identified by their method resolution order, and attributes are read through the descriptors in the
dictionaries of their classes. Two classes are never compared, because a metaclass may define `==` and `in`, and no name
is used that is not exactly a string: looking it up in a dictionary may compare it with a key of a user's class.
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
    """A set of classes for which something holds for good. Compares by identity: hashing may run a metaclass's code."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[type]] = {}

    def __contains__(self, cls: type) -> bool:
        reference = self._references.get(id(cls))
        return reference is not None and reference() is cls

    def add(self, cls: type) -> None:
        if len(self._references) > MAX_REMEMBERED_CLASSES:
            self._references.clear()
        self._references[id(cls)] = weakref.ref(cls)


MAX_REMEMBERED_CLASSES = 10_000
_genuine = _Classes()
_all_named = _Classes()  # keys other than strings can get into a class only when it is created


def mro_of(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return found


def is_one_of(cls: type, classes: Iterable[type]) -> bool:
    """`in` by identity, because a metaclass may define the comparison of classes."""
    return any(cls is one for one in classes)


def is_a(value: object, cls: type) -> bool:
    """`isinstance` without the object's own `__class__`."""
    return is_one_of(cls, mro_of(type(value)))


def is_exactly(value: object, *classes: type) -> bool:
    """Whether a value is of one of these classes, not of a subclass."""
    return is_one_of(type(value), classes)


def text_of(value: str) -> str:
    """The characters of a string, whatever a subclass defines."""
    return str.__str__(value)


def keys_of(names: Mapping[Any, Any]) -> list[Any]:
    """The keys of a dictionary at this moment, read with `dict`'s own method."""
    return list(dict.keys(names) if is_a(names, dict) else names)  # type: ignore[arg-type]


def all_named(names: Mapping[Any, Any]) -> bool:
    """Whether all keys are exactly strings, so that no other object can equal a name."""
    # Not a Python loop, because there may be a hundred thousand.
    return all(map(operator.is_, map(type, keys_of(names)), repeat(str)))


def plain(names: Mapping[Any, Any]) -> Mapping[str, Any]:
    """A mapping in which a name can be looked up safely: only the keys that are exactly strings."""
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
    """The package that a class claims to come from."""
    return module_of(cls).partition(".")[0]


def named(cls: type) -> str:
    """The name that a class gives itself: "module.Class"."""
    return f"{module_of(cls)}.{name_of(cls)}"


def genuine(cls: type, package: str = "") -> bool:
    """Whether a class is what it claims to be: its module has it under its name. A class can give itself any name.

    With `package`, also whether it comes from that package.
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
    """Whether a class claims to be another one, or to come from a module that is not loaded."""
    if genuine(cls):
        return False
    module: Any = sys.modules.get(module_of(cls))
    if not is_a(module, types.ModuleType):
        return True
    found = module_state(module).get(name_of(cls))
    return found is not None and found is not cls


def raw_namespace_of(cls: type) -> Mapping[Any, Any]:
    """The class's own dictionary, including keys that are not exactly strings, which no code can name."""
    namespace: Mapping[Any, Any] = type.__dict__["__dict__"].__get__(cls)
    return namespace


def attribute_of(cls: type, name: str) -> Any:
    """An entry of the class's own dictionary."""
    namespace = raw_namespace_of(cls)
    if cls not in _all_named:
        if not all_named(namespace):
            return plain(namespace).get(name)
        _all_named.add(cls)
    return namespace.get(name)


def inherited(cls: type, name: str) -> Any:
    """The entry in the dictionary of the first base class that has it; None if none does."""
    found = (attribute_of(base, name) for base in mro_of(cls))
    return next((made for made in found if made is not None), None)


def read(value: object, name: str, package: str) -> Any:
    """An attribute as the package's own class reads it, bypassing subclasses.

    Raises AttributeError if no class of the package has it.
    """
    for cls in mro_of(type(value)):
        found = attribute_of(cls, name)
        if found is not None and genuine(cls, package):
            return found.__get__(value, cls)
    raise AttributeError(name)


def state_of(value: object) -> Mapping[str, Any]:
    """The instance's dictionary, not a property named `__dict__`."""
    return plain(raw_state_of(value))


def raw_state_of(value: object) -> Mapping[Any, Any]:
    """The same, including keys that are not exactly strings, which no code can name."""
    for cls in mro_of(type(value)):
        found = attribute_of(cls, "__dict__")
        if is_exactly(found, types.GetSetDescriptorType, types.MemberDescriptorType):
            if found.__objclass__ is threading.local:
                break  # reading it in another thread creates it there, by the user's own __init__
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
    """An imported module, by a name that comes from the user's code; else None."""
    return plain(sys.modules).get(module)
