"""Talks to a completions server: addresses, keys, retries, streams, and one clear line for whatever goes wrong.

The requests run on an event loop that only the calling thread drives, a moment at a time: so a caller can check
between two moments whether it is cancelled, and cancelling closes the connection, which is how a
server learns that it may stop. None of the user's event loops is touched, and the only thread beside the caller's is
the one on which asyncio looks up names of hosts. Whatever a server sends, what is read has a limit for each line and
each answer, and an answer has a limit of time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from jupyter_sc2.errors import GenerationError, ModelLoadError, ServerLost, in_one_line
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.bounded_read import parse_json
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.connection_errors import failure_reason, is_mistrust, proxy_for
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.http_retries import BUSY_STATUSES, COMPLETIONS, retry_after
from jupyter_sc2.runtime.log_filter import keep_logs_out

T = TypeVar("T")

KEY_VARIABLE = "JUPYTER_SC2_API_KEY"
KEYRING_SERVICE = "jupyter-sc2"

# Seconds. A busy server on a CPU may read a long prompt for a minute before its first byte.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 120.0
# The same for what needs no model, with all tries.
QUICK_ANSWER_S = 30.0
# Between two events of a stream; from the last of them to the end of the stream; and from its mark for the end.
MAX_PAUSE_S = 20.0
MAX_LINGER_S = 1.0
MAX_LINGER_DONE_S = 0.2
# Seconds between two checks whether a waiting request is cancelled.
POLL_INTERVAL_S = 0.02
# Statuses of a server that is being started, or that a proxy does not find.
AWAY_STATUSES = (502, 503, 504)
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
        try:
            self._http = httpx.AsyncClient(
                base_url=self.address.root,
                # A few bytes that are compressed may be gigabytes.
                headers={"Accept-Encoding": "identity"}
                | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                # What is meant for this machine must not go to a proxy that the environment names.
                transport=httpx.AsyncHTTPTransport() if self.address.loopback else None,
            )
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            self._loop.close()
            raise ModelLoadError(
                f"The environment's settings for connections to {self.address.host} cannot be used (a proxy, or "
                f"SSL_CERT_FILE): {in_one_line(error)}"
            ) from error

    def get(self, path: str, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """The JSON at a path; None when `cancelled`."""
        return self._json("GET", path, None, cancelled, QUICK_ANSWER_S)

    def post(self, path: str, payload: Any, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """The JSON that answers a JSON; None when `cancelled`."""
        return self._json("POST", path, payload, cancelled, READ_TIMEOUT_S)

    def stream(
        self, path: str, payload: Any, cancelled: Callable[[], bool], *, seconds: float
    ) -> Generator[dict[str, Any]]:
        """The events of an answer in their order. Ends early when cancelled; closing it ends the request.

        So it does `seconds` after the first event, and where the next does not come: what has come counts.
        """
        events = self._events(path, payload)
        end = pause = monotonic() + READ_TIMEOUT_S
        begun = False
        try:
            while not (begun and monotonic() >= end):
                try:
                    event = self._wait(anext(events), cancelled, min(end, pause))
                except (StopAsyncIteration, _Cancelled):
                    return
                except _Late:
                    if begun:
                        return
                    raise self._silent() from None
                if not begun:
                    begun, end = True, monotonic() + seconds
                if event is None:
                    end = min(end, monotonic() + MAX_LINGER_DONE_S)
                    continue
                if _is_last(event):
                    end = min(end, monotonic() + MAX_LINGER_S)
                yield event
                pause = monotonic() + MAX_PAUSE_S
        finally:
            self._run(events.aclose())

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._end())
            self._loop.close()

    # The loop

    def _wait(self, work: Any, cancelled: Callable[[], bool], end: float) -> Any:
        """Drives the loop until `work` is done.

        Raises _Cancelled, _Late after `end`, and whatever `cancelled` raises.
        """
        task = self._loop.create_task(_as_coroutine(work))
        try:
            while not task.done():
                self._run(asyncio.wait({task}, timeout=POLL_INTERVAL_S))
                if not task.done() and cancelled():
                    raise _Cancelled
                if not task.done() and monotonic() >= end:
                    raise _Late
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

    def _json(
        self,
        method: str,
        path: str,
        payload: Any,
        cancelled: Callable[[], bool],
        seconds: float,
    ) -> Any:
        try:
            work = self._read_json(method, path, payload)
            return self._wait(work, cancelled, monotonic() + seconds)
        except _Cancelled:
            return None
        except _Late:
            raise GenerationError(
                f"{self.address.host} has not finished its answer within {seconds:g} s."
            ) from None

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

    async def _events(self, path: str, payload: Any) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Server-sent events: lines "data: {…}", comments, and "data: [DONE]" at the end, for which None stands."""
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
                        yield None
                        continue
                    event = self._parse(data)
                    event = self._checked({"error": event} if field_name == b"error" else event)
                    yield event
                    complete = complete or _is_last(event)
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
        for failures in itertools.count(1):
            request = self._http.build_request(method, path, json=payload)
            try:
                response = await self._http.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                # A kept connection that the server has closed meanwhile. Nothing was answered yet.
                if dropped:
                    http = self.address.root.startswith("http:")
                    secure = ", or only https:// at this port" if http else ""
                    raise ServerLost(
                        f"{self.address.host} broke off before it answered",
                        f": does it speak HTTP{secure}?",
                    ) from error
                dropped = True
                continue
            except httpx.ConnectError as error:
                delay = None if is_mistrust(error) else COMPLETIONS.delay(failures)
                if delay is None:
                    raise
            else:
                if response.status_code not in BUSY_STATUSES:
                    return response
                delay = COMPLETIONS.delay(failures, retry_after(response.headers))
                if delay is None:
                    return response
                await response.aclose()
            await asyncio.sleep(delay)
        raise AssertionError  # never: the policy ends the count

    async def _check(self, response: httpx.Response) -> None:
        """Raises what a status or a content type says."""
        status = response.status_code
        html = "text/html" in response.headers.get("content-type", "")
        if status == 200 and not html:
            return
        host = self.address.host
        if status in (403, 407) and (proxy := self._proxy()):
            raise UnauthorizedError(
                f"{host}, or the proxy {proxy} before it, refuses ({status}): check the settings of the proxy, and "
                f"the key in {KEY_VARIABLE}."
            )
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
        lost = ServerLost if status in AWAY_STATUSES else GenerationError
        raise lost(f"{host} {busy} ({status}): {said}")

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
                return ServerLost(
                    f"{host} cannot be reached: no answer in {CONNECT_TIMEOUT_S:g} s", "."
                )
            case httpx.TimeoutException():
                return self._silent()
            case httpx.ConnectError() if is_mistrust(error):
                return GenerationError(f"{host} cannot be used: {failure_reason(error)}.")
            case httpx.ConnectError() | httpx.ProxyError():
                through = f" through the proxy {proxy}" if (proxy := self._proxy()) else ""
                return ServerLost(
                    f"{host} cannot be reached{through}: {failure_reason(error)}",
                    ". Is the server running?",
                )
        return self._broke_off()

    def _proxy(self) -> str:
        return "" if self.address.loopback else proxy_for(self.address.root)

    def _silent(self) -> GenerationError:
        return ServerLost(f"{self.address.host} has said nothing for {READ_TIMEOUT_S:g} s", ".")

    def _broke_off(self) -> GenerationError:
        return GenerationError(f"{self.address.host} broke off in the middle of an answer.")


class _Cancelled(Exception):
    """The request was cancelled."""


class _Late(Exception):
    """The answer takes too long."""


def _is_last(event: dict[str, Any]) -> bool:
    """Whether nothing but a summary can follow an event."""
    choices = event.get("choices") or [{}]
    return bool(choices[0].get("finish_reason"))


async def _as_coroutine(work: Any) -> Any:
    return await work  # anext() gives an awaitable, and a task wants a coroutine
