"""Prompts that are put aside: which of them go when there are too many."""

from jupyter_sc2.engines.decoding.prefix_cache import (
    MAX_PREFIXES,
    CachedPrefix,
    PrefixCache,
    PromptState,
)


def numbers(start: int, count: int) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def test_a_prompt_outlives_many_that_differ_in_their_last_tokens_alone():
    kept: PrefixCache[str] = PrefixCache(1000)
    kept.add(CachedPrefix(numbers(0, 900), "the other notebook"))
    trunk = numbers(10_000, 900)
    for cell in range(MAX_PREFIXES + 2):
        kept.add(CachedPrefix((*trunk, *numbers(cell * 100, 60)), f"cell {cell}"))
    assert (found := kept.pop_longer_match(numbers(0, 900), 0)) is not None
    assert found.payload == "the other notebook"


def test_of_prompts_of_the_same_worth_the_oldest_goes():
    kept: PrefixCache[str] = PrefixCache(1000)
    gone = [
        old.payload
        for cell in range(MAX_PREFIXES + 2)
        for old in kept.add(CachedPrefix(numbers(cell * 100, 100), f"cell {cell}"))
    ]
    assert gone == ["cell 0", "cell 1"]


def test_a_prompt_that_is_larger_than_the_limit_is_not_stashed():
    kept: PrefixCache[str] = PrefixCache(1000)
    assert [old.payload for old in kept.add(CachedPrefix(numbers(0, 100), "large", 1001))] == [
        "large"
    ]


class Lengths(PromptState[int]):
    """A state whose keys and values are only counted."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.length = 0

    def read_prompt(self, ids: tuple[int, ...]) -> int:
        """Returns how many of the ids were there."""
        common = self.trim_to_common_prefix(ids, at_most=len(ids))
        self.ids, self.prompt_length, self.length = list(ids), len(ids), len(ids)
        return common

    def _set_length(self, length: int) -> None:
        self.length = length

    def _snapshot(self, length: int) -> tuple[int, int]:
        return length, length

    def _restore(self, payload: int) -> None:
        self.length = payload


def test_a_restored_prompt_is_stashed_again_if_nothing_new_of_it_was_read():
    state = Lengths()
    state.read_prompt(numbers(0, 200))
    state.read_prompt(numbers(1000, 60))
    assert state.trim_to_common_prefix(numbers(0, 210), at_most=209) == 200  # then it is cancelled
    assert state.read_prompt(numbers(1000, 60)) == 60
    assert state.read_prompt(numbers(0, 210)) == 200


def test_of_a_restored_prompt_counts_what_is_common():
    state = Lengths()
    state.read_prompt(numbers(0, 200))
    state.read_prompt(numbers(1000, 60))
    state.trim_to_common_prefix((*numbers(0, 100), *numbers(5000, 50)), at_most=149)
    assert (state.length, state.prompt_length, len(state.ids)) == (100, 100, 100)
