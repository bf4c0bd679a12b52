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
    """A function from logits (V,), and the ids that are allowed (None: all), to a token.

    The token's log-probability (nats) is the one under the unmodified distribution, whatever temperature,
    filters or `allowed` did. Has its own generator: the process's random state stays untouched.
    """
    if params.temperature == 0:
        return _top_tokens

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
    total = _logsumexp(logits)
    if total != total:
        raise _not_a_number()
    left = _mask_disallowed(logits, allowed)
    among = None if allowed is None else _logsumexp(left)
    most = min(NUM_ALTERNATIVES + count, len(left))
    top = np.argpartition(left, -most)[-most:]
    top = top[np.argsort(-left[top], kind="stable")]
    found = [(int(id), float(left[id])) for id in top if left[id] > -np.inf]
    return [
        Token(
            id,
            value - total,
            None if among is None else value - among,
            tuple((other, said - total) for other, said in found if other != id)[:NUM_ALTERNATIVES],
        )
        for id, value in found[:count]
    ]


def _top_tokens(logits: Logits, allowed: Sequence[int] | None) -> Token:
    return top_tokens(logits, allowed)[0]


def _mask_disallowed(logits: Logits, allowed: Sequence[int] | None) -> Logits:
    if allowed is None:
        return logits
    only = np.full_like(logits, -np.inf)
    ids = np.asarray(allowed)
    only[ids] = logits[ids]
    return only


def _token(logits: Logits, id: int, allowed: Sequence[int] | None) -> Token:
    value, total = float(logits[id]), _logsumexp(logits)
    among = None if allowed is None else value - _logsumexp(_mask_disallowed(logits, allowed))
    return Token(id, value - total, among)


def _softmax(logits: Logits) -> NDArray[np.float64]:
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
