"""Reads tables, arrays and their columns, bypassing what the user's classes define in place of the library's.

A label can be any object; a column can be an array of a user's class, and so can the type of its elements. None of
their code is called: they are described by the name of their class. Nothing lazy is computed.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from jupyter_sc2.introspection.inspection import (
    contradicted,
    defined_in,
    genuine,
    is_a,
    is_exactly,
    module_of,
    mro_of,
    name_of,
    named,
    raw_module_state,
    read,
    root_of,
    state_of,
    text_of,
)

FRAMES = frozenset({"pandas.DataFrame", "pandas.core.frame.DataFrame"})
SERIES = frozenset({"pandas.Series", "pandas.core.series.Series"})
POLARS = frozenset({"polars.dataframe.frame.DataFrame"})
ARROW = frozenset({"pyarrow.lib.Table", "pyarrow.lib.RecordBatch"})
DASK = frozenset({"dask.dataframe.dask_expr._collection.DataFrame"})
DATASETS = frozenset({"xarray.core.dataset.Dataset"})
DATA_ARRAYS = frozenset({"xarray.core.dataarray.DataArray"})
RECORDS = frozenset({"numpy.ndarray", "numpy.void"})
LIBRARIES = frozenset({"pandas", "polars", "pyarrow", "dask", "xarray", "numpy", "geopandas"})
NUMBERS = frozenset({"IntegerArray", "FloatingArray", "BooleanArray", "TimedeltaArray"})
# Kinds of labels that cannot be attributes, and those of which no string selects one.
NUMBERED = NUMBERS.union("iufbMm", {"RangeIndex", "DatetimeIndex", "PeriodIndex", "IntervalIndex"})
NO_STRING_SELECTS = frozenset({*"iuf", "RangeIndex"})
# pandas arrays of numbers, dates and strings, without elements of a user's class.
ARRAYS = frozenset(
    {
        *(
            "StringArray",
            "ArrowStringArray",
            "ArrowStringArrayNumpySemantics",
            "NumpyExtensionArray",
        ),
        *("IntegerArray", "FloatingArray", "BooleanArray"),
        *("DatetimeArray", "TimedeltaArray", "PeriodArray"),
    }
)
SCALARS = frozenset(
    {
        *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta"),
        *("pandas.Timestamp", "pandas.Timedelta", "pandas.Period"),
    }
)
# Names of polars types in Rust, where no user class can interfere.
POLARS_PLAIN = frozenset({"Boolean", "String", "Binary", "Date", "Time"})
POLARS_TYPES = {"bool": "Boolean", "str": "String", "cat": "Categorical"}
POLARS_NUMBERS = {"i": "Int", "u": "UInt", "f": "Float"}
TIME_ZONES = frozenset({"zoneinfo", "datetime", "pytz", "dateutil"})
# The key by which a serialized schema names an extension type.
ARROW_EXTENSION = b"ARROW:extension:name"


def is_kind(cls: type, names: frozenset[str]) -> bool:
    """Whether one of these classes is among a class's bases, and is what it claims to be."""
    return any(named(base) in names and not contradicted(base) for base in mro_of(cls))


# Labels


def label_text(label: Any) -> str:
    """A label as code may name it; the class name of an object whose text would run the user's code."""
    cls = type(label)
    if is_a(label, str):
        return text_of(label)
    if is_exactly(label, int, float, complex, bool, bytes, types.NoneType):
        return str(label)
    if is_exactly(label, tuple):
        return f"({', '.join(map(label_text, label))})"
    if named(cls) in SCALARS and genuine(cls) and _known_zone(getattr(label, "tzinfo", None)):
        return str(label)
    if root_of(cls) == "numpy" and genuine(cls) and name_of(cls) not in ("void", "record"):
        return str(label)
    member = state_of(label).get("_name_")  # a member of an enum
    return f"{name_of(cls)}.{member}" if type(member) is str else name_of(cls)


def labels(index: Any, most: int) -> list[Any] | None:
    """The first labels of a pandas index; None if reading them may run the user's code."""
    if not genuine(type(index), "pandas"):
        return None
    state = state_of(index)
    if "_levels" in state:  # a MultiIndex, whose labels are tuples
        levels = [labels(level, length_of(level)) for level in state["_levels"]]
        if any(level is None for level in levels):
            return None
        rows = zip(*(code[:most].tolist() for code in state["_codes"]), strict=True)
        return [
            tuple(_at(level, code) for level, code in zip(levels, row, strict=True)) for row in rows
        ]
    values = state.get("_data", state.get("_range"))
    return list(values[:most]) if is_exactly(values, range) else elements(values, most)


def length_of(index: Any) -> int:
    """The number of labels of a pandas index; -1 if counting them may run the user's code."""
    if not genuine(type(index), "pandas"):
        return -1
    state = state_of(index)
    values = state["_codes"][0] if "_codes" in state else state.get("_data", state.get("_range"))
    known = is_exactly(values, range, _from("numpy", "ndarray")) or genuine(type(values), "pandas")
    return len(values) if known else -1


def is_numbered(index: Any) -> bool:
    """Whether the labels of a pandas index are numbers or dates, which cannot be attributes."""
    return _kind_of_labels(index) in NUMBERED


def _kind_of_labels(index: Any) -> str:
    """NumPy's letter for the labels of a pandas index, else the class of their array, if that is of numbers, or of the
    index; "" if it is not pandas' own."""
    if not genuine(type(index), "pandas"):
        return ""
    values: Any = state_of(index).get("_data")
    if type(values) is _from("numpy", "ndarray"):
        return str(values.dtype.kind)
    of_numbers = genuine(type(values), "pandas") and name_of(type(values)) in NUMBERS
    return name_of(type(values) if of_numbers else type(index))


def elements(values: Any, most: int) -> list[Any] | None:
    """The first elements of an array; None if reading them may run the user's code."""
    cls = type(values)
    if cls is _from("numpy", "ndarray"):
        return list(values[:most])
    if not genuine(cls, "pandas"):
        return None
    if name_of(cls) == "Categorical":
        categories = values.dtype.categories
        kinds = labels(categories, length_of(categories))
        codes = values._ndarray[:most].tolist()
        return None if kinds is None else [_at(kinds, code) for code in codes]
    known = name_of(cls) in ARRAYS and _known_zone(getattr(values.dtype, "tz", None))
    return list(values[:most]) if known else None


def _at(found: list[Any] | None, code: int) -> Any:
    return found[code] if found is not None and code >= 0 else None


def _known_zone(zone: object) -> bool:
    """Whether a time zone is not of a user's class, whose code would compute its times and its name."""
    cls = type(zone)
    return zone is None or (root_of(cls) in TIME_ZONES and genuine(cls))


# Types of elements


def dtype_text(dtype: Any) -> str:
    """The type of elements in its library's notation; the class name of a user's type."""
    cls = type(dtype)
    if is_a(dtype, _from("numpy", "dtype")):  # cannot be subclassed
        return str(dtype) if genuine(dtype.type, "numpy") else name_of(dtype.type)
    if not genuine(cls, "pandas"):
        return name_of(cls)
    match name_of(cls):
        case "SparseDtype":
            return f"Sparse[{dtype_text(dtype.subtype)}]"
        case "ArrowDtype":
            pyarrow: Any = sys.modules["pyarrow"]
            told = arrow_types(pyarrow.schema([("", dtype.pyarrow_dtype)]))
            return f"{told[0] if told else 'extension'}[pyarrow]"
        case "DatetimeTZDtype" if not _known_zone(dtype.tz):
            return f"datetime64[{dtype.unit}]"
        case "IntervalDtype":
            return f"interval[{dtype_text(dtype.subtype)}, {dtype.closed}]"
    return str(dtype)


def array_dtype(values: Any) -> str:
    """The type of an array's elements; the class name of an array that is not numpy's or pandas' own."""
    cls = type(values)
    if is_a(values, _from("numpy", "ndarray")):
        return dtype_text(read(values, "dtype", "numpy"))
    if genuine(cls, "dask"):
        return array_dtype(read(values, "_meta", "dask"))
    return dtype_text(values.dtype) if _is_known(values) else name_of(cls)


def array_shape(values: Any) -> tuple[Any, ...] | None:
    """The shape of an array; None if it is not known to store it."""
    cls = type(values)
    shape: tuple[Any, ...]
    if is_a(values, _from("numpy", "ndarray")):
        shape = read(values, "shape", "numpy")
    elif genuine(cls, "dask"):
        shape = tuple(sum(chunks) for chunks in read(values, "chunks", "dask"))
    elif _is_known(values):
        shape = tuple(values.shape)
    else:
        return None
    return shape


def _is_known(values: Any) -> bool:
    """Whether an array, and whatever it wraps, is of a library's own class, so that no user code is called."""
    while genuine(type(values), "xarray"):
        if module_of(type(values)).startswith("xarray.backends."):
            return True
        state = state_of(values)
        values = state["array"] if "array" in state else read(values, "array", "xarray")
    if is_a(values, _from("pandas", "Index")):
        return length_of(values) >= 0
    return type(values) is _from("numpy", "ndarray") or genuine(type(values), "pandas")


def arrow_types(schema: Any) -> list[str]:
    """The types of a pyarrow schema in pyarrow's notation; none if one is, or contains, an extension type.

    For an extension type pyarrow may have to call the user's class to create it, even for its name.
    """
    if ARROW_EXTENSION in schema.serialize().to_pybytes():
        return []
    return [str(kind) for kind in schema.types]


def polars_type(short: str) -> str:
    """A polars type as Python code names it, from its name in Rust: "i64" is Int64, "list[i64]" List(Int64)."""
    kind, _, inner = short.partition("[")
    if kind == "list":
        of = polars_type(inner[:-1])
        return f"List({of})" if of in POLARS_PLAIN or of[-1:].isdigit() else "List"
    if kind[:1] in POLARS_NUMBERS and kind[1:].isdigit():
        return POLARS_NUMBERS[kind[0]] + kind[1:]
    return POLARS_TYPES.get(kind, kind.capitalize())


def _from(module: str, name: str) -> Any:
    """A class of a module, if that was imported; else a class without instances."""
    found: Any = sys.modules.get(module)
    known = is_a(found, types.ModuleType)
    return raw_module_state(found).get(name, _Nothing) if known else _Nothing


class _Nothing:
    pass


# Managers of columns


def manager_of(value: Any) -> Any:
    """The manager of a pandas frame or series. Raises LookupError if it is not pandas' own."""
    manager = state_of(value)["_mgr"]
    if not genuine(type(manager), "pandas"):
        raise LookupError("_mgr")
    return manager


# The position of a column is read from its block: the manager's own list would call the length of the frame's index.


def column_dtypes(manager: Any, most: int) -> list[str]:
    """The types of the first columns."""
    found: dict[int, str] = {}
    for block in manager.blocks:
        places = block.mgr_locs.as_array
        found |= dict.fromkeys(places[places < most].tolist(), array_dtype(block.values))
    return [found[place] for place in sorted(found)]


def column_elements(manager: Any, place: int, most: int) -> list[Any] | None:
    """The first elements of a column; None if reading them may run the user's code."""
    for block in manager.blocks:
        rows = (block.mgr_locs.as_array == place).nonzero()[0].tolist()
        if rows:
            values = block.values
            flat = not _is_known(values) or values.ndim == 1
            return elements(values if flat else values[rows[0]], most)
    return None


def polars_frame(value: Any) -> Any:
    """The frame in Rust. Raises LookupError if it is not polars' own."""
    frame = state_of(value)["_df"]
    if not any(
        type(frame) is _from(module, "PyDataFrame") for module in ("polars._plr", "polars.polars")
    ):
        raise LookupError("_df")
    return frame


def dask_meta(value: Any) -> Any:
    """An empty pandas frame like a dask one. Raises LookupError if dask has not made it: that may call the user's
    functions."""
    meta = state_of(state_of(value)["_expr"])["_meta"]
    if not is_kind(type(meta), FRAMES):
        raise LookupError("_meta")
    return meta


# Columns


def columns_of(value: Any, most: int) -> tuple[str, ...] | None:
    """All strings that select a column of a table or an element of a series; None if that is not certain.

    It is not certain where a column's name is not a string, where a subclass looks columns up itself, and where there
    are more than `most`.
    """
    finder = defined_in(type(value), "__getitem__")
    if finder is None or root_of(finder) not in LIBRARIES or not genuine(finder):
        return None
    found = _columns(value, most + 1)
    if found is None or len(found) > most or not all(type(name) is str for name in found):
        return None
    return tuple(found)


def _columns(value: Any, most: int) -> list[Any] | None:
    cls = type(value)
    if is_kind(cls, FRAMES):
        index = manager_of(value).axes[0]
        return None if "_levels" in state_of(index) else labels(index, most)
    if is_kind(cls, SERIES):
        index = manager_of(value).axes[0]
        if _kind_of_labels(index) in NO_STRING_SELECTS:
            return []
        return labels(index, most) or None
    if is_kind(cls, DASK):
        return _columns(dask_meta(value), most)
    if is_kind(cls, POLARS):
        return list(polars_frame(value).columns())
    if is_kind(cls, ARROW):
        return list(read(value, "schema", "pyarrow").names)
    if is_kind(cls, DATASETS):
        return [*read(value, "_variables", "xarray"), *read(value, "_dims", "xarray")]
    if is_kind(cls, DATA_ARRAYS):
        variable = read(value, "_variable", "xarray")
        return [*read(value, "_coords", "xarray"), *read(variable, "_dims", "xarray")]
    if is_kind(cls, RECORDS):
        fields = read(value, "dtype", "numpy").fields
        return None if fields is None else list(fields)
    return None
