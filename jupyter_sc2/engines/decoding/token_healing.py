"""Token healing: which tokens can spell the bytes of a constraint.

A prompt that ends in the middle of a token asks the model for something it never saw. So the prompt is cut back to a
token boundary, and the first tokens of the completion are constrained to the bytes that were cut off; the last of them
may run on beyond. A constraint may also offer several names: then the model chooses which of them it writes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from jupyter_sc2.types import SpellingConstraint, is_name_byte


class TokenPrefixIndex:
    """The vocabulary sorted by its bytes."""

    def __init__(self, bytes_of: Sequence[bytes]) -> None:
        """`bytes_of[id]` are the bytes of a token; tokens without any (special ones) are never allowed."""
        entries = sorted((spelled, id) for id, spelled in enumerate(bytes_of) if spelled)
        self._bytes = [spelled for spelled, _ in entries]
        self._ids = [id for _, id in entries]
        # What may follow a name: tokens that do not continue it, and special ones.
        self._ending = [id for id, spelled in enumerate(bytes_of) if not is_name_byte(spelled[:1])]

    def allowed(self, constraint: SpellingConstraint) -> list[int]:
        """The ids of the tokens that spell a beginning of an alternative, or all of it and more."""
        if constraint.whole_names:
            return sorted({id for name in constraint.alternatives for id in self._of_name(name)})
        first = constraint.first
        return [*self._beginnings(first), *self._ids[self._from(first) : self._after(first)]]

    def _of_name(self, name: bytes) -> list[int]:
        """The same for a name that ends where it ends: "(" may follow "head", "er" may not."""
        if not name:
            return self._ending
        longer = range(self._from(name), self._after(name))
        ending = [self._ids[at] for at in longer if not _continues_name(self._bytes[at], len(name))]
        return [*self._beginnings(name), *ending]

    def _beginnings(self, spelled: bytes) -> list[int]:
        """The ids of the tokens that are a proper prefix of `spelled`."""
        found: list[int] = []
        for length in range(1, len(spelled)):
            prefix = spelled[:length]
            found += self._ids[self._from(prefix) : self._from(prefix + b"\0")]
        return found

    def _from(self, spelled: bytes) -> int:
        return bisect_left(self._bytes, spelled)

    def _after(self, prefix: bytes) -> int:
        """The first position past all that begins with `prefix`."""
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return len(self._bytes)
        return self._from(stem[:-1] + bytes([stem[-1] + 1]))


def _continues_name(spelled: bytes, position: int) -> bool:
    """Whether the bytes before and after this position belong to one name."""
    return is_name_byte(spelled[position - 1 : position]) and is_name_byte(
        spelled[position : position + 1]
    )
