"""Which imports are offered with a suggestion, and above all which are not."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from jupyter_sc2.introspection.facts import Facts, gather
from jupyter_sc2.introspection.importable import is_installed
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.grounding import checker
from jupyter_sc2.pipeline.imports import Importable
from jupyter_sc2.source.well_known import MEMBERS, MODULES
from jupyter_sc2.types import CompletionRequest

pytest.importorskip("numpy")
pytest.importorskip("matplotlib")


class Kernel:
    """A kernel with some variables, in which the cells given as `pending` have not run."""

    epoch = 1

    def __init__(self, *pending: str, **variables: object) -> None:
        self.pending = pending
        self.variables = {"rows": [1], **variables}

    def state(self, request):
        return ""

    def facts(self, paths, request):
        known = gather(self.variables, paths)
        return Facts(frozenset(self.variables), known=known, pending=self.pending)


def request(code: str, *cells: str, **fields) -> tuple[CompletionRequest, str]:
    """The request and its text, which is between ├ and ┤."""
    before, rest = code.split("├")
    text, after = rest.split("┤")
    made = tuple(Cell(id=str(n), source=source) for n, source in enumerate(cells))
    fields = {"adds_imports": True, "cell_id": "here", "notebook": Notebook(made), **fields}
    return CompletionRequest(text=before + after, offset=len(before), **fields), text


def offered(code: str, *cells: str, kernel: Kernel | None = None, final: bool = True, **fields):
    """The lines that are offered with the text between ├ and ┤."""
    made, text = request(code, *cells, **fields)
    importable = Importable.for_request(made, kernel or Kernel(*cells))
    return importable and [one.code for one in importable.missing(text, final=final)]


OFFERED = {
    "an alias of a module": ("x = ├np.zeros(3)┤", ["import numpy as np"]),
    "one whose beginning was typed": ("x = n├p.zeros(3)┤", ["import numpy as np"]),
    "one that was typed": ("x = np.├zeros(3)┤", ["import numpy as np"]),
    "one of which a module was typed": ("np.linalg.├norm(rows)┤", ["import numpy as np"]),
    "a module in a package": ("├plt.plot(rows)┤", ["import matplotlib.pyplot as plt"]),
    "two in one text": (
        "├plt.plot(np.arange(3))┤",
        ["import matplotlib.pyplot as plt", "import numpy as np"],
    ),
    "a name of several uses once": ("├np.dot(np.ones(2), np.ones(2))┤", ["import numpy as np"]),
    "a module of the standard library": ("├math.sqrt(2)┤", ["import math"]),
    "a class": ("p = ├Path('a')┤", ["from pathlib import Path"]),
    "a decorator": ("├@dataclass\nclass A: ...┤", ["from dataclasses import dataclass"]),
    "a class that is called as its module": (
        "now = ├datetime.now()┤",
        ["from datetime import datetime"],
    ),
    "a module that is called as its class": ("d = ├datetime.date.today()┤", ["import datetime"]),
    "inside a function": ("def f(a):\n    return ├np.sin(a)┤", ["import numpy as np"]),
    "below a magic of the same language": ("%%time\n├np.ones(2)┤", ["import numpy as np"]),
    "in an f-string": ('├f"{np.pi}"┤', ["import numpy as np"]),
    "behind an astral character": ('"😀"; ├np.pi┤', ["import numpy as np"]),
}


@pytest.mark.parametrize("case", OFFERED)
def test_the_import_of_a_well_known_name_is_offered(case):
    code, lines = OFFERED[case]
    assert offered(code) == lines


NOT_OFFERED = {
    "a name that the cell imports": "import numpy as np\n├np.zeros(3)┤",
    "one that it imports below": "def f():\n    ├np.zeros(3)┤\nimport numpy as np",
    "one that the text imports": "├import numpy as np\nnp.zeros(3)┤",
    "one that it assigns": "np = 3\n├np.real┤",
    "an argument of its function": "def f(np):\n    return ├np.x┤",
    "the variable of a loop": "for re in rows:\n    ├re.x()┤",
    "an attribute of that name": "├rows.np.x┤",
    "a keyword of that name": "├f(np=1)┤",
    "a name in a string": "├'np.zeros(3)'┤",
    "a name in a comment": "├# np.zeros(3)┤",
    "a module without an attribute": "├print(stats)┤",
    "an attribute that the module does not have": "├math.squareroot(2)┤",
    "a name that is only stored": "├np = 1┤",
    "what a star import may bind": "from numpy import *\n├np.zeros(3)┤",
    "a package that is not installed": "├az.plot_trace(rows)┤",
    "a class of such a package": "├XGBClassifier()┤",
    "a name that the suggestion does not touch": "np.zeros(3)\n├x = 1┤",
    "the cell of another language": "%%bash\n├np.sh┤",
    "a cell that is written to a file": "%%writefile a.py\n├np.zeros(3)┤",
    "a magic line": "%timeit ├np.zeros(3)┤",
    "a shell command": "!├np.sh┤",
    "text that does not parse": "├np.zeros(3))┤",
    "a name that nobody knows": "├xyz.zeros(3)┤",
}


@pytest.mark.parametrize("case", NOT_OFFERED)
def test_nothing_is_offered_for(case):
    assert not offered(NOT_OFFERED[case])


def test_a_name_of_the_kernel_is_not_imported_again():
    assert offered("├np.zeros(3)┤", kernel=Kernel(np=object())) == []


def test_a_name_that_another_cell_imports_is_not_imported_again_though_it_has_not_run():
    assert offered("├np.zeros(3)┤", "import numpy as np") == []


def test_a_name_that_a_cell_below_binds_is_not_imported():
    assert offered("├re.x┤", "re = 2") == []


def test_a_cell_that_has_not_run_and_may_bind_anything_keeps_imports_away():
    assert offered("├np.zeros(3)┤", "%run setup.py") == []
    assert offered("├np.zeros(3)┤", "from pylab import *") == []


def test_a_star_import_that_has_run_has_bound_what_it_binds():
    cell = "from math import *"
    assert offered("├np.zeros(3)┤", cell, kernel=Kernel()) == ["import numpy as np"]


def test_prose_and_cells_of_front_ends_that_add_no_imports_get_none():
    prose = Notebook((Cell(id="here", source="", cell_type="markdown"),))
    assert offered("├np.zeros(3)┤", notebook=prose) is None
    assert offered("├np.zeros(3)┤", adds_imports=False) is None


def test_a_text_file_is_offered_what_it_does_not_bind_itself():
    fields = {"path": "a.py", "companion": True, "cell_id": "a.py"}
    other_file = "import numpy as np"
    assert offered("├np.zeros(3)┤", other_file, **fields) == ["import numpy as np"]
    assert offered("import numpy as np\n├np.zeros(3)┤", **fields) == []
    assert offered("├np.zeros(3)┤", **{**fields, "path": "a.R", "language": "r"}) is None


def test_a_text_file_imports_what_its_kernel_has_for_itself():
    kernel = Kernel(np=object())
    assert offered("├np.zeros(3)┤", path="a.py", kernel=kernel) == ["import numpy as np"]
    assert offered("├az.plot(rows)┤", path="a.py", kernel=kernel) == []


def test_what_is_installed_where_the_companion_does_not_run_the_document_is_not_known():
    assert offered("├az.plot(rows)┤", companion=True) == ["import arviz as az"]


def test_the_offset_says_from_where_on_the_text_uses_the_name():
    made, text = request("x = n├p.ones(3) + math.pi┤")
    found = Importable.for_request(made, Kernel()).missing(text, final=True)
    assert [(one.name, one.offset) for one in found] == [
        ("np", 1),
        ("math", len("p.ones(3) + math")),
    ]


def test_a_name_that_may_go_on_is_not_offered_while_it_streams():
    assert offered("x = ├Path┤", final=False) == []
    assert offered("x = ├Path(┤", final=False) == ["from pathlib import Path"]
    assert offered("x = ├np.zer┤", final=False) == ["import numpy as np"]


def refuted(code: str, *, final: bool = True, imports: bool = True, **fields):
    made, text = request(code, **fields)
    importable = Importable.for_request(made, Kernel()) if imports else None
    found = checker(made, Kernel(), importable)(text, final)
    return found and found.word


def test_a_name_that_is_imported_with_the_text_is_not_refuted():
    assert refuted("x = ├np.zeros(3)┤", imports=False) == "np"
    assert refuted("x = ├np.zeros(3)┤") is None
    assert refuted("x = ├Path('a')┤") is None


def test_a_name_that_cannot_be_imported_is_refuted_as_before():
    assert refuted("x = ├az.plot(rows)┤") == "az"
    assert refuted("x = ├math.squareroot(2)┤") == "math"
    assert refuted("x = ├np.zeros(3) + totl┤") == "totl"


@pytest.mark.parametrize("name", [*MODULES, *MEMBERS])
def test_a_line_of_the_table_binds_its_name(name):
    for line in filter(None, (MODULES.get(name), MEMBERS.get(name))):
        (statement,) = ast.parse(line).body
        (alias,) = statement.names
        assert (alias.asname or alias.name) == name


def test_finding_out_what_is_installed_imports_nothing():
    code = (
        "import sys\nfrom jupyter_sc2.introspection.importable import is_installed\n"
        "assert is_installed('matplotlib.pyplot') and is_installed('xml.dom.minidom')\n"
        "assert not is_installed('matplotlib.nothing') and not is_installed('nothing.at.all')\n"
        "assert not {'matplotlib', 'xml'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_of_the_users_that_hides_a_module_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit")
    (tmp_path / "statistics").mkdir()
    (tmp_path / "statistics" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert not is_installed("random")
    assert not is_installed("statistics")
    assert is_installed("json")
