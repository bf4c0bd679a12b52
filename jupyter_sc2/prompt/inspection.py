"""Reads objects past what their classes put in the place of attributes: nothing that could be the user's code runs.

Types are told by their method resolution order, and what is read of an object is read through the descriptors that
stand in its classes' dictionaries.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any


def mro_of(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return found


def is_a(value: object, cls: type) -> bool:
    """`isinstance` without asking the object what its class is."""
    return cls in mro_of(type(value))


def name_of(cls: type) -> str:
    return str(type.__dict__["__name__"].__get__(cls))


def module_of(cls: type) -> str:
    found = type.__dict__["__module__"].__get__(cls)
    return found if type(found) is str else ""


def root_of(cls: type) -> str:
    """The package that a class comes from."""
    return module_of(cls).partition(".")[0]


def attribute_of(cls: type, name: str) -> Any:
    """What stands in the class's own dictionary."""
    return type.__dict__["__dict__"].__get__(cls).get(name)


def inherited(cls: type, name: str) -> Any:
    """What stands in the dictionary of the first class that has it; None if none does."""
    found = (attribute_of(base, name) for base in mro_of(cls))
    return next((made for made in found if made is not None), None)


def state_of(value: object) -> Mapping[str, Any]:
    """The instance's dictionary, not a property of that name."""
    for cls in mro_of(type(value)):
        found = attribute_of(cls, "__dict__")
        if is_a(found, types.GetSetDescriptorType):
            state: Mapping[str, Any] = found.__get__(value)
            return state
    return {}


def module_state(module: types.ModuleType) -> dict[str, Any]:
    """A module's own dictionary."""
    read: Any = vars(types.ModuleType)["__dict__"]
    state: dict[str, Any] = read.__get__(module)
    return state
