"""Old words do not return as names: CONTRIBUTING.md lists which word is used for what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# A word that no name may have as one of its parts, and what is said instead. Parts of names are what underscores and
# capitals separate, so `draft_tokens` and `DraftTokens` both have the part "draft".
OLD_WORDS = {
    "answerer": "completer",
    "answerers": "completers",
    "arrangement": "prompt plan",
    "astray": "diverged",
    "drawing": "generation",
    "drawings": "generations",
    "ghosts": "suggestions",
    "guess": "draft",
    "guessed": "draft",
    "guessing": "prompt lookup",
    "healing_table": "token prefix index",
    "hopeless": "skip reason",
    "lookups": "prompt lookup",
    "offers": "items",
    "provenance": "attribution",
    "refutation": "violation",
    "refutations": "violations",
    "refute": "first violation",
    "rhythm": "debounce",
    "roads": "channels",
    "spelling_table": "token prefix index",
    "spot": "place",
    "spots": "places",
    "stopgap": "fallback",
    "type_through": "suggestion cache",
}
PYTHON = ("jupyter_sc2", "benchmarks", "scripts")
TYPESCRIPT = "labextension/src"
DECLARATION = re.compile(
    r"\b(?:class|interface|function|const|let|type|enum|namespace)\s+(\w+)"
    r"|^\s+(?:(?:private|protected|public|readonly|static|async|get|set)\s+)*(\w+)\??\s*[(:=]",
    re.MULTILINE,
)
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names_in_python(source: str) -> Iterator[str]:
    """The names that the code gives: to functions, classes, arguments, variables, attributes and imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def names_in_typescript(source: str) -> Iterator[str]:
    """The names that are declared, found by their keyword or by their place at the start of a line."""
    return (found[1] or found[2] for found in DECLARATION.finditer(source))


def has_word(name: str, word: str) -> bool:
    """Whether the parts of the word follow one another in the name."""
    parts = "_".join(part.lower() for part in PART.findall(name))
    return f"_{word}_" in f"_{parts}_"


@cache
def names() -> dict[str, Path]:
    """Each name of the package, the benchmarks, the scripts and the page, with one file that gives it."""
    python = [path for folder in PYTHON for path in (ROOT / folder).rglob("*.py")]
    typescript = [
        path for path in (ROOT / TYPESCRIPT).rglob("*.ts*") if "__tests__" not in path.parts
    ]
    found = {name: path for path in python for name in names_in_python(path.read_text("utf-8"))}
    for path in typescript:
        found |= dict.fromkeys(names_in_typescript(path.read_text("utf-8")), path)
    return found | {path.stem.replace("-", "_"): path for path in [*python, *typescript]}


@pytest.mark.parametrize("word", OLD_WORDS)
def test_no_name_has_an_old_word(word: str) -> None:
    found = {name: str(path) for name, path in names().items() if has_word(name, word)}
    assert not found, f"Instead of {word!r} we say {OLD_WORDS[word]!r}"


def test_names_of_all_kinds_are_found() -> None:
    source = (
        "class Road:\n    def guess(self, way):\n        self.ghost = spot = 1\nimport a as offer"
    )
    assert set(names_in_python(source)) == {
        "Road",
        "guess",
        "self",
        "way",
        "ghost",
        "spot",
        "offer",
    }
    source = "export class Road {\n  private guess(way) {\n    const spot = 1;\n  }\n  ghost?: string;\n}"
    assert set(names_in_typescript(source)) == {"Road", "guess", "spot", "ghost"}


def test_a_word_is_found_as_a_part_of_a_name_and_not_inside_another_word() -> None:
    assert has_word("GuessLength", "guess")
    assert has_word("MAX_GUESS", "guess")
    assert has_word("SpellingTableCache", "spelling_table")
    assert not has_word("unguessable", "guess")
