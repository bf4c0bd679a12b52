"""Values that a field of JSON or of a file's header does not have, for tests that put each into each field."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 1.5, 10**30, 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf"), 1e308, -1e308),
    *("", "x", "1", "-1", "\x00\u202e", "x" * 100_000),
    *([], [None], ["x"], [[1]], [{}], [10**30], {}, {"a": 1}, {"a": {"a": []}}),
]


def variants(value: Any, odd_values: Sequence[Any] = ODD) -> Iterator[tuple[str, Any]]:
    """Where, and the whole value with something odd there or with the field left out: of each field at any depth."""
    for path in _paths(value):
        name = ".".join(map(str, path)) or "all"
        for odd in odd_values:
            yield f"{name} = {repr(odd)[:20]}", _with(value, path, odd)
        if path and isinstance(path[-1], str):
            changed = copy.deepcopy(value)
            parent = _at(changed, path[:-1])
            del parent[path[-1]]
            yield f"without {name}", changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    changed = copy.deepcopy(value)
    _at(changed, path[:-1])[path[-1]] = odd
    return changed
