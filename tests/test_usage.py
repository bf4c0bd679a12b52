"""The user's own numbers."""

import time

import pytest

from jupyter_sc2.kernel import numbers
from jupyter_sc2.usage import KEPT_DAYS, Event, Usage, by_notebook, summary


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
    usage.seen_again("a.ipynb", "a1", "later", True)
    usage.seen_again("a.ipynb", "a2", "later", False)
    usage.seen_again("a.ipynb", "a2", "run", True)


def test_the_numbers_of_all_notebooks_are_summed(usage):
    a_day(usage)
    whole = summary(usage.events())
    assert (whole.shown, whole.used) == (21, 3)
    assert (whole.whole, whole.words, whole.lines, whole.characters) == (1, 2, 1, 22)
    assert (whole.later, whole.run) == ((1, 2), (1, 1))
    assert (whole.p50_ms, whole.p95_ms) == (10.0, 19.0)


def test_each_notebook_has_its_own(usage):
    a_day(usage)
    first, second = by_notebook(usage.events())
    assert (first.notebook, first.shown, first.used) == ("a.ipynb", 20, 2)
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
    usage._add(Event(time.time() - (KEPT_DAYS + 1) * 86400, "a.ipynb", "shown", "1"))
    usage.flush()
    assert usage.events() == []


def test_a_file_that_cannot_be_written_loses_only_numbers(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    usage = Usage(lambda: True, tmp_path / "file" / "usage.sqlite")
    a_day(usage)
    assert usage.events() == []
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_code_is_kept(usage, file):
    usage.accepted("a.ipynb", "1", "all", len("secret"))
    usage.flush()
    assert b"secret" not in file.read_bytes()


def test_the_lines_say_what_was_counted(usage):
    assert numbers.lines(usage.events())[0].startswith("Nothing was counted yet")
    a_day(usage)
    said = numbers.lines(usage.events())
    assert said[:4] == [
        "shown 21, used 3 (14%): 1 whole, 2 by word, 1 by line",
        "characters saved 22",
        "still there after 30 s 1 of 2, at the next run 1 of 1",
        "time to the first text: half within 10 ms, 95 % within 19 ms",
    ]
    assert said[5].startswith("a.ipynb: shown 20, used 2 (10%)")


def test_the_plot_has_two_bars_for_each_day(usage):
    a_day(usage)
    days = numbers.per_day(usage.events())
    assert days[-1] == (21, 3)
    assert set(days[:-1]) == {(0, 0)}
    assert numbers.plot(days).count("<rect") == 2 * len(days)
    assert numbers.spark([0.0, 1.0]) == "▁█"
