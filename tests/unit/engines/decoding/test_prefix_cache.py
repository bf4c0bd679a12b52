"""Prompts that are put aside: which of them go when there are too many."""

from jupyter_sc2.engines.decoding.prefix_cache import MAX_PREFIXES, CachedPrefix, PrefixCache


def numbers(start: int, count: int) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def test_a_prompt_outlives_many_that_differ_in_their_last_tokens_alone():
    kept: PrefixCache[str] = PrefixCache(1000)
    kept.add(CachedPrefix(numbers(0, 900), "the other notebook"))
    trunk = numbers(10_000, 900)
    for cell in range(MAX_PREFIXES + 2):
        kept.add(CachedPrefix((*trunk, *numbers(cell * 100, 60)), f"cell {cell}"))
    assert (found := kept.pop_longer_match(numbers(0, 900), 0)) is not None
    assert found.held == "the other notebook"


def test_of_prompts_of_the_same_worth_the_oldest_goes():
    kept: PrefixCache[str] = PrefixCache(1000)
    gone = [
        old.held
        for cell in range(MAX_PREFIXES + 2)
        for old in kept.add(CachedPrefix(numbers(cell * 100, 100), f"cell {cell}"))
    ]
    assert gone == ["cell 0", "cell 1"]


def test_a_prompt_that_is_larger_than_the_limit_is_not_kept():
    kept: PrefixCache[str] = PrefixCache(1000)
    assert [old.held for old in kept.add(CachedPrefix(numbers(0, 100), "large", 1001))] == ["large"]
