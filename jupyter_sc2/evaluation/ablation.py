"""Measures what each technique is worth: replays the same typing with one of them switched off.

The techniques have no settings, because nobody would want them off; so the functions that implement them are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from jupyter_sc2.engines.decoding import beam_search
from jupyter_sc2.engines.decoding.prefix_cache import PrefixCache
from jupyter_sc2.engines.decoding.prompt_lookup import PromptLookup
from jupyter_sc2.pipeline.candidate import Candidate
from jupyter_sc2.pipeline.debounce import AdaptiveDebounce
from jupyter_sc2.pipeline.next_suggestion import ShownTexts
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.suggestion_cache import SuggestionCache
from jupyter_sc2.prompt import builder as prompt_builder


def _slide(
    texts: list[str], limit: int, sizes: Sequence[int] | None = None, *, step: int = 0
) -> list[str]:
    """The last of the texts that fit: a window that moves by one text at each new one."""
    first = len(texts)
    for size in reversed(sizes or [len(text) for text in texts]):
        limit -= size
        if limit < 0:
            break
        first -= 1
    return texts[first:]


# For each technique, by its name in a table, what is replaced: owner, attribute, replacement.
TECHNIQUES: dict[str, list[tuple[Any, str, Any]]] = {
    "nothing": [],
    "suffix first": [
        (
            prompt_builder,
            "mode_for",
            lambda suffix, card: "psm" if suffix.strip() else "left-to-right",
        )
    ],
    "auto-closers stripped": [
        (prompt_builder, "strip_auto_closers", lambda prefix, suffix: suffix)
    ],
    "trimming in steps": [(prompt_builder, "drop_oldest", _slide)],
    "prefix cache": [(PrefixCache, "pop_longer_match", lambda self, ids, held: None)],
    "prefetch": [(Session, "prefetch", lambda self, request: None)],
    "next suggestion": [(ShownTexts, "add", lambda self, shown: None)],
    "suggestion cache": [(SuggestionCache, "find", lambda self, request: None)],
    "retargeting": [(Candidate, "is_compatible_with", lambda self, request: False)],
    "adaptive debounce": [(AdaptiveDebounce, "delay", lambda self, front_end: 0.0)],
    "beam search": [(beam_search, "PRUNE_MARGIN", 0.0)],
    "draft tokens": [(PromptLookup, "__call__", lambda self, drawn: ())],
}


@contextmanager
def without(technique: str) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, replacement in TECHNIQUES[technique]:
            stack.enter_context(patch.object(owner, name, replacement))
        yield
