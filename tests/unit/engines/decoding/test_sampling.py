"""Tokens drawn from logits."""

import math

import numpy as np
import pytest

from jupyter_sc2.engines.decoding.sampling import (
    TopTokens,
    apply_top_k,
    apply_top_p,
    make_sampler,
    top_tokens,
)
from jupyter_sc2.errors import GenerationError
from jupyter_sc2.types import SamplingParams


def log(probabilities):
    return np.log(np.array(probabilities, np.float32))


def test_greedy_takes_the_likeliest_and_tells_its_probability():
    logits = log([0.1, 0.6, 0.3])
    (token,) = top_tokens(logits, None)
    assert (token.id, token.logprob) == (1, pytest.approx(math.log(0.6)))


def test_what_is_forced_has_the_probability_it_had_and_that_among_what_was_allowed():
    logits = log([0.1, 0.6, 0.3])
    (token,) = top_tokens(logits, [0, 2])
    assert (token.id, token.logprob) == (2, pytest.approx(math.log(0.3)))
    assert token.constrained_logprob == pytest.approx(math.log(0.75))


def test_greedy_tokens_come_with_alternatives():
    logits = log([0.1, 0.4, 0.3, 0.2])
    alternatives = top_tokens(logits, None)[0].alternatives
    assert alternatives == ((2, pytest.approx(math.log(0.3))), (3, pytest.approx(math.log(0.2))))
    assert [id for id, _ in top_tokens(logits, [0, 2])[0].alternatives] == [0]
    assert make_sampler(SamplingParams(temperature=1.0, seed=1))(logits, None).alternatives == ()


def test_filters_keep_what_they_say():
    logits = log([0.5, 0.1, 0.3, 0.1])

    def kept(filtered):
        return [index for index, value in enumerate(filtered.tolist()) if value > -math.inf]

    assert kept(apply_top_k(logits, 2)) == [0, 2]
    assert kept(apply_top_k(logits, 9)) == [0, 1, 2, 3]
    assert kept(apply_top_p(logits, 0.4)) == [0]
    assert kept(apply_top_p(logits, 0.6)) == [0, 2]
    assert kept(apply_top_p(logits, 0.79)) == [0, 2]
    assert kept(apply_top_p(logits, 1e-9)) == [0]


def test_draws_follow_the_distribution_at_their_temperature():
    # At temperature 0.5 probabilities are squared: 0.6, 0.3, 0.1 become 36, 9, 1 of 46.
    sample = make_sampler(SamplingParams(temperature=0.5, seed=1))
    logits = log([0.6, 0.3, 0.1])
    counts = [0, 0, 0]
    for _ in range(4000):
        counts[sample(logits, None).id] += 1
    # Three standard deviations of 4,000 draws are below 2 %.
    assert [count / 4000 for count in counts] == pytest.approx([36 / 46, 9 / 46, 1 / 46], abs=0.02)


def test_damaged_weights_are_an_error():
    draw = make_sampler(SamplingParams(temperature=1.0, seed=1))
    for damaged in (math.nan, math.inf):
        logits = np.array([0.0, damaged, 1.0], np.float32)
        for choose in (draw, top_tokens):
            for allowed in (None, [0, 2]):
                with pytest.raises(GenerationError, match="not a number"):
                    choose(logits, allowed)


def test_top_tokens_come_best_first_with_their_alternatives():
    logits = log([0.1, 0.4, 0.3, 0.2])
    first, second = top_tokens(logits, None, 2)
    assert [first.id, second.id] == [1, 2]
    assert second.alternatives == (
        (1, pytest.approx(math.log(0.4))),
        (3, pytest.approx(math.log(0.2))),
    )
    assert [token.id for token in top_tokens(logits, [0, 3], 4)] == [3, 0]


def test_of_several_rows_each_has_its_own_tokens():
    rows = np.stack([log([0.1, 0.4, 0.3, 0.2]), log([0.7, 0.1, 0.15, 0.05])])
    found = TopTokens(rows, 2)
    assert [found[0], found[1]] == [top_tokens(row, None, 2) for row in rows]
    assert [[token.id for token in found[row]] for row in (0, 1)] == [[1, 2], [0, 2]]


def test_a_row_that_nobody_asks_for_may_be_damaged():
    rows = np.stack([log([0.1, 0.4, 0.5]), np.full(3, math.nan, np.float32)])
    assert TopTokens(rows, 1)[0][0].id == 2
