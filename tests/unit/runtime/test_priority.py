"""Giving way: what nobody waits for yet pauses while others want the cores."""

import pytest

from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.priority import MAX_PAUSE_S, WORK_S, Pauses
from tests.support.fake_engine import FakeEngine
from tests.unit.pipeline.test_session import request, submit, wait_until


class Clock:
    """Goes on by itself while somebody waits, else when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def pauses(clock: Clock, *, crowded: bool) -> Pauses:
    return Pauses(lambda: crowded, clock.wait, lambda: clock.now)


def test_while_no_core_is_free_it_pauses_as_long_as_it_has_worked():
    clock = Clock()
    pause = pauses(clock, crowded=True)
    for worked in (0.05, 0.2):
        clock.now += worked
        pause()
    assert clock.waits == pytest.approx([0.05, 0.2])


def test_no_pause_is_longer_than_half_a_second():
    clock = Clock()
    pause = pauses(clock, crowded=True)
    clock.now += 60
    pause()
    assert clock.waits == [MAX_PAUSE_S]


def test_it_does_not_look_whether_a_core_is_free_at_each_call():
    clock = Clock()
    pause = pauses(clock, crowded=True)
    clock.now += WORK_S / 2
    pause()
    assert clock.waits == []


def test_where_a_core_is_free_it_does_not_pause():
    clock = Clock()
    pause = pauses(clock, crowded=False)
    clock.now += 60
    pause()
    assert clock.waits == []


@pytest.fixture
def pausing(monkeypatch, fake_engine: FakeEngine):
    """A session that pauses for a minute wherever it may."""
    monkeypatch.setattr(
        "jupyter_sc2.pipeline.serving.Pauses", lambda crowded, wait: lambda: wait(60.0)
    )
    session = Session(load_engine=lambda model, **kwargs: fake_engine, low_priority=True)
    session.load()
    session.wait_ready(5)
    yield session
    session.close()


def test_a_request_ends_a_pause(pausing, fake_engine):
    fake_engine.slow_prefill = True  # until cancelled
    pausing.prefetch(request("import numpy as np\n"))
    wait_until(lambda: fake_engine.reading)
    fake_engine.answers = ["1"]
    assert submit(pausing, request()).final.text == "1"


def test_a_cell_that_begins_ends_a_pause(pausing, fake_engine):
    fake_engine.slow_prefill = True
    pausing.prefetch(request("import numpy as np\n"))
    wait_until(lambda: fake_engine.reading)
    pausing.set_kernel_busy(True)
    wait_until(lambda: not fake_engine.reading)
