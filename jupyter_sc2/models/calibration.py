"""How often a model is right where it says so: from token probabilities to the probability that its text is right.

A model that was trained on little is surer of itself than it should be, of the first token after the cursor most of
all, and beam search picks what looks likely. A logistic curve per model corrects that (Platt, "Probabilistic outputs
for support vector machines", 1999), fitted by `jupyter sc2 eval calibration` on text that the model has never read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jupyter_sc2.types import TextToken

# Log-odds beyond these say nothing more: a probability of 0.9997.
MAX_LOG_ODDS = 8.0


@dataclass(frozen=True)
class Certainty:
    """The index at which a token ends, and the probability that it is right if all before it is."""

    end: int
    probability: float


@dataclass(frozen=True)
class Calibration:
    """A curve: log-odds of being right = bias + slope * the model's log-odds, + first for a text's first token."""

    bias: float
    slope: float
    first: float

    def __post_init__(self) -> None:
        if not all(abs(value) <= 100 for value in (self.bias, self.slope, self.first)):
            raise ValueError("bias, slope and first lie between -100 and 100")
        if self.slope < 0:
            raise ValueError("slope is 0 or more: who is surer is not more often wrong")

    def certainties(self, tokens: Sequence[TextToken], shift: float = 0.0) -> tuple[Certainty, ...]:
        """Of the tokens of a text, in order. `shift` is added to each token's log-odds."""
        return tuple(
            Certainty(token.end, self._certainty(token.logprob, shift, first=index == 0))
            for index, token in enumerate(tokens)
        )

    def _certainty(self, logprob: float, shift: float, *, first: bool) -> float:
        odds = self.bias + self.slope * log_odds(logprob) + self.first * first + shift
        return 1 / (1 + math.exp(-odds))


# For models that were not measured: as they say, but less extreme. What is right is only what the user types, and not
# what could as well be typed.
GENERIC = Calibration(bias=0.0, slope=0.7, first=-0.5)


def log_odds(logprob: float) -> float:
    """Of a probability that is given by its logarithm, within MAX_LOG_ODDS of 0."""
    if logprob >= -math.exp(-MAX_LOG_ODDS):
        return MAX_LOG_ODDS
    return max(-MAX_LOG_ODDS, logprob - math.log(-math.expm1(logprob)))
