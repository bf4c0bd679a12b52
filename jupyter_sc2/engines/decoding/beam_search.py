"""Follows several ways at once to the end of the line, where the next token is not clear, and takes the likeliest.

The likeliest token is not always the beginning of the likeliest line. This is beam search, with differences: ways
that fall behind by more than MARGIN are given up, so that there is a single one where the model is sure, which
then decodes as quickly as ever; the tokens that all ways have in common are told at once; a way ends with its
line, so that lines are weighed and not whole texts; and each token has a bonus, or short lines would win too often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jupyter_sc2.types import Token

# In nats.
MARGIN = 2.0
BONUS = 0.15  # for each token (docs/measured.md)
HOPE = 5 * BONUS  # by how much a way may still overtake one that has ended
LEAD = 1.0  # by how much one that goes on has to be ahead of one that has ended, which is then given up


@dataclass(frozen=True)
class Way:
    """Tokens that may come next, and where in the KV cache all but the last are.

    The score is their log-probability together, with the bonus for each.
    """

    rest: bytes  # what is left to spell of what was typed
    tokens: tuple[Token, ...] = ()
    score: float = 0.0
    places: tuple[int, ...] = ()
    ended: bool = False

    def on(self, token: Token, rest: bytes, *, ended: bool) -> Way:
        score = self.score + token.logprob + BONUS
        return replace(self, tokens=(*self.tokens, token), score=score, rest=rest, ended=ended)

    def read(self, place: int) -> Way:
        return replace(self, places=(*self.places, place))


def best(ways: Iterable[Way], most: int) -> list[Way]:
    """Those that may still turn out the best, best first: of those that go on `most` at most, one that has ended."""
    kept: list[Way] = []
    running, end = 0, -math.inf
    for way in sorted(ways, key=lambda way: -way.score):
        if kept and way.score < max(kept[0].score - MARGIN, end - HOPE):
            break
        if way.ended:
            if end == -math.inf and (not kept or way.score >= kept[0].score - LEAD):
                kept.append(way)
                end = way.score
        elif running < most:
            kept.append(way)
            running += 1
    return kept


def agreed(ways: Sequence[Way]) -> int:
    """With how many of the same tokens all ways begin."""
    count = 0
    for tokens in zip(*(way.tokens for way in ways), strict=False):
        if len({token.id for token in tokens}) > 1:
            break
        count += 1
    return count
