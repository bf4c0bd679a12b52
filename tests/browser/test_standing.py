"""What the status item says, what its menu does, and how completion is switched off: in a real JupyterLab."""

from __future__ import annotations

from pathlib import Path

import nbformat

from tests.browser.conftest import PATIENCE_MS, Server
from tests.browser.slow_engine import LINE


def says(notebook, text: str) -> None:
    """Waits until the status item says this."""
    notebook.page.locator(".jp-sc2-StatusItem", has_text=text).wait_for(timeout=PATIENCE_MS)


def menu(notebook, label: str) -> None:
    """Opens the status item's menu and clicks an entry."""
    notebook.page.locator(".jp-sc2-StatusItem-button").click()
    notebook.page.locator(".jp-sc2-Menu .lm-Menu-itemLabel", has_text=label).click()


def test_the_status_says_generating_and_no_suggestion(quick_cell):
    quick_cell.slow(pace=0.3)
    quick_cell.type("result = np")
    says(quick_cell, "embedded fp32 · generating")
    quick_cell.slow(pace=0.002)
    quick_cell.type(" zz")
    says(quick_cell, "no suggestion")
    quick_cell.type("; result = ")
    says(quick_cell, "ready")


def test_pausing_leaves_asking_and_resuming_brings_it_back(quick_cell):
    menu(quick_cell, "Show Ghost Text While Typing")
    says(quick_cell, "on demand")
    quick_cell.enter(0)
    quick_cell.type("result = ")
    quick_cell.page.wait_for_timeout(600)
    assert quick_cell.shown_ghost() == ""
    quick_cell.press("Alt+\\")
    assert quick_cell.ghost_text()
    menu(quick_cell, "Show Ghost Text While Typing")
    says(quick_cell, "ready")


def test_a_snooze_pauses_suggestions_while_typing_and_says_how_long(quick_cell):
    page = quick_cell.page
    page.locator(".jp-sc2-StatusItem-button").click()
    entries = page.locator(".jp-sc2-Menu .lm-Menu-itemLabel", has_text="Snooze")
    entries.first.wait_for()
    assert [text for text in entries.all_inner_texts() if text.startswith("Snooze")] == [
        "Snooze for 5 Minutes",
        "Snooze for 30 Minutes",
        "Snooze for 60 Minutes",
        "Snooze Until the Page Reloads",
    ]
    entries.filter(has_text="30 Minutes").click()
    says(quick_cell, "snoozed, 30 min left")
    quick_cell.enter(0)
    quick_cell.type("result = ")
    page.wait_for_timeout(600)
    assert quick_cell.shown_ghost() == ""
    quick_cell.press("Alt+\\")
    assert quick_cell.ghost_text()
    menu(quick_cell, "End Snooze")
    says(quick_cell, "ready")
    quick_cell.enter(0)
    quick_cell.press("Control+a", "Delete")
    quick_cell.type("result = ")
    assert quick_cell.ghost_text()


def test_the_model_is_unloaded_and_loaded_from_the_menu(quick_cell):
    menu(quick_cell, "Unload Model")
    says(quick_cell, "not loaded")
    menu(quick_cell, "Load Model")
    says(quick_cell, "ready")


def test_a_wrong_model_name_is_said_in_words_and_changes_nothing(quick_cell):
    menu(quick_cell, "Choose Model…")
    field = quick_cell.page.locator(".jp-Dialog input")
    field.fill("starcoder2-3x")
    quick_cell.page.keyboard.press("Enter")
    told = quick_cell.page.locator(".Toastify__toast", has_text="Did you mean starcoder2-3b?")
    told.wait_for()
    told.click()
    says(quick_cell, "embedded")


def test_a_kernel_without_the_package_says_what_installs_it(slow_lab, open_notebook, settings):
    settings(companion=False)
    bare = slow_lab.kernel("bare", "import sys; sys.modules['jupyter_sc2'] = None")
    notebook = open_notebook(slow_lab, slow_lab.notebook("bare.ipynb", "", kernel=bare))
    says(notebook, "not installed in this kernel")
    notebook.page.locator(".jp-sc2-StatusItem-button").click()
    entry = notebook.page.locator(".jp-sc2-Menu .lm-Menu-itemLabel")
    texts = " ".join(entry.all_text_contents())
    assert "Run %pip install " in texts and "Copy " in texts


def test_a_notebook_a_cell_and_a_language_can_be_left_alone(slow_lab, open_notebook, settings):
    settings(languagesOff=["bash"])
    name = slow_lab.notebook("off.ipynb", "", "", "%%bash\n")
    file = Path(slow_lab.root / name)
    document = nbformat.read(file, as_version=4)
    document.cells[1].metadata["tags"] = ["sc2-off"]
    nbformat.write(document, file)
    notebook = open_notebook(slow_lab, name)
    notebook.wait_ready()
    for index in (1, 2):
        notebook.enter(index)
        notebook.type("result = ", delay=5)
        notebook.page.wait_for_timeout(500)
        assert notebook.shown_ghost() == ""
    notebook.enter(0)
    notebook.type("result = ", delay=5)
    assert notebook.ghost_text()
    menu(notebook, "Complete Code in This Notebook")
    says(notebook, "off")
    assert notebook.page.evaluate(
        "window.jupyterapp.shell.currentWidget.model.getMetadata('jupyter_sc2')"
    ) == {"mode": "off"}
    notebook.enter(0)
    notebook.type("np", delay=5)
    notebook.press("Alt+\\")
    notebook.page.wait_for_timeout(500)
    assert notebook.shown_ghost() == ""


def test_a_locked_off_switch_of_the_server_holds_whatever_the_user_sets(tmp_path, open_notebook):
    server = Server(tmp_path, overrides={"jupyter-sc2:plugin": {"mode": "off", "locked": True}})
    server.set(mode="automatic")
    try:
        notebook = open_notebook(server, server.notebook("locked.ipynb", ""))
        says(notebook, "off")
        notebook.enter(0)
        notebook.type("import numpy as ")
        notebook.page.wait_for_timeout(1500)
        assert notebook.shown_ghost() == ""
        notebook.page.locator(".jp-sc2-StatusItem-button").click()
        entry = notebook.page.locator(
            ".jp-sc2-Menu .lm-Menu-item", has_text="Show Ghost Text While Typing"
        )
        assert "lm-mod-disabled" in (entry.get_attribute("class") or "")
    finally:
        server.stop()


def contrast(notebook) -> float:
    """WCAG's contrast of the ghost text on the ground it stands on."""
    return float(
        notebook.page.evaluate(
            """() => {
              const ghost = document.querySelector('.jp-GhostText');
              const parse = colour => colour.match(/[\\d.]+/g).map(Number);
              let ground = null;
              for (let node = ghost; node && !ground; node = node.parentElement) {
                const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
                ground = a > 0 ? [r, g, b] : null;
              }
              const style = getComputedStyle(ghost);
              const opacity = Number(style.opacity);
              const text = parse(style.color).slice(0, 3)
                .map((part, i) => opacity * part + (1 - opacity) * ground[i]);
              const luminance = rgb => {
                const [r, g, b] = rgb.map(part => part / 255)
                  .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const [high, low] = [luminance(text), luminance(ground)].sort((a, b) => b - a);
              return (high + 0.05) / (low + 0.05);
            }"""
        )
    )


def test_ghost_text_is_readable_in_the_light_and_the_dark_theme(quick_cell):
    quick_cell.type("result = ")
    quick_cell.wait_ghost(LINE[9:])
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        quick_cell.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        quick_cell.page.wait_for_timeout(800)
        quick_cell.wait_ghost(LINE[9:])  # the editor draws it anew
        assert contrast(quick_cell) >= 4.5


def test_one_who_wants_no_motion_sees_none(quick_cell):
    quick_cell.page.emulate_media(reduced_motion="reduce")
    quick_cell.type("result = ")
    quick_cell.ghost_text()
    name = "getComputedStyle(document.querySelector('.jp-GhostText')).animationName"
    assert quick_cell.page.evaluate(name) == "none"
    quick_cell.page.emulate_media(reduced_motion="no-preference")
    assert quick_cell.page.locator("[aria-live].jp-sc2-Announcer").count() == 0


def test_ghost_text_is_read_out_to_those_who_want_it(slow_lab, open_notebook, settings):
    settings(announce=True)
    notebook = open_notebook(slow_lab, slow_lab.notebook("aloud.ipynb", ""))
    notebook.wait_ready()
    notebook.enter(0)
    notebook.type("result = ", delay=5)
    notebook.page.locator(
        "[aria-live=polite].jp-sc2-Announcer", has_text="Suggestion: np"
    ).wait_for(state="attached")
