"""The corpus: what is read as a notebook, from which packages, and what has to stay out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from jupyter_sc2.embedded.cells import (
    docstring_sessions,
    is_python,
    myst_cells,
    notebook_cells,
    page_cells,
    script_cells,
)
from jupyter_sc2.embedded.corpus import Document, Kind, build_corpus, load_documents, read_file
from jupyter_sc2.embedded.licences import permissive_licence
from jupyter_sc2.embedded.overlap import Fragments, Seen, overlap
from jupyter_sc2.prompt.notebook import Cell

SCRIPT = """\
import numpy as np

def mean(values):
    total = sum(values)
    return total / len(values)

x = np.linspace(0, 1, 100)
print(mean(x))
"""


def sources(cells: list[Cell]) -> list[str]:
    return [cell.source for cell in cells]


def kinds_and_sources(cells: list[Cell]) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in cells]


# Docstrings


def test_a_docstring_session_becomes_cells_that_end_where_something_is_printed():
    text = '"""\n>>> x = 1\n\n>>> x\n1\n>>> for i in range(2):\n...     print(i)\n0\n1\n"""\n'
    (session,) = docstring_sessions(text)
    assert sources(session) == ["x = 1", "x", "for i in range(2):\n    print(i)"]


def test_a_docstring_session_gets_the_imports_that_it_takes_for_granted():
    (session,) = docstring_sessions('"""\n>>> np.arange(3)\narray([0, 1, 2])\n"""\n')
    assert sources(session) == ["import numpy as np", "np.arange(3)"]


def test_an_import_that_is_there_is_not_added():
    (session,) = docstring_sessions('"""\n>>> import numpy as np\n>>> np.arange(3)\n"""\n')
    assert "\n".join(sources(session)).count("import numpy") == 1


def test_doctest_directives_are_left_out():
    (session,) = docstring_sessions('"""\n>>> run()  # doctest: +SKIP\n"""\n')
    assert sources(session) == ["run()"]


def test_a_fence_in_a_docstring_is_read():
    (session,) = docstring_sessions(
        'def f():\n    """Doc.\n\n    ```python\n    f(1)\n    ```\n    """\n'
    )
    assert sources(session) == ["f(1)"]


def test_each_string_of_a_module_is_a_session_of_its_own():
    text = 'A = """\n>>> one()\n"""\nB = """\n>>> two()\n"""\n'
    assert [sources(session) for session in docstring_sessions(text)] == [["one()"], ["two()"]]


# Notebooks


def notebook(*cells: tuple[str, str], language: str = "python") -> str:
    rows = [{"cell_type": kind, "source": source, "outputs": ["1"]} for kind, source in cells]
    return json.dumps({"metadata": {"kernelspec": {"language": language}}, "cells": rows})


def test_a_notebook_gives_its_cells_without_outputs():
    found = notebook_cells(notebook(("markdown", "# Title"), ("code", "x = 1\nx")))
    assert kinds_and_sources(found) == [("markdown", "# Title"), ("code", "x = 1\nx")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}'])
def test_a_broken_notebook_gives_no_cells(text: str):
    assert notebook_cells(text) == []


def test_a_notebook_in_another_language_gives_no_cells():
    assert notebook_cells(notebook(("code", "x <- 1"), language="R")) == []


def test_cells_of_python_2_are_left_out():
    found = notebook_cells(notebook(("code", "print 'x'"), ("code", "print('x')")))
    assert sources(found) == ["print('x')"]


@pytest.mark.parametrize(
    "source",
    [
        "%matplotlib inline\nx = 1",
        "!pip install numpy",
        "%%time\nfit()",
        "files = !ls",
        "df.head?",
        "if x:\n    %run y.py",
        "await f()",
    ],
)
def test_what_ipython_takes_is_python(source: str):
    assert is_python(source)


@pytest.mark.parametrize("source", ["%%bash\nls", "%%html\n<b>", "pip install numpy", "x ="])
def test_other_languages_and_halves_of_statements_are_not_python(source: str):
    assert not is_python(source)


# Scripts


def test_a_script_is_cut_at_its_cell_marks():
    assert sources(script_cells("# %%\nx = 1\n# %% more\n\ny = 2\n")) == ["x = 1", "y = 2"]


def test_comments_after_a_cell_mark_are_text():
    found = script_cells("x = 1\n# %% [markdown]\n# ## Title\n# Text\n\n# %%\ny = 2\n")
    assert kinds_and_sources(found) == [
        ("code", "x = 1"),
        ("markdown", "## Title\nText"),
        ("code", "y = 2"),
    ]


def test_a_script_without_marks_is_cut_before_its_functions():
    assert sources(script_cells("import os\n\n\ndef f():\n    x = 1\n\n    return x\n")) == [
        "import os",
        "def f():\n    x = 1\n\n    return x",
    ]


def test_a_script_is_not_cut_inside_a_string():
    text = 'QUERY = """\nSELECT\n\nFROM\n"""\n'
    assert sources(script_cells(text)) == [text.rstrip()]


# Pages


def test_a_documentation_page_gives_its_python_blocks():
    page = (
        "Text\n\n.. code-block:: python\n\n    x = 1\n    y = 2\n\nMore\n\n```python\nz = 3\n```\n"
    )
    assert sources(page_cells(page)) == ["x = 1\ny = 2", "z = 3"]


@pytest.mark.parametrize(
    "page",
    [
        "```py\nf(1)\n```",
        "```{code-cell} ipython3\n:tags: [hide]\nf(1)\n```",
        "```{code-block} python\n:linenos:\n\nf(1)\n```",
        '```python title="x.py"\nf(1)\n```',
        "~~~python\nf(1)\n~~~",
        "- item\n\n    ```python\n    f(1)\n    ```",
        ".. ipython:: python\n   :okwarning:\n\n   @suppress\n   f(1)\n",
        ".. ipython::\n\n   In [1]: f(1)\n   Out[1]: 2\n",
        ".. plot::\n   :context:\n\n   f(1)\n",
        ".. jupyter-execute::\n\n   f(1)\n",
        ".. code-block:: pycon\n\n   >>> f(1)\n   2\n",
        ".. note::\n\n   .. code-block:: python\n\n      f(1)\n",
        "As follows::\n\n    f(1)\n",
        "In the text:\n\n>>> f(1)\n2\n",
    ],
)
def test_code_is_found_in_every_dress(page: str):
    assert sources(page_cells(page)) == ["f(1)"]


@pytest.mark.parametrize(
    "page",
    [
        "```bash\nls(1)\n```",
        "```\nf(1)\n```",
        "```{note}\nf(1)\n```",
        ".. code-block:: c\n\n   f(1)\n",
        "Run this::\n\n    pip install x\n",
        "A name::\n\n    name\n",
    ],
)
def test_other_blocks_are_passed_over(page: str):
    assert page_cells(page) == []


def test_a_decorator_at_the_head_of_a_block_is_code():
    page = "```python\n@app.route('/')\ndef f(): ...\n```"
    assert sources(page_cells(page)) == ["@app.route('/')\ndef f(): ..."]


def test_a_notebook_kept_as_markdown_keeps_its_text():
    page = "---\nkernelspec:\n  name: python3\n---\n# Title\n\n```{code-cell}\nx = 1\n```\n\nEnd.\n"
    assert kinds_and_sources(myst_cells(page)) == [
        ("markdown", "# Title"),
        ("code", "x = 1"),
        ("markdown", "End."),
    ]


def test_a_page_without_a_kernel_is_no_notebook():
    assert myst_cells("# Title\n\n```python\nx = 1\n```\n") == []


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("docs/a.ipynb", notebook(("code", "x = 1")), "notebook"),
        ("docs/a.md", "---\nkernelspec: x\n---\n```{code-cell}\nx = 1\n```\n", "notebook"),
        ("README.md", "```python\nx = 1\n```\n", "docs"),
        ("docs/topics/a.txt", "So::\n\n    x = 1\n", "docs"),
        ("examples/a.py", "x = 1\n", "example"),
        ("p/example_dags/a.py", "x = 1\n", "example"),
        ("p/core.py", '"""\n>>> x = 1\n"""\n', "doctest"),
    ],
)
def test_the_kind_of_a_document_follows_from_where_it_is(name: str, text: str, kind: Kind):
    assert [(k, sources(cells)) for k, cells in read_file(name, text)] == [(kind, ["x = 1"])]


# Licences


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: BSD-3-Clause\n", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("License: Apache 2.0\n", "Apache 2.0"),
        ("License-Expression: GPL-3.0-only\n", None),
        ("License-Expression: MIT AND LGPL-3.0\n", None),
        ("Name: x\n", None),
    ],
)
def test_only_a_clear_permissive_licence_counts(metadata: str, expected: str | None):
    assert permissive_licence(metadata) == expected


MIT_TEXT = (
    "Permission is hereby granted, free of charge, to any\nperson obtaining a copy of this software"
)


def test_a_licence_file_counts_where_the_metadata_name_none():
    assert permissive_licence("Name: x\n", f"{MIT_TEXT}, express or implied") == "MIT"


def test_a_licence_file_does_not_overrule_the_metadata():
    assert permissive_licence("License: GPL-3.0\n", MIT_TEXT) is None


def test_licence_files_of_which_one_is_restrictive_do_not_count():
    assert permissive_licence("Name: x\n", f"{MIT_TEXT}\nGNU GENERAL PUBLIC LICENSE") is None


# Overlap

POEM = "the quick brown fox jumps over the lazy dog while seven green ducks watch from a far shore"
SOLUTION = '''\
def rolling_max(numbers):
    """From a list of integers, generate a list of the rolling maximum found until this moment."""
    return [max(numbers[: i + 1]) for i in range(len(numbers))]
'''
ROW = {"prompt": SOLUTION, "canonical_solution": "", "suffix": ""}


def document(*cells: str) -> Document:
    return Document("notebook", "p", tuple(Cell(id="0", source=source) for source in cells))


def test_a_text_that_differs_in_layout_and_a_word_has_been_seen():
    seen = Seen()
    assert seen.add(f"{POEM} {POEM[::-1]} {SOLUTION}")
    assert not seen.add(f"{POEM} {POEM[::-1]}\n\n{SOLUTION.upper()} END")


def test_a_text_of_its_own_has_not_been_seen():
    seen = Seen()
    seen.add(POEM)
    assert seen.add(SCRIPT)


def test_a_text_with_a_long_run_of_a_fragments_words_holds_it():
    fragments = Fragments([SOLUTION])
    copy = SOLUTION.replace("def rolling_max", "def f").replace("    ", "  ")
    assert fragments.occur_in(f"x = 1\n{copy}")
    assert not fragments.occur_in(SCRIPT)


def test_a_function_of_a_fragments_name_needs_fewer_of_its_words():
    fragments = Fragments([SOLUTION])
    words = '"""From a list of integers, generate a list."""'
    assert fragments.occur_in(f"def rolling_max(x):\n    {words}\n")
    assert not fragments.occur_in(f"def other(x):\n    {words}\n")


def test_the_overlap_is_the_number_of_rows_that_occur():
    other = {**ROW, "prompt": POEM}
    assert overlap([document(SCRIPT), document(SOLUTION)], [ROW, other]) == 1


# The whole


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Two packages with one example each, which differ."""
    for name, script in [("p==1.0", SCRIPT), ("seaborn", f"# {POEM}\nprint('{POEM}')\n")]:
        tree = tmp_path / "archives" / name / "tree"
        (tree / "examples").mkdir(parents=True)
        (tree / "PKG-INFO").write_text("Version: 1.0\nLicense-Expression: MIT\n")
        (tree / "examples" / "a.py").write_text(f"x = 1\n{script}")
    return tmp_path / "archives"


def found(archives: Path) -> list[tuple[str, str]]:
    path = archives.parent / "documents.jsonl"
    return [(document.package, document.kind) for document in load_documents(path)]


def test_a_corpus_is_read_from_unpacked_archives(archives: Path):
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example"), ("p", "example")]


def test_a_corpus_comes_with_a_list_of_its_sources(archives: Path):
    (first, _) = build_corpus(archives, archives.parent, with_standard_library=False)
    assert (first.name, first.version, first.licence) == ("p", "1.0", "MIT")
    assert first.code == {
        "example": 137
    }  # the letters of the script, without the blank lines between cells
    rows = json.loads((archives.parent / "sources.json").read_text())
    assert [row["name"] for row in rows] == ["p", "seaborn"]


def test_two_versions_of_a_package_are_one_source(archives: Path):
    (archives / "seaborn").rename(archives / "p==0.9")
    (source,) = build_corpus(archives, archives.parent, with_standard_library=False)
    assert (source.name, source.version) == ("p", "1.0, 1.0")


def test_copies_are_left_out(archives: Path):
    folder = archives / "p==1.0" / "tree" / "examples"
    (folder / "b.py").write_text((folder / "a.py").read_text())
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example"), ("p", "example")]


def test_copies_too_short_to_have_runs_are_left_out(archives: Path):
    folder = archives / "p==1.0" / "tree" / "examples"
    for name in ("a.py", "b.py"):
        (folder / name).write_text("a_name_of_some_length = another_name_of_the_same_length\n")
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example"), ("p", "example")]


def test_of_copies_of_several_kinds_the_one_most_like_a_notebook_stays(archives: Path):
    path = archives / "p==1.0" / "tree" / "examples" / "z.ipynb"  # read after a.py
    path.write_text(notebook(("code", f"x = 1\n{SCRIPT}")))
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example"), ("p", "notebook")]


def test_of_near_copies_that_of_a_held_out_package_stays(archives: Path):
    text = (archives / "seaborn" / "tree" / "examples" / "a.py").read_text()
    (archives / "p==1.0" / "tree" / "examples" / "a.py").write_text(f"{text}\ny = 2\n")
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example")]


def test_a_package_without_a_permissive_licence_stays_out(archives: Path):
    (archives / "p==1.0" / "tree" / "PKG-INFO").write_text("License-Expression: GPL-3.0-only\n")
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives) == [("seaborn", "example")]


def test_documents_with_a_function_of_an_evaluation_stay_out(archives: Path):
    (archives / "p==1.0" / "tree" / "examples" / "b.py").write_text(f"y = 2\n\n\n{SOLUTION}")
    rows = archives.parent / "rows.jsonl.gz"
    rows.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    build_corpus(archives, archives.parent, with_standard_library=False, exclude=rows)
    assert found(archives) == [("seaborn", "example"), ("p", "example")]
    assert overlap(load_documents(archives.parent / "documents.jsonl"), [ROW]) == 0


def test_plain_library_code_comes_last(archives: Path):
    (archives / "p==1.0" / "tree" / "core.py").write_text(
        "def core(a, b, c):\n    return a * b * c + 1\n"
    )
    build_corpus(archives, archives.parent, with_standard_library=False)
    assert found(archives)[-1] == ("p", "library")
