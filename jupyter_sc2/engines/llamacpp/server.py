"""llama.cpp's server in a process of its own, and the requests to it.

It has its own process (runtime/child_process.py) because the library holds the GIL while it loads a model, because it
aborts on unexpected input, and because all memory is returned when the process ends. Requests are HTTP over a Unix
socket in a folder that only the user can enter (on Windows over the loopback), with a random key for each server.
`jupyter sc2 serve` starts the same server on a port, for several kernels.

No request waits in vain: a cancelled one returns at once, and a server that was stopped, or that sends nothing for
long, counts as lost. That is why http.client is used here and not httpx: a synchronous httpx request cannot be polled,
and its read timeout ends the request.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.gguf import EXTRA
from jupyter_sc2.errors import EngineLost, GenerationError, ModelLoadError
from jupyter_sc2.runtime.bounded_read import parse_json
from jupyter_sc2.runtime.child_process import (
    POLL_INTERVAL_S,
    ChildProcess,
    how_it_ended,
    is_stopped,
    run,
)
from jupyter_sc2.runtime.clock import monotonic, sleep
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.runtime.scarcity import tells_of_scarcity

logger = logging.getLogger(__name__)

# Bytes of an answer or of a line: the log-probabilities of 300,000 tokens, which is the most that is asked for.
MAX_ANSWER_BYTES = 128 << 20
# Seconds of silence during a request, after which it is checked whether the process was stopped; whether it still
# answers a health check, as a pass may take long on a machine that swaps; and after which it counts as dead.
STOPPED_AFTER_S, HEALTH_CHECK_AFTER_S, DEAD_AFTER_S = 1.0, 10.0, 300.0
HEALTH_TIMEOUT_S = 5.0
# Seconds between two requests within which a silence counts as one.
SAME_SILENCE_S = 2.0
# How a process ends that others have ended, the system for want of memory among them, or a chance that need not come
# again; else llama.cpp has found that it cannot load this file.
KILL_EXIT_CODES = tuple(
    -getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGBUS", "SIGHUP", "SIGSEGV")
    if hasattr(signal, name)
)
# Tokens that a GPU reads at once.
GPU_CHUNK_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What a server does. `context` are the tokens of each of its `slots`, `chunk` those of a prompt read at once.

    A `mapped` file is shared between processes; else its weights are read into memory of this one. Without a `host`
    it listens where only its starter finds it. Prompts whose slot another took stay in `spare_cache_mib` of memory.
    """

    model: Path
    context: int
    chunk: int
    threads: int
    mapped: bool = True
    slots: int = 1
    host: str = ""
    port: int = 0
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    alias: str = ""
    spare_cache_mib: int = 0


class LlamaServer:
    """A server with one model, started by `start`."""

    def __init__(self, options: ServerOptions, process: ChildProcess) -> None:
        self.options, self.process = options, process
        ready = process.ready_message or {}
        self.address: str = ready["address"]
        self.gpu: bool = ready["gpu"]  # whether the weights are in a GPU's memory
        self._silent_since: float | None = None  # it was asked, and has not said anything since
        # The requests that run: text is tokenized on any thread while the engine's decodes.
        self._open: set[object] = set()
        self._cancelled_at = 0.0  # when somebody last no longer waited for it
        self._checked_at = 0.0

    @classmethod
    def start(
        cls, options: ServerOptions, waiting: Callable[[], None] = lambda: None
    ) -> LlamaServer:
        """Loads a GGUF file. `waiting` is called repeatedly; an exception from it ends the load.

        Raises ModelLoadError, and EngineLost where the process was killed or stopped meanwhile.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelLoadError(f"GGUF models need the package xllamacpp: {EXTRA}.")
        about = {**asdict(options), "model": str(options.model.absolute())}
        try:
            process = ChildProcess(__name__, about)
        except OSError as error:
            raise ModelLoadError(
                f"llama.cpp's process could not be started: {error.strerror or error}."
            ) from error
        looked = monotonic()

        def wait() -> None:
            nonlocal looked
            waiting()
            if monotonic() - looked > STOPPED_AFTER_S:
                looked = monotonic()
                if is_stopped(process.pid):
                    raise EngineLost("llama.cpp's process was stopped while it loaded")

        try:
            if process.wait_until_it_speaks(wait):
                return cls(options, process)
            if process.code in KILL_EXIT_CODES:
                raise EngineLost(
                    f"llama.cpp's process {how_it_ended(process.code)} while it loaded"
                )
            # Where memory or threads were lacking a later attempt may succeed.
            scarce = MemoryError() if tells_of_scarcity(process.log()) else None
            raise ModelLoadError(_load_error(options.model, process)) from scarce
        except BaseException:
            process.stop()
            raise

    def post(
        self, path: str, body: object, cancelled: Cancelled = lambda: False
    ) -> dict[str, Any] | None:
        """Sends a request and returns the answer; None if cancelled before. Raises GenerationError."""
        with (
            contextlib.suppress(_RequestCancelled),
            self._response_of(path, body, cancelled) as response,
        ):
            return _parsed(_up_to(MAX_ANSWER_BYTES, response.read))
        return None

    def ask(self, path: str, body: object) -> dict[str, Any]:
        """`post` without cancellation."""
        answer = self.post(path, body)
        assert answer is not None
        return answer

    def stream(
        self, path: str, body: object, cancelled: Cancelled = lambda: False
    ) -> Generator[dict[str, Any], None, None]:
        """The events of an answer as they arrive; ends early if cancelled.

        Closing the stream ends the work on it after the pass that runs.
        """
        with (
            contextlib.suppress(_RequestCancelled),
            self._response_of(path, body, cancelled) as response,
        ):
            while line := _up_to(MAX_ANSWER_BYTES, response.readline):
                if line.startswith(b"data: {"):
                    yield _parsed(line[6:])

    def stash(self, name: str) -> int:
        """Writes the KV cache to a file of this name; returns its size in bytes, 0 if that did not work."""
        try:
            return int(self.ask("/slots/0?action=save", {"filename": name})["n_written"])
        except EngineLost:
            raise
        except GenerationError:  # a full disk, say: the prompt is then read again
            logger.debug("A prompt could not be stashed", exc_info=True)
            self.forget(name)  # what was written of it
            return 0

    def restore(self, name: str) -> bool:
        """Restores the KV cache from the file of this name; returns whether that worked."""
        try:
            self.ask("/slots/0?action=restore", {"filename": name})
        except EngineLost:
            raise
        except GenerationError:
            logger.debug("A prompt could not be restored", exc_info=True)
            return False
        return True

    def forget(self, name: str) -> None:
        (self.process.folder / "kept" / name).unlink(missing_ok=True)

    def resident_bytes(self) -> int:
        """The memory that the process takes, 0 where that cannot be told or it has ended."""
        try:
            import psutil  # comes with ipykernel

            return int(psutil.Process(self.process.pid).memory_info().rss)
        except Exception:  # psutil has errors of its own
            return 0

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Calls `tell` once, on another thread, when the process has ended unexpectedly."""
        self.process.when_it_ends(lambda: tell(self._lost()))

    def wait_until_lost(self) -> EngineLost:
        """Waits until the process has ended unexpectedly, or was stopped for longer than a request would wait."""
        stopped = 0
        while not self.process.wait(STOPPED_AFTER_S):
            stopped = stopped + 1 if is_stopped(self.process.pid) else 0
            if stopped > 2:
                return self._lost("was stopped and does not answer")
        return self._lost()

    def close(self) -> None:
        self.process.stop()

    def _lost(self, what: str = "") -> EngineLost:
        return EngineLost(f"llama.cpp's process {what or how_it_ended(self.process.code)}")

    @contextlib.contextmanager
    def _response_of(
        self, path: str, body: object, cancelled: Cancelled
    ) -> Iterator[http.client.HTTPResponse]:
        def check() -> None:
            if cancelled():
                raise _RequestCancelled
            self._check()

        def received() -> None:
            self._silent_since = monotonic()

        # Keys come faster than a silence is noticed, and each cancels the request before.
        alone = not self._open and monotonic() - self._cancelled_at > SAME_SILENCE_S
        if self._silent_since is None or alone:
            self._silent_since = monotonic()
        self._open.add(request := object())
        connection = _Connection(self.address, check, received)
        response: http.client.HTTPResponse | None = None
        headers = {
            "Authorization": f"Bearer {self.options.key}",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                error = _parsed(_up_to(MAX_ANSWER_BYTES, response.read)).get("error")
                said = error.get("message") if isinstance(error, dict) else response.reason
                raise GenerationError(f"llama.cpp refused the request: {said}")
            yield response
            self._open.discard(request)
            if not self._open:
                self._silent_since = None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The connection broke, and the process may take a moment to end.
            self.process.wait(POLL_INTERVAL_S)
            raise self._lost("" if self.process.ended else "does not answer") from error
        finally:
            self._open.discard(request)
            if response is not None:
                response.close()  # it has a share in the socket until it is read to its end
            connection.close()
            self._cancelled_at = monotonic()

    def _check(self) -> None:
        """Checks that a silent server is worth waiting for. Raises EngineLost."""
        now = monotonic()
        silent = 0.0 if self._silent_since is None else now - self._silent_since
        if self.process.ended:
            raise self._lost()
        if silent > DEAD_AFTER_S:
            raise self._lost("does not answer")
        if silent > STOPPED_AFTER_S and now - self._checked_at > STOPPED_AFTER_S:
            self._checked_at = now
            if is_stopped(self.process.pid):
                raise self._lost("was stopped and does not answer")
            if silent > HEALTH_CHECK_AFTER_S and not self._is_well():
                raise self._lost("does not answer")
            self._checked_at = monotonic()

    def _is_well(self) -> bool:
        """Whether the server answers a health check, whatever its model does."""
        until = monotonic() + HEALTH_TIMEOUT_S

        def check() -> None:
            if monotonic() > until:
                raise TimeoutError

        connection = _Connection(self.address, check, lambda: None)
        try:
            connection.request("GET", "/health", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class _RequestCancelled(Exception):
    """The request was cancelled."""


def _up_to(most: int, read: Callable[[int], bytes]) -> bytes:
    """Raises ValueError where there is more."""
    if len(data := read(most + 1)) > most:
        raise ValueError("its answer has no end")
    return data


def _parsed(data: bytes) -> dict[str, Any]:
    if not isinstance(answer := parse_json(data), dict):
        raise ValueError("its answer is no object")
    return answer


class _Connection(http.client.HTTPConnection):
    """A connection that does not wait in vain.

    `check` is called while nothing arrives, and its exception ends the wait; `received` when something has arrived.
    """

    def __init__(
        self, address: str, check: Callable[[], None], received: Callable[[], None]
    ) -> None:
        scheme, _, place = address.partition("://")
        self._path = place if scheme == "unix" else None
        self._check, self._received = check, received
        super().__init__("localhost" if self._path else place)

    def connect(self) -> None:
        family = socket.AF_INET if self._path is None else socket.AF_UNIX
        connected = socket.socket(family)
        self.sock: Any = _PollingSocket(connected, self._check, self._received)
        connected.settimeout(POLL_INTERVAL_S)
        while True:
            try:
                connected.connect(self._path or (self.host, self.port))
                return
            except (TimeoutError, BlockingIOError):  # more wait to be let in than there is room for
                sleep(POLL_INTERVAL_S)
                self._check()


class _PollingSocket(io.RawIOBase):
    """A socket that calls `check` while it waits: as much of one as http.client needs, and the file it reads from."""

    def __init__(
        self, connected: socket.socket, check: Callable[[], None], received: Callable[[], None]
    ) -> None:
        self._socket, self._check, self._received = connected, check, received
        self._is_read = False

    def sendall(self, data: Any) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                self._check()

    def makefile(self, mode: str) -> io.BufferedReader:
        self._is_read = True
        return io.BufferedReader(_PollingSocket(self._socket, self._check, self._received))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                self._check()
            else:
                self._received()
                return count

    def close(self) -> None:
        if not self._is_read:  # else who reads closes it
            self._socket.close()
        super().close()


def _load_error(file: Path, process: ChildProcess) -> str:
    lines = process.log().splitlines()
    # llama.cpp's own words say more than the bindings' ("error: …"), and those than what C++ writes at an end.
    marks = ("error loading model: ", "error: ", "Error: ", "what():  ")
    marked = [line.partition(mark)[2] for mark in marks for line in lines if mark in line]
    said = next((one for one in (*marked, *filter(tells_of_scarcity, lines)) if one), "").strip()
    return f"llama.cpp could not load {file}: {said[:200] or f'its process {how_it_ended(process.code)}'}."


# What runs in the process of its own


def serve(options: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> object:
    """Loads the model of a ServerOptions, says where it listens; what it returns serves for as long as it is kept."""
    # Where it fails it would start gdb, and be held by it, while somebody waits for it to be started again.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    import xllamacpp

    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    accelerator = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_ACCEL
    gpu = any(device["type"] not in (cpu, accelerator) for device in xllamacpp.get_device_info())
    folder, slots = Path(options["folder"]), options["slots"]
    chunk = GPU_CHUNK_TOKENS if gpu else options["chunk"]
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    if options["alias"]:
        params.model_alias = {options["alias"]}
    params.n_parallel, params.n_ctx = slots, slots * options["context"]
    params.kv_unified = False  # nobody's long prompt takes the room of another's
    params.n_batch = params.n_ubatch = max(slots, chunk)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    if not (options["mapped"] or gpu):
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    own = str(folder / "llama.sock") if hasattr(socket, "AF_UNIX") else "127.0.0.1"
    params.hostnames, params.port = [options["host"] or own], options["port"]
    params.api_keys = [options["key"]]
    params.verbosity = 1  # errors
    params.fit_params = gpu  # as many layers on the GPU as have room there
    params.swa_full = True  # a prompt can be cut back anywhere
    params.ctx_shift = False
    # Without it the prompt of each slot is kept and no other; what llama.cpp takes by itself is up to 8 GB.
    params.cache_ram_mib = options["spare_cache_mib"]
    params.n_ctx_checkpoints = 0
    params.n_threads_http = 2 * slots + 2
    params.ui = False
    if not options["host"]:
        (folder / "kept").mkdir()
        params.slot_save_path = str(folder / "kept") + os.sep
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sleep(0.3)  # llama.cpp writes its log from another thread
        os._exit(1)
    tell({"address": server.listening_address, "gpu": gpu})
    return server


if __name__ == "__main__":
    run(serve)
