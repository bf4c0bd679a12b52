"""When decoding is worth beginning."""

import pytest

from jupyter_sc2.pipeline.debounce import MAX_DELAY_S, MAX_TYPISTS, AdaptiveDebounce
from jupyter_sc2.pipeline.job import Job
from jupyter_sc2.types import CompletionRequest


def typing(gap: float, cost: float, keys: int = 20) -> AdaptiveDebounce:
    debounce = AdaptiveDebounce()
    for number in range(keys):
        debounce.record_keystroke(number * gap)
        debounce.record_latency(cost)
    return debounce


def test_a_slow_model_waits_until_the_next_key_is_overdue():
    assert typing(gap=0.15, cost=1.0).delay() == pytest.approx(0.15)


def test_a_quick_model_does_not_wait():
    assert typing(gap=0.2, cost=0.05).delay() == 0


def test_nobody_waits_long_for_a_slow_typist():
    assert typing(gap=0.5, cost=1.0).delay() == MAX_DELAY_S


@pytest.mark.parametrize(("waited_s", "counted"), [(0.2, 0.2), (-3, 0), (99, 1)])
def test_a_request_counts_from_its_key_though_not_for_long(waited_s, counted):
    request = CompletionRequest(text="", offset=0, waited_s=waited_s)
    job = Job(request, lambda completion: None, lambda error: None)
    assert job.arrived - job.typed_at == pytest.approx(counted)


def test_pauses_are_no_rhythm():
    debounce = typing(gap=0.15, cost=1.0)
    for number in range(30):
        debounce.record_keystroke(100 + 2.0 * number)
    assert debounce.delay() == pytest.approx(0.15)


@pytest.mark.parametrize("keys", [0, 5])
def test_as_long_as_little_is_known_nothing_waits(keys):
    assert typing(gap=0.15, cost=1.0, keys=keys).delay() == 0


def test_each_front_end_has_a_rhythm_of_its_own():
    debounce = typing(gap=0.15, cost=1.0)
    for number in range(20):
        debounce.record_keystroke(number * 0.15 + 0.07, "other")
    assert [debounce.delay(), debounce.delay("other")] == pytest.approx([0.15, 0.15])
    assert debounce.delay("a third") == 0


def test_front_ends_that_come_and_go_are_forgotten():
    debounce = typing(gap=0.15, cost=1.0)
    for number in range(MAX_TYPISTS):
        debounce.record_keystroke(0.0, f"page {number}")
    assert debounce.delay() == 0
    assert len(debounce._typists) == MAX_TYPISTS
