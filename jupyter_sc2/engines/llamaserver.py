"""llama.cpp's server in a process of its own, and how it is asked.

A process of its own, because the library holds the interpreter's lock for as long as it loads a model, because
it ends the process it is in where it meets what it does not expect, and because its memory is the system's again
as soon as that process ends, which it does with the kernel. Both speak HTTP over a Unix socket in a folder that
nobody but the user can enter (on Windows over the loopback), with a key that is made up for each server.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from jupyter_sc2 import background
from jupyter_sc2.clock import sleep
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.own_imports import own_imports
from jupyter_sc2.reading import parse_json

logger = logging.getLogger(__name__)

EXTRA = 'pip install "jupyter-sc2[llamacpp]"'
# Seconds without a word until a server counts as dead: a pass on a machine that swaps may take long.
TIMEOUT = 300.0
# Seconds between two looks at whether a model that is being loaded is still wanted.
LOOK = 0.1
# Bytes of an answer or of a line: the log-probabilities of 300,000 tokens, which is the most that is asked for.
LONGEST_ANSWER = 128 << 20
# Tokens that a GPU reads at once.
GPU_CHUNK = 512


class LlamaServer:
    """A server with one model, started by `start`. Only one thread asks it."""

    def __init__(
        self, process: subprocess.Popen[str], address: str, key: str, folder: Path, gpu: bool
    ) -> None:
        self.gpu = gpu  # whether the weights are in a GPU's memory
        self._process, self._address, self._key, self._folder = process, address, key, folder

    @classmethod
    def start(
        cls,
        file: Path,
        *,
        context: int,
        chunk: int,
        threads: int,
        mapped: bool = True,
        waiting: Callable[[], None] = lambda: None,
    ) -> LlamaServer:
        """Loads a GGUF file. `chunk` is how many tokens of a prompt are read at once, on a GPU more.

        A `mapped` file is shared between processes; else its weights are read into memory of this one.
        `waiting` is called every now and then; what it raises ends the loading. Raises ModelLoadError.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelLoadError(f"GGUF models need the package xllamacpp: {EXTRA}.")
        # A short name: a socket's path has 104 bytes.
        folder = Path(tempfile.mkdtemp(prefix="sc2-"))
        (folder / "kept").mkdir()
        key = secrets.token_urlsafe(32)
        host = str(folder / "llama.sock") if hasattr(socket, "AF_UNIX") else "127.0.0.1"
        options = {
            "model": str(file.absolute()),
            "context": context,
            "chunk": chunk,
            "threads": threads,
            "mapped": mapped,
            "host": host,
            "key": key,
            "kept": str(folder / "kept"),
        }
        process: subprocess.Popen[str] | None = None
        try:
            with (folder / "log").open("wb") as log:
                process = _spawn(log)
            assert process.stdin is not None
            process.stdin.write(json.dumps(options) + "\n")
            process.stdin.flush()
            said = _answer(process, waiting)
            if not said:
                raise ModelLoadError(_why(file, process.wait(), folder / "log"))
            answer = json.loads(said)
            return cls(process, answer["address"], key, folder, answer["gpu"])
        except BrokenPipeError as error:
            assert process is not None
            raise ModelLoadError(_why(file, process.wait(), folder / "log")) from error
        except BaseException:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def post(self, path: str, body: object) -> dict[str, Any]:
        """Asks, and returns the answer. Raises GenerationError."""
        with self._asked(path, body) as response:
            return _parsed(_up_to(LONGEST_ANSWER, response.read))

    def stream(self, path: str, body: object) -> Generator[dict[str, Any], None, None]:
        """The parts of an answer as they come; closing the stream ends the work on it after the pass that runs."""
        with self._asked(path, body) as response:
            while line := _up_to(LONGEST_ANSWER, response.readline):
                if line.startswith(b"data: {"):
                    yield _parsed(line[6:])

    def put_aside(self, name: str) -> int:
        """Writes the KV cache to a file of this name; returns its size in bytes, 0 if that did not work."""
        try:
            answer = self.post("/slots/0?action=save", {"filename": name})
            return int(answer["n_written"])
        except GenerationError:  # a full disk, say: the prompt is then read again
            logger.debug("A prompt could not be put aside", exc_info=True)
            return 0

    def take_up(self, name: str) -> bool:
        """Goes on from the KV cache in the file of this name."""
        try:
            self.post("/slots/0?action=restore", {"filename": name})
        except GenerationError:
            logger.debug("A prompt could not be taken up", exc_info=True)
            return False
        return True

    def forget(self, name: str) -> None:
        (self._folder / "kept" / name).unlink(missing_ok=True)

    def resident_bytes(self) -> int:
        """The memory that the process takes, 0 where that cannot be told or it has ended."""
        try:
            import psutil  # comes with ipykernel

            return int(psutil.Process(self._process.pid).memory_info().rss)
        except Exception:  # psutil has errors of its own
            return 0

    def close(self) -> None:
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def _asked(self, path: str, body: object) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._address)
        response: http.client.HTTPResponse | None = None
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                error = _parsed(_up_to(LONGEST_ANSWER, response.read)).get("error")
                said = error.get("message") if isinstance(error, dict) else response.reason
                raise GenerationError(f"llama.cpp refused the request: {said}")
            yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            code = self._process.poll()
            what = "does not answer" if code is None else f"has ended (code {code})"
            raise GenerationError(f"llama.cpp's process {what}: load the model again.") from error
        finally:
            if response is not None:
                response.close()  # it has a share in the socket until it is read to its end
            connection.close()


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
    def __init__(self, address: str) -> None:
        scheme, _, place = address.partition("://")
        self._path = place if scheme == "unix" else None
        super().__init__("localhost" if self._path else place, timeout=TIMEOUT)

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _spawn(log: Any) -> subprocess.Popen[str]:
    # From the folder that holds this package: what lies in the user's own must not be imported instead.
    root = Path(__file__).parents[2]
    environment = dict(os.environ)
    # The libraries may have been found through a path that was set only in this process.
    environment["PYTHONPATH"] = os.pathsep.join(own_imports.path)
    # Its threads wait for one another after each operation. Waiting busily, on cores that the user's cell wants
    # too, 115M parameters took 4.9 s a token, and 60 ms so.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    flags = 0x200 if sys.platform == "win32" else 0  # a process group of its own
    with background.unwatched_child():
        return subprocess.Popen(
            # The user's PYTHONWARNINGS may say that a warning is an error.
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=root,
            env=environment,
            # Interrupting a cell sends a signal to all of the kernel's process group.
            start_new_session=True,
            creationflags=flags,
        )


def _answer(process: subprocess.Popen[str], waiting: Callable[[], None]) -> str:
    """The line that the process writes once it is ready; "" if it ended before."""
    said: list[str] = []
    out = process.stdout
    assert out is not None
    reader = background.Thread(lambda: said.append(out.readline()), name="jupyter-sc2-start")
    reader.start()
    while reader.is_alive():
        waiting()
        reader.join(LOOK)
    return said[0]


def _end(process: subprocess.Popen[str] | None) -> None:
    if process is None:
        return
    process.kill()  # it has nothing to save
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _why(file: Path, code: int, log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    # llama.cpp's own words say more than the bindings' ("error: …").
    marks = ("error loading model: ", "error: ", "Error: ")
    said = next((line.partition(mark)[2] for mark in marks for line in lines if mark in line), "")
    return (
        f"llama.cpp could not load {file}: {said[:200] or f'its process ended with code {code}'}."
    )


# What runs in the process of its own


def serve() -> None:
    """Loads the model that the first line of stdin names, says where it listens, and serves until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # stdout is for the one line; whatever a library prints goes to the log.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = json.loads(sys.stdin.readline())

    import xllamacpp

    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    accelerator = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_ACCEL
    gpu = any(device["type"] not in (cpu, accelerator) for device in xllamacpp.get_device_info())
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.n_ctx = options["context"]
    params.n_batch = params.n_ubatch = GPU_CHUNK if gpu else options["chunk"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    if not (options["mapped"] or gpu):
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.hostnames = [options["host"]]
    params.port = 0
    params.api_keys = [options["key"]]
    params.verbosity = 1  # errors
    params.n_parallel = 1
    params.fit_params = gpu  # as many layers on the GPU as have room there
    params.swa_full = True  # a prompt can be cut back anywhere
    params.ctx_shift = False
    # One prompt is kept, that of the one slot; copies of earlier ones would take up to 8 GB.
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    params.n_threads_http = 2
    params.ui = False
    params.slot_save_path = options["kept"] + os.sep
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sleep(0.3)  # llama.cpp writes its log from another thread
        os._exit(1)
    print(json.dumps({"address": server.listening_address, "gpu": gpu}), file=out, flush=True)
    sys.stdin.read()
    shutil.rmtree(options["kept"], ignore_errors=True)  # the kernel may have been killed
    os._exit(0)  # its threads may be in the middle of a pass


if __name__ == "__main__":
    serve()
