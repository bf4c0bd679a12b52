"""No package's prints, warnings and log messages reach a user's cell or the command line's stderr through us."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.kernels import FrontEnd
from tests.support.paths import TESTS

pytest.importorskip("torch")

# First on the path, it makes the installed transformers talk.
CHATTY = str(TESTS / "support" / "chatty")
# What users do to hear more, not less.
LISTENING = """
import logging, warnings
warnings.simplefilter("always")
logging.basicConfig(level=logging.WARNING)
"""


@pytest.fixture(params=["as installed", "chatty"])
def transformers(request, monkeypatch):
    path = [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([CHATTY] * (request.param == "chatty") + path))
    return request.param


@pytest.fixture
def kernel(transformers):
    front_end = FrontEnd()
    yield front_end
    front_end.close()


@pytest.mark.kernel
def test_nothing_is_said_in_a_notebook_while_a_model_loads_and_completes(kernel):
    kernel.run(LISTENING + "get_ipython().run_line_magic('load_ext', 'jupyter_sc2')")
    comm = kernel.open()
    comm.say({"type": "hello", "protocol": 1})
    comm.say({"type": "configure", "settings": {"confidence": 0.0}})
    texts = [
        comm.final(comm.ask(text), timeout=60)["content"]["data"]["text"]
        for text in ("import numpy as ", "import pandas as ")
    ]
    comm.say({"type": "configure", "settings": {}, "load": True})
    comm.wait_for(type="status", state="ready", timeout=60)
    kernel.run("%complete import matplotlib.pyplot as")
    assert all(texts)
    assert [m["content"] for m in kernel.outputs() if m["msg_type"] == "stream"] == []


@pytest.mark.slow
def test_the_command_line_writes_nothing_but_its_own_lines_to_stderr(transformers, tmp_path):
    file = tmp_path / "file.py"
    file.write_text("import numpy as ")
    command = [sys.executable, "-m", "jupyter_sc2.cli", "complete", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout[:3], done.stderr) == ("np\n", "")
