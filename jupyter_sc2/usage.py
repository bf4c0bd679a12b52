"""The user's own numbers: what was shown, what was accepted, what stayed, and how long it took.

They stand in one SQLite file in Jupyter's data folder and never leave the machine. Nothing of the code is kept:
only lengths, times and the name of the notebook.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

logger = logging.getLogger(__name__)

PARTS = ("all", "word", "line")
# Events in memory before they are written, and seconds that they may wait there.
BATCH = 50
MOST_SECONDS = 30.0
KEPT_DAYS = 180

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
    used: int = 0  # of those shown, of which at least a part was accepted
    whole: int = 0
    words: int = 0
    lines: int = 0
    characters: int = 0
    later: tuple[int, int] = (0, 0)  # still there after 30 s, of so many looked at
    run: tuple[int, int] = (0, 0)
    p50_ms: float | None = None
    p95_ms: float | None = None


class Usage:
    """Counts, and remembers in a file. Safe to call from any thread; an unwritable file loses only numbers."""

    def __init__(self, enabled: Callable[[], bool], file: Path | None = None) -> None:
        self._enabled = enabled
        self._file = file or Path(jupyter_data_dir()) / "jupyter_sc2" / "usage.sqlite"
        self._lock = threading.Lock()
        self._waiting: list[Event] = []
        # The newest times to the first text, in ms, of this kernel.
        self.recent: deque[float] = deque(maxlen=40)

    def shown(self, notebook: str, request: str, characters: int, ms: float | None) -> None:
        """`ms` until the first text; None where it would say nothing, as the model was still being loaded."""
        if ms is not None:
            self.recent.append(ms)
        self._add(Event(time.time(), notebook, "shown", request, size=characters, ms=ms))

    def accepted(self, notebook: str, request: str, part: str, characters: int) -> None:
        self._add(Event(time.time(), notebook, "accepted", request, part, characters))

    def seen_again(self, notebook: str, request: str, when: str, kept: bool) -> None:
        """Whether accepted text was still there, `when` being "later" or "run"."""
        self._add(Event(time.time(), notebook, when, request, size=int(kept)))

    def _add(self, event: Event) -> None:
        if not self._enabled():
            return
        with self._lock:
            self._waiting.append(event)
            due = len(self._waiting) >= BATCH or event.at - self._waiting[0].at > MOST_SECONDS
        if due:
            self.flush()

    def flush(self) -> None:
        """Writes what waits in memory."""
        with self._lock:
            if not self._waiting:
                return
            events, self._waiting = self._waiting, []
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with closing(self._open()) as database, database:
                    database.executemany(
                        "insert into events values (?, ?, ?, ?, ?, ?, ?)",
                        [
                            (e.at, e.notebook, e.kind, e.request, e.part, e.size, e.ms)
                            for e in events
                        ],
                    )
                    database.execute(
                        "delete from events where at < ?", (time.time() - KEPT_DAYS * 86400,)
                    )
            except (sqlite3.Error, OSError):
                logger.debug("The numbers could not be written", exc_info=True)

    def events(self) -> list[Event]:
        """All that is known, oldest first."""
        self.flush()
        with self._lock:
            if not self._file.exists():
                return []
            try:
                with closing(self._open()) as database:
                    return [
                        Event(*row) for row in database.execute("select * from events order by at")
                    ]
            except sqlite3.Error:
                logger.debug("The numbers could not be read", exc_info=True)
                return []

    def reset(self) -> None:
        """Forgets everything."""
        self.recent.clear()
        with self._lock:
            self._waiting.clear()
            self._file.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=2.0)
        database.execute(SCHEMA)
        return database


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
        used=len({event.request for event in accepted}),
        whole=len(of("accepted", "all")),
        words=len(of("accepted", "word")),
        lines=len(of("accepted", "line")),
        characters=sum(event.size for event in accepted),
        later=share("later"),
        run=share("run"),
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
