"""The prefix cache: prompts that are stashed and restored, such as those of another notebook or cell.

Moving to another cell truncates the KV cache to the cells above it, and the rest would have to be prefilled again on
the way back. This module decides what is stashed, restored and evicted; the engine holds the keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Payload = TypeVar("Payload")

# Prefilling fewer tokens than this again costs less than stashing them.
MIN_TOKENS_SAVED = 48
MAX_PREFIXES = 8


@dataclass(eq=False)
class CachedPrefix(Generic[Payload]):
    """A stashed prompt: its ids, and what the engine needs to restore it."""

    ids: tuple[int, ...]
    payload: Payload
    nbytes: int = 0
    since: int = 0  # how many prompts were stashed before it


class PrefixCache(Generic[Payload]):
    """The stashed prompts, oldest first; at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._prefixes: list[CachedPrefix[Payload]] = []
        self._count = 0

    def pop_longer_match(self, ids: Sequence[int], common: int) -> CachedPrefix[Payload] | None:
        """Removes and returns the prompt that shares most of `ids`, if that saves enough over the first `common`."""
        best = max(self._prefixes, key=lambda prefix: common_length(prefix.ids, ids), default=None)
        if best is None or common_length(best.ids, ids) < common + MIN_TOKENS_SAVED:
            return None
        self._prefixes.remove(best)
        return best

    def add(self, prefix: CachedPrefix[Payload]) -> list[CachedPrefix[Payload]]:
        """Stashes a prompt; returns those that are evicted: the ones it contains, and the least valuable."""
        contained = [
            old
            for old in self._prefixes
            if common_length(old.ids, prefix.ids) > len(old.ids) - MIN_TOKENS_SAVED
        ]
        self._count += 1
        prefix.since = self._count
        self._prefixes = [*(old for old in self._prefixes if old not in contained), prefix]
        gone = contained
        while len(self._prefixes) > MAX_PREFIXES or (
            self.nbytes() > self._limit and self._prefixes
        ):
            least = min(self._prefixes[:-1], key=self._value_of, default=prefix)
            self._prefixes.remove(least)
            gone.append(least)
        return gone

    def _value_of(self, prefix: CachedPrefix[Payload]) -> float:
        """The number of tokens that no other stashed prompt has, divided by its age.

        Many prompts differ only in their last tokens, at the cursor, and share the notebook context.
        """
        others = (other for other in self._prefixes if other is not prefix)
        shared = max((common_length(other.ids, prefix.ids) for other in others), default=0)
        return (len(prefix.ids) - shared) / (1 + self._count - prefix.since)

    def clear(self) -> list[CachedPrefix[Payload]]:
        gone, self._prefixes = self._prefixes, []
        return gone

    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._prefixes)


class PromptState(Generic[Payload]):
    """The ids whose keys and values an engine in this process holds, and its stashed prompts.

    Subclasses hold the keys and values and copy them.
    """

    def __init__(self, limit: int) -> None:
        """At most `limit` bytes are stashed."""
        self.ids: list[int] = []
        self.prompt_length = 0  # ids that were prefilled; the others were decoded
        self._stash: PrefixCache[Payload] = PrefixCache(limit)

    def trim_to_common_prefix(self, ids: Sequence[int], *, at_most: int) -> int:
        """Truncates to the longest common prefix with `ids`, of `at_most` tokens; returns its length.

        A prompt that would be lost is stashed, and a stashed prompt is restored if it shares more of `ids`.
        """
        common = common_length(self.ids, ids[:at_most])
        longer = self._stash.pop_longer_match(ids[:at_most], common)
        if worth_caching(self.prompt_length, common):
            payload, nbytes = self._snapshot(self.prompt_length)
            self._stash.add(CachedPrefix(tuple(self.ids[: self.prompt_length]), payload, nbytes))
        if longer is not None:
            self._restore(longer.payload)
            self.ids, self.prompt_length = list(longer.ids), len(longer.ids)
            common = common_length(self.ids, ids[:at_most])
        self.truncate(common)
        return common

    def truncate(self, length: int) -> None:
        """Forgets what comes after the first `length` ids."""
        self._set_length(length)
        del self.ids[length:]
        self.prompt_length = min(self.prompt_length, length)

    def clear(self) -> None:
        """Forgets everything, also what a failed forward pass has left."""
        self.ids.clear()
        self.prompt_length = 0
        self._stash.clear()

    def _set_length(self, length: int) -> None:
        raise NotImplementedError

    def _snapshot(self, length: int) -> tuple[Payload, int]:
        """Keys and values of the first `length` ids, and their bytes."""
        raise NotImplementedError

    def _restore(self, payload: Payload) -> None:
        """Puts back what `_snapshot` gave."""
        raise NotImplementedError


def worth_caching(prompt_length: int, common: int) -> bool:
    """Whether a prompt of `prompt_length` tokens is worth stashing when only its first `common` are needed now."""
    return prompt_length - common >= MIN_TOKENS_SAVED


def common_length(old: Sequence[object], new: Sequence[object]) -> int:
    """The number of items, of tokens or characters, that both begin with."""
    limit = min(len(old), len(new))
    if tuple(old[:limit]) == tuple(new[:limit]):
        return limit
    return next(i for i in range(limit) if old[i] != new[i])
