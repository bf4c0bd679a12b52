"""What remains of a suggestion while the user types: the same as in the page."""

import json

import pytest

from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.suggestion_cache import Suggestion, SuggestionCache
from jupyter_sc2.types import CompletionRequest, SamplingParams
from tests.support.paths import TESTS

CASES = json.loads((TESTS / "data" / "golden" / "remainder.json").read_text("utf-8"))["cases"]


def at_cursor(cell: str) -> CompletionRequest:
    before, _, behind = cell.partition("│")
    return CompletionRequest(
        text=before + behind,
        offset=len(before),
        notebook=Notebook(),
        trigger="automatic",
        sampling=SamplingParams(),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_remains_of_a_suggestion_is_what_remains_in_the_page(case):
    cache = SuggestionCache()
    cache.add(at_cursor(case["suggested"]), Suggestion(case["text"]), case["text"])
    found = cache.find(at_cursor(case["typed"]))
    assert (found.text if found is not None and found.text else None) == case["remaining"]


@pytest.mark.parametrize("typed, first", [("", 0.3), ("t", 0.8), ("tot", 0.8), ("total", 0.9)])
def test_how_a_line_begins_is_more_certain_once_a_part_of_it_is_typed(typed, first):
    """Which line comes next is the user's choice; which one begins with these letters is less so."""
    cache = SuggestionCache()
    certainties = (Certainty(5, 0.3, begun=0.8), Certainty(9, 0.9))
    cache.add(at_cursor("x = 1\n│"), Suggestion("total = 3", certainties), "total = 3")
    found = cache.find(at_cursor(f"x = 1\n{typed}│"))
    assert found is not None and found.certainties[0].probability == first
