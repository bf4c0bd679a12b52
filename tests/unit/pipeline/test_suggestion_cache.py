"""What remains of a suggestion while the user types: the same as in the page."""

import json

import pytest

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
