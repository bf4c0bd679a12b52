"""Describes live variables without running any of the user's code, and without keeping a reference to them.

No `repr`, no property, no `__getattr__`, no iteration over anything but exact builtin containers: types are identified
by their method resolution order, and attributes are read through the descriptors of the library that made the object,
bypassing whatever a subclass defines. Nothing lazy is computed. Libraries are never imported: an object of theirs can
only exist if they are.

Values are shown only on request. By default a description holds what helps to write code: kinds, shapes, columns, keys,
signatures. Default strings and the messages of exceptions count as values, too. What secrets.py considers a secret is
never shown.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from jupyter_sc2.introspection import secrets
from jupyter_sc2.introspection.inspection import (
    attribute_of,
    contradicted,
    genuine,
    inherited,
    is_a,
    is_exactly,
    is_one_of,
    module_state,
    mro_of,
    name_of,
    named,
    plain,
    read,
    root_of,
    state_of,
)
from jupyter_sc2.introspection.rendering import Variable, table_detail
from jupyter_sc2.introspection.tables import (
    array_dtype,
    array_shape,
    arrow_types,
    column_dtypes,
    column_elements,
    dask_meta,
    dtype_text,
    label_text,
    labels,
    length_of,
    manager_of,
    polars_frame,
    polars_type,
)
from jupyter_sc2.runtime.clock import thread_time

# An adapter returns a variable's kind and detail; it may raise whatever the object's library raises.
Adapter = Callable[[Any], tuple[str, str]]

MAX_COLUMNS = 24
MAX_KEYS = 12
# Types that are not worth a line.
UNINFORMATIVE = frozenset({"NoneType", "builtin_function_or_method", "ellipsis"})
BUDGET_S = 0.005
MAX_RECENT_NAMES = 200  # of the names defined last, how many are considered
EMPTY: Mapping[str, Any] = types.MappingProxyType({})
MAX_VALUE_CHARS = 24  # of a string that is shown as a value

_ADAPTERS: dict[str, Adapter] = {}


def adapter(*names: str) -> Callable[[Adapter], Adapter]:
    """Registers how objects of a class are described; the name is "module.Class", as the class reports it.

    Subclasses are described in the same way, under their own name. The adapter must not run the user's code.
    """

    def register(function: Adapter) -> Adapter:
        _ADAPTERS.update(dict.fromkeys(names, function))
        return function

    return register


def choose(
    namespace: Mapping[str, Any],
    used: Sequence[str],
    *,
    hidden: Mapping[str, Any] = EMPTY,
    most: int = 8,
    values: bool = False,
    skip: Collection[str] = (),
    budget: float = BUDGET_S,
) -> list[Variable]:
    """The variables worth a line: those among the names `used`, in that order of priority, then those defined last.

    At most `most` and none of `skip`, within `budget` seconds of thread time. They are returned in the order of the
    namespace, so that the same variables make the same text.
    """
    started = thread_time()
    namespace, hidden = plain(namespace), plain(hidden)
    names = list(namespace)  # a running cell may add names meanwhile
    recent = (name for name in islice(reversed(names), MAX_RECENT_NAMES))
    found: dict[str, Variable] = {}
    for name in chain(dict.fromkeys(used), recent):
        if len(found) == most or thread_time() - started > budget:
            break
        if name in skip or name in found:
            continue
        variable = describe_name(namespace, name, hidden=hidden, values=values)
        # A number that the cell does not use is not worth its tokens.
        if variable is not None and (variable.detail or name in used):
            found[name] = variable
    return [found[name] for name in names if name in found]


def describe_name(
    namespace: Mapping[str, Any],
    name: str,
    *,
    hidden: Mapping[str, Any] = EMPTY,
    values: bool = False,
) -> Variable | None:
    """The description of one name; None if there is nothing to say or it may be a secret. The mappings are `plain`
    ones."""
    if name.startswith("_") or name not in namespace or not secrets.tells(name):
        return None
    try:
        value = namespace[name]
    except KeyError:
        return None
    if name in hidden and hidden[name] is value:  # defined by the shell, not by the user
        return None
    return describe_variable(name, value, values=values)


def describe_variable(name: str, value: Any, *, values: bool = False) -> Variable | None:
    """The description of one variable, including sample values with `values`; None if there is nothing to say."""
    try:
        return _described(name, value, values)
    except Exception:  # an object in a state that its library does not expect
        return Variable(name, name_of(type(value)))


def _described(name: str, value: Any, values: bool) -> Variable | None:
    cls = type(value)
    for base in mro_of(cls):
        described = _ADAPTERS.get(named(base))
        if described is None or (root_of(base) != "builtins" and contradicted(base)):
            continue
        kind, detail = described(value)
        if kind == "function":
            return Variable(f"{name}{signature(value, values=values)}", kind + detail)
        if kind == "class" and is_a(value, type):
            init = inherited(value, "__init__")
            if is_a(init, types.FunctionType):
                detail = _listed(signature(init, values=values, skip_first=True), detail)
        if values and (sample := sample_of(value)):
            detail = f"{detail} {sample}".strip()
        return Variable(name, name_of(cls) if kind == "" else kind, detail)
    if name_of(cls) in UNINFORMATIVE:
        return None
    return Variable(name, name_of(cls), _fields(cls))


def _fields(cls: type) -> str:
    """The fields of a dataclass, a named tuple or a pydantic model."""
    for base in mro_of(cls):
        for name in ("__dataclass_fields__", "__pydantic_fields__", "_fields"):
            found = attribute_of(base, name)
            if is_exactly(found, dict, tuple):
                fields = secrets.told(map(label_text, islice(found, MAX_KEYS)))
                return f"fields {', '.join(fields)}" if fields else ""
    return ""


def _doc_line(text: object, name: str = "") -> str:
    """The first line of a docstring, unless it is the signature of the class `name`, as dataclasses write it."""
    line = text.strip().split("\n", 1)[0] if type(text) is str else ""
    return "" if (name and line.startswith(f"{name}(")) or secrets.in_text(line) else line


def _listed(*details: str) -> str:
    return ", ".join(detail for detail in details if detail)


# Builtins


@adapter("builtins.int", "builtins.float", "builtins.complex", "builtins.bool")
def _number(value: Any) -> tuple[str, str]:
    return "", ""


@adapter("builtins.str", "builtins.bytes", "builtins.bytearray")
def _text(value: Any) -> tuple[str, str]:
    return "", ""


@adapter("builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset")
def _sequence(value: Any) -> tuple[str, str]:
    sequences = (list, tuple, set, frozenset)
    kind: Any = next(base for base in mro_of(type(value)) if is_one_of(base, sequences))
    if fields := _fields(type(value)):
        return "", fields
    length = kind.__len__(value)
    kinds = {name_of(type(element)) for element in islice(kind.__iter__(value), 50)}
    of = f" {kinds.pop()}" if len(kinds) == 1 else ""
    return "", f"of {length}{of}"


@adapter("builtins.dict")
def _dict(value: Any) -> tuple[str, str]:
    keys = [key for key in islice(dict.keys(value), MAX_KEYS) if is_exactly(key, str, int)]
    shown = ", ".join(repr(key) for key in keys if secrets.tells(str(key)))
    more = f" of {dict.__len__(value)}" if dict.__len__(value) > len(keys) else ""
    return "", f"{shown}{more}".strip()


@adapter("builtins.function")
def _function(value: Any) -> tuple[str, str]:
    doc = _doc_line(types.FunctionType.__dict__["__doc__"].__get__(value))
    return "function", f", {doc}" if doc else ""


@adapter("builtins.type")
def _class(value: Any) -> tuple[str, str]:
    return "class", _listed(
        _doc_line(attribute_of(value, "__doc__"), name_of(value)), _fields(value)
    )


@adapter("builtins.module")
def _module_alias(value: Any) -> tuple[str, str]:
    name = module_state(value).get("__name__")
    return "module", name if type(name) is str else ""


@adapter("builtins.BaseException")
def _exception(value: Any) -> tuple[str, str]:
    return "", ""


def message_of(error: BaseException) -> str:
    """The first argument of an exception, if that is a string."""
    args = BaseException.__dict__["args"].__get__(error)
    return args[0] if args and type(args[0]) is str else ""


def signature(
    function: types.FunctionType, *, values: bool = False, skip_first: bool = False
) -> str:
    """A function's parameters, with the defaults that are plain constants: "(table, deep=False, *rest)".

    Default strings are shown only with `values`.
    """
    code = function.__code__
    count, keyword_only = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    kept, given_by_name = function.__defaults__, function.__kwdefaults__
    defaults = [] if kept is None else list(tuple.__iter__(kept))
    defaults = defaults[max(0, len(defaults) - count) :]
    given = dict(zip(names[count - len(defaults) : count], defaults, strict=True))
    given.update({} if given_by_name is None else plain(given_by_name))
    parts = [_parameter(name, given, values) for name in names[:count]]
    extra = count + keyword_only
    if code.co_flags & 4:  # CO_VARARGS
        parts.append(f"*{names[extra]}")
        extra += 1
    elif keyword_only:
        parts.append("*")
    parts += [_parameter(name, given, values) for name in names[count : count + keyword_only]]
    if code.co_flags & 8:  # CO_VARKEYWORDS
        parts.append(f"**{names[extra]}")
    return f"({', '.join(parts[skip_first:])})"


def _parameter(name: str, given: Mapping[str, Any], values: bool) -> str:
    if name not in given:
        return name
    value = given[name]
    shown = not secrets.named(name) and not secrets.in_value(value)
    if type(value) is str:
        shown = shown and values and len(value) < 20
    return f"{name}={value!r}" if shown else f"{name}=…"


def sample_of(value: Any) -> str:
    """A small plain value, the first elements of a list of such values, a table's first row, or an exception's message.

    "" if there is no such value, or if it may be a secret.
    """
    if is_a(value, BaseException):
        message = message_of(value)
        return "" if secrets.in_text(message) or secrets.mentioned(message) else message[:80]
    if _is_plain(value):
        return "" if secrets.in_value(value) else f"= {value!r}"
    if is_exactly(value, list, tuple) and value and all(map(_is_plain, value[:3])):
        return f"e.g. {', '.join(map(repr, value[:3]))}" if _may_show(value[:3]) else ""
    try:
        manager = manager_of(value)
        columns, index = manager.axes
        if length_of(index) < 1:
            return ""
        first = (
            (label_text(name), column_elements(manager, position, 1))
            for position, name in enumerate(labels(columns, 8) or ())
        )
        row = [
            (name, found[0])
            for name, found in first
            if found and secrets.tells(name) and _is_plain(found[0])
        ]
    except Exception:  # a table in a state that its library does not expect
        return ""
    if not row or not _may_show([value for _, value in row]):
        return ""
    return f"e.g. {', '.join(f'{name}={value!r}' for name, value in row)}"


def _may_show(values: Iterable[Any]) -> bool:
    """Whether none of some plain values is a secret, or says that the value beside it is one."""
    return not any(
        secrets.in_value(value) or (type(value) is str and secrets.named(value)) for value in values
    )


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= MAX_VALUE_CHARS
    return is_exactly(value, bool, float) or (type(value) is int and abs(value) < 10**9)


# Arrays


@adapter("numpy.ndarray")
def _array(value: Any) -> tuple[str, str]:
    shape, dtype = read(value, "shape", "numpy"), read(value, "dtype", "numpy")
    if dtype.names:
        fields = secrets.told(map(label_text, dtype.names[:MAX_COLUMNS]))
        return "", f"{shape} fields {', '.join(fields)}"
    return "", f"{shape} {secrets.type_without_values(dtype_text(dtype))}"


@adapter("torch.Tensor", "torch.nn.parameter.Parameter")
def _tensor(value: Any) -> tuple[str, str]:
    # A subclass outside torch may intercept every attribute access.
    if not genuine(type(value), "torch"):
        return "", ""
    dtype = str(value.dtype).removeprefix("torch.")
    device = "" if value.device.type == "cpu" else f" on {value.device.type}"
    return "", f"{tuple(value.shape)} {dtype}{device}"


# Tables


@adapter("pandas.DataFrame", "pandas.core.frame.DataFrame")
def _pandas_frame(value: Any) -> tuple[str, str]:
    return "", _pandas_columns(value, length_of(manager_of(value).axes[1]))


def _pandas_columns(frame: Any, length: int) -> str:
    manager = manager_of(frame)
    columns = manager.axes[0]
    wide = length_of(columns) > 10_000  # all types would be computed
    dtypes = [""] * MAX_COLUMNS if wide else column_dtypes(manager, MAX_COLUMNS)
    named = zip(map(label_text, labels(columns, MAX_COLUMNS) or ()), dtypes, strict=False)
    return table_detail((length, length_of(columns)), named)


@adapter("pandas.Series", "pandas.core.series.Series")
def _pandas_series(value: Any) -> tuple[str, str]:
    manager = manager_of(value)
    name = state_of(value).get("_name")
    named = f" {name!r}" if type(name) is str and secrets.tells(name) else ""
    dtype = secrets.type_without_values(array_dtype(manager.blocks[0].values))
    return "", f"({length_of(manager.axes[0])},) {dtype}{named}"


@adapter("polars.dataframe.frame.DataFrame")
def _polars_frame(value: Any) -> tuple[str, str]:
    frame = polars_frame(value)
    dtypes = map(polars_type, frame.dtype_strings())
    columns = zip(frame.columns()[:MAX_COLUMNS], dtypes, strict=False)
    return "", table_detail((frame.height(), frame.width()), columns)


@adapter("pyarrow.lib.Table")
def _arrow_table(value: Any) -> tuple[str, str]:
    schema = read(value, "schema", "pyarrow")
    dtypes = arrow_types(schema) or [""] * MAX_COLUMNS
    shape = (read(value, "num_rows", "pyarrow"), len(schema.names))
    return "", table_detail(shape, zip(schema.names[:MAX_COLUMNS], dtypes, strict=False))


@adapter("dask.dataframe.dask_expr._collection.DataFrame")
def _dask_frame(value: Any) -> tuple[str, str]:
    # Only what dask has computed already: computing more may call the user's functions.
    return "", _pandas_columns(dask_meta(value), -1)


@adapter("xarray.core.dataset.Dataset")
def _dataset(value: Any) -> tuple[str, str]:
    variables, coordinates = (
        read(value, name, "xarray") for name in ("_variables", "_coord_names")
    )
    beside = {name for name in coordinates if type(name) is str}
    arrays = (
        f"{label_text(name)}{_named_shape(variable)}"
        for name, variable in variables.items()
        if type(name) is not str or (name not in beside and secrets.tells(name))
    )
    shown = ", ".join(islice(arrays, MAX_COLUMNS))
    named = sorted(secrets.told(map(label_text, coordinates)))
    return "", f"{shown}; coordinates {', '.join(named)}"


@adapter("xarray.core.dataarray.DataArray")
def _data_array(value: Any) -> tuple[str, str]:
    return "", _named_shape(read(value, "_variable", "xarray")).strip()


def _named_shape(variable: Any) -> str:
    dims = [label_text(dim) for dim in read(variable, "_dims", "xarray")]
    data = read(variable, "_data", "xarray")
    shape = array_shape(data)
    if shape is None:  # an array of a user's class, whose code would run
        return f"({', '.join(secrets.told(dims))})"
    named = ", ".join(
        f"{dim} {size}" if secrets.tells(dim) else f"{size}"
        for dim, size in zip(dims, shape, strict=True)
    )
    return f"({named}) {secrets.type_without_values(array_dtype(data))}".rstrip()
