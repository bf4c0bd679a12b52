import sys
from pathlib import Path

import pytest

from jupyter_sc2.completion import CompletionRequest
from jupyter_sc2.postprocess import hopeless, scope, shape
from jupyter_sc2.prompt.notebook import Cell, Notebook

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "postprocess.toml").read_text("utf-8"))[
    "case"
]


def request(prefix: str, suffix: str = "", **fields) -> CompletionRequest:
    return CompletionRequest(text=prefix + suffix, offset=len(prefix), **fields)


def parts(case: dict) -> tuple[CompletionRequest, str]:
    before, rest = case["cell"].split("├")
    raw, after = rest.split("┤")
    return request(before, after, trigger=case.get("trigger", "automatic")), raw


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden(case):
    asked, raw = parts(case)
    # TOML drops the first line end of a multi-line string, so such a text starts with two.
    assert shape(raw, asked, scope(asked), final=True) == (case["shown"], case["complete"])


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_a_complete_text_stays_what_it_is_when_more_is_decoded(case):
    asked, raw = parts(case)
    wanted = scope(asked)
    for end in range(len(raw)):
        shown, complete = shape(raw[:end], asked, wanted, final=False)
        if complete:
            assert shown == case["shown"]


def test_nothing_is_asked_in_an_empty_cell_of_an_empty_notebook():
    assert hopeless(request("")) == "nothing_to_add"


def test_an_empty_cell_below_others_is_worth_asking():
    assert hopeless(request("", notebook=Notebook((Cell(id="a", source="x = 1"),)))) is None


def test_nothing_is_asked_inside_a_word():
    assert hopeless(request("imp", "ort numpy")) == "nothing_to_add"


def test_an_invoked_request_is_always_tried():
    assert hopeless(request("imp", "ort numpy", trigger="invoke")) is None
