"""Typing a notebook key by key, and what is counted while doing so."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from jupyter_sc2.evaluation.ablation import TECHNIQUES, without
from jupyter_sc2.evaluation.replay import TypedRequest, figures, replay
from jupyter_sc2.evaluation.typist import READING_PAUSE_S, Event, type_cells
from jupyter_sc2.types import Completion, Stats

SOURCES = [
    "import numpy as np\nimport pandas as pd\nx = np.arange(3)\nprint(x)",
    "for value in x:\n    total = value * 2\n    print(total)\nprint('done')",
]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(type_cells(SOURCES, Random(1)))


def test_each_cell_ends_as_its_source(events):
    runs = [event for event in events if event.kind == "run"]
    assert [event.text for event in runs] == SOURCES
    last = {event.cell: event.text for event in events if event.kind == "key"}
    assert list(last.values()) == SOURCES


def test_a_key_changes_one_character_before_the_cursor(events):
    for before, after in pairwise(events):
        if after.kind == "key" and after.visit == before.visit:
            assert abs(after.offset - before.offset) == 1


def test_what_lies_ahead_goes_on_from_the_cursor(events):
    for event in events:
        written = event.text[: event.offset] + event.ahead
        assert not event.ahead or SOURCES[event.cell].startswith(written) or event.visit > 1


def test_some_lines_are_typed_later_in_the_middle_of_a_cell():
    sources = ["\n".join(f"value_{n} = {n}" for n in range(40))]
    visits = {event.visit for event in type_cells(sources, Random(0))}
    assert len(visits) > 2


def test_the_same_seed_types_the_same(events):
    assert list(type_cells(SOURCES, Random(1))) == events


def test_every_key_asks_and_gets_an_answer(session, fake_engine, events):
    fake_engine.answers = ["text"] * len(events)
    session.load()
    session.wait_ready()
    result = figures(replay(session, events, sleep=lambda seconds: None))
    assert result["keys"] == sum(event.kind != "run" for event in events)
    assert result["errors"] == 0
    assert 0 < result["shown"] <= result["pauses"]


def test_with_few_keys_the_cells_above_are_there_already():
    events = list(type_cells(SOURCES, Random(1), keys=5))
    assert [(e.cell, e.text) for e in events if e.kind == "open"] == [(0, SOURCES[0])]
    assert {event.cell for event in events if event.kind == "key"} == {1}


def test_with_few_keys_the_first_lines_of_a_long_cell_are_there_already():
    source = "".join(f"value_{number} = {number}\n" for number in range(9)) + "value_0"
    (first, *_) = type_cells([source], Random(1), keys=20)
    assert source.startswith(first.text)
    assert 20 <= len(source) - len(first.text) < 20 + len("value_0 = 0\n")


def test_some_cells_are_entered_once_more(events):
    returns = [event for event in events if event.kind == "return"]
    assert {event.cell for event in returns} == {0, 1}
    assert all(event.text == SOURCES[event.cell] and not event.ahead for event in returns)


class Listener:
    """Answers at once, and notes what it was asked and told."""

    idle = True
    tokens_read = 0
    tokens_ahead = (0, 0)

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: list[str] = []

    def submit(self, request, update, fail):
        self.asked.append(request.text)
        update(Completion(text="x", finish_reason="stop"))

    def prefetch(self, request):
        self.told.append(request.text)


def test_where_nothing_is_asked_for_a_while_the_cell_is_told(events):
    listener = Listener()
    replay(listener, events, sleep=lambda seconds: None)
    assert len(listener.told) == sum(event.gap == READING_PAUSE_S for event in events) >= 4


def test_a_baseline_is_asked_at_pauses_only(events):
    listener = Listener()
    replay(listener, events, pauses_only=True, sleep=lambda seconds: None)
    assert len(listener.asked) == sum(event.pauses for event in events)


def test_what_returning_to_a_cell_costs_is_told_apart():
    one = asked("", "", prompt_tokens=50, reused_tokens=30)
    back = TypedRequest(replace(one.event, kind="return", text="abcd"), at=1.0, answers=one.answers)
    expected = {"read_p50": 20, "cell_p50": 8}
    assert figures([one, back], lambda text: 2 * len(text))["returning_to_a_cell"] == expected


class Oracle(Listener):
    """Suggests the rest of the line that is typed, and shows it at once."""

    def submit(self, request, update, fail):
        self.asked.append(request.text)
        line = request.prefix.rpartition("\n")[2]
        rest = next((whole[len(line) :] for whole in LINES if line and whole.startswith(line)), "")
        update(Completion(text=rest, finish_reason="stop"))


LINES = SOURCES[0].split("\n")


def typed_with_accepts() -> list[TypedRequest]:
    events = list(type_cells(SOURCES[:1], Random(1)))
    return replay(Oracle(), events, accepts=True, sleep=lambda seconds: None)


def test_who_accepts_types_no_key_of_the_accepted_text():
    asked = typed_with_accepts()
    accepted = next(one for one in asked if one.accepts)
    following = asked[asked.index(accepted) + 1]
    assert following.event.offset > accepted.event.offset
    assert len(asked) < len(typed_without_accepts())


def typed_without_accepts() -> list[TypedRequest]:
    events = list(type_cells(SOURCES[:1], Random(1)))
    return replay(Oracle(), events, sleep=lambda seconds: None)


def test_who_accepts_ends_with_the_same_cells():
    with_accepts, without_accepts = typed_with_accepts(), typed_without_accepts()
    assert with_accepts[-1].event.text == without_accepts[-1].event.text


def test_the_text_after_an_accept_counts_as_there_at_once_within_50_ms():
    before, accepted = asked("ab", "abcd"), asked("", "cd")
    accepted.accepts = True
    soon, late = asked("cd", "cd"), asked("cd", "cd")
    soon.first, late.first = 1.04, 1.06
    assert figures([before, accepted, soon])["accepts"]["at_once_share"] == 1.0
    assert figures([before, accepted, late])["accepts"]["at_once_share"] == 0.0
    assert figures([before, accepted])["accepts"]["at_once_share"] is None


def test_tokens_decoded_ahead_that_nobody_used_are_wasted():
    expected = {"tokens": 30, "used": 20, "wasted": 10}
    assert figures([asked("a", "a")], ahead=(30, 20))["decoded_ahead"] == expected


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_without_each_technique_every_key_gets_an_answer(session, fake_engine, events, technique):
    fake_engine.answers = ["text"] * len(events)
    session.load()
    session.wait_ready()
    with without(technique):
        result = figures(replay(session, events, sleep=lambda seconds: None))
    assert result["errors"] == 0 and result["shown"] > 0


def test_without_type_through_nothing_is_answered_from_the_cache(session, fake_engine, events):
    fake_engine.answers = ["text"] * len(events)
    session.load()
    session.wait_ready()
    with without("suggestion cache"):
        assert figures(replay(session, events, sleep=lambda s: None))["cached_share"] == 0


def asked(text: str, ahead: str, visit: int = 0, **stats) -> TypedRequest:
    event = Event(
        kind="key", cell=0, visit=visit, text="", offset=0, gap=0.1, pauses=True, ahead=ahead
    )
    one = TypedRequest(event, at=1.0, first=1.5 if text else None)
    one.answers.append(Completion(text=text, finish_reason="stop", stats=Stats(**stats)))
    return one


def test_a_right_suggestion_saves_all_its_keys_but_the_one_that_accepts_it():
    assert figures([asked("abcd", "abcdefgh")])["keys_saved"] == 3.0


def test_a_wrong_suggestion_saves_nothing():
    assert figures([asked("abxx", "abcdefgh")])["keys_saved"] == 0.0


def test_what_was_accepted_is_not_saved_again():
    both = [asked("abcd", "abcdefgh"), asked("cdef", "cdefgh")]
    assert figures(both)["keys_saved"] == 1.5


def test_tokens_read_are_those_that_were_not_reused():
    result = figures([asked("", "x", prompt_tokens=100, reused_tokens=97)])
    assert result["prompt_tokens_per_key"] == {"p50": 3, "p95": 3, "total": 3}


def test_the_time_to_the_first_text_counts_at_pauses():
    assert figures([asked("a", "a")])["first_text_ms"]["p50"] == 500.0
