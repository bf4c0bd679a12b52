"""Looks at live objects without running any code of the user's, and without keeping a reference to them.

No `repr`, no property, no `__getattr__`, no iterating over what is not exactly a builtin container: types are told
by their method resolution order, and what is read of an object is read through the descriptors of the library that
made it, past whatever a subclass puts in their place. Nothing lazy is computed. Libraries are never imported: an
object of theirs can only exist if they are.

Values are shown only where they are asked for; else it is what helps to write code: kinds, shapes, columns, keys,
signatures. Strings that are defaults and the messages of exceptions are values, too. What secrets.py takes for a
secret is never shown.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from jupyter_sc2.prompt import secrets
from jupyter_sc2.prompt.inspection import (
    attribute_of,
    inherited,
    is_a,
    module_of,
    module_state,
    mro_of,
    name_of,
    state_of,
)
from jupyter_sc2.prompt.namespace import Variable, table_detail

# An adapter gives a variable's kind and detail; it may raise whatever the object's library raises.
Adapter = Callable[[Any], tuple[str, str]]

MOST_COLUMNS = 24
MOST_KEYS = 12
# What is not worth a line: it tells its name's reader nothing.
PLAIN = frozenset({"NoneType", "builtin_function_or_method", "ellipsis"})
BUDGET = 0.005  # seconds
REACH = 200  # of the names made last, how many are looked at
EMPTY: Mapping[str, Any] = types.MappingProxyType({})
SHORT = 24  # characters of a value that is shown

_ADAPTERS: dict[str, Adapter] = {}


def adapter(*names: str) -> Callable[[Adapter], Adapter]:
    """Registers how objects of a class are described, by "module.Class" as it names itself.

    Subclasses are described the same way, under their own name. The adapter must not run code of the user's.
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
    budget: float = BUDGET,
) -> list[Variable]:
    """The variables worth a line: those among the names `used`, first ones first, then those made last.

    At most `most` and none of `skip`, as far as `budget` seconds go; in the order in which the namespace holds them,
    so that the same ones make the same text.
    """
    started = time.thread_time()
    names = list(namespace)  # a running cell may add some meanwhile
    recent = (name for name in islice(reversed(names), REACH))
    found: dict[str, Variable] = {}
    for name in chain(dict.fromkeys(used), recent):
        if len(found) == most or time.thread_time() - started > budget:
            break
        if name in skip or name in found:
            continue
        variable = look(namespace, name, hidden=hidden, values=values)
        # A number that the cell does not use is not worth its tokens.
        if variable is not None and (variable.detail or name in used):
            found[name] = variable
    return [found[name] for name in names if name in found]


def look(
    namespace: Mapping[str, Any],
    name: str,
    *,
    hidden: Mapping[str, Any] = EMPTY,
    values: bool = False,
) -> Variable | None:
    """One name's line; None if there is nothing to say or it is not to be told."""
    if name.startswith("_") or not secrets.tells(name):
        return None
    try:
        value = namespace[name]
    except KeyError:
        return None
    if name in hidden and hidden[name] is value:  # the shell's own, not the user's
        return None
    return describe_variable(name, value, values=values)


def describe_variable(name: str, value: Any, *, values: bool = False) -> Variable | None:
    """One variable's line, with `values` of its values as well; None where there is nothing to say."""
    cls = type(value)
    for base in mro_of(cls):
        described = _ADAPTERS.get(f"{module_of(base)}.{name_of(base)}")
        if described is not None:
            try:
                kind, detail = described(value)
            except Exception:  # a library's own object in a state it does not expect
                return Variable(name, name_of(cls))
            if kind == "function":
                return Variable(f"{name}{signature(value, values=values)}", kind + detail)
            if kind == "class" and is_a(value, type):
                init = inherited(value, "__init__")
                if is_a(init, types.FunctionType):
                    detail = _listed(signature(init, values=values, skip_first=True), detail)
            if values and (sample := sample_of(value)):
                detail = f"{detail} {sample}".strip()
            return Variable(name, name_of(cls) if kind == "" else kind, detail)
    if name_of(cls) in PLAIN:
        return None
    return Variable(name, name_of(cls), _fields(cls))


def _fields(cls: type) -> str:
    """Fields of a dataclass, a named tuple or a pydantic model."""
    for base in mro_of(cls):
        for name in ("__dataclass_fields__", "__pydantic_fields__", "_fields"):
            found = attribute_of(base, name)
            if type(found) in (dict, tuple):
                fields = secrets.told(str(field) for field in islice(found, MOST_KEYS))
                return f"fields {', '.join(fields)}" if fields else ""
    return ""


def _doc_line(text: object, name: str = "") -> str:
    """The first line of a docstring, unless that is the signature of the class `name`: dataclasses write such."""
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
    kind = next(base for base in mro_of(type(value)) if module_of(base) == "builtins")
    if fields := _fields(type(value)):
        return "", fields
    length = kind.__len__(value)  # type: ignore[attr-defined]
    kinds = {name_of(type(element)) for element in islice(kind.__iter__(value), 50)}  # type: ignore[attr-defined]
    of = f" {kinds.pop()}" if len(kinds) == 1 else ""
    return "", f"of {length}{of}"


@adapter("builtins.dict")
def _dict(value: Any) -> tuple[str, str]:
    keys = [key for key in islice(dict.keys(value), MOST_KEYS) if type(key) in (str, int)]
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
    return "module", str(module_state(value).get("__name__", ""))


@adapter("builtins.BaseException")
def _exception(value: Any) -> tuple[str, str]:
    return "", ""


def message_of(error: BaseException) -> str:
    """What an exception was given first, if that is a string."""
    args = BaseException.__dict__["args"].__get__(error)
    return args[0] if args and type(args[0]) is str else ""


def signature(
    function: types.FunctionType, *, values: bool = False, skip_first: bool = False
) -> str:
    """A function's parameters, with those defaults that are plain constants: "(table, deep=False, *rest)".

    Strings among the defaults are shown only with `values`.
    """
    code = function.__code__
    count, keyword_only = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    defaults = function.__defaults__ or ()
    given = dict(zip(names[count - len(defaults) : count], defaults, strict=True))
    given.update(function.__kwdefaults__ or {})
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
    """A small plain value, the first elements of a list of such, a table's first row, or an exception's message.

    "" where there is no such thing, or it may be a secret.
    """
    if is_a(value, BaseException):
        message = message_of(value)
        return "" if secrets.in_text(message) or secrets.mentioned(message) else message[:80]
    if _is_plain(value):
        return "" if secrets.in_value(value) else f"= {value!r}"
    if type(value) in (list, tuple) and value and all(map(_is_plain, value[:3])):
        return f"e.g. {', '.join(map(repr, value[:3]))}" if _can_be_told(value[:3]) else ""
    manager = state_of(value).get("_mgr")
    if manager is None or not module_of(type(manager)).startswith("pandas."):
        return ""
    try:
        columns, index = manager.axes
        if not len(index):
            return ""
        first = (
            (str(name), manager.iget_values(position)[0])
            for position, name in enumerate(islice(columns, 8))
        )
        row = [(name, value) for name, value in first if secrets.tells(name) and _is_plain(value)]
    except Exception:  # a table in a state that its library does not expect
        return ""
    if not row or not _can_be_told([value for _, value in row]):
        return ""
    return f"e.g. {', '.join(f'{name}={value!r}' for name, value in row)}"


def _can_be_told(values: Iterable[Any]) -> bool:
    """Whether none of some plain values is a secret, or says that one beside it is."""
    return not any(
        secrets.in_value(value) or (type(value) is str and secrets.named(value)) for value in values
    )


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= SHORT
    return type(value) in (bool, float) or (type(value) is int and abs(value) < 10**9)


# Arrays


@adapter("numpy.ndarray")
def _array(value: Any) -> tuple[str, str]:
    ndarray = next(base for base in mro_of(type(value)) if name_of(base) == "ndarray")
    shape, dtype = (attribute_of(ndarray, name).__get__(value) for name in ("shape", "dtype"))
    names = dtype.names
    if names:
        return "", f"{shape} fields {', '.join(secrets.told(names[:MOST_COLUMNS]))}"
    return "", f"{shape} {secrets.type_without_values(str(dtype))}"


@adapter("torch.Tensor", "torch.nn.parameter.Parameter")
def _tensor(value: Any) -> tuple[str, str]:
    # A subclass outside of torch may intercept whatever is asked of it.
    if not module_of(type(value)).startswith("torch"):
        return "", ""
    dtype = str(value.dtype).removeprefix("torch.")
    device = "" if value.device.type == "cpu" else f" on {value.device.type}"
    return "", f"{tuple(value.shape)} {dtype}{device}"


# Tables


@adapter("pandas.DataFrame", "pandas.core.frame.DataFrame")
def _pandas_frame(value: Any) -> tuple[str, str]:
    manager = state_of(value)["_mgr"]
    columns, index = manager.axes
    wide = len(columns) > 10_000  # the dtypes of all would be computed
    dtypes = [""] * MOST_COLUMNS if wide else manager.get_dtypes()
    named = zip(islice(columns, MOST_COLUMNS), dtypes, strict=False)
    return "", table_detail((len(index), len(columns)), ((str(n), str(d)) for n, d in named))


@adapter("pandas.Series", "pandas.core.series.Series")
def _pandas_series(value: Any) -> tuple[str, str]:
    state = state_of(value)
    manager = state["_mgr"]
    name = state.get("_name")
    named = f" {name!r}" if type(name) is str and secrets.tells(name) else ""
    dtype = secrets.type_without_values(str(manager.dtype))
    return "", f"({len(manager.axes[0])},) {dtype}{named}"


@adapter("polars.dataframe.frame.DataFrame")
def _polars_frame(value: Any) -> tuple[str, str]:
    frame = state_of(value)["_df"]
    columns = zip(frame.columns()[:MOST_COLUMNS], map(str, frame.dtypes()), strict=False)
    return "", table_detail((frame.height(), frame.width()), columns)


@adapter("pyarrow.lib.Table")
def _arrow_table(value: Any) -> tuple[str, str]:
    schema = value.schema
    columns = zip(schema.names[:MOST_COLUMNS], map(str, schema.types), strict=False)
    return "", table_detail((value.num_rows, len(schema.names)), columns)


@adapter("dask.dataframe.dask_expr._collection.DataFrame")
def _dask_frame(value: Any) -> tuple[str, str]:
    # Only what dask has worked out already: to ask for more may call functions of the user's.
    meta = state_of(state_of(value)["_expr"]).get("_meta")
    if meta is None:
        return "", ""
    manager = state_of(meta)["_mgr"]
    named = zip(islice(manager.axes[0], MOST_COLUMNS), manager.get_dtypes(), strict=False)
    shape = (-1, len(manager.axes[0]))
    return "", table_detail(shape, ((str(n), str(d)) for n, d in named))


@adapter("xarray.core.dataset.Dataset")
def _dataset(value: Any) -> tuple[str, str]:
    parts = _slots(value, "_variables", "_coord_names")
    variables, coordinates = parts
    arrays = (
        f"{name}{_named_shape(variable)}"
        for name, variable in variables.items()
        if name not in coordinates and secrets.tells(name)
    )
    shown = ", ".join(islice(arrays, MOST_COLUMNS))
    return "", f"{shown}; coordinates {', '.join(sorted(secrets.told(map(str, coordinates))))}"


@adapter("xarray.core.dataarray.DataArray")
def _data_array(value: Any) -> tuple[str, str]:
    (variable,) = _slots(value, "_variable")
    return "", _named_shape(variable).strip()


def _named_shape(variable: Any) -> str:
    dims, data = _slots(variable, "_dims", "_data")
    shape = data.shape
    named = ", ".join(
        f"{dim} {size}" if secrets.tells(dim) else f"{size}"
        for dim, size in zip(dims, shape, strict=True)
    )
    return f"({named}) {secrets.type_without_values(str(data.dtype))}"


def _slots(value: Any, *names: str) -> Iterable[Any]:
    """Attributes that a class keeps in slots, as the class itself reads them."""
    for name in names:
        slot = next(
            found for base in mro_of(type(value)) if (found := attribute_of(base, name)) is not None
        )
        yield slot.__get__(value)
