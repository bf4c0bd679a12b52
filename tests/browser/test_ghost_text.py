"""What a user sees: the real model, a real kernel, JupyterLab in Chromium."""

from __future__ import annotations

import pytest

from tests.browser.conftest import PATIENCE_MS, Server, request_of

BUSY = {
    "sleeps": "import time; time.sleep(20)",
    "computes": "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end:\n    pass",
}


def test_the_example_completes_an_import_and_tab_accepts_it(lab, open_notebook):
    notebook = open_notebook(lab, "quickstart.ipynb")
    notebook.enter(1)
    notebook.type("import numpy as ")
    assert notebook.ghost_text() == "np"
    notebook.page.keyboard.press("Tab")
    assert notebook.source(1) == "import numpy as np"


@pytest.mark.parametrize("kind", BUSY)
def test_ghost_text_comes_while_a_cell(kind, lab, open_notebook):
    notebook = open_notebook(lab, lab.notebook(f"{kind}.ipynb", BUSY[kind], ""))
    notebook.wait_ready()
    notebook.run(0)
    notebook.wait_kernel("busy")
    notebook.enter(1)
    notebook.type("import numpy as ")
    assert notebook.ghost_text() == "np"
    assert notebook.cell(0).locator(".jp-InputPrompt").text_content() == "[*]:"


def test_ghost_text_comes_after_a_reload_while_a_cell_runs(lab, open_notebook):
    notebook = open_notebook(lab, lab.notebook("reload.ipynb", "import time; time.sleep(45)", ""))
    notebook.wait_ready()
    notebook.run(0)
    notebook.wait_kernel("busy")
    notebook.page.evaluate("window.jupyterapp.shell.currentWidget.context.save()")
    notebook.page.wait_for_timeout(500)
    notebook.page.reload()
    notebook.cell(0).wait_for()
    notebook.enter(1)
    notebook.type("import numpy as ")
    assert notebook.ghost_text() == "np"


def test_ghost_text_comes_back_after_a_restart_of_the_kernel(lab, open_notebook):
    notebook = open_notebook(lab, lab.notebook("restart.ipynb", "x = 1", ""))
    notebook.wait_ready()
    notebook.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    notebook.wait_idle()
    notebook.wait_ready()
    notebook.enter(1)
    notebook.type("import numpy as ")
    assert notebook.ghost_text() == "np"


def test_ghost_text_comes_back_after_somebody_else_has_restarted_the_kernel(lab, open_notebook):
    notebook = open_notebook(lab, lab.notebook("restarted.ipynb", ""))
    notebook.wait_ready()
    kernel = notebook.page.evaluate(
        "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"
    )
    request_of(lab, "POST", f"kernels/{kernel}/restart")
    notebook.enter(0)
    for _ in range(PATIENCE_MS // 1000):  # it may show only when something is asked of it
        notebook.press("Control+a", "Delete")
        notebook.type("import numpy as ")
        notebook.page.wait_for_timeout(1000)
        if notebook.shown_ghost():
            break
    assert notebook.shown_ghost() == "np"


def test_an_emoji_before_the_cursor_does_not_shift_it(lab, open_notebook):
    notebook = open_notebook(lab, lab.notebook("emoji.ipynb", ""))
    notebook.wait_ready()
    notebook.enter(0)
    notebook.type("# 🎉🎉🎉\nimport numpy as ")
    assert notebook.ghost_text() == "np"
    notebook.page.keyboard.press("Tab")
    assert notebook.source(0) == "# 🎉🎉🎉\nimport numpy as np"


def test_two_notebooks_are_completed_at_once(lab, open_notebook):
    first = open_notebook(lab, lab.notebook("first.ipynb", ""))
    second = open_notebook(lab, lab.notebook("second.ipynb", ""))
    for notebook in (first, second):
        notebook.wait_ready()
        notebook.enter(0)
    first.type("import numpy as ", delay=0)
    second.type("import pandas as ", delay=0)
    assert (first.ghost_text(), second.ghost_text()) == ("np", "pd")


def test_what_stands_around_a_cursor_that_rests_is_read_before_anything_is_typed(
    slow_lab, open_notebook
):
    notebook = open_notebook(
        slow_lab, slow_lab.notebook("rests.ipynb", "first = 1\nsecond = 2\nthird = 3")
    )
    notebook.wait_ready()
    notebook.enter(0)
    read = "__import__('tests.browser.slow_engine').browser.slow_engine.read()"
    for keys, prefix in ((("ArrowUp", "End"), "second = 2"), (("ArrowUp",), "first = 1")):
        notebook.press(*keys)
        for _ in range(PATIENCE_MS // 50):
            if notebook.value(read).endswith(f"{prefix}'"):
                break
            notebook.page.wait_for_timeout(50)
        assert notebook.value(read).endswith(f"{prefix}'")


def test_ghost_text_comes_in_notebook_7_too(tmp_path, open_notebook):
    server = Server(tmp_path, app="notebook")
    try:
        notebook = open_notebook(server, server.notebook("seven.ipynb", ""), path="notebooks")
        notebook.enter(0)
        notebook.type("import numpy as ")
        assert notebook.ghost_text() == "np"
        notebook.page.keyboard.press("Tab")
        assert notebook.source(0) == "import numpy as np"
    finally:
        server.stop()
