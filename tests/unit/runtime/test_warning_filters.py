"""Warnings: what the user has set for them breaks nothing of ours, and none of ours reaches the user."""

import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from types import ModuleType

import numpy as np
import pytest

from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.warning_filters import filters, unwarned
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.kernels import LOAD, FrontEnd
from tests.support.paths import TESTS


def from_python():
    warnings.warn("old", DeprecationWarning, stacklevel=1)


def from_c():
    np.float32(1e38) * np.float32(1e38)


def from_the_compiler():
    compile("'\\d'", "cell", "exec")


def from_warnings_itself():
    warnings._deprecated("old", remove=(4, 0))


def under_filters_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_c()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
    from_python()


WARNS = [from_python, from_c, from_the_compiler, from_warnings_itself, under_filters_of_its_own]


@pytest.mark.parametrize("warn", WARNS)
@pytest.mark.parametrize("within", [unwarned, silence], ids=["unwarned", "silence"])
def test_no_filter_of_the_users_makes_an_error_of_a_warning_of_ours(warn, within):
    before = list(warnings.filters)
    assert before[0][0] == "error"  # pytest's own setting
    with within:
        warn()
    assert list(warnings.filters) == before
    if warn is not from_warnings_itself:
        with pytest.raises((Warning, SyntaxError)):  # which the compiler makes of one
            warn()


def test_a_filter_that_is_set_meanwhile_holds_for_the_users_and_not_for_us():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with unwarned:
            on_a_thread(lambda: warnings.simplefilter("error"))
            from_python()
            with pytest.raises(DeprecationWarning):
                on_a_thread(from_python)
        assert filters()[0][0] == "error"


def test_the_users_list_of_recorded_warnings_has_none_of_ours():
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        with unwarned:
            from_python()
            from_c()
            on_a_thread(from_python)
    assert [str(one.message) for one in recorded] == ["old"]


def test_what_replaces_the_filters_on_another_thread_stays():
    before = filters()
    with unwarned:
        on_a_thread(lambda: setattr(warnings, "filters", before[:1]))
        warnings.filters = []  # a library on our thread
    try:
        assert filters() == before[:1]
    finally:
        warnings.filters = before


def test_afterwards_the_module_is_as_it_was():
    with unwarned, silence:
        pass
    assert type(warnings) is ModuleType


def on_a_thread(act):
    """Does it on a thread that is not ours; raises what that raises."""
    raised = []

    def run():
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


class WarningEngine(FakeEngine):
    """An engine whose libraries warn at each step."""

    def prefill(self, *arguments):
        from_python()
        return super().prefill(*arguments)

    def generate(self, *arguments, **options):
        from_c()
        yield from super().generate(*arguments, **options)

    def close(self):
        from_python()
        super().close()


def test_a_model_that_warns_loads_answers_unloads_and_loads_again():
    def load(model, **options):
        from_the_compiler()
        return WarningEngine("1", "1")

    session = Session(load_engine=load)
    for _ in range(2):
        session.load()
        assert session.wait_ready(10).state == "ready"
        request = CompletionRequest(text="x = ", offset=4, notebook=Notebook(), trigger="invoke")
        assert [c.text for c in session.complete(request)][-1] == "1"
        session.unload()
    session.close()


def test_a_level_for_all_logging_shows_no_suppressed_output(caplog):
    caplog.set_level(logging.DEBUG)
    with silence:
        print("a library's words")
    assert caplog.records == []


# In processes of their own


@pytest.mark.kernel
@pytest.mark.parametrize("environment", [{"PYTHONWARNINGS": "error"}, {"PYTHONOPTIMIZE": "2"}, {}])
def test_a_kernel_completes_whatever_is_set_for_warnings(environment):
    kernel = FrontEnd(**environment)
    if not environment:
        kernel.run("import warnings; warnings.simplefilter('error')")
    loading = kernel.start("%load_ext jupyter_sc2")
    kernel.finish(loading)
    comm = kernel.open()
    comm.say({"type": "hello", "protocol": 1})
    for text in ("total = ", "name = "):
        answer = comm.final(comm.ask(text), timeout=60)["content"]["data"]
        assert answer["type"] == "update" and answer["engine"] == "onnxruntime"
    kernel.run("%sc2 unload")
    cell = kernel.start("%sc2 load")
    kernel.finish(cell)
    assert "loaded in" in kernel.text(cell)
    assert kernel.outputs(loading) == []
    assert kernel.text(cell, "stderr") == ""
    kernel.close()


@pytest.mark.kernel
def test_a_cell_that_records_warnings_records_none_of_ours():
    kernel = FrontEnd()
    kernel.run(LOAD.format(engine="Quick"))
    # What the engine does on the session's thread.
    kernel.run(
        "import time, warnings, tests.conftest\n"
        "prefill = tests.conftest.FakeEngine.prefill\n"
        "def warning(*arguments):\n"
        "    warnings.warn('of ours')\n"
        "    return prefill(*arguments)\n"
        "tests.conftest.FakeEngine.prefill = warning\n"
    )
    comm = kernel.open()
    comm.say({"type": "hello", "protocol": 1})
    comm.wait_for(type="hello")
    cell = kernel.start(
        "with warnings.catch_warnings(record=True) as recorded:\n"
        "    warnings.simplefilter('always')\n"
        "    input('?')\n"
        "print(len(recorded))",
        allow_stdin=True,
    )
    kernel.client.get_stdin_msg(timeout=10)
    for name in ("first", "second"):
        comm.answer(text=f"{name} = ")
    kernel.client.input("")
    kernel.finish(cell)
    assert kernel.text(cell) == "0\n"
    assert kernel.text(cell, "stderr") == ""
    kernel.close()


SCRIPT = """
import json, os, sys
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.types import CompletionRequest
from jupyter_sc2.notebook import Notebook

session = Session(load_options=LoadOptions(model="embedded", engine=sys.argv[1], precision=sys.argv[2]))
session.load()
engine = session.wait_ready(120).engine
said = list(session.complete(CompletionRequest(text="x = ", offset=4, notebook=Notebook(), trigger="invoke")))
print(json.dumps([engine, said[-1].finish_reason is not None]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "precision"),
    [(["-OO"], "auto"), (["-OO", "-bb", "-W", "error"], "4bit")],
)
def test_a_torch_model_loads_whatever_python_is_told(flags, precision):
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT, "transformers", precision],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )
    assert json.loads(done.stdout) == ["transformers", True], done.stderr
    assert done.stderr == ""
