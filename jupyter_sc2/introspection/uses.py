"""The names, attributes, columns and keyword arguments that code uses, and their positions."""

from __future__ import annotations

import ast
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from jupyter_sc2.introspection.columns import (
    Naming,
    named_by_subscript,
    named_in_call,
    path_of,
)
from jupyter_sc2.introspection.facts import Path
from jupyter_sc2.introspection.files import file_read
from jupyter_sc2.source.incomplete import complete_tree
from jupyter_sc2.source.parsing import parse

# A "collection" is a name or a path of which one element after another is taken: `values` in `for value in values`.
# A "file" is the name of one that is read.
Kind = Literal["name", "attribute", "column", "argument", "module", "member", "collection", "file"]

WORD = re.compile(r"[^\W\d]\w*")
# Builtins that take the elements of their first argument.
TAKE_ELEMENTS = frozenset(
    {
        *("sum", "len", "sorted", "enumerate", "list", "tuple", "set", "frozenset", "any", "all"),
        *("reversed", "iter"),
    }
)
TYPE_PARAMETERS = frozenset({"TypeVar", "TypeVarTuple", "ParamSpec"})  # nodes of Python 3.12
FROM = re.compile(r"from\s+")
STRING = re.compile(r"\A[rRuU]?(?P<quote>'''|\"\"\"|'|\")")
# Code that may define names without mentioning them.
DEFINES_UNSEEN = re.compile(
    r"import\s*\*|^[ \t]*%(?:run|load|store|pylab)|\b(?:exec|globals|locals|vars|setattr)\(", re.M
)
# Of longer cells all words count as bound.
MAX_CELL_CHARS = 8_000


@dataclass(frozen=True)
class Use:
    """One word of the code, from `start` to `end`, and the path of the value that it is taken from."""

    kind: Kind
    word: str
    start: int
    end: int
    base: Path = ()
    # Of a column or a name that is an argument: the function it is passed to.
    function: Path = ()
    # Of a column: whether it is taken from some rows of the table at the path, or from its groups.
    through: bool = False
    # Inside a function, which may run when more is defined.
    deferred: bool = False
    # Of an argument: all keyword arguments of the call, and their positions.
    keywords: tuple[tuple[str, int], ...] = ()
    # The assignment on whose right-hand side it is.
    within: ast.stmt | None = None


def uses(tree: ast.Module, source: str, start: int = 0, end: int | None = None) -> list[Use]:
    """All uses in the order of the code, or those that overlap a part of it. Only reads count, not writes."""
    end = len(source) if end is None else end
    first, last = (source.count("\n", 0, place) + 1 for place in (start, end))
    finder = _Finder(source)
    for statement in tree.body:
        if statement.lineno <= last and (statement.end_lineno or last) >= first - 1:
            finder.visit(statement)
    found = (use for use in finder.found if use.end >= start and use.start < end)
    return sorted(found, key=lambda use: use.start)


def bound_names(tree: ast.Module, but: ast.stmt | None = None) -> dict[str, bool]:
    """The names that the code binds anywhere, each with whether it is bound by imports alone.

    Names that the assignment `but` binds do not count: its right-hand side is evaluated before.
    """
    bound: dict[str, bool] = {}
    uncounted = set(map(id, _assigned(but)))

    def bind(name: str | None, imported: bool = False) -> None:
        if name is not None:
            bound[name] = bound.get(name, True) and imported

    for node in ast.walk(tree):
        match node:
            case _ if id(node) in uncounted:
                pass
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                bind(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bind(name)
            case ast.ClassDef(name=name):
                bind(name)
            case ast.arg(arg=name):
                bind(name)
            case ast.alias(name=name, asname=alias):
                bind(alias or name.partition(".")[0], imported=True)
            case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
                bind(name)
            case ast.MatchMapping(rest=name):
                bind(name)
            case _ if type(node).__name__ in TYPE_PARAMETERS:
                bind(getattr(node, "name", None))
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                for name in names:
                    bind(name)
    return bound


@lru_cache(maxsize=2048)
def names_bound_in(source: str) -> Mapping[str, bool]:
    """The names that a cell binds, as `bound_names`; where it does not parse or is long, all its words."""
    completed = complete_tree(source, "", "") if len(source) <= MAX_CELL_CHARS else None
    if completed is None:
        return dict.fromkeys(WORD.findall(source), False)
    return bound_names(completed[0])


@lru_cache(maxsize=512)
def imports_in(line: str) -> Mapping[str, tuple[str, str]]:
    """The names that a line of imports binds: the module of each, and the member taken from it, if any."""
    tree = parse(line.strip()) if line.lstrip().startswith(("import ", "from ")) else None
    found: dict[str, tuple[str, str]] = {}
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = (name, "")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
    return found


def _assigned(statement: ast.stmt | None) -> Iterator[ast.AST]:
    """All nodes left of an assignment's equals sign."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    for target in targets:
        if target is not None:
            yield from ast.walk(target)


def columns_assigned(statement: ast.stmt | None, before: tuple[int, int]) -> Iterator[str]:
    """The columns and keys that an assignment sets, as far as they stand before a line and column, in bytes."""
    for node in _assigned(statement):
        match node:
            case ast.Subscript(ctx=ast.Store(), slice=key):
                if (node.end_lineno or 0, node.end_col_offset or 0) <= before:
                    yield from (text for _, text in _strings(key))


def stored_strings(tree: ast.Module, but: ast.stmt | None = None) -> set[str]:
    """The columns and keys that the code creates: `df["new"] = …`, `df.assign(new=…)`; not in the assignment `but`."""
    made: set[str] = set()
    uncounted = set(map(id, _assigned(but)))
    for node in ast.walk(tree):
        match node:
            case _ if id(node) in uncounted:
                pass
            case ast.Subscript(ctx=ast.Store(), slice=key):
                made.update(text for _, text in _strings(key))
            case ast.Call(func=ast.Attribute(attr="assign"), keywords=keywords):
                made.update(keyword.arg for keyword in keywords if keyword.arg)
    return made


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.found: list[Use] = []
        self._source = source
        self._lines = source.split("\n")
        self._lengths = [0, *accumulate(map(len, self._lines))]
        self._bytes: dict[int, list[int]] = {}
        self._depth = 0
        self._within: ast.stmt | None = None
        self._given_to: dict[ast.expr, Path] = {}  # of an argument: the function it is passed to

    # Uses

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._add("name", node.id, self._start(node), function=self._given_to.get(node, ()))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load) and (base := path_of(node.value)):
            self._add("attribute", node.attr, self._end(node) - len(node.attr), base)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self._add_columns(named_by_subscript(node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = path_of(node.func)
        self._given_to.update((value, function) for value in node.args)
        keywords = tuple((k.arg, self._start(k)) for k in node.keywords if k.arg is not None)
        given = Counter(word for word, _ in keywords)
        for word, start in keywords:
            # Nothing is known about a function without a name, but no keyword can be given twice.
            if function or given[word] > 1:
                self._add("argument", word, start, function, keywords=keywords)
        self._add_columns(named_in_call(node))
        self._add_collections(node, function)
        if (file := file_read(node)) is not None and function:
            self._add_strings("file", file, function=function)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._add_collection(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if not node.is_async:
            self._add_collection(node.iter)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add_modules(alias.name, self._start(alias))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or not node.module:
            return
        if found := FROM.match(self._source, self._start(node)):
            self._add_modules(node.module, found.end())
        for alias in node.names:
            if alias.name != "*":
                base = ("import", *node.module.split("."))
                self._add("member", alias.name, self._start(alias), base)

    def _add_modules(self, name: str, start: int) -> None:
        parts = name.split(".")
        for index, part in enumerate(parts):
            self._add("module", part, start, ("import", *parts[:index]))
            start += len(part) + 1

    def visit_Try(self, node: ast.Try) -> None:
        """Skips imports inside `try`: they are expected to fail."""
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.Import | ast.ImportFrom):
                self.visit(child)

    # Assignments

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_assignment(node, node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        self._visit_assignment(node, [node.target], node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._visit_assignment(node, [node.target], node.value)

    def _visit_assignment(
        self, node: ast.stmt, targets: Iterable[ast.expr], value: ast.expr | None
    ) -> None:
        for target in targets:
            self.visit(target)
        if value is not None:
            self._within = node
            self.visit(value)
            self._within = None

    # Scopes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    # Places

    def _add(
        self,
        kind: Kind,
        word: str,
        start: int,
        base: Path = (),
        function: Path = (),
        through: bool = False,
        keywords: tuple[tuple[str, int], ...] = (),
    ) -> None:
        end = start + len(word)
        # A transformed line that differs from what the user sees is skipped.
        if self._source[start:end] == word:
            self.found.append(
                Use(
                    kind,
                    word,
                    start,
                    end,
                    base,
                    function,
                    through,
                    deferred=self._depth > 0,
                    keywords=keywords,
                    within=self._within,
                )
            )

    def _add_columns(self, namings: Iterable[Naming]) -> None:
        for naming in namings:
            if naming.table:
                self._add_strings(
                    "column", naming.expression, naming.table, naming.function, naming.through
                )

    def _add_strings(
        self,
        kind: Kind,
        node: ast.expr,
        base: Path = (),
        function: Path = (),
        through: bool = False,
    ) -> None:
        for constant, text in _strings(node):
            start = self._start(constant)
            if opening := STRING.match(self._source[start : start + 5]):
                self._add(kind, text, start + opening.end(), base, function, through)

    def _add_collections(self, call: ast.Call, function: Path) -> None:
        match call.func:
            case ast.Name(id="zip"):
                taken = call.args
            case ast.Name(id="map" | "filter"):
                taken = call.args[1:]
            case ast.Name(id="min" | "max") if len(call.args) == 1:
                taken = call.args
            case ast.Name(id=name) if name in TAKE_ELEMENTS:
                taken = call.args[:1]
            case ast.Attribute(value=ast.Constant(value=str()), attr="join"):
                taken = call.args
            case _:
                taken = []
        for value in taken:
            self._add_collection(value, function)

    def _add_collection(self, node: ast.expr, function: Path = ()) -> None:
        if base := path_of(node):
            start = self._start(node)
            self._add("collection", self._source[start : self._end(node)], start, base, function)

    def _start(self, node: ast.expr | ast.keyword | ast.alias | ast.stmt) -> int:
        return self._offset(node.lineno, node.col_offset)

    def _end(self, node: ast.expr) -> int:
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def _offset(self, line: int, column: int) -> int:
        """The index in the source of a line and a column; `ast` counts columns in bytes."""
        if line > len(self._lines):
            return 0
        text = self._lines[line - 1]
        if not text.isascii():
            column = bisect(self._ends(line), column)
        return self._lengths[line - 1] + line - 1 + column

    def _ends(self, line: int) -> list[int]:
        """The position in bytes where each character of a line ends."""
        if line not in self._bytes:
            signs = self._lines[line - 1]
            self._bytes[line] = [*accumulate(map(len, map(str.encode, signs)))]
        return self._bytes[line]


def _strings(node: ast.expr) -> Iterator[tuple[ast.Constant, str]]:
    """A string, or those of a list."""
    for element in node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]:
        if isinstance(element, ast.Constant) and isinstance(element.value, str):
            yield element, element.value
