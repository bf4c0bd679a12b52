"""Usage data: which suggestions were shown, accepted and kept, and how long they took.

It is stored in one SQLite file in Jupyter's data folder and never leaves the machine. It contains no code, only
lengths, times and the paths of notebooks. A damaged file is renamed, and a new one is started.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from jupyter_sc2.errors import SC2Error, in_one_line
from jupyter_sc2.runtime import background, clock

logger = logging.getLogger(__name__)

# Events collected in memory before they are written, and the longest time until then.
BATCH_EVENTS = 50
MAX_WAIT_S = 30.0
RETENTION_DAYS = 180
# Events kept in memory while the file cannot be written, and the wait for a lock on the file.
MAX_PENDING_EVENTS = 5000
LOCK_TIMEOUT_S = 0.25
# The same when the kernel ends, after which there is no later: those of a server all end at once.
LAST_LOCK_TIMEOUT_S = 1.0

SCHEMA = """
create table if not exists events (
    at real not null,        -- seconds since 1970
    notebook text not null,  -- its path, "" for a terminal
    kind text not null,      -- shown, accepted, later (still there after 30 s) or run (at the next run)
    request text not null,
    part text not null,      -- of accepted ones: all, word or line
    size integer not null,   -- characters of the text; of later and run: 1 if it is still there, else 0
    ms real                  -- of shown ones: until the first text
)
"""
# Casts, as SQLite columns may hold values of any type.
SELECT = """
select cast(at as real), cast(notebook as text), cast(kind as text), cast(request as text), cast(part as text),
    cast(size as integer), cast(ms as real)
from events order by at
"""
COLUMNS = ["at", "notebook", "kind", "request", "part", "size", "ms"]


def data_folder() -> Path:
    """Where what is learned of this user's use is stored."""
    return Path(jupyter_data_dir()) / "jupyter_sc2"


@dataclass(frozen=True)
class Event:
    at: float
    notebook: str
    kind: str
    request: str
    part: str = ""
    size: int = 0
    ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of one notebook, or of all. Times are in ms, None where nothing was shown."""

    notebook: str = ""
    shown: int = 0
    accepted: int = 0  # suggestions of which at least a part was accepted
    in_full: int = 0
    by_word: int = 0
    by_line: int = 0
    characters: int = 0
    after_30s: tuple[int, int] = (0, 0)  # still there after 30 s, of how many checked
    at_next_run: tuple[int, int] = (0, 0)
    p50_ms: float | None = None
    p95_ms: float | None = None


class Usage:
    """Counts events and stores them in a file. Safe to call from any thread.

    Counting never raises and never blocks. A file that cannot be read or written is reported as `problem`; the events
    stay in memory and are written later, in the order in which they were counted.
    """

    def __init__(self, enabled: Callable[[], bool], file: Path | None = None) -> None:
        self._enabled = enabled
        self._file = file or data_folder() / "usage.sqlite"
        self._lock = threading.Lock()  # for the events in memory
        self._file_lock = threading.Lock()
        self._pending: list[Event] = []
        self._write_scheduled = False  # a thread is about to write
        self._last_write = -MAX_WAIT_S
        # The latest times to first text of this kernel, in ms.
        self.recent: deque[float] = deque(maxlen=40)
        # In words for the user.
        self._failure = self._unreadable = self._damage = ""

    @property
    def problem(self) -> str:
        """Why the data is incomplete, or not stored, as a sentence for the user; "" if nothing is wrong."""
        return self._failure or self._unreadable or self._damage

    def shown(self, notebook: str, request: str, characters: int, ms: float | None) -> None:
        """`ms` is the time to first text, None if it includes loading the model."""
        if ms is not None:
            self.recent.append(ms)
        self._add(Event(clock.now(), notebook, "shown", request, size=characters, ms=ms))

    def accepted(self, notebook: str, request: str, part: str, characters: int) -> None:
        self._add(Event(clock.now(), notebook, "accepted", request, part, characters))

    def record_retention(self, notebook: str, request: str, when: str, kept: bool) -> None:
        """Records whether accepted text was still there: `when` is "later" (after 30 s) or "run" (the next run)."""
        self._add(Event(clock.now(), notebook, when, request, size=int(kept)))

    def _add(self, event: Event) -> None:
        if not self._enabled():
            return
        event = replace(event, notebook=_storable(event.notebook), request=_storable(event.request))
        with self._lock:
            self._pending.append(event)
            del self._pending[:-MAX_PENDING_EVENTS]
            full = len(self._pending) >= BATCH_EVENTS or event.at - self._pending[0].at > MAX_WAIT_S
            failed = (
                len(self._pending) > BATCH_EVENTS
                and clock.monotonic() - self._last_write < MAX_WAIT_S
            )
            if not full or failed or self._write_scheduled:
                return
            self._write_scheduled = True
        # Not on this thread: a disk may be slow, and the model's thread waits for it.
        try:
            background.Thread(self._write_now, name="jupyter-sc2-usage").start()
        except RuntimeError:  # the process ends, or may have no more threads
            self._write_scheduled = False

    def _write_now(self) -> None:
        try:
            self.flush()
        finally:
            self._write_scheduled = False

    def flush(self, timeout: float = LOCK_TIMEOUT_S) -> None:
        """Writes the events in memory; those that cannot be written stay there."""
        with self._file_lock:
            with self._lock:
                events = list(self._pending)
                self._last_write = clock.monotonic()
            if not events:
                return
            self._failure = self._try(lambda database: _write(database, events), timeout)
            if not self._failure:
                self._unreadable = ""
                written = {id(event) for event in events}
                with self._lock:
                    self._pending = [event for event in self._pending if id(event) not in written]

    def events(self) -> list[Event]:
        """All events, oldest first."""
        self.flush()
        read: list[Event] = []

        def fetch(database: sqlite3.Connection) -> None:
            read[:] = _read(database)

        with self._file_lock:
            exists = os.path.lexists(self._file)
            # The user waits, and has waited once.
            timeout = 0.0 if self._failure else LOCK_TIMEOUT_S
            self._unreadable = self._try(fetch, timeout) if exists else ""
            with self._lock:
                return read + self._pending

    def reset(self) -> None:
        """Deletes all events. Raises SC2Error if the file cannot be removed."""
        self.recent.clear()
        with self._file_lock, self._lock:
            self._pending.clear()
            try:
                self._file.unlink(missing_ok=True)
            except OSError as error:
                raise SC2Error(
                    f"The usage data could not be cleared: {self._file} cannot be removed ({error.strerror})."
                ) from error
            self._failure = self._unreadable = self._damage = ""

    def _try(
        self, act: Callable[[sqlite3.Connection], None], timeout: float = LOCK_TIMEOUT_S
    ) -> str:
        """Calls `act` with the open file; why that failed, as a sentence, or "".

        A damaged file, or what is no file in its place, is renamed, and a new file started.
        """
        failure = ""
        for _ in range(2):
            number = self._inode()
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with (
                    closing(sqlite3.connect(self._file, timeout=timeout)) as database,
                    database,
                ):
                    database.text_factory = _decoded
                    database.execute(SCHEMA)
                    columns = [row[1] for row in database.execute("pragma table_info(events)")]
                    if not set(COLUMNS) <= set(columns):  # a later version may have more
                        raise sqlite3.DatabaseError("it has other columns")
                    act(database)
                return ""
            except (sqlite3.Error, OSError) as error:
                logger.debug("The usage data cannot be read or written", exc_info=True)
                reason = in_one_line(error)
                if isinstance(error, OSError):
                    reason = f"{error.filename}: {error.strerror}"
                failure = f"The usage data in {self._file} cannot be used now: {reason}."
                # Exactly this class, and no subclass, for a damaged file or one that is not a database.
                other = os.path.lexists(self._file) and not self._file.is_file()
                damaged = type(error) is sqlite3.DatabaseError or other
                if not damaged or not self._set_aside(number, error):
                    break
        return failure

    def _inode(self) -> int | None:
        """The file's inode number, which a new file of the same name does not share; None without a file."""
        try:
            return self._file.stat().st_ino
        except OSError:
            return None

    def _set_aside(self, number: int | None, error: Exception) -> bool:
        if self._inode() != number:  # another kernel has just done so
            return True
        count = 1
        while (aside := self._file.with_name(f"{self._file.name}.damaged-{count}")).exists():
            count += 1
        try:
            os.replace(self._file, aside)
            for ending in ("-journal", "-wal", "-shm"):  # they would damage the new one
                with suppress(FileNotFoundError):
                    os.replace(f"{self._file}{ending}", f"{aside}{ending}")
        except OSError:
            return False
        self._damage = (
            f"The file with the usage data was damaged ({in_one_line(error)}). "
            f"It was renamed to {aside}, and counting started again."
        )
        return True


def _storable(text: str) -> str:
    """Escapes surrogates, which Python uses for file names that are not UTF-8 and SQLite cannot store."""
    return text.encode("utf-8", "backslashreplace").decode()


def _decoded(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def _write(database: sqlite3.Connection, events: Sequence[Event]) -> None:
    database.executemany(
        f"insert into events ({', '.join(COLUMNS)}) values (?, ?, ?, ?, ?, ?, ?)",
        [(e.at, e.notebook, e.kind, e.request, e.part, e.size, e.ms) for e in events],
    )
    # By the database's clock.
    database.execute(
        "delete from events where at < strftime('%s', 'now') - ?", (RETENTION_DAYS * 86400,)
    )


def _read(database: sqlite3.Connection) -> Iterator[Event]:
    return (Event(*row) for row in database.execute(SELECT))


def summary(events: Sequence[Event], notebook: str = "") -> Summary:
    """Counts of these events; `notebook` is only the summary's name."""

    def of(kind: str, part: str = "") -> list[Event]:
        return [event for event in events if event.kind == kind and part in ("", event.part)]

    def share(kind: str) -> tuple[int, int]:
        looked = of(kind)
        return sum(event.size for event in looked), len(looked)

    accepted = of("accepted")
    times = sorted(event.ms for event in of("shown") if event.ms is not None)
    return Summary(
        notebook=notebook,
        shown=len(of("shown")),
        accepted=len({event.request for event in accepted}),
        in_full=len(of("accepted", "all")),
        by_word=len(of("accepted", "word")),
        by_line=len(of("accepted", "line")),
        characters=sum(event.size for event in accepted),
        after_30s=share("later"),
        at_next_run=share("run"),
        p50_ms=percentile(times, 0.5),
        p95_ms=percentile(times, 0.95),
    )


def by_notebook(events: Sequence[Event]) -> list[Summary]:
    """One summary per notebook, the one with most suggestions first."""
    names = dict.fromkeys(event.notebook for event in events)
    summaries = [summary([e for e in events if e.notebook == name], name) for name in names]
    return sorted(summaries, key=lambda one: (-one.shown, one.notebook))


def percentile(times: Sequence[float], share: float) -> float | None:
    """The value below which this share of sorted values lies; None for none."""
    return times[min(len(times) - 1, int(share * len(times)))] if times else None
