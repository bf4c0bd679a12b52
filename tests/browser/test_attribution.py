"""The mark beside ghost text that matches indexed code, and the record of what was accepted: in a real JupyterLab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from jupyter_sc2.attribution import record
from jupyter_sc2.attribution.index import writing
from jupyter_sc2.attribution.lexemes import HASH, lex
from jupyter_sc2.attribution.sources import named
from tests.browser.slow_engine import LINE
from tests.support.planted import original

ABOVE = next(original(1, seed=11)).rstrip()
MARK = ".jp-sc2-Attribution"


@pytest.fixture(scope="module")
def indexed(slow_lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An index, in the data folder of the lab's kernels, of a file that goes on as the engine does."""
    assert len(lex(ABOVE.encode(), HASH)) > 65
    file = tmp_path_factory.mktemp("code") / "origin.py"
    file.write_text(f"{ABOVE}\n{LINE}\n")
    place = slow_lab.root.parent / "home/data/jupyter_sc2/attribution"
    with writing(place) as writer:
        writer.update([named(file, "Origin", "MIT")])
    yield place
    with writing(place) as writer:
        writer.remove([str(file)])


def set_metadata(notebook, value: object) -> None:
    notebook.page.evaluate(
        "value => { const { model } = window.jupyterapp.shell.currentWidget;"
        " value ? model.setMetadata('jupyter_sc2', value) : model.deleteMetadata('jupyter_sc2') }",
        value,
    )


def notes(notebook, index: int = 0) -> list[dict[str, object]]:
    own = notebook.page.evaluate(
        "index => window.jupyterapp.shell.currentWidget.content.widgets[index]"
        ".model.getMetadata('jupyter_sc2')",
        index,
    )
    return list((own or {}).get("accepted", []))


def test_ghost_text_that_matches_has_a_mark_that_says_where_it_is_from(indexed, quick_cell):
    quick_cell.type("result = ")
    quick_cell.wait_ghost(LINE[9:])
    quick_cell.page.wait_for_timeout(300)
    assert quick_cell.page.locator(MARK).count() == 0  # too little to be a match
    quick_cell.fill(0, f"{ABOVE}\n")
    quick_cell.type("result = ")
    mark = quick_cell.page.locator(MARK)
    mark.wait_for()
    assert mark.locator(f"{MARK}-label").inner_text() == "≈ Origin, MIT"
    details = mark.locator(f"{MARK}-details")
    assert not details.is_visible()
    for _ in range(20):
        # A mark may move while its cell grows; a reader's hand goes after it.
        quick_cell.page.mouse.move(1, 1)
        mark.hover()
        if details.is_visible():
            break
        quick_cell.page.wait_for_timeout(250)
    assert details.is_visible()
    assert "Origin, origin.py, lines 1 to" in details.inner_text()
    quick_cell.press("Escape")
    mark.wait_for(state="detached")


def test_blocked_text_is_not_shown_and_the_status_says_why(indexed, quick_cell):
    quick_cell.execute("%config SC2.attribution = 'block'")
    try:
        quick_cell.fill(0, f"# Not asked before.\n{ABOVE}\n")
        quick_cell.type("result = ")
        quick_cell.page.locator(".jp-sc2-StatusItem", has_text="matches indexed code").wait_for()
        assert quick_cell.shown_ghost() == ""
    finally:
        quick_cell.execute("%config SC2.attribution = 'show'")


def test_what_is_accepted_is_recorded_where_the_notebook_asks_for_it(indexed, quick_cell, slow_lab):
    quick_cell.type("result = ")
    quick_cell.wait_ghost(LINE[9:])
    quick_cell.press("Tab")
    assert notes(quick_cell) == []
    set_metadata(quick_cell, {"record": True})
    try:
        quick_cell.fill(0, f"{ABOVE}\n")
        quick_cell.type("result = ")
        quick_cell.page.locator(MARK).wait_for()
        quick_cell.press("Alt+.", "Alt+.", "Tab")
        (note,) = notes(quick_cell)
        assert note["text"] == LINE[9:]
        assert note["offset"] == len(f"{ABOVE}\nresult = ")
        assert note["model"] == "embedded"
        assert note["matches"][0]["source"] == "Origin"  # type: ignore[index]
        # Undo takes back text, one accept for each step, and never only the note.
        quick_cell.press("Control+z")
        assert quick_cell.source(0) == f"{ABOVE}\nresult = np."
        quick_cell.press("Control+Shift+z")
        # Each part of a split cell has the note.
        quick_cell.press("Control+Home", "End", "Control+Shift+Minus")
        assert notes(quick_cell, 0) == notes(quick_cell, 1) == [note]
        quick_cell.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        quick_cell.page.wait_for_timeout(500)
        document = nbformat.read(slow_lab.root / "one.ipynb", as_version=4)
        rows = [(cell.source, record.notes(cell.metadata)) for cell in document.cells]
        (kept,) = record.retained(rows)
        assert (kept.cells, kept.share) == ((0, 1), 1.0)
        assert json.dumps(document.cells[2:]) == "[]"
        quick_cell.page.evaluate("window.jupyterapp.commands.execute('notebook:undo-cell-action')")
    finally:
        set_metadata(quick_cell, None)
