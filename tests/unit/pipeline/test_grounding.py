"""What the live namespace refutes, and above all what it does not."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import types
from functools import partial

import pytest

from jupyter_sc2.introspection.facts import Facts, collections, gather
from jupyter_sc2.introspection.files import instead_of
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.grounding import Violation, applies, checker, valid_prefix
from jupyter_sc2.types import CompletionRequest

pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")
plt = pytest.importorskip("matplotlib.pyplot")
figure = pytest.importorskip("matplotlib.figure")


class Model:
    """Takes attributes as it is fitted."""

    def __init__(self, depth=3):
        self.depth = depth

    def fit(self, X, y=None):
        self.coef_ = X


class Dynamic:
    def __getattr__(self, name):
        return name


def plain(a, b=1, *, sep=","):
    """Takes no other keyword."""


def open_ended(a, **options): ...


class Probe:
    def calibrate(self, gain_db): ...

    def tune(self, gain_db, gain_hz=1): ...


sns = types.ModuleType("sns")
exec(  # as if it were seaborn's
    "def kdeplot(data=None, *, x=None, y=None, hue=None, color=None): ...\n"
    "class Plot:\n    def __init__(self, *args, data=None, **variables): ...\n",
    {"__name__": "seaborn.fake"},
    sns.__dict__,
)

FRAME = pd.DataFrame({"age": [1, 2], "fare": [1.0, 2.0], "sex": ["m", "f"]})
NAMESPACE = {
    "pd": pd,
    "np": np,
    "sns": sns,
    "math": math,
    "plt": plt,
    "ax": figure.Figure().subplots(),
    "df": FRAME,
    "model": Model(),
    "Model": Model,
    "dynamic": Dynamic(),
    "plain": plain,
    "open_ended": open_ended,
    "options": {"sep": ",", "header": 0},
    "values": [1, 2, 3],
    "total": 3,
    "labels": pd.Series([1, 2], index=["a", "b"]),
    "FRAME_AGES": FRAME["age"],
    "days": pd.Series([1, 2], index=pd.to_datetime(["2026-01-01", "2026-01-02"])),
    "empty": pd.Series([], index=pd.to_datetime([]), dtype=float),
    "probe": Probe(),
    "wings": pd.DataFrame({"wing_span_mm": [1.0], "tail_mm": [2.0], "tail_g": [3.0], "age": [1]}),
    "records": np.zeros(2, dtype=[("age", "i4"), ("fare", "f8")]),
    "taken": [1],
}
for library, make in (
    ("polars", lambda pl: pl.DataFrame({"age": [1], "fare": [2.0]})),
    ("pyarrow", lambda pa: pa.table({"age": [1], "fare": [2.0]})),
    ("xarray", lambda xr: xr.Dataset({"age": ("time", [1]), "fare": ("time", [2.0])})),
):
    with contextlib.suppress(ImportError):
        NAMESPACE[library] = make(importlib.import_module(library))


class Namespace:
    """A namespace in which everything has been run but the cells given as `pending`."""

    epoch = 1

    def __init__(self, *pending: str) -> None:
        self.pending = pending

    def state(self, request):
        return ""

    def facts(self, paths, request):
        return Facts(
            frozenset(NAMESPACE),
            collections=partial(collections, NAMESPACE),
            files=instead_of,
            known=gather(NAMESPACE, paths),
            pending=self.pending,
        )


def violation(code: str, *pending: str, final: bool = True, notebook: Notebook | None = None):
    """What is refuted of the text between ├ and ┤."""
    before, rest = code.split("├")
    text, after = rest.split("┤")
    request = CompletionRequest(
        text=before + after, offset=len(before), notebook=notebook or Notebook()
    )
    return checker(request, Namespace(*pending))(text, final)


REFUTED = {
    "a column that the frame does not have": ('df["├Age"].mean()┤', "column", "Age"),
    "one of several columns": ('df[["age", ├"fares"]]┤', "column", "fares"),
    "a column to group by": ('df.groupby(├"class").mean()┤', "column", "class"),
    "a column for a role": ('sns.kdeplot(data=df, x="├Age")┤', "column", "Age"),
    "the same, the table first": ('sns.kdeplot(df, x="├Age")┤', "column", "Age"),
    "a variable of a plot": ('sns.Plot(df, "age", color="├class")┤', "column", "class"),
    "a column to plot": ('df.plot(x="├Age")┤', "column", "Age"),
    "one of several to plot": ('df.plot.scatter(x="age", ├y="Fare")┤', "column", "Fare"),
    "an attribute of a module": ("x = np.├arrange(3)┤", "attribute", "arrange"),
    "an attribute of a module in a module": ("np.linalg.├normal(x)┤", "attribute", "normal"),
    "a method of a frame": ("df.├group_by('age')┤", "attribute", "group_by"),
    "a column as an attribute": ("df.├ages.mean()┤", "attribute", "ages"),
    "a method of a column": ("df['age'].├average()┤", "attribute", "average"),
    "a method of a list": ("values.├push(1)┤", "attribute", "push"),
    "a keyword argument": ("plain(1, ├seperator=2)┤", "argument", "seperator"),
    "a keyword argument of a class": ("m = Model(├dep=2)┤", "argument", "dep"),
    "a keyword argument of a method": ("model.fit(values, ├target=values)┤", "argument", "target"),
    "a keyword argument that is given already": ("plain(1, b=2, ├b=3)┤", "argument", "b"),
    "a keyword argument that follows": ("plain(1, ├b=2┤, b=3)", "argument", "b"),
    "one of two that are given at once": ("plain(1, ├b=2, b=3)┤", "argument", "b"),
    "one given already where any is taken": ("open_ended(1, c=2, ├c=3)┤", "argument", "c"),
    "one given already to what a call returns": ("make()(c=2, ├c=3)┤", "argument", "c"),
    "a keyword that no plot knows": ("plt.plot(values, ├lable='a')┤", "argument", "lable"),
    "the same of a plot's axes": ("ax.scatter(values, ├colour='red')┤", "argument", "colour"),
    "a package that is not installed": ("import ├numppy as np┤", "module", "numppy"),
    "a module that a package does not have": ("from numpy.├linear import x┤", "module", "linear"),
    "what a module does not have": ("from math import ├squareroot┤", "member", "squareroot"),
    "one of several": ("from math import sin, ├cosine, tan┤", "member", "cosine"),
    "a name that nobody defines": ("print(├totl)┤", "name", "totl"),
    "a name whose beginning was typed": ("print(tot├l)┤", "name", "totl"),
    "a key of a dict": ('options["├separator"]┤', "column", "separator"),
    "a bracket too many": ("x = ├(1))┤", "syntax", "(1))"),
    "a statement that is none": ("├for in values:┤", "syntax", "for in values:"),
    "a column of some rows": ('df[df["age"] > 1]["├Fare"]┤', "column", "Fare"),
    "a column of the rows at a place": ('df.iloc[:5]["├Fare"]┤', "column", "Fare"),
    "a column behind the rows of loc": ('df.loc[df.age > 1, "├Fare"]┤', "column", "Fare"),
    "one of several behind them": ('df.loc[:, ["age", ├"Fare"]]┤', "column", "Fare"),
    "a column of one row": ('df.at[0, "├Fare"]┤', "column", "Fare"),
    "a column of groups": ('df.groupby("sex")["├Fare"].mean()┤', "column", "Fare"),
    "a column of some of the columns": ('df[["age"]].head()["├Fare"]┤', "column", "Fare"),
    "a column to sort means by": (
        'df.groupby("sex")[["age"]].mean().sort_values(├"Age")┤',
        "column",
        "Age",
    ),
    "a column to compute": ('df.agg({├"Fare": "mean"})┤', "column", "Fare"),
    "one that is begun": ('df.agg({├"Fare"}┤)', "column", "Fare"),
    "one of groups": ('df.groupby("sex").agg({"age": "sum", ├"Fare": "mean"})┤', "column", "Fare"),
    "one that gets a name": ('df.groupby("sex").agg(cost=(├"Fare", "sum"))┤', "column", "Fare"),
    "a column to rename": ('df.rename(columns={├"Age": "years"})┤', "column", "Age"),
    "a column to drop": ('df.drop(columns=["age", ├"Fare"])┤', "column", "Fare"),
    "the columns of a pivot table": (
        'df.pivot_table(index="sex", ├columns="Age")┤',
        "column",
        "Age",
    ),
    "the same by pandas' function": (
        'pd.pivot_table(df, "fare", ├index="Age")┤',
        "column",
        "Age",
    ),
    "a column to merge on": ('df.merge(wings, on="├tail_mm")┤', "column", "tail_mm"),
    "the same of the other frame": ('df.merge(wings, on="├fare")┤', "column", "fare"),
    "a column of the right frame": (
        'pd.merge(df, wings, left_on="age", ├right_on="fare")┤',
        "column",
        "fare",
    ),
    "a role where some rows are given": (
        'sns.kdeplot(df[df.age > 1], x="├Age")┤',
        "column",
        "Age",
    ),
    "a label of a series": ('labels["├c"]┤', "column", "c"),
    "a label where all are numbers": ('FRAME_AGES["├age"]┤', "column", "age"),
    "a column that the typed assignment is to make": (
        'df["ratio"] = df["├ratio"] / 2┤',
        "column",
        "ratio",
    ),
    "a number to sum": ("sum(├total)┤", "collection", "total"),
    "a number of an object": ("sorted(├model.depth, reverse=True)┤", "collection", "model.depth"),
    "a number to loop over": ("for n in ├total:┤", "collection", "total"),
    "a function to loop over": ("[n for n in ├plain]┤", "collection", "plain"),
    "a method to join": ('", ".join(├model.fit)┤', "collection", "model.fit"),
    "an object to count": ("len(├model┤)", "collection", "model"),
    "one of several to go through": ("zip(values, ├total)┤", "collection", "total"),
    "the second of two lines": ("├x = df['age']\ny = df['agee']┤", "column", "agee"),
}


@pytest.mark.parametrize("case", REFUTED)
def test_what_the_namespace_does_not_have_is_refuted(case):
    code, kind, word = REFUTED[case]
    found = violation(code)
    assert found is not None, "not refuted"
    assert (found.kind, found.word) == (kind, word)


OPEN = {
    "a column that is there": 'df["├age"].mean()┤',
    "a column that is made": '├df["new"] = 1┤',
    "a column that the cell makes above": 'df["new"] = 1\ndf["├new"].mean()┤',
    "a column that the text makes and uses": '├df["new"] = 1\ndf["new"].mean()┤',
    "a column of a frame that the cell makes": 'df = load()\ndf["├new"]┤',
    "a column that is assigned in a call": 'df.assign(├ratio=1)["ratio"]┤',
    "a column to plot that is there": 'df.plot.bar(x="├sex", y=["age", "fare"])┤',
    "a color that is no role": 'sns.kdeplot(df, x="age", color="├red")┤',
    "a role where the first argument is no table": 'sns.kdeplot(values, hue="├label")┤',
    "what is no frame's plot": 'plain.plot(x="├Age")┤',
    "a method that is there": "df.├groupby('age')┤",
    "an attribute that fitting makes": "model.fit(values)\nmodel.├coef_┤",
    "an attribute that is made": "├model.name = 'a'┤",
    "what an object computes": "dynamic.├anything()┤",
    "a label of a series": "labels.├a┤",
    "the same in brackets": 'labels["├a"]┤',
    "a day of a series": 'days["├2026-01"]┤',
    "a day where there is none": 'empty["├2026-01"]┤',
    "which of equal elements stays": 'labels.drop_duplicates("├first")┤',
    "names for what is computed of a series": 'labels.agg({├"low": "min"})┤',
    "a column of what a key of a dict is": 'options[1 < 2]["├any"]┤',
    "a column that is computed": 'df.groupby("sex").size()["├m"]┤',
    "a column of a frame that gets more": 'df.reset_index()["├index"]┤',
    "a sum of a column": 'df.sum(axis=1)["├row"]┤',
    "a row": 'df.loc["├row"]┤',
    "a column that is set": '├df.loc[df.age > 1, "old"] = True┤',
    "rows to drop": 'df.drop(├"row")┤',
    "what a column is to be called": 'df.rename(columns={"age": ├"years"})┤',
    "a column to merge on that both have": 'df.merge(wings, on="├age")┤',
    "a level that is grouped by": 'df.groupby("sex").mean().sort_values(├"sex")┤',
    "what a function returns": "plain(1).├anything┤",
    "what has elements": "sum(├values)┤",
    "a frame to loop over": "for column in ├df:┤",
    "a number that is compared": "max(├total, 3)┤",
    "what may go on": "sum(├total┤",
    "what goes on": "sum(├total *┤",
    "what goes on behind the cursor": "sum(├total┤ * values)",
    "a number that gets another value": "total = [1]\nsum(├total)┤",
    "an attribute that may get one": "model.depth = [1]\nsum(├model.depth)┤",
    "a number in a function that may run later": "def f():\n    return ├sum(total)┤",
    "a number that is an argument": "def f(total):\n    return ├sum(total)┤",
    "a function of the user's": "def sum(n): ...\nsum(├total)┤",
    "what the user has typed": "sum(total├)┤",
    "a keyword where any is taken": "open_ended(1, ├anything=2)┤",
    "a keyword that a plot passes on": "plt.plot(values, ├linewidth=2, lw=1, zorder=3)┤",
    "a property that has a setter": "ax.set(├xlabel='a', ylim=(0, 1))┤",
    "a keyword that is looked for inside": "ax.tick_params(├labelbottom=False, direction='in')┤",
    "a keyword of a figure of one's own": "plt.figure(├owner='me')┤",
    "a setting": "plt.rc('font', ├variant='small-caps')┤",
    "a keyword that is there": "plain(1, ├sep=';')┤",
    "a package that is there": "├import json, os.path as path┤",
    "a module that is not loaded": "from ├tkinter.colorchooser import askcolor┤",
    "what a module has": "from math import ├sin, cos as c┤",
    "all that a module has": "├from math import *┤",
    "a module of this package": "from . import ├anything┤",
    "a package that may be missing": "try:\n    ├import numppy┤\nexcept ImportError: pass",
    "a package that is installed above": "%pip install numppy\nimport ├numppy┤",
    "a module in a package": "pd.├api.types┤",
    "a name that the text binds": "├for row in values:\n    print(row)┤",
    "a name of a comprehension": "x = [├v for v in values]┤",
    "a name of a lambda": "x = ├lambda v: v + 1┤",
    "a name that the cell binds below": "def f():\n    return ├helper()┤\n\ndef helper(): ...",
    "a name in a function that may be defined later": "def f():\n    ├return later()┤",
    "a builtin": "├print(len(values))┤",
    "what IPython has": "├display(df)┤",
    "a name that the user has typed": "foo(1)\n├foo(2)┤",
    "names where a star import may bring them": "from math import *\n├x = sin(1)┤",
    "an attribute of a name that the cell binds again": "values = Stack()\nvalues.├push(1)┤",
    "a text that goes on in a string": 'print("├a (b┤',
    "a half of a call": "plain(├1,┤",
    "a header": "├for v in values:┤",
    "a line in a try without its except": "try:\n    ├x = 1┤",
    "a decorator": "├@staticmethod┤",
    "a magic above": "%matplotlib inline\n├x = df['age']┤",
    "a shell's answer": "files = !ls\n├print(files)┤",
    "a cell that is timed": "%%time\n├x = df['age']┤",
    "what the user has broken himself": "x = = 1\n├y = (2┤",
    "a key after the dict was changed": 'options.update(a=1)\n├options["a"]┤',
    "columns after a change in place": 'df.rename(columns=str.upper, inplace=True)\ndf["├AGE"]┤',
    "an await at the top": "├await task()┤".replace("task", "plain"),
    "an f-string": 'print(├f"{total:.2f}")┤',
    "a global that another cell declares": "├total += 1┤",
}


@pytest.mark.parametrize("case", OPEN)
def test_what_may_be_right_is_not_refuted(case):
    assert violation(OPEN[case]) is None


@pytest.mark.parametrize(
    ("pending", "code"),
    [
        ("helper = 1", "print(├helper)┤"),
        ("df = df.rename(columns=str.upper)", 'df["├AGE"]┤'),
        ('df["new"] = 1', 'df["├new"].mean()┤'),
        ("model.fit(values)", "model.├coef_┤"),
        ("import numpy as np\nnp.special = 1", "np.├special┤"),
        ("this is [ no python: helper", "print(├helper)┤"),
        ("%run setup.py", "print(├helper)┤"),
    ],
)
def test_what_a_cell_that_was_not_run_does_is_not_known(pending, code):
    assert violation(code, pending) is None


def test_an_import_in_a_cell_that_was_not_run_changes_nothing():
    assert violation("np.├arrange(3)┤", "import numpy as np") is not None


def test_a_name_that_another_cell_binds_is_known_although_it_failed():
    notebook = Notebook((Cell(id="1", source="1 / 0\nlate = 2"),))
    assert violation("print(├late)┤", notebook=notebook) is None


@pytest.mark.parametrize(
    ("code", "first"),
    [
        ('df["├aeg"].mean()┤', 'age"'),
        ("df['├aeg'].mean()┤", "age'"),
        ("np.├arrange(3)┤", "arange"),
        ("plain(1, ├separ=2)┤", "sep="),
        ("import ├numppy as np┤", "numpy"),
        ("from math import ├squareroot┤", "sqrt"),
        ("plt.plot(values, ├lable='a')┤", "label="),
        ("print(├totl)┤", "total"),
    ],
)
def test_what_can_stand_there_begins_with_the_likest(code, first):
    assert violation(code).choices[0] == first


def test_instead_of_a_number_something_with_elements_that_a_cell_has_made_is_looped_over():
    notebook = Notebook((Cell(id="1", source="values = [1, 2, 3]\ntotal = 3\nlate = [1]"),))
    assert violation("for n in ├total:┤", notebook=notebook).choices == ("values",)


@pytest.mark.parametrize("table", ["records", "polars", "pyarrow", "xarray"])
def test_a_column_that_a_table_does_not_have_is_refuted(table):
    if table not in NAMESPACE:
        pytest.skip(f"needs {table}")
    found = violation(f'x = {table}["├agee"]┤')
    assert (found.kind, found.word, found.choices[0]) == ("column", "agee", 'age"')
    assert violation(f'x = {table}["├fare"]┤') is None


def test_a_part_of_a_date_is_no_column_that_is_missing():
    pytest.importorskip("xarray")
    assert violation('x = xarray["├time.year"]┤') is None
    assert violation('x = xarray.groupby("├time.month")┤') is None


def test_a_group_is_no_column_that_is_missing():
    pytest.importorskip("xarray")
    assert violation('x = xarray.groupby("age")["├1"]┤') is None


def test_a_pattern_is_no_column_that_is_missing():
    pytest.importorskip("polars")
    assert violation('x = polars.explode("├agee")┤') is not None
    assert violation('x = polars.explode("├^a.*$")┤') is None


# Files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with some files."""
    for name in ("sales.csv", "notes.txt", "data/rain.csv", "data/wind.parquet", ".hidden.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a,b\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("code", "word", "choices"),
    [
        (
            "pd.read_csv('├data.csv')┤",
            "data.csv",
            {"sales.csv'", "notes.txt'", "data/rain.csv'"},
        ),
        ('np.loadtxt("├sales.cs")┤', "sales.cs", {'sales.csv"', 'notes.txt"', 'data/rain.csv"'}),
        ("pd.read_csv('data/├temp.csv')┤", "data/temp.csv", {"data/rain.csv'"}),
        ("pd.read_parquet('├x')┤", "x", {"data/wind.parquet'"}),
        ("pd.read_csv('├data')┤", "data", {"sales.csv'", "notes.txt'", "data/rain.csv'"}),
        ("pd.read_csv('├data┤')", "data", {"sales.csv'", "notes.txt'", "data/rain.csv'"}),
        ("pd.read_excel('├x.xlsx')┤", "x.xlsx", set()),
        (
            "open('├log.txt')┤",
            "log.txt",
            {"sales.csv'", "notes.txt'", "data/rain.csv'", "data/wind.parquet'"},
        ),
        (
            "open('├log.txt', 'rb')┤",
            "log.txt",
            {"sales.csv'", "notes.txt'", "data/rain.csv'", "data/wind.parquet'"},
        ),
    ],
)
def test_a_file_that_is_read_and_does_not_exist_is_refuted(code, word, choices, folder):
    found = violation(code)
    assert (found.kind, found.word, set(found.choices)) == ("file", word, choices)


@pytest.mark.parametrize(
    "code",
    [
        "pd.read_csv('├sales.csv')┤",
        "pd.read_csv('├./data/rain.csv')┤",
        "pd.read_parquet('├data')┤",
        "pd.read_excel('├https://example.org/x.xlsx')┤",
        "pd.read_csv('https├://example.org/x.csv')┤",
        "pd.read_csv('├data/*.csv')┤",
        "pd.read_csv('├~/x.csv')┤",
        "pd.read_csv(├total)┤",
        "df.to_csv('├new.csv')┤",
        "open('├new.txt', 'w')┤",
        "open('├new.txt', mode='a')┤",
        "open('├new.txt', total)┤",
        "plain.read_csv('├x.csv')┤",
        "df.to_csv('late.csv')\npd.read_csv('├late.csv')┤",
        "!wget https://example.org/late.csv\npd.read_csv('├late.csv')┤",
        "def f():\n    ├return pd.read_csv('late.csv')┤",
        "from shelve import open\nopen('├new')┤",
        "pd = Reader()\npd.read_csv('├x.csv')┤",
    ],
)
def test_a_file_that_exists_or_may_be_written_is_not_refuted(code, folder):
    assert violation(code) is None


@pytest.mark.parametrize("pending", ["download('late.csv')", "!curl -O example.org/late.csv"])
def test_a_file_that_a_cell_that_was_not_run_names_is_not_refuted(pending, folder):
    assert violation("pd.read_csv('├late.csv')┤", pending) is None


def test_an_address_that_no_cell_has_is_refuted_where_there_are_files(folder):
    address = "https://example.org/x.csv"
    notebook = Notebook((Cell(id="1", source=f"# from {address}"),))
    assert "sales.csv'" in violation(f"pd.read_csv('├{address}')┤").choices
    assert violation(f"pd.read_csv('├{address}')┤", notebook=notebook) is None


def test_a_file_that_may_come_to_be_opened_for_writing_is_not_refuted_before_the_end(folder):
    assert violation("open('├log.txt'┤", final=False) is None
    assert violation("open('├log.txt',┤", final=False) is None


def test_what_may_come_to_be_an_address_is_not_refuted_before_the_end(folder):
    assert violation("pd.read_csv('├ht┤", final=False) is None
    assert violation("pd.read_csv('├ht.csv',┤", final=False) is not None


@pytest.mark.parametrize(
    ("code", "choice"),
    [
        ("pd.read_csv('sal├')┤", "sales.csv'"),
        ("pd.read_csv('sa├mples.csv')┤", "sales.csv'"),
        ("pd.read_csv('data/├')┤", "data/rain.csv'"),
        ("open('no├')┤", "notes.txt'"),
    ],
)
def test_the_only_file_whose_name_begins_so_is_meant(code, choice, folder):
    found = violation(code)
    assert (found.choices, found.only) == ((choice,), True)


# The right-hand side of an assignment


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ('├df["ratio"] = df["ratio"] / 2┤', "ratio"),
        ('├df["ratio"] = df["age"] / df["ratio"]┤', "ratio"),
        ('├df = df[df["agee"] > 1]┤', "agee"),
        ('├df = df.dropna(subset=["agee"])┤', "agee"),
        ("├df = df.group_by('age')┤", "group_by"),
        ("├values = values.push(1)┤", "push"),
        ("├plain = plain(1, seperator=2)┤", "seperator"),
        ('├df["ratio"] += df["agee"]┤', "agee"),
        ('├df: object = df["agee"]┤', "agee"),
    ],
)
def test_what_an_assignment_makes_is_not_there_on_its_right_hand_side(code, word):
    assert violation(code).word == word


@pytest.mark.parametrize(
    "code",
    [
        '├df["ratio"] = 1\ndf["ratio"] = df["ratio"] / 2┤',
        'df["ratio"] = 1\n├df["ratio"] = df["ratio"] / 2┤',
        'df["ratio"] = 1\ndf["ratio"] = df["├ratio"] / 2┤',
        'df["ratio"] = df["├age"].rank()┤\ndf["ratio"] = 1',
        'df = load()\n├df = df["agee"]┤',
        '├df["ratio"] = [df["agee"] for df in values]┤',
        "├total = total + 1┤",
    ],
)
def test_what_was_made_before_is_there_on_the_right_hand_side(code):
    assert violation(code) is None


# The word that is begun at the cursor


@pytest.mark.parametrize(
    ("code", "choice"),
    [
        ("probe.calibrate(gain├=0.1)┤", "gain_db="),
        ("probe.calibrate(gain├s)┤", "gain_db="),
        ("probe.calibrate(gain├)┤", "gain_db="),
        ("probe.calibrate(gain├, 1)┤", "gain_db="),
        ("probe.calibrate(gai├n_hz=1)┤", "gain_db="),
        ("probe.tune(1, gain_h├=1)┤", "gain_hz="),
        ("probe.tune(gain_db=1, gain├=1)┤", "gain_hz="),
        ("Model(dept├=3)┤", "depth="),
        ('wings["wing├span"] = area(wings["wingspan"])┤', 'wing_span_mm"'),
        ('x = wings["wing├"]┤', 'wing_span_mm"'),
        ("x = wings['wing├s']┤", "wing_span_mm'"),
        ("wings.wing├s = 1┤", "wing_span_mm"),
        ("x = wings.wing├.mean()┤", "wing_span_mm"),
        ('x = wings.groupby("wing├s")┤', 'wing_span_mm"'),
        ('options["se├ts"] = 1┤', 'separator_sign"'),
        ("values.app├()┤", "append"),
        ("x = values.app├ly(1)┤", "append"),
    ],
)
def test_a_word_that_only_one_name_begins_with_is_to_become_that_name(code, choice, monkeypatch):
    monkeypatch.setitem(NAMESPACE, "options", {"separator_sign": ",", "header": 0})
    found = violation(code)
    assert (found.choices, found.only, found.start < 0) == ((choice,), True, True)


@pytest.mark.parametrize(
    "code",
    [
        "probe.calibrate(gain├_db=0.1)┤",
        'wings["wing├_span_mm"].mean()┤',
        "wings.wing├_span_mm.mean()┤",
        "values.app├end(1)┤",
        'wings["zz├top"] = 1┤',  # no name begins so
        'wings["age├_in_years"] = 1┤',  # it is a whole name
        'wings["tail├_area"] = 1┤',  # two names begin so
        "plain(ta├ken)┤",  # a variable
        "plain(s├um(values))┤",  # and a keyword, a builtin
        "open_ended(op├tion=1)┤",  # any keyword is taken
        "plain(to├tal)┤",
        "dynamic.wing├s()┤",
        'wings["tail_mm"] = wings["wings"] = 1\nwings["wing├s"].mean()┤',  # one that is made above
    ],
)
def test_a_word_that_may_become_another_is_left_to_the_model(code):
    assert violation(code) is None


def test_of_several_names_that_begin_so_the_model_chooses():
    assert set(violation("probe.tune(gain├=1)┤").choices) == {"gain_db=", "gain_hz="}
    assert set(violation("probe.tune(gain├s)┤").choices) == {"gain_db=", "gain_hz="}
    assert set(violation('x = wings["tail├"]┤').choices) == {'tail_mm"', 'tail_g"'}


def test_the_only_name_is_missed_where_nothing_is_said():
    assert violation("probe.calibrate(gain├┤").rest == "_db="
    assert violation("probe.calibrate(gain├┤)").rest == "_db="
    assert violation("probe.calibrate(gain├┤=3)").rest == "_db"
    assert violation('wings["wing├┤"]').rest == '_span_mm"'
    assert violation("probe.calibrate(├┤") is None


def test_in_the_middle_of_a_word_no_name_is_missed():
    assert violation("probe.calibrate(gain├┤_db=1)") is None


def test_while_text_comes_in_the_only_name_may_go_on():
    assert violation("probe.calibrate(gain├_d┤", final=False) is None
    assert violation("probe.calibrate(gain├_d┤", final=True).only
    assert violation("probe.calibrate(gain├_x┤", final=False).only


# A hundred thousand names


def operations(count: int, code: str, monkeypatch) -> int:
    """How many lines of Python run to hold a text against so many names."""
    names = {f"value_{n}": n for n in range(count)}
    for name, value in names.items():
        monkeypatch.setitem(NAMESPACE, name, value)
    ran = 0

    def watch(frame, event, argument):
        nonlocal ran
        ran += event == "line"
        return watch

    before, rest = code.split("├")
    check = checker(CompletionRequest(text=before, offset=len(before)), Namespace())
    check("1", True)
    sys.settrace(watch)
    try:
        check(rest, True)
    finally:
        sys.settrace(None)
    return ran


@pytest.mark.parametrize("code", ["x = ├value_7", "x = ├len(values)", "x = ├zzzz"])
def test_a_name_costs_no_more_among_a_hundred_thousand(code, monkeypatch):
    few = operations(10, code, monkeypatch)
    many = operations(100_000, code, monkeypatch)
    # What goes through all of them does so in C: looking up and searching, not copying and sorting.
    assert many < few + 5_000


def test_no_set_of_a_hundred_thousand_names_is_copied(monkeypatch):
    import tracemalloc

    namespace = Namespace()
    facts = Facts(frozenset(f"value_{n}" for n in range(100_000)))
    monkeypatch.setattr(namespace, "facts", lambda paths, request: facts)
    check = checker(CompletionRequest(text="x = ", offset=4), namespace)
    check("value_6", True)
    tracemalloc.start()
    try:
        assert check("value_7 + value_8", True) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # bytes; a copy of the set takes 4 MB


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has parameters of types")
def test_a_parameter_of_a_functions_type_is_a_name():
    assert violation("├def first[T](values: T) -> T: ...┤") is None


def test_what_a_call_is_given_already_is_no_choice():
    assert violation("plain(a=1, ├a=2)┤").choices == ("b=", "sep=")


def test_what_is_sound_of_a_text_that_begins_in_a_string_is_its_first_argument():
    before = 'plot(data=df, x="'
    found = Violation("argument", "zz", 6)
    assert valid_prefix('age", zz=1)', found, before) == 'age"'
    assert valid_prefix('age", zz=1)', found) == ""


def test_choices_begin_with_what_was_typed():
    choices = violation("df.gro├upby_age()┤").choices
    assert "groupby" in choices and all(name.startswith("gro") for name in choices)


def test_a_name_has_no_choices_that_are_not_like_it():
    assert violation("print(├zzzz)┤").choices == ()


def test_among_thousands_of_names_the_one_that_was_meant_is_found(monkeypatch):
    for number in range(10_000):
        monkeypatch.setitem(NAMESPACE, f"value_{number}", number)
    assert violation("print(├value_77777)┤").choices[0] == "value_7777"


@pytest.mark.parametrize(
    "code",
    [
        "df.├group┤",
        'x = df["├ag┤',
        "plain(1, ├se┤",
        "import ├nump┤",
        "from ├numpy.lin┤",
        "from math import ├sq┤",
        "np.├ara┤",
    ],
)
def test_while_text_comes_in_a_word_may_go_on(code):
    assert violation(code, final=False) is None


@pytest.mark.parametrize(
    ("code", "certain"),
    [
        ("x = np.├arrang┤", True),
        ('x = df["├zz┤', True),
        ('df["├zz┤', False),  # may be made here
        ("df.├zz┤", False),
        ("├zz┤", False),  # may be bound here
    ],
)
def test_what_may_yet_be_assigned_to_is_not_certain_before_the_end(code, certain):
    assert violation(code, final=False).certain is certain


@pytest.mark.parametrize(
    ("code", "holds"),
    [
        ("x = ", True),
        ("%%bash\nls ", False),
        ("!ls ", False),
        ("%timeit ", False),
        ("%%time\nx", True),
    ],
)
def test_only_python_is_looked_at(code, holds):
    assert applies(CompletionRequest(text=code, offset=len(code))) is holds


def test_a_module_that_looks_names_up_by_itself_is_not_known():
    module = types.ModuleType("lazy")
    module.__getattr__ = lambda name: name
    assert gather({"lazy": module}, [("lazy",)])[("lazy",)].attributes is None
