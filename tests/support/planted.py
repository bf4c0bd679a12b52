"""Code whose origin is known: cut from indexed files, changed in known ways; and code that is from none of them."""

from __future__ import annotations

import ast
import builtins
import random
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jupyter_sc2.attribution.lexemes import HASH, Lexemes, lex

LEAST, MOST = 65, 220  # lexemes of a fragment


@dataclass(frozen=True)
class Planted:
    kind: str  # "exact", "reformatted", "renamed" or "line dropped"
    text: str
    file: Path


def planted(files: Sequence[Path], count: int, seed: int = 0) -> list[Planted]:
    """Half of them exact, a sixth each reformatted, with its names changed, and with a line less."""
    rng = random.Random(seed)
    kinds = ["exact", "exact", "exact", "reformatted", "renamed", "line dropped"]
    found: list[Planted] = []
    tried = list(files)
    while len(found) < count:
        file = rng.choice(tried)
        kind = kinds[len(found) % len(kinds)]
        make = {"exact": _lines, "reformatted": _reformatted, "renamed": _renamed}
        fragment = make.get(kind, _shortened)(file, rng)
        if fragment is not None:
            found.append(Planted(kind, fragment, file))
    return found


def lexemes(text: str) -> int:
    found = lex(text.encode(), HASH)
    return found.length(0, len(found)) if len(found) else 0


def _lines(file: Path, rng: random.Random) -> str | None:
    """Whole lines from anywhere, a docstring or a bracket not excepted, that hold enough code."""
    whole = _whole(file)
    code = whole.text
    if len(whole) <= MOST:
        return None
    length = rng.randint(LEAST, MOST - 40)
    first = rng.randrange(len(whole) - length)
    start = code.rfind(b"\n", 0, whole.span(first)[0]) + 1
    end = code.find(b"\n", whole.span(first + length - 1)[1])
    for _ in range(rng.randrange(6)):  # it may begin in a docstring or a comment above
        start = code.rfind(b"\n", 0, max(0, start - 1)) + 1
    return code[start : end if end >= 0 else len(code)].decode("utf-8", "replace")


@lru_cache(maxsize=64)
def _whole(file: Path) -> Lexemes:
    return lex(file.read_bytes(), HASH)


@lru_cache(maxsize=64)
def _functions(file: Path) -> list[str]:
    source = file.read_text("utf-8", "replace")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines = source.split("\n")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            found.append(textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])))
    return found


def _function(file: Path, rng: random.Random) -> tuple[str, ast.AST] | None:
    functions = _functions(file)
    for text in rng.sample(functions, len(functions)):
        if LEAST <= lexemes(text) <= MOST:
            try:
                return text, ast.parse(text)
            except (SyntaxError, ValueError):
                continue
    return None


def _reformatted(file: Path, rng: random.Random) -> str | None:
    """As Python itself writes it: other quotes, line breaks and brackets, and no comments."""
    found = _function(file, rng)
    return None if found is None else ast.unparse(found[1])


def _renamed(file: Path, rng: random.Random) -> str | None:
    """Three of its own names replaced wherever they stand."""
    found = _function(file, rng)
    if found is None:
        return None
    text, tree = found
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = sorted(name for name in own if name != "self" and not hasattr(builtins, name))
    for number, name in enumerate(rng.sample(names, min(3, len(names)))):
        text = re.sub(rf"\b{name}\b", f"renamed_{number}", text)
    return text if names else None


def _shortened(file: Path, rng: random.Random) -> str | None:
    text = _lines(file, rng)
    if text is None:
        return None
    lines = text.split("\n")
    del lines[len(lines) // 2]
    return "\n".join(lines)


# Code that is from nowhere

NOUNS = """river basin gauge parcel orchard harvest tram depot ledger invoice tide mooring beacon glacier quarry kiln
    loom parish census ballot roster clinic dosage lesson pupil recipe pantry reef buoy ferry summit trail hive swarm"""
WORDS = NOUNS.split()
ACTS = ("tally", "merge", "rank", "smooth", "trim", "pair", "weigh", "chart", "fold", "drain")
STATEMENTS = """
    {a} = pd.read_csv("data/{w}.csv", parse_dates=["{x}"]).dropna(subset=["{y}"])
    {a} = {b}[{b}["{x}"] > {n}].copy()
    {a}["{y}"] = {a}["{x}"].rolling({n}).mean().shift(1).fillna({a}["{x}"].median())
    {a} = {b}.groupby(["{x}", "{y}"])["{w}"].agg(["mean", "count"]).reset_index()
    {a} = {b}.merge({c}, on="{x}", how="left").sort_values("{y}", ascending=False)
    fig, ax = plt.subplots(figsize=({n}, 4))
    ax.plot({a}["{x}"], {a}["{y}"], label="{w}", linewidth=2)
    ax.set_xlabel("{x}")
    ax.set_title(f"{w} by {{{a}.{x}}}")
    plt.show()
    {a} = np.linspace(0, {n}, 200)
    {a} = np.where({b} > {n}, {b} * 0.5, {c} + 1)
    {a} = [{v}.{x} for {v} in {b} if {v}.{y} is not None and {v}.{w} >= {n}]
    {a} = {{{v}["{x}"]: {v}["{y}"] for {v} in {b}}}
    {a}_train, {a}_test, {b}_train, {b}_test = train_test_split({a}, {b}, test_size=0.2, random_state={n})
    {a} = make_pipeline(StandardScaler(), RandomForestRegressor(n_estimators={n}))
    {a}.fit({b}_train, {c}_train)
    print("{w}:", round(mean_absolute_error({a}_test, {b}.predict({c}_test)), 3))
    {a} = sorted({b}.items(), key=lambda {v}: ({v}[1]["{x}"], -{v}[1]["{y}"]))[:{n}]
    {a} = Counter({v} for {v} in {b}.{x}.split() if len({v}) > {n})
    {a} = max({b}, key={c}.get, default=None)
    {a}.{x} = {b}.{y} - {a}.{w} * {n}
    {a}, {b} = {b}, {a} + {b} % {n}
    assert {a}.shape == {b}.shape, f"{{{a}.shape}} is not {{{b}.shape}}"
    {a} = json.loads(Path("{w}.json").read_text())["{x}"]["{y}"]
""".strip("\n").split("\n")
BLOCKS = """
def {f}_{w}({a}, {b}={n}, *, {c}=None):
for {v}, {a} in enumerate({b}):
if {a}.{x} > {n} and not {b}.{y}:
with open({a} / "{w}.txt") as {v}:
while {a} < {n} or {b}:
""".strip("\n").split("\n")


def original(count: int, seed: int = 0) -> Iterator[str]:
    """Cells as people write them, put together at random: the usual calls on names that are nobody's."""
    rng = random.Random(seed)
    for _ in range(count):
        lines: list[str] = []
        depth = 0
        while lexemes("\n".join(lines)) < rng.randint(70, 160):
            if rng.random() < 0.2:
                lines.append("    " * depth + _filled(rng.choice(BLOCKS), rng))
                depth += 1
                lines.append("    " * depth + _filled(rng.choice(STATEMENTS).strip(), rng))
            elif depth and rng.random() < 0.4:
                depth -= 1
            lines.append("    " * depth + _filled(rng.choice(STATEMENTS).strip(), rng))
        yield "\n".join(lines)


def _filled(line: str, rng: random.Random) -> str:
    names = rng.sample(WORDS, 7)
    return line.format(
        a=names[0],
        b=names[1],
        c=names[2],
        w=names[3],
        x=names[4],
        y=names[5],
        v=names[6][:2] + "_",
        f=rng.choice(ACTS),
        n=rng.randint(2, 40),
    )


def own_code(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Fragments of this project, which no index of other packages holds."""
    rng = random.Random(seed)
    files = sorted((folder / "jupyter_sc2").rglob("*.py"))
    found: list[str] = []
    while len(found) < count:
        fragment = _lines(rng.choice(files), rng)
        if fragment is not None:
            found.append(fragment)
    return found
