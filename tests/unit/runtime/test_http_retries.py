"""How long the policy for HTTP requests waits, and how notes on a wait are shown."""

from __future__ import annotations

import io
from email.utils import formatdate

import pytest

from jupyter_sc2.runtime import http_retries
from jupyter_sc2.runtime.http_retries import DOWNLOADS, RetryPolicy, retry_after, wait
from jupyter_sc2.runtime.progress import Noted, TerminalBar, describe_load


def test_the_delays_double_up_to_a_limit_and_end():
    policy = RetryPolicy(retries=5, first_delay_s=1.0, max_delay_s=6.0, max_retry_after_s=9.0)
    delays = [policy.delay(count) for count in range(1, 7)]
    assert delays[:5] == pytest.approx([1, 2, 4, 6, 6], rel=http_retries.JITTER_SHARE)
    assert delays[5] is None


def test_no_two_kernels_wait_equally_long():
    assert len({DOWNLOADS.delay(1) for _ in range(20)}) > 10


def test_a_servers_wish_counts_where_it_is_longer():
    assert DOWNLOADS.delay(1, 40.0) == 40.0
    assert DOWNLOADS.delay(1, 1e9) == DOWNLOADS.max_retry_after_s
    assert DOWNLOADS.delay(5, 1.0) > 10.0


def test_without_a_servers_clock_a_date_is_compared_with_the_own(monkeypatch):
    monkeypatch.setattr(http_retries, "now", lambda: 1_000_000.0)
    assert retry_after({"retry-after": formatdate(1_000_030, usegmt=True)}) == 30.0


@pytest.mark.parametrize(
    "value",
    ["-1", "nan", "-inf", "x", "", "Mon, 99 Foo 2026", "Thu, 01 Jan 99999 00:00:00 GMT", "\x00"],
)
def test_a_wish_that_cannot_be_read_is_none(value):
    assert retry_after({"retry-after": value}) == 0.0


def test_a_wait_ends_with_what_its_check_raises():
    looks = []

    def check():
        looks.append(None)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait(3600.0, check)


def test_a_note_stands_in_the_bar_and_is_a_line_where_there_is_none():
    state = Noted("downloading", "The hub answers 503: next try in 4 s.")
    assert state == "downloading"
    assert describe_load(state, "m") == "downloading m (The hub answers 503: next try in 4 s)"
    out = io.StringIO()
    bar = TerminalBar(out)
    for each in ("downloading", state, state, Noted("downloading", ""), state):
        bar.show(each, "m", 0.5)
    bar.close()
    assert out.getvalue() == f"{state.note}\n{state.note}\n"
