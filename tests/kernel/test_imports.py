"""A real kernel tells which imports a suggestion lacks, and imports nothing to find out."""

import pytest

from tests.support.kernels import LOAD, OLD, FrontEnd

pytestmark = pytest.mark.kernel
pytest.importorskip("matplotlib")

PLOT = {"name": "plt", "code": "import matplotlib.pyplot as plt", "offset": 3}
COUNTER = {"name": "Counter", "code": "from collections import Counter", "offset": 16}


@pytest.fixture(scope="module")
def kernel(version):
    front_end = FrontEnd(old=version == OLD)
    front_end.run(LOAD.format(engine="Plotting"))
    front_end.run("rows = [1, 2]")
    yield front_end
    front_end.close()


@pytest.fixture
def comm(kernel):
    comm = kernel.open("control")
    comm.say({"type": "hello"})
    comm.wait_for(type="hello")
    yield comm
    comm.leave()


def imports(comm, text: str = "x = ") -> list:
    data = comm.final(comm.ask(text, trigger="invoke"))["content"]["data"]
    assert data["text"] == "plt.plot(Counter(rows))"
    return data.get("imports", [])


def test_missing_imports_come_with_the_text_and_nothing_is_imported(kernel, comm):
    assert imports(comm) == [PLOT, COUNTER]
    assert kernel.evaluate("'matplotlib' in __import__('sys').modules") == "False"


def test_names_that_are_there_or_will_be_are_left_out(kernel, comm):
    kernel.run("from collections import Counter")
    assert imports(comm) == [PLOT]
    cell = {"id": "a", "source": "import matplotlib.pyplot as plt"}
    comm.say({"type": "notebook", "rev": 1, "cells": [cell]})
    assert imports(comm) == []
    kernel.run("del Counter")
    assert imports(comm) == [COUNTER]


def test_a_setting_switches_imports_off_and_the_names_are_refuted(kernel, comm):
    comm.say({"type": "configure", "settings": {"imports": "off"}})
    data = comm.final(comm.ask("y = ", trigger="invoke"))["content"]["data"]
    assert "plt" not in data["text"] and "imports" not in data
    comm.say({"type": "configure", "settings": {"imports": "on"}})
    assert imports(comm, "z = ") == [PLOT, COUNTER]
