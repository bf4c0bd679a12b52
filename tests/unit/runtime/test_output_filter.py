"""What other packages print, warn and log on our threads reaches nobody; what the user's threads write does."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings

import pytest

from jupyter_sc2.runtime.output_filter import Silence, silence


def on_a_thread(act) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def chatter() -> None:
    print("printed")
    print("printed to stderr", file=sys.stderr)
    sys.stderr.writelines(["written\n"])
    sys.stderr.write(warnings.formatwarning("warned", UserWarning, __file__, 1))
    logging.StreamHandler().handle(logging.makeLogRecord({"msg": "logged", "levelno": 40}))


def silent_chatter() -> None:
    with silence:
        chatter()


def test_nothing_of_a_silent_thread_is_shown(capsys):
    on_a_thread(silent_chatter)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_while_the_thread_is_silent_a_second_time(capsys):
    with silence:
        silent_chatter()
        chatter()
    assert capsys.readouterr() == ("", "")


def test_other_threads_are_heard_meanwhile(capsys):
    with silence:
        on_a_thread(lambda: print("theirs"))
    assert capsys.readouterr().out == "theirs\n"


def test_the_thread_is_heard_again_afterwards(capsys):
    silent_chatter()
    print("mine")
    assert capsys.readouterr().out == "mine\n"


def test_a_stream_that_was_put_in_place_later_is_covered_from_the_next_time_on():
    with silence, contextlib.redirect_stdout(io.StringIO()) as theirs:
        silent_chatter()
    assert theirs.getvalue() == ""


def test_a_handler_with_an_earlier_stream_is_covered():
    with contextlib.redirect_stderr(io.StringIO()) as earlier:
        silence = Silence()
        handler = logging.StreamHandler()
    with silence:
        handler.handle(logging.makeLogRecord({"msg": "logged", "levelno": 40}))
    assert earlier.getvalue() == ""


def test_the_streams_are_as_before_when_nobody_is_silent():
    before = dict(vars(sys.stdout)), dict(vars(sys.stderr))
    silent_chatter()
    assert (dict(vars(sys.stdout)), dict(vars(sys.stderr))) == before


def test_a_write_of_the_users_own_stays(monkeypatch):
    heard = []
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    stream.write = heard.append
    with silence:
        on_a_thread(lambda: stream.write("theirs"))
    stream.write("mine")
    assert heard == ["theirs", "mine"]


def test_a_write_that_the_user_sets_meanwhile_stays(monkeypatch):
    heard = []
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with silence:
        stream.write = heard.append
    stream.write("mine")
    assert heard == ["mine"]


def test_an_object_of_the_users_for_a_stream_is_covered_and_none_of_its_code_runs(monkeypatch):
    class Tee:
        heard = ""

        def __getattribute__(self, name):
            if name == "__dict__":
                raise AssertionError("the user's code was run")
            return object.__getattribute__(self, name)

        def write(self, text):
            type(self).heard += text

    monkeypatch.setattr(sys, "stdout", Tee())
    with silence:
        print("foreign")
        on_a_thread(lambda: print("theirs"))
    assert Tee.heard == "theirs\n"


@pytest.mark.parametrize("stream", [None, object()], ids=["none", "no attributes"])
def test_what_is_no_stream_is_left_alone(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    with silence:
        pass
    assert sys.stdout is stream


def test_what_was_not_shown_is_in_the_debug_log(caplog):
    caplog.set_level(logging.DEBUG, "jupyter_sc2.runtime.output_filter")
    with silence:
        print("printed")
    assert [record.getMessage() for record in caplog.records] == ["Not shown: printed"]
