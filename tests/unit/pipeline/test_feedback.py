"""What the user types and accepts moves what is shown, a little."""

from __future__ import annotations

import pytest

from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.pipeline.feedback import MAX_MARGIN, MAX_SHIFT, Feedback
from jupyter_sc2.types import CompletionRequest

SUGGESTION = "arange(10)"
CERTAINTIES = [Certainty(6, 0.6), Certainty(10, 0.6)]


def at(prefix: str, cell: str = "1") -> CompletionRequest:
    return CompletionRequest(text=prefix, offset=len(prefix), cell_id=cell)


def show_and_type(feedback: Feedback, typed: str, times: int = 1) -> None:
    for _ in range(times):
        feedback.show(at("np."), SUGGESTION, CERTAINTIES)
        feedback.typed("m", at("np." + typed))


def test_what_turns_out_right_makes_the_model_more_certain():
    feedback = Feedback()
    show_and_type(feedback, SUGGESTION)
    assert feedback.correction("m").shift > 0


def test_what_is_typed_past_makes_it_less_certain():
    feedback = Feedback()
    show_and_type(feedback, "zeros")
    assert feedback.correction("m").shift < 0


def test_a_suggestion_that_is_being_typed_is_not_judged_yet():
    feedback = Feedback()
    show_and_type(feedback, "ara")
    assert feedback.correction("m").suggestions == 0


def test_a_suggestion_that_was_left_for_another_line_is_not_judged():
    feedback = Feedback()
    feedback.show(at("np."), SUGGESTION, CERTAINTIES)
    feedback.typed("m", at("x = 1\nnp."))
    assert feedback.correction("m").suggestions == 0


def test_what_is_typed_in_one_cell_does_not_judge_that_of_another():
    feedback = Feedback()
    feedback.show(at("np.", "1"), SUGGESTION, CERTAINTIES)
    feedback.typed("m", at("np.zeros", "2"))
    assert feedback.correction("m").suggestions == 0


def test_accepting_lowers_the_threshold_and_typing_past_raises_it():
    feedback = Feedback()
    feedback.accepted("m")
    assert feedback.threshold("m", 0.3) < 0.3
    show_and_type(feedback, "zeros", times=20)
    assert feedback.threshold("m", 0.3) > 0.3


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_that_shows_all_or_nothing_stays(threshold):
    feedback = Feedback()
    feedback.accepted("m")
    assert feedback.threshold("m", threshold) == threshold


def test_both_stay_within_bounds():
    feedback = Feedback()
    show_and_type(feedback, "zeros", times=500)
    assert feedback.correction("m").shift == -MAX_SHIFT
    assert feedback.correction("m").margin == MAX_MARGIN


def test_models_do_not_share_a_correction():
    feedback = Feedback()
    show_and_type(feedback, "zeros")
    assert feedback.correction("another").shift == 0


def test_switched_off_it_changes_nothing():
    feedback = Feedback(enabled=lambda: False)
    show_and_type(feedback, "zeros")
    feedback.accepted("m")
    assert (feedback.correction("m").shift, feedback.threshold("m", 0.3)) == (0, 0.3)


def test_a_later_process_goes_on_where_this_one_ended(tmp_path):
    feedback = Feedback(tmp_path / "feedback.json")
    show_and_type(feedback, "zeros")
    feedback.flush()
    assert Feedback(tmp_path / "feedback.json").correction("m") == feedback.correction("m")


def test_two_processes_keep_each_others_models(tmp_path):
    for model in ("one", "two"):
        feedback = Feedback(tmp_path / "feedback.json")
        feedback.accepted(model)
        feedback.flush()
    later = Feedback(tmp_path / "feedback.json")
    assert later.correction("one").margin < 0 and later.correction("two").margin < 0


def test_a_reset_forgets_all_of_it(tmp_path):
    feedback = Feedback(tmp_path / "feedback.json")
    show_and_type(feedback, "zeros")
    feedback.flush()
    feedback.reset()
    assert feedback.correction("m").shift == 0
    assert not (tmp_path / "feedback.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"m": 1}',
        '{"m": {"shift": "x"}}',
        '{"m": {"shift": NaN, "margin": 0, "suggestions": 1}}',
        "\0",
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path, text):
    (tmp_path / "feedback.json").write_text(text)
    assert Feedback(tmp_path / "feedback.json").correction("m").shift == 0


def test_a_folder_that_cannot_be_written_loses_nothing_but_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    feedback = Feedback(tmp_path / "file" / "feedback.json")
    show_and_type(feedback, "zeros")
    feedback.flush()
    assert feedback.correction("m").shift < 0
