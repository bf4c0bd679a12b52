"""Giving way: in its own threads only."""

import os
import sys
import threading

import pytest

from jupyter_sc2.session import Session
from tests.conftest import FakeEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities are Linux's")


@pytest.mark.parametrize("gives_way", [True, False])
def test_only_a_session_that_gives_way_has_a_thread_of_the_lowest_priority(gives_way):
    policies = {}

    def load(model, **_):
        policies["worker"] = os.sched_getscheduler(threading.get_native_id())
        return FakeEngine()

    session = Session(load_engine=load, gives_way=gives_way)
    session.load()
    session.wait_ready(5)
    session.close()
    expected = os.SCHED_IDLE if gives_way else os.SCHED_OTHER
    assert policies["worker"] == expected
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
