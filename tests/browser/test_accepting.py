"""Accepting ghost text in parts, going through candidates, dismissing it: in a real JupyterLab."""

from __future__ import annotations

import pytest

from tests.browser.conftest import begin_block
from tests.browser.slow_engine import BLOCK, LINE, OTHERS
from tests.browser.test_places import command

WORD, ACCEPT_LINE = "Alt+.", "Alt+Shift+."


@pytest.fixture
def notebook(quick_cell):
    return quick_cell


def watch_for_gaps(notebook) -> None:
    """Notes each frame in which there is no ghost text."""
    notebook.page.evaluate(
        """() => {
          window.gaps = 0;
          const look = () => {
            const shown = [...document.querySelectorAll('.jp-GhostText')]
              .some(ghost => ghost.offsetParent && ghost.textContent.trim());
            window.gaps += shown ? 0 : 1;
            requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
        }"""
    )


def test_the_next_word_is_accepted_and_the_rest_stays_without_a_gap(notebook):
    notebook.type("result = ")
    notebook.wait_ghost(LINE[9:])
    watch_for_gaps(notebook)
    for accepted in ("np", ".", "arange", "("):
        before = notebook.source(0)
        notebook.press(WORD)
        notebook.page.wait_for_timeout(150)
        assert notebook.source(0) == before + accepted
        assert notebook.source(0) + notebook.shown_ghost() == LINE
    assert notebook.page.evaluate("window.gaps") == 0


def test_control_and_right_accepts_the_next_word_too(notebook):
    notebook.type("result = ")
    notebook.wait_ghost(LINE[9:])
    for accepted in ("np", ".", "arange"):
        before = notebook.source(0)
        notebook.press("Control+ArrowRight")
        notebook.page.wait_for_timeout(150)
        assert notebook.source(0) == before + accepted


def test_control_and_right_moves_by_words_where_there_is_no_ghost_text(notebook):
    notebook.type("pass and no more")
    notebook.page.wait_for_timeout(500)
    notebook.press("Home")
    assert notebook.shown_ghost() == ""
    notebook.press("Control+ArrowRight")
    notebook.type("X")
    assert notebook.source(0) == "passX and no more"
    notebook.press("Control+ArrowRight")
    notebook.type("Y")
    assert notebook.source(0) == "passX andY no more"


def test_the_ghost_text_says_which_of_how_many_candidates_it_is(notebook):
    count = notebook.page.locator(".jp-sc2-CandidateCount")
    notebook.type("result = ")
    notebook.wait_ghost(LINE[9:])
    assert count.count() == 0
    notebook.press("Alt+\\")
    count.filter(has_text="1/3").wait_for()
    ghost = notebook.page.locator(".jp-GhostText:visible").last.bounding_box()
    box = count.bounding_box()
    assert box["x"] >= ghost["x"] + ghost["width"] and abs(box["y"] - ghost["y"]) < 20
    notebook.press("Alt+]")
    count.filter(has_text="2/3").wait_for()
    notebook.press("Escape")
    count.wait_for(state="detached")


def test_each_accept_is_one_step_of_undo(notebook):
    notebook.type("result = ", delay=5)
    notebook.wait_ghost(LINE[9:])
    notebook.press(WORD, WORD)
    assert notebook.source(0) == "result = np."
    notebook.press("Tab")
    assert notebook.source(0) == LINE
    for left in ("result = np.", "result = np", "result = "):
        notebook.press("Control+z")
        assert notebook.source(0) == left


def test_what_was_left_out_comes_after_tab(notebook):
    sure = "result = np.arange(10)"
    notebook.slow(sure_until=sure)
    notebook.execute("get_ipython().run_line_magic('config', 'SC2.confidence = 0.3')")
    try:
        notebook.type("result = ")
        notebook.wait_ghost("np.arange(10)")
        notebook.page.wait_for_timeout(500)
        assert notebook.shown_ghost() == "np.arange(10)"
        notebook.press("Tab")
        notebook.wait_ghost(LINE[len(sure) :])
    finally:
        notebook.execute("get_ipython().run_line_magic('config', 'SC2.confidence = None')")


def test_the_next_line_is_accepted_and_the_lines_below_stay(notebook):
    begin_block(notebook)
    notebook.wait_ghost(BLOCK[18:])
    first, second = BLOCK[18:].strip("\n").split("\n")
    notebook.press(ACCEPT_LINE)
    notebook.wait_ghost("\n" + second)
    assert notebook.source(0) == f"for name in names:\n{first}"
    notebook.press(ACCEPT_LINE)
    assert notebook.source(0) == BLOCK
    notebook.press("Control+z", "Control+z")
    assert notebook.source(0) == "for name in names:"


def test_one_who_asks_goes_through_several_candidates(notebook):
    notebook.type("result = ")
    notebook.wait_ghost(LINE[9:])
    notebook.press("Alt+\\")
    counter = notebook.page.locator(".jp-InlineCompleter >> text=/\\d\\/3/")
    counter.wait_for(state="attached")
    shown = {notebook.shown_ghost()}
    for _ in range(2):
        notebook.press("Alt+]")
        notebook.page.wait_for_timeout(100)
        shown.add(notebook.shown_ghost())
    assert shown == {text[9:] for text in (LINE, *OTHERS)}
    chosen = notebook.shown_ghost()
    notebook.press(WORD)
    notebook.page.wait_for_timeout(150)
    assert notebook.source(0) + notebook.shown_ghost() == "result = " + chosen
    notebook.press("Tab")
    assert notebook.source(0) == "result = " + chosen


def test_escape_takes_the_ghost_away_and_leaves_the_cursor(notebook):
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.press("Escape")
    notebook.page.wait_for_timeout(200)
    assert (notebook.shown_ghost(), notebook.source(0)) == ("", "result = ")
    notebook.type("5")
    assert notebook.source(0) == "result = 5"
    notebook.press("Escape")  # now it is JupyterLab's again
    notebook.page.locator(".jp-Notebook.jp-mod-commandMode").wait_for()


def test_tab_indents_and_completes_names_where_there_is_no_ghost(notebook):
    notebook.press("Tab")
    assert notebook.source(0) == "    "
    notebook.execute("import os")
    notebook.type("os.getc")
    notebook.page.wait_for_timeout(600)
    assert notebook.shown_ghost() == ""
    notebook.press("Tab")
    notebook.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.sharedModel"
        ".getSource().includes('getcwd') || document.querySelector('.jp-Completer-item')"
    )


def test_tab_is_free_again_when_the_ghost_does_not_fit_any_more(notebook):
    """JupyterLab leaves its class on the editor then, and with it swallows the key."""
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.type("s")
    assert not notebook.cell(0).locator(".jp-mod-inline-completer-active").count()
    notebook.press("Control+a", "Delete", "Tab")
    assert notebook.source(0) == "    "


def test_the_same_is_accepted_at_each_of_several_cursors(notebook):
    notebook.type("a\nb")
    notebook.press("Control+Alt+ArrowUp")  # a second cursor
    notebook.type(" + result = ")
    notebook.ghost_text()
    notebook.page.wait_for_timeout(500)
    assert notebook.shown_ghost() in (LINE[9:] * 2, LINE[9:])  # before 4.6 JupyterLab shows it once
    notebook.press(WORD)
    assert notebook.source(0) == "a + result = np\nb + result = np"
    notebook.press("Tab")
    assert notebook.source(0) == f"a + {LINE}\nb + {LINE}"
    notebook.press("Control+z", "Control+z")
    assert notebook.source(0) == "a + result = \nb + result = "


def test_a_bracket_that_the_editor_closes_is_not_doubled(notebook):
    notebook.page.evaluate(
        "window.jupyterapp.shell.currentWidget.content.widgets[0].editor"
        ".setOption('autoClosingBrackets', true)"
    )
    notebook.type("result = np.ones")
    notebook.wait_ghost("(3)")
    notebook.type("(")
    assert notebook.source(0) == "result = np.ones()"
    notebook.wait_ghost("3")
    notebook.press("Tab")
    assert notebook.source(0) == "result = np.ones(3)"


def test_enter_after_a_colon_asks_and_what_was_typed_of_it_stays(notebook):
    notebook.type("if total > 3")
    notebook.wait_ghost(":")  # the end of the line; a block follows once it is typed
    notebook.type(":")
    notebook.wait_ghost("\n    print('many')")
    notebook.press("Enter")
    notebook.wait_ghost("print('many')")
    notebook.press("Tab")
    assert notebook.source(0) == "if total > 3:\n    print('many')"


def test_enter_after_an_accepted_line_shows_the_next_one(notebook):
    notebook.type("first = np.zeros")
    notebook.wait_ghost("(2)")
    notebook.press("Tab")
    assert notebook.source(0) == "first = np.zeros(2)"
    notebook.press("Enter")
    notebook.wait_ghost("second = np.zeros(3)")


def test_blanks_typed_over_a_ghost_are_neither_lost_nor_doubled(notebook):
    begin_block(notebook)
    notebook.wait_ghost(BLOCK[18:])
    notebook.press("Escape", "Enter")
    notebook.wait_ghost(BLOCK[23:])
    notebook.press("Backspace")
    notebook.type("    ")
    notebook.page.wait_for_timeout(400)
    if notebook.shown_ghost():
        notebook.press("Tab")
        assert notebook.source(0) == BLOCK
    else:
        assert notebook.source(0) == BLOCK[:23]


@pytest.fixture
def importing(notebook):
    """With names looked up in the kernel, which has no numpy."""
    config = "get_ipython().run_line_magic('config', 'SC2.grounding = {}')"
    notebook.execute(config.format(True))
    yield notebook
    notebook.execute(config.format(False))


NUMPY = "import numpy as np"


def test_a_missing_import_is_shown_and_comes_with_the_word_that_needs_it(importing):
    hint = importing.page.locator(".jp-sc2-ImportHint")
    importing.type("result = ")
    importing.wait_ghost(LINE[9:])
    hint.filter(has_text=f"+ {NUMPY}").wait_for()
    importing.press(WORD)
    assert importing.source(0) == f"{NUMPY}\nresult = np"
    importing.wait_ghost(LINE[11:])
    hint.wait_for(state="detached")
    importing.press("Control+z")
    assert importing.source(0) == "result = "
    importing.enter(0)
    importing.press("Alt+\\")
    importing.wait_ghost(LINE[9:])
    hint.click()
    hint.wait_for(state="detached")
    importing.press("Tab")
    assert importing.source(0) == LINE


def test_a_missing_import_comes_once_for_several_cursors_and_goes_with_one_undo(importing):
    importing.type("a = 1\nb = 2")
    importing.press("Control+Alt+ArrowUp")
    importing.type("; result = ")
    importing.ghost_text()
    importing.page.wait_for_timeout(500)
    importing.press("Tab")
    assert importing.source(0) == f"{NUMPY}\na = 1; {LINE}\nb = 2; {LINE}"
    importing.press("Control+z")
    assert importing.source(0) == "a = 1; result = \nb = 2; result = "


def test_a_missing_import_goes_into_the_first_cell_of_imports_unless_it_is_locked(importing):
    command(importing, "notebook:insert-cell-above")
    importing.fill(0, "import os")
    importing.run(0)
    importing.wait_idle()
    importing.enter(1)
    try:
        importing.type("result = ")
        importing.wait_ghost(LINE[9:])
        importing.press("Tab")
        assert importing.source(0) == f"import os\n{NUMPY}"
        assert importing.source(1) == LINE
        again = f"Added to the first cell of imports: {NUMPY}. Run it again."
        importing.page.locator(".jp-toastContainer", has_text=again).wait_for()
        importing.press("Control+z")
        assert importing.source(1) == "result = "
        importing.enter(0)
        importing.press("Control+z")
        assert importing.source(0) == "import os"
        importing.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets[0].model"
            ".setMetadata('editable', false)"
        )
        importing.enter(1)
        importing.press("Alt+\\")
        importing.wait_ghost(LINE[9:])
        importing.press("Tab")
        assert importing.source(0) == "import os"
        assert importing.source(1) == f"{NUMPY}\n{LINE}"
    finally:
        importing.enter(0)
        command(importing, "notebook:delete-cell")
