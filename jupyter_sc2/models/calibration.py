"""How often a model is right where it says so: from token probabilities to the probability that its text is right.

A model that was trained on little is surer of itself than it should be, and beam search picks what looks likely. How a
new line begins is the user's choice more than anything that the model could know, so it is right there far less often
than it says. A logistic curve for each of the two corrects that (Platt, "Probabilistic outputs for support vector
machines", 1999), fitted by `jupyter sc2 eval calibration` on text that the model has never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from jupyter_sc2.types import TextToken

# Log-odds beyond these say nothing more: a probability of 0.9997.
MAX_LOG_ODDS = 8.0


@dataclass(frozen=True)
class Certainty:
    """The index at which a token ends, and the probability that it is right if all before it is.

    `begun` is that probability once a part of the token was typed, where it is another.
    """

    end: int
    probability: float
    begun: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Log-odds of being right = bias + slope * the model's log-odds, with other numbers for how a new line begins."""

    bias: float
    slope: float
    line_bias: float
    line_slope: float

    def __post_init__(self) -> None:
        if not all(abs(value) <= 100 for value in astuple(self)):
            raise ValueError("a bias or slope lies between -100 and 100")
        if self.slope < 0 or self.line_slope < 0:
            raise ValueError("a slope is 0 or more: who is surer is not more often wrong")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Of the content of a file. Raises KeyError, TypeError or ValueError."""
        bias, slope = float(values["bias"]), float(values["slope"])
        if "first" in values:  # as earlier versions wrote it
            return cls(bias, slope, bias + float(values["first"]), slope)
        return cls(bias, slope, float(values["line_bias"]), float(values["line_slope"]))

    def certainties(
        self, tokens: Sequence[TextToken], shift: float = 0.0, *, new_line: bool
    ) -> tuple[Certainty, ...]:
        """Of the tokens of a text, in order. `shift` is added to each token's log-odds.

        `new_line` says that the text begins a new line; see `begins_line`.
        """
        found = [
            Certainty(token.end, _probability(self.bias, self.slope, token, shift))
            for token in tokens
        ]
        if new_line and found:
            begins = _probability(self.line_bias, self.line_slope, tokens[0], shift)
            found[0] = Certainty(found[0].end, begins, begun=found[0].probability)
        return tuple(found)


def _probability(bias: float, slope: float, token: TextToken, shift: float) -> float:
    return 1 / (1 + math.exp(-(bias + slope * log_odds(token.logprob) + shift)))


# For models that were not measured: as they say, but less extreme. What is right is only what the user types, and not
# what could as well be typed.
GENERIC = Calibration(bias=0.0, slope=0.8, line_bias=-1.2, line_slope=0.4)


def begins_line(prefix: str) -> bool:
    """Whether what follows this part of a cell begins a new line below others; an empty cell is none."""
    return bool(prefix.strip()) and not prefix.rpartition("\n")[2].strip()


def log_odds(logprob: float) -> float:
    """Of a probability that is given by its logarithm, within MAX_LOG_ODDS of 0."""
    if logprob >= -math.exp(-MAX_LOG_ODDS):
        return MAX_LOG_ODDS
    return max(-MAX_LOG_ODDS, logprob - math.log(-math.expm1(logprob)))
