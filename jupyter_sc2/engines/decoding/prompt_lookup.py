"""Prompt lookup: draft tokens from the prompt and from earlier completions.

Notebooks repeat themselves, and so does a model that completes again after one more key. An engine verifies several
draft tokens in the pass over a sampled one (speculative decoding without a draft model: arXiv 2304.04487). The output
stays the same; correct drafts save passes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

MAX_NGRAM, MIN_NGRAM = 5, 2  # tokens that have to match
MAX_DRAFT_TOKENS = 16  # in one draft
ID_BYTES = array("I").itemsize


class PromptLookup:
    """Drafts the tokens that followed the last few tokens at their previous occurrence."""

    def __init__(self, prompt: Sequence[int], earlier: Iterable[Sequence[int]] = ()) -> None:
        """`earlier` are further texts, the most likely to be repeated last."""
        self._prompt = _bytes(prompt)
        self._earlier = [_bytes(ids) for ids in earlier]

    def __call__(self, drawn: Sequence[int]) -> Sequence[int]:
        """Draft ids to follow the prompt and `drawn`; none if their last tokens have not occurred before."""
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
    """The ids one after another, in ID_BYTES bytes each, so that bytes.rfind can search them."""
    return array("I", ids).tobytes()


def _last(data: bytes, needle: bytes) -> int | None:
    """The place behind the last one in `data` where the whole ids of `needle` are followed by something."""
    stop = len(data) - ID_BYTES
    while (start := data.rfind(needle, 0, stop)) >= 0:
        if start % ID_BYTES == 0:
            return start + len(needle)
        stop = start + len(needle) - 1
    return None
