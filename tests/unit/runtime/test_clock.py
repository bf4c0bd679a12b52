"""Code of the user's that freezes time, or counts who sleeps, changes nothing here and meets nothing of ours."""

import sys
import time
from unittest import mock

import pytest

import jupyter_sc2.extension  # noqa: F401
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime import clock
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine

FUNCTIONS = ("time", "monotonic", "perf_counter", "sleep", "time_ns", "monotonic_ns")


@pytest.fixture(params=[0.0, 1e9, -1e9])
def frozen(request):
    """`time` as a test of the user's has it."""
    with mock.patch.multiple(
        time, **{name: mock.Mock(return_value=request.param) for name in FUNCTIONS}
    ):
        yield


def test_the_clocks_go_on_while_time_is_frozen(frozen):
    for read in (clock.monotonic, clock.now):
        before = read()
        clock.sleep(0.001)
        assert read() > before
    assert not any(getattr(time, name).called for name in FUNCTIONS)


@pytest.mark.parametrize("trigger", ["automatic", "invoke"])
def test_a_request_is_answered_while_time_is_frozen(frozen, trigger):
    session = Session(load_engine=lambda model, **options: FakeEngine("1", "2"))
    for number, said in enumerate("12"):
        text = f"name_{number} = "
        request = CompletionRequest(
            text=text, offset=len(text), notebook=Notebook(), trigger=trigger
        )
        last = [*session.complete(request)][-1]
        assert last.text == said
        assert 0 <= last.stats.total_ms < 10_000
    session.close()
    assert not any(getattr(time, name).called for name in FUNCTIONS)


def test_a_request_is_answered_that_was_asked_before_time_was_frozen():
    engine = FakeEngine("1")
    engine.slow_prefill = True
    session = Session(load_engine=lambda model, **options: engine)
    request = CompletionRequest(text="x = ", offset=4, notebook=Notebook(), trigger="automatic")
    said = session.complete(request)
    with mock.patch("time.monotonic", return_value=-1e9):
        engine.slow_prefill = False
        assert [*said][-1].text == "1"
    session.close()


def test_no_module_in_a_kernel_has_what_freezegun_would_replace():
    elsewhere = (
        *("jupyter_sc2.evaluation", "jupyter_sc2.training", "jupyter_sc2.cli"),
        "jupyter_sc2.attribution.spdx",  # a date in a document of the user's
    )
    theirs = {id(time), *(id(getattr(time, name)) for name in FUNCTIONS)}
    for name, module in list(sys.modules.items()):
        if name.startswith("jupyter_sc2") and not name.startswith(elsewhere):
            assert [key for key, value in vars(module).items() if id(value) in theirs] == [], name
