"""Token healing: which tokens can spell out given bytes.

A prompt that ends in the middle of a token asks the model for something it never saw. So the prompt is cut
back to a token boundary, and the first tokens that are decoded are held to the bytes that were cut off; the
last of them may run on beyond.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class SpellingTable:
    """The vocabulary sorted by its bytes."""

    def __init__(self, bytes_of: Sequence[bytes]) -> None:
        """`bytes_of[id]` are the bytes of a token; tokens without any (special ones) are never allowed."""
        entries = sorted((spelled, id) for id, spelled in enumerate(bytes_of) if spelled)
        self._bytes = [spelled for spelled, _ in entries]
        self._ids = [id for _, id in entries]

    def allowed(self, rest: bytes) -> list[int]:
        """The ids of the tokens that begin with `rest` or that `rest` begins with; `rest` is not empty."""
        allowed: list[int] = []
        for length in range(1, len(rest)):
            allowed += self._ids[self._from(rest[:length]) : self._from(rest[:length] + b"\0")]
        allowed += self._ids[self._from(rest) : self._after(rest)]
        return allowed

    def _from(self, spelled: bytes) -> int:
        return bisect_left(self._bytes, spelled)

    def _after(self, prefix: bytes) -> int:
        """The first position past all that begins with `prefix`."""
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return len(self._bytes)
        return self._from(stem[:-1] + bytes([stem[-1] + 1]))


def advance(rest: bytes, spelled: bytes) -> bytes:
    """What is left to spell of `rest` after a token that was allowed."""
    return rest[len(spelled) :]
