"""Where code names a column, and of which table: `df["age"]`, `df.groupby("age")`, `df[df.age > 30].loc[:, "age"]`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jupyter_sc2.introspection.facts import Path

MAX_PATH_STEPS = 16
# Methods of a frame that take columns by name: the keyword of each such argument, and its position if it has one.
ARGUMENTS: dict[str, dict[str, int | None]] = {
    "groupby": {"by": 0},
    "sort_values": {"by": 0},
    "set_index": {"keys": 0},
    "value_counts": {"subset": 0},
    "dropna": {"subset": None},
    "drop_duplicates": {"subset": 0},
    "duplicated": {"subset": 0},
    "drop": {"columns": None},
    "nlargest": {"columns": 1},
    "nsmallest": {"columns": 1},
    "explode": {"column": 0},
    "pivot": {"columns": None, "index": None, "values": None},
    "pivot_table": {"values": 0, "index": 1, "columns": 2},
    "melt": {"id_vars": 0, "value_vars": 1},
    "boxplot": {"column": 0, "by": 1},
    "hist": {"column": 0, "by": 1},
    "resample": {"on": None},
    "rolling": {"on": None},
    "to_csv": {"columns": None},
}
# Those that take a dict with columns as its keys.
KEYED: dict[str, dict[str, int | None]] = {
    "agg": {"func": 0},
    "aggregate": {"func": 0},
    "astype": {"dtype": 0},
    "rename": {"columns": None},
}
NAMED_AGGREGATIONS = frozenset({"agg", "aggregate"})  # agg(total=("units", "sum"))
# Functions of pandas that are methods of a frame as well; the frame is their first argument.
PANDAS = frozenset({"pd", "pandas"})
FUNCTIONS = frozenset({"melt", "pivot", "pivot_table"})
# Arguments that name a column: in a frame's own plots, in seaborn's functions, in its class Plot.
XY = frozenset({"x", "y"})
ROLES = XY.union({"hue", "size", "style", "col", "row", "units", "weights"})
VARIABLES = XY.union({"color", "group", "marker", "linestyle", "pointsize", "text"})
# Methods whose result has the columns of the table, or some of them, and no others.
GROUPING = frozenset({"groupby", "resample", "rolling", "expanding", "ewm"})
SELECTING = GROUPING.union(
    {"head", "tail", "sample", "copy", "query", "filter", "where", "mask", "truncate"},
    {"sort_values", "sort_index", "nlargest", "nsmallest", "drop", "drop_duplicates", "set_index"},
    {"dropna", "fillna", "ffill", "bfill", "interpolate", "round", "abs", "clip"},
)
# The same of a table's groups.
AGGREGATING = frozenset(
    {"sum", "mean", "median", "min", "max", "count", "nunique", "std", "var", "first", "last"}
)
# Methods that say of each row whether it is meant.
TESTING = frozenset(
    {"isin", "isna", "isnull", "notna", "notnull", "between", "duplicated", "contains"}
)


@dataclass(frozen=True)
class Naming:
    """An expression that is the name of a column of a table, or a list of such names.

    `function` is what they are passed to, if anything; `through` says that they are taken from some of the table's
    rows, or from its groups.
    """

    expression: ast.expr
    table: Path
    function: Path = ()
    through: bool = False


def path_of(node: ast.expr) -> Path:
    """The path of an expression such as `df.age` or `df["age"]`; () if it is something else, or too long."""
    steps: list[str] = []
    while len(steps) < MAX_PATH_STEPS:
        match node:
            case ast.Name(id=name):
                return (name, *reversed(steps))
            case ast.Attribute(value=value, attr=attr):
                steps.append(attr)
            case ast.Subscript(value=value, slice=ast.Constant(value=str() as key)):
                steps.append(f"[{key}]")
            case _:
                break
        node = value
    return ()


def table_of(node: ast.expr | None) -> Path:
    """The path of the table whose columns, all or some, an expression has: `df` for `df[df.age > 30].head()`.

    () if that is not known.
    """
    for _ in range(MAX_PATH_STEPS):
        if node is None:
            break
        if path := path_of(node):
            return path
        node = _taken_from(node)
    return ()


def _taken_from(node: ast.expr) -> ast.expr | None:
    """What an expression takes rows, groups or columns of; None if it is something else."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr=method)):
            of_groups = method in AGGREGATING and _is_grouped(value)
            return value if method in SELECTING or of_groups else None
        case ast.Subscript(value=ast.Attribute(value=value, attr="loc" | "iloc"), slice=rows) if (
            _selects_rows(rows)
        ):
            return value
        case ast.Subscript(value=value, slice=part):
            return value if _selects_rows(part) or isinstance(part, ast.List) else None
    return None


def _is_grouped(node: ast.expr) -> bool:
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.List):
        node = node.value
    match node:
        case ast.Call(func=ast.Attribute(attr=method)):
            return method in GROUPING
    return False


def _selects_rows(part: ast.expr) -> bool:
    """Whether what stands in brackets is a condition on rows, or a range of them."""
    match part:
        case ast.Slice() | ast.Compare() | ast.UnaryOp(op=ast.Invert()):
            return True
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            return True
        case ast.Call(func=ast.Attribute(attr=method)):
            return method in TESTING
    return False


def named_by_subscript(node: ast.Subscript) -> Iterator[Naming]:
    """The columns in `table[…]` and in `table.loc[rows, …]`."""
    match node:
        case ast.Subscript(
            value=ast.Attribute(value=value, attr="loc" | "at"), slice=ast.Tuple(elts=[_, columns])
        ):
            yield Naming(columns, table_of(value), through=True)
        case ast.Subscript(value=value, slice=columns):
            direct = path_of(value)
            yield Naming(columns, direct or table_of(value), through=not direct)


def named_in_call(call: ast.Call) -> Iterator[Naming]:
    """The columns that are passed to methods of a table, to functions of pandas and of seaborn, and to plots."""
    if isinstance(call.func, ast.Attribute):
        yield from _named_in_method(call, call.func)
    function = path_of(call.func)
    table, roles = table_of(_argument(call, "data", 0)), ROLES
    if function[-1:] == ("Plot",):
        roles = VARIABLES
    elif "plot" in function[-2:]:  # df.plot(…), df.plot.scatter(…)
        table, roles = function[: function.index("plot", -2)], XY
    if function:
        for keyword in call.keywords:
            if keyword.arg in roles:
                yield Naming(keyword.value, table, function)


def _named_in_method(call: ast.Call, func: ast.Attribute) -> Iterator[Naming]:
    method, of_pandas = func.attr, isinstance(func.value, ast.Name) and func.value.id in PANDAS
    owner, skipped = (_argument(call, "data", 0), 1) if of_pandas else (func.value, 0)
    if method == "merge":
        left = _argument(call, "left", 0) if of_pandas else func.value
        right = _argument(call, "right", skipped)
        for table, names in ((left, ("on", "left_on")), (right, ("on", "right_on"))):
            yield from _namings(call, func, table, dict.fromkeys(names))
    if of_pandas and method not in FUNCTIONS:
        return
    if method in ARGUMENTS:
        yield from _namings(call, func, owner, ARGUMENTS[method], skipped)
    for naming in _namings(call, func, owner, KEYED[method]) if method in KEYED else ():
        match naming.expression:
            # Braces are a set as long as no colon is written.
            case ast.Dict(keys=keys) | ast.Set(elts=keys):
                columns = ast.List([key for key in keys if key is not None])
                yield replace(naming, expression=columns)
    if method in NAMED_AGGREGATIONS:
        named = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
        for naming in _namings(call, func, owner, named):
            match naming.expression:
                case ast.Tuple(elts=[column, *_]):
                    yield replace(naming, expression=column)


def _namings(
    call: ast.Call,
    func: ast.Attribute,
    owner: ast.expr | None,
    places: Mapping[str, int | None],
    skipped: int = 0,
) -> Iterator[Naming]:
    """The arguments at these places, as columns of `owner`; `skipped` arguments stand before the first."""
    table = table_of(owner)
    if not table or owner is None:
        return
    through = not path_of(owner)
    function = path_of(func) or (*table, func.attr)
    for name, position in places.items():
        at = None if position is None else position + skipped
        if (value := _argument(call, name, at)) is not None:
            yield Naming(value, table, function, through)


def _argument(call: ast.Call, name: str, position: int | None) -> ast.expr | None:
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    if named is None and position is not None and position < len(call.args):
        return call.args[position]
    return named
