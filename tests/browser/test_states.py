"""Each state that the status item can tell of, brought about in a real kernel."""

from __future__ import annotations

import re

from tests.browser.slow_engine import LINE
from tests.browser.test_standing import menu, says

# A kernel that hears of comms on its shell only.
SHELL_ONLY = """
import jupyter_sc2.kernel.comm.channel as channel
from ipykernel.kernelbase import Kernel
channel.COMM_MESSAGES = ()
info = Kernel.kernel_info.fget
Kernel.kernel_info = property(lambda kernel: {**info(kernel), "supported_features": []})
"""
COMPLETER = "@jupyterlab/completer-extension:inline-completer"


def title(notebook) -> str:
    return str(notebook.page.locator(".jp-sc2-StatusItem-button").get_attribute("title"))


def test_a_download_and_a_load_tell_how_far_they_are(quick_cell):
    quick_cell.slow(loading=("downloading", 0.43))
    quick_cell.execute("get_ipython().run_line_magic('sc2', 'load owner/name --no-wait')")
    says(quick_cell, "downloading 43%")
    assert "The embedded model answers meanwhile." in title(quick_cell)
    quick_cell.enter(0)
    quick_cell.type("result = ")
    quick_cell.wait_ghost(LINE[9:])  # that of the model before
    quick_cell.slow(loading=("loading", 0.7))
    says(quick_cell, "loading 70%")
    quick_cell.slow(loading=None)
    says(quick_cell, "ready")
    quick_cell.execute("get_ipython().run_line_magic('config', \"SC2.model = 'embedded'\")")
    says(quick_cell, "embedded fp32 · ready")


def test_a_load_counts_its_seconds(quick_cell):
    quick_cell.slow(loading=("importing", None))
    quick_cell.execute("get_ipython().run_line_magic('sc2', 'load owner/name --no-wait')")
    says(quick_cell, "importing · 2 s")
    quick_cell.slow(loading=None)
    quick_cell.execute("get_ipython().run_line_magic('config', \"SC2.model = 'embedded'\")")
    says(quick_cell, "embedded fp32 · ready")


def test_a_new_notebook_tells_when_it_was_ready_and_when_the_first_suggestion_came(
    slow_lab, open_notebook
):
    notebook = open_notebook(slow_lab, slow_lab.notebook("first.ipynb", ""))
    notebook.wait_ready()  # nobody has typed
    assert re.search(r"ready \d+\.\d s after the kernel started", title(notebook))
    notebook.enter(0)
    notebook.type("result = ")
    notebook.ghost_text()
    assert re.search(r"First suggestion \d+\.\d s after", title(notebook))


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_reason(quick_cell):
    menu(quick_cell, "Unload Model")
    says(quick_cell, "not loaded")
    quick_cell.slow(load_failure="The disk is full.")
    menu(quick_cell, "Load Model")
    says(quick_cell, "embedded · error")
    assert "The disk is full." in title(quick_cell)
    quick_cell.slow(load_failure=None)
    menu(quick_cell, "Load Model")
    says(quick_cell, "ready")


def test_an_error_while_completing_is_told_once_and_not_at_each_key(quick_cell):
    quick_cell.slow(failure="out of memory")
    quick_cell.type("result = no", delay=250)
    says(quick_cell, "error")
    told = quick_cell.page.locator(".Toastify__toast", has_text="out of memory")
    told.wait_for()
    assert told.count() == 1
    assert "out of memory" in title(quick_cell)
    told.click()
    quick_cell.slow(failure=None)
    quick_cell.enter(0)
    quick_cell.press("Control+a", "Delete")
    quick_cell.type("result = ")
    says(quick_cell, "ready")


def test_a_model_that_is_not_sure_enough_is_said_to_be_so(quick_cell):
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.confidence = 0.9')")
    quick_cell.type("for name ")  # nothing that the page knows an answer to already
    says(quick_cell, "low confidence")
    assert quick_cell.shown_ghost() == ""
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.confidence = None')")
    quick_cell.type("i")
    says(quick_cell, "ready")


def test_a_name_that_the_kernel_refutes_is_not_shown_and_the_status_says_why(quick_cell):
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.grounding = True')")
    quick_cell.execute("np = [1, 2, 3]")
    # The engine goes on with arange, and a list has nothing that begins so.
    quick_cell.type("result = np.ar")
    says(quick_cell, "rejected")
    assert quick_cell.shown_ghost() == ""
    quick_cell.execute("del np; get_ipython().run_line_magic('config', 'SC2.grounding = False')")


def test_what_the_page_knows_is_asked_again_once_code_was_run_elsewhere(quick_cell):
    quick_cell.type("result = np.ar")
    quick_cell.wait_ghost(LINE[14:])
    code = "import tests.browser.slow_engine as s; s.LINE = s.LINE.replace('sum', 'max')"
    quick_cell.execute(code, counts=True)  # as another notebook or a console on this kernel would
    try:
        quick_cell.press("Control+a", "Delete")
        quick_cell.type("result = np.ar")
        quick_cell.wait_ghost(LINE[14:].replace("sum", "max"))
    finally:
        quick_cell.execute("s.LINE = s.LINE.replace('max', 'sum')")


def test_an_answer_that_takes_too_long_is_given_up_in_words(slow_lab, open_notebook):
    asked = {"enabled": True, "autoFillInMiddle": True, "debouncerDelay": 0, "timeout": 2000}
    slow_lab.set(COMPLETER, providers={"jupyter_sc2": asked})
    try:
        notebook = open_notebook(slow_lab, slow_lab.notebook("late.ipynb", ""))
        notebook.wait_ready()
        notebook.slow(pace=4)
        notebook.enter(0)
        notebook.type("result = ")
        says(notebook, "timed out")
        assert "A smaller model is faster." in title(notebook)
        notebook.slow(pace=0.002)
    finally:
        slow_lab.set(COMPLETER)


def test_a_notebook_in_a_language_that_the_model_does_not_know_says_so(slow_lab, open_notebook):
    other = slow_lab.kernel("other", language="julia")
    notebook = open_notebook(slow_lab, slow_lab.notebook("julia.ipynb", "", kernel=other))
    says(notebook, "unsupported language")


def test_cells_and_lines_of_other_languages_say_so_and_a_timed_cell_is_completed(
    lab, open_notebook
):
    notebook = open_notebook(lab, lab.notebook("magics.ipynb", "", "", "", ""))
    notebook.wait_ready()
    for index, typed in enumerate(["%%bash\necho ", "%%julia\nprintln(", "!ls "]):
        notebook.enter(index)
        notebook.type(typed)
        says(notebook, "unsupported language")
        assert "does not support the language" in title(notebook)
        assert notebook.shown_ghost() == ""
    notebook.enter(3)
    notebook.type("%%time\nimport numpy as ")
    assert notebook.ghost_text() == "np"


def test_a_language_that_is_left_alone_is(lab, open_notebook):
    lab.set("jupyter-sc2:plugin", languagesOff=["Shell"])
    try:
        notebook = open_notebook(lab, lab.notebook("off.ipynb", ""))
        notebook.wait_ready()
        notebook.enter(0)
        notebook.type("!ls ")
        says(notebook, "off here")
    finally:
        lab.set("jupyter-sc2:plugin")


def test_another_protocol_in_the_kernel_is_said_with_what_helps(slow_lab, open_notebook):
    notebook = open_notebook(slow_lab, slow_lab.notebook("newer.ipynb", ""))
    notebook.wait_ready()
    notebook.execute("import jupyter_sc2.kernel.comm.protocol as _w; _w.PROTOCOL = 2; del _w")
    notebook.page.reload()
    notebook.cell(0).wait_for()
    says(notebook, "version mismatch")
    assert "Install the same version for both." in title(notebook)


def test_a_kernel_that_answers_on_its_shell_only_is_waited_for(slow_lab, open_notebook):
    kernel = slow_lab.kernel("shell-only", SHELL_ONLY)
    name = slow_lab.notebook("shell.ipynb", "import time; time.sleep(5)", "", kernel=kernel)
    notebook = open_notebook(slow_lab, name)
    notebook.wait_ready()
    notebook.run(0)
    says(notebook, "waiting for the running cell")
    notebook.enter(1)
    notebook.type("result = ")
    says(notebook, "ready")
    notebook.wait_ghost(LINE[9:])


def test_a_kernel_that_may_not_be_told_to_load_it_says_how(lab, open_notebook):
    lab.set(autoLoad=False)
    try:
        notebook = open_notebook(lab, lab.notebook("by-hand.ipynb", "%load_ext jupyter_sc2", ""))
        says(notebook, "not loaded")
        notebook.page.locator(".jp-sc2-StatusItem-button").click()
        notebook.page.locator(".jp-sc2-Menu", has_text="Copy %load_ext jupyter_sc2").wait_for()
        notebook.page.keyboard.press("Escape")
        notebook.run(0)
        notebook.wait_ready()
    finally:
        lab.set()
