"""Guesses what a model says next from text that is at hand: its prompt, and what it said a key ago.

Notebooks repeat themselves, and so does a model that is asked again after one more key. An engine reads several
guessed tokens in one pass with a drawn one (prompt lookup decoding, a kind of speculative decoding without a
second model: arXiv 2304.04487). What is decoded stays the same; right guesses save passes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

MAX_NGRAM, MIN_NGRAM = 5, 2  # tokens that have to agree
MAX_DRAFT_TOKENS = 16  # guessed tokens
ID_BYTES = array("I").itemsize


class PromptLookup:
    """Finds what followed the last few tokens the last time that they came."""

    def __init__(self, prompt: Sequence[int], earlier: Iterable[Sequence[int]] = ()) -> None:
        """`earlier` are further texts, the likeliest to come again last."""
        self._prompt = _bytes(prompt)
        self._earlier = [_bytes(ids) for ids in earlier]

    def __call__(self, drawn: Sequence[int]) -> Sequence[int]:
        """The ids that may come after the prompt and `drawn`; none if nothing like it has come before."""
        text = self._prompt + _bytes(drawn)
        for length in range(min(MAX_NGRAM, len(text) // ID_BYTES - 1), MIN_NGRAM - 1, -1):
            needle = text[-length * ID_BYTES :]
            for source in (*reversed(self._earlier), text):
                end = _last(source, needle)
                if end is not None:
                    return (
                        memoryview(source)[end : end + MAX_DRAFT_TOKENS * ID_BYTES]
                        .cast("I")
                        .tolist()
                    )
        return ()


def _bytes(ids: Sequence[int]) -> bytes:
    """The ids one after another, in WIDTH bytes each: a text that can be searched quickly."""
    return array("I", ids).tobytes()


def _last(data: bytes, needle: bytes) -> int | None:
    """The place behind the last one in `data` where the whole ids of `needle` are followed by something."""
    stop = len(data) - ID_BYTES
    while (start := data.rfind(needle, 0, stop)) >= 0:
        if start % ID_BYTES == 0:
            return start + len(needle)
        stop = start + len(needle) - 1
    return None
