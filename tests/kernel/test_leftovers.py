"""`%unload_ext` takes back all that `%load_ext` brought."""

from __future__ import annotations

import ast
import sys
import time

import pytest

from tests.support.kernels import FrontEnd

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors and threads are read in /proc"),
]

# Of exit handlers there is no list: who registers one is noted, and who takes it back.
NOTE_EXIT_HANDLERS = """
import atexit
_exit_handlers = []
_register, _unregister = atexit.register, atexit.unregister
def _noting(function, *arguments, **named):
    _exit_handlers.append(function)
    return _register(function, *arguments, **named)
def _forgetting(function):
    _exit_handlers[:] = [one for one in _exit_handlers if one != function]
    _unregister(function)
atexit.register, atexit.unregister = _noting, _forgetting
"""


@pytest.fixture
def kernel():
    # OpenBLAS starts its threads when NumPy is imported.
    kernel = FrontEnd(JUPYTER_SC2_EMBEDDED="", OPENBLAS_NUM_THREADS="1")
    # What IPython itself makes at the first extension of a kernel.
    kernel.run("%load_ext autoreload\n%unload_ext autoreload")
    # And ipykernel for the first answer that comes from the thread of the control channel.
    kernel.client.control_channel.send(kernel.client.session.msg("usage_request", {}))
    kernel.client.get_control_msg(timeout=20)
    kernel.run(NOTE_EXIT_HANDLERS)
    kernel.run("from tests.support import leftovers; _state = leftovers.state()")
    kernel.run("_state = leftovers.state()")
    yield kernel
    kernel.close()


def differences(kernel):
    cell = kernel.start("print(leftovers.differences(_state), len(_exit_handlers), sep='\\n')")
    kernel.finish(cell)
    found, exit_handlers = map(ast.literal_eval, kernel.text(cell).splitlines())
    return found | ({"exit handlers": exit_handlers} if exit_handlers else {})


def complete(kernel):
    kernel.run("%load_ext jupyter_sc2")
    comm = kernel.open()
    comm.say({"type": "hello", "protocol": 1})
    answer = comm.final(comm.ask("import numpy as "), timeout=60)
    assert answer["content"]["data"]["text"] == "np"


def test_nothing_but_modules_is_left_after_loading_completing_and_unloading(kernel):
    complete(kernel)
    assert {"comms", "events", "magics", "threads", "exit handlers"} <= differences(kernel).keys()
    kernel.run("%unload_ext jupyter_sc2")
    end = time.monotonic() + 40  # ipykernel closes the pipes of ended threads every 10 s
    while (left := differences(kernel)).keys() - {"filters of warnings"}:
        assert time.monotonic() < end, left
        time.sleep(0.5)
    # NumPy's own, which come with the module: it is in sys.modules from now on.
    gone, new = left.get("filters of warnings", ([], []))
    assert gone == [] and all("numpy" in one for one in new)


def test_filters_of_numpy_are_not_there_before_the_user_imports_it(kernel):
    complete(kernel)
    kernel.run("import time; time.sleep(0.5)")
    assert "filters of warnings" not in differences(kernel)
    kernel.run("import numpy")
    assert "filters of warnings" in differences(kernel)


def test_threads_end_within_two_seconds_after_unloading(kernel):
    complete(kernel)
    kernel.run("%unload_ext jupyter_sc2")
    time.sleep(2)
    assert not {"threads", "native threads"} & differences(kernel).keys()
