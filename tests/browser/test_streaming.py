"""Typing while the ghost text is still being written, with an engine that is slow on purpose."""

from __future__ import annotations

from tests.browser.slow_engine import LINE


def shown_line(notebook) -> str:
    """What the user reads in the cell: the typed text and the ghost text behind it."""
    return notebook.source(0) + notebook.shown_ghost()


def wait_for_whole_line(notebook) -> None:
    for _ in range(150):
        if shown_line(notebook) == LINE:
            return
        notebook.page.wait_for_timeout(100)
    raise AssertionError(f"The cell shows {shown_line(notebook)!r}.")


def test_typing_through_a_streaming_ghost_neither_doubles_nor_loses_a_character(
    slow_lab, open_notebook
):
    notebook = open_notebook(slow_lab, slow_lab.notebook("stream.ipynb", ""))
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    for char in "np.arange(10).re":
        notebook.type(char)
        assert LINE.startswith(notebook.source(0).rstrip(")"))  # JupyterLab closes brackets itself
        notebook.page.wait_for_timeout(70)
    wait_for_whole_line(notebook)
    notebook.page.keyboard.press("Tab")
    notebook.page.wait_for_timeout(300)
    assert notebook.source(0) == LINE


def test_typing_something_else_takes_the_ghost_away(slow_lab, open_notebook):
    notebook = open_notebook(slow_lab, slow_lab.notebook("other.ipynb", ""))
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.type("5 #")
    notebook.page.wait_for_timeout(800)
    assert notebook.shown_ghost() == ""
    assert notebook.source(0) == "result = 5 #"


def test_escape_dismisses_and_changes_nothing(slow_lab, open_notebook):
    notebook = open_notebook(slow_lab, slow_lab.notebook("escape.ipynb", ""))
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.page.keyboard.press("Escape")
    notebook.page.wait_for_timeout(300)
    assert (notebook.shown_ghost(), notebook.source(0)) == ("", "result = ")
