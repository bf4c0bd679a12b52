"""What runs a model ends by itself, or cannot be had for a moment: the session goes on without an act of the user."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from jupyter_sc2.errors import EngineLost, ModelLoadError
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline import recovery
from jupyter_sc2.pipeline.session import Session
from tests.support.fake_engine import FakeEngine
from tests.support.paths import ROOT
from tests.unit.pipeline.test_session import invoke, request, submit, wait_until

ENDED = "llama.cpp's process has ended (signal 9, SIGKILL)"


class Elsewhere(FakeEngine):
    """An engine whose process can be made to end."""

    def __init__(self, *answers: str) -> None:
        super().__init__(*answers, card=ModelCard(name="large"))
        self._watched = threading.Event()
        self._tell = None

    def when_lost(self, tell) -> None:
        self._tell = tell
        self._watched.set()

    def end(self) -> None:
        """While nothing is asked; a session watches an engine a moment after it is ready."""
        assert self._watched.wait(5)
        self._tell(EngineLost(ENDED))

    def end_when_asked(self) -> None:
        self.error = EngineLost(ENDED)


class Loads:
    """Loads a new engine each time; "large" only once `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.large: list[Elsewhere] = []
        self.error: Exception | None = None

    def __call__(self, model, *, progress, **_):
        if model == "broken":
            raise ModelLoadError("broken is broken.")
        if model != "large":
            return FakeEngine("from embedded", "from embedded")
        while not self.go.wait(0.01):
            progress("loading", None)
        if self.error is not None:
            error, self.error = (
                self.error,
                None if isinstance(self.error, EngineLost) else self.error,
            )
            raise error
        self.large.append(Elsewhere("from large", "from large"))
        return self.large[-1]


@pytest.fixture
def loads():
    return Loads()


@pytest.fixture
def running(loads):
    session = Session(load_engine=loads, load_options=LoadOptions(model="large"))
    session.load()
    session.wait_ready(5)
    session.heard = []
    session.subscribe(session.heard.append)
    yield session
    loads.go.set()
    session.close()


def is_ready(session, model):
    return lambda: (session.status.state, session.status.model) == ("ready", model)


# It ends


def test_what_ends_while_it_is_asked_is_answered_for_by_the_embedded_model(running, loads):
    loads.go.clear()
    loads.large[0].end_when_asked()
    asked = submit(running, request())
    assert asked.final.text == "from embedded"
    assert sum(update.finish_reason is not None for update in asked.updates) == 1
    wait_until(lambda: "embedded model answers meanwhile" in (running.status.message or ""))
    assert running.status.state == "loading" and ENDED in running.status.message
    loads.go.set()
    wait_until(is_ready(running, "large"))
    assert submit(running, request("y = ")).final.text == "from large"
    assert len(loads.large) == 2 and loads.large[0].closed and running.status.message is None


@pytest.mark.parametrize("ask", [request, invoke])
def test_what_ends_while_nothing_is_asked_is_started_again_and_the_status_says_so(
    running, loads, ask
):
    loads.go.clear()
    loads.large[0].end()
    assert (running.status.state, running.status.model) == ("loading", "large")
    assert running.status.message == f"{ENDED}: it is started again."
    assert submit(running, ask()).final.text == "from embedded"
    loads.go.set()
    wait_until(is_ready(running, "large"))


def test_what_ends_while_it_reads_ahead_is_started_again(running, loads):
    def prefill(ids, cancelled):
        raise EngineLost(ENDED)

    loads.large[0].prefill = prefill
    running.prefetch(request("import numpy as np\n"))
    wait_until(lambda: len(loads.large) == 2)


def test_what_ends_again_soon_stays_away_in_one_clear_line(running, loads):
    loads.large[0].end()
    wait_until(is_ready(running, "large"))
    loads.large[1].end()
    wait_until(is_ready(running, "embedded"))
    assert running.status.message == (
        f"{ENDED} again, soon after it was started anew: it stays away until it is loaded (%sc2 load large). "
        "The embedded model answers instead."
    )
    assert submit(running, request()).final.text == "from embedded"
    assert len(loads.large) == 2


def test_what_ended_twice_can_be_loaded_and_may_then_end_once_again(running, loads):
    for count in (1, 2):
        wait_until(lambda count=count: len(loads.large) == count)
        wait_until(is_ready(running, "large"))
        loads.large[-1].end()
    running.load(LoadOptions(model="large"))
    running.wait_ready(5)
    loads.large[-1].end()
    wait_until(lambda: len(loads.large) == 4)


def test_what_cannot_be_started_again_leaves_the_embedded_model(running, loads):
    loads.error = ModelLoadError("The file is gone.")
    loads.large[0].end()
    wait_until(is_ready(running, "embedded"))
    assert running.status.message == "The file is gone. The embedded model answers instead."


def test_a_load_that_fails_does_not_say_that_what_has_ended_stays_loaded(running, loads):
    loads.go.clear()
    loads.large[0].end()
    running.load(LoadOptions(model="broken"))
    wait_until(is_ready(running, "embedded"))
    assert running.status.message == "broken is broken. The embedded model answers instead."
    assert not any("stays loaded" in (status.message or "") for status in running.heard)


def test_a_request_that_ends_two_engines_is_one_error(running, loads):
    def load(model, **_):
        engine = Elsewhere()
        engine.end_when_asked()
        return engine

    session = Session(load_engine=load, load_options=LoadOptions(model="embedded"))
    asked = submit(session, invoke())
    assert asked.done.wait(5)
    assert isinstance(asked.error, EngineLost) and asked.updates == []
    session.close()


def test_what_was_cancelled_when_its_engine_ended_is_cancelled(running, loads):
    engine = loads.large[0]
    engine.gate.clear()

    def generate(*args):
        engine.started.set()
        while not args[3]():
            time.sleep(0.005)
        raise EngineLost(ENDED)
        yield

    engine.generate = generate
    asked = submit(running, invoke(id="7"))
    assert engine.started.wait(5)
    running.cancel("7")
    assert asked.final.finish_reason == "cancelled"


def test_what_ends_just_before_it_takes_over_is_started_again():
    engines = []

    class Ends(Elsewhere):
        def when_lost(self, tell):
            super().when_lost(tell)
            if len(engines) == 1:
                self.end()  # as who asks after the end hears of it at once

    def load(model, **_):
        engines.append(Ends("fine"))
        return engines[-1]

    session = Session(load_engine=load, load_options=LoadOptions(model="large"))
    session.load()
    wait_until(lambda: len(engines) == 2)
    wait_until(is_ready(session, "large"))
    assert submit(session, request()).final.text == "fine"
    session.close()


def test_what_was_unloaded_is_not_started_again_when_it_ends(running, loads):
    engine = loads.large[0]
    running.unload()
    engine.end()
    wait_until(lambda: running.status.state == "unloaded")
    assert len(loads.large) == 1 and submit(running, request()).final.reason == "not_ready"


def test_a_model_that_fails_again_and_again_is_loaded_anew(loads):
    engines = []

    def load(model, **_):
        engines.append(FakeEngine())
        return engines[-1]

    session = Session(load_engine=load)
    for _ in range(recovery.MAX_FAILURES):
        session.load() if not engines else None
        session.wait_ready(5)
        engines[0].error = RuntimeError("device-side assert")
        assert submit(session, invoke()).done.wait(5)
    wait_until(lambda: len(engines) == 2)
    wait_until(lambda: session.status.state == "ready" and engines[0].closed)
    engines[1].answers = ["fine"]
    assert submit(session, invoke()).final.text == "fine"
    session.close()


def test_a_model_that_keeps_failing_after_that_stays_and_answers_once_it_can(loads):
    engines = []

    def load(model, **_):
        engines.append(FakeEngine())
        return engines[-1]

    session = Session(load_engine=load)
    session.load()
    session.wait_ready(5)
    for _ in range(2):
        for _ in range(recovery.MAX_FAILURES):
            engines[-1].error = RuntimeError("device-side assert")
            assert submit(session, invoke()).done.wait(5)
        wait_until(lambda: len(engines) == 2 and session.status.state == "ready")
    engines[-1].answers = ["fine"]
    assert submit(session, invoke()).final.text == "fine"
    session.close()


def test_what_ends_while_it_loads_is_started_again(loads):
    loads.error = EngineLost(ENDED)
    session = Session(load_engine=loads, load_options=LoadOptions(model="large"))
    session.load()
    assert session.wait_ready(5).model == "large"
    loads.error = EngineLost(ENDED)
    session.load()
    loads.large.clear()
    wait_until(lambda: len(loads.large) == 1)
    session.close()


def test_what_ends_each_time_it_loads_leaves_the_embedded_model(loads):
    def load(model, **_):
        if model == "large":
            raise EngineLost(ENDED)
        return FakeEngine("from embedded")

    session = Session(load_engine=load, load_options=LoadOptions(model="large"))
    session.load()
    with pytest.raises(ModelLoadError, match="large: llama"):
        session.wait_ready(5)
    wait_until(is_ready(session, "embedded"))
    assert submit(session, request()).final.text == "from embedded"
    session.close()


# It cannot be had for a moment


@pytest.fixture
def no_threads():
    """While this is called no thread can be started, as the system has no memory for its stack."""
    yield lambda: threading.stack_size(1 << 46)
    threading.stack_size(0)


@pytest.mark.parametrize("model", ["embedded", "large"])
@pytest.mark.parametrize("ask", [request, invoke])
def test_after_a_thread_could_not_be_started_the_next_request_loads(loads, no_threads, model, ask):
    session = Session(load_engine=loads, load_options=LoadOptions(model=model))
    no_threads()
    session.load()
    assert session.status.state == "error" and "starts no thread" in session.status.message
    refused = submit(session, ask())
    assert refused.done.wait(5)
    assert refused.error is not None or refused.final.reason == "not_ready"
    threading.stack_size(0)
    session._workers.retry_at = 0.0  # some time later
    assert submit(session, ask("y = ")).final.text.startswith("from")
    wait_until(is_ready(session, model))
    session.close()


def test_what_is_loaded_stays_when_there_is_no_thread_to_load_another(loads, no_threads):
    session = Session(load_engine=loads)
    session.load()
    session.wait_ready(5)
    session._workers.serving.memory_bytes = 2 << 30  # it would have to make room
    no_threads()
    session.load(LoadOptions(model="large"))
    assert session.status.state == "ready" and session.status.model == "embedded"
    assert "starts no thread" in session.status.message
    assert session.status.message.endswith("The embedded model stays loaded.")
    with pytest.raises(ModelLoadError, match="starts no thread"):
        session.wait_ready(5)
    assert submit(session, request()).final.text == "from embedded"
    threading.stack_size(0)
    session.load(LoadOptions(model="large"))
    assert session.wait_ready(5).model == "large"
    session.close()


def test_without_a_thread_nobody_waits_for_ever_after_what_was_loaded_has_ended(
    running, loads, no_threads
):
    no_threads()
    loads.large[0].end_when_asked()
    asked = submit(running, request())
    assert asked.final.reason == "not_ready"
    assert running.status.state == "error" and "starts no thread" in running.status.message
    threading.stack_size(0)
    running._workers.retry_at = 0.0
    submit(running, request("y = "))
    wait_until(is_ready(running, "large"))


def not_imported(reason: str) -> ModelLoadError:
    """As an engine says it; the words are those of the loader of shared libraries."""
    error = ModelLoadError(f"ONNX Runtime cannot be imported ({reason}): pip install onnxruntime.")
    error.__cause__ = ImportError(reason)
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        not_imported("/lib/x.so: failed to map segment from shared object"),
        not_imported("libx.so.1: cannot open shared object file: Too many open files"),
        not_imported("/lib/x.so: cannot map zero-fill pages: Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_after_a_load_for_which_there_was_no_memory_the_next_request_tries_again(
    loads, error, monkeypatch
):
    monkeypatch.setattr(recovery, "RETRY_AFTER_S", 0.05)
    failing = [error]

    def load(model, **_):
        if failing:
            raise failing.pop()
        return FakeEngine("here")

    session = Session(load_engine=load)
    assert submit(session, request()).final.reason == "not_ready"
    assert session.status.state == "error" and "tries again" in session.status.message
    assert "pip install" not in session.status.message
    time.sleep(0.1)
    assert submit(session, request()).final.text == "here"
    wait_until(is_ready(session, "embedded"))
    session.close()


def test_a_load_that_cannot_get_better_is_not_tried_at_each_key(monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_AFTER_S", 0.0)
    loaded = []

    def load(model, **_):
        loaded.append(model)
        raise ModelLoadError("It is damaged.")

    session = Session(load_engine=load)
    for _ in range(3):
        assert submit(session, request()).final.reason == "not_ready"
    assert len(loaded) == 1
    session.close()


def test_a_worker_that_fails_around_its_model_does_not_stay_loading(monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_AFTER_S", 0.05)

    class NoRoom(FakeEngine):
        def memory_bytes(self):
            raise MemoryError

    engines = [NoRoom(), FakeEngine("here")]
    session = Session(load_engine=lambda model, **_: engines.pop(0))
    first = engines[0]
    assert submit(session, request()).final.reason == "not_ready"
    wait_until(lambda: session.status.state == "error" and first.closed)
    time.sleep(0.1)
    assert submit(session, request()).final.text == "here"
    session.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has such a limit")
def test_a_limit_of_memory_ends_no_kernel_and_the_model_comes_when_it_is_lifted():
    code = """
import resource, time
from jupyter_sc2.pipeline import recovery
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest
recovery.RETRY_AFTER_S = 0.1

def ask():
    text = "import numpy as "
    asked = CompletionRequest(text=text, offset=len(text), trigger="automatic")
    return list(own.complete(asked))[-1]

own = Session()
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.RLIM_INFINITY))
for _ in range(2):
    assert ask().reason == "not_ready", ask()
    assert own.status.state == "error" and "address space" in own.status.message
    time.sleep(0.2)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ask().reason, own.status.state)
"""
    for room in (50, 300):  # MB: where one library after the other would end the process
        done = subprocess.run(
            [sys.executable, "-c", code.replace("ROOM", f"{room} * 2**20")],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (done.returncode, done.stderr) == (0, "")
        reason, state = done.stdout.split()
        assert reason != "not_ready" and state in ("ready", "generating")
