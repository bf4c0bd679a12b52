"""Consoles, file editors, Notebook 7, the panel in the sidebar, other providers, vim keys: in a real JupyterLab."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.browser.conftest import LAB, PATIENCE_MS, SLOW_ENGINE, Server, open_page
from tests.browser.slow_engine import LINE
from tests.browser.test_standing import says
from tests.support.kernels import installed

SHOWN = "() => document.querySelector('.jp-GhostText:not(:empty)')?.textContent"


def command(notebook, id: str, **args: object) -> None:
    notebook.page.evaluate(
        "async ([id, args]) => { await window.jupyterapp.commands.execute(id, args); }", [id, args]
    )


def test_a_file_is_completed_by_the_kernel_of_its_console(slow_lab, one_notebook, request):
    (slow_lab.root / "script.py").write_text("")
    command(one_notebook, "docmanager:open", path="script.py")
    editor = one_notebook.page.locator(".jp-FileEditor .cm-content")
    editor.click()
    one_notebook.page.wait_for_timeout(300)
    command(one_notebook, "fileeditor:create-console")
    one_notebook.page.locator(".jp-Dialog .jp-mod-accept").click()  # the kernel that is proposed
    console = one_notebook.page.locator(".jp-CodeConsole-input .cm-content")
    console.wait_for()
    one_notebook.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session"
        "?.kernel?.status === 'idle'"
    )
    console.click()
    says(one_notebook, "ready")
    one_notebook.type("result = ")
    one_notebook.wait_ghost(LINE[9:])
    one_notebook.press("Tab")
    assert console.inner_text().strip() == LINE
    editor.click()
    says(one_notebook, "ready")
    one_notebook.type("result = ")
    one_notebook.wait_ghost(LINE[9:])
    one_notebook.press("Alt+.", "Tab")
    assert editor.inner_text().strip() == LINE
    command(one_notebook, "docmanager:save-all")  # or a dialog asks what to do
    command(one_notebook, "application:close-all")
    command(one_notebook, "docmanager:open", path="one.ipynb")
    one_notebook.cell(0).wait_for()
    one_notebook.enter(0)  # a launcher may have come to the front meanwhile


def test_the_panel_in_the_sidebar_and_config_are_one(quick_cell):
    command(quick_cell, "jupyter_sc2:open-panel")
    panel = quick_cell.page.locator(".jp-sc2-Sidebar")
    ready = panel.locator(".jp-sc2-Badge", has_text="Ready")
    ready.wait_for(timeout=PATIENCE_MS)
    row = panel.locator(".widget-inline-hbox", has_text="Length")
    assert row.locator(".widget-readout").inner_text() == "64"
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.max_tokens = 9')")
    row.locator(".widget-readout", has_text="9").wait_for()
    row.locator(".widget-readout").click()
    quick_cell.page.keyboard.press("Control+a")
    quick_cell.page.keyboard.type("12")
    quick_cell.page.keyboard.press("Enter")
    quick_cell.page.wait_for_timeout(500)
    quick_cell.enter(0)
    quick_cell.type("%config SC2.max_tokens")
    quick_cell.press("Control+Enter")
    quick_cell.cell(0).locator(".jp-OutputArea-output", has_text="12").wait_for()
    models = panel.get_by_label("Model", exact=True)
    assert "starcoder2-3b" in models.inner_text().replace("\xa0", " ")
    models.select_option(label="Other…")
    model = panel.locator(".widget-text", has_text="Model name").locator("input")
    model.fill("starcoder2-3x")
    model.press("Enter")
    panel.locator("text=Did you mean starcoder2-3b?").wait_for()
    ready.wait_for()
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.max_tokens = 64')")
    command(quick_cell, "application:toggle-right-area")


def test_our_text_is_shown_where_another_provider_has_nothing(slow_lab, open_notebook):
    """JupyterLab drops the answers that come behind a provider with an error or without an answer."""
    history = "@jupyterlab/inline-completer:history"
    inline = "@jupyterlab/completer-extension:inline-completer"
    slow_lab.set(inline, providers={history: {"enabled": True}})
    try:
        notebook = open_notebook(slow_lab, slow_lab.notebook("two.ipynb", "x = 1", ""))
        notebook.wait_ready()
        notebook.run(0)
        notebook.enter(1)
        notebook.type("result = ")
        notebook.wait_ghost(LINE[9:])
        notebook.press("Alt+.")
        assert notebook.source(1) == "result = np"
        notebook.press("Control+a", "Delete")
        notebook.page.wait_for_timeout(300)
        notebook.type("x = ")  # only the history knows
        notebook.page.wait_for_timeout(800)
        before = notebook.shown_ghost()
        notebook.press("Alt+.")
        assert notebook.source(1) == "x = "
        if before:
            notebook.press("Tab")
            assert notebook.source(1) == "x = " + before
    finally:
        slow_lab.set(inline)


def test_notebook_7_accepts_by_word_and_says_how_it_stands(tmp_path, chromium, request):
    server = Server(tmp_path, app="notebook", startup=SLOW_ENGINE)
    try:
        notebook = open_page(chromium, server, server.notebook("seven.ipynb", ""), "notebooks")
        says(notebook, "ready")
        notebook.enter(0)
        notebook.type("result = ")
        notebook.wait_ghost(LINE[9:])
        notebook.press("Alt+.")
        assert notebook.source(0) == "result = np"
        notebook.wait_ghost(LINE[11:])
        notebook.press("Tab")
        assert notebook.source(0) == LINE
        notebook.leave()
    finally:
        server.stop()


def vim() -> Path:
    """The folder with jupyterlab-vim, installed there the first time; it would give every page vim's keys."""
    folder = Path(sys.prefix) / "jupyterlab-vim"
    return installed("jupyterlab-vim==4.1.4", folder) / "share/jupyter"


def test_vim_keys_and_ghost_text_go_together(tmp_path, chromium, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(vim()), prepend=os.pathsep)
    server = Server(tmp_path, startup=SLOW_ENGINE)
    try:
        notebook = open_page(chromium, server, server.notebook("vim.ipynb", ""), LAB)
        notebook.wait_ready()
        notebook.enter(0)
        notebook.page.locator(".cm-vimMode").first.wait_for()
        notebook.type("iresult = ")
        notebook.wait_ghost(LINE[9:])
        notebook.press("Alt+.")
        assert notebook.source(0) == "result = np"
        notebook.wait_ghost(LINE[11:])
        notebook.press("Escape")
        notebook.page.wait_for_timeout(300)
        assert notebook.shown_ghost() == ""
        notebook.type("dd")  # Escape has left the insert mode, too
        assert notebook.source(0) == ""
        notebook.type("iresult = ")
        notebook.wait_ghost(LINE[9:])
        notebook.press("Tab")
        assert notebook.source(0) == LINE
        notebook.leave()
    finally:
        server.stop()
