"""What is guessed, and when nothing is."""

from jupyter_sc2.engines.decoding.prompt_lookup import MAX_DRAFT_TOKENS, PromptLookup


def test_the_draft_is_what_followed_the_same_tokens_before():
    assert PromptLookup([1, 2, 3, 9, 1, 2, 4, 9, 1])([2]) == [4, 9, 1, 2]


def test_the_longest_agreement_counts_more_than_the_latest():
    assert PromptLookup([1, 2, 3, 7, 9, 2, 3, 8, 1, 2])([3])[0] == 7


def test_there_is_no_draft_for_tokens_that_never_occurred():
    assert PromptLookup([1, 2, 3])([4, 5]) == ()
    assert PromptLookup([1])([]) == ()


def test_a_single_token_that_came_before_is_not_enough():
    assert PromptLookup([1, 2, 3])([2]) == ()


def test_what_was_said_a_key_ago_is_looked_at_first():
    assert PromptLookup([1, 2, 3, 1], [[1, 2, 5, 6]])([2]) == [5, 6]


def test_drafts_have_a_maximum_length():
    assert len(PromptLookup([*range(100), 3, 4])([5])) == MAX_DRAFT_TOKENS


def test_only_whole_tokens_are_compared():
    shifted = (1 << 16) | (2 << 24)
    assert PromptLookup([shifted, 3, 3])([(1 << 8), 7]) == ()
