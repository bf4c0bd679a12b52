"""A model hub on this machine that speaks as the real one does, and fails on request."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "1" * 40
# Answers a request in place of the hub.
Fault = Callable[[BaseHTTPRequestHandler], None]
# Larger files are stored as the hub stores them: behind a redirect, named by their SHA-256.
LARGE = 10_000


class Hub:
    """Serves the files of `folder` as the model `owner/name`.

    `asked` lists what was fetched: (name, first byte). `cut` is how many bytes of large files are sent before
    the connection closes, `cuts` how often that happens; `corrupt` is how many large files arrive with a wrong byte.
    With `token` only who sends it may read; `gated` asks for a licence, `status` is what every answer is. `listing`
    changes what is said of the model; `instead` answers in the place of it, `endless` sends large files on and on.
    `faults` are answered first, one for each request: of "listing", "announcement" (the HEAD of a file) or "transfer".
    """

    def __init__(self, folder: Path, hub_id: str = "owner/name") -> None:
        self.folder = folder
        self.hub_id = hub_id
        self.asked: list[tuple[str, int]] = []
        self.cut: int | None = None
        self.cuts = 0
        self.corrupt = 0
        self.token: str | None = None
        self.gated = False
        self.listing: Callable[[dict[str, Any]], Any] = lambda info: info
        self.instead: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.endless = False
        self.status: int | None = None
        self.faults: dict[str, list[Fault]] = {"listing": [], "announcement": [], "transfer": []}
        self.stopped = False
        self.hold = threading.Event()  # cleared, it stops a transfer after its first half
        self.hold.set()
        hub = self

        class Handler(_Handler):
            served = hub

        # Large files come from another host than the hub, as they do from the real one.
        self._servers = [_Server(("127.0.0.1", 0), Handler) for _ in range(2)]
        self._threads = []
        for server in self._servers:
            server.daemon_threads = True
            self._threads.append(threading.Thread(target=server.serve_forever, args=(0.02,)))
        self.url, self.cdn = (f"http://127.0.0.1:{one.server_port}" for one in self._servers)

    @contextmanager
    def running(self) -> Iterator[Hub]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.hold.set()
            self.stop()

    def stop(self) -> None:
        self.stopped = True  # for connections that are kept open
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                thread.join()
                server.server_close()

    def names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in files)

    def fetched(self, name: str) -> list[int]:
        """The first byte of each transfer of a file."""
        return [start for asked, start in self.asked if asked == name]


def error(status: int, **headers: str) -> Fault:
    """An answer with this status."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection with a reset in place of an answer."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def etag(data: bytes) -> str:
    if len(data) > LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the play."""


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"
    # The body is sent behind the headers at once, and not when these were acknowledged 40 ms later.
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        hub = self.served
        if hub.stopped:
            self.close_connection = True
            return None
        kind = {"api": "listing", "cdn": "transfer"}.get(path.split("/")[1], "announcement")
        if hub.faults[kind]:
            with suppress(OSError):  # after a reset
                hub.faults[kind].pop(0)(self)
            return None
        if path.startswith("/cdn/"):
            if "Authorization" in self.headers:  # nobody else's business
                return self._send(400, {}, b"", body)
            return self._file(path.removeprefix("/cdn/"))
        if hub.status is not None:
            return self._send(hub.status, {}, b"{}", body)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if hub.gated:
            return self._send(403, {"X-Error-Code": "GatedRepo"}, b"{}", body)
        if hub.token is not None and sent != hub.token:
            headers = (
                {"X-Error-Message": "Invalid credentials in Authorization header"} if sent else {}
            )
            return self._send(
                401,
                {"X-Error-Code": "RepoNotFound", **headers} if not sent else headers,
                b"{}",
                body,
            )
        if re.fullmatch(rf"/api/models/{hub.hub_id}(/revision/(main|{SHA}))?", path):
            if hub.instead is not None:
                with suppress(ConnectionError):
                    hub.instead(self)
                self.close_connection = True
                return None
            return self._send(200, {}, json.dumps(hub.listing(self._info())).encode(), body)
        if path.startswith(f"/api/models/{hub.hub_id}/revision/"):
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", body)
        if found := re.fullmatch(rf"/{hub.hub_id}/resolve/{SHA}/(.+)", path):
            return self._resolve(found[1], body=body)
        return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}", body)

    def _info(self) -> dict[str, Any]:
        siblings = []
        for name in self.served.names():
            data = (self.served.folder / name).read_bytes()
            one: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            if len(data) > LARGE:
                one["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 134}
            else:
                one["blobId"] = etag(data)
            siblings.append(one)
        return {
            "id": self.served.hub_id,
            "modelId": self.served.hub_id,
            "sha": SHA,
            "siblings": siblings,
        }

    def _resolve(self, name: str, *, body: bool) -> None:
        if name not in self.served.names():
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        data = (self.served.folder / name).read_bytes()
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{etag(data)}"'}
        if len(data) <= LARGE:
            if body:
                self.served.asked.append((name, 0))
            return self._send(200, headers, data, body)
        headers |= {
            "Location": f"{self.served.cdn}/cdn/{name}",
            "X-Linked-Etag": f'"{etag(data)}"',
            "X-Linked-Size": str(len(data)),
        }
        return self._send(302, headers, b"", body)

    def _file(self, name: str) -> None:
        hub = self.served
        data = (hub.folder / name).read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        hub.asked.append((name, first))
        if hub.corrupt:
            hub.corrupt -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        part = data[first:]
        if hub.endless:
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(data)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(part)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if hub.cuts:
            hub.cuts -= 1
            self.wfile.write(part[: max(0, (hub.cut or 0) - first)])
            self.close_connection = True
            return
        half = len(part) // 2
        with suppress(ConnectionError):  # who asked may have gone
            self.wfile.write(part[:half])
            self.wfile.flush()
            hub.hold.wait(20)
            self.wfile.write(part[half:])

    def _send(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
