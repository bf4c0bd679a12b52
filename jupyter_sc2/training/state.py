"""Infers what a kernel would know at a cell of a document that nobody runs.

Training needs notebooks with their live state, and running half a million cells of strangers is not an option. A name's
value is inferred from the code that creates it, and a table's columns from the code that uses them, anywhere in the
document. So the comment has columns that the following code may name, among others that it does not.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import Random

from jupyter_sc2.introspection.rendering import Variable, table_detail

TABLE = re.compile(r"(?:^|\.)(?:read_\w+|DataFrame|load_dataset|scan_\w+|GeoDataFrame)$")
ARRAY = re.compile(
    r"^(?:np|numpy|jnp)\.(?:random\.\w+\.?\w*|array|zeros|ones|empty|full|eye|arange|linspace|logspace|"
    r"loadtxt|concatenate|hstack|vstack|stack|asarray|sin|cos|exp|log|sqrt|abs|where)$"
)
# Tables have columns that a notebook never uses. With only the needed ones in the state, a first model chose whatever
# came last.
UNUSED = (
    "id name date year month age price cost category city country region value count score rating lat lon sex gender "
    "weight height width length time type status group label class source target index code size income education "
    "temperature pressure speed distance duration volume open close high low user_id item_id title text email"
)
DTYPES = ("float64", "float64", "int64", "int64", "object", "object", "category", "bool")


@lru_cache(maxsize=4096)
def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def infer_state(
    above: Sequence[str], whole: Iterable[str], cell: str, rng: Random, *, most: int = 6
) -> list[Variable]:
    """Descriptions of the names that the cells `above` define; first those that `cell` uses."""
    made: dict[str, ast.AST] = {}
    for source in above:
        tree = _parse(source)
        for node in tree.body if tree else ():
            made.update(_definitions(node))
    if not made:
        return []
    columns = _columns(whole, set(made))
    words = set(re.findall(r"[A-Za-z_]\w*", cell))
    names = sorted(made, key=lambda name: name not in words)[:most]
    found = (
        _variable(name, made[name], columns.get(name, []), rng) for name in made if name in names
    )
    return [variable for variable in found if variable]


def _definitions(node: ast.stmt) -> dict[str, ast.AST]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name: node}
    if isinstance(node, ast.With):
        return {name: made for inner in node.body for name, made in _definitions(inner).items()}
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return {}
    target = node.targets[0]
    if isinstance(target, ast.Name):
        return {target.id: node.value}
    if isinstance(target, ast.Tuple) and _called(node.value).endswith("subplots"):
        kinds = ("Figure", "Axes")
        names = [element.id for element in target.elts if isinstance(element, ast.Name)]
        return {name: ast.Name(kind) for name, kind in zip(names, kinds, strict=False)}
    return {}


def _variable(name: str, made: ast.AST, columns: list[str], rng: Random) -> Variable | None:
    if isinstance(made, ast.FunctionDef):
        first = (ast.get_docstring(made) or "").split("\n")[0]
        detail = f"function, {first}" if first else "function"
        return Variable(f"{name}({ast.unparse(made.args)})", detail)
    if isinstance(made, ast.ClassDef):
        return Variable(name, "class")
    if isinstance(made, ast.Name):
        return Variable(name, made.id) if made.id in ("Figure", "Axes") else None
    called = _called(made)
    if TABLE.search(called) or len(columns) > 1:
        if not columns:
            return Variable(name, "DataFrame")
        unused = rng.sample(UNUSED.split(), rng.choice((0, 0, 2, 4, 8)))
        columns = sorted({*columns, *unused})
        columns = rng.sample(columns, len(columns))[:24]
        typed = [(column, rng.choice(DTYPES)) for column in columns]
        return Variable(name, "DataFrame", table_detail((rng.randint(5, 9999), len(typed)), typed))
    if ARRAY.search(called):
        shape = tuple(rng.choice((2, 3, 10, 100, 150, 1000)) for _ in range(rng.choice((1, 1, 2))))
        return Variable(name, "ndarray", f"{shape} {rng.choice(('float64', 'float64', 'int64'))}")
    match made:
        case ast.Constant(value=str() | int() | float() | bool() as value):
            return Variable(name, type(value).__name__)
        case ast.List(elts=elements):
            return Variable(name, "list", f"of {len(elements)}")
        case ast.ListComp():
            return Variable(name, "list", f"of {rng.randint(2, 50)}")
        case ast.Dict(keys=keys):
            named = [repr(key.value) for key in keys if isinstance(key, ast.Constant)]
            return Variable(name, "dict", ", ".join(named[:12]))
    last = called.rpartition(".")[2]
    return Variable(name, last) if last[:1].isupper() else None


def _called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _columns(sources: Iterable[str], names: set[str]) -> dict[str, list[str]]:
    """The columns that code takes from each of the names, by subscript and as `data=`'s x and y."""
    found: dict[str, dict[str, None]] = {}
    for source in sources:
        for name, columns in _taken(source):
            if name in names:
                found.setdefault(name, {}).update(columns)
    return {name: list(columns) for name, columns in found.items() if columns}


# Called with all cells of a document for each cursor below a state: walking them again was half of the time for making
# rows.
@lru_cache(maxsize=4096)
def _taken(source: str) -> tuple[tuple[str, dict[str, None]], ...]:
    """Names and the columns that the code takes from each, in the order of `ast.walk`."""
    if "[" not in source and "data" not in source:
        return ()
    taken: list[tuple[str, dict[str, None]]] = []
    tree = _parse(source)
    for node in ast.walk(tree) if tree else ():
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=key):
                taken.append((name, _strings(key)))
            case ast.Call(keywords=keywords):
                by_name = {keyword.arg: keyword.value for keyword in keywords}
                data = by_name.get("data")
                if isinstance(data, ast.Name):
                    for role in ("x", "y", "hue", "size", "style", "col", "row", "color"):
                        if role in by_name:
                            taken.append((data.id, _strings(by_name[role])))
    return tuple((name, columns) for name, columns in taken if columns)


def _strings(node: ast.AST) -> dict[str, None]:
    elements = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    return {
        element.value: None
        for element in elements
        if isinstance(element, ast.Constant)
        and isinstance(element.value, str)
        and 0 < len(element.value) <= 30
    }
