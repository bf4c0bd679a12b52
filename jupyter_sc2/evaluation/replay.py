"""Measures the cost of typing a notebook: time to first text, tokens read and decoded, keys saved.

Keys are sent in real time; only thinking pauses are cut short once the assistant has nothing left to do. Each key sends
a request for ghost text, as the front end does, and the newest one wins. Entering a cell is a key, too. A notebook that
has just been opened is left alone until it is read, a minute at most.

Who accepts takes a suggestion at a pause where all of it is what they are about to type, after reading it for a moment,
and types on behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.evaluation.taking import after, request
from jupyter_sc2.evaluation.typist import READING_PAUSE_S, Event
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime import background
from jupyter_sc2.types import Completion, CompletionRequest
from jupyter_sc2.usage import percentile

MAX_WAIT_S = 120.0  # at a pause
MAX_OPENING_S = 60.0  # after a notebook is opened, before the first key
READING_S = 1.0  # a suggestion, before it is accepted; cut short like other pauses
AT_ONCE_MS = 50.0  # until a text, for whom it is simply there


@dataclass(eq=False)
class TypedRequest:
    """One key's request and its answers. Times are in seconds on the monotonic clock."""

    event: Event
    at: float
    first: float | None = None  # when the first text came
    answers: list[Completion] = field(default_factory=list)
    error: str = ""
    accepts: bool = False  # it is sent because the text before was accepted
    done: threading.Event = field(default_factory=threading.Event)

    def update(self, completion: Completion) -> None:
        if completion.text and self.first is None:
            self.first = time.monotonic()
        self.answers.append(completion)
        if completion.finish_reason is not None:
            self.done.set()

    def fail(self, error: SC2Error) -> None:
        self.error = str(error)
        self.done.set()


class Client(Protocol):
    """The assistant under test: a session, or a baseline."""

    def submit(
        self,
        request: CompletionRequest,
        update: Callable[[Completion], None],
        fail: Callable[[SC2Error], None],
    ) -> None: ...

    def prefetch(self, request: CompletionRequest) -> None: ...

    @property
    def idle(self) -> bool: ...

    @property
    def tokens_read(self) -> int: ...

    @property
    def tokens_ahead(self) -> tuple[int, int]:
        """Tokens decoded before anybody had requested them, and how many of them were used."""


def replay(
    client: Client,
    events: Iterable[Event],
    *,
    speed: float = 1.0,
    pauses_only: bool = False,
    accepts: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> list[TypedRequest]:
    """Types the events into a notebook and sends a request at each key, or only where the typist pauses.

    `speed` divides the gaps between keys: 2 is a typist twice as fast. One who `accepts` takes what is right.
    """
    cells: dict[int, str] = {}
    asked: list[TypedRequest] = []
    left: dict[
        int, int
    ] = {}  # by visit: the characters left to type after a suggestion was accepted

    def ask(event: Event, *, accepts: bool = False) -> TypedRequest:
        cells[event.cell] = event.text
        one = TypedRequest(event, time.monotonic(), accepts=accepts)
        asked.append(one)
        client.submit(request(event, cells, f"replay-{len(asked)}"), one.update, one.fail)
        return one

    for event in events:
        if event.visit in left:
            if not left[event.visit] or not 0 < len(event.ahead) < left[event.visit]:
                continue  # accepting has spared this key
            del left[event.visit]
        if event.gap == READING_PAUSE_S:  # no request is open: the next prompt may be prefetched
            cells[event.cell] = event.text
            client.prefetch(request(event, cells, "replay-0"))
            until = time.monotonic() + (0.0 if asked else MAX_OPENING_S)
            while not client.idle and time.monotonic() < until:
                time.sleep(0.05)
        sleep(event.gap / speed)
        cells[event.cell] = event.text
        if event.kind in ("open", "run") or (pauses_only and not event.pauses):
            continue
        one = ask(event)
        while event.pauses:
            one.done.wait(MAX_WAIT_S)
            text = _last(one).text
            if not (accepts and text and event.ahead.startswith(text)):
                break
            until = time.monotonic() + READING_S / speed
            while not client.idle and time.monotonic() < until:
                time.sleep(0.01)
            event = after(event, text)
            left[event.visit] = len(event.ahead)
            one = ask(event, accepts=True)
    if asked:
        asked[-1].done.wait(MAX_WAIT_S)
    return asked


def figures(
    asked: Sequence[TypedRequest],
    count: Callable[[str], int] = len,
    *,
    read_in_all: int | None = None,
    ahead: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """The cost of a replay.

    `count` gives the tokens of a text; `read_in_all` includes prefetched tokens as well; `ahead` are the tokens that
    were decoded before anybody had requested them, and those of them that were used.
    """
    paused = [one for one in asked if one.event.pauses]
    waited_s = sorted((one.first - one.at) * 1000 for one in paused if one.first is not None)
    read = sorted(_read(one) for one in asked)
    shown = [one for one in asked if one.first is not None]
    cached = [one for one in shown if _last(one).source != "model"]
    decoded = sum(_last(one).stats.generated_tokens for one in asked)
    letters = sum(len(_last(one).text) for one in paused)
    returns = [one for one in asked if one.event.kind == "return"]
    return {
        "keys": len(asked),
        "pauses": len(paused),
        "shown": sum(one.first is not None for one in paused),
        "errors": sum(bool(one.error) for one in asked),
        "first_text_ms": {f"p{p}": _percentile(waited_s, p) for p in (50, 90, 99)},
        "prompt_tokens_per_key": {
            "p50": _percentile(read, 50),
            "p95": _percentile(read, 95),
            "total": sum(read) if read_in_all is None else read_in_all,
        },
        "returning_to_a_cell": {
            "read_p50": _percentile(sorted(map(_read, returns)), 50),
            "cell_p50": _percentile(sorted(count(one.event.text) for one in returns), 50),
        },
        "cached_share": round(len(cached) / len(shown), 4) if shown else 0.0,
        "decoded_per_shown_character": round(decoded / letters, 3) if letters else None,
        "keys_saved": _keys_saved(paused, len(asked)),
        "accepts": _accepts(asked),
        "decoded_ahead": {"tokens": ahead[0], "used": ahead[1], "wasted": ahead[0] - ahead[1]},
    }


def _accepts(asked: Sequence[TypedRequest]) -> dict[str, Any]:
    """How many suggestions were accepted, the keys that this saved, and how soon the next text was there.

    The next text is the first that is shown after an accept, for the accept itself or for one of the next keys, before
    the next accept and in the same visit to the cell; it is there at once within AT_ONCE_MS of its key.
    """
    accepted = [index for index, one in enumerate(asked) if one.accepts]
    saved, waited_ms = 0, []
    for index in accepted:
        saved += asked[index].event.offset - asked[index - 1].event.offset - 1
        for one in asked[index:]:
            if one.event.visit != asked[index].event.visit or (
                one.accepts and one is not asked[index]
            ):
                break
            if one.first is not None:
                waited_ms.append((one.first - one.at) * 1000)
                break
    at_once = sum(ms <= AT_ONCE_MS for ms in waited_ms)
    return {
        "accepted": len(accepted),
        "characters_saved": saved,
        "followed_by_text": len(waited_ms),
        "at_once": at_once,
        "at_once_share": round(at_once / len(waited_ms), 4) if waited_ms else None,
        "next_text_ms_p50": _percentile(sorted(waited_ms), 50),
    }


def _read(one: TypedRequest) -> int:
    return sum(
        answer.stats.prompt_tokens - answer.stats.reused_tokens for answer in one.answers[-1:]
    )


def slowdown(
    session: Session, request: CompletionRequest, *, seconds: float = 0.5, rounds: int = 9
) -> dict[str, float]:
    """How many times as long a user's loop takes while the session completes `request` again and again.

    The median over `rounds`; in each the loop runs alone and then beside the session, so that other load on the machine
    affects both.
    """
    import numpy as np

    table = np.random.default_rng(0).random((400, 400))

    def python() -> None:
        sum(i * i for i in range(20_000))

    def numpy() -> None:
        (table @ table).sum()

    result = {}
    for name, work in (("python", python), ("numpy", numpy)):
        ratios = []
        for number in range(rounds):
            alone = _pace(work, seconds)
            stop = threading.Event()
            busy = background.Thread(_keep_busy, session, request, stop, number)
            busy.start()
            ratios.append(alone / _pace(work, seconds))
            stop.set()
            busy.join()
        result[name] = round(median(ratios), 3)
    return result


def _pace(work: Callable[[], None], seconds: float) -> float:
    """Rounds per second."""
    rounds, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        work()
        rounds += 1
    return rounds / (time.monotonic() - start)


def _keep_busy(
    session: Session, request: CompletionRequest, stop: threading.Event, series: int
) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        text = f"{request.text}\nvalue_{series}_{number} = "
        next_request = CompletionRequest(
            text=text, offset=len(text), notebook=request.notebook, trigger="invoke"
        )
        for _ in session.complete(next_request):
            if stop.is_set():
                break


def _last(one: TypedRequest) -> Completion:
    return one.answers[-1] if one.answers else Completion(text="")


def _keys_saved(paused: Sequence[TypedRequest], keys: int) -> float:
    """The share of keys saved if every suggestion that was right had been accepted.

    Accepting costs a key, too, and text from an accepted suggestion is not counted twice.
    """
    saved = 0
    rest: dict[int, int] = {}  # by visit: the characters left to type after an accepted suggestion
    for one in paused:
        event, text = one.event, _last(one).text
        left = len(event.ahead)
        if text and event.ahead.startswith(text) and left <= rest.get(event.visit, left):
            saved += len(text) - 1
            rest[event.visit] = left - len(text)
    return round(saved / keys, 4) if keys else 0.0


def _percentile(values: Sequence[float], share: int) -> float | None:
    """The percentile by nearest rank; `values` are sorted."""
    found = percentile(values, share / 100)
    return None if found is None else round(found, 1)
