"""What JupyterLab's settings editor, the panel, `%config` and the config file set is one and the same value."""

from __future__ import annotations

import json
import re

from tests.browser.conftest import PATIENCE_MS
from tests.browser.test_places import command
from tests.browser.test_standing import menu, says


def setting(notebook, name: str) -> str:
    found = "next(c for c in get_ipython().configurables if type(c).__name__ == 'SC2')"
    return str(notebook.value(f"{found}.{name}"))


def config(notebook, line: str) -> None:
    notebook.execute(f"get_ipython().run_line_magic('config', {line!r})")


def wait_setting(notebook, name: str, value: str) -> None:
    for _ in range(PATIENCE_MS // 100):
        if setting(notebook, name) == value:
            return
        notebook.page.wait_for_timeout(100)
    raise AssertionError(f"{name} is {setting(notebook, name)}, not {value}.")


def panel_row(notebook, label: str):
    """The row of a setting in the sidebar."""
    if not notebook.page.locator(".jp-sc2-Sidebar").is_visible():
        command(notebook, "jupyter_sc2:open-panel")
    panel = notebook.page.locator(".jp-sc2-Sidebar")
    panel.locator(".jp-sc2-Badge", has_text="Ready").wait_for(timeout=PATIENCE_MS)
    return panel.locator(".widget-inline-hbox", has_text=label).first


def chosen(select) -> str:
    """What a list shows."""
    text = select.evaluate("select => select.selectedOptions[0].text")
    return str(text).replace("\xa0", " ")


def test_what_is_set_in_a_kernel_stays_until_jupyterlabs_setting_is_changed(
    slow_lab, open_notebook, settings
):
    settings(kernel={"max_tokens": 33})
    notebook = open_notebook(slow_lab, slow_lab.notebook("value.ipynb", ""))
    notebook.wait_ready()
    assert setting(notebook, "max_tokens") == "33"
    config(notebook, "SC2.max_tokens = 44")
    panel_row(notebook, "Length").locator(".widget-readout", has_text="44").wait_for()
    notebook.page.reload()
    notebook.cell(0).wait_for()
    notebook.wait_ready()
    assert setting(notebook, "max_tokens") == "44"
    settings(kernel={"max_tokens": 55})
    notebook.page.reload()
    notebook.cell(0).wait_for()
    notebook.wait_ready()
    wait_setting(notebook, "max_tokens", "55")
    settings()
    notebook.page.reload()
    notebook.cell(0).wait_for()
    notebook.wait_ready()
    wait_setting(notebook, "max_tokens", "64")


def test_ghost_text_is_chosen_in_the_settings_editor_the_panel_the_menu_or_by_config(
    slow_lab, open_notebook, settings
):
    notebook = open_notebook(slow_lab, slow_lab.notebook("mode.ipynb", ""))
    notebook.wait_ready()
    panel = panel_row(notebook, "Show").locator("select")
    panel.select_option(label="On request (Alt+\\)")
    says(notebook, "on demand")
    assert setting(notebook, "mode") == "'manual'"
    config(notebook, "SC2.mode = 'automatic'")
    says(notebook, "ready")
    menu(notebook, "Show Ghost Text While Typing")
    says(notebook, "on demand")
    assert chosen(panel) == "On request (Alt+\\)"
    notebook.page.wait_for_timeout(300)
    command(notebook, "settingeditor:open", query="Code Completion (SC2)")
    editor = notebook.page.locator("select[id$='plugin_mode']")
    editor.wait_for()
    assert chosen(editor).startswith("On request")
    editor.select_option(label="Never, and no model is loaded")
    command(notebook, "docmanager:open", path="mode.ipynb")
    says(notebook, "off")
    wait_setting(notebook, "mode", "'off'")
    config(notebook, "SC2.mode = 'automatic'")
    says(notebook, "ready")


def test_what_the_panel_saves_for_good_stands_in_both_files_and_in_new_kernels(
    slow_lab, open_notebook, settings
):
    settings(kernel={"max_tokens": 33})
    notebook = open_notebook(slow_lab, slow_lab.notebook("good.ipynb", ""))
    notebook.wait_ready()
    panel_row(notebook, "Length")
    config(notebook, "SC2.max_tokens = 21")
    config(notebook, "SC2.top_k = 5")
    sidebar = notebook.page.locator(".jp-sc2-Sidebar")
    sidebar.get_by_role("button", name="Save as defaults").click()
    sidebar.locator("text=Saved as defaults for new kernels").wait_for()
    file = slow_lab.settings / "jupyter-sc2/plugin.jupyterlab-settings"
    notebook.page.locator(".Toastify__toast", has_text="updated to match").wait_for()
    notebook.page.wait_for_timeout(500)
    assert '"max_tokens": 21' in file.read_text()
    config_file = slow_lab.root.parent / "home/ipython/profile_default/ipython_config.json"
    try:
        saved = json.loads(config_file.read_text())["SC2"]
        assert (saved["max_tokens"], saved["top_k"]) == (21, 5)
        notebook.page.evaluate(
            "window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()"
        )
        notebook.wait_idle()
        notebook.wait_ready()
        assert (setting(notebook, "max_tokens"), setting(notebook, "top_k")) == ("21", "5")
    finally:
        sidebar.get_by_text("Advanced").click()
        sidebar.get_by_role("button", name="Reset defaults").click()
        sidebar.locator("text=start with the built-in defaults again").wait_for()
        notebook.page.wait_for_timeout(500)
    assert not config_file.exists()
    assert "max_tokens" not in file.read_text()


def test_all_that_the_model_reads_is_shown_from_the_menu(quick_cell):
    quick_cell.type("result = np")
    quick_cell.ghost_text()
    quick_cell.press("Escape")
    menu(quick_cell, "Show Prompt")
    dialog = quick_cell.page.locator(".jp-Dialog")
    dialog.locator("text=this cell").first.wait_for()
    assert "result =" in dialog.inner_text() and "tokens: " in dialog.inner_text()
    dialog.get_by_role("button", name="Close").click()


def test_a_source_is_switched_off_in_the_panel_where_its_tokens_stand(slow_lab, open_notebook):
    name = slow_lab.notebook("sources.ipynb", "import numpy as np", "")
    notebook = open_notebook(slow_lab, name)
    notebook.wait_ready()
    panel_row(notebook, "Code cells above")
    notebook.enter(1)
    notebook.type("result = ")
    notebook.ghost_text()
    sidebar = notebook.page.locator(".jp-sc2-Sidebar")
    row = sidebar.locator(".jp-sc2-Source", has_text="Code cells above")
    row.locator(".jp-sc2-Source-tokens", has_text=re.compile(r"^\d+$")).wait_for()
    row.get_by_role("checkbox", name="Code cells above").click()
    row.locator(".jp-sc2-Source-tokens", has_text=re.compile(r"^$")).wait_for(state="attached")
    assert setting(notebook, "context_cells") == "False"


def test_what_a_cell_put_out_is_read_when_that_is_switched_on(slow_lab, open_notebook):
    name = slow_lab.notebook("outputs.ipynb", "print('seven', 3 + 4)", "")
    notebook = open_notebook(slow_lab, name)
    notebook.wait_ready()
    config(notebook, "SC2.context_outputs = True")
    notebook.run(0)
    notebook.enter(1)
    notebook.type("result = ")
    notebook.ghost_text()
    command(notebook, "jupyter_sc2:show-context")
    notebook.page.locator(".jp-sc2-Context pre", has_text="# Output:\n# seven 7").wait_for()
    notebook.press("Escape")
