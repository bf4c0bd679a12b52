"""Draws a token from logits.

    sample = make_sampler(params)
    token = sample(logits, allowed)      # logits: (V,) float32 on the CPU

Each filter is a pure function on a vector of logits; what it rules out becomes -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jupyter_sc2.completion import SamplingParams, Token
from jupyter_sc2.errors import GenerationError

if TYPE_CHECKING:
    import torch

Sampler = Callable[["torch.Tensor", "Sequence[int] | None"], Token]

OTHERS = 2  # of the tokens that were not drawn, how many are told


def make_sampler(params: SamplingParams) -> Sampler:
    """A function from logits (V,), and the ids that are allowed (None: all), to a token.

    The token's log-probability (nats) is the one under the unmodified distribution, whatever temperature,
    filters or `allowed` did. Has its own generator: the process's random state stays untouched.
    """
    import torch

    if params.temperature == 0:
        return _likeliest

    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)

    def sample(logits: torch.Tensor, allowed: Sequence[int] | None) -> Token:
        scaled = _only(logits, allowed) / params.temperature
        if params.top_k:
            scaled = keep_top_k(scaled, params.top_k)
        if params.top_p < 1:
            scaled = keep_top_p(scaled, params.top_p)
        probabilities = torch.softmax(scaled, dim=-1)
        if torch.isnan(probabilities[0]):  # softmax spreads one NaN over all
            raise _not_a_number()
        id = int(torch.multinomial(probabilities, 1, generator=generator))
        return _token(logits, id, allowed)

    return sample


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keeps the `k` greatest of the logits (V,), and whatever equals the last of them."""
    import torch

    if k >= logits.shape[-1]:
        return logits
    least = torch.topk(logits, k).values[-1]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keeps the fewest likeliest tokens that together reach probability `p` (nucleus sampling, 1904.09751)."""
    import torch

    ordered, order = torch.sort(logits, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    # A token goes if those before it reach p by themselves; so the first always stays.
    before = torch.cumsum(probabilities, dim=-1) - probabilities
    return logits.index_fill(-1, order[before >= p], -torch.inf)


def likeliest(logits: torch.Tensor, allowed: Sequence[int] | None, count: int = 1) -> list[Token]:
    """The `count` likeliest tokens, or all that are allowed if these are fewer, best first."""
    import torch

    left = _only(logits, allowed)
    values, ids = torch.topk(left, min(OTHERS + count, len(left)))
    total = torch.logsumexp(logits, dim=-1)
    among = None if allowed is None else torch.logsumexp(left, dim=-1)
    if total != total:
        raise _not_a_number()
    found = [
        (id, value, float(value - total))
        for id, value in zip(ids.tolist(), values, strict=True)
        if value > -math.inf
    ]
    return [
        Token(
            id,
            logprob,
            None if among is None else float(value - among),
            tuple((other, said) for other, _, said in found if other != id)[:OTHERS],
        )
        for id, value, logprob in found[:count]
    ]


def _likeliest(logits: torch.Tensor, allowed: Sequence[int] | None) -> Token:
    return likeliest(logits, allowed)[0]


def _only(logits: torch.Tensor, allowed: Sequence[int] | None) -> torch.Tensor:
    if allowed is None:
        return logits
    import torch

    ids = torch.tensor(allowed)
    return torch.full_like(logits, -torch.inf).index_copy(-1, ids, logits[ids])


def _token(logits: torch.Tensor, id: int, allowed: Sequence[int] | None) -> Token:
    import torch

    logprob = float(logits[id] - torch.logsumexp(logits, dim=-1))
    if logprob != logprob:
        raise _not_a_number()
    if allowed is None:
        return Token(id, logprob)
    return Token(id, logprob, float(logits[id] - torch.logsumexp(logits[list(allowed)], dim=-1)))


def _not_a_number() -> GenerationError:
    return GenerationError(
        "The model computed something that is not a number: its weights are damaged, "
        "or the precision is too low for it."
    )
