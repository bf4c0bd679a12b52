"""Talks to a completions server: addresses, keys, retries, streams, and one clear line for whatever goes wrong.

The requests run on an event loop that only the calling thread drives, a moment at a time: so a caller can check
between two moments whether it is cancelled, and cancelling closes the connection, which is how a
server learns that it may stop. None of the user's event loops is touched, and the only thread beside the caller's is
the one on which asyncio looks up names of hosts. What is read has a limit for each line and each answer, whatever a
server sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.bounded_read import parse_json
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.log_filter import keep_logs_out

T = TypeVar("T")

KEY_VARIABLE = "JUPYTER_SC2_API_KEY"
KEYRING_SERVICE = "jupyter-sc2"

# Seconds. A busy server on a CPU may read a long prompt for a minute before its first byte.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 120.0
# Seconds between two checks whether a waiting request is cancelled.
POLL_INTERVAL_S = 0.02
# Seconds before each retry of a request without a first byte, unless the server names another delay.
RETRY_DELAYS_S = (0.25, 0.5, 1.0)
MAX_RETRY_DELAY_S = 5.0
# A generator of its own, so that the user's seeded numbers stay the same.
JITTER = random.Random()
BUSY_STATUSES = (429, 502, 503)
# Bytes. An event has about one thousand, a list of a few hundred models one million; h11 limits headers to 100 kB.
MAX_EVENT_BYTES = 1 << 20
MAX_ANSWER_BYTES = 4 << 20
# Bytes of an error that are read; 300 characters of it are shown.
MAX_ERROR_BYTES = 64 << 10


class RequestRejectedError(GenerationError):
    """The server rejected the request (4xx); another form of it may be accepted."""


class ModelNotFoundError(RequestRejectedError):
    """The server has no such path, or no such model."""


class UnauthorizedError(GenerationError):
    """The server wants a key, or another one."""


@dataclass(frozen=True)
class Address:
    """Where a server is. `root` is its URL without /v1; `host` is what messages call it."""

    root: str
    host: str
    loopback: bool


def parse_address(server: str) -> Address:
    """Reads the setting `server`, with or without /v1. Raises ModelLoadError in one line."""
    try:
        parts = urlsplit(server.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ModelLoadError("server is not an address: write http://HOST:PORT.") from error
    # None of these messages repeats the address: what stands in the wrong place may be a secret.
    if parts.scheme not in ("http", "https") or not host:
        raise ModelLoadError(
            "server has to be an address such as http://127.0.0.1:8000 or https://HOST/v1."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelLoadError(
            f"server is an address without a name, a key or a query in it: a key belongs in {KEY_VARIABLE}."
        )
    shown = f"[{host}]" if ":" in host else host
    shown = f"{shown}:{port}" if port else shown
    path = parts.path.rstrip("/")
    for ending in ("/completions", "/models", "/v1"):
        path = path.removesuffix(ending)
    return Address(f"{parts.scheme}://{shown}{path}", shown, _is_loopback(host))


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def find_key(address: Address) -> str | None:
    """The key for a server: from the environment, else from the system's keyring. Raises ModelLoadError.

    Other products' variables are not read: their keys are not meant for whatever `server` says.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or _from_keyring(address.host)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ModelLoadError("The server's key has characters that no key can have.")
    return key or None


def _from_keyring(host: str) -> str:
    try:
        import keyring
    except ImportError:
        return ""
    try:
        return (keyring.get_password(KEYRING_SERVICE, host) or "").strip()
    except Exception:  # a desktop without one, a keyring that is locked: as if there were no key
        return ""


@dataclass
class Client:
    """One server. Only one thread calls it. Every method raises GenerationError in the user's terms.

    Raises ModelLoadError at once where the key would travel unencrypted.
    """

    address: Address
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.key and not self.address.loopback and self.address.root.startswith("http:"):
            raise ModelLoadError(
                f"Your key would travel unencrypted to {self.address.host}: use https, or a tunnel to 127.0.0.1."
            )
        self._loop = asyncio.new_event_loop()
        self._loop.time = monotonic  # type: ignore[method-assign]
        self._loop.set_default_executor(background.pool(1))  # which looks up names of hosts
        self._http = httpx.AsyncClient(
            base_url=self.address.root,
            # A few bytes that are compressed may be gigabytes.
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # What is meant for this machine must not go to a proxy that the environment names.
            mounts={"http://": None, "https://": None} if self.address.loopback else None,
        )

    def get(self, path: str, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """The JSON at a path; None when `cancelled`."""
        return self._json("GET", path, None, cancelled)

    def post(self, path: str, payload: Any, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """The JSON that answers a JSON; None when `cancelled`."""
        return self._json("POST", path, payload, cancelled)

    def stream(
        self, path: str, payload: Any, cancelled: Callable[[], bool]
    ) -> Iterator[dict[str, Any]]:
        """The events of an answer in their order. Ends early when cancelled; closing it ends the request."""
        events = self._events(path, payload)
        try:
            while True:
                try:
                    yield self._wait(anext(events), cancelled)
                except (StopAsyncIteration, _Cancelled):
                    return
        finally:
            self._run(events.aclose())

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._end())
            self._loop.close()

    # The loop

    def _wait(self, work: Any, cancelled: Callable[[], bool]) -> Any:
        """Drives the loop until `work` is done. Raises _Cancelled, and whatever `cancelled` raises."""
        task = self._loop.create_task(_as_coroutine(work))
        try:
            while not task.done():
                self._run(asyncio.wait({task}, timeout=POLL_INTERVAL_S))
                if not task.done() and cancelled():
                    raise _Cancelled
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                self._run(asyncio.wait({task}))

    async def _end(self) -> None:
        await self._http.aclose()
        # Streams that were given up leave generators of httpx behind, each with a task that closes it.
        await self._loop.shutdown_asyncgens()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with keep_logs_out("httpx", "httpcore"):
            return self._loop.run_until_complete(work)

    # Requests

    def _json(self, method: str, path: str, payload: Any, cancelled: Callable[[], bool]) -> Any:
        with contextlib.suppress(_Cancelled):
            return self._wait(self._read_json(method, path, payload), cancelled)
        return None

    async def _read_json(self, method: str, path: str, payload: Any) -> Any:
        async with self._answer(method, path, payload) as response:
            return self._parse(await self._body(response))

    async def _chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """What comes, as it comes. Raises GenerationError where that is too much."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise GenerationError(
                f"{self.address.host} answers compressed, which was not asked for."
            )
        total = 0
        raw: Any = response.aiter_raw()
        async with contextlib.aclosing(raw):
            async for piece in raw:
                total += len(piece)
                if total > MAX_ANSWER_BYTES:
                    raise self._too_long("an answer", MAX_ANSWER_BYTES)
                yield piece

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async with contextlib.aclosing(self._chunks(response)) as pieces:
            async for piece in pieces:
                body += piece
        return bytes(body)

    async def _lines(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Whole lines; what stands behind the last line end is none."""
        line = bytearray()
        async with contextlib.aclosing(self._chunks(response)) as pieces:
            async for piece in pieces:
                first, *others = piece.replace(b"\r", b"\n").split(b"\n")
                line += first
                for other in others:
                    yield bytes(line)
                    line = bytearray(other)
                if len(line) > MAX_EVENT_BYTES:
                    raise self._too_long("a line", MAX_EVENT_BYTES)

    def _too_long(self, what: str, most: int) -> GenerationError:
        return GenerationError(
            f"{self.address.host} sends {what} of more than {format_bytes(most)}."
        )

    async def _events(self, path: str, payload: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Server-sent events: lines "data: {…}", comments, and "data: [DONE]" at the end."""
        async with self._answer("POST", path, payload) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                yield self._checked(self._parse(await self._body(response)))
                return
            complete = False
            async with contextlib.aclosing(self._lines(response)) as lines:
                async for line in lines:
                    field_name, _, data = line.partition(b":")
                    if field_name not in (b"data", b"error") or not data.strip():
                        continue
                    if data.strip() == b"[DONE]":
                        complete = True
                        continue
                    event = self._parse(data)
                    event = self._checked({"error": event} if field_name == b"error" else event)
                    yield event
                    choices = event.get("choices") or [{}]
                    complete = complete or bool(choices[0].get("finish_reason"))
            if not complete:
                raise self._broke_off()

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, path: str, payload: Any) -> AsyncIterator[httpx.Response]:
        """A response that has begun well. A server that is busy or just starting is tried again."""
        try:
            response = await self._send(method, path, payload)
            try:
                await self._check(response)
                yield response
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._explained(error) from error

    async def _send(self, method: str, path: str, payload: Any) -> httpx.Response:
        dropped = False
        waits = [*RETRY_DELAYS_S]
        while True:
            request = self._http.build_request(method, path, json=payload)
            try:
                response = await self._http.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # A kept connection that the server has closed meanwhile. Nothing was answered yet.
                if dropped:
                    raise
                dropped = True
                continue
            except httpx.ConnectError as error:
                if not waits or _is_certificate(error):
                    raise
                delay = waits.pop(0)
            else:
                if response.status_code not in BUSY_STATUSES or not waits:
                    return response
                delay = max(waits.pop(0), _retry_after(response))
                await response.aclose()
            await asyncio.sleep(delay * JITTER.uniform(0.8, 1.2))

    async def _check(self, response: httpx.Response) -> None:
        """Raises what a status or a content type says."""
        status = response.status_code
        html = "text/html" in response.headers.get("content-type", "")
        if status == 200 and not html:
            return
        host = self.address.host
        if status in (401, 403):
            what = "does not take your key" if self.key else "wants a key"
            raise UnauthorizedError(
                f"{host} {what}: set the environment variable {KEY_VARIABLE}, or "
                f"`keyring set {KEYRING_SERVICE} {host}`, and start the kernel again."
            )
        if html or 300 <= status < 400:
            raise ModelNotFoundError(
                f"{host} answers with a web page or a redirect: is {self.address.root} the address of a "
                "completions server?"
            )
        said = self._error_text(await self._first_words(response))
        if status == 404:
            raise ModelNotFoundError(f"{host} has no {response.url.path}: {said}")
        if 400 <= status < 500 and status != 429:
            raise RequestRejectedError(f"{host} refused the request ({status}): {said}")
        busy = "is too busy" if status in BUSY_STATUSES else "failed"
        raise GenerationError(f"{host} {busy} ({status}): {said}")

    async def _first_words(self, response: httpx.Response) -> bytes:
        """The beginning of an error; nothing where it is compressed."""
        words = bytearray()
        with contextlib.suppress(GenerationError):
            async with contextlib.aclosing(self._chunks(response)) as pieces:
                async for piece in pieces:
                    words += piece
                    if len(words) > MAX_ERROR_BYTES:
                        break
        return bytes(words)

    def _checked(self, event: Any) -> dict[str, Any]:
        """An event of the form that all have, whatever is in it."""
        choices = event.get("choices") if isinstance(event, dict) else 0
        if not isinstance(choices, (list, type(None))) or not all(
            isinstance(choice, dict) for choice in choices or ()
        ):
            raise self.unlike()
        if error := event.get("error"):
            raise GenerationError(f"{self.address.host} failed: {self._words(error)}")
        checked: dict[str, Any] = event
        return checked

    def unlike(self) -> GenerationError:
        """The error for JSON that is not an answer of this API."""
        return GenerationError(f"{self.address.host} does not answer as a completions server does.")

    def _parse(self, data: bytes) -> Any:
        try:
            return parse_json(data)
        except json.JSONDecodeError as error:
            raise GenerationError(
                f"{self.address.host} answers with something that is not JSON: is {self.address.root} "
                "the address of a completions server?"
            ) from error
        except ValueError as error:
            raise GenerationError(
                f"{self.address.host} answers with JSON that cannot be used: {error}."
            ) from error

    def _error_text(self, body: bytes) -> str:
        """A server's own words, from the body of an error."""
        try:
            said = parse_json(body)
        except ValueError:
            return self._words(body.decode(errors="replace"))
        return self._words(said.get("error", said) if isinstance(said, dict) else said)

    def _words(self, said: Any) -> str:
        """A server's message in one line, with the key removed if it repeats that."""
        said = said.get("message", said) if isinstance(said, dict) else said
        try:
            text = said if isinstance(said, str) else json.dumps(said)
        except RecursionError:
            text = ""
        text = " ".join(text.split())[:300] or "no more is said."
        return text.replace(self.key, "…") if self.key else text

    def _explained(self, error: httpx.HTTPError) -> GenerationError:
        host = self.address.host
        match error:
            case httpx.ConnectTimeout() | httpx.PoolTimeout():
                return GenerationError(
                    f"{host} cannot be reached: no answer in {CONNECT_TIMEOUT_S:g} s."
                )
            case httpx.TimeoutException():
                return GenerationError(f"{host} has said nothing for {READ_TIMEOUT_S:g} s.")
            case httpx.ConnectError() if _is_certificate(error):
                return GenerationError(
                    f"{host} cannot be trusted: {_reason(error)}. Where your own authority signed its "
                    "certificate, name that in SSL_CERT_FILE."
                )
            case httpx.ConnectError():
                return GenerationError(
                    f"{host} cannot be reached: {_reason(error)}. Is the server running?"
                )
        return self._broke_off()

    def _broke_off(self) -> GenerationError:
        return GenerationError(f"{self.address.host} broke off in the middle of an answer.")


class _Cancelled(Exception):
    """The request was cancelled."""


async def _as_coroutine(work: Any) -> Any:
    return await work  # anext() gives an awaitable, and a task wants a coroutine


def _is_certificate(error: Exception) -> bool:
    return "CERTIFICATE" in str(error).upper()


def _reason(error: Exception) -> str:
    """Why a connection failed, as the system says it: the last cause is the first that happened."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    said = getattr(cause, "verify_message", "") or str(cause)
    if isinstance(cause, OSError) and cause.errno and cause.errno in errno.errorcode:
        said = os.strerror(cause.errno)  # in place of asyncio's own words
    return " ".join(str(said).split()).rstrip(".") or type(error).__name__


def _retry_after(response: httpx.Response) -> float:
    """What the server asks for, in seconds; dates are not read, and nobody waits long for ghost text."""
    with contextlib.suppress(ValueError):
        return min(max(0.0, float(response.headers.get("retry-after", 0))), MAX_RETRY_DELAY_S)
    return 0.0
