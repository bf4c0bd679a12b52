"""Objects that lie, trap whoever looks at them, or have names that are no strings: no code of theirs runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_sc2.introspection.facts import gather
from jupyter_sc2.introspection.variables import describe_name
from jupyter_sc2.kernel.namespace import LiveNamespace
from jupyter_sc2.pipeline.grounding import checker
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import CompletionRequest

USER = "<the user's code>"

# What every case may use. Each method does what it should, so that nothing fails early and hides what comes after.
COMMON = """
import enum, sys, types

class Label(str):
    def __str__(self): return str.__str__(self)
    def __repr__(self): return str.__repr__(self)
    def __format__(self, spec): return str.__format__(self, spec)
    def __hash__(self): return str.__hash__(self)
    def __eq__(self, other): return str.__eq__(self, other)
    def __lt__(self, other): return str.__lt__(self, other)
    def __len__(self): return str.__len__(self)
    def __iter__(self): return str.__iter__(self)
    def __contains__(self, part): return str.__contains__(self, part)
    def __getitem__(self, at): return str.__getitem__(self, at)
    def __add__(self, other): return str.__add__(self, other)
    def startswith(self, *of): return str.startswith(self, *of)
    def partition(self, at): return str.partition(self, at)
    def isidentifier(self): return str.isidentifier(self)
    def __getattribute__(self, name): return object.__getattribute__(self, name)

class Meta(type):
    def __eq__(cls, other): return cls is other
    def __hash__(cls): return 1
    def __getattribute__(cls, name): return type.__getattribute__(cls, name)
    def __instancecheck__(cls, one): return False
    def __subclasscheck__(cls, one): return False
    def __repr__(cls): return "odd"
    def __call__(cls, *args, **options): return type.__call__(cls, *args, **options)

class Odd(metaclass=Meta):
    def __getattr__(self, name): raise AttributeError(name)
    def __eq__(self, other): return self is other
    def __hash__(self): return hash("x")
    def __repr__(self): return "odd"
    __str__ = __repr__
    def __len__(self): return 1
    def __bool__(self): return True
    def __iter__(self): return iter([1])
    @property
    def __class__(self): return str

class Colour(enum.Enum):
    RED = "red"
    def __str__(self): return "red"
    def __repr__(self): return "red"
    def __format__(self, spec): return "red"
    def __hash__(self): return 7

class Kind(str, enum.Enum):
    WIDE = "wide"
    def __str__(self): return "wide"
    def __hash__(self): return str.__hash__(self)
    def __eq__(self, other): return str.__eq__(self, other)

odd = Odd()
"""

CASES = {
    "names in the namespace": """
globals().update({("a", 1): 3, Label("x"): 4, Colour.RED: 5, Kind.WIDE: 6, 7: 8, odd: 9, None: 10})
""",
    "a namespace with a name that equals another": "globals()[Label('y')] = [1]",
    "keys of dicts": "x = {Label('a'): 1, Colour.RED: 2, Kind.WIDE: 3, odd: 4, ('a', odd): 5, 'b': 6}",
    "a dict and a list that hold odd ones": "x = {'a': odd, 'b': Odd}; y = [odd, odd]; z = (Odd, odd)",
    "keys of an object's own dictionary": """
class Thing: pass
x = Thing(); x.__dict__.update({Label('a'): 1, ('b',): 2, odd: 3, 'c': 4})
""",
    "an object whose dictionary is odd": """
class Names(dict):
    def get(self, *of): return dict.get(self, *of)
    def __getitem__(self, of): return dict.__getitem__(self, of)
    def keys(self): return dict.keys(self)
    def items(self): return dict.items(self)
    def __iter__(self): return dict.__iter__(self)
    def __contains__(self, of): return dict.__contains__(self, of)
    def __len__(self): return dict.__len__(self)
class Thing: pass
x = Thing(); x.__dict__ = Names(a=1)
y = Names(a=1)
""",
    "names in a class": "x = type('x', (), {Label('a'): 1, ('b',): 2, odd: 3, Label('__getattr__'): 4}); y = x()",
    "a class with an odd name": "x = type(Label('X'), (), {}); y = x(); x.__qualname__ = Label('X')",
    "a class with an odd module": """
class X: __module__ = Label('pandas')
class Y: __module__ = odd
x, y = X(), Y()
""",
    "a metaclass that lies": """
class Lying(type):
    __mro__ = property(lambda cls: ())
    __module__ = property(lambda cls: "pandas")
    __name__ = property(lambda cls: "DataFrame")
    __dict__ = property(lambda cls: {})
    def __dir__(cls): return []
class X(metaclass=Lying):
    __slots__ = ("a", "__dict__")
    def __dir__(self): return []
x, y = X(), X; x.b = 1
""",
    "numbers and texts as labels, elements and defaults": """
import pandas as pd
class Level(enum.IntEnum):
    LOW = 1
    def __repr__(self): return "low"
    def __str__(self): return "low"
class Share(float):
    def __repr__(self): return "share"
    def __format__(self, spec): return "share"
    def __lt__(self, other): return True
    def __hash__(self): return 1
x = {Level.LOW: 1, Share(2): 2, "q": 3}
y = pd.DataFrame([[Level.LOW, Share(1), Label("s")]], columns=pd.Index([Level.LOW, Share(2), "q"], dtype=object))
z = [Level.LOW, Share(2)]
def w(a=Level.LOW, b=Share(1), *, c=Label("k")): pass
""",
    "the last error": """
class Wrong(Exception):
    args = property(lambda self: ("a",))
    def __str__(self): return "wrong"
    @property
    def __class__(self): return int
x = sys.last_value = Wrong(Label("boom"))
""",
    "fields": """
class X: _fields = (odd, Label('a'), Colour.RED)
class Y: _fields = Label('ab')
class Z: __dataclass_fields__ = {odd: 1, Label('a'): 2}
class Slotted: __slots__ = (Label('a'), Label('b'))
x, y, z, w = X(), Y(), Z(), Slotted()
""",
    "a data class, a named tuple and an enum": """
import dataclasses, collections
@dataclasses.dataclass
class Point:
    a: int = 1
    def __getattribute__(self, name): return object.__getattribute__(self, name)
    def __repr__(self): return ""
class Pair(collections.namedtuple("Pair", "a b")):
    def __getitem__(self, at): return tuple.__getitem__(self, at)
    def __iter__(self): return tuple.__iter__(self)
    def __len__(self): return 2
x, y, z, w = Point(), Pair(1, 2), Colour.RED, Kind.WIDE
""",
    "subclasses of builtins": """
def method(self, *of): return 1
class List(list):
    __module__ = "builtins"
    __len__ = __iter__ = __getitem__ = __repr__ = method
class Set(set): __module__ = "builtins"; __iter__ = __len__ = __contains__ = method
class Int(int): __repr__ = __str__ = __abs__ = __lt__ = method
class Bytes(bytes): __repr__ = __len__ = method
class Error(Exception):
    __str__ = __repr__ = method
    args = property(method)
x, y, z, w, v = List([1]), Set([1]), Int(3), Bytes(b"a"), Error("a")
""",
    "modules": """
x = types.ModuleType("x"); x.__dict__.update({Label("a"): 1, ("b",): 2, odd: 3})
x.__name__, x.__all__, x.__path__ = Label("numpy"), [Label("a"), odd], Label("p")
y = types.ModuleType("numpy"); y.__getattr__ = lambda name: name
class Module(types.ModuleType):
    def __getattribute__(self, name): return types.ModuleType.__getattribute__(self, name)
z = Module("z")
""",
    "functions": """
class Defaults(tuple):
    def __iter__(self): return tuple.__iter__(self)
    def __len__(self): return tuple.__len__(self)
    def __getitem__(self, at): return tuple.__getitem__(self, at)
class Given(dict):
    def keys(self): return dict.keys(self)
    def __iter__(self): return dict.__iter__(self)
    def __getitem__(self, at): return dict.__getitem__(self, at)
def x(a, b, *, c=1): pass
x.__defaults__, x.__kwdefaults__ = Defaults((odd, Label("v"))), Given({"c": odd, Label("d"): 2})
x.__name__, x.__qualname__, x.__module__, x.__doc__ = Label("x"), Label("x"), Label("seaborn"), Label("doc")
def y(a): pass
y.__defaults__ = (1, 2, 3)
y.__dict__[Label("__wrapped__")] = odd
class Method(staticmethod):
    def __getattribute__(self, name): return staticmethod.__getattribute__(self, name)
class z:
    f = Method(x)
    __init__ = Method(x)
""",
    "what looks attributes up": """
import threading, weakref, functools
class Local(threading.local):
    def __init__(self): self.a = 1
class Target:
    def __getattr__(self, name): return name
    def f(self): pass
target = Target()
x, y, z, w = Local(), weakref.proxy(target), target.f, functools.partial(target.f)
v = super(Target, target)
""",
    "liars": """
class Manager:
    def __getattr__(self, name): return [1]
class DataFrame:
    def __init__(self): self._mgr = self._df = self._expr = Manager()
    def __getattr__(self, name): return 1
made = []
for module in ("pandas", "pandas.core.frame", "polars.dataframe.frame", "pyarrow.lib", "xarray.core.dataset",
               "dask.dataframe.dask_expr._collection", "numpy", "torch", "torch.nn.parameter", "pandas.core.generic"):
    for name in ("DataFrame", "Table", "Dataset", "ndarray", "Tensor", "Parameter", "NDFrame",
                 "_ArrayFunctionDispatcher"):
        made.append(type(name, (DataFrame,), {"__module__": module})())
globals().update({f"v{n}": one for n, one in enumerate(made)})
x, y, z = made[:3]
""",
    "pandas: labels": """
import pandas as pd
x = pd.DataFrame([[1, 2, 3, 4]], columns=pd.Index([Label("a"), Colour.RED, Kind.WIDE, odd], dtype=object))
x.index.name = Label("rows")
y = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", Colour.RED), ("a", Label("b"))]))
z = pd.Series([1, 2], index=pd.Index([Label("a"), Colour.RED], dtype=object), name=Label("s"))
w = pd.DataFrame([[1, 2]], columns=pd.CategoricalIndex([Colour.RED, Label("b")]))
""",
    "pandas: arrays and types of the user's": """
import numpy as np, pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype
class Money(ExtensionDtype):
    name = property(lambda self: "money")
    type = float
    def __str__(self): return "money"
    @classmethod
    def construct_array_type(cls): return Moneys
class Moneys(ExtensionArray):
    def __init__(self, values): self.values = np.asarray(values)
    dtype = property(lambda self: Money())
    nbytes = 8
    def __len__(self): return len(self.values)
    def __getitem__(self, at):
        return self.values[at] if isinstance(at, int) else Moneys(self.values[at])
    def isna(self): return np.isnan(self.values)
    def copy(self): return Moneys(self.values.copy())
    def take(self, at, allow_fill=False, fill_value=None): return Moneys(self.values.take(at))
    @classmethod
    def _from_sequence(cls, values, dtype=None, copy=False): return cls(values)
x = pd.DataFrame({"a": Moneys([1.0, 2.0]), "b": [1, 2]})
y = x["a"]
z = pd.DataFrame({"a": [1, 2]}, index=pd.Index(Moneys([1.0, 2.0])))
class Rows(pd.Index):
    def __len__(self): return pd.Index.__len__(self)
    def __iter__(self): return pd.Index.__iter__(self)
w = pd.DataFrame({"a": [1, 2]}); rows = w.index.astype(object).view(); rows.__class__ = Rows; w.index = rows
""",
    "pandas: time zones, sparse values and frames of the user's": """
import datetime, numpy as np, pandas as pd
class Zone(datetime.tzinfo):
    def utcoffset(self, when): return datetime.timedelta(0)
    def dst(self, when): return None
    def tzname(self, when): return "zone"
    def __str__(self): return "zone"
    def __repr__(self): return "zone"
x = pd.DataFrame({"t": pd.DatetimeIndex(["2020-01-01"]).tz_localize(Zone())})
y = x["t"]
class Frame(pd.DataFrame):
    columns = property(lambda self: ["a"])
    shape = property(lambda self: (1, 1))
    dtypes = property(lambda self: [1])
    def __getitem__(self, name): return 1
    def __len__(self): return 1
z = Frame({"a": [1]})
class Fill(float):
    def __repr__(self): return "0"
    def __str__(self): return "0"
    def __eq__(self, other): return float.__eq__(self, other)
    __hash__ = float.__hash__
w = pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1.0], fill_value=Fill(0.0))})
""",
    "numpy": """
import numpy as np
class ndarray(np.ndarray):
    shape = property(lambda self: (1,))
    dtype = property(lambda self: np.dtype(int))
    def __getitem__(self, at): return np.ndarray.__getitem__(self, at)
x = np.zeros(3).view(ndarray)
y = np.zeros(2, dtype=[(Label("a"), "i4"), (Label("b"), "f8")])
class Void(np.void):
    def __getattribute__(self, name): return np.void.__getattribute__(self, name)
z = np.zeros(2, dtype=np.dtype((Void, [("a", "i4")])))
w = np.array([odd], dtype=object)
""",
    "torch": """
import torch
class Mine(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args, **options): return super().__torch_function__(*args, **options)
class Net(torch.nn.Module):
    def __getattr__(self, name): return super().__getattr__(name)
class Plain(torch.nn.Module): pass
x, y, z = torch.zeros(2).as_subclass(Mine), Net(), Plain()
""",
    "polars": """
import polars as pl
class Frame(pl.DataFrame):
    columns = property(lambda self: ["a"])
    def __getitem__(self, name): return 1
x = Frame({"a": [1]})
y = pl.DataFrame({"a": [odd, Colour.RED]}, schema={"a": pl.Object})
z = pl.LazyFrame({"a": [1]}).map_batches(lambda frame: frame)
""",
    "pyarrow": """
import pyarrow as pa
class Kept(pa.ExtensionType):
    def __init__(self): super().__init__(pa.int64(), "sc2.kept")
    def __arrow_ext_serialize__(self): return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, data): return cls()
    def __str__(self): return "kept"
    def __repr__(self): return "kept"
kept = Kept()
x = pa.table({"a": pa.ExtensionArray.from_storage(kept, pa.array([1]))})
y = pa.table({"a": pa.ExtensionArray.from_storage(Kept(), pa.array([1])), "b": [1]})
z = pa.record_batch({"a": [1]})
""",
    "pyarrow in pandas": """
import pandas as pd, pyarrow as pa
class Kept(pa.ExtensionType):
    def __init__(self): super().__init__(pa.int64(), "sc2.kept2")
    def __arrow_ext_serialize__(self): return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, data): return cls()
    def __str__(self): return "kept"
array = pd.arrays.ArrowExtensionArray(pa.chunked_array([pa.ExtensionArray.from_storage(Kept(), pa.array([1]))]))
nested = pa.ListArray.from_arrays([0, 1], pa.ExtensionArray.from_storage(Kept(), pa.array([1])))
x = pd.DataFrame({"a": array, "b": pd.arrays.ArrowExtensionArray(pa.chunked_array([nested]))})
y = x["a"]
""",
    "xarray": """
import numpy as np, xarray as xr
class Duck:
    def __init__(self): self.values = np.zeros((2, 3))
    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)
    ndim = property(lambda self: 2)
    def __array_function__(self, *args): return NotImplemented
    def __array_ufunc__(self, *args, **options): return NotImplemented
    def __array_namespace__(self): return np
    def __getitem__(self, at): return self
    def astype(self, *of, **options): return self
x = xr.Dataset({"a": xr.Variable(("i", "j"), Duck()), Label("b"): ("k", [1]), Colour.RED: ("k", [2])},
               coords={"k": [3], Kind.WIDE: 4})
y = xr.DataArray(Duck(), dims=(Label("i"), Colour.RED))
class Data(xr.Dataset):
    __slots__ = ()
    _variables = property(lambda self: {})
    def __getitem__(self, name): return 1
z = xr.Dataset({"a": ("i", [1])}); z.__class__ = Data
""",
    "dask": """
import dask.dataframe as dd, dask.array as da, pandas as pd, numpy as np, xarray as xr
def load(): return pd.DataFrame({"a": [1]})
x = dd.from_pandas(pd.DataFrame({"a": [1], "b": [2]}), npartitions=1)
x.columns
y = x.map_partitions(lambda part: part)
z = xr.Dataset({"t": (("i",), da.ones(3))})
""",
}
USES = "x; y; z; w; v; x.a; y.a; x['a']; y['b']; x(a=1); y(b=2); x.f(c=1); x.a.b; y['a'].c; x[('a', 1)]\n"
TEXTS = (
    "x.a",
    "x['a']",
    "y.zz",
    "z['zz'].b",
    "w.a.b",
    "x(zz=1)",
    "z(zz=2)",
    "x.f(zz=1)",
    "v.a",
    "zzzz",
    "In",
)


@pytest.fixture
def shell() -> InteractiveShell:
    return InteractiveShell(config=Config(HistoryManager={"enabled": False}))


@contextmanager
def user_code() -> Iterator[list[str]]:
    """Which functions of the user's run on this thread, by their names."""
    ran: list[str] = []

    def watch(frame, event, argument):
        if event == "call" and frame.f_code.co_filename == USER:
            ran.append(
                frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
            )

    sys.setprofile(watch)
    try:
        yield ran
    finally:
        sys.setprofile(None)


def made(case: str, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CASES[case]
    for package in ("pandas", "numpy", "torch", "polars", "pyarrow", "xarray", "dask"):
        if f"import {package}" in source or f", {package}" in source:
            pytest.importorskip(package)
    monkeypatch.setattr(sys, "last_value", None, raising=False)
    exec(compile(COMMON + source, USER, "exec"), shell.user_ns)
    shell.last_execution_succeeded = False


@pytest.mark.parametrize("values", [False, True], ids=["without values", "with values"])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.torch if c == "torch" else ()) for c in CASES]
)
def test_no_code_of_the_users_runs(case, values, shell, monkeypatch):
    made(case, shell, monkeypatch)
    live = LiveNamespace(shell, SC2(context_values=values))
    names = [name for name in shell.user_ns if type(name) is str]
    namespace = {name: shell.user_ns[name] for name in names}
    with user_code() as ran:
        told = live.state(CompletionRequest(text=USES, offset=len(USES)))
        for text in TEXTS:
            for prefix in ("", "print("):
                request = CompletionRequest(text=USES + prefix, offset=len(USES + prefix))
                checker(request, live)(text, True)
        # One by one as well: what is told ends with its time, which comes soon where calls are counted.
        lines = {name: describe_name(namespace, name, values=values) for name in namespace}
        gather(namespace, [(name,) for name in namespace])
    assert ran == []
    assert told
    if "x" in namespace:
        assert lines["x"] is not None


def test_code_of_the_users_that_runs_is_counted():
    with user_code() as ran:
        exec(compile("def trap(): pass\ntrap()", USER, "exec"), {})
    assert ran == ["<module>", "trap"]
