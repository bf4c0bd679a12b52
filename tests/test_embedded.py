"""The embedded model: what it is trained on, how, and the few things that it has to know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from jupyter_sc2.embedded.corpus import (
    Document,
    build_corpus,
    doctest_sessions,
    load_documents,
    notebook_cells,
    page_cells,
    permissive_licence,
    script_cells,
)
from jupyter_sc2.embedded.examples import CLOSERS, build_example, choose_cut
from jupyter_sc2.embedded.tokenizer import SPECIAL_TOKENS, encoder, load_tokenizer, train_tokenizer
from jupyter_sc2.embedded.train import Recipe, schedule, train
from jupyter_sc2.models import EMBEDDED_FOLDER
from jupyter_sc2.prompt.layout import Special, arrange
from jupyter_sc2.prompt.notebook import Cell

CELL = """\
import numpy as np

def mean(values):
    total = sum(values)
    return total / len(values)

x = np.linspace(0, 1, 100)
print(mean(x))"""


def sources(cells: list[Cell]) -> list[str]:
    return [cell.source for cell in cells]


def document(*cells: str) -> Document:
    return Document(
        "notebook", "p", tuple(Cell(id=str(n), source=source) for n, source in enumerate(cells))
    )


# Corpus


def test_a_docstring_session_becomes_cells_that_end_where_something_is_printed():
    text = '"""\n>>> x = 1\n>>> x\n1\n>>> for i in range(2):\n...     print(i)\n0\n1\n"""\n'
    (session,) = doctest_sessions(text.replace("x = 1\n>>> x\n", "x = 1\n\n>>> x\n"))
    assert sources(session) == ["x = 1", "x", "for i in range(2):\n    print(i)"]


def test_a_docstring_session_gets_the_imports_that_it_takes_for_granted():
    (session,) = doctest_sessions('"""\n>>> np.arange(3)\narray([0, 1, 2])\n"""\n')
    assert sources(session) == ["import numpy as np", "np.arange(3)"]


def test_an_import_that_is_there_is_not_added():
    (session,) = doctest_sessions('"""\n>>> import numpy as np\n>>> np.arange(3)\n"""\n')
    assert "\n".join(sources(session)).count("import numpy") == 1


def test_doctest_directives_are_left_out():
    (session,) = doctest_sessions('"""\n>>> run()  # doctest: +SKIP\n"""\n')
    assert sources(session) == ["run()"]


def test_a_notebook_gives_its_cells_without_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": [{"text": "1"}]},
    ]
    found = notebook_cells(json.dumps({"cells": cells}))
    assert [(cell.cell_type, cell.source) for cell in found] == [
        ("markdown", "# Title"),
        ("code", "x = 1\nx"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}'])
def test_a_broken_notebook_gives_no_cells(text: str):
    assert notebook_cells(text) == []


def test_a_notebook_in_another_language_gives_no_cells():
    cells = [{"cell_type": "code", "source": "x <- 1"}]
    assert (
        notebook_cells(json.dumps({"metadata": {"kernelspec": {"language": "R"}}, "cells": cells}))
        == []
    )


def test_a_script_is_cut_at_its_cell_marks():
    assert sources(script_cells("# %%\nx = 1\n# %% more\n\ny = 2\n")) == ["x = 1", "y = 2"]


def test_a_script_without_marks_is_cut_before_its_functions():
    assert sources(script_cells("import os\n\n\ndef f():\n    x = 1\n\n    return x\n")) == [
        "import os",
        "def f():\n    x = 1\n\n    return x",
    ]


def test_a_documentation_page_gives_its_python_blocks():
    page = (
        "Text\n\n.. code-block:: python\n\n    x = 1\n    y = 2\n\nMore\n\n```python\nz = 3\n```\n"
    )
    assert sources(page_cells(page)) == ["z = 3", "x = 1\ny = 2"]


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


# Examples


@pytest.mark.parametrize("seed", range(40))
def test_the_parts_around_a_cut_are_the_cell(seed: int):
    cut = choose_cut(CELL, Random(seed))
    assert cut.prefix + cut.middle + cut.suffix == CELL


def cuts(count: int = 1000) -> list:
    rng = Random(0)
    return [choose_cut(CELL, rng) for _ in range(count)]


def test_few_middles_are_empty():
    assert 0.01 < sum(not cut.middle for cut in cuts()) / 1000 < 0.05


def test_most_middles_are_within_one_line():
    assert sum("\n" not in cut.middle for cut in cuts()) / 1000 > 0.7


def test_some_middles_end_before_the_bracket_that_an_editor_has_closed():
    assert any(cut.prefix.endswith("linspace(") and cut.suffix.startswith(")") for cut in cuts())
    assert set(CLOSERS) == set("([{\"'")


def test_cuts_fall_after_as_and_in_the_middle_of_words():
    prefixes = {cut.prefix for cut in cuts()}
    assert "import numpy as " in prefixes
    assert any(prefix.endswith("np.lin") for prefix in prefixes)


def test_an_example_holds_a_whole_cell_in_one_of_the_layouts():
    for seed in range(60):
        segments = build_example(document(CELL), Random(seed))
        text = "".join(segment for segment in segments if isinstance(segment, str))
        if Special("fim_middle") not in segments:
            assert text == f"notebooknotebook.py\n{CELL}\n\n"
            continue
        middle = segments[-2]
        at = segments.index(Special("fim_suffix")) + 1
        suffix = segments[at]
        (block,) = [s for s in segments if isinstance(s, str) and s.startswith("cell.py\n")]
        assert segments[-1] == Special("file_sep")
        assert block.removeprefix("cell.py\n") + middle + suffix == CELL


def test_all_three_layouts_are_drawn():
    drawn = set()
    for seed in range(60):
        segments = build_example(document(CELL), Random(seed))
        if Special("fim_prefix") in segments:
            after_prefix = segments[segments.index(Special("fim_prefix")) + 1]
            drawn.add("spm" if after_prefix == Special("fim_suffix") else "psm")
        else:
            drawn.add("left-to-right")
    assert drawn == {"left-to-right", "spm", "psm"}


# Tokenizer


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([CELL] * 10, folder, vocabulary=400)
    return folder


def test_special_tokens_have_the_ids_of_starcoder2(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    assert [tokenizer.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(16))


def test_any_text_survives_the_tokenizer(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    text = "é\t日本 = 12345\n    x"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_each_digit_is_a_token(tokenizer_folder: Path):
    assert load_tokenizer(tokenizer_folder).encode("2026").tokens == ["2", "0", "2", "6"]


def test_the_name_of_a_special_token_in_somebodys_text_stays_text(tokenizer_folder: Path):
    encode = encoder(load_tokenizer(tokenizer_folder))
    assert all(id >= 16 for id in encode(["<fim_middle>"]))
    assert encode([Special("fim_middle")]) == [2]


# Training


def test_the_rate_rises_holds_and_falls_to_zero():
    assert [schedule(p) for p in (0, 0.01, 0.3, 1)] == [0, 0.5, 1, 0]
    assert 0 < schedule(0.9) < schedule(0.8) < 1


MICRO = Recipe(
    vocabulary=300,
    hidden=16,
    layers=1,
    heads=2,
    kv_heads=2,
    tokens_per_step=64,
    row=32,
    checkpoint_every=0.05,
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    row = {
        "kind": "notebook",
        "package": "p",
        "cells": [["code", CELL], ["code", "print(mean([1, 2]))"]],
    }
    (folder / "documents.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_training_leaves_a_model_and_goes_on_where_it_stopped(tmp_path: Path, corpus: Path):
    output = tmp_path / "model"
    first = train(
        corpus=corpus, output=output, minutes=0.005, recipe=MICRO, report=lambda line: None
    )
    lines: list[str] = []
    longer = first["seconds"] / 60 + 0.002
    second = train(corpus=corpus, output=output, minutes=longer, recipe=MICRO, report=lines.append)
    assert lines[0] == f"going on from step {first['step']}"
    assert second["tokens"] > first["tokens"] > 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in output.iterdir()
    }


def test_a_corpus_is_read_from_unpacked_archives_without_duplicates(tmp_path: Path):
    tree = tmp_path / "archives" / "p" / "p-1.0"
    (tree / "examples").mkdir(parents=True)
    (tree / "PKG-INFO").write_text("Name: p\nVersion: 1.0\nLicense-Expression: MIT\n")
    for name in ("a.py", "b.py"):
        (tree / "examples" / name).write_text(CELL)
    found = build_corpus(tmp_path / "archives", tmp_path, with_standard_library=False)
    assert [(source.name, source.version, source.licence) for source in found] == [
        ("p", "1.0", "MIT")
    ]
    assert [document.kind for document in load_documents(tmp_path / "documents.jsonl")] == [
        "example"
    ]


# The model that ships


@pytest.fixture(scope="module")
def complete():
    """Greedy completion to the end of the line by the shipped model, with nothing but transformers."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (EMBEDDED_FOLDER / "model.safetensors").exists():
        pytest.skip("the embedded model has not been trained here")
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32).eval()
    names = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    encode = encoder(load_tokenizer(EMBEDDED_FOLDER))

    def complete(prefix: str, suffix: str = "") -> str:
        ids = torch.tensor(
            [encode(arrange([], prefix, suffix, mode="spm" if suffix else "left-to-right"))]
        )
        with torch.no_grad():
            new = model.generate(
                ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids)
            )
        return names.decode(new[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]

    return complete


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("import numpy as ", "np"),
        ("import pandas as ", "pd"),
        ("import numpy as np\nimport matplotlib.pyplot as ", "plt"),
    ],
)
def test_the_shipped_model_knows_the_usual_names_of_imports(complete, prefix: str, expected: str):
    assert complete(prefix) == expected


def test_the_shipped_model_fills_in_before_a_suffix(complete):
    assert complete("import numpy as ", "\n\nx = np.arange(10)\nprint(x)") == "np"


def test_importing_the_recipe_is_light():
    heavy = "{'torch', 'numpy', 'transformers', 'tokenizers'}"
    code = f"import sys, jupyter_sc2.embedded.train; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
