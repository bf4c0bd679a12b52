"""A notebook is opened beside files that have the names of what we import."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Server
from tests.kernel.test_isolation import names_that_are_new, tell_tale
from tests.support.kernels import FrontEnd


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_SC2_EMBEDDED", "")  # the model that is shipped
    server = Server(tmp_path / "lab")
    yield server
    server.stop()


def test_opening_a_notebook_and_completing_in_it_runs_no_file_beside_it(lab, open_notebook):
    kernel = FrontEnd()
    names = names_that_are_new(kernel)
    kernel.close()
    log = tell_tale(lab.root, "jupyter_sc2", *names)
    cells = f"import {', '.join(names)}", "print(tokenizers.__file__)", ""
    notebook = open_notebook(lab, lab.notebook("beside.ipynb", *cells))
    notebook.enter(2)
    notebook.type("import numpy as ")
    assert notebook.ghost_text() == "np"
    assert log.read_text() == ""
    notebook.run(0)
    notebook.run(1)
    notebook.cell(1).get_by_text(f"{lab.root / 'tokenizers.py'}").wait_for()
    # In a kernel the standard library comes before the notebook's folder, other packages behind it.
    assert {"numpy", "onnxruntime", "tokenizers"} <= set(log.read_text().split()) <= set(names)
    notebook.enter(2)
    notebook.type("\nimport pandas as ")
    assert notebook.ghost_text() == "pd"
