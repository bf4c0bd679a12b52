"""Cases of golden files: cells with what a model wrote between ├ and ┤."""

from __future__ import annotations

import sys

from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.types import CompletionRequest
from tests.support.paths import TESTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(name: str) -> list[dict]:
    """The cases of `golden/NAME.toml`."""
    file = TESTS / "data" / "golden" / f"{name}.toml"
    return tomllib.loads(file.read_text("utf-8"))["case"]


def request(prefix: str, suffix: str = "", **fields) -> CompletionRequest:
    return CompletionRequest(text=prefix + suffix, offset=len(prefix), **fields)


def parts(case: dict) -> tuple[CompletionRequest, str]:
    """The request, and what the model wrote for it."""
    before, rest = case["cell"].split("├")
    raw, after = rest.split("┤")
    fields = {"trigger": case.get("trigger", "automatic")}
    if "next" in case:
        cells = (Cell(id="here", source=""), Cell(id="next", source=case["next"]))
        fields |= {"notebook": Notebook(cells), "cell_id": "here"}
    return request(before, after, **fields), raw
