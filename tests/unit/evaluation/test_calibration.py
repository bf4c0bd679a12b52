"""How well a model knows when it is right, and the curve that corrects it."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, replace
from random import Random

import pytest

from jupyter_sc2.cli import main
from jupyter_sc2.errors import RequestError
from jupyter_sc2.evaluation.calibration import compare, expected_error, fit
from jupyter_sc2.models.calibration import Calibration
from jupyter_sc2.types import Completion, TextToken

CURVE = Calibration(bias=0.3, slope=0.8, line_bias=-1.0, line_slope=0.4)
CELLS = ["import numpy as np\nvalues = np.arange(10)\nprint(values.mean())"] * 3


def rows_of(curve: Calibration, count: int = 3000, seed: int = 0) -> list[dict]:
    """Suggestions of a model whose tokens are right as often as the curve says."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        new_line = number % 2 == 0
        tokens = [TextToken(end, math.log(rng.uniform(0.05, 0.999))) for end in range(1, 6)]
        right = 0
        for one in curve.certainties(tokens, new_line=new_line):
            if rng.random() > one.probability:
                break
            right += 1
        ends = [[token.end, token.logprob] for token in tokens]
        rows.append({"tokens": ends, "right": right, "new_line": new_line})
    return rows


def test_the_curve_that_the_rows_were_made_with_is_found_again():
    assert astuple(fit(rows_of(CURVE))) == pytest.approx(astuple(CURVE), abs=0.15)


def test_a_fitted_curve_is_close_on_rows_that_it_has_not_seen():
    assert expected_error(rows_of(CURVE, seed=1), fit(rows_of(CURVE)))["error"] < 0.02


def test_without_a_new_line_its_curve_is_that_of_all_tokens():
    rows = [{**row, "new_line": False} for row in rows_of(CURVE, count=200)]
    found = fit(rows)
    assert (found.line_bias, found.line_slope) == (found.bias, found.slope)


def test_what_is_typed_corrects_a_curve_that_does_not_fit_a_users_notebooks():
    rows = rows_of(CURVE)
    off = replace(CURVE, bias=CURVE.bias - 0.7, line_bias=CURVE.line_bias - 0.7)
    before = expected_error(rows, off)["error"]
    assert expected_error(rows, off, corrected=True)["error"] < before / 3


def test_a_model_that_is_too_sure_has_a_larger_error():
    rows = rows_of(Calibration(-1.0, 0.4, -1.0, 0.4))
    assert expected_error(rows, None)["error"] > 0.1


def test_the_bins_hold_all_places():
    figures = expected_error(rows_of(Calibration(0.0, 1.0, 0.0, 1.0), count=50), None)
    assert sum(part["places"] for part in figures["curve"]) == figures["places"] == 250


@pytest.mark.parametrize("right", [0, 2])
def test_rows_that_are_all_right_or_all_wrong_fit_nothing(right):
    with pytest.raises(ValueError, match="no curve"):
        fit([{"tokens": [[1, -0.1], [2, -0.1]], "right": right, "new_line": False}])


class Perfect:
    """Answers with what is typed next, and then with something else."""

    def complete(self, request):
        source = CELLS[0]
        rest = source[len(request.prefix) :] if source.startswith(request.prefix) else ""
        text = rest[:3] + "???"
        tokens = (TextToken(min(3, len(rest)), -0.1), TextToken(len(text), -0.1))
        yield Completion(text=text, tokens=tokens, finish_reason="stop")


def test_tokens_are_right_as_far_as_they_are_what_is_typed():
    rows = compare(Perfect(), {"a": CELLS[:1]}, count=20)
    assert rows and {row["right"] for row in rows if row["tokens"][0][0] == 3} == {1}


def test_results_of_an_earlier_version_are_refused_in_one_line(tmp_path):
    kept = tmp_path / "rows.jsonl"
    compare(Perfect(), {"a": CELLS[:1]}, count=5, kept=kept)
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    for row in rows:
        del row["new_line"]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RequestError, match="was written by an earlier version"):
        compare(Perfect(), {"a": CELLS[:1]}, count=5, kept=kept)


@pytest.mark.slow
def test_the_command_fits_a_curve_to_a_notebook(tmp_path, capsys):
    cells = [
        {
            "cell_type": "code",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": CELLS[0],
        }
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells * 4}
    (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
    command = ["eval", "calibration", str(tmp_path / "one.ipynb"), "--count", "25", "--json"]
    assert main([*command, "--fit", str(tmp_path / "curve.json")]) == 0
    figures = json.loads(capsys.readouterr().out)
    names = {"as the model says", "calibrated", "corrected by what is typed", "fitted"}
    assert set(figures) == names
    assert Calibration.from_json(json.loads((tmp_path / "curve.json").read_text()))
