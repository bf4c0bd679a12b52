"""Processes of our own: whatever ends first, and however, nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time

import pytest

from jupyter_sc2.runtime import child_process
from jupyter_sc2.runtime.child_process import ChildProcess, Identity, Restarts, sweep
from tests.support.children import runs, started, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork, and no guard")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where folders are made, also by the processes that are started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


@pytest.fixture
def child():
    child = ChildProcess("tests.support.children", {"what": "serve"})
    assert child.wait_until_it_speaks() == {"ready": "serve"}
    yield child
    child.stop()


# How it ends, and who hears of that


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGTERM])
def test_a_child_that_is_killed_says_by_which_signal(child, number):
    ended = threading.Event()
    child.when_it_ends(ended.set)
    os.kill(child.pid, number)
    assert ended.wait(5) and child.code == -number
    assert number.name in child_process.how_it_ended(child.code)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ignore")
def test_a_child_of_a_starter_that_ignores_a_signal_does_not_ignore_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        child = ChildProcess("tests.support.children", {"what": "serve"})
    finally:
        signal.signal(signal.SIGTERM, before)
    child.wait_until_it_speaks()
    ended = threading.Event()
    child.when_it_ends(ended.set)
    os.kill(child.pid, signal.SIGTERM)
    assert ended.wait(5) and child.code == -signal.SIGTERM
    child.stop()


@pytest.mark.parametrize("what, code", [("exit", 3), ("crash", -signal.SIGSEGV)])
def test_a_child_that_ends_before_it_is_ready_says_how(what, code):
    child = ChildProcess("tests.support.children", {"what": what})
    assert child.wait_until_it_speaks() == {}
    assert child.code == code
    child.stop()


def test_who_asks_only_after_its_end_hears_of_it_too(child):
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(5)
    ended = threading.Event()
    child.when_it_ends(ended.set)
    assert ended.is_set()


def test_the_end_of_a_guard_is_that_of_its_child(child):
    ended = threading.Event()
    child.when_it_ends(ended.set)
    os.kill(child._process.pid, signal.SIGKILL)
    assert ended.wait(5)
    wait_until(lambda: not runs(child.pid))


def test_who_stops_a_child_does_not_hear_of_its_end(child):
    ended = threading.Event()
    child.when_it_ends(ended.set)
    child.stop()
    assert child.wait(5) and not ended.is_set()


@pytest.mark.parametrize("stopped", [["child"], ["guard"], ["child", "guard"]])
def test_a_child_that_was_stopped_is_ended_within_seconds(child, stopped, temporary):
    pids = {"child": child.pid, "guard": child._process.pid}
    for name in stopped:
        os.kill(pids[name], signal.SIGSTOP)
    began = time.monotonic()
    child.stop()
    assert time.monotonic() - began < 2 * child_process.KILL_AFTER_S
    wait_until(lambda: not any(map(runs, pids.values())))
    assert [*temporary.iterdir()] == []


def test_a_child_ends_while_it_loads_and_holds_the_interpreters_lock(temporary):
    child = ChildProcess("tests.support.children", {"what": "load"})
    child.stop()
    assert child.wait(5) and [*temporary.iterdir()] == []


def test_a_child_for_which_no_thread_can_be_started_leaves_nothing(temporary):
    threading.stack_size(1 << 46)  # no system has that much
    try:
        with pytest.raises(RuntimeError, match="start new thread"):
            ChildProcess("tests.support.children", {"what": "serve"})
    finally:
        threading.stack_size(0)
    assert [*temporary.iterdir()] == []


@pytest.fixture
def full_disk():
    """While this is called no file can be written to."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_child_for_which_there_is_no_room_on_the_disk_leaves_nothing(temporary, full_disk):
    full_disk()
    with pytest.raises(OSError):
        ChildProcess("tests.support.children", {"what": "serve"})
    assert [*temporary.iterdir()] == []


# The process that has started it goes


@pytest.mark.parametrize("what", ["serve", "load"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_goes_with_its_folder_when_its_starter_is_killed(what, number, temporary):
    with started(what) as one:
        assert [*temporary.iterdir()] == [one.folder]
        one.process.send_signal(number)
        wait_until(lambda: not runs(one.child) and not runs(one.guard))
        assert [*temporary.iterdir()] == []


@pytest.mark.parametrize("what", ["serve", "load"])
def test_a_child_goes_although_a_forked_process_holds_what_its_starter_had_open(what, temporary):
    with started(what, "fork") as one:
        one.process.kill()
        wait_until(lambda: not runs(one.child) and not runs(one.guard))
        assert runs(one.forked)
        assert [*temporary.iterdir()] == []


def test_a_child_goes_when_its_starter_has_come_to_its_end(temporary):
    with started("serve", "leave") as one:
        one.process.wait(10)
        wait_until(lambda: not runs(one.child) and not runs(one.guard))
        assert [*temporary.iterdir()] == []


def test_a_child_that_was_stopped_goes_as_well(temporary):
    with started("serve") as one:
        os.kill(one.child, signal.SIGSTOP)
        one.process.kill()
        wait_until(lambda: not runs(one.child) and not runs(one.guard))
        assert [*temporary.iterdir()] == []


# What is left all the same


def test_the_next_start_sweeps_what_nobody_could_remove(temporary):
    with started("serve") as one:
        for pid in (one.guard, one.child):
            os.kill(pid, signal.SIGSTOP)
        one.process.kill()
        one.process.wait()
        assert one.folder.exists()
        sweep()
        wait_until(lambda: not runs(one.child) and not runs(one.guard))
        assert [*temporary.iterdir()] == []


def test_what_belongs_to_a_living_process_is_not_swept(child):
    with started("serve") as one:
        sweep()
        assert one.folder.exists() and runs(one.child)
        assert child.folder.exists() and not child.ended


def left_behind(folder, **owner):
    """A folder of a process that lives no more."""
    folder.mkdir(mode=0o700)
    gone = {"pid": 2**22 + 1, "began": 1.0, "where": child_process.here()} | owner
    (folder / "owner.json").write_text(json.dumps({"starter": gone}))
    return folder


def test_folders_of_others_are_not_swept(temporary):
    left_behind(temporary / "sc2-elsewhere", where="another machine")
    left_behind(temporary / "sc2-open").chmod(0o755)
    left_behind(temporary / "other")
    (temporary / "sc2-unknown").mkdir(mode=0o700)
    (temporary / "sc2-damaged").mkdir(mode=0o700)
    (temporary / "sc2-damaged" / "owner.json").write_text("[]")
    (temporary / "sc2-link").symlink_to(left_behind(temporary / "target"))
    if os.getuid() == 0:
        os.chown(left_behind(temporary / "sc2-user"), 12345, -1)
    before = sorted(temporary.iterdir())
    left_behind(temporary / "sc2-gone")
    sweep()
    assert sorted(temporary.iterdir()) == before


def test_a_number_that_another_process_has_now_is_not_taken_for_the_one_before(temporary):
    left_behind(temporary / "sc2-gone", pid=os.getpid())
    sweep()
    assert [*temporary.iterdir()] == []
    me = Identity.of(os.getpid())
    assert me.lives() and Identity.named(me.name) == me


# When it is started again


def test_what_ends_again_soon_stays_down_and_what_ran_for_long_does_not():
    restarts = Restarts(delays=(0.0, 5.0), window=60.0)
    assert [restarts.delay() for _ in range(4)] == [0.0, 5.0, None, None]
    restarts.forget()
    assert restarts.delay() == 0.0
    patient = Restarts(delays=(0.0,), window=0.01)
    assert patient.delay() == 0.0
    time.sleep(0.05)
    assert patient.delay() == 0.0
