"""Samples a token from logits.

    sample = make_sampler(params)
    token = sample(logits, allowed)      # logits: (V,) float32

Each filter is a pure function on a vector of logits and sets excluded ones to -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jupyter_sc2.errors import GenerationError
from jupyter_sc2.types import SamplingParams, Token

# Not in the functions: by the time they are called, the user's code may have imported a numpy.py of its own.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]
else:
    from jupyter_sc2.runtime.own_numpy import np

Sampler = Callable[["Logits", "Sequence[int] | None"], Token]

NUM_ALTERNATIVES = 2  # runners-up that come with a token


def make_sampler(params: SamplingParams) -> Sampler:
    """A function from logits (V,), and the ids that are allowed (None: all), to a token, at a temperature above 0.

    The token's log-probability (nats) is the one under the unmodified distribution, whatever temperature,
    filters or `allowed` did. Has its own generator: the process's random state stays untouched.
    """
    generator = np.random.default_rng(params.seed)

    def sample(logits: Logits, allowed: Sequence[int] | None) -> Token:
        scaled = _mask_disallowed(logits, allowed) / np.float32(params.temperature)
        if params.top_k:
            scaled = apply_top_k(scaled, params.top_k)
        if params.top_p < 1:
            scaled = apply_top_p(scaled, params.top_p)
        reached = np.cumsum(_softmax(scaled))
        if reached[-1] != reached[-1]:  # one NaN is in the sum of all
            raise _not_a_number()
        # A token of probability 0 repeats the sum before it, and so is never the first to exceed what was drawn.
        id = int(np.searchsorted(reached, generator.random() * reached[-1], side="right"))
        return _token(logits, min(id, len(reached) - 1), allowed)

    return sample


def apply_top_k(logits: Logits, k: int) -> Logits:
    """Keeps the `k` greatest of the logits (V,), and whatever equals the last of them."""
    if k >= len(logits):
        return logits
    least = np.partition(logits, -k)[-k]
    return np.where(logits < least, np.float32(-np.inf), logits)


def apply_top_p(logits: Logits, p: float) -> Logits:
    """Keeps the smallest set of most likely tokens whose probabilities sum to `p` (nucleus sampling, 1904.09751)."""
    order = np.argsort(-logits, kind="stable")
    probabilities = _softmax(logits[order])
    # A token is dropped if those before it already reach p, so the first always stays.
    before = np.cumsum(probabilities) - probabilities
    kept = logits.copy()
    kept[order[before >= p]] = -np.inf
    return kept


def top_tokens(logits: Logits, allowed: Sequence[int] | None, count: int = 1) -> list[Token]:
    """The `count` most likely tokens, or all that are allowed if these are fewer, best first."""
    if allowed is None:
        return TopTokens(logits[None], count)[0]
    total, left = _logsumexp(logits), _mask_disallowed(logits, allowed)
    if total != total:
        raise _not_a_number()
    (top,) = _largest(left[None], count + NUM_ALTERNATIVES)
    return _tokens(top, total, count, among=_logsumexp(left))


class TopTokens:
    """The `count` most likely tokens, best first, after each of the tokens whose logits (T, V) these are.

    They are found for all rows together: NumPy gives up the GIL in each of its calls, and while the user's code runs
    it is some milliseconds until one has it again.
    """

    def __init__(self, logits: NDArray[np.float32], count: int) -> None:
        self.logits, self._count = logits, count
        self._largest = _largest(logits, count + NUM_ALTERNATIVES)
        greatest = np.array([[top[0][1]] for top in self._largest], np.float32)
        with np.errstate(invalid="ignore"):  # where the greatest is infinite
            sums = np.exp(logits - greatest).sum(1)
        self._totals = [
            top[0][1] + math.log(of_row) if of_row > 0 else math.nan
            for top, of_row in zip(self._largest, sums.tolist(), strict=True)
        ]

    def __getitem__(self, row: int) -> list[Token]:
        if not math.isfinite(self._totals[row]):
            raise _not_a_number()
        return _tokens(self._largest[row], self._totals[row], self._count)


def _largest(logits: NDArray[np.float32], count: int) -> list[list[tuple[int, float]]]:
    """The ids of the `count` largest of each row (T, V), with their logits, best first."""
    count = min(count, logits.shape[1])
    places = np.argpartition(logits, -count, axis=1)[:, -count:].tolist()
    return [
        sorted(((id, float(row[id])) for id in ids), key=lambda pair: -pair[1])
        for row, ids in zip(logits, places, strict=True)
    ]


def _tokens(
    top: Sequence[tuple[int, float]], total: float, count: int, among: float | None = None
) -> list[Token]:
    """The first `count` of the ids and logits, of which all have the sum `total`, and those allowed `among`."""
    found = [(id, value) for id, value in top if value > -math.inf]
    return [
        Token(
            id,
            value - total,
            None if among is None else value - among,
            tuple((other, said - total) for other, said in found if other != id)[:NUM_ALTERNATIVES],
        )
        for id, value in found[:count]
    ]


def _mask_disallowed(logits: Logits, allowed: Sequence[int] | None) -> Logits:
    if allowed is None:
        return logits
    only = np.full_like(logits, -np.inf)
    ids = np.asarray(allowed)
    only[ids] = logits[ids]
    return only


def _token(logits: Logits, id: int, allowed: Sequence[int] | None) -> Token:
    value, total = float(logits[id]), _logsumexp(logits)
    if total != total:
        raise _not_a_number()
    among = None if allowed is None else value - _logsumexp(_mask_disallowed(logits, allowed))
    return Token(id, value - total, among)


def _softmax(logits: Logits) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # where the greatest is infinite
        shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities


def _logsumexp(logits: Logits) -> float:
    """log(sum(exp(logits))), in nats; NaN if one of the logits is not finite."""
    greatest = float(logits.max())
    if not math.isfinite(greatest):
        return math.nan
    return greatest + math.log(float(np.exp(logits - np.float32(greatest)).sum()))


def _not_a_number() -> GenerationError:
    return GenerationError(
        "The model computed something that is not a number: its weights are damaged, "
        "or the precision is too low for it."
    )
