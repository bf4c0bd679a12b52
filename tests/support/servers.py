"""A scripted completions server on the loopback, and a real one: what the engine for servers is tested against."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

Answer = Callable[["Handler", Any], None]


class ScriptedServer(ThreadingHTTPServer):
    """Answers each path with what was queued for it, then with its usual answer.

    `asked` are the paths with the JSON that came, `keys` the Authorization headers, `closed` tells that a client
    closed its connection while an answer was due.
    """

    daemon_threads = True

    def __init__(self, *models: dict[str, Any], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.open: list[socket.socket] = []
        self.models = list(models) or [{"id": "embedded"}]
        self.queued: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []
        self.closed = threading.Event()
        self.pieces = ["print", "(x", ")\n"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.append(request)
        super().process_request(request, client_address)

    def end_connections(self) -> None:
        """As they end with the process of a server."""
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def queue(self, path: str, *answers: Answer) -> None:
        self.queued.setdefault(path, []).extend(answers)

    def prompts(self) -> list[Any]:
        return [body["prompt"] for path, body in self.asked if body and "prompt" in body]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The body is sent behind the headers at once, and not when these were acknowledged 40 ms later.
    disable_nagle_algorithm = True
    server: ScriptedServer

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body))
        self.server.keys.append(self.headers["Authorization"])
        queued = self.server.queued.get(self.path)
        answer = (
            queued.pop(0) if queued else USUAL.get(self.path, says(404, {"error": "no such path"}))
        )
        answer(self, body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def send(self, status: int, data: bytes, type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def wait_for_close(self) -> None:
        readable, _, _ = select.select([self.connection], [], [], 20)
        if readable and not self.connection.recv(1):
            self.server.closed.set()
        self.close_connection = True


def says(status: int, body: Any, type: str = "application/json") -> Answer:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return lambda handler, asked: handler.send(status, data, type)


def never_answers(handler: Handler, body: Any) -> None:
    handler.wait_for_close()


def says_one_piece_and_waits(handler: Handler, body: Any) -> None:
    handler.begin_stream()
    handler.event({"choices": [{"text": "print"}]})
    handler.wait_for_close()


def breaks_off(handler: Handler, body: Any) -> None:
    handler.begin_stream()
    handler.event({"choices": [{"text": "print"}]})


def _models(handler: Handler, body: Any) -> None:
    handler.send(200, json.dumps({"object": "list", "data": handler.server.models}).encode())


def _completions(handler: Handler, body: Any) -> None:
    prompt = body["prompt"]
    usage = {"prompt_tokens": len(prompt)}
    if not body.get("stream"):
        handler.send(200, json.dumps({"choices": [{"text": "x"}], "usage": usage}).encode())
        return
    handler.begin_stream()
    handler.wfile.write(b": a comment\n\n")
    for piece in handler.server.pieces:
        handler.event({"choices": [{"text": piece}]})
    handler.event({"choices": [{"text": "", "finish_reason": "stop"}]})
    handler.event("[DONE]")


USUAL: dict[str, Answer] = {"/v1/models": _models, "/v1/completions": _completions}


@contextlib.contextmanager
def scripted(*models: dict[str, Any], port: int = 0) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*models, port=port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        server.end_connections()


@contextlib.contextmanager
def serving(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`jupyter sc2 serve` as a process of its own; gives it and its URL. Its run file lies below `home`."""
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_SC2_CACHE": str(home / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("JUPYTER_SC2_API_KEY", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_sc2.cli", "serve", "--offline", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while "127.0.0.1" not in said:
            line = process.stdout.readline()
            assert line, f"serve ended: {said}"
            said += line
        yield process, said[said.index("http://") :].split()[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
