"""Documents whose own kernel cannot complete code, and the companion that does: in a real JupyterLab."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import (
    LAB,
    PATIENCE_MS,
    NotebookPage,
    Server,
    keep_screenshot,
    kernels,
    new_page,
    request_of,
    shared,
)
from tests.browser.scripted_engine import LINES
from tests.browser.test_places import command
from tests.browser.test_standing import menu, says

ROOT = Path(__file__).parents[2]


def scripted(model: str) -> str:
    """What a kernel starts with, so that the scripted engine answers there with this model's card."""
    return f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.browser.scripted_engine import start
start({model!r})
del sys, start
"""


R_KERNEL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv.append("--IPKernelApp.kernel_class=tests.browser.r_kernel.RKernel")
"""
BARE = "import sys; sys.modules['jupyter_sc2'] = None"


def sessions(server: Server) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{server.url}/api/sessions") as answer:
        return list(json.load(answer))


def companions(server: Server) -> list[dict[str, Any]]:
    return [one for one in sessions(server) if one["type"] == "code-completion"]


def wait_until(condition: Callable[[], object], page: NotebookPage) -> None:
    for _ in range(PATIENCE_MS // 100):
        if condition():
            return
        page.page.wait_for_timeout(100)
    raise AssertionError("It did not come about.")


def fresh_lab(chromium: Browser, server: Server, name: str = "") -> NotebookPage:
    """JupyterLab in a fresh workspace, with a file if one is named."""
    page = new_page(chromium, server)
    place = LAB.format(f"w{time.monotonic_ns()}")
    page.goto(f"{server.url}/" + (f"{place}/{name}" if name else place.removesuffix("/tree")))
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget")
    return NotebookPage(page)


@pytest.fixture
def open_lab(
    chromium: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """Opens JupyterLab in a fresh workspace, with a file if one is named."""
    opened: list[NotebookPage] = []

    def open_(server: Server, name: str = "") -> NotebookPage:
        opened.append(fresh_lab(chromium, server, name))
        return opened[-1]

    yield open_
    for number, lab in enumerate(opened):
        keep_screenshot(request, lab.page, number)
        lab.page.close()


@pytest.fixture(scope="module")
def one_lab(chromium: Browser, server: Server) -> Iterator[NotebookPage]:
    yield from shared(lambda: fresh_lab(chromium, server))


@pytest.fixture
def page(one_lab: NotebookPage, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    """One JupyterLab for several tests, which open documents of their own."""
    yield one_lab
    keep_screenshot(request, one_lab.page)
    if getattr(request.node, "failed", False):
        return  # another page comes
    command(one_lab, "docmanager:save-all")  # or a dialog asks what to do
    command(one_lab, "application:close-all")


def open_file(lab: NotebookPage, server: Server, name: str, text: str = "") -> None:
    (server.root / name).write_text(text)
    command(lab, "docmanager:open", path=name)
    lab.page.locator(".jp-FileEditor:visible .cm-content").click()
    lab.page.keyboard.press("Control+End")


def shown_prompt(lab: NotebookPage) -> str:
    """The prompt of the last request, from the dialog that shows it."""
    command(lab, "jupyter_sc2:show-context")
    prompt = lab.page.locator(".jp-Dialog pre")
    prompt.wait_for()
    text = prompt.inner_text()
    lab.page.keyboard.press("Escape")
    return text


def file_text(lab: NotebookPage) -> str:
    return str(
        lab.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.getSource()"
        )
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a model that knows 17 languages."""
    server = Server(tmp_path_factory.mktemp("companion"), startup=scripted("starcoder2-3b"))
    server.kernel("toy-r", R_KERNEL, language="R")
    server.kernel("bare", BARE)
    yield server
    server.stop()


def test_a_python_file_is_completed_without_a_kernel_of_its_own(lab, open_lab):
    (lab.root / "alone.py").write_text("import numpy as np\nimport matplotlib.")
    page = open_lab(lab, "alone.py")
    page.page.locator(".jp-FileEditor .cm-content").click()
    page.page.keyboard.press("Control+End")
    says(page, "companion · embedded")
    page.type("py")
    page.wait_ghost("plot as plt")
    page.press("Tab")
    assert file_text(page).endswith("import matplotlib.pyplot as plt")
    [session] = companions(lab)
    assert session["name"] == "Code completion"


@pytest.mark.parametrize(
    ("name", "line"),
    [("a.R", LINES["r"]), ("a.sql", LINES["sql"]), ("a.rs", LINES["rs"]), ("a.py", LINES["py"])],
)
def test_a_file_is_completed_in_its_language(server, page, name, line):
    open_file(page, server, name)
    says(page, "companion · starcoder2-3b")
    page.type(line[:8])
    page.wait_ghost(line[8:])
    page.press("Tab")
    assert file_text(page) == line
    assert len(companions(server)) == 1


@pytest.mark.parametrize("name", ["b.jl", "b.md"])
def test_a_language_that_the_model_does_not_know_is_reported_and_gets_no_text(server, page, name):
    open_file(page, server, name)
    says(page, "companion · starcoder2-3b")
    says(page, "unsupported language")
    page.type(LINES[name[2:]][:8])
    page.page.wait_for_timeout(800)
    assert page.shown_ghost() == ""
    says(page, "unsupported language")


def test_a_model_that_knows_all_languages_completes_them_all(server, open_lab):
    server.set(kernel={"model": "starcoder2-15b"})
    try:
        page = open_lab(server)
        for name in ("c.jl", "c.md", "c.R", "c.sh"):
            open_file(page, server, name)
            says(page, "companion · starcoder2-15b")
            line = LINES[name[2:].lower()]
            page.type(line[:6])
            page.wait_ghost(line[6:])
    finally:
        server.set()


def test_files_that_are_open_or_named_are_in_the_prompt_of_a_file(server, page):
    (server.root / "lib.R").write_text("area <- function(r) pi * r^2")
    open_file(page, server, "beside.R", "beside_me <- 1")
    open_file(page, server, "main.R", 'source("lib.R")\n')
    says(page, "companion · starcoder2-3b")
    with page.page.expect_response(lambda answer: "/contents/lib.R?" in answer.url):
        page.type("res")
    page.wait_ghost(LINES["r"][3:])
    page.type("ult <-")
    page.wait_ghost(LINES["r"][9:])
    page.press("Escape")
    page.press("Backspace")
    page.page.wait_for_timeout(800)
    page.press("Alt+\\")
    page.ghost_text()
    text = shown_prompt(page)
    assert text.index("beside.R") < text.index("lib.R") < text.index("main.R")
    assert "beside_me" in text and "pi * r^2" in text


def test_an_r_notebook_is_completed_in_r_with_its_cells_as_context(server, page):
    server.notebook("r.ipynb", "library(dplyr)", "", kernel="toy-r", language="R")
    command(page, "docmanager:open", path="r.ipynb")
    says(page, "companion · starcoder2-3b")
    page.enter(1)
    page.type("result <-")
    page.wait_ghost(LINES["r"][9:])
    page.press("Tab")
    assert page.source(1) == LINES["r"]
    prompt = shown_prompt(page)
    assert "notebook.r" in prompt and "library(dplyr)" in prompt


def test_a_console_of_an_r_kernel_is_completed_in_r(server, page):
    command(page, "console:create", kernelPreference={"name": "toy-r"}, activate=True)
    page.page.locator(".jp-CodeConsole-input .cm-content").click()
    says(page, "companion · starcoder2-3b")
    page.type("result <-")
    page.wait_ghost(LINES["r"][9:])


def test_a_python_notebook_whose_kernel_lacks_the_package_is_completed(server, page):
    server.notebook("bare.ipynb", "", kernel="bare")
    command(page, "docmanager:open", path="bare.ipynb")
    says(page, "companion · starcoder2-3b")
    page.enter(0)
    page.type("result = ")
    page.wait_ghost(LINES["py"][9:])
    page.press("Tab")
    assert page.source(0) == LINES["py"]
    page.page.locator(".jp-sc2-StatusItem-button").click()
    entries = page.page.locator(".jp-sc2-Menu .lm-Menu-itemLabel").all_text_contents()
    assert "%pip install" in " ".join(entries)
    page.press("Escape")
    assert page.value("'jupyter_sc2' in get_ipython().extension_manager.loaded") == "False"


def test_a_kernel_that_has_the_package_answers_itself_and_no_companion_is_started(server, page):
    wait_until(lambda: companions(server) == [], page)
    server.notebook("own.ipynb", "")
    command(page, "docmanager:open", path="own.ipynb")
    says(page, "starcoder2-3b fp32 · ready")
    page.enter(0)
    page.type("result = ")
    page.wait_ghost(LINES["py"][9:])
    (server.root / "notes.txt").write_text("nothing to complete")
    command(page, "docmanager:open", path="notes.txt")
    page.page.wait_for_timeout(1500)
    assert companions(server) == []
    assert "companion" not in page.page.locator(".jp-sc2-StatusItem").inner_text()


def test_ten_documents_share_one_companion_which_ends_with_the_last(server, open_lab):
    page = open_lab(server)
    for number in range(10):
        open_file(page, server, f"ten{number}.R")
        says(page, "companion · starcoder2-3b")
    assert len(companions(server)) == 1 and len(kernels(server)) >= 1
    page.type("result <-")
    page.wait_ghost(LINES["r"][9:])
    page.press("Tab")
    command(page, "docmanager:save-all")
    command(page, "application:close-all")
    wait_until(lambda: companions(server) == [], page)


def test_two_pages_share_the_companion_and_it_outlives_the_first(server, open_lab):
    first, second = open_lab(server), open_lab(server)
    open_file(first, server, "one.R")
    open_file(second, server, "two.R")
    for page in (first, second):
        says(page, "companion · starcoder2-3b")
        page.type("result <-")
        page.wait_ghost(LINES["r"][9:])
    [companion] = companions(server)
    command(first, "docmanager:save-all")
    command(first, "application:close-all")
    first.page.wait_for_timeout(14_000)  # longer than an unused one stays
    assert [one["id"] for one in companions(server)] == [companion["id"]]
    second.press("Escape", "Control+a", "Delete")
    second.type("result <-")
    second.wait_ghost(LINES["r"][9:])


def companion_process(server: Server) -> int:
    """The process id of the companion."""
    [companion] = companions(server)
    id = companion["kernel"]["id"]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and id.encode() in (folder / "cmdline").read_bytes():
            return int(folder.name)
    raise AssertionError("The companion has no process.")


def kill(server: Server) -> None:
    os.kill(companion_process(server), signal.SIGKILL)


def restart(server: Server) -> None:
    request_of(server, "POST", f"kernels/{companions(server)[0]['kernel']['id']}/restart")


def shut_down(server: Server) -> None:
    request_of(server, "DELETE", f"sessions/{companions(server)[0]['id']}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", [kill, restart, shut_down])
def test_text_comes_back_after_the_companion_has_ended(server, open_lab, end):
    page = open_lab(server)
    open_file(page, server, "ended.R")
    says(page, "companion · starcoder2-3b fp32 · ready")
    end(server)
    for _ in range(30):
        page.press("Control+a", "Delete")
        page.type("result <-")
        page.page.wait_for_timeout(2000)
        if page.shown_ghost():
            break
    page.wait_ghost(LINES["r"][9:])
    assert len(companions(server)) == 1


def test_a_page_that_is_reloaded_finds_the_running_companion(server, open_lab):
    page = open_lab(server)
    open_file(page, server, "reload.R")
    says(page, "companion · starcoder2-3b fp32 · ready")
    command(page, "docmanager:save-all")
    [companion] = companions(server)
    page.page.reload()
    page.page.locator(".jp-FileEditor:visible .cm-content").click()
    says(page, "companion · starcoder2-3b fp32 · ready")
    page.type("result <-")
    page.wait_ghost(LINES["r"][9:])
    assert [one["id"] for one in companions(server)] == [companion["id"]]


def test_the_panel_leads_to_the_settings_that_hold_in_the_companion(server, page):
    open_file(page, server, "panel.py", "res")
    says(page, "companion · starcoder2-3b")
    menu(page, "Open Panel")
    page.page.locator(".jp-sc2-Sidebar", has_text="the settings for all kernels").wait_for()
    page.page.locator(".jp-sc2-Sidebar button", has_text="Open Settings").click()
    page.page.locator(".jp-SettingsHeader", has_text="Code Completion (SC2)").wait_for()


def test_the_setting_switches_the_companion_off(server, open_lab):
    page = open_lab(server)
    wait_until(lambda: companions(server) == [], page)
    server.set(companion=False)
    try:
        page.page.reload()
        page.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget")
        open_file(page, server, "off.R")
        page.type("result <-")
        page.page.wait_for_timeout(1500)
        assert page.shown_ghost() == "" and companions(server) == []
    finally:
        server.set()


def test_a_disabled_language_and_a_mode_hold_in_the_companion(server, open_lab):
    server.set(languagesOff=["r"])
    try:
        page = open_lab(server)
        open_file(page, server, "disabled.R")
        says(page, "companion · starcoder2-3b")
        page.type("result <-")
        says(page, "off here")
        assert page.shown_ghost() == ""
        open_file(page, server, "enabled.rs")
        page.type("let resu")
        page.wait_ghost(LINES["rs"][8:])
        menu(page, "Show Ghost Text While Typing")
        says(page, "on demand")
        menu(page, "Show Ghost Text While Typing")
        says(page, "ready")
    finally:
        server.set()
