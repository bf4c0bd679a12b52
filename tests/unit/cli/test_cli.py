import gzip
import json
import os
import subprocess
import sys

import nbformat
import pytest

from jupyter_sc2 import cli
from jupyter_sc2.cli import complete
from jupyter_sc2.runtime import bounded_read


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [
        nbformat.v4.new_code_cell("import numpy as np"),
        nbformat.v4.new_code_cell("import pandas as "),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.torch
def test_complete_prints_one_json_object_with_what_the_design_names(notebook, capfd):
    assert run("complete", notebook, "--offset", 17, "--json") == 0
    out, _ = capfd.readouterr()
    answer = json.loads(out)
    assert set(answer) >= {
        "text",
        "finish_reason",
        "source",
        "model",
        "engine",
        "candidates",
        "stats",
    }
    assert set(answer["stats"]) == {
        "prompt_tokens",
        "reused_tokens",
        "generated_tokens",
        "first_token_ms",
        "total_ms",
        "load_ms",
    }


@pytest.mark.torch
def test_the_embedded_model_completes_a_notebook(notebook, capfd):
    assert run("complete", notebook, "--cell", 1, "--offset", 17) == 0
    assert capfd.readouterr().out.splitlines()[0] == "pd"


@pytest.mark.torch
def test_a_source_file_counts_as_one_cell(tmp_path, capfd):
    path = tmp_path / "script.py"
    path.write_text("import numpy as \nprint(np.pi)\n")
    assert run("complete", path, "--offset", 16, "--json") == 0
    assert json.loads(capfd.readouterr().out)["text"] == "np"


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [("n.ipynb", "%%bash\necho ", "bash"), ("x.jl", "x = ", "julia"), ("n.ipynb", "!ls ", "bash")],
)
def test_a_language_that_the_model_is_not_for_is_named_in_one_line(
    tmp_path, capfd, name, text, language
):
    path = tmp_path / name
    if name.endswith(".ipynb"):
        cells = [nbformat.v4.new_code_cell(text)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    else:
        path.write_text(text)
    assert run("complete", path, "--json") == 0
    out, err = capfd.readouterr()
    assert (json.loads(out)["text"], json.loads(out)["reason"]) == ("", "other_language")
    assert err == f"embedded is not asked for {language}: its card does not name that language.\n"


def test_a_notebook_in_another_language_is_not_taken_for_python(tmp_path, capfd):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x <- ")])
    book.metadata = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    nbformat.write(book, tmp_path / "n.ipynb")
    assert run("complete", tmp_path / "n.ipynb", "--json") == 0
    assert json.loads(capfd.readouterr().out)["reason"] == "other_language"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["complete", "NOTEBOOK", "--offset", "99"],
            "The cursor (offset 99) lies outside the text, which has 17",
        ),
        (
            ["complete", "NOTEBOOK", "--offset", "-1"],
            "The cursor (offset -1) lies outside the text",
        ),
        (
            ["complete", "NOTEBOOK", "--cell", "5"],
            "has 2 cells, numbered from 0; there is no cell 5.",
        ),
        (["complete", "missing.ipynb"], "Cannot read missing.ipynb: No such file or directory."),
        (
            ["complete", "NOTEBOOK", "--temperature", "9"],
            "temperature must lie between 0 and 2, not 9.0.",
        ),
        (
            ["complete", "NOTEBOOK", "--candidates", "99"],
            "candidates must lie between 1 and 10, not 99.",
        ),
        (["complete", "NOTEBOOK", "--max-tokens", "0"], "max_tokens must be 1 or more, not 0."),
        (["complete", "NOTEBOOK", "--seed", str(2**64)], "seed must lie between 0 and"),
        (["complete", "NOTEBOOK", "--seed", "-1"], "seed must lie between 0 and"),
        pytest.param(
            ["complete", "NOTEBOOK", "--model", "starcoder2-3x"],
            "Did you mean starcoder2-3b?",
            marks=pytest.mark.torch,
        ),
        pytest.param(
            ["complete", "NOTEBOOK", "--model", "./nowhere"], "nowhere", marks=pytest.mark.torch
        ),
    ],
)
def test_bad_input_is_one_line_and_status_1(arguments, message, notebook, capfd):
    assert run(*[notebook if a == "NOTEBOOK" else a for a in arguments]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("latin-1", "# -*- coding: latin-1 -*-"),
        ("cp1252", "#!/usr/bin/python\n# vim: set fileencoding=cp1252 :"),
        ("utf-8-sig", "# with a mark of its byte order"),
    ],
)
def test_a_python_file_is_read_in_the_encoding_that_it_names(encoding, line, tmp_path):
    text = f"{line}\nname = 'é'\nx = "
    path = tmp_path / "x.py"
    path.write_bytes(text.encode(encoding))
    args = cli._parser().parse_args(["complete", str(path)])
    request = complete._read_request(args)
    assert (request.text, request.offset) == (text, len(text))


def test_a_python_file_that_names_no_encoding_known_is_refused_in_one_line(tmp_path, capfd):
    path = tmp_path / "x.py"
    path.write_bytes(b"# coding: klingon\nx = ")
    assert run("complete", path) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "unknown encoding" in err and "klingon" in err


CELL = {"cell_type": "code", "source": "x = 1", "metadata": {}, "outputs": []}


@pytest.mark.parametrize("name", ["source", "cell_type"])
@pytest.mark.parametrize("value", [None, 5, ["x = ", 5], {}, "missing"], ids=str)
@pytest.mark.parametrize("command", [["complete"], ["eval", "cut"]], ids=" ".join)
def test_a_cell_that_does_not_exist_is_reported_in_one_line(name, value, command, tmp_path, capfd):
    cell = {key: it for key, it in CELL.items() if key != name}
    if value != "missing":
        cell[name] = value
    path = tmp_path / "x.ipynb"
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CELL, cell]}
    path.write_text(json.dumps(document))
    assert run(*command, path) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is not a notebook that can be read" in err


def test_a_binary_file_is_refused_in_one_line(tmp_path, capfd):
    path = tmp_path / "x.py"
    path.write_bytes(b"a = 1\xff\xfe")
    assert run("complete", path) == 1
    assert "is not UTF-8 text (byte 5)." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x.ipynb", ["complete"]),
        ("x.py", ["complete"]),
        ("x.ipynb", ["attribution", "report"]),
        ("x.jsonl", ["eval", "holes"]),
        ("x.jsonl.gz", ["eval", "holes"]),
    ],
)
def test_a_file_of_absurd_size_is_refused_in_one_line(tmp_path, capfd, name, arguments):
    path = tmp_path / name
    if name.endswith(".gz"):
        with gzip.open(path, "wb") as packed:
            for _ in range(bounded_read.MAX_INPUT_BYTES // (1 << 20) + 1):
                packed.write(bytes(1 << 20))
    else:
        path.write_bytes(b"{")
        os.truncate(path, 1 << 40)  # has holes: takes no room
    assert run(*arguments, path) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.endswith("it is larger than 105 MB.\n")


@pytest.mark.parametrize("name", ["x.ipynb", "x.jsonl"])
def test_a_file_that_is_nested_deep_is_refused_in_one_line(tmp_path, capfd, name):
    path = tmp_path / name
    path.write_text('{"cells": ' + "[" * 100_000)
    assert run(*(["complete"] if name == "x.ipynb" else ["eval", "holes"]), path) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and str(path) in err


def test_a_files_name_is_displayed_without_what_nobody_sees(tmp_path, capfd):
    assert run("complete", tmp_path / "\x1b]0;x\x07\u202e\n.py") == 1
    err = capfd.readouterr().err
    assert r"\x1b]0;x\x07\u202e\n.py" in err and err.count("\n") == 1


def test_models_lists_the_embedded_one_as_on_this_disk(capfd):
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["embedded"]["disk_bytes"] > 1_000_000
    assert rows["starcoder2-3b"]["licence"] == "BigCode OpenRAIL-M"


def test_models_lists_sizes_and_layouts_of_every_card(capfd):
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert {"starcoder2-7b", "starcoder2-15b", "codegemma-2b", "qwen2.5-coder-0.5b"} <= set(rows)
    assert round(rows["starcoder2-3b"]["sizes"]["bf16"] / 1e9, 2) == 6.06
    assert run("models") == 0
    assert "6.1 GB in bf16" in capfd.readouterr().out


@pytest.mark.torch
def test_plan_prints_a_row_for_each_precision_and_marks_one(capfd):
    assert run("plan", "--json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert {row["precision"] for row in rows} >= {"fp32", "bf16", "8bit", "4bit", "Q8_0", "Q4_K_M"}
    assert set(rows[0]) >= {"file_bytes", "memory_bytes", "fits", "speed", "chosen", "why"}
    assert [bool(row["why"]) for row in rows if row["chosen"]] == [True]
    assert run("plan", "--engine", "llamacpp", "--model", "embedded") == 0
    assert "is what loading takes" in capfd.readouterr().out


def test_plan_of_an_unknown_model_is_one_line(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run("plan", "--model", "owner/name") == 1
    assert capfd.readouterr().err == (
        "jupyter sc2: The sizes of owner/name are not known before its config.json is on this disk.\n"
    )


def test_the_command_is_found_by_jupyter(notebook):
    env = {**os.environ, "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-m", "jupyter", "sc2", "complete", "nowhere.ipynb"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "jupyter sc2: Cannot read nowhere.ipynb: No such file or directory.\n"


def test_what_the_disk_refuses_is_one_line_with_the_file_in_it(tmp_path, capfd):
    pytest.importorskip("torch")
    code, output = tmp_path / "code", tmp_path / "output"
    code.mkdir()
    (code / "a.py").write_text("import os\n\n\ndef f(x):\n    return x + 1\n" * 20)
    output.write_text("a file in the way")
    assert cli.main(["train", str(code), str(output), "--tokens", "10", "--device", "cpu"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == f"jupyter sc2: {output}: File exists."
