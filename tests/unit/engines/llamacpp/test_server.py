"""How llama.cpp's process is asked: what it answers has a limit, and what goes wrong is one line."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress

import pytest

from jupyter_sc2.engines.llamacpp import server as llama_server
from jupyter_sc2.engines.llamacpp.server import LlamaServer, ServerOptions
from jupyter_sc2.errors import EngineLost, GenerationError
from jupyter_sc2.runtime.child_process import ChildProcess
from tests.support.servers import says, scripted

PATH = "/completion"


@pytest.fixture
def asked(tmp_path):
    """A scripted server, and what asks it as if it were llama.cpp's."""
    options = ServerOptions(model=tmp_path / "none.gguf", context=1, chunk=1, threads=1)
    process = ChildProcess("tests.support.children", {"what": "serve"})
    process.wait_until_it_speaks()
    with scripted() as server:
        process.ready_message = {"address": server.url, "gpu": False}
        yield server, LlamaServer(options, process)
    process.stop()


def endless(*parts: bytes, status: int = 200):
    def send(handler, body):
        handler.close_connection = True
        with suppress(ConnectionError):
            handler.send_response(status)
            handler.end_headers()
            for part in parts[:-1]:
                handler.wfile.write(part)
            while True:
                handler.wfile.write(parts[-1])

    return send


def test_an_answer_is_an_object(asked):
    server, llama = asked
    server.queue(PATH, says(200, {"tokens": [1]}))
    assert llama.post(PATH, {}) == {"tokens": [1]}


def test_the_events_of_a_stream_come_one_after_the_other(asked):
    server, llama = asked
    server.queue(PATH, says(200, 'data: {"a": 1}\n\n: x\n\ndata: {"a": 2}\n'))
    assert list(llama.stream(PATH, {})) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"x" * 9999),
        endless(b"data: ", b"x" * 9999),
        endless(b"x" * 9999, status=500),
        says(200, "[" * 9999),
        says(200, "[]"),
        says(200, "5"),
        says(200, json.dumps({"a": "\ud800"})),
        says(500, "[]"),
        says(500, "{"),
    ],
    ids=range(9),
)
def test_what_is_no_answer_is_one_line(asked, monkeypatch, answer):
    monkeypatch.setattr(llama_server, "MAX_ANSWER_BYTES", 1 << 16)
    server, llama = asked
    server.queue(PATH, answer)
    with pytest.raises(GenerationError, match=r"^llama.cpp's process does not answer: load the"):
        llama.post(PATH, {})


def test_a_line_of_a_stream_has_a_limit(asked, monkeypatch):
    monkeypatch.setattr(llama_server, "MAX_ANSWER_BYTES", 1 << 16)
    server, llama = asked
    server.queue(PATH, endless(b'data: {"a": 1}\n', b"x" * 9999))
    events = llama.stream(PATH, {})
    assert next(events) == {"a": 1}
    with pytest.raises(GenerationError, match="does not answer"):
        next(events)


def test_a_stopped_server_is_noticed_also_where_another_request_has_been_answered(
    asked, monkeypatch
):
    """As when text is tokenized for the panel while the engine's thread waits for a token."""
    monkeypatch.setattr(llama_server, "STOPPED_AFTER_S", 0.5)
    monkeypatch.setattr(llama_server, "is_stopped", lambda pid: answered.is_set())
    server, llama = asked
    answered, release = threading.Event(), threading.Event()

    def silent(handler, body):
        handler.close_connection = True
        release.wait(10)

    server.queue(PATH, silent)
    server.queue("/tokenize", says(200, {"tokens": [1]}))
    failures = []

    def wait() -> None:
        try:
            llama.post(PATH, {}, lambda: release.is_set())
        except EngineLost as error:
            failures.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    assert llama.ask("/tokenize", {}) == {"tokens": [1]}
    answered.set()
    thread.join(5)
    release.set()
    thread.join()
    assert failures and "was stopped" in failures[0]
