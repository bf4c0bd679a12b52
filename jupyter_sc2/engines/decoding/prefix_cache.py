"""Which prompts are kept for when they come again: the other notebook, the cell below, the cell above.

Moving to another cell cuts the KV cache back to the cells above it; what is cut off would have to be read again
on the way back. This decides what is put aside, what is taken up again and what has to go; where the keys and
values are is the engine's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Held = TypeVar("Held")

# Reading this many tokens again costs less than putting them aside.
MIN_TOKENS_SAVED = 48
# The most prompts that are put aside.
MAX_PREFIXES = 8


@dataclass(eq=False)
class CachedPrefix(Generic[Held]):
    """A prompt that was put aside: its ids, and what the engine needs to take it up again."""

    ids: tuple[int, ...]
    held: Held
    nbytes: int = 0
    since: int = 0  # how many others were put aside before it


class PrefixCache(Generic[Held]):
    """The prompts that were put aside, in their order; at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[CachedPrefix[Held]] = []
        self._count = 0

    def pop_longer_match(self, ids: Sequence[int], held: int) -> CachedPrefix[Held] | None:
        """Takes out the one that has most of `ids`, if it has enough more than the first `held` of them."""
        best = max(self._kept, key=lambda kept: common_length(kept.ids, ids), default=None)
        if best is None or common_length(best.ids, ids) < held + MIN_TOKENS_SAVED:
            return None
        self._kept.remove(best)
        return best

    def add(self, kept: CachedPrefix[Held]) -> list[CachedPrefix[Held]]:
        """Keeps it, and returns those that have to go for it: what it contains, and those that are worth least."""
        contained = [
            old
            for old in self._kept
            if common_length(old.ids, kept.ids) > len(old.ids) - MIN_TOKENS_SAVED
        ]
        self._count += 1
        kept.since = self._count
        self._kept = [*(old for old in self._kept if old not in contained), kept]
        gone = contained
        while len(self._kept) > MAX_PREFIXES or (self.nbytes() > self._limit and self._kept):
            least = min(self._kept[:-1], key=self._worth, default=kept)
            self._kept.remove(least)
            gone.append(least)
        return gone

    def _worth(self, kept: CachedPrefix[Held]) -> float:
        """The tokens that no other one has, the less the longer it lies there.

        Many prompts differ in their last tokens alone, where the cursor is; the notebook context is in each of them.
        """
        others = (other for other in self._kept if other is not kept)
        shared = max((common_length(other.ids, kept.ids) for other in others), default=0)
        return (len(kept.ids) - shared) / (1 + self._count - kept.since)

    def clear(self) -> list[CachedPrefix[Held]]:
        gone, self._kept = self._kept, []
        return gone

    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)


class PromptState(Generic[Held]):
    """The ids whose keys and values an engine of this process holds, and the prompts that it has put aside.

    Where the keys and values are, and how they are copied, is told by the class that inherits from it.
    """

    def __init__(self, limit: int) -> None:
        """At most `limit` bytes are put aside."""
        self.ids: list[int] = []
        self.read = 0  # how many of them were read as a prompt; the others were decoded
        self._kept: PrefixCache[Held] = PrefixCache(limit)

    def trim_to_common_prefix(self, ids: Sequence[int], *, at_most: int) -> int:
        """Cuts back to the longest common prefix with `ids`, of `at_most` tokens; returns its length.

        What was read and would be lost is put aside, and a prompt that was put aside is taken up again where it
        has more of `ids`.
        """
        common = common_length(self.ids, ids[:at_most])
        longer = self._kept.pop_longer_match(ids[:at_most], common)
        if worth_caching(self.read, common):
            held, nbytes = self._copy(self.read)
            self._kept.add(CachedPrefix(tuple(self.ids[: self.read]), held, nbytes))
        if longer is not None:
            self._take(longer.held)
            self.ids, self.read = list(longer.ids), len(longer.ids)
            common = common_length(self.ids, ids[:at_most])
        self.truncate(common)
        return common

    def truncate(self, length: int) -> None:
        """Forgets what comes after the first `length` ids."""
        self._set_length(length)
        del self.ids[length:]
        self.read = min(self.read, length)

    def clear(self) -> None:
        """Forgets everything, also what a failed forward pass has left."""
        self.ids.clear()
        self.read = 0
        self._kept.clear()

    def _set_length(self, length: int) -> None:
        raise NotImplementedError

    def _copy(self, length: int) -> tuple[Held, int]:
        """Keys and values of the first `length` ids, and their bytes."""
        raise NotImplementedError

    def _take(self, held: Held) -> None:
        """Puts back what `_copy` gave."""
        raise NotImplementedError


def worth_caching(read: int, common: int) -> bool:
    """Whether a prompt of `read` tokens is put aside when only its first `common` are wanted now."""
    return read - common >= MIN_TOKENS_SAVED


def common_length(old: Sequence[int], new: Sequence[int]) -> int:
    limit = min(len(old), len(new))
    if tuple(old[:limit]) == tuple(new[:limit]):
        return limit
    return next(i for i in range(limit) if old[i] != new[i])
