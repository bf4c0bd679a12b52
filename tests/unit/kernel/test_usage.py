"""The user's own numbers."""

import os
import re
import sqlite3
import sys
import threading
import time
from contextlib import closing, contextmanager
from unittest import mock

import pytest

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views.chart import bar_chart, rounded_up
from jupyter_sc2.kernel.views.wording import duration
from jupyter_sc2.usage import (
    BATCH_EVENTS,
    LAST_LOCK_TIMEOUT_S,
    LOCK_TIMEOUT_S,
    MAX_PENDING_EVENTS,
    RETENTION_DAYS,
    Event,
    Usage,
    by_notebook,
    summary,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data" / "usage.sqlite"


@pytest.fixture
def usage(file):
    return Usage(lambda: True, file)


def a_day(usage):
    for number in range(20):
        usage.shown("a.ipynb", f"a{number}", 10, float(number))
    usage.shown("b.ipynb", "b0", 10, 500.0)
    usage.accepted("a.ipynb", "a1", "word", 2)
    usage.accepted("a.ipynb", "a1", "word", 3)
    usage.accepted("a.ipynb", "a2", "all", 10)
    usage.accepted("b.ipynb", "b0", "line", 7)
    usage.record_retention("a.ipynb", "a1", "later", True)
    usage.record_retention("a.ipynb", "a2", "later", False)
    usage.record_retention("a.ipynb", "a2", "run", True)


def test_the_numbers_of_all_notebooks_are_summed(usage):
    a_day(usage)
    whole = summary(usage.events())
    assert (whole.shown, whole.accepted) == (21, 3)
    assert (whole.in_full, whole.by_word, whole.by_line, whole.characters) == (1, 2, 1, 22)
    assert (whole.after_30s, whole.at_next_run) == ((1, 2), (1, 1))
    assert (whole.p50_ms, whole.p95_ms) == (10.0, 19.0)


def test_each_notebook_has_its_own(usage):
    a_day(usage)
    first, second = by_notebook(usage.events())
    assert (first.notebook, first.shown, first.accepted) == ("a.ipynb", 20, 2)
    assert (second.notebook, second.shown, second.p50_ms) == ("b.ipynb", 1, 500.0)


def test_they_outlive_the_kernel(usage, file):
    a_day(usage)
    usage.flush()
    assert summary(Usage(lambda: True, file).events()).shown == 21


def test_nothing_is_counted_or_written_while_it_is_off(file):
    usage = Usage(lambda: False, file)
    a_day(usage)
    assert usage.events() == []
    assert not file.exists()


def test_a_reset_forgets_all(usage, file):
    a_day(usage)
    usage.flush()
    usage.reset()
    assert usage.events() == []
    assert not file.exists()


def test_old_numbers_are_forgotten(usage):
    usage._add(Event(time.time() - (RETENTION_DAYS + 1) * 86400, "a.ipynb", "shown", "1"))
    usage.flush()
    assert usage.events() == []


def test_a_file_that_cannot_be_written_is_reported(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    usage = Usage(lambda: True, tmp_path / "file" / "usage.sqlite")
    a_day(usage)
    assert summary(usage.events()).shown == 21  # of this kernel
    assert usage.problem.endswith(f"cannot be used now: {tmp_path / 'file'}: File exists.")
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_code_is_kept(usage, file):
    usage.accepted("a.ipynb", "1", "all", len("secret"))
    usage.flush()
    assert b"secret" not in file.read_bytes()


def test_the_report_says_what_was_counted(usage):
    assert stats_view.report(usage.events())[0].startswith("No usage data yet")
    a_day(usage)
    whole, _, notebooks, plot = stats_view.report(usage.events())
    assert whole.rows == [
        ("Suggestions accepted", "3 of 21 (14%)"),
        ("Accepted in full, by word, by line", "1, 2, 1"),
        ("Characters saved", "22"),
        ("Kept after 30 s", "1 of 2"),
        ("Kept at the next run", "1 of 1"),
        ("Typical wait", "0.01 s (95% under 0.02 s)"),
    ]
    assert notebooks.rows[0][:3] == ("20", "2", "10%") and notebooks.rows[0][-1] == "a.ipynb"
    assert plot.plain.startswith("shown on each of the last 14 days: ▁")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.0, "0.00 s"),
        (0.054, "0.05 s"),
        (0.0999, "0.1 s"),
        (0.5, "0.5 s"),
        (9.96, "10 s"),
        (20.468, "20 s"),
        (59.7, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3725, "1 h 2 min"),
    ],
)
def test_a_time_is_written_as_people_do(seconds, words):
    assert duration(seconds) == words


def test_the_chart_has_a_bar_for_what_was_shown_and_one_for_what_was_accepted(usage):
    a_day(usage)
    days = stats_view.per_day(usage.events())
    assert days[-1] == (21, 3)
    assert set(days[:-1]) == {(0, 0)}
    chart = bar_chart(days, now=1_700_000_000)
    assert chart.count("<g>") == len(days)
    heights = re.findall(r'height="([\d.]+)" fill="var', chart)
    assert heights == ["52.5", "7.5"]  # of an axis up to 40
    assert re.findall(r"<title>([^<]*)", chart)[-1] == "14 Nov: 21 shown, 3 accepted"


@pytest.mark.parametrize(
    ("most", "top"),
    [(0, 2), (1, 2), (2, 2), (3, 4), (5, 10), (10, 10), (11, 20), (399, 400), (401, 1000)],
)
def test_the_axis_ends_at_a_round_number_that_half_is_whole_of(most, top):
    assert rounded_up(most) == top and top % 2 == 0


def test_a_chart_of_days_without_suggestions_has_an_axis_too():
    chart = bar_chart([(0, 0)] * 14, now=1_700_000_000)
    assert "<span>2</span><span>1</span><span>0</span>" in chart


def test_a_sparkline_is_as_high_as_its_highest_value():
    assert stats_view.sparkline([0.0, 1.0]) == "▁█"


# What must not hurt


@pytest.mark.parametrize("name", ["x\udce9.ipynb", "a\x00b.ipynb", "\ud800", "é" * 10_000])
def test_a_notebook_of_any_name_is_counted(usage, file, name):
    usage.shown("a.ipynb", "1", 10, 1.0)
    usage.shown(name, name, 10, 1.0)
    usage.flush()
    events = Usage(lambda: True, file).events()
    assert [event.size for event in events] == [10, 10]
    for block in stats_view.report(events):
        (block if isinstance(block, str) else getattr(block, "plain", "") or block.text()).encode()


def damage(file, how):
    data = file.read_bytes()
    match how:
        case "not a database":
            file.write_bytes(b"\x00garbage" * 1000)
        case "torn":
            file.write_bytes(data[: len(data) // 2])
        case "pages":
            file.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
        case "header":
            file.write_bytes(b"\xff" * 100 + data[100:])
        case "other columns":
            file.unlink()
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("create table events (at, notebook)")


@pytest.mark.parametrize("how", ["not a database", "torn", "pages", "header", "other columns"])
@pytest.mark.parametrize("first", ["read", "written"])
def test_a_damaged_file_is_reported_and_renamed_and_counting_continues(usage, file, how, first):
    a_day(usage)
    usage.flush()
    damage(file, how)
    damaged = file.read_bytes()
    other = Usage(lambda: True, file)
    if first == "read":
        assert other.events() == []
    other.shown("a.ipynb", "1", 10, 1.0)
    assert [event.size for event in other.events()] == [10]
    aside = file.with_name("usage.sqlite.damaged-1")
    assert str(aside) in other.problem and "damaged" in other.problem
    assert aside.read_bytes() == damaged
    assert len(Usage(lambda: True, file).events()) == 1
    assert Usage(lambda: True, file).problem == ""


def test_a_file_of_a_later_version_with_more_in_it_is_read_and_written(usage, file):
    a_day(usage)
    usage.flush()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("alter table events add column model text")
        database.execute("create table other (x)")
    usage.shown("a.ipynb", "later", 10, 1.0)
    assert summary(Usage(lambda: True, file).events()).shown == 21
    assert summary(usage.events()).shown == 22 and usage.problem == ""


def test_text_that_is_no_utf_8_is_read_all_the_same(usage, file):
    a_day(usage)
    usage.flush()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update events set notebook = cast(x'ff' as text), ms = 'soon'")
    events = Usage(lambda: True, file).events()
    assert summary(events).shown == 21
    assert {event.notebook for event in events} == {"\ufffd"}


def test_what_cannot_be_written_now_is_written_later(usage, file):
    a_day(usage)
    usage.flush()
    with closing(sqlite3.connect(file)) as database:
        database.execute("begin exclusive")
        usage.shown("a.ipynb", "later", 10, 1.0)
        usage.flush()
        assert "locked" in usage.problem
    usage.flush()
    assert usage.problem == ""
    assert summary(Usage(lambda: True, file).events()).shown == 22


def test_who_counts_waits_for_no_file(usage, file):
    """Fails where a full batch is written by who counts: each waits until the other kernel has written."""
    a_day(usage)
    usage.flush()
    with closing(sqlite3.connect(file)) as database:
        database.execute("begin exclusive")
        began = time.monotonic()
        for number in range(200):
            usage.shown("a.ipynb", f"later{number}", 10, 1.0)
        assert time.monotonic() - began < LOCK_TIMEOUT_S
    assert summary(usage.events()).shown == 221


def test_numbers_that_cannot_be_forgotten_are_an_error_in_words(usage, file):
    file.mkdir(parents=True)
    with pytest.raises(SC2Error, match="cannot be removed"):
        usage.reset()


def test_no_number_is_lost_where_the_user_freezes_time_in_the_future(usage):
    a_day(usage)
    usage.flush()
    with mock.patch("time.time", return_value=time.time() + 100 * 365 * 86400):
        usage.shown("a.ipynb", "frozen", 10, 1.0)
        usage.flush()
    assert summary(usage.events()).shown == 22


@contextmanager
def held(file, lock):
    """While another process, or so it seems, holds this lock of the file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"begin {lock}")
        if lock == "deferred":
            database.execute("select * from events").fetchone()
        yield


@pytest.mark.parametrize("lock", ["exclusive", "immediate", "deferred"])
def test_what_was_counted_while_the_file_was_locked_is_written_once_and_in_order(usage, file, lock):
    a_day(usage)
    usage.flush()
    with held(file, lock):
        for number in range(3 * BATCH_EVENTS):
            usage.shown("a.ipynb", f"later{number}", 10, 1.0)
            if number % 20 == 0:
                usage.flush()
        usage.events()
        assert "locked" in usage.problem
    for _ in range(3):
        usage.flush()
    assert usage.problem == ""
    requests = [event.request for event in Usage(lambda: True, file).events()]
    assert requests[-3 * BATCH_EVENTS :] == [f"later{number}" for number in range(3 * BATCH_EVENTS)]
    assert len(requests) == 28 + 3 * BATCH_EVENTS


def test_what_was_counted_while_the_file_was_locked_is_shown_meanwhile(usage, file):
    a_day(usage)
    usage.flush()
    with held(file, "immediate"):
        usage.shown("a.ipynb", "later", 10, 1.0)
        assert summary(usage.events()).shown == 22
        assert "locked" in usage.problem  # although it could be read


def test_who_looks_waits_once_for_a_locked_file(usage, file, monkeypatch):
    a_day(usage)
    usage.flush()
    waits = []
    connect = sqlite3.connect
    monkeypatch.setattr(
        "jupyter_sc2.usage.sqlite3.connect",
        lambda file, timeout: waits.append(timeout) or connect(file, timeout=0.0),
    )
    with closing(connect(file, isolation_level=None)) as database:
        database.execute("begin exclusive")
        usage.shown("a.ipynb", "later", 10, 1.0)
        usage.events()
    assert sum(waits) == LOCK_TIMEOUT_S <= 0.5


def test_who_ends_waits_for_a_file_that_is_locked_for_a_moment(usage, file):
    a_day(usage)
    usage.flush()
    usage.shown("a.ipynb", "last", 10, 1.0)
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as database:
        database.execute("begin exclusive")
        free = threading.Timer(2 * LOCK_TIMEOUT_S, lambda: database.execute("rollback"))
        free.start()
        usage.flush(LAST_LOCK_TIMEOUT_S)
        free.join()
    assert usage.problem == "" and summary(Usage(lambda: True, file).events()).shown == 22


def test_only_so_many_events_wait_for_a_file(usage, file):
    a_day(usage)
    usage.flush()
    with held(file, "exclusive"):
        for number in range(MAX_PENDING_EVENTS + 10):
            usage.shown("a.ipynb", str(number), 10, 1.0)
        assert len(usage._pending) == MAX_PENDING_EVENTS
    events = usage.events()
    assert [event.request for event in events[-2:]] == ["5008", "5009"]


IN_ITS_PLACE = {
    "a folder": lambda file: file.mkdir(),
    "a pipe": lambda file: os.mkfifo(file),
    "a device": lambda file: file.symlink_to("/dev/full"),
    "a link to itself": lambda file: file.symlink_to(file),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no files like these")
@pytest.mark.parametrize("what", IN_ITS_PLACE)
def test_what_is_no_file_in_its_place_is_renamed(usage, file, what):
    file.parent.mkdir()
    IN_ITS_PLACE[what](file)
    a_day(usage)
    assert summary(usage.events()).shown == 21
    aside = file.with_name("usage.sqlite.damaged-1")
    assert str(aside) in usage.problem and os.path.lexists(aside)
    assert summary(Usage(lambda: True, file).events()).shown == 21


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_what_does_not_fit_on_a_full_disk_is_written_when_there_is_room(usage, file):
    import resource

    a_day(usage)
    usage.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(500):
        usage.shown("a.ipynb", f"later{number}" * 10, 10, 1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, hard))
    try:
        usage.flush()
        assert "cannot be used now" in usage.problem
        assert summary(usage.events()).shown == 521
        assert "cannot be used now" in usage.problem
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    usage.flush()
    assert usage.problem == ""
    assert summary(Usage(lambda: True, file).events()).shown == 521
