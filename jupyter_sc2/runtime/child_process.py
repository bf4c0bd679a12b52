"""Child processes: how one is started, watched, restarted, stopped, and cleaned up if all else failed.

A library that may end the process it is in, or keep the interpreter's lock for seconds, runs in a process of its own.
Such a child outlives nobody and leaves nothing behind, whatever ends first, and however:

- It has a folder of its own (log, socket, kept files) that only the user can enter.
- What is started is a *guard*, which forks, and only the fork runs the library. The guard looks whether the process
  that started it still lives, by its number and not by a pipe, whose other end a forked child of the kernel may hold
  for as long as it likes. When that process has ended, or says so, the guard ends the fork and removes the folder.
- If the fork ends by itself, the guard says how. A thread of the starting process hears that, and the guard's own
  end: at once, and also while nothing is asked.
- If the guard is killed, the system ends the fork (on Linux), or the fork notices.
- Where guard and starter were killed together, the next start of any process of ours removes the folder (`sweep`).

Windows has no fork: there a thread of the child looks whether its starter lives, as soon as the library lets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited
from jupyter_sc2.runtime.clock import monotonic, sleep
from jupyter_sc2.runtime.import_isolation import own_imports

# Seconds. A guard needs milliseconds to end its fork; one that is stopped or that swaps is killed after this.
KILL_AFTER_S = 2.0
# How often it is looked whether a starter lives, and what is waited for is still wanted.
POLL_INTERVAL_S = 0.1
GUARD_POLL_INTERVAL_S = 0.3
FOLDER_PREFIX = "sc2-"  # short: the path of a socket has 104 bytes
OWNER, OPTIONS, LOG = "owner.json", "options.json", "log"
FORKS = hasattr(os, "fork")


# Which process is which


@dataclass(frozen=True)
class Identity:
    """A process, told from a later one of the same number by when it began; `where` by machine and container."""

    pid: int
    began: float
    where: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        return cls(pid, _began(pid) or 0.0, here())

    @property
    def name(self) -> str:
        """For the names of files and folders."""
        where = hashlib.sha256(self.where.encode()).hexdigest()[:8]
        return f"{self.pid}-{self.began:.2f}-{where}"

    @classmethod
    def named(cls, name: str) -> Identity | None:
        """That of a `name` that was given here; None for any other. Raises ValueError for what is no such name."""
        pid, began, _ = name.split("-")
        one = cls(int(pid), float(began), here())
        return one if one.name == name else None

    def lives(self) -> bool:
        """Whether it runs here; one that has ended and that nobody has waited for yet does not."""
        began = _began(self.pid) if self.where == here() else None
        return began is not None and round(began, 2) == round(self.began, 2)


def here() -> str:
    """The machine, and on Linux the space of process numbers, of which containers have their own."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _began(pid: int) -> float | None:
    """When the process with this number began, in units of the system's; None if it has ended.

    On Linux in ticks since the machine was started: a clock that is set does not change them.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    except (OSError, ValueError, IndexError):
        if sys.platform == "linux":
            return None
    import psutil  # comes with ipykernel

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process was told to stop (SIGSTOP) and does nothing until it is told to go on."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def how_it_ended(code: int | None) -> str:
    """An exit status in words, negative for the number of a signal."""
    if code is None:
        return "has ended"
    with contextlib.suppress(ValueError):
        if code < 0:
            return f"has ended (signal {-code}, {signal.Signals(-code).name})"
    return f"has ended (code {code})"


# When it may be started again


class Restarts:
    """When to start something again that has ended by itself: after these delays, until it has run long enough.

    `delays` are seconds. Who ends once more often within `window` seconds than there are delays stays down.
    """

    def __init__(self, delays: Sequence[float] = (0.0,), window: float = 60.0) -> None:
        self._delays, self._window = delays, window
        self._ends: deque[float] = deque(maxlen=len(delays) + 1)

    def delay(self) -> float | None:
        """Tells of an end; returns after how many seconds to start again, None to leave it."""
        now = monotonic()
        while self._ends and now - self._ends[0] > self._window:
            self._ends.popleft()
        self._ends.append(now)
        count = len(self._ends)
        return self._delays[count - 1] if count <= len(self._delays) else None

    def forget(self) -> None:
        self._ends.clear()


# In the process that starts


class ChildProcess:
    """A child with a folder of its own. `ready_message` is the first line with more than its process number."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        """Starts `module`, whose main program calls `run`. Raises OSError, and RuntimeError if no thread starts."""
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self.ready_message: dict[str, Any] | None = None
        self.code: int | None = None  # how it has ended
        self._working: Identity | None = None  # what the guard has forked
        self._ended, self._spoke = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._tell: Callable[[], None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            me = Identity.of(os.getpid())
            _write(self.folder / OWNER, {"starter": vars(me)})
            _write(self.folder / OPTIONS, {**options, "folder": str(self.folder)})
            with (self.folder / LOG).open("wb") as log:
                self._process = spawn(module, self.folder, log)
            background.Thread(self._listen, name="jupyter-sc2-watch").start()
        except BaseException:
            if self._process is not None and self._process.stdout is not None:
                self._process.stdout.close()
            self._ended.set()
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Of the process that does the work."""
        assert self._process is not None
        return self._process.pid if self._working is None else self._working.pid

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait_until_it_speaks(self, waiting: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Its ready message, {} if it ended before; an exception from `waiting` is passed on."""
        while not self._spoke.wait(POLL_INTERVAL_S):
            waiting()
        return self.ready_message or {}

    def when_it_ends(self, tell: Callable[[], None]) -> None:
        """Calls `tell` once, on another thread, when it has ended without being stopped here."""
        with self._lock:
            if not self._ended.is_set():
                self._tell = tell
                return
        tell()

    def wait(self, seconds: float) -> bool:
        """Waits for its end, so long at most; returns whether it has ended."""
        return self._ended.wait(seconds)

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / LOG).read_text("utf-8", "replace")
        return ""

    def stop(self) -> None:
        """Ends it and removes its folder; returns within seconds, also where it is stopped or hangs."""
        with self._lock:
            self._tell = None
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()  # the guard waits for what it has forked
            if not _ends(process, KILL_AFTER_S):
                _kill_group(process)
                _ends(process, KILL_AFTER_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listen(self) -> None:
        """Hears what the guard says, and that it has ended. Only system calls wait here: an exit waits for none."""
        assert self._process is not None and self._process.stdout is not None
        out = self._process.stdout.fileno()
        data = b""
        while True:
            try:
                piece = os.read(out, 65536)
            except OSError:
                piece = b""
            if not piece:
                break
            *lines, data = (data + piece).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
        self._process.stdout.close()
        if not _ends(self._process, KILL_AFTER_S):
            _kill_group(self._process)
        if self.code is None:
            self.code = self._process.poll()
        # The guard may have been killed, and not everywhere does the system end what it has forked.
        if self._working is not None and self._working.lives():
            _kill(self._working.pid)
        with self._lock:
            self._ended.set()
            tell, self._tell = self._tell, None
        self._spoke.set()
        if tell is not None:
            tell()

    def _hear(self, said: dict[str, Any]) -> None:
        if "pid" in said:
            self._working = Identity.of(said["pid"])
        elif "ended" in said:
            self.code = said["ended"]
        else:
            self.ready_message = said
        if self.ready_message is not None and self._working is not None:  # in whichever order
            self._spoke.set()


def spawn(module: str, folder: Path, log: Any) -> subprocess.Popen[bytes]:
    """The process that runs `module` for the folder of a ChildProcess."""
    environment = dict(os.environ)
    # The libraries may have been found through a path that was set only in this process.
    environment["PYTHONPATH"] = os.pathsep.join(own_imports.path)
    # Threads of a library wait for one another after each operation. Waiting busily, on cores that the user's cell
    # wants too, 115M parameters took 4.9 s a token, and 60 ms so.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    with background.unwatched_child():
        return subprocess.Popen(
            # The user's PYTHONWARNINGS may say that a warning is an error.
            [sys.executable, "-W", "ignore", "-m", module, str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # From the folder that holds this package: what lies in the user's own must not be imported instead.
            cwd=Path(__file__).parents[2],
            env=environment,
            # Interrupting a cell sends a signal to all of the kernel's process group.
            start_new_session=True,
            creationflags=0x200 if sys.platform == "win32" else 0,  # a process group of its own
        )


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if FORKS:
            os.killpg(process.pid, signal.SIGKILL)  # what it has forked is in its group
        else:
            process.kill()


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _write(file: Path, about: dict[str, Any]) -> None:
    """Whole or not at all, and readable for the user only, as the folder is."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(about), "utf-8")
    os.replace(unfinished, file)


# What was left behind


def sweep() -> None:
    """Removes the folders of ours in the system's place for temporary files whose starters live no more.

    What may still run for one of them is ended: it was stopped, or its guard was killed. Folders of other users, of
    other machines and containers, and whatever does not say that it is ours stay as they are.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            if entry.name.startswith(FOLDER_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                    _sweep(Path(entry.path))


def _sweep(folder: Path) -> None:
    about = folder.lstat()
    if hasattr(os, "getuid") and (
        about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o77
    ):
        return
    owner = parse_json(read_limited(folder / OWNER, 1 << 16))
    starter = Identity(**owner["starter"])
    if starter.where != here() or starter.lives():
        return
    for process in owner.get("processes", ()):
        if (left := Identity(**process)).lives():
            _kill(left.pid)
    shutil.rmtree(folder, ignore_errors=True)


# In the child


Tell = Callable[[dict[str, Any]], None]
Work = Callable[[dict[str, Any], Tell], object]


def run(work: Work) -> None:
    """The main program of a child: calls `work` with the options it was started with.

    `work` calls what it is given once, with what is to be told when all is ready, and returns what has to be kept.
    """
    folder, starter = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A starter that ignores or blocks this signal hands that on, and then nothing but a kill would end the child.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if FORKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    # stdout is for what is told; whatever a library prints goes to the log.
    out = os.dup(1)
    os.set_inheritable(out, False)
    os.dup2(2, 1)
    try:
        options = json.loads((folder / OPTIONS).read_text("utf-8"))
        (folder / OPTIONS).unlink()
        owner = json.loads((folder / OWNER).read_text("utf-8"))
    except OSError:
        os._exit(1)  # it was stopped before it began

    def tell(about: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # there is nobody any more
            os.write(out, json.dumps(about).encode() + b"\n")

    if FORKS:
        _guard(folder, starter, owner, lambda: _forked(work, options, tell, out), tell)
    else:
        tell({"pid": os.getpid()})
        began = Identity.of(starter)
        background.Thread(_end_with, began, folder).start()
        kept = work(options, tell)
        while kept:
            sleep(3600)


def _guard(
    folder: Path,
    starter: int,
    owner: dict[str, Any],
    forked: Callable[[], None],
    tell: Tell,
) -> None:
    import select

    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    told_to_end: list[int] = []
    pid = os.fork()
    if pid == 0:
        os.close(woken)
        os.close(wake)
        forked()
        os._exit(1)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: told_to_end.append(number))
    owner["processes"] = [vars(Identity.of(one)) for one in (os.getpid(), pid)]
    with contextlib.suppress(OSError):  # a full disk
        _write(folder / OWNER, owner)
    tell({"pid": pid})
    status = None
    while os.getppid() == starter and not told_to_end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        select.select([woken], [], [], GUARD_POLL_INTERVAL_S)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
    else:
        status = None
    if status is not None:
        tell({"ended": os.waitstatus_to_exitcode(status)})
        if os.getppid() == starter:  # which reads the log, and removes it
            os._exit(0)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _forked(work: Work, options: dict[str, Any], tell: Tell, out: int) -> None:
    guard = os.getppid()
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != guard:
        os._exit(1)

    def tell_once(about: dict[str, Any]) -> None:
        tell(about)
        os.close(out)  # the guard's end is then the end of what is heard

    try:
        kept = work(options, tell_once)
    except BaseException as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    while kept and os.getppid() == guard:
        sleep(1.0)
    os._exit(0)  # threads may be in the middle of a pass


def _end_with(starter: Identity, folder: Path) -> None:
    while starter.lives():
        sleep(1.0)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
