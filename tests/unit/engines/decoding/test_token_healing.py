"""Which tokens can spell a constraint, and what is left of it after each of them."""

import pytest

from jupyter_sc2.engines.decoding.token_healing import TokenPrefixIndex
from jupyter_sc2.types import SpellingConstraint


def names(*alternatives: bytes) -> SpellingConstraint:
    return SpellingConstraint(alternatives, whole_names=True)


def test_allowed_tokens_begin_the_suffix_or_run_beyond_it():
    index = TokenPrefixIndex(
        [b"", b"a", b"as", b"as np", b" ", b" as", b" a", b" b", b"\xff", b"\xff\xff", b"a"]
    )

    def allowed(suffix: bytes) -> list[int]:
        return sorted(index.allowed(SpellingConstraint((suffix,))))

    assert allowed(b" as") == [4, 5, 6]
    assert allowed(b"a") == [1, 2, 3, 10]
    assert allowed(b"as ") == [1, 2, 3, 10]
    assert allowed(b"\xff") == [8, 9]
    assert allowed(b"zzz") == []


def test_a_suffix_is_satisfied_once_all_of_it_is_spelled():
    assert SpellingConstraint((b" as",)).advance(b" a") == SpellingConstraint((b"s",))
    assert SpellingConstraint((b"as",)).advance(b"as") is None
    assert SpellingConstraint((b"a",)).advance(b"as np") is None


def test_without_a_suffix_there_is_no_constraint():
    assert SpellingConstraint.for_suffix(b"") is None
    with pytest.raises(ValueError, match="something to spell"):
        SpellingConstraint((b"",))


def test_any_of_several_names_may_be_spelled_and_none_runs_on():
    index = TokenPrefixIndex(
        [b"", b"a", b"ag", b"age", b"ages", b"age(", b"fa", b'age"]', b"fare", b"x"]
    )
    constraint = names(b"age", b"fare")
    assert index.allowed(constraint) == [1, 2, 3, 5, 6, 7, 8]
    assert constraint.advance(b"fa") == names(b"re")
    assert constraint.advance(b"age(") is None
    assert constraint.first == b"age"  # for an engine that can spell only one


def test_a_name_is_not_continued_unless_that_makes_another_of_the_names():
    index = TokenPrefixIndex([b"", b"set", b"_", b"_style", b"_legend", b"(", b"s", b"_st"])
    after = names(b"set", b"set_style").advance(b"set")
    assert after == names(b"", b"_style")
    assert index.allowed(after) == [0, 2, 3, 5, 7]
    assert after.advance(b"(") is None and after.advance(b"") is None
    assert after.advance(b"_") == names(b"style")


def test_a_spelled_name_is_pending_until_something_follows_that_is_not_part_of_a_name():
    spelled = names(b"age").advance(b"age")
    assert spelled == names(b"")
    assert spelled.advance(b" ") is None


def test_after_the_closing_quote_the_model_is_free():
    assert names(b'age"', b'ages"').advance(b'age"') is None
