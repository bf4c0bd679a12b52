"""What a new user meets: the quickstart's five steps with the model of the package, and the keys told once."""

from __future__ import annotations

import json
import re
import shutil

import nbformat
import pytest

from tests.browser.conftest import EXAMPLES, LAB, PATIENCE_MS, Server, open_page
from tests.browser.test_places import command

CELLS = [cell.id for cell in nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4).cells]


@pytest.fixture(scope="module")
def real_lab(tmp_path_factory):
    """A server whose kernels have the model that ships with the package, and not the tests' own."""
    server = Server(tmp_path_factory.mktemp("real"), without=("JUPYTER_SC2_EMBEDDED",))
    shutil.copy(EXAMPLES / "quickstart.ipynb", server.root)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def quickstart(chromium, real_lab):
    notebook = open_page(chromium, real_lab, "quickstart.ipynb", LAB)
    notebook.wait_ready()
    yield notebook
    notebook.leave()


def at(cell: str) -> int:
    return CELLS.index(cell)


def test_step_1_an_import_is_suggested_and_tab_accepts_it(quickstart):
    quickstart.enter(at("first"))
    quickstart.type("import numpy as ")
    quickstart.ghost_text()
    quickstart.press("Tab")
    assert quickstart.source(at("first")).startswith("import numpy as np")


def test_step_2_a_name_of_another_cell_is_suggested(quickstart):
    quickstart.run(at("data"))
    quickstart.wait_idle()
    quickstart.enter(at("second"))
    quickstart.type("for height in ")
    assert quickstart.ghost_text().startswith("heights")
    quickstart.press("Escape")


def test_step_3_what_a_live_variable_has_is_suggested(quickstart):
    for cell in ("kernel-year", "kernel-function", "kernel-months"):
        quickstart.run(at(cell))
        quickstart.wait_idle()
    quickstart.enter(at("kernel-cell"))
    quickstart.type("print(temperature.")
    attribute = quickstart.ghost_text().split("(")[0]
    assert attribute.isidentifier()
    assert quickstart.value(f"hasattr(temperature, {attribute!r})") == "True"
    quickstart.press("Escape")


def test_step_4_a_suggestion_is_accepted_word_by_word(quickstart):
    quickstart.enter(at("parts-cell"))
    quickstart.type("for month, mean in ")
    assert quickstart.ghost_text().startswith("by_month")
    quickstart.press("Alt+.")
    assert quickstart.source(at("parts-cell")) == "for month, mean in by_month"
    rest = quickstart.ghost_text()
    quickstart.press("Alt+.")
    more = quickstart.source(at("parts-cell")).removeprefix("for month, mean in by_month")
    assert more and rest.startswith(more)


def test_step_5_several_suggestions_come_and_the_menu_opens_the_panel(quickstart):
    quickstart.enter(at("several-cell"))
    quickstart.press("Enter", "Alt+\\")
    first = quickstart.ghost_text()
    for _ in range(40):
        quickstart.page.wait_for_timeout(250)
        quickstart.press("Alt+]")
        if quickstart.shown_ghost() != first:
            break
    assert quickstart.shown_ghost() not in ("", first)
    quickstart.press("Escape")
    quickstart.page.locator(".jp-sc2-StatusItem-button").click()
    quickstart.page.locator(".jp-sc2-Menu .lm-Menu-itemLabel", has_text="Open Panel").click()
    quickstart.page.locator(".jp-sc2-Panel .jp-sc2-Badge").wait_for(timeout=PATIENCE_MS)
    command(quickstart, "application:toggle-right-area")


def test_the_keys_stand_below_the_first_ghost_text_and_never_again(
    slow_lab, open_notebook, settings
):
    settings()
    notebook = open_notebook(slow_lab, slow_lab.notebook("hint.ipynb", ""))
    notebook.wait_ready()
    hint = notebook.page.locator(".jp-sc2-FirstHint")
    assert hint.count() == 0
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    hint.wait_for()
    assert hint.inner_text() == "Tab accepts · Esc dismisses · Alt+\\ more"
    ghost = notebook.page.locator(".jp-GhostText:visible").first.bounding_box()
    box = hint.bounding_box()
    assert box["y"] >= ghost["y"] + ghost["height"] or box["y"] + box["height"] <= ghost["y"]
    notebook.press("Escape")
    hint.wait_for(state="detached")
    file = slow_lab.settings / "jupyter-sc2/plugin.jupyterlab-settings"
    for _ in range(50):
        if '"hint": false' in file.read_text():
            break
        notebook.page.wait_for_timeout(100)
    notebook.press("Control+a", "Delete")
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.page.wait_for_timeout(300)
    assert hint.count() == 0
    notebook.page.reload()
    notebook.cell(0).wait_for()
    notebook.wait_ready()
    notebook.enter(0)
    notebook.press("Control+a", "Delete")
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.page.wait_for_timeout(300)
    assert hint.count() == 0
    settings()


def test_a_setting_puts_the_keys_away(slow_lab, open_notebook, settings):
    settings(hint=False)
    notebook = open_notebook(slow_lab, slow_lab.notebook("no-hint.ipynb", ""))
    notebook.wait_ready()
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.page.wait_for_timeout(300)
    assert notebook.page.locator(".jp-sc2-FirstHint").count() == 0


def test_a_new_notebook_says_that_the_model_loads_and_for_how_long(slow_lab, open_notebook):
    notebook = open_notebook(slow_lab, slow_lab.notebook("late.ipynb", ""))
    notebook.slow(loading=("loading", None))
    notebook.execute("get_ipython().run_line_magic('sc2', 'load owner/name --no-wait')")
    notebook.page.locator(
        ".jp-sc2-StatusItem", has_text=re.compile(r"loading model · \d+ s")
    ).wait_for()
    notebook.slow(loading=None)


def test_the_command_that_installs_comes_from_where_the_servers_copy_came_from(
    slow_lab, open_notebook, settings
):
    settings(companion=False)
    bare = slow_lab.kernel("bare-copy", "import sys; sys.modules['jupyter_sc2'] = None")
    notebook = open_notebook(slow_lab, slow_lab.notebook("copy.ipynb", "", kernel=bare))
    status = notebook.page.locator(".jp-sc2-StatusItem-button")
    notebook.page.locator(".jp-sc2-StatusItem", has_text="not installed").wait_for()
    config = json.loads(str(notebook.page.locator("#jupyter-config-data").text_content()))
    assert config["jupyterSc2Install"].startswith("%pip install ")
    assert config["jupyterSc2Install"] in str(status.get_attribute("title"))
