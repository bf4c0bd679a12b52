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
from numpy.typing import NDArray

from jupyter_sc2.evaluation import taking
from jupyter_sc2.evaluation.runner import Row, answer
from jupyter_sc2.evaluation.typist import Event
from jupyter_sc2.models.calibration import Calibration, log_odds
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams, TextToken

BINS = 10
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
    """Rows with the `tokens` of a suggestion and the number of them that are `right`; as many of each notebook."""
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
        return {"tokens": tokens, "right": right}

    return answer(session, requests, judge, kept=kept, progress=progress)


def fit(rows: Sequence[Row]) -> Calibration:
    """The curve with the largest likelihood, by Newton's method. Raises ValueError if there is nothing to fit."""
    inputs, outcomes = _inputs(rows)
    if len(set(outcomes.tolist())) < 2:
        raise ValueError("all tokens are right, or all wrong: there is no curve to fit")
    weights = np.zeros(inputs.shape[1])
    for _ in range(100):
        expected = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (outcomes - expected) - RIDGE * weights
        curvature = inputs.T @ (inputs * (expected * (1 - expected))[:, None])
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(weights)), gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    bias, slope, first = (round(float(weight), 4) for weight in weights)
    return Calibration(bias=bias, slope=max(0.0, slope), first=first)


def _inputs(rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each compared token 1, its log-odds, and whether it is the first, (tokens, 3); and whether it is right."""
    inputs, outcomes = [], []
    for row in rows:
        for index, (_, logprob) in enumerate(row["tokens"][: row["right"] + 1]):
            inputs.append([1.0, log_odds(logprob), float(index == 0)])
            outcomes.append(float(index < row["right"]))
    return np.array(inputs).reshape(-1, 3), np.array(outcomes)


def expected_error(rows: Sequence[Row], calibration: Calibration | None) -> dict[str, Any]:
    """How far the probabilities are from what was right: {"places", "error", "curve"}.

    A place is the end of a token of a suggestion; the text is right up to there or not. The error is the mean over all
    places of the difference between a bin's mean probability and its share of right places (expected calibration error,
    Naeini et al., AAAI 2015, ten bins of equal width). None as calibration takes the model's word.
    """
    said: list[float] = []
    right: list[float] = []
    for row in rows:
        probability = 1.0
        for index, one in enumerate(_probabilities(row, calibration)):
            probability *= one
            said.append(probability)
            right.append(float(index < row["right"]))
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


def _probabilities(row: Row, calibration: Calibration | None) -> list[float]:
    tokens = [TextToken(end, logprob) for end, logprob in row["tokens"]]
    if calibration is None:
        return [math.exp(token.logprob) for token in tokens]
    return [one.probability for one in calibration.certainties(tokens)]
