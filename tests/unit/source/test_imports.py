"""Where a line of imports goes in a cell."""

import pytest

from jupyter_sc2.source.imports import with_imports

PLACES = {
    "at the top": "│x = 1",
    "behind imports": "import os\nfrom a import (\n    b,\n)\n│x = 1",
    "behind a docstring and a future import": '"""What\nit does."""\n'
    "from __future__ import annotations\n│x = 1",
    "below a cell magic": "%%time\n│x = 1",
    "above unfinished code": "│for x in ",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_line_of_imports_goes(place):
    marked = PLACES[place]
    expected = marked.replace("│", "import re\n")
    assert with_imports(marked.replace("│", ""), ["import re"]) == expected


def test_without_imports_a_cell_stays_as_it_is():
    assert with_imports("x = 1", []) == "x = 1"
