"""Live objects as lines of text, without running anything of theirs."""

import dataclasses
import sys
import time
from collections import namedtuple

import pytest

from jupyter_sc2.introspection.rendering import describe
from jupyter_sc2.introspection.variables import (
    adapter,
    choose,
    describe_name,
    describe_variable,
    sample_of,
)


def line(value: object) -> str:
    variable = describe_variable("x", value)
    return describe([variable]).strip("# \n") if variable else ""


@dataclasses.dataclass
class Point:
    """A place."""

    x: float
    y: float = 0.0


def clean(table, sep=",", *rest, deep=False, api_key="abc", **options):
    """Removes what is empty.

    And more.
    """


class Hostile:
    """Everything that could run is a trap."""

    def __getattribute__(self, name):
        raise AssertionError(f"ran __getattribute__({name!r})")

    def __repr__(self):
        raise AssertionError("ran __repr__")

    __str__ = __len__ = __iter__ = __eq__ = __hash__ = __bool__ = __repr__

    @property
    def __class__(self):
        raise AssertionError("ran __class__")

    @property
    def __dict__(self):
        raise AssertionError("ran __dict__")


class HostileList(list):
    __len__ = __iter__ = __getitem__ = __repr__ = Hostile.__repr__
    __getattribute__ = Hostile.__getattribute__


class HostileDict(dict):
    __len__ = __iter__ = __getitem__ = keys = items = __repr__ = Hostile.__repr__
    __getattribute__ = Hostile.__getattribute__


class Meta(type):
    @property
    def __name__(cls):
        raise AssertionError("ran __name__")

    def __instancecheck__(cls, instance):
        raise AssertionError("ran __instancecheck__")

    def mro(cls):
        return type.mro(cls)


class Odd(metaclass=Meta):
    pass


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "x: int"),
        ("text", "x: str"),
        ([1, 2], "x: list of 2 int"),
        ([1, "a"], "x: list of 2"),
        ((), "x: tuple of 0"),
        ({"a": 1, "b": 2}, "x: dict 'a', 'b'"),
        ({"api_key": 1, "b": 2}, "x: dict 'b'"),
        (Point(1, 2), "x: Point fields x, y"),
        (Pair(1, 2), "x: Pair fields left, right"),
        (Point, "x: class (x, y=0.0), A place., fields x, y"),
        (
            clean,
            "x(table, sep=…, *rest, deep=False, api_key=…, **options): function, Removes what is empty.",
        ),
        (KeyError("age"), "x: KeyError"),
        (None, ""),
        (time, "x: module time"),
        (HostileList([1]), "x: HostileList of 1 int"),
        (HostileDict(a=1), "x: HostileDict 'a'"),
        (Odd(), "x: Odd"),
    ],
    ids=str.__class__ and (lambda value: type.__dict__["__name__"].__get__(type(value))),
)
def test_an_object_is_described_by_what_helps_to_write_code(value, expected):
    assert line(value) == expected


def test_nothing_of_a_hostile_object_runs():
    assert line(Hostile()) == "x: Hostile"


def test_arrays_have_shape_and_dtype():
    np = pytest.importorskip("numpy")
    assert line(np.zeros((3, 2))) == "x: ndarray (3, 2) float64"
    records = np.zeros(3, dtype=[("age", "i4"), ("name", "U8")])
    assert line(records) == "x: ndarray (3,) fields age, name"


def test_an_array_of_a_hostile_subclass_is_an_array():
    np = pytest.importorskip("numpy")

    class Mine(np.ndarray):
        shape = property(Hostile.__repr__)

    assert line(np.zeros(3).view(Mine)) == "x: Mine (3,) float64"


def test_tensors_have_shape_and_dtype():
    torch = pytest.importorskip("torch")
    assert line(torch.zeros(2, 3)) == "x: Tensor (2, 3) float32"


def test_a_data_frame_has_its_columns_by_dtype():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": [1], "fare": [2.0], "class": [3]})
    assert line(frame) == "x: DataFrame (1, 3) int64 age, class; float64 fare"


def test_a_data_frame_of_a_hostile_subclass_is_a_data_frame():
    pd = pytest.importorskip("pandas")

    class Mine(pd.DataFrame):
        columns = shape = dtypes = index = property(Hostile.__repr__)
        __getattr__ = __len__ = Hostile.__repr__

    mine = pd.DataFrame({"age": [1]})
    object.__setattr__(mine, "__class__", Mine)
    assert line(mine) == "x: Mine (1, 1) int64 age"


def test_a_series_has_its_length_dtype_and_name():
    pd = pytest.importorskip("pandas")
    assert line(pd.Series([1, 2], name="age")) == "x: Series (2,) int64 'age'"


def test_a_wide_data_frame_stays_a_line():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({f"column_{n}": [n] for n in range(500)})
    assert len(line(frame)) < 250
    assert "(1, 500)" in line(frame)


def test_a_polars_frame_has_its_columns():
    pl = pytest.importorskip("polars")
    assert line(pl.DataFrame({"age": [1], "name": ["a"]})) == (
        "x: DataFrame (1, 2) Int64 age; String name"
    )


def test_a_lazy_frame_is_not_computed():
    pl = pytest.importorskip("polars")

    def explode(frame):
        raise AssertionError("computed")

    assert line(pl.LazyFrame({"a": [1]}).map_batches(explode)) == "x: LazyFrame"


def test_an_arrow_table_has_its_columns():
    pa = pytest.importorskip("pyarrow")
    assert line(pa.table({"age": [1]})) == "x: Table (1, 1) int64 age"


def test_a_dataset_has_its_arrays_with_their_dimensions():
    xr = pytest.importorskip("xarray")
    data = xr.Dataset({"t": (("x", "y"), [[1.0, 2.0]])}, coords={"y": [3, 4]})
    assert line(data) == "x: Dataset t(x 1, y 2) float64; coordinates y"
    assert line(data["t"]) == "x: DataArray (x 1, y 2) float64"


def names(*args, **options) -> list[str]:
    options = {"budget": 60, **options}  # seconds: a busy machine is slow
    return [variable.name for variable in choose(*args, **options)]


def test_the_names_that_the_cell_uses_come_before_recent_ones():
    namespace = {f"v{n}": [n] for n in range(20)}
    assert names(namespace, ["v3", "v5"], most=4) == ["v3", "v5", "v18", "v19"]


def test_a_number_is_told_only_where_it_is_used():
    namespace = {"a": 1, "b": 2, "rows": [1]}
    assert names(namespace, ["b"]) == ["b", "rows"]


@pytest.mark.parametrize("name", ["_private", "api_key", "DB_PASSWORD", "token"])
def test_private_and_secret_names_are_left_out(name):
    assert describe_name({name: [1]}, name) is None
    assert choose({name: [1]}, [name]) == []


def test_what_the_shell_has_put_there_is_left_out_until_the_user_takes_its_name():
    theirs = [1]
    assert describe_name({"In": theirs}, "In", hidden={"In": theirs}) is None
    assert describe_name({"In": [2]}, "In", hidden={"In": theirs}) is not None


def test_looking_stops_when_its_time_is_over():
    assert choose({f"v{n}": [n] for n in range(20)}, ["v1"], budget=-1) == []


def test_of_ten_thousand_variables_only_the_newest_are_looked_at():
    looked = []

    class Counted(dict):
        def __getitem__(self, name):
            looked.append(name)
            return super().__getitem__(name)

    assert names(Counted({f"v{n}": n for n in range(10_000)}), ["v7"]) == ["v7"]
    assert len(looked) <= 201


@pytest.mark.parametrize(
    ("value", "sample"),
    [(3, "= 3"), ("abc", "= 'abc'"), ([1, 2, 3, 4], "e.g. 1, 2, 3"), ("a" * 99, ""), ([[1]], "")],
)
def test_values_are_shown_where_they_are_asked_for(value, sample):
    assert sample_of(value) == sample
    assert "=" not in describe_name({"x": value}, "x").detail
    assert describe_name({"x": value}, "x", values=True).detail.endswith(sample)


def test_a_table_shows_its_first_row_without_what_may_be_secret():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"name": ["Ada"], "api_key": ["x"]})
    assert sample_of(frame) == "e.g. name='Ada'"


def test_to_tell_of_a_frame_costs_no_more_in_a_library_of_many_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": [1], "name": ["Ada"]})
    ran = 0

    def watch(code, event, argument):
        nonlocal ran
        ran += event == "call"

    line(frame)
    sys.setprofile(watch)
    try:
        line(frame)
    finally:
        sys.setprofile(None)
    assert (
        ran < 1_000
    )  # pandas alone has some 400 names in a frame's classes, which each look-up would go through


def test_no_reference_is_kept():
    import gc
    import weakref

    class Thing:
        pass

    namespace = {"thing": Thing()}
    reference = weakref.ref(namespace["thing"])
    choose(namespace, ["thing"])
    namespace.clear()
    gc.collect()
    assert reference() is None


def test_others_can_add_an_adapter():
    class Special:
        pass

    adapter(f"{Special.__module__}.Special")(lambda value: ("special", "with detail"))
    assert line(Special()) == "x: special with detail"


def test_an_adapter_that_fails_leaves_the_kind():
    class Failing:
        pass

    adapter(f"{Failing.__module__}.Failing")(lambda value: 1 / 0)
    assert line(Failing()) == "x: Failing"
