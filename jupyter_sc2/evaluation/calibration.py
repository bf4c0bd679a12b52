"""How well a model knows when it is right, and the curve that corrects what it says (models/calibration.py).

A typist types notebooks; where they pause, the model suggests at any confidence, and each token of the suggestion is
compared with what is typed next: right, or the first that is wrong. After that nothing is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from jupyter_sc2.errors import RequestError
from jupyter_sc2.evaluation import taking
from jupyter_sc2.evaluation.runner import Row, answer
from jupyter_sc2.evaluation.typist import Event
from jupyter_sc2.models.calibration import Calibration, Certainty, begins_line, log_odds
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.pipeline import feedback
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams, TextToken

BINS = 10
# The probability from which a text counts as shown, where the user's typing corrects the curve.
SHOWN_FROM = EMBEDDED.confidence
# Keeps the curve finite where all tokens were right.
RIDGE = 0.01


def compare(
    session: Session,
    notebooks: Mapping[str, Sequence[str]],
    *,
    count: int,
    max_tokens: int = 48,
    seed: int = 0,
    kept: Path | None = None,
    progress: str | None = None,
) -> list[Row]:
    """Rows with the `tokens` of a suggestion, how many of them are `right`, and whether it begins a `new_line`.

    There are as many of each notebook. Raises RequestError if the results that are `kept` lack one of these.
    """
    requests: dict[str, CompletionRequest] = {}
    ahead: dict[str, str] = {}
    rng = Random(seed)
    for name, cells in notebooks.items():
        found: list[tuple[Event, CompletionRequest]] = [
            (event, taking.request(event, there))
            for event, there in taking.places(cells, seed)
            if event.pauses and event.ahead
        ]
        share = math.ceil(count / len(notebooks))
        # In the order of typing: the next prompt begins with what was read for the one before.
        chosen = sorted(rng.sample(range(len(found)), min(share, len(found))))
        for event, request in (found[index] for index in chosen):
            id = f"{name}:{event.cell}:{event.visit}:{event.offset}"
            # With a seed of its own, which counts for nothing at temperature 0, it is not answered from a cache.
            sampling = SamplingParams(max_tokens=max_tokens, seed=len(requests))
            requests[id], ahead[id] = replace(request, sampling=sampling), event.ahead

    def judge(id: str, completion: Completion) -> Row:
        tokens = [[token.end, token.logprob] for token in completion.tokens]
        right = 0
        while right < len(tokens) and ahead[id].startswith(
            completion.text[: completion.tokens[right].end]
        ):
            right += 1
        new_line = begins_line(requests[id].prefix)
        return {"tokens": tokens, "right": right, "new_line": new_line}

    rows = answer(session, requests, judge, kept=kept, progress=progress)
    if any("new_line" not in row for row in rows):
        raise RequestError(
            f"{kept} was written by an earlier version, which did not tell new lines: name another file."
        )
    return rows


def fit(rows: Sequence[Row]) -> Calibration:
    """The curves with the largest likelihood, by Newton's method. Raises ValueError if there is nothing to fit."""
    compared = [
        (log_odds(logprob), float(index < row["right"]), row["new_line"] and index == 0)
        for row in rows
        for index, (_, logprob) in enumerate(row["tokens"][: row["right"] + 1])
    ]
    curve = _curve([(odds, right) for odds, right, begins in compared if not begins])
    try:
        line = _curve([(odds, right) for odds, right, begins in compared if begins])
    except ValueError:  # too few new lines
        line = curve
    return Calibration(*curve, *line)


def _curve(tokens: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Bias and slope of tokens with these log-odds, that are right (1) or wrong (0)."""
    outcomes = np.array([right for _, right in tokens])
    if len(set(outcomes.tolist())) < 2:
        raise ValueError("all tokens are right, or all wrong: there is no curve to fit")
    inputs = np.array([[1.0, odds] for odds, _ in tokens])
    weights = np.zeros(2)
    for _ in range(100):
        expected = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (outcomes - expected) - RIDGE * weights
        curvature = inputs.T @ (inputs * (expected * (1 - expected))[:, None])
        step = np.linalg.solve(curvature + RIDGE * np.eye(2), gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return round(float(weights[0]), 4), max(0.0, round(float(weights[1]), 4))


def expected_error(
    rows: Sequence[Row], calibration: Calibration | None, *, corrected: bool = False
) -> dict[str, Any]:
    """How far the probabilities are from what was right: {"places", "error", "curve"}.

    A place is the end of a token of a suggestion; the text is right up to there or not. The error is the mean over all
    places of the difference between a bin's mean probability and its share of right places (expected calibration error,
    Naeini et al., AAAI 2015, ten bins of equal width). None as calibration takes the model's word.

    Where it is `corrected`, what was typed for the rows before moves the curve, as it does for a user (feedback.py).
    """
    said: list[float] = []
    right: list[float] = []
    shift = 0.0
    for row in rows:
        certainties = _certainties(row, calibration, shift)
        probability, shown = 1.0, 0
        for index, one in enumerate(certainties):
            probability *= one.probability
            said.append(probability)
            right.append(float(index < row["right"]))
            shown += shown == index and probability >= SHOWN_FROM
        if corrected and shown:
            ends = [0, *(one.end for one in certainties)]
            begins_right = ends[min(shown, row["right"])]
            surprise = feedback.surprise_of(
                certainties[:shown], begins_right, wrong=row["right"] < shown
            )
            shift = feedback.within(shift + feedback.SHIFT_STEP * surprise, feedback.MAX_SHIFT)
    bins: list[list[int]] = [[] for _ in range(BINS)]
    for index, probability in enumerate(said):
        bins[min(BINS - 1, int(probability * BINS))].append(index)
    curve, error = [], 0.0
    for members in bins:
        if members:
            mean = sum(said[index] for index in members) / len(members)
            share = sum(right[index] for index in members) / len(members)
            error += abs(mean - share) * len(members) / len(said)
            curve.append(
                {"probability": round(mean, 3), "right": round(share, 3), "places": len(members)}
            )
    return {"places": len(said), "error": round(error, 4), "curve": curve}


def _certainties(row: Row, calibration: Calibration | None, shift: float) -> Sequence[Certainty]:
    tokens = [TextToken(end, logprob) for end, logprob in row["tokens"]]
    if calibration is None:
        return [Certainty(token.end, math.exp(token.logprob)) for token in tokens]
    return calibration.certainties(tokens, shift, new_line=row["new_line"])
