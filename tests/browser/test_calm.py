"""Ghost text comes and goes without the page jumping; and what was shown is counted."""

from __future__ import annotations

import itertools

import pytest

from tests.browser.conftest import begin_block
from tests.browser.slow_engine import BLOCK, LINE

# Notes in each frame where the notebook's end is: what stands below the cell would be there.
WATCH = """() => {
  window.ends = [];
  const notebook = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook');
  const cell = () => notebook.querySelector('.jp-Notebook-cell .cm-editor');
  const look = () => {
    window.ends.push(Math.round(cell().getBoundingClientRect().bottom));
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


@pytest.fixture
def watched(quick_cell):
    quick_cell.page.wait_for_timeout(1200)  # what a test before has left fades away
    quick_cell.page.evaluate(WATCH)
    return quick_cell


def ends(notebook) -> list[int]:
    """Where the cell ended, frame by frame, since this was asked last; each place once in a row."""
    seen = notebook.page.evaluate("window.ends.splice(0)")
    return [place for place, _ in itertools.groupby(seen)]


def test_the_cell_stays_as_it_is_while_a_line_comes_is_typed_through_and_goes(watched):
    watched.type("result = ")
    watched.wait_ghost(LINE[9:])
    watched.type("np.ar", delay=60)
    watched.press("Alt+.")
    watched.page.wait_for_timeout(300)
    watched.type("z", delay=60)  # something else
    watched.page.wait_for_timeout(300)
    watched.press("Control+a", "Delete")
    watched.type("result = ")
    watched.wait_ghost(LINE[9:])
    watched.press("Escape")
    watched.page.wait_for_timeout(300)
    assert len(ends(watched)) == 1


def test_accepting_a_block_moves_nothing_below_it(watched):
    begin_block(watched)
    watched.wait_ghost(BLOCK[18:])
    watched.page.wait_for_timeout(300)
    grown = ends(watched)
    assert grown == sorted(grown)  # line by line, and never back
    watched.press("Tab")
    watched.page.wait_for_timeout(1200)
    assert watched.source(0) == BLOCK
    assert ends(watched) == grown[-1:]


def test_a_block_that_is_not_wanted_goes_without_a_jump(watched):
    begin_block(watched)
    watched.wait_ghost(BLOCK[18:])
    watched.page.wait_for_timeout(300)
    grown = ends(watched)
    watched.type(" ")
    watched.type("x")
    watched.page.wait_for_timeout(100)
    assert ends(watched) == grown[-1:]  # it keeps its place while one goes on typing
    watched.page.wait_for_timeout(1500)
    left = ends(watched)
    assert left == sorted(left, reverse=True) and left[-1] == grown[0]


def test_the_numbers_tell_what_was_shown_and_accepted_with_a_plot(quick_cell):
    quick_cell.type("pass")
    quick_cell.press("Control+Enter")  # what the page knows from tests before is forgotten
    quick_cell.execute("get_ipython().run_line_magic('sc2', 'stats reset')")
    quick_cell.enter(0)
    quick_cell.press("Control+a", "Delete")
    quick_cell.type("result = ")
    quick_cell.wait_ghost(LINE[9:])
    quick_cell.press("Alt+.", "Tab")
    quick_cell.page.wait_for_timeout(300)
    quick_cell.press("Control+a", "Delete")
    quick_cell.type("%sc2 stats")
    quick_cell.press("Control+Enter")
    output = quick_cell.cell(0).locator(".jp-OutputArea-output")
    row = output.locator("tr", has_text="Accepted in full, by word, by line")
    row.locator("td", has_text="1, 1, 0").wait_for()
    row = output.locator("tr", has_text="Characters saved")
    assert row.locator("td").last.inner_text() == str(len(LINE) - 9)
    output.locator("svg").wait_for()
