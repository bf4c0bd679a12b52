"""The notebooks in examples/ run from the first cell to the last."""

import signal
from collections.abc import Iterator

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    """nbclient leaves Python's own handlers, also where SIGINT was ignored, as by a shell's job in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.torch
@pytest.mark.kernel
@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    said = [
        o["text"]
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if o.get("name") == "stderr"
    ]
    assert said == []
