"""What is certain of live objects: above all that no name is left out which an object has."""

from __future__ import annotations

import abc
import collections
import contextvars
import ctypes
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import itertools
import logging
import pathlib
import re
import sys
import threading
import types
import typing
import unittest.mock
import weakref
from importlib.util import LazyLoader, find_spec, module_from_spec

import pytest

from jupyter_sc2.introspection.facts import MAX_NAMES, gather


def known(value: object):
    return gather({"x": value}, [("x",)])[("x",)]


class Thing:
    level: int = 1

    def method(self, a=1): ...

    @functools.cached_property
    def kept(self):
        return 1

    @functools.lru_cache  # noqa: B019
    def cached(self): ...

    @property
    def computed(self):
        return 1


class Dynamic:
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return name


class Slotted:
    __slots__ = ("__weakref__", "a", "b")


class Local(threading.local):
    def __init__(self):
        self.mine = 1


class Point(typing.NamedTuple):
    a: int
    b: int = 2


@dataclasses.dataclass
class Data:
    a: int = 1


T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    pass


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Flags(enum.Flag):
    A = 1
    B = 2


class Abstract(abc.ABC):
    @abc.abstractmethod
    def do(self): ...


class Number(ctypes.Structure):
    _fields_ = (("low", ctypes.c_int), ("high", ctypes.c_int))


class Described:
    class Attribute:
        def __get__(self, instance, owner):
            return self

        def __set_name__(self, owner, name):
            self.name = name

    here = Attribute()


class Module(types.ModuleType):
    pass


def made_module(kind: type = types.ModuleType, **names: object) -> types.ModuleType:
    module = kind("made")
    module.__dict__.update(names)
    return module


def lazy(name: str) -> types.ModuleType:
    spec = find_spec(name)
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(a, b=1): ...


function.level = 2
thing, many, slotted = Thing(), Thing(), Slotted()
slotted.a = slotted.b = 1
many.__dict__.update((f"a{n}", n) for n in range(MAX_NAMES + 100))

# An object, and names that it has besides those that `dir` tells of.
OBJECTS = {
    "a number": (3, ()),
    "a text": ("a", ()),
    "a list": ([1], ()),
    "a dict": ({}, ()),
    "a class": (Thing, ("mro",)),
    "an instance": (thing, ()),
    "an instance with 5,100 attributes": (many, ("a0", f"a{MAX_NAMES + 99}")),
    "an object that computes its attributes": (Dynamic(), ("anything",)),
    "a slotted object": (slotted, ("a", "b")),
    "a weak proxy": (weakref.proxy(thing), ("method", "level")),
    "a weak proxy of a function": (weakref.proxy(function), ("level", "__name__", "__code__")),
    "a weak reference": (weakref.ref(thing), ()),
    "a thread's own object": (Local(), ("mine",)),
    "a bound method": (thing.method, ("__name__", "__code__", "__qualname__")),
    "a bound method with a cache": (thing.cached, ("cache_clear", "cache_info", "__wrapped__")),
    "a bound method of a class": (Thing.mro, ("__name__",)),
    "a cached function": (functools.lru_cache(function), ("cache_clear", "level")),
    "a partial function": (functools.partial(function, 1), ("func", "args", "keywords")),
    "a method of partial arguments": (functools.partialmethod(function), ()),
    "a function for several types": (functools.singledispatch(function), ("register", "dispatch")),
    "a wrapped function": (functools.wraps(function)(lambda: 1), ("level", "__wrapped__")),
    "a function": (function, ("level",)),
    "a builtin function": (len, ()),
    "an alias of a list": (list[int], ("append", "__origin__")),
    "an alias of a dict": (dict[str, int], ("fromkeys", "__args__")),
    "a union": (int | str, ("__args__",)),
    "an alias of typing's": (typing.Optional[int], ("__args__",)),  # noqa: UP045
    "a typing list": (typing.List[int], ("append",)),  # noqa: UP006
    "a type variable": (T, ()),
    "a new type": (typing.NewType("Name", str), ("__supertype__",)),
    "a generic class": (Box, ()),
    "a generic class of a type": (Box[int], ("__origin__",)),
    "an instance of that": (Box[int](), ("__orig_class__",)),
    "super": (super(Slotted, Slotted()), ("__thisclass__",)),
    "super of a class with methods": (super(Point, Point(1)), ("count", "index")),
    "a named tuple": (Point(1), ("a", "_asdict")),
    "a named tuple's class": (Point, ("_make", "_fields")),
    "an older named tuple's class": (collections.namedtuple("Pair", "left right"), ("left",)),
    "a data class": (Data, ()),
    "a data class's instance": (Data(), ()),
    "an enum": (Colour, ("RED", "__members__")),
    "an enum's member": (Colour.RED, ("name", "value")),
    "flags": (Flags.A | Flags.B, ("name", "value")),
    "an abstract class": (Abstract, ("register",)),
    "a mock": (unittest.mock.Mock(), ("anything", "assert_called")),
    "a mock of a class": (unittest.mock.create_autospec(Thing), ("method", "assert_called")),
    "a mock of a function": (unittest.mock.create_autospec(function), ("assert_called",)),
    "a sentinel": (unittest.mock.sentinel, ("anything",)),
    "a call": (unittest.mock.call, ("anything",)),
    "a C structure": (Number(1, 2), ("low", "high")),
    "a C structure's class": (Number, ("from_buffer",)),
    "a C number": (ctypes.c_int(1), ("value",)),
    "a C pointer": (ctypes.pointer(ctypes.c_int(1)), ("contents",)),
    "a C library": (ctypes.pythonapi, ("Py_GetVersion",)),
    "a C function": (ctypes.pythonapi.Py_GetVersion, ("restype", "argtypes")),
    "a decimal context": (decimal.getcontext(), ("traps", "flags", "prec")),
    "a decimal": (decimal.Decimal(1), ()),
    "a date": (datetime.datetime(2020, 1, 1), ("year",)),
    "a namespace": (types.SimpleNamespace(a=1), ("a",)),
    "a descriptor's owner": (Described, ("here",)),
    "a descriptor": (Described.here, ("name",)),
    "a property": (Thing.computed, ("setter",)),
    "a path": (pathlib.Path(), ("name",)),
    "a pattern": (re.compile("a"), ("pattern",)),
    "a match": (re.match("a", "a"), ("string",)),
    "an error": (KeyError("a"), ("args",)),
    "an import error": (ImportError("a"), ("name", "path")),
    "a file": (io.StringIO(), ()),
    "a logger": (logging.getLogger(), ()),
    "a counter": (collections.Counter(), ()),
    "a deque": (collections.deque(), ()),
    "an iterator": (itertools.count(), ()),
    "a generator": ((n for n in ()), ("gi_frame",)),
    "a context variable": (contextvars.ContextVar("a"), ("name",)),
    "a lock": (threading.Lock(), ()),
    "a thread": (threading.current_thread(), ("name",)),
    "a module": (re, ("compile",)),
    "a module that finds names by itself": (
        made_module(__getattr__=lambda name: name),
        ("anything",),
    ),
    "a module that calls itself numpy": (
        made_module(__name__="numpy", __getattr__=lambda name: name),
        ("anything",),
    ),
    "a module of another class": (made_module(Module, a=1), ("a",)),
    "one of these that finds names by itself": (
        made_module(Module, __getattr__=lambda name: name),
        ("anything",),
    ),
    "a module that exports what it does not bind": (
        made_module(__all__=["a"], __getattr__=lambda name: name),
        ("a",),
    ),
    "a lazy module": (lazy("tabnanny"), ("check",)),
    "sys": (sys, ("path",)),
    "sys.flags": (sys.flags, ("debug",)),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_no_name_that_an_object_has_is_missing(case):
    value, names = OBJECTS[case]
    found = known(value).attributes
    assert all(hasattr(value, name) for name in names)
    assert found is None or set(names) | {n for n in dir(value) if hasattr(value, n)} <= found


@pytest.mark.parametrize(
    "case",
    [
        "a text",
        "an instance",
        "a function",
        "a cached function",
        "a named tuple",
        "a date",
        "a path",
    ],
)
def test_of_usual_objects_all_names_are_known(case):
    assert known(OBJECTS[case][0]).attributes is not None


LIBRARIES = {
    "pandas": [
        "x.DataFrame({'a': [1], 'b c': [2]})",
        "x.DataFrame({'a': [1]}).assign",
        "x.DataFrame({'a': [1]}).plot",
        "x.DataFrame({'a': [1]}).groupby('a')",
        "x.DataFrame({'a': [1]})['a']",
        "x.Series(['a']).str",
        "x.Series(x.to_datetime(['2020'])).dt",
        "x.Series([1], index=['a'])",
        "x.Series([1], index=x.CategoricalIndex(['a']))",
        "x.DataFrame([[1, 2]], columns=x.MultiIndex.from_tuples([('a', 'b'), ('a', 'c')]))",
        "x.DataFrame({'a': [1]}).iloc",
        "x.Timestamp(0)",
        "x.Index(['a'])",
        "x.Categorical(['a'])",
    ],
    "numpy": [
        "x.zeros(3)",
        "x.float64(1)",
        "x.zeros(1, dtype=[('a', int)])[0]",
        "x.rec.array([(1,)], dtype=[('a', int)])",
        "x.rec.array([(1,)], dtype=[('a', int)])[0]",
        "x.ma.array([1])",
        "x.dtype(int)",
        "x.sum",
        "x.random.default_rng()",
        "x.r_",
    ],
    "polars": ["x.DataFrame({'a': [1]})", "x.col('a')", "x.col", "x.Series([1])", "x.Int64"],
    "pyarrow": ["x.table({'a': [1]})", "x.array([1])", "x.int64()", "x.schema([])"],
    "xarray": ["x.Dataset({'a': ('x', [1])})", "x.DataArray([1], dims='x')"],
    "torch": ["x.zeros(1)", "x.nn.Linear(1, 1)", "x.Size([1])", "x.float32", "x.nn.Parameter()"],
    "matplotlib": ["x.figure.Figure()", "x.figure.Figure().subplots()", "x.rcParams"],
}


def of(library: str, *code: str):
    return pytest.param(library, *code, marks=pytest.mark.torch if library == "torch" else ())


@pytest.mark.parametrize(
    ("library", "code"),
    [of(library, code) for library, codes in LIBRARIES.items() for code in codes],
)
@pytest.mark.filterwarnings("ignore")
def test_no_name_that_a_librarys_object_has_is_missing(library, code):
    module = pytest.importorskip(library)
    if library == "matplotlib":
        pytest.importorskip("matplotlib.figure")
    value = eval(code, {"x": module})
    found = known(value).attributes
    names = set()
    for name in dir(value):
        try:
            getattr(value, name)
        except Exception:
            continue
        names.add(name)
    assert found is None or names <= found


@pytest.mark.parametrize("library", [*map(of, LIBRARIES)])
@pytest.mark.filterwarnings("ignore")
def test_no_name_that_a_library_has_is_missing(library):
    module = pytest.importorskip(library)
    found = known(module).attributes
    assert found is None or {*dir(module), "__version__"} <= found


def test_a_property_counts_more_than_what_is_kept_under_its_name():
    class Wrapped:
        here = property(lambda self: [1])

    wrapped = Wrapped()
    wrapped.__dict__["here"] = 3
    assert not gather({"x": wrapped}, [("x", "here")])


def test_a_method_of_an_object_that_reads_attributes_by_itself_is_not_known():
    class Reading:
        def __getattribute__(self, name):
            return lambda **anything: None

        def method(self, a): ...

    assert not gather({"x": Reading()}, [("x", "method")])


def test_a_column_that_is_named_as_a_method_is_the_method():
    pd = pytest.importorskip("pandas")
    found = gather({"x": pd.DataFrame({"mean": [1]})}, [("x", "mean")])[("x", "mean")]
    assert found.library == "pandas"


def test_a_class_that_makes_objects_and_prepares_them_takes_any_keyword():
    class Either:
        def __new__(cls, **options):
            return options

        def __init__(self, a): ...

    assert known(Either).parameters is None


# Columns


def structured():
    np = pytest.importorskip("numpy")
    return np.zeros(2, dtype=[(("Title", "age"), "i4"), ("fare", "f8")])


TABLES = {
    "pandas": ("x.DataFrame({'age': [1], 'fare': [2.0]})", {"age", "fare"}),
    "polars": ("x.DataFrame({'age': [1], 'fare': [2.0]})", {"age", "fare"}),
    "pyarrow": ("x.table({'age': [1], 'fare': [2.0]})", {"age", "fare"}),
    "xarray": (
        "x.Dataset({'age': ('row', [1])}, coords={'place': ('row', ['a'])})",
        {"age", "row", "place"},
    ),
}


@pytest.mark.parametrize("library", TABLES)
def test_the_columns_of_a_table_are_known(library):
    code, columns = TABLES[library]
    assert set(known(eval(code, {"x": pytest.importorskip(library)})).columns) == columns


def test_the_columns_of_a_batch_of_rows_are_known():
    pa = pytest.importorskip("pyarrow")
    assert known(pa.record_batch({"age": [1]})).columns == ("age",)


def test_the_coordinates_of_a_data_array_are_known():
    xr = pytest.importorskip("xarray")
    array = xr.DataArray([1], dims="row", coords={"place": ("row", ["a"])})
    assert set(known(array).columns) == {"row", "place"}


def test_the_fields_of_a_structured_array_are_known_by_name_and_title():
    assert set(known(structured()).columns) == {"age", "Title", "fare"}
    assert set(known(structured()[0]).columns) == {"age", "Title", "fare"}


def test_an_array_without_fields_has_no_columns():
    np = pytest.importorskip("numpy")
    assert known(np.zeros(2)).columns is None


def test_the_columns_that_dask_has_worked_out_are_known():
    dd = pytest.importorskip("dask.dataframe")
    pd = pytest.importorskip("pandas")
    frame = dd.from_pandas(pd.DataFrame({"age": [1]}), npartitions=1)
    assert list(frame.columns) == ["age"]
    assert known(frame).columns == ("age",)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_list_of_columns_that_would_be_cut_is_not_known(library):
    columns = {f"c{n}": [n] for n in range(MAX_NAMES + 1000)}
    module = pytest.importorskip(library)
    table = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    assert known(table).columns is None


def test_the_attributes_of_a_table_of_6000_columns_are_not_known():
    pd = pytest.importorskip("pandas")
    assert known(pd.DataFrame({f"c{n}": [n] for n in range(MAX_NAMES + 1000)})).attributes is None


def test_a_dict_of_more_keys_than_are_read_is_not_known():
    assert known({f"c{n}": n for n in range(MAX_NAMES + 1000)}).columns is None


@pytest.mark.parametrize("base", ["pandas.DataFrame", "polars.DataFrame", "xarray.Dataset"])
def test_a_table_that_finds_columns_by_itself_is_not_known(base):
    library, name = base.split(".")

    class Own(getattr(pytest.importorskip(library), name)):
        __slots__ = ()

        def __getitem__(self, name):
            return name

    assert known(Own({"age": [1]} if name == "DataFrame" else {})).columns is None
