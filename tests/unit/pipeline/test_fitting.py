"""Suggestions in the middle of a line and of a cell: what fits there, and what is said already."""

import pytest

from jupyter_sc2.evaluation.midline import cut_places
from jupyter_sc2.notebook import Cell
from jupyter_sc2.pipeline.postprocess import finished, scope, trim
from jupyter_sc2.source.incomplete import parses
from tests.support.goldens import parts, read, request

GOLDEN = read("fitting")


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case):
    asked, raw = parts(case)
    assert trim(raw, asked, scope(asked), final=True)[0] == case["shown"]


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_a_complete_text_stays_what_it_is_when_more_is_decoded(case):
    asked, raw = parts(case)
    for end in range(len(raw)):
        shown, complete = trim(raw[:end], asked, scope(asked), final=False)
        if complete:
            assert shown == case["shown"]


@pytest.mark.parametrize(
    ("prefix", "text", "whole"),
    [
        ("x = ", "pd.DataFrame({'a': [1, 2], 'b': [4,", "pd.DataFrame({'a': [1, 2], 'b': [4]})"),
        ("", 'print("hello wor', 'print("hello wor")'),
        ("", 'print(f"a {x', 'print(f"a {x}")'),
        ("x = foo(", "1, bar(2", "1, bar(2)"),
        ("def f():\n    ", '"""Return the\n    sum of', '"""Return the\n    sum of"""'),
        ("", "a = 1\nb = foo(", "a = 1"),
        ("x = ", "[i for i in", ""),
        ("x = ", "y + 1", "y + 1"),
        ('print("', "hello", "hello"),
    ],
)
def test_a_text_that_was_cut_off_is_finished_or_ends_before(prefix, text, whole):
    assert finished(text, request(prefix)) == whole


def test_what_is_closed_behind_the_cursor_is_left_open_in_a_text_that_was_cut_off():
    assert finished("1, bar(2", request("x = foo(", ")")) == "1, bar(2)"


@pytest.mark.parametrize("source", ["x = 3 \\ 4", "x = '\\d' \\ 4"])
def test_a_backslash_between_two_numbers_is_no_python(source):
    assert not parses(source)


@pytest.mark.parametrize(
    "source", ["x = '\\d \\ '", "x = r'\\d'", "x = 3 \\\n  + 4", "%time x = 1"]
)
def test_what_ipython_runs_parses(source):
    assert parses(source)


def test_places_have_code_behind_the_cursor():
    cells = [Cell(id="a", source="x = 1"), Cell(id="b", source="plot(df['age'], kind='bar')")]
    rows = cut_places([("n", cells)], count=3)
    assert [row["kind"] for row in rows] and all(row["suffix"].strip(")]'\"") for row in rows)


def test_a_place_put_together_again_is_the_cell():
    cells = [Cell(id="b", source="y = plot(df['age'], kind='bar')")]
    (row,) = cut_places([("n", cells)], count=1, seed=3)
    assert row["prefix"] + row["expected"] + row["suffix"] == cells[0].source
