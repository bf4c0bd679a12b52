"""Token healing: which tokens can spell out given bytes.

A prompt that ends in the middle of a token asks the model for something it never saw. So the prompt is cut
back to a token boundary, and the first tokens that are decoded are held to the bytes that were cut off; the
last of them may run on beyond.

Several spellings may be allowed at once: then the model chooses which of them it writes, and stays within them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from jupyter_sc2.types import Choices


class TokenPrefixIndex:
    """The vocabulary sorted by its bytes."""

    def __init__(self, bytes_of: Sequence[bytes]) -> None:
        """`bytes_of[id]` are the bytes of a token; tokens without any (special ones) are never allowed."""
        entries = sorted((spelled, id) for id, spelled in enumerate(bytes_of) if spelled)
        self._bytes = [spelled for spelled, _ in entries]
        self._ids = [id for _, id in entries]
        # What may follow a name: tokens that do not go on with it, and special ones.
        self._ending = [id for id, spelled in enumerate(bytes_of) if not _is_name(spelled[:1])]

    def allowed(self, rest: bytes) -> list[int]:
        """The ids of the tokens that begin with `rest` or that `rest` begins with; `rest` is not empty."""
        if isinstance(rest, Choices):
            return sorted({id for name in rest.names for id in self._of_name(name)})
        return [*self._beginnings(rest), *self._ids[self._from(rest) : self._after(rest)]]

    def _of_name(self, name: bytes) -> list[int]:
        """The same for a name that ends where it ends: behind "head" may stand "(", not "er"."""
        if not name:
            return self._ending
        longer = range(self._from(name), self._after(name))
        ending = [self._ids[at] for at in longer if not _goes_on(self._bytes[at], len(name))]
        return [*self._beginnings(name), *ending]

    def _beginnings(self, rest: bytes) -> list[int]:
        """The ids of the tokens that `rest` begins with and goes on after."""
        found: list[int] = []
        for length in range(1, len(rest)):
            found += self._ids[self._from(rest[:length]) : self._from(rest[:length] + b"\0")]
        return found

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
    if not isinstance(rest, Choices):
        return rest[len(spelled) :]
    left = [name[len(spelled) :] for name in rest.names if name and name.startswith(spelled)]
    if b"" in left and not _is_name(spelled[-1:]):  # closed by its quote or equals sign
        return b""
    return Choices(left) if spelled and left else b""


def _goes_on(spelled: bytes, position: int) -> bool:
    """Whether a name goes on at this position; bytes above ASCII are taken for letters."""
    before, here = spelled[position - 1 : position], spelled[position : position + 1]
    return _is_name(before) and _is_name(here)


def _is_name(byte: bytes) -> bool:
    return byte.isalnum() or byte == b"_" or byte >= b"\x80"
