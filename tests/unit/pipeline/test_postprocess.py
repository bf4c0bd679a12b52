import pytest

from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.postprocess import scope, skip_reason, trim
from tests.support.goldens import parts, read, request

GOLDEN = read("postprocess")


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case):
    asked, raw = parts(case)
    # TOML drops the first line end of a multi-line string, so such a text starts with two.
    assert trim(raw, asked, scope(asked), final=True) == (case["shown"], case["complete"])


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_a_complete_text_stays_what_it_is_when_more_is_decoded(case):
    asked, raw = parts(case)
    wanted = scope(asked)
    for end in range(len(raw)):
        shown, complete = trim(raw[:end], asked, wanted, final=False)
        if complete:
            assert shown == case["shown"]


@pytest.mark.parametrize("trigger", ["automatic", "invoke"])
@pytest.mark.parametrize(
    "char",
    [
        *("\x00", "\x07", "\x08", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\x9b", "\r"),
        *("\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u061c", "\u200b", "\u200d", "\u2028"),
        *("\u2029", "\u2060", "\ufeff", "\u00ad", "\u3164", "\U000e0041", "\U000e0100", "\ufe0f"),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_text_ends_before_what_nobody_sees(char, trigger):
    asked = request("x = ", trigger=trigger)
    for final in (False, True):
        assert trim(f"12{char}34", asked, "line", final=final) == ("12", True)
        assert trim(f"{char}34", asked, "line", final=final) == ("", True)


def test_a_line_end_of_two_characters_may_come_in_two_parts():
    asked = request("if x:\n    ", trigger="invoke")
    assert trim("a = 1\r", asked, "block", final=False) == ("a = 1", False)
    assert trim("a = 1\r\n    b = 2", asked, "block", final=False) == ("a = 1\n    b = 2", False)
    assert trim("a = 1\r", asked, "block", final=True) == ("a = 1", True)


@pytest.mark.parametrize("text", ["'👩‍💻 ❤️ 1️⃣'", "'می‌خواهم'"])
def test_joiners_that_are_part_of_what_is_seen_stay_however_the_text_comes(text):
    asked = request("x = ")
    for end in range(1, len(text)):
        _, complete = trim(text[:end], asked, "line", final=False)
        assert not complete
    assert trim(text, asked, "line", final=True) == (text, False)


def test_nothing_is_asked_in_an_empty_cell_of_an_empty_notebook():
    assert skip_reason(request("")) == "nothing_to_add"


def test_an_empty_cell_below_others_is_worth_asking():
    assert skip_reason(request("", notebook=Notebook((Cell(id="a", source="x = 1"),)))) is None


def test_nothing_is_asked_inside_a_word():
    assert skip_reason(request("imp", "ort numpy")) == "nothing_to_add"


def test_an_invoked_request_is_always_tried():
    assert skip_reason(request("imp", "ort numpy", trigger="invoke")) is None


@pytest.mark.parametrize("line", ["%sc2 ", "x = 1\n  %sc2 load star"])
def test_the_arguments_of_our_own_magic_are_left_to_tab(line):
    assert skip_reason(request(line)) == "nothing_to_add"
    assert skip_reason(request(line + "\n")) is None


@pytest.mark.parametrize("cell_type", ["markdown", "raw"])
def test_prose_is_completed_only_where_that_is_wanted(cell_type):
    notebook = Notebook((Cell(id="a", source="We", cell_type=cell_type),))
    asked = request("We ", notebook=notebook, cell_id="a")
    assert skip_reason(asked) == "disabled"
    assert skip_reason(asked, prose=True) is None


def test_below_a_magic_that_runs_the_cell_a_bracket_that_closes_nothing_is_none():
    assert trim("f(x))", request("%%time\ny = "), "line", final=True)[0] == "f(x)"


def test_a_bracket_that_closes_nothing_is_bash_in_bash():
    asked = request("%%bash\ncase $x in\n", language="python")
    assert trim("a) ls;;", asked, "line", final=True)[0] == "a) ls;;"
