"""Beam search over one line.

The most likely token is not always the beginning of the most likely line. Differences from textbook beam search:
hypotheses more than PRUNE_MARGIN behind the best are dropped, so decoding stays greedy, and as fast, where the model is
certain; the tokens that all hypotheses share are emitted at once; a hypothesis is finished at the end of its line, so
lines are compared and not whole texts; and each token earns LENGTH_REWARD, which offsets the bias towards short lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jupyter_sc2.types import SpellingConstraint, Token

# In nats.
PRUNE_MARGIN = 2.0
LENGTH_REWARD = 0.15  # for each token (docs/measured.md)
OVERTAKE_MARGIN = 5 * LENGTH_REWARD  # by which a live hypothesis may still overtake a finished one
FINISHED_LEAD = 1.0  # by which a live hypothesis has to lead for a finished one to be dropped


@dataclass(frozen=True)
class Hypothesis:
    """Tokens that may come next, and the positions of all but the last of them in the KV cache.

    The score is the sum of their log-probabilities, plus LENGTH_REWARD for each, in nats.
    """

    pending: SpellingConstraint | None  # what the next tokens have to spell
    tokens: tuple[Token, ...] = ()
    score: float = 0.0
    cache_positions: tuple[int, ...] = ()
    finished: bool = False

    def extend(
        self, token: Token, pending: SpellingConstraint | None, *, finished: bool
    ) -> Hypothesis:
        score = self.score + token.logprob + LENGTH_REWARD
        return replace(
            self, tokens=(*self.tokens, token), score=score, pending=pending, finished=finished
        )

    def with_position(self, position: int) -> Hypothesis:
        return replace(self, cache_positions=(*self.cache_positions, position))


def prune(hypotheses: Iterable[Hypothesis], most: int) -> list[Hypothesis]:
    """Those that may still win, best first: at most `most` live ones, and at most one that is finished."""
    kept: list[Hypothesis] = []
    running, end = 0, -math.inf
    for hypothesis in sorted(hypotheses, key=lambda hypothesis: -hypothesis.score):
        if kept and hypothesis.score < max(kept[0].score - PRUNE_MARGIN, end - OVERTAKE_MARGIN):
            break
        if hypothesis.finished:
            if end == -math.inf and (not kept or hypothesis.score >= kept[0].score - FINISHED_LEAD):
                kept.append(hypothesis)
                end = hypothesis.score
        elif running < most:
            kept.append(hypothesis)
            running += 1
    return kept


def common_prefix_length(hypotheses: Sequence[Hypothesis]) -> int:
    """The number of tokens that all hypotheses begin with."""
    count = 0
    for tokens in zip(*(hypothesis.tokens for hypothesis in hypotheses), strict=False):
        if len({token.id for token in tokens}) > 1:
            break
        count += 1
    return count
