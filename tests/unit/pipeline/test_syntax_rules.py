"""How a suggestion ends in other languages than Python: the cases in golden/languages.toml, and rules by count."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from jupyter_sc2.models.cards import cards
from jupyter_sc2.pipeline.postprocess import scope, trim
from jupyter_sc2.prompt.builder import PromptBuilder
from jupyter_sc2.source.languages import LANGUAGES, language_at
from jupyter_sc2.source.syntax import syntax_of
from tests.support.fake_engine import FakeEngine
from tests.support.goldens import read, request

CASES = read("languages")
GROUPS = {"javascript": "typescript", "yaml": "json"}


def id_of(case: dict) -> str:
    return f"{case['language']}: {case['name']}"


def parts(case: dict, *, magic: str = ""):
    """The request of a case, as a file or below a magic, and what the model wrote for it."""
    before, rest = case["cell"].split("├")
    raw, after = rest.split("┤")
    asked = request(
        magic + before,
        after,
        trigger=case.get("trigger", "automatic"),
        language="python" if magic else case["language"],
        path="" if magic else f"file.{LANGUAGES[case['language']][0]}",
    )
    return asked, raw


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_golden(case):
    asked, raw = parts(case)
    assert trim(raw, asked, scope(asked), final=True)[0] == case["shown"].rstrip()


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_a_complete_text_stays_what_it_is_when_more_is_decoded(case):
    asked, raw = parts(case)
    for end in range(len(raw) + 1):
        shown, complete = trim(raw[:end], asked, scope(asked), final=False)
        if complete:
            assert shown == case["shown"].rstrip(), raw[:end]


@pytest.mark.parametrize("case", [c for c in CASES if c["language"] != "c++"], ids=id_of)
def test_a_cell_below_a_magic_ends_as_a_file_does(case):
    asked, raw = parts(case, magic=f"%%{case['language']}\n")
    assert language_at(asked) == case["language"]
    assert trim(raw, asked, scope(asked), final=True)[0] == case["shown"].rstrip()


def test_each_language_has_eight_cases():
    count = Counter(GROUPS.get(case["language"], case["language"]) for case in CASES)
    assert set(count) == {
        *("r", "julia", "sql", "bash", "typescript", "c++", "rust"),
        *("java", "go", "json", "markdown", "latex"),
    }
    assert min(count.values()) >= 8


def test_no_prompt_of_another_language_names_a_file_of_python():
    """In each case and each prompt format, as a file and below a magic: none has Python's name or comments."""
    engine = FakeEngine()
    counted = 0
    for card in (cards()[name] for name in ("starcoder2-3b", "starcoder2-15b", "codellama-7b")):
        builder = PromptBuilder(card, engine.encode, engine.special_ids)
        for case in CASES:
            for magic in ("", f"%%{case['language']}\n"):
                asked, _ = parts(case, magic=magic)
                plan = builder.arrange(asked, budget=2000, state="# df: DataFrame\n" * bool(magic))
                text = "".join(part for part in plan.segments if isinstance(part, str))
                assert ".py\n" not in text and "DataFrame" not in text, id_of(case)
                assert f".{LANGUAGES[case['language']][0]}\n" in text, id_of(case)
                counted += 1
    assert counted >= 200


@pytest.mark.parametrize(
    ("language", "line", "opens"),
    [
        ("r", "area <- function(r) {", True),
        ("r", "df |>", True),
        ("r", "x <- 1", False),
        ("julia", "for x in xs", True),
        ("julia", "if x > 1; y = 1; end", False),
        ("sql", "SELECT name,", True),
        ("sql", "GROUP BY", True),
        ("sql", "FROM sales;", False),
        ("bash", "for f in *; do", True),
        ("bash", "cat a |", True),
        ("bash", "ls -la", False),
        ("javascript", "const f = () =>", True),
        ("javascript", "f();", False),
        ("rust", "fn main() {", True),
        ("rust", "let x = 1;", False),
        ("go", "go func() {", True),
        ("java", "int x = 1;", False),
        ("c++", "class A {", True),
        ("yaml", "jobs:", True),
        ("yaml", "name: build", False),
        ("json", '"a": {', True),
        ("markdown", "You need:", True),
        ("markdown", "A sentence.", False),
        ("latex", r"\begin{itemize}", True),
        ("latex", r"\item one", False),
        ("python", "if x:", True),
        ("python", "x = 1", False),
    ],
)
def test_a_new_line_is_completed_below_a_line_that_opens_something(language, line, opens):
    assert bool(re.search(syntax_of(language).openers, line, re.IGNORECASE)) is opens


def test_every_language_has_rules_that_can_be_read():
    for name in LANGUAGES:
        syntax = syntax_of(name)
        assert not syntax.is_opener("x") and not syntax.is_closer("x"), name
        assert syntax.is_comment(f"{syntax.comment} x") == bool(syntax.comment)


def test_a_command_in_a_cell_of_python_ends_with_its_line():
    asked = request("x = 1\n!ls ", trigger="invoke")
    assert trim("-la\nfor x in y:\n    pass", asked, scope(asked), final=True)[0] == "-la"
    asked = request("x = 1\n!ls ", trigger="invoke")
    assert trim("-la \\\n  data\ny = 2", asked, scope(asked), final=True)[0] == "-la \\\n  data"
