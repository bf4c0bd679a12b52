"""From what a model says of its tokens to how often they are right."""

import math

import pytest

from jupyter_sc2.models.calibration import MAX_LOG_ODDS, Calibration, begins_line, log_odds
from jupyter_sc2.types import TextToken

CURVE = Calibration(bias=0.2, slope=0.5, line_bias=-1.0, line_slope=0.3)


@pytest.mark.parametrize(
    "probability, odds",
    [(0.5, 0.0), (0.9, math.log(9)), (1.0, MAX_LOG_ODDS), (1e-9, -MAX_LOG_ODDS)],
)
def test_log_odds_are_those_of_the_probability_within_bounds(probability, odds):
    assert log_odds(math.log(probability)) == pytest.approx(odds)


def odds_of(certainty):
    return math.log(certainty.probability / (1 - certainty.probability))


def test_a_curve_maps_log_odds_to_log_odds():
    (token,) = CURVE.certainties([TextToken(4, math.log(0.8))], shift=0.3, new_line=False)
    assert odds_of(token) == pytest.approx(0.2 + 0.5 * math.log(4) + 0.3)


def test_how_a_new_line_begins_has_a_curve_of_its_own():
    tokens = [TextToken(2, math.log(0.8)), TextToken(4, math.log(0.8))]
    first, second = CURVE.certainties(tokens, shift=0.3, new_line=True)
    assert odds_of(first) == pytest.approx(-1.0 + 0.3 * math.log(4) + 0.3)
    assert odds_of(second) == pytest.approx(0.2 + 0.5 * math.log(4) + 0.3)
    assert (first.begun, second.begun) == (second.probability, None)


@pytest.mark.parametrize(
    "prefix, begins",
    [("", False), ("\n", False), ("x = 1\n", True), ("if x:\n    ", True), ("x = 1\ny", False)],
)
def test_a_new_line_is_one_below_others(prefix, begins):
    assert begins_line(prefix) is begins


def test_a_file_of_an_earlier_version_holds_for_new_lines_only():
    read = Calibration.from_json({"bias": 0.2, "slope": 0.5, "first": -1.0})
    assert read == Calibration(0.2, 0.5, -0.8, 0.5)


@pytest.mark.parametrize(
    "values", [(0, -0.1, 0, 0), (0, 1, 0, -1), (math.nan, 1, 0, 0), (0, 1, 0, 1000)]
)
def test_a_curve_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError):
        Calibration(*values)
