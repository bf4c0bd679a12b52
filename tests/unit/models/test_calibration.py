"""From what a model says of its tokens to how often they are right."""

import math

import pytest

from jupyter_sc2.models.calibration import MAX_LOG_ODDS, Calibration, log_odds
from jupyter_sc2.types import TextToken

CURVE = Calibration(bias=0.2, slope=0.5, first=-1.0)


@pytest.mark.parametrize(
    "probability, odds",
    [(0.5, 0.0), (0.9, math.log(9)), (1.0, MAX_LOG_ODDS), (1e-9, -MAX_LOG_ODDS)],
)
def test_log_odds_are_those_of_the_probability_within_bounds(probability, odds):
    assert log_odds(math.log(probability)) == pytest.approx(odds)


def test_the_first_token_is_less_certain_than_the_others():
    one, two = CURVE.certainties([TextToken(2, -0.1), TextToken(4, -0.1)])
    assert one.probability < two.probability


def test_a_curve_maps_log_odds_to_log_odds():
    _, token = CURVE.certainties([TextToken(2, -0.1), TextToken(4, math.log(0.8))], shift=0.3)
    assert math.log(token.probability / (1 - token.probability)) == pytest.approx(
        0.2 + 0.5 * math.log(4) + 0.3
    )


@pytest.mark.parametrize("values", [(0, -0.1, 0), (math.nan, 1, 0), (0, 1000, 0)])
def test_a_curve_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError):
        Calibration(*values)
