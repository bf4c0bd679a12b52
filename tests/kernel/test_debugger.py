"""Ghost text comes while one debugs, and whoever debugs is not disturbed by it."""

import time

import pytest

from tests.support.kernels import LOAD, OLD, FrontEnd

pytestmark = pytest.mark.kernel

CELL = "import time\ntime.sleep(0.02)\nx = {}\ny = 2\nx"
SESSION = "next(iter(__import__('jupyter_sc2.pipeline.session').pipeline.session._sessions))"


@pytest.fixture(scope="module")
def kernel(version):
    """One kernel that is being debugged."""
    front_end = FrontEnd(old=version == OLD)
    front_end.run(LOAD.format(engine="Quick"))
    comm_of(front_end).leave()
    front_end.attach()
    yield front_end
    front_end.close()


@pytest.fixture
def comm(kernel):
    comm = comm_of(kernel)
    yield comm
    comm.leave()


def comm_of(front_end):
    comm = front_end.open()
    comm.say({"type": "hello", "protocol": 1, "client": "tests"})
    comm.wait_for(type="hello")
    comm.answer()
    return comm


def go_on(kernel, cell, thread):
    assert kernel.debug("stackTrace", threadId=thread)["success"]
    assert kernel.debug("continue", threadId=thread)["success"]
    return kernel.finish(cell)


def test_two_requests_are_answered_at_each_of_20_breakpoints(kernel, comm):
    """Fails where the session's thread is not marked: it is suspended, and so is the control channel."""
    for number in range(20):
        cell, thread = kernel.start_with_breakpoint(CELL.format(number), 4)
        for name in ("first", "second"):
            comm.answer(timeout=5, text=f"{name}_{number} = ")
        outputs = go_on(kernel, cell, thread)
        assert outputs[-1]["content"]["data"]["text/plain"] == str(number)


def test_ghost_text_comes_while_one_steps(kernel, comm):
    cell, thread = kernel.start_with_breakpoint(CELL.format(1), 3)
    for number in range(3):
        seen = len(kernel.iopub)
        assert kernel.debug("next", threadId=thread)["success"]
        kernel.wait(lambda seen=seen: stops(kernel, seen))
        comm.answer(timeout=5, text=f"step_{number} = ")
        if number == 1:
            break
    go_on(kernel, cell, thread)


def stops(kernel, seen):
    events = [m["content"] for m in kernel.iopub[seen:] if m["msg_type"] == "debug_event"]
    return [event for event in events if event["event"] == "stopped"]


def test_no_thread_of_ours_is_among_those_that_are_debugged(kernel, comm):
    cell, thread = kernel.start_with_breakpoint(CELL.format(2), 4)
    names = [one["name"] for one in kernel.debug("threads")["body"]["threads"]]
    assert names and not [name for name in names if "sc2" in name]
    go_on(kernel, cell, thread)


def test_a_model_is_loaded_at_a_breakpoint(kernel, comm):
    cell, thread = kernel.start_with_breakpoint(CELL.format(3), 4)
    comm.say({"type": "configure", "settings": {}, "load": False})
    comm.wait_for(type="status", state="unloaded")
    comm.say({"type": "configure", "settings": {}, "load": True})
    comm.answer(timeout=5, text="loaded = ")
    go_on(kernel, cell, thread)


def test_a_lock_that_a_stopped_thread_holds_does_not_hold_the_control_channel(kernel, comm):
    """Fails where the control channel's own thread acts on messages: the debugger is not heard any more."""
    code = f"session = {SESSION}\nwith session._workers.changed:\n    x = 1\n    y = 2"
    cell, thread = kernel.start_with_breakpoint(code, 3)
    asked = comm.ask("name = ")
    other = comm_of_stopped(kernel)
    go_on(kernel, cell, thread)
    comm.final(asked)
    other.wait_for(type="hello")
    other.leave()


def comm_of_stopped(kernel):
    """A front end that opens, says hello and closes another one, none of which is answered yet."""
    comm, closed = kernel.open(), kernel.open()
    comm.say({"type": "hello", "protocol": 1, "client": "tests"})
    closed.leave()
    return comm


def test_who_waits_for_a_model_holds_no_lock_when_another_thread_stops(kernel, comm):
    """Fails where `wait_ready` waits on the session's condition: it is suspended as soon as it has the lock."""
    kernel.run(
        "import threading, time\n"
        f"session = {SESSION}\n"
        "loaded, load_engine = threading.Event(), session._workers.load_engine\n"
        "def load_slowly(*arguments, **options):\n"
        "    loaded.wait()\n"
        "    return load_engine(*arguments, **options)\n"
        "session._workers.load_engine = load_slowly"
    )
    code = (
        "def work():\n"
        "    time.sleep(0.5)\n"
        "    x = 1\n"
        "    y = 2\n"
        "    loaded.set()\n"
        "thread = threading.Thread(target=work); thread.start()\n"
        "session.load(); status = session.wait_ready()\n"
        "session._workers.load_engine = load_engine; status.state"
    )
    cell, thread = kernel.start_with_breakpoint(code, 4)
    time.sleep(0.3)  # longer than `wait_ready` sleeps
    comm.answer(timeout=5, text="meanwhile = ")
    outputs = go_on(kernel, cell, thread)
    assert outputs[-1]["content"]["data"]["text/plain"] == "'ready'"


def test_a_process_of_ours_does_not_wait_for_the_debugger(kernel):
    outputs = kernel.run(
        "import subprocess, sys\n"
        "from jupyter_sc2.runtime import background\n"
        "with background.unwatched_child():\n"
        "    said = subprocess.run([sys.executable, '-c', 'print(42)'], capture_output=True, timeout=20)\n"
        "int(said.stdout)"
    )
    assert outputs[-1]["content"]["data"]["text/plain"] == "42"


def test_ghost_text_comes_where_the_debugger_stops_at_a_call_of_breakpoint(kernel, comm):
    seen = len(kernel.iopub)
    cell = kernel.start("x = 1\nbreakpoint()\ny = 2")
    thread = kernel.wait(lambda: stops(kernel, seen))[0]["body"]["threadId"]
    for number in range(2):
        comm.answer(timeout=5, text=f"call_{number} = ")
    go_on(kernel, cell, thread)


@pytest.fixture(scope="module", params=[False, True], ids=["never debugged", "after debugging"])
def plain(request, version):
    """A kernel that no debugger is attached to, or not any more."""
    front_end = FrontEnd(old=version == OLD)
    front_end.run(LOAD.format(engine="Quick"))
    if request.param:
        front_end.attach()
        cell, thread = front_end.start_with_breakpoint(CELL.format(1), 4)
        go_on(front_end, cell, thread)
        front_end.detach()
    yield front_end
    front_end.close()


# debugpy, which ipykernel imports, does nothing at a `breakpoint()` while no debugger is attached.
PDB = "import sys; sys.breakpointhook = sys.__breakpointhook__\nbreakpoint()\nx = 1"


@pytest.mark.parametrize("code", ["input('?')", PDB], ids=["input", "breakpoint"])
def test_ghost_text_comes_at_a_prompt(plain, code):
    comm = comm_of(plain)
    cell = plain.start(code, allow_stdin=True)
    plain.client.get_stdin_msg(timeout=10)
    for number in range(2):
        comm.answer(timeout=5, text=f"prompt_{number} = ")
    assert plain.ended(cell) is None
    plain.client.input("c")
    plain.finish(cell)
    comm.answer(timeout=5, text="after = ")
    comm.leave()
