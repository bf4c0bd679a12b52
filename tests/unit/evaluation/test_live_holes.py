"""Holes in notebooks that run: of which class they are, and what is asked at which state."""

import json
from random import Random

import nbformat
import pytest

from jupyter_sc2 import cli
from jupyter_sc2.evaluation import live
from jupyter_sc2.evaluation.live import CLASSES, Sources, holes_in
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.session import Session

CELLS = (
    Cell(id="0", source="options = {'depth': 3}"),
    Cell(id="1", source="depth = options['depth']"),
    Cell(id="2", source="1 / 0"),
    Cell(id="3", source="never = options"),
)


@pytest.mark.parametrize(
    ("source", "kind", "prefix", "expected"),
    [
        ("x = df['age'].mean()", "column", "x = df['", "age'].mean()"),
        ("sns.kdeplot(data=df, x='age')", "column", "sns.kdeplot(data=df, x='", "age')"),
        ("x = df.mean(axis=0)", "attribute", "x = df.", "mean(axis=0)"),
        ("x = mean(axis=0)", "argument", "x = mean(", "axis=0)"),
        ("x = total + 1", "name", "x = ", "total + 1"),
        ("if ready:\n    return_all()", "rest", "if ready:\n    ", "return_all()"),
    ],
)
def test_a_hole_is_a_word_of_its_class_and_the_rest_of_its_line(source, kind, prefix, expected):
    found = holes_in(source, Random(0), [kind], inside=0)
    assert [(hole.prefix, hole.expected) for hole in found][-1] == (prefix, expected)


def test_of_half_of_the_words_up_to_three_letters_are_there():
    source = "x = df['weight'].mean()"
    rng = Random(0)
    holes = [hole for _ in range(100) for hole in holes_in(source, rng, ["column"])]
    begun = [hole for hole in holes if hole.word != "weight"]
    assert 30 < len(begun) < 70
    assert {hole.prefix for hole in begun} == {f"x = df['{typed}" for typed in ("w", "we", "wei")}
    assert all(hole.prefix + hole.expected == source for hole in holes)
    assert all(hole.expected.startswith(hole.word) for hole in holes)


@pytest.mark.parametrize(
    ("above", "new"), [("y = df['weight']", False), ("y = df['weights']", True), ("", True)]
)
def test_a_word_is_new_that_the_notebook_does_not_have(above, new):
    (hole,) = holes_in("x = df['weight'].mean()", Random(0), ["column"], inside=1)
    assert (
        live._occurs_in(hole, Notebook((Cell(id="0", source=above), Cell(id="1", source=""))))
        is not new
    )


@pytest.mark.parametrize("source", ["# a comment here", "%matplotlib inline", "x = (", "x = 1"])
def test_comments_magics_and_short_lines_are_no_holes(source):
    assert holes_in(source, Random(0)) == []


def test_each_cell_is_asked_about_before_it_runs_and_none_after_one_that_fails():
    seen = [(cell.id, "options" in shell.user_ns) for _, cell, shell in live.run(CELLS)]
    assert seen == [("0", False), ("1", True), ("2", True)]


def test_each_hole_is_filled_without_and_with_each_source(fake_engine):
    sources = Sources()
    session = Session(load_engine=lambda model, **kwargs: fake_engine, namespace=sources)
    fake_engine.answers = ["options['deep']", "'depth']", "options['deep']", "'depth']"]
    cells = [CELLS[0], Cell(id="1", source="chosen = options['depth']")]
    try:
        figures = live.evaluate(session, sources, [("n", cells)], count=5 * 1, seed=3)
    finally:
        session.close()
    assert {row["sources"] for row in figures["rows"]} == set(live.SOURCES)
    assert set(figures["by_class"]) == {*CLASSES, "known", "new", "all"}
    told = [fake_engine.asked(n) for n in range(len(fake_engine.prompts))]
    assert any("# options: dict 'depth'" in prompt for prompt in told)
    assert any("# options:" not in prompt for prompt in told)


@pytest.mark.torch
def test_the_command_prints_its_figures_as_json(tmp_path, capsys):
    sources = ("options = {'depth': 3}", "chosen = options['depth']")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert cli.main(["eval", "live", str(path), "--count", "5", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["n"] >= 1 and figures["by_class"]["all"]["cells"]["n"] == figures["n"]
