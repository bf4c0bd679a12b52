"""Giving way: in its own threads only."""

import os
import sys
import threading

import pytest

from jupyter_sc2.priority import NICENESS
from jupyter_sc2.session import Session
from tests.conftest import FakeEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities are Linux's")


def niceness() -> int:
    """The calling thread's."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize("gives_way", [True, False])
def test_only_a_session_that_gives_way_has_a_thread_of_a_lower_priority(gives_way):
    policies, before = {}, niceness()

    def load(model, **_):
        policies["worker"] = niceness()
        return FakeEngine()

    session = Session(load_engine=load, gives_way=gives_way)
    session.load()
    session.wait_ready(5)
    session.close()
    assert policies["worker"] == (max(NICENESS, before) if gives_way else before)
    assert niceness() == before
