"""While somebody waits for text beside a running cell, the turns of the GIL are short."""

import os
import sys

import pytest

from jupyter_sc2.errors import GenerationError
from jupyter_sc2.runtime.turns import SHORT_TURN_S, ShortTurns, short_turns
from tests.unit.pipeline.test_session import request, submit, wait_until

USUAL_S = 0.005
USUAL, SHORT = pytest.approx(USUAL_S), pytest.approx(SHORT_TURN_S)


@pytest.fixture(autouse=True)
def usual():
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def ready(session):
    session.load()
    session.wait_ready(5)
    return session


def asked_with(fake_engine):
    """The turns while the engine decodes, as a list that is filled then."""
    turns = []
    generate = fake_engine.generate

    def looked_at(*arguments, **named):
        turns.append(sys.getswitchinterval())
        return generate(*arguments, **named)

    fake_engine.generate = looked_at
    return turns


def test_beside_a_cell_they_are_short_until_the_request_ends(ready, fake_engine):
    turns = asked_with(fake_engine)
    fake_engine.answers = ["1"]
    ready.set_kernel_busy(True)
    assert submit(ready, request()).final.text == "1"
    assert turns == [SHORT]
    wait_until(lambda: sys.getswitchinterval() == USUAL)


def test_where_no_cell_runs_they_are_as_they_were(ready, fake_engine):
    turns = asked_with(fake_engine)
    fake_engine.answers = ["1"]
    assert submit(ready, request()).final
    assert turns == [USUAL]


def test_nobody_hurries_while_the_model_is_not_loaded(session, fake_engine):
    turns = asked_with(fake_engine)
    fake_engine.answers = ["1"]
    session.set_kernel_busy(True)
    assert submit(session, request()).final
    assert turns == [USUAL]


def test_after_a_request_that_fails_they_are_as_they_were(ready, fake_engine):
    fake_engine.error = GenerationError("No.")
    ready.set_kernel_busy(True)
    failed = submit(ready, request())
    assert failed.done.wait(5) and failed.error
    wait_until(lambda: sys.getswitchinterval() == USUAL)


def test_shorter_ones_of_the_users_stay():
    sys.setswitchinterval(0.0001)
    theirs = sys.getswitchinterval()
    short_turns.begin()
    assert sys.getswitchinterval() == theirs
    short_turns.end()
    assert sys.getswitchinterval() == theirs


@pytest.mark.parametrize("seconds", [0.003, 0.005, 0.007, 0.0123])
def test_they_are_to_the_microsecond_as_they_were(seconds):
    sys.setswitchinterval(seconds)
    theirs = sys.getswitchinterval()
    for _ in range(3):
        short_turns.begin()
        short_turns.end()
    assert sys.getswitchinterval() == theirs


def test_what_the_users_code_sets_meanwhile_stays():
    short_turns.begin()
    sys.setswitchinterval(0.02)
    short_turns.end()
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_they_are_short_until_the_last_of_several_requests_ends():
    turns = ShortTurns()
    turns.begin()
    turns.begin()
    turns.end()
    assert sys.getswitchinterval() == SHORT
    turns.end()
    assert sys.getswitchinterval() == USUAL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_in_a_child_that_is_forked_meanwhile_they_are_as_they_were():
    short_turns.begin()
    child = os.fork()
    if not child:
        os._exit(int(sys.getswitchinterval() != USUAL))
    short_turns.end()
    assert os.waitpid(child, 0)[1] == 0
