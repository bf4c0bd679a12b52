"""Several front ends at one kernel: who is answered when, and that each request ends once."""

import random
import threading
from collections import Counter

import pytest

from jupyter_sc2.errors import GenerationError
from jupyter_sc2.pipeline import request_queue
from jupyter_sc2.pipeline.request_queue import MAX_WAITING, MAX_WAITING_IN_ALL
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.unit.pipeline.test_session import Answers, submit, wait_until


def asked_by(front_end: str, text: str = "x = ", **fields) -> CompletionRequest:
    return CompletionRequest(text=text, offset=len(text), front_end=front_end, **fields)


class Stepped(FakeEngine):
    """Says "ok" to one request at each `step`."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = threading.Semaphore(0)

    def step(self) -> None:
        self._steps.release()

    def generate(self, ids, sampling, stop_ids, cancelled, constraint=None, draft=None):
        self.started.set()
        while not self._steps.acquire(timeout=0.005):
            if cancelled():
                return
        if cancelled():
            self.step()  # is for another
            return
        self.answers = ["ok"]  # whole, though it be cancelled from now on: the step is taken
        yield from super().generate(ids, sampling, stop_ids, lambda: False, constraint)


@pytest.fixture
def stepped():
    return Stepped()


@pytest.fixture
def shared(stepped):
    """A session with an engine that answers step by step."""
    session = Session(load_engine=lambda model, **_: stepped)
    session.load()
    session.wait_ready(5)
    yield session
    session.close()


def is_answered(answers: Answers) -> bool:
    return answers.done.is_set() and answers.error is None and answers.updates[-1].text == "ok"


def test_a_key_in_another_front_end_replaces_nothing(session, fake_engine):
    fake_engine.answers = ["one", "other"]
    fake_engine.gate.clear()
    one = submit(session, asked_by("a"))
    assert fake_engine.started.wait(5)
    other = submit(session, asked_by("b", "y = "))
    fake_engine.gate.set()
    assert (one.final.text, other.final.text) == ("one", "other")


def test_a_key_in_another_cell_replaces_nothing(session, fake_engine):
    fake_engine.answers = ["one", "other"]
    fake_engine.gate.clear()
    one = submit(session, asked_by("a", cell_id="1"))
    assert fake_engine.started.wait(5)
    other = submit(session, asked_by("a", "y = ", cell_id="2"))
    fake_engine.gate.set()
    assert (one.final.text, other.final.text) == ("one", "other")


def test_who_invokes_ends_the_ghost_text_of_their_own_front_end_alone(shared, stepped):
    ghosts = [submit(shared, asked_by(name)) for name in "ab"]
    assert stepped.started.wait(5)
    invoked = submit(shared, asked_by("b", trigger="invoke"))
    for _ in range(2):
        stepped.step()
    assert invoked.final.text == "ok"
    assert [one.final.finish_reason for one in ghosts] == ["stop", "cancelled"]


def test_the_same_key_in_two_windows_on_a_notebook_is_answered_in_both(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.hold_after("np.z")
    one = submit(session, asked_by("a", cell_id="1"))
    wait_until(lambda: fake_engine.held)
    other = submit(session, asked_by("b", "x = np.", cell_id="1"))
    fake_engine.hold_after(None)
    # It is not gone on with, as that would end the first one.
    assert one.final.text == "np.zeros(3)"
    assert (other.final.text, other.final.source) == ("zeros(3)", "cache")


@pytest.mark.parametrize("cells", [1, 3])
def test_who_types_ten_times_as_quickly_has_no_more_turns(shared, stepped, cells):
    """Counted by requests: with each step one of six front ends is answered, and the quick one types ten keys."""
    front_ends = ["quick", "a", "b", "c", "d", "e"]
    asked: list[tuple[str, Answers]] = []

    def texts() -> Counter[str]:
        return Counter(front_end for front_end, one in asked if is_answered(one))

    for step in range(60):
        for front_end in front_ends:
            for key in range(10 if front_end == "quick" else 1):
                text = f"{front_end}_{step}_{key} = "
                request = asked_by(front_end, text, cell_id=str(key % cells))
                asked.append((front_end, submit(shared, request)))
        stepped.step()
        wait_until(lambda step=step: texts().total() > step)
    # Ten turns each; one that was just answered may ask again only after the next turn has begun.
    assert set(texts()) == set(front_ends)
    assert min(texts().values()) >= 8
    assert texts()["quick"] <= 12


def test_a_front_end_that_invokes_again_and_again_keeps_nobody_waiting(shared, stepped):
    invoked = [submit(shared, asked_by("a", f"x{n} = ", trigger="invoke")) for n in range(5)]
    ghost = submit(shared, asked_by("b"))
    for _ in range(2):
        stepped.step()
    assert ghost.final.text == "ok"
    assert [one.done.is_set() for one in invoked] == [True, False, False, False, False]


def test_invoked_requests_of_a_front_end_are_answered_in_their_order_and_before_its_ghost_text(
    session, fake_engine
):
    fake_engine.gate.clear()
    submit(session, asked_by("a", "first = ", trigger="invoke"))
    assert fake_engine.started.wait(5)
    texts = ["ghost = ", "second = ", "third = "]
    last = [
        submit(
            session,
            asked_by("a", text, trigger="automatic" if n == 0 else "invoke", cell_id=f"{n}"),
        )
        for n, text in enumerate(texts)
    ]
    fake_engine.gate.set()
    for one in last:
        assert one.final
    said = [fake_engine.asked(n) for n in range(4)]
    order = [
        next(word for word in ("first", "second", "third", "ghost") if word in one) for one in said
    ]
    assert order == ["first", "second", "third", "ghost"]


def test_nobody_waits_for_a_next_key_while_another_front_end_waits(session, fake_engine):
    session.load()
    session.wait_ready(5)
    for _ in range(
        20
    ):  # a model that takes long, so that decoding is put off until the next key is overdue
        session._debounce.record_latency(10.0)
        session._debounce.record_keystroke(0.0, "a")
    session._debounce.delay = lambda front_end: 60.0 if front_end == "a" else 0.0
    fake_engine.answers = ["one", "other"]
    one = submit(session, asked_by("a"))
    wait_until(lambda: session.status.state == "generating")
    other = submit(session, asked_by("b", "y = "))
    assert (one.final.text, other.final.text) == ("one", "other")


def test_what_each_front_end_may_ask_next_is_read_ahead(session, fake_engine):
    read = []
    prefill = fake_engine.prefill
    fake_engine.prefill = lambda ids, cancelled: read.append(ids) or prefill(ids, cancelled)
    session.load()
    session.wait_ready(5)
    session.set_kernel_busy(True)
    for name in "abac":
        session.prefetch(asked_by(name, f"from_{name} = "))
    session.set_kernel_busy(False)
    wait_until(lambda: session.idle)
    texts = [fake_engine.decode_bytes(ids).decode() for ids in read]
    assert [text[text.index("from_") :][:6] for text in texts] == ["from_b", "from_a", "from_c"]


def test_a_key_takes_the_place_of_what_its_own_front_end_was_to_read_ahead(session, fake_engine):
    session.load()
    session.wait_ready(5)
    session.set_kernel_busy(True)
    for name in "ab":
        session.prefetch(asked_by(name, f"from_{name} = "))
    assert submit(session, asked_by("a")).final
    session.set_kernel_busy(False)
    wait_until(lambda: session.idle)
    assert b"from_b" in fake_engine.decode_bytes(fake_engine._read)


# How many may wait


def test_beyond_sixteen_invoked_requests_wait_no_more_and_that_is_said(shared, stepped):
    running = submit(shared, asked_by("a", trigger="invoke"))
    assert stepped.started.wait(5)
    waiting = [
        submit(shared, asked_by("a", f"x{n} = ", trigger="invoke")) for n in range(MAX_WAITING)
    ]
    refused = submit(shared, asked_by("a", "more = ", trigger="invoke"))
    assert refused.done.is_set()
    assert (refused.final.text, refused.final.reason) == ("", "queue_full")
    for one in [running, *waiting]:
        stepped.step()
        assert one.final.text == "ok"


def test_who_has_waited_too_long_behind_others_of_their_front_end_is_turned_away(
    shared, stepped, monkeypatch
):
    monkeypatch.setattr(request_queue, "MAX_WAIT_S", 0.0)
    running = submit(shared, asked_by("b", trigger="invoke"))
    assert stepped.started.wait(5)
    first, *others = [submit(shared, asked_by("a", f"x{n} = ", trigger="invoke")) for n in range(3)]
    others.append(submit(shared, asked_by("a")))
    alone = submit(shared, asked_by("c"))
    for one in (running, first, alone):
        stepped.step()
        assert one.final.text == "ok"
    assert [one.final.reason for one in others] == ["queue_full"] * 3


def test_nobody_is_turned_away_for_having_waited_for_a_model(stepped):
    there = threading.Event()
    session = Session(load_engine=lambda model, **_: there.wait(5) and stepped)
    asked = [submit(session, asked_by("a", f"x{n} = ", trigger="invoke")) for n in range(3)]
    for job in session._scheduler.queue:
        job.arrived -= 100
    there.set()
    for one in asked:
        stepped.step()
        assert one.final.text == "ok"
    session.close()


def test_a_full_queue_of_one_front_end_is_none_of_another(shared, stepped):
    for n in range(MAX_WAITING + 1):
        submit(shared, asked_by("a", f"x{n} = ", trigger="invoke"))
    other = submit(shared, asked_by("b", trigger="invoke"))
    for _ in range(3):
        stepped.step()
    assert other.final.text == "ok"


def test_ghost_text_waits_for_sixteen_places_of_a_front_end_and_the_oldest_gives_way(
    shared, stepped
):
    submit(shared, asked_by("b"))
    assert stepped.started.wait(5)
    ghosts = [submit(shared, asked_by("a", cell_id=str(n))) for n in range(MAX_WAITING + 1)]
    assert [one.done.is_set() for one in ghosts] == [True] + [False] * MAX_WAITING
    assert ghosts[0].final.reason == "cancelled"


def test_no_more_wait_than_there_is_room_for(shared, stepped):
    submit(shared, asked_by("first"))
    assert stepped.started.wait(5)
    for n in range(2 * MAX_WAITING_IN_ALL):
        last = submit(shared, asked_by(f"front end {n}", f"x{n} = "))
    assert len(shared._scheduler.queue) == MAX_WAITING_IN_ALL
    assert last.final.reason == "queue_full"
    own = submit(shared, asked_by("front end 1", "newer = "))  # replaces what waits already
    assert not own.done.is_set()


# Each request ends once


@pytest.mark.parametrize("end", ["replaced", "cancelled", "unloaded", "closed"])
def test_what_only_waits_is_ended_at_once_though_the_engine_is_stuck(session, fake_engine, end):
    fake_engine.answers = ["stuck"]
    fake_engine.hold_after("s")
    submit(session, asked_by("b", trigger="invoke"))
    wait_until(lambda: fake_engine.held)
    waiting = submit(session, asked_by("a", id="w"))
    match end:
        case "replaced":
            submit(session, asked_by("a", "newer = "))
        case "cancelled":
            session.cancel("w")
        case "unloaded":
            session.unload()
        case "closed":
            session.close()
    assert fake_engine.held and waiting.done.is_set()
    if end == "closed":
        assert isinstance(waiting.error, GenerationError)
    else:
        assert waiting.final.reason == "cancelled"
    fake_engine.hold_after(None)


class Panic(BaseException):
    """As Rust's is one: no Exception."""


def test_a_panic_of_the_engine_is_one_error_and_the_session_lives_on(session, fake_engine):
    fake_engine.error = Panic("in a tokenizer")
    failed = submit(session, asked_by("a"))
    assert failed.done.wait(5)
    assert str(failed.error) == "The model failed while completing: Panic: in a tokenizer"
    fake_engine.answers = ["fine"]
    assert submit(session, asked_by("a", "y = ")).final.text == "fine"


def test_a_listener_that_fails_is_told_the_end_once_and_disturbs_nobody(session, fake_engine):
    told = []

    def failing(news):
        told.append(news)
        raise RuntimeError("the window is gone")

    fake_engine.answers = ["one", "other"]
    session.submit(asked_by("a"), failing, failing)
    assert submit(session, asked_by("b", "y = ")).final.text == "other"
    assert sum(getattr(news, "finish_reason", "failed") is not None for news in told) == 1


def test_whatever_happens_each_request_ends_once():
    chance = random.Random(1)

    class Moody(FakeEngine):
        def generate(self, *args, **kwargs):
            mood = chance.random()
            if mood < 0.03:
                raise RuntimeError("out of memory")
            if mood < 0.06:
                raise Panic("in Rust")
            self.answers = ["np.zeros(3)\n", "ones(2)"][: 1 + (mood < 0.5)]
            yield from super().generate(*args, **kwargs)

    session = Session(load_engine=lambda model, **_: Moody())
    asked: list[Answers] = []
    for number in range(1200):
        front_end, cell = chance.choice("abcdef"), chance.choice("12")
        text = "x = " + "np.zeros(3)"[: chance.randrange(8)] + chance.choice(["", "", "q"])
        trigger = "invoke" if chance.random() < 0.2 else "automatic"
        request = asked_by(front_end, text, cell_id=cell, trigger=trigger, id=str(number))
        asked.append(submit(session, request))
        match chance.randrange(60):
            case 0 | 1 | 2 | 3:
                session.cancel(str(chance.randrange(number + 1)))
            case 4:
                session.unload()
            case 5:
                session.load()
            case 6 | 7 | 8:
                wait_until(lambda: session.idle)
    wait_until(lambda: session.idle)
    last = [submit(session, asked_by(name, trigger="invoke")) for name in "abc"]
    session.close()
    for one in [*asked, *last]:
        assert one.done.wait(5)
        finals = sum(update.finish_reason is not None for update in one.updates)
        assert finals + (one.error is not None) == 1
        assert one.error is not None or one.updates[-1].finish_reason is not None


# One front end alone


def test_with_one_front_end_all_happens_in_the_order_that_it_always_did(session, fake_engine):
    """The newest key first, invoked requests before ghost text, and no turn is given away.

    "7" only waits, so its end is told at once.
    """
    events: list[str] = []

    def ask(id: str, text: str, trigger: str = "automatic") -> Answers:
        answers = Answers()

        def update(completion):
            if completion.finish_reason is not None:
                events.append(
                    f"{id} {completion.finish_reason} {completion.source} {completion.text}"
                )
            answers.update(completion)

        session.submit(
            CompletionRequest(text=text, offset=len(text), trigger=trigger, id=id),
            update,
            answers.fail,
        )
        return answers

    session.subscribe(lambda status: events.append(status.state))
    fake_engine.answers = [
        "first",
        "np.zeros(3)",
        "nes(2)",
        "asked",
        "again",
        "ghost",
        "never",
        "last",
    ]
    session.load()
    session.wait_ready(5)
    fake_engine.hold_after("f")
    ask("1", "x = ")
    wait_until(lambda: fake_engine.held)
    two = ask("2", "y = ")  # another text: what is said is given up
    fake_engine.hold_after("np.")
    wait_until(lambda: fake_engine.held)
    ask("3", "y = np")  # what is being said
    fake_engine.hold_after("np.z")
    wait_until(lambda: fake_engine.held)
    assert two.done.is_set()
    four = ask("4", "y = np.o")  # is not: asked anew
    fake_engine.hold_after(None)
    assert four.final
    ask("5", "y = np.on").final  # noqa: B018
    fake_engine.hold_after("as")
    ask("6", "a = ", "invoke")
    wait_until(lambda: fake_engine.held)
    ghost = ask("7", "b = ")
    again = ask("8", "c = ", "invoke")  # before the ghost text, which it ends
    fake_engine.hold_after(None)
    assert again.final and ghost.final
    assert ask("9", "d = ").final
    fake_engine.hold_after("ne")
    running = ask("10", "e = ")
    wait_until(lambda: fake_engine.held)
    session.cancel("10")
    fake_engine.hold_after(None)
    assert running.final
    assert ask("11", "f = ").final
    wait_until(lambda: session.idle and session.status.state == "ready")
    assert events == [
        "loading",
        "ready",
        "generating",
        "1 cancelled model f",
        "ready",
        "generating",
        "2 cancelled model np.",
        "3 cancelled model .z",
        "ready",
        "generating",
        "4 stop model nes(2)",
        "ready",
        "5 stop cache es(2)",
        "generating",
        "7 cancelled model ",
        "6 stop model asked",
        "ready",
        "generating",
        "8 stop model again",
        "ready",
        "generating",
        "9 stop model ghost",
        "ready",
        "generating",
        "10 cancelled model ne",
        "ready",
        "generating",
        "11 stop model last",
        "ready",
    ]
