"""The corpus: what is read as a notebook, from which packages, and what has to stay out."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from random import Random

import pytest

from jupyter_sc2.errors import RequestError
from jupyter_sc2.notebook import Cell
from jupyter_sc2.prompt.builder import Special, arrange
from jupyter_sc2.source.languages import of_cell_magic
from jupyter_sc2.training.cells import (
    docstring_sessions,
    is_python,
    make_cells,
    myst_cells,
    notebook_cells,
    page_cells,
    script_cells,
)
from jupyter_sc2.training.corpus import (
    FOR_CALIBRATION,
    HELD_OUT,
    LIBRARY_LIMIT,
    Filter,
    Trim,
    build_corpus,
    load_documents,
    read_file,
    read_notebooks,
    read_tree,
)
from jupyter_sc2.training.document import Document, Kind
from jupyter_sc2.training.examples import Branch, Example, build_example
from jupyter_sc2.training.licences import is_permissive, permissive_licence
from jupyter_sc2.training.overlap import Fragments, Seen, overlap, sample
from jupyter_sc2.types import CompletionRequest

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
        "!python train.py \\\n    --epochs 3",
        "times[n] = %timeit -o f(n)",
        "%%px\nx = 1",
        "%%writefile x.py\nx = 1",
        "print('%s'\n      % x)",
    ],
)
def test_what_ipython_takes_is_python(source: str):
    assert is_python(source)


@pytest.mark.parametrize("source", ["%%bash\nls", "%%html\n<b>", "pip install numpy", "x ="])
def test_other_languages_and_halves_of_statements_are_not_python(source: str):
    assert not is_python(source)


BASH = "%%bash\nmkdir -p data\ncurl -O $URL"


@pytest.mark.parametrize(
    "source", [BASH, "%%sql\nSELECT * FROM t", "%%R -i df\nsummary(df)", "%%file run.sh\nset -e"]
)
def test_a_cell_below_the_magic_of_another_language_stays_as_it_is(source: str):
    assert sources(notebook_cells(notebook(("code", source)))) == [source]


@pytest.mark.parametrize("source", ["%%spark\nval x = 1", "%%writefile x.py\nx = "])
def test_a_cell_below_a_magic_that_nobody_knows_is_left_out_unless_it_is_python(source: str):
    assert notebook_cells(notebook(("code", source))) == []


# What nobody types


@pytest.mark.parametrize(
    "source",
    [
        "x = [\n" + "    1.25, -3e-5, 17,\n" * 30 + "]",
        'icon = (\n    "' + "iVBORw0KGgoAAAANSUhEUgAA" * 4 + '"\n)',
        "client = Client('AKIA" + "ABCD1234" * 2 + "')",
        "print('" + "\u4f60\u597d" * 10 + "')",
    ],
    ids=["table", "encoded", "key", "script"],
)
def test_data_keys_and_scripts_beyond_the_tokenizer_are_left_out(source: str):
    assert make_cells([("code", source)]) == []


@pytest.mark.parametrize(
    "source",
    [
        "x = [1, 2, 3]",
        "for i in range(10):\n    print(i, i ** 2, x[i:i + 3])\n" * 20 + "end()",
        "# \u2211 x\u00b2 \u2014 \u03b1, \u03b2\nx.sum()",
        "url = 'https://github.com/someone/something/blob/" + "e73245912087d47b" * 3 + "/x.py'",
        "curve = df['a_rather_long_name_of_a_column_that_has_no_digits_in_it_and_goes_on_and_on']",
    ],
)
def test_code_with_some_numbers_and_signs_stays(source: str):
    assert sources(make_cells([("code", source)])) == [source]


def test_an_address_is_replaced():
    (cell,) = make_cells([("code", "Entrez.email = 'ada.l@lab.example.org'")])
    assert cell.source == "Entrez.email = 'user@example.com'"


@pytest.mark.parametrize("source", ["A@B.mean(0)", "!git clone git@github.com:a/b.git"])
def test_what_looks_like_an_address_stays(source: str):
    assert sources(make_cells([("code", source)])) == [source]


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


def test_a_class_too_long_for_a_cell_is_cut_between_its_methods():
    head = "@final\nclass Long(Base):"
    methods = [f"    def f{n}(self):\n        return {'x' * 150!r}\n" for n in range(40)]
    first, second = sources(script_cells("\n".join([head, *methods])))
    assert first.startswith(f"{head}\n    def f0(self):")
    assert second.startswith(f"{head}\n\n    def f")
    assert second.endswith(methods[-1].rstrip())
    assert first.count("def") + second.count("def") == 40


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


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("MIT", True), ("MIT AND CC-BY-4.0", True), ("MIT AND GPL-3.0", False), ("", False)],
)
def test_all_parts_of_an_expression_have_to_be_permissive(expression: str, expected: bool):
    assert is_permissive(expression) == expected


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
    seen.add(sample(f"{POEM} {POEM[::-1]} {SOLUTION}"))
    assert sample(f"{POEM} {POEM[::-1]}\n\n{SOLUTION.upper()} END") in seen


def test_a_text_of_its_own_has_not_been_seen():
    seen = Seen()
    seen.add(sample(POEM))
    assert sample(SCRIPT) not in seen


def test_a_text_that_is_half_from_a_held_out_package_stays_out():
    kept = Filter(Fragments(()))
    assert kept(Document("docs", "seaborn", document(SCRIPT, SOLUTION).cells))
    assert not kept(document(SOLUTION, POEM))
    assert dict(kept.left_out) == {"of held-out packages": 1}


LICENCE = "# " + "Permission is hereby granted, free of charge, to any person " * 4


def test_a_long_cell_stays_in_the_first_three_documents_that_have_it():
    trim = Trim()
    found = [len(trim(document(LICENCE, f"x = {n}", "import os")).cells) for n in range(5)]
    assert found == [3, 3, 3, 2, 2]
    assert trim.left_out == 2


def test_cells_of_a_held_out_package_stay_however_often_they_come():
    trim = Trim()
    held_out = Document("notebook", "seaborn", document(LICENCE).cells)
    assert [len(trim(held_out).cells) for _ in range(5)] == [1, 1, 1, 1, 1]


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


@pytest.mark.parametrize(
    "text",
    ["LIMIT = 3\nNAMES = ['a', 'b', 'c', 'd', 'e', 'f']\n", "# Auto-generated.\ndef f(): ...\n"],
)
def test_library_code_that_offers_nothing_or_is_generated_stays_out(tmp_path: Path, text: str):
    (tmp_path / "core.py").write_text(f"{text}\n_LONG = 'enough of it to count as a document'\n")
    assert list(read_tree(tmp_path, "p")) == []


def write_modules(folder: Path, statement: str) -> None:
    """Ten modules of some 60,000 characters each."""
    for module in range(10):
        block = f"{statement}'module {module}'\n" + f"# {'word ' * 20}\n" * 20
        (folder / f"m{module}.py").write_text(f"{block}\n" * 29)


def test_of_a_package_so_much_library_code_is_read(tmp_path: Path):
    write_modules(tmp_path, "def f():\n    return ")
    assert len(list(read_tree(tmp_path, "p"))) == LIBRARY_LIMIT // 60_000


def test_of_somebodys_own_folder_all_scripts_are_read(tmp_path: Path):
    write_modules(tmp_path, "x = ")
    assert len(list(read_tree(tmp_path, "p", own=True))) == 10


# A file of notebooks

PROSE = "Two of the nine cats that sleep below our old stairs catch more mice than all of the others do."


@pytest.fixture
def notebooks(tmp_path: Path):
    """Writes a file of notebooks, each one cell of code with its package, and the list of repositories."""

    def write(
        *cells: tuple[str, str], name: str = "a/b", licence: str = "MIT", more: str = ""
    ) -> Path:
        path = tmp_path / "some.jsonl.xz"
        rows = [
            json.dumps({"kind": "notebook", "package": package, "cells": [["code", source]]})
            for package, source in cells
        ]
        path.write_bytes(
            lzma.compress("".join(f"{row}\n" for row in [*rows, *more.split()]).encode())
        )
        listed = [{"name": name, "licence": licence, "commit": "c0ffee", "notebooks": len(rows)}]
        (tmp_path / "some-sources.json").write_text(json.dumps(listed))
        return path

    return write


def merged(archives: Path, notebooks: Path) -> list[tuple[str, str]]:
    build_corpus(archives, archives.parent, with_standard_library=False, notebooks=notebooks)
    return found(archives)


ARCHIVES = [("seaborn", "example"), ("p", "example")]
OWN = f"own = 1\nprint('{PROSE}')"


def test_a_file_of_notebooks_is_merged(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    assert merged(archives, path) == [ARCHIVES[0], ("github:a/b", "notebook"), ARCHIVES[1]]


def test_a_file_of_notebooks_need_not_be_compressed(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    plain = path.with_suffix("")
    plain.write_bytes(lzma.decompress(path.read_bytes()))
    assert merged(archives, plain) == merged(archives, path)


def test_a_repository_is_a_source_with_its_licence_and_commit(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    build_corpus(archives, archives.parent, with_standard_library=False, notebooks=path)
    row = json.loads((archives.parent / "sources.json").read_text())[-1]
    assert row == {
        "name": "github:a/b",
        "version": "c0ffee",
        "licence": "MIT",
        "code": {"notebook": 112},
    }


def test_a_corpus_is_the_same_each_time(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    merged(archives, path)
    once = (archives.parent / "documents.jsonl").read_bytes()
    merged(archives, path)
    assert (archives.parent / "documents.jsonl").read_bytes() == once


def test_of_a_notebook_and_an_example_that_are_near_copies_the_notebook_stays(
    archives: Path, notebooks
):
    path = notebooks(("github:a/b", f"x = 1\n{SCRIPT}\nmore = 1"))
    assert merged(archives, path) == [ARCHIVES[0], ("github:a/b", "notebook")]


def test_a_notebook_that_is_a_copy_of_a_held_out_document_stays_out(archives: Path, notebooks):
    path = notebooks(("github:a/b", f"# {POEM}\nprint('{POEM}')\nplt.show()"))
    assert merged(archives, path) == ARCHIVES


@pytest.mark.parametrize("name", sorted(HELD_OUT))
def test_repositories_of_held_out_packages_stay_out(notebooks, name: str):
    repository = f"github:someone/{name.title()}-tutorial"
    assert list(read_notebooks(notebooks((repository, OWN)), {repository})) == []


@pytest.mark.parametrize("repository", sorted(FOR_CALIBRATION))
def test_repositories_for_calibration_stay_out(archives: Path, notebooks, repository: str):
    path = notebooks((repository, OWN), name=repository.removeprefix("github:"))
    assert merged(archives, path) == ARCHIVES


@pytest.mark.parametrize("licence", ["GPL-3.0", "CC-BY-NC-4.0", ""])
def test_repositories_without_a_permissive_licence_stay_out(
    archives: Path, notebooks, licence: str
):
    assert merged(archives, notebooks(("github:a/b", OWN), licence=licence)) == ARCHIVES


def test_repositories_that_are_not_listed_stay_out(archives: Path, notebooks):
    assert merged(archives, notebooks(("github:c/d", OWN))) == ARCHIVES


def test_notebooks_with_a_function_of_an_evaluation_stay_out(archives: Path, notebooks):
    path = notebooks(("github:a/b", f"y = 2\n\n\n{SOLUTION}"))
    build_corpus(
        archives, archives.parent, with_standard_library=False, exclude=[SOLUTION], notebooks=path
    )
    assert found(archives) == ARCHIVES


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"kind":"poem"}', '{"kind":"notebook","package":"p","cells":[["code",5]]}']
)
def test_a_malformed_line_is_named_by_its_number(archives: Path, notebooks, line: str):
    path = notebooks(("github:a/b", OWN), more=line)
    with pytest.raises(RequestError, match=r"some\.jsonl\.xz, line 2 is not a document"):
        merged(archives, path)


def test_a_file_that_is_cut_off_is_an_error(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RequestError, match="is cut off or not compressed"):
        merged(archives, path)


def test_a_file_of_notebooks_without_its_list_is_an_error(archives: Path, notebooks):
    path = notebooks(("github:a/b", OWN))
    path.with_name("some-sources.json").unlink()
    with pytest.raises(RequestError, match=r"needs a list .* some-sources\.json"):
        merged(archives, path)


# Cursors in other languages


def examples_of(*cells: Cell, count: int = 300) -> list[Example]:
    """Examples of one document with the cells."""
    made = Document("notebook", "p", cells)
    return [build_example(made, Random(seed)) for seed in range(count)]


MIXED = (
    Cell(id="0", source="Fetch", cell_type="markdown"),
    Cell(id="1", source="import os"),
    Cell(id="2", source="%%sql\nSELECT name, price\nFROM goods\nWHERE price > 3"),
    Cell(id="3", source="rows = _.DataFrame()\nrows.plot()"),
)


def texts(branch: Branch) -> list[str]:
    return [part for part in branch.whole if isinstance(part, str)]


def test_a_cursor_below_a_magic_is_laid_out_as_for_inference():
    cell = "%%sql\nSELECT name, \nFROM goods\nWHERE price > 3"
    request = CompletionRequest(text=cell, offset=cell.index("\nFROM"))
    language, prefix, suffix = of_cell_magic(request)
    wanted = arrange(["import os\n\n"], prefix, suffix, mode="spm", language=language)
    found = [
        [*example.head, *example.trunk[: branch.above], *branch.given]
        for example in examples_of(*MIXED[1:], count=2000)
        for branch in example.branches
    ]
    assert wanted in found


def test_all_cursors_of_an_example_are_in_one_language():
    heads = {
        (example.head[-1], next(text for text in texts(branch) if text.startswith("cell.")))
        for example in examples_of(*MIXED)
        for branch in example.branches
        if Special("fim_middle") in branch.whole
    }
    assert heads == {("notebook.py\n", "cell.py\n"), ("notebook.sql\n", "cell.sql\n")}


def test_text_above_a_cursor_in_another_language_is_a_comment_of_that():
    comments = {
        (example.head[-1], example.trunk[1])
        for example in examples_of(MIXED[1], *MIXED[:1], MIXED[2])
        if len(example.trunk) == 3
    }
    assert comments == {("notebook.sql\n", "-- Fetch\n\n"), ("notebook.py\n", "# Fetch\n\n")}


def test_a_magic_itself_is_completed_in_python():
    middles = {
        texts(branch)[-1]
        for example in examples_of(MIXED[2], MIXED[1])
        for branch in example.branches
        if example.head[-1] == "notebook.py\n" and Special("fim_middle") in branch.whole
    }
    assert any(text.endswith("%%sql") for text in middles)
    assert not any("SELECT" in text for text in middles)


def test_other_languages_are_drawn_as_often_as_they_are_long():
    heads = [example.head[-1] for example in examples_of(*MIXED, count=1000)]
    assert 0.3 < heads.count("notebook.sql\n") / 1000 < 0.5
