"""The keys that a user saves who takes what is right."""

from __future__ import annotations

import pytest

from jupyter_sc2.evaluation.taking import Answer, Asker, count, evaluate, keys_of, taken_of, words

CELLS = ["import numpy as np\nvalues = np.arange(10)\nprint(values.mean())"]


@pytest.mark.parametrize(
    "way, taken",
    [("whole", (0, 0)), ("word", (10, 4)), ("line", (0, 0))],
)
def test_what_is_right_in_part_is_taken_word_by_word_only(way, taken):
    assert taken_of("np.arange(x)", "np.arange(10)", way) == taken


@pytest.mark.parametrize("way", ["whole", "word", "line"])
def test_what_is_right_is_taken_by_one_key(way):
    assert taken_of("np.arange(10)", "np.arange(10)\nx", way) == (13, 1)


def test_the_right_lines_of_a_block_are_taken_line_by_line():
    assert taken_of("\n    a = 1\n    b = 2", "\n    a = 1\n    b = 3", "line") == (10, 1)


def test_a_word_that_goes_on_in_what_is_typed_is_not_taken():
    assert taken_of("train", "train_test", "word")[0] in (0, 5)
    assert taken_of("train x", "train_test", "word") == (0, 0)


def test_an_indentation_is_typed_by_the_editor():
    assert keys_of("if x:\n        return") == len("if x:") + 1 + len("return")


def perfect(event, there):
    return Answer(event.ahead.split("\n")[0])


def wrong(event, there):
    return Answer("zzz")


def test_who_is_always_helped_saves_most_keys():
    counts = count(CELLS, "whole", perfect)
    assert counts.saved > counts.keys / 3 and counts.wrong_characters == 0


def test_who_is_never_helped_saves_none_and_reads_all_that_is_wrong():
    counts = count(CELLS, "word", wrong)
    assert counts.saved == 0
    assert counts.wrong_characters == 3 * counts.shown
    assert counts.typed_past == counts.shown == counts.pauses


def test_what_was_taken_is_not_typed_again():
    whole = count(CELLS, "whole", lambda event, there: Answer(event.ahead))
    assert whole.saved <= whole.keys


def test_a_place_is_asked_for_once_whoever_takes():
    asked = []

    def complete(request):
        asked.append((request.text, request.offset))
        return Answer("zzz")

    evaluate({"a": CELLS}, Asker(complete))
    assert asked and len(asked) == len(set(asked))


def test_a_second_run_asks_for_nothing(tmp_path):
    first = evaluate({"a": CELLS}, Asker(lambda request: Answer("zzz", 1.0), tmp_path / "kept"))
    again = evaluate({"a": CELLS}, Asker(lambda request: pytest.fail("asked"), tmp_path / "kept"))
    assert first == again


@pytest.mark.parametrize(
    "text", ["np.arange(10, dtype=int)", "  \n    return x  ", "", "ä_1 + 'ü'"]
)
def test_the_words_of_a_text_are_all_of_it(text):
    assert "".join(words(text)) == text
