"""How much of a suggestion is shown: the end with the largest expected gain."""

from __future__ import annotations

import pytest

from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.pipeline.cut import ends_by_gain, probability_at
from jupyter_sc2.types import CompletionRequest

THRESHOLD = 1 / 6  # a wrong character costs a fifth of a key


def request(prefix: str, suffix: str = "") -> CompletionRequest:
    return CompletionRequest(text=prefix + suffix, offset=len(prefix))


def certainties(*tokens: tuple[str, float]) -> tuple[str, list[Certainty]]:
    text, found = "", []
    for token, probability in tokens:
        text += token
        found.append(Certainty(len(text), probability))
    return text, found


def shown(
    *tokens: tuple[str, float],
    prefix: str = "x = ",
    final: bool = True,
    threshold: float = THRESHOLD,
) -> str:
    text, found = certainties(*tokens)
    ends = ends_by_gain(text, found, threshold, request(prefix), final=final)
    return text[: ends[0]] if ends else ""


def test_a_sure_beginning_is_shown_without_a_doubtful_rest():
    text = shown(
        ("df", 0.95),
        (".", 0.95),
        ("groupby", 0.9),
        ("('region')", 0.9),
        ("['amount']", 0.1),
        (".mean()", 0.5),
    )
    assert text == "df.groupby('region')"


def test_a_text_that_is_sure_to_its_end_is_shown_whole():
    assert shown(("df", 0.99), (".", 0.99), ("head", 0.98), ("()", 0.98)) == "df.head()"


def test_a_doubtful_word_is_not_shown():
    assert shown(("something", 0.1), ("_else", 0.9)) == ""


def test_a_text_may_be_decoded_as_far_as_a_backslash_in_a_string():
    begun = [("\\", 0.99)]
    assert shown(*begun, prefix='line.strip("', final=False) == ""
    assert shown(*begun, ("n", 0.99), ('")', 0.99), prefix='line.strip("') == '\\n")'


def test_one_character_saves_no_key():
    assert shown((")", 0.99), prefix="print(x") == ""


@pytest.mark.parametrize("threshold, text", [(0.05, "first.second"), (0.4, "first"), (0.7, "")])
def test_the_higher_the_threshold_the_less_is_shown(threshold, text):
    tokens = ("first", 0.6), (".", 0.9), ("second", 0.4)
    assert shown(*tokens, threshold=threshold) == text


def test_at_a_threshold_of_1_nothing_is_shown():
    assert shown(("certain", 1.0), threshold=1.0) == ""


@pytest.mark.parametrize(
    "tokens",
    [
        (("print(x", 0.9), (", file=stderr)", 0.01)),  # an open bracket
        (("'some", 0.9), (" text'", 0.01)),  # an open string
        (("total +", 0.9), (" something", 0.01)),  # an operator
        (("3.", 0.9), ("14159", 0.01)),  # half of a number
    ],
)
def test_a_text_is_not_cut_where_something_is_open(tokens):
    assert shown(*tokens, final=False) in ("", "print", "total")


def test_a_bracket_that_is_opened_behind_one_that_the_user_opened_is_open():
    tokens = ("region')", 0.9), ("['amount'", 0.9), (" ", 0.9)
    assert shown(*tokens, prefix="df.groupby('", final=False) == "region')"


def test_a_bracket_that_is_opened_within_a_string_of_the_user_is_open():
    tokens = ("clean", 0.9), ("(df", 0.9), (", 10)", 0.1)
    assert shown(*tokens, prefix='print(f"Mean: {', final=False) == "clean"


@pytest.mark.parametrize(
    "prefix, expected", [("units = {", "'rain'"), ("if ", "'rain':"), ("print(", "'rain'")]
)
def test_behind_a_colon_in_brackets_more_has_to_follow(prefix, expected):
    assert shown(("'rain'", 0.9), (":", 0.9), (" clean", 0.01), prefix=prefix, final=False) == (
        expected
    )


def test_within_a_string_of_the_user_a_word_is_an_end():
    assert shown(("sales", 0.9), ("_2024.csv", 0.01), prefix="read('my ") == ""
    assert shown(("sales", 0.9), (" of 2024", 0.01), prefix="read('my ") == "sales"


@pytest.mark.parametrize(
    "prefix, expected",
    [
        ("plt.figure(", "figsize="),
        ("plt.figure(1,\n           ", "figsize="),
        ("f(a == (", "figsize"),
        ("print('(", "figsize"),
        ("options = {", "figsize"),
    ],
)
def test_the_name_of_an_argument_is_shown_with_its_equals_sign(prefix, expected):
    sign = ("=", 0.9) if expected.endswith("=") else ("==", 0.01)
    tokens = ("figsize", 0.9), sign, ("(10", 0.01), (", 5)", 0.9)
    assert shown(*tokens, prefix=prefix) == expected


def test_below_the_first_line_only_whole_lines_are_shown():
    first = [("self.owner", 0.95), (" = owner", 0.95)]
    second = [("\n        self", 0.9), (".balance", 0.3), (" = balance", 0.9)]
    third = [("\n        self", 0.9), (".rate", 0.1)]
    likely = [("\n        self.balance", 0.9), (" = balance", 0.9)]
    assert shown(*first, *second, final=False) == "self.owner = owner"
    assert shown(*first, *likely, *third, final=False) == (
        "self.owner = owner\n        self.balance = balance"
    )


def test_the_last_word_is_not_shown_before_it_is_known_to_be_whole():
    assert shown(("train", 0.99), final=False) == ""
    assert shown(("train", 0.99), (",", 0.9), final=False) == "train"


def test_the_choice_does_not_move_back_when_more_is_decoded():
    tokens = [
        ("model", 0.9),
        (".", 0.95),
        ("fit", 0.7),
        ("(X_train", 0.8),
        (", ", 0.9),
        ("y_train", 0.6),
        (")", 0.9),
    ]
    lengths = [len(shown(*tokens[:count], final=False)) for count in range(1, len(tokens) + 1)]
    assert lengths == sorted(lengths)


def test_what_is_left_out_is_shown_once_the_user_has_typed_what_is_before_it():
    assert shown(("values", 0.9), ("[index]", 0.15)) == "values"
    assert shown(("[index]", 0.15), prefix="x = values") == ""
    assert shown(("[index]", 0.4), prefix="x = values") == "[index]"


def test_a_place_is_as_probable_as_all_tokens_before_it():
    _, found = certainties(("ab", 0.5), ("cd", 0.5), ("ef", 0.5))
    assert [probability_at(end, found) for end in (0, 1, 2, 3, 6)] == [1, 0.5, 0.5, 0.25, 0.125]
