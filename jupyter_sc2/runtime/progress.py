"""Progress of a download or a load, and a bar in a terminal that shows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TextIO

# Called with "importing", "downloading", "waiting" (for another process), "quantizing" or "loading", and the share done
# from 0 to 1, or None. What it raises ends the loading.
Progress = Callable[[str, float | None], None]


class Noted(str):
    """A state that `progress` is called with, and a sentence on it; to whom the sentence is nothing it is the state."""

    note: str

    def __new__(cls, state: str, note: str) -> Noted:
        noted = super().__new__(cls, state)
        noted.note = note
        return noted


def note_of(state: str) -> str:
    """The sentence on a state; "" for none."""
    return getattr(state, "note", "")


# Whether what was asked for is not wanted any more.
Cancelled = Callable[[], bool]

# Seconds after which a bar appears: what is quicker than that needs none.
BAR_DELAY_S = 1.0


def describe_load(state: str, model: str) -> str:
    """A sentence for each state that an engine's `progress` is called with."""
    if state == "waiting":
        return f"waiting for another process that downloads {model}"
    note = note_of(state)
    return f"{state} {model} ({note.rstrip('.')})" if note else f"{state} {model}"


class TerminalBar:
    """A bar that is overwritten and erased at the end.

    Where `stream` is not a terminal there is none, and only the notes on a state are printed.
    """

    def __init__(self, stream: TextIO, *, delay: float = BAR_DELAY_S) -> None:
        from tqdm import tqdm

        class Bar(tqdm):  # type: ignore[misc]
            # tqdm would start a thread of its own, and make a lock for subprocesses.
            monitor_interval = 0
            _lock = threading.RLock()

        self._stream, self._note = stream, ""
        self._bar = Bar(
            total=1.0,
            file=stream,
            disable=not stream.isatty(),
            leave=False,
            delay=delay,
            bar_format="{desc}{percentage:3.0f} %|{bar:30}| {elapsed}<{remaining}",
        )

    def show(self, state: str, model: str, share: float | None) -> None:
        words = describe_load(state, model)
        if self._bar.disable:
            note, before = note_of(state), self._note
            self._note = note
            if note and note != before:
                print(note, file=self._stream)
            return
        if words != self._bar.desc.removesuffix(": "):
            self._bar.set_description(words, refresh=False)
            self._bar.reset(total=1.0)
        if share is not None:
            self._bar.update(share - self._bar.n)

    def close(self) -> None:
        self._bar.close()
