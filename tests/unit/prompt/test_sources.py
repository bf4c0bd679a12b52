from jupyter_sc2.kernel.views import prompt as prompt_view
from jupyter_sc2.notebook import Cell
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.prompt.sources import CELL_SOURCES, SOURCES, setting_of, tokens_by_setting
from jupyter_sc2.settings import SC2

CELLS = {
    "cells": Cell(id="1", source="x = 1"),
    "markdown": Cell(id="2", source="Text", cell_type="markdown"),
    "outputs": Cell(id="3", source="", outputs=("1",)),
}


def test_the_sources_excluded_by_default_are_those_of_the_settings():
    assert SC2().completion_options().excluded_sources == CompletionOptions().excluded_sources


def test_every_source_of_a_cell_writes_its_own_kind_of_cell_alone():
    for name, cell in CELLS.items():
        assert [other for other, render in CELL_SOURCES.items() if render(cell)] == [name]


def test_a_setting_of_a_source_excludes_it_from_the_prompt():
    for name in CELL_SOURCES:
        settings = SC2(**{setting_of(SOURCES[name]): False})
        assert name in settings.completion_options().excluded_sources


def test_every_source_with_text_of_its_own_has_colours():
    shown = {*CELL_SOURCES, "layout", "imports", "state", "cell"}
    assert {name for name, source in SOURCES.items() if source.colour} == shown
    assert all(SOURCES[name].terminal_colour for name in shown)
    assert all(prompt_view._painted("x", name) != "x" for name in shown)


def test_tokens_of_imports_count_for_the_code_cells():
    assert tokens_by_setting([("import os\n", "imports", 3), ("x = 1\n", "cells", 4)]) == {
        "context_cells": 7
    }


def test_tokens_of_what_the_kernel_knows_are_shared_out_by_characters():
    state = "# last error: KeyError\n# df: DataFrame 5 x 2\n"
    counts = tokens_by_setting([(state, "state", 20)])
    assert counts["context_error"] + counts["context_variables"] == 20
    assert counts["context_error"] == round(20 * 23 / len(state))
    assert "context_values" not in counts


def test_tokens_that_no_setting_excludes_count_for_none():
    assert tokens_by_setting([("x", "cell", 1), ("<fim>", "layout", 2)]) == {"": 3}
