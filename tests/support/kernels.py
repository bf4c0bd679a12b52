"""Real kernels for the tests: a front end that talks to one over ZeroMQ, and the engines that run inside it.

The tests run on the ipykernel of this environment and on ipykernel 6, which is put into a folder of its own
the first time (`python -m tests.support.kernels` does just that).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from jupyter_core.utils import ensure_event_loop

from tests.support.paths import TESTS

IPYKERNEL_6 = Path(sys.prefix) / "ipykernel6"
OLD, NEW = "ipykernel 6", "ipykernel 7"
IS_OLD = version("ipykernel").startswith("6.")  # that of this environment


def ipykernel_6() -> Path:
    """The folder with ipykernel 6; its dependencies are those of this environment, which may have it itself."""
    if IS_OLD:
        return Path(sys.prefix)  # a folder with nothing to import
    return installed("ipykernel==6.31.0", IPYKERNEL_6)


def installed(package: str, folder: Path) -> Path:
    """This folder, with the package in it: whoever asks first installs it there, and the others wait."""
    from filelock import FileLock

    there = folder / package
    with FileLock(f"{folder}.lock"):
        if not there.is_file():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--target", str(folder), "--upgrade", package], check=True)
            there.touch()
    return folder


class FrontEnd:
    """A kernel, and what a front end does with it. Everything on iopub is kept, in order, in `iopub`."""

    def __init__(self, old: bool = False, folder: Path | None = None, **environment: str) -> None:
        """Starts it in this folder, which is the notebook's, with these variables."""
        from jupyter_client.manager import KernelManager

        path = [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        self.old = old
        self._debugged = 0  # requests to the debugger
        # Not this checkout: what lies beside a notebook is the user's.
        self._folder = tempfile.TemporaryDirectory()
        for attempt in range(3):
            self.manager = KernelManager(kernel_name="python3")
            self.manager.start_kernel(
                cwd=str(folder or self._folder.name),
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([str(ipykernel_6())] * old + path)}
                | environment,
            )
            try:
                self.connect()
                return
            except RuntimeError:  # another process has taken one of its ports meanwhile
                died = not self.manager.is_alive()
                self.client.stop_channels()
                self.manager.shutdown_kernel(now=True)
                if attempt == 2 or not died:
                    raise

    def connect(self) -> None:
        self.client = self.manager.client()
        # As a browser does it: whatever JavaScript has in a string can be sent.
        self.client.session.pack = lambda content: json.dumps(content, default=str).encode()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.iopub: list[dict] = []
        self._news = threading.Condition()
        self._listening = True
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        # Not client.get_iopub_msg: that leaves an asyncio loop behind in each thread.
        socket, session = self.client.iopub_channel.socket, self.client.session
        while self._listening:
            if not socket.poll(100):
                continue
            _, frames = session.feed_identities(socket.recv_multipart())
            message = session.deserialize(frames)
            with self._news:
                self.iopub.append(message | {"time": time.monotonic()})
                self._news.notify_all()

    def disconnect(self) -> None:
        self._listening = False
        self._listener.join()
        self.client.stop_channels()

    def close(self) -> None:
        self.disconnect()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self._folder.cleanup()
        loop = ensure_event_loop()
        if not loop.is_running():  # as Playwright's does for as long as its browser lives
            loop.close()  # jupyter_client never does

    def wait(self, found, timeout: float = 20.0):
        """What `found` returns as soon as that is something; it is asked after each message on iopub."""
        with self._news:
            assert self._news.wait_for(found, timeout), (
                "the kernel has not sent what was waited for"
            )
            return found()

    # Cells

    def start(self, code: str, **options) -> str:
        """Runs a cell and does not wait; returns the id of the request."""
        return self.client.execute(code, **options)

    def finish(self, cell: str, timeout: float = 60.0) -> list[dict]:
        """Waits for a cell's end; returns its outputs."""
        self.wait(lambda: self.ended(cell), timeout)
        return self.outputs(cell)

    def interrupt(self, cell: str) -> None:
        """Ends a cell that still runs."""
        self.manager.interrupt_kernel()
        assert self.finish(cell)[-1]["content"]["ename"] == "KeyboardInterrupt"

    def run(self, code: str, **options) -> list[dict]:
        return self.finish(self.start(code, **options))

    def evaluate(self, expression: str) -> str:
        """The repr of an expression, by a user_expression: no cell of the user's has run."""
        reply = self.client.execute(
            "",
            silent=True,
            store_history=False,
            user_expressions={"x": expression},
            reply=True,
            timeout=30,
        )
        return reply["content"]["user_expressions"]["x"]["data"]["text/plain"]

    def ended(self, cell: str) -> dict | None:
        for message in list(self.iopub):
            if (
                message["parent_header"].get("msg_id") == cell
                and message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
            ):
                return message
        return None

    def outputs(self, cell: str | None = None) -> list[dict]:
        """The messages a notebook would show, of one cell or whatever their parent is."""
        kinds = (
            "stream",
            "display_data",
            "execute_result",
            "error",
            "update_display_data",
            "clear_output",
        )
        return [
            message
            for message in list(self.iopub)
            if message["msg_type"] in kinds
            and (cell is None or message["parent_header"].get("msg_id") == cell)
        ]

    def text(self, cell: str | None = None, name: str = "stdout") -> str:
        return "".join(
            message["content"]["text"]
            for message in self.outputs(cell)
            if message["msg_type"] == "stream" and message["content"]["name"] == name
        )

    def shown(self, cell: str) -> str:
        """The plain text of what a cell displays, tables among it."""
        return "\n".join(
            message["content"]["data"].get("text/plain", "")
            for message in self.outputs(cell)
            if message["msg_type"] == "display_data"
        )

    # The debugger

    def debug(self, command: str, timeout: float = 10.0, **arguments) -> dict:
        """What the debugger answers, as a page asks it: on the control channel."""
        self._debugged += 1
        request = {"type": "request", "seq": self._debugged, "command": command}
        message = self.client.session.msg("debug_request", request | {"arguments": arguments})
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply["content"]

    def attach(self) -> None:
        """Starts to debug."""
        self.debug("initialize", clientID="tests", adapterID="", pathFormat="path", locale="en")
        self.debug("attach")

    def detach(self) -> None:
        self.debug("disconnect", restart=False, terminateDebuggee=False)

    def start_with_breakpoint(self, code: str, line: int) -> tuple[str, int]:
        """Runs a cell until it stops at this line; returns the request's id and the thread that stopped."""
        file = self.debug("dumpCell", code=code)["body"]["sourcePath"]
        self.debug("setBreakpoints", source={"path": file}, breakpoints=[{"line": line}])
        self.debug("configurationDone")
        seen = len(self.iopub)
        cell = self.start(code)

        def stopped() -> list[dict]:
            events = [m for m in self.iopub[seen:] if m["msg_type"] == "debug_event"]
            return [m["content"] for m in events if m["content"]["event"] == "stopped"]

        return cell, self.wait(stopped)[0]["body"]["threadId"]

    # Roads to the comm target

    def subshell(self) -> str:
        message = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=10)
            if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                return reply["content"]["subshell_id"]

    def open(self, road: str = "control") -> Comm:
        return Comm(self, road)


class Comm:
    """One comm of a front end: `say` sends, `heard` is what has come."""

    def __init__(self, front_end: FrontEnd, road: str) -> None:
        self.id = uuid.uuid4().hex
        self.road = road
        self._front_end = front_end
        self._subshell = front_end.subshell() if road == "subshell" else None
        self._count = 0
        self._send("comm_open", {"target_name": "jupyter_sc2", "data": {}})

    def _send(self, kind: str, content: dict) -> str:
        client = self._front_end.client
        message = client.session.msg(kind, {"comm_id": self.id} | content)
        if self._subshell is not None:
            message["header"]["subshell_id"] = self._subshell
        (client.control_channel if self.road == "control" else client.shell_channel).send(message)
        return message["header"]["msg_id"]

    def say(self, data: dict) -> str:
        return self._send("comm_msg", {"data": data})

    def leave(self) -> None:
        self._send("comm_close", {"data": {}})

    @property
    def messages(self) -> list[dict]:
        return [
            message
            for message in list(self._front_end.iopub)
            if message["msg_type"] in ("comm_msg", "comm_close")
            and message["content"]["comm_id"] == self.id
        ]

    @property
    def heard(self) -> list[dict]:
        return [message["content"]["data"] for message in self.messages]

    def wait_for(self, timeout: float = 20.0, **fields) -> dict:
        def found() -> list[dict]:
            return [m for m in self.messages if fields.items() <= m["content"]["data"].items()]

        return self._front_end.wait(found, timeout)[0]

    def ask(self, text: str = "total = ", trigger: str = "automatic") -> str:
        self._count += 1
        id = f"{self.road}-{self._count}"
        self.say(
            {"type": "complete", "id": id, "text": text, "offset": len(text), "trigger": trigger}
        )
        return id

    def final(self, id: str, timeout: float = 20.0) -> dict:
        """The message that ended a request, with the `time` of its arrival."""

        def found() -> list[dict]:
            return [
                m
                for m in self.messages
                if m["content"]["data"].get("id") == id
                and (
                    m["content"]["data"].get("finish_reason")
                    or m["content"]["data"]["type"] == "error"
                )
            ]

        return self._front_end.wait(found, timeout)[0]

    def answer(self, timeout: float = 20.0, **request) -> float:
        """Asks, waits, and returns the seconds that took."""
        started = time.monotonic()
        return self.final(self.ask(**request), timeout)["time"] - started

    def keep_asking(self, stop: threading.Event) -> threading.Thread:
        """Types on and on, a key every 20 ms, until `stop` is set."""

        def type_keys() -> None:
            number = 0
            while not stop.wait(0.02):
                number += 1
                self.ask(f"name_{number} = ")

        thread = threading.Thread(target=type_keys)
        thread.start()
        return thread


def page_expression(name: str) -> str:
    """What the page has a kernel evaluate: LOAD or CHECK."""
    source = (TESTS.parent / "labextension" / "src" / "kernel" / "load.ts").read_text("utf-8")
    python = re.search(r"PYTHON = `(.*?)`;", source, re.DOTALL)
    expression = re.search(rf"export const {name} =(.*?);\n(?:\n|\Z)", source, re.DOTALL)
    # Put together of strings as in Python.
    json_of = SimpleNamespace(stringify=json.dumps)
    return eval(f"({expression[1]})", {"JSON": json_of, "PYTHON": python[1]})


LOAD = """
from jupyter_sc2 import extension as _extension
from tests.support.kernels import {engine} as _engine
_extension.load(get_ipython(), load_engine=_engine.load)
del _extension, _engine
"""


def scripted(milliseconds: float = 2.0, answer: str = "sum(values)"):
    """What is loaded in the kernel: an engine that says the same thing at a steady pace."""
    from tests.support.fake_engine import FakeEngine

    class Scripted(FakeEngine):
        def generate(self, *args, **kwargs):
            self.answers = [answer]
            for token in super().generate(*args, **kwargs):
                time.sleep(milliseconds / 1000)
                yield token

    return Scripted()


class Quick:
    """Answers in about 30 ms."""

    @staticmethod
    def load(model, **kwargs):
        return scripted(2)


class Plotting:
    """Answers with names that need imports."""

    @staticmethod
    def load(model, **kwargs):
        return scripted(2, "plt.plot(Counter(rows))")


class QuickLines:
    """The same, with the end of the line."""

    @staticmethod
    def load(model, **kwargs):
        return scripted(2, "sum(values)\n")


class Slow:
    """Answers in about half a second."""

    @staticmethod
    def load(model, **kwargs):
        return scripted(45)


class ImportingTorch:
    """Takes its time to load, in what every engine has to do first."""

    @staticmethod
    def load(model, **kwargs):
        import torch  # noqa: F401

        time.sleep(30)


class Downloading:
    """Loads for a minute in small steps, and tells of each."""

    @staticmethod
    def load(model, progress, **kwargs):
        for step in range(6000):
            progress("downloading", step / 6000)
            time.sleep(0.01)


class Multiplying:
    """Is in the middle of a forward pass, of about 0.2 s, whenever one looks."""

    @staticmethod
    def load(model, **kwargs):
        import torch

        from jupyter_sc2.runtime.exit_gate import gate

        matrix = torch.rand(2000, 2000)
        engine = scripted()

        def generate(ids, sampling, stop_ids, cancelled, constraint=None, draft=None):
            while not cancelled():
                with gate:  # as the transformers engine does
                    torch.mm(matrix, matrix)
            yield from ()

        engine.generate = generate
        return engine


class Looping:
    """Never listens, and computes in pure Python."""

    @staticmethod
    def load(model, **kwargs):
        engine = scripted()

        def generate(*args, **kwargs):
            while True:
                sum(range(1000))
            yield

        engine.generate = generate
        return engine


if __name__ == "__main__":
    print(ipykernel_6())
