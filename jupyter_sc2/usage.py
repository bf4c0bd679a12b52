"""The user's own numbers: what was shown, what was accepted, what stayed, and how long it took.

They stand in one SQLite file in Jupyter's data folder and never leave the machine. Nothing of the code is kept:
only lengths, times and the name of the notebook. A file that is damaged is put aside, and a new one begun.
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

PARTS = ("all", "word", "line")
# Events in memory before they are written, and seconds that they may wait there.
BATCH_EVENTS = 50
MAX_WAIT_S = 30.0
RETENTION_DAYS = 180
# Events that wait in memory while the file cannot be written, and seconds to wait for who else writes.
MAX_PENDING_EVENTS = 5000
LOCK_TIMEOUT_S = 0.5

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
# What there is in a file, of whatever type it is.
SELECT = """
select cast(at as real), cast(notebook as text), cast(kind as text), cast(request as text), cast(part as text),
    cast(size as integer), cast(ms as real)
from events order by at
"""
COLUMNS = ["at", "notebook", "kind", "request", "part", "size", "ms"]


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
    accepted: int = 0  # of those shown, of which at least a part was accepted
    in_full: int = 0
    by_word: int = 0
    by_line: int = 0
    characters: int = 0
    after_30s: tuple[int, int] = (0, 0)  # still there after 30 s, of so many looked at
    at_next_run: tuple[int, int] = (0, 0)
    p50_ms: float | None = None
    p95_ms: float | None = None


class Usage:
    """Counts, and remembers in a file. Safe to call from any thread.

    To count raises nothing and waits for nothing; a file that cannot be read or written is a `problem`.
    """

    def __init__(self, enabled: Callable[[], bool], file: Path | None = None) -> None:
        self._enabled = enabled
        self._file = file or Path(jupyter_data_dir()) / "jupyter_sc2" / "usage.sqlite"
        self._lock = threading.Lock()  # of what is in memory
        self._file_lock = threading.Lock()
        self._pending: list[Event] = []
        self._write_scheduled = False  # whether a thread is about to write
        self._last_write = -MAX_WAIT_S
        # The newest times to the first text, in ms, of this kernel.
        self.recent: deque[float] = deque(maxlen=40)
        self._failure = self._damage = ""  # in words for the user

    @property
    def problem(self) -> str:
        """Why the numbers are not all there, in words for the user; "" if they are."""
        return self._failure or self._damage

    def shown(self, notebook: str, request: str, characters: int, ms: float | None) -> None:
        """`ms` until the first text; None where it would say nothing, as the model was still being loaded."""
        if ms is not None:
            self.recent.append(ms)
        self._add(Event(clock.now(), notebook, "shown", request, size=characters, ms=ms))

    def accepted(self, notebook: str, request: str, part: str, characters: int) -> None:
        self._add(Event(clock.now(), notebook, "accepted", request, part, characters))

    def record_retention(self, notebook: str, request: str, when: str, kept: bool) -> None:
        """Whether accepted text was still there, `when` being "later" or "run"."""
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
        # Not here: a disk may be slow, and a model waits for who counts.
        try:
            background.Thread(self._write_now, name="jupyter-sc2-usage").start()
        except RuntimeError:  # the process ends, or may have no more threads
            self._write_scheduled = False

    def _write_now(self) -> None:
        try:
            self.flush()
        finally:
            self._write_scheduled = False

    def flush(self) -> None:
        """Writes what waits in memory; what cannot be written waits on."""
        with self._file_lock:
            with self._lock:
                events = list(self._pending)
                self._last_write = clock.monotonic()
            if events and self._try(lambda database: _write(database, events), create=True):
                written = {id(event) for event in events}
                with self._lock:
                    self._pending = [event for event in self._pending if id(event) not in written]

    def events(self) -> list[Event]:
        """All that is known, oldest first."""
        self.flush()
        read: list[Event] = []
        with self._file_lock:
            if self._file.exists():
                self._try(lambda database: read.extend([*_read(database)]))
        with self._lock:
            return read + self._pending

    def reset(self) -> None:
        """Forgets everything. Raises SC2Error if the file stays."""
        self.recent.clear()
        with self._file_lock, self._lock:
            self._pending.clear()
            try:
                self._file.unlink(missing_ok=True)
            except OSError as error:
                raise SC2Error(
                    f"The usage data could not be cleared: {self._file} cannot be removed ({error.strerror})."
                ) from error
            self._failure = self._damage = ""

    def _try(self, act: Callable[[sqlite3.Connection], None], *, create: bool = False) -> bool:
        """Does something with the file; False if that failed. A damaged one is put aside, and a new one begun."""
        for _ in range(2):
            number = self._inode()
            try:
                if create:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                with (
                    closing(sqlite3.connect(self._file, timeout=LOCK_TIMEOUT_S)) as database,
                    database,
                ):
                    database.text_factory = _decoded
                    database.execute(SCHEMA)
                    columns = [row[1] for row in database.execute("pragma table_info(events)")]
                    if columns != COLUMNS:
                        raise sqlite3.DatabaseError("it has other columns")
                    act(database)
                self._failure = ""
                return True
            except (sqlite3.Error, OSError) as error:
                logger.debug("The numbers are not to be had", exc_info=True)
                # Of this very class for what is no database, or one whose pages are damaged.
                if type(error) is not sqlite3.DatabaseError or not self._set_aside(number, error):
                    self._failure = (
                        f"The usage data in {self._file} cannot be used now: {in_one_line(error)}."
                    )
                    return False
        return False

    def _inode(self) -> int | None:
        """The system's for the file; another one for a new file of the same name."""
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
            for ending in ("-journal", "-wal", "-shm"):  # they would spoil the new one
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
    """Without what no file can hold: a name that is no UTF-8 has surrogates in Python."""
    return text.encode("utf-8", "backslashreplace").decode()


def _decoded(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def _write(database: sqlite3.Connection, events: Sequence[Event]) -> None:
    database.executemany(
        "insert into events values (?, ?, ?, ?, ?, ?, ?)",
        [(e.at, e.notebook, e.kind, e.request, e.part, e.size, e.ms) for e in events],
    )
    # By the database's own clock.
    database.execute(
        "delete from events where at < strftime('%s', 'now') - ?", (RETENTION_DAYS * 86400,)
    )


def _read(database: sqlite3.Connection) -> Iterator[Event]:
    return (Event(*row) for row in database.execute(SELECT))


def summary(events: Sequence[Event], notebook: str = "") -> Summary:
    """What these events come to; `notebook` only names it."""

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
    """One for each notebook, the most used first."""
    names = dict.fromkeys(event.notebook for event in events)
    summaries = [summary([e for e in events if e.notebook == name], name) for name in names]
    return sorted(summaries, key=lambda one: (-one.shown, one.notebook))


def percentile(times: Sequence[float], share: float) -> float | None:
    """The value below which this share of sorted values lies; None for none."""
    return times[min(len(times) - 1, int(share * len(times)))] if times else None
