"""The figures: what counts as right, and that a run can be taken up again."""

import gzip
import json

import nbformat
import pytest

from jupyter_sc2 import cli
from jupyter_sc2.errors import RequestError
from jupyter_sc2.evaluation import holes, infilling, runner
from jupyter_sc2.notebook import Cell
from jupyter_sc2.types import Completion

CELLS = (
    Cell(id="0", source="import numpy as np\nvalues = np.arange(10)"),
    Cell(id="1", source="total = values.sum()\nprint(total / len(values))\n# a comment here"),
)
ROW = {
    "id": "r",
    "kind": "line start",
    "cells": ["x = 1"],
    "prefix": "",
    "suffix": "",
    "expected": "print(x)",
}


def completed(session, text: str):
    """What a session would say, without one."""

    class Said:
        status = session.status

        def complete(self, request):
            yield Completion(text=text, finish_reason="stop", mean_logprob=-0.5)

    return Said()


def test_a_hole_and_its_surroundings_are_a_line_of_the_notebook():
    for row in holes.cut_holes([("n", CELLS)], count=10):
        whole = row["prefix"] + row["expected"] + row["suffix"]
        assert whole in {cell.source for cell in CELLS}


def test_half_of_the_holes_begin_at_a_line_and_half_in_a_word():
    rows = holes.cut_holes([("n", CELLS)], count=10)
    kinds = [row["kind"] for row in rows]
    assert abs(kinds.count("line start") - kinds.count("mid-word")) <= 1
    for row in rows:
        last = row["prefix"].rpartition("\n")[2]
        assert (not last.strip()) == (row["kind"] == "line start")


def test_comments_are_no_holes():
    rows = holes.cut_holes([("n", CELLS)], count=10)
    assert not any("comment" in row["expected"] for row in rows)


@pytest.mark.parametrize(
    "source",
    [
        "%%bash\nmkdir -p data/raw\ncurl -O $URL",
        "%%writefile run.sh\nset -euo pipefail",
        "%%my_timer\nresult = compute()",
        "files = !ls data/raw",
        "!pip install \\\n    pandas seaborn",
        "dataframe.groupby?",
        "%%time\n%%html\n<b>some text</b>",
    ],
)
def test_cells_and_lines_of_other_languages_are_no_holes(source):
    cells = (CELLS[0], Cell(id="1", source=source))
    rows = holes.cut_holes([("n", cells)], count=10)
    assert {row["expected"] for row in rows if row["cells"]} == set()


def test_below_a_magic_that_runs_the_cell_there_are_holes():
    cells = (CELLS[0], Cell(id="1", source="%%time\nresult = compute()"))
    assert any(row["cells"] for row in holes.cut_holes([("n", cells)], count=10))


def test_a_notebook_in_another_language_has_no_holes(tmp_path, capsys):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELLS[1].source)])
    book.metadata = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    nbformat.write(book, tmp_path / "n.ipynb")
    assert cli.main(["eval", "cut", str(tmp_path / "n.ipynb"), "--count", "2"]) == 1
    assert "no line to make a hole in" in capsys.readouterr().err


def test_exact_match_compares_first_lines_without_trailing_blanks(session):
    said = completed(session, "print(x)  \nmore")
    assert holes.evaluate(said, [ROW])["exact_match"] == 1.0


def test_an_empty_completion_is_no_match(session):
    figures = holes.evaluate(completed(session, ""), [ROW])
    assert (figures["exact_match"], figures["edit_similarity"]) == (0.0, 0.0)


def test_a_line_magic_parses_and_a_broken_call_does_not():
    assert holes.parses("%matplotlib inline\nx = !ls")
    assert not holes.parses("print((1)")


def test_the_interval_contains_the_mean():
    low, high = runner.interval([0.0, 1.0] * 50)
    assert low < 0.5 < high


def test_the_gate_shows_less_and_is_right_more_often_above_a_higher_threshold():
    results = [
        {"text": "a", "confidence": 0.9, "exact": True, "similarity": 1.0},
        {"text": "b", "confidence": 0.1, "exact": False, "similarity": 0.2},
        {"text": "", "confidence": None, "exact": False, "similarity": 0.0},
    ]
    low, high = holes.gate_curve(results, [0.0, 0.5])
    assert (low["coverage"], low["precision"]) == (0.6667, 0.5)
    assert (high["coverage"], high["precision"]) == (0.3333, 1.0)


def test_a_second_run_asks_only_for_what_is_missing(session, tmp_path):
    kept = tmp_path / "results.jsonl"
    holes.evaluate(completed(session, "print(x)"), [ROW], kept=kept)
    with kept.open("a") as file:
        file.write('{"id": "cut o')  # where a run was killed
    figures = holes.evaluate(completed(session, "wrong"), [ROW], kept=kept)
    assert figures["exact_match"] == 1.0


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"5", b"[]", b'{"kind": 1}', b'{"id": {}}', b"[" * 60_000, b"\0" * 4096]
)
def test_a_damaged_line_of_results_is_passed_over(session, tmp_path, line):
    kept = tmp_path / "results.jsonl"
    holes.evaluate(completed(session, "print(x)"), [ROW], kept=kept)
    kept.write_bytes(line + b"\n" + kept.read_bytes())
    assert holes.evaluate(completed(session, "wrong"), [ROW], kept=kept)["exact_match"] == 1.0


def test_a_result_with_other_ends_of_lines_in_it_is_one_result(session, tmp_path):
    kept = tmp_path / "results.jsonl"
    row = {**ROW, "id": "a\u2028b\x85c"}
    holes.evaluate(completed(session, "print(x)"), [row], kept=kept)
    assert holes.evaluate(completed(session, "wrong"), [row], kept=kept)["exact_match"] == 1.0


def test_results_that_cannot_be_read_or_written_are_an_error_in_words(session, tmp_path):
    with pytest.raises(RequestError, match="Cannot read"):
        holes.evaluate(completed(session, "print(x)"), [ROW], kept=tmp_path)
    with pytest.raises(RequestError, match="cannot be written"):
        holes.evaluate(completed(session, "print(x)"), [ROW], kept=tmp_path / "no folder" / "file")


FUNCTION = {
    "task_id": "t/0",
    "entry_point": "double",
    "prompt": "def double(x):\n",
    "suffix": "",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(f):\n    assert f(4) == 8\n",
}


def test_a_function_passes_if_its_tests_do():
    assert infilling.passes(FUNCTION, "    return x + x")
    assert not infilling.passes(FUNCTION, "    return x")


def test_a_function_that_never_ends_fails():
    assert not infilling.passes(FUNCTION, "    while True: pass", timeout=1)


@pytest.mark.parametrize(
    "deed",
    [
        "__import__('socket').socket()",
        "__import__('subprocess').run(['true'])",
        "open('written', 'w')",
    ],
)
def test_what_the_model_wrote_cannot_reach_out(deed: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not infilling.passes(FUNCTION, f"    {deed}\n    return 2 * x")
    assert not (tmp_path / "written").exists()


def test_exact_match_and_pass_at_1_are_told_apart(session):
    figures = infilling.evaluate(completed(session, "    return x + x\nleft over"), [FUNCTION])
    assert (figures["exact_match"], figures["pass_at_1"]) == (0.0, 1.0)


def test_rows_are_read_from_a_gzipped_file(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert runner.read_rows(path, holes.NEEDED) == [ROW]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "does not hold JSON lines"), ('{"cells": []}', "has no prefix"), ("", "holds no rows")],
)
def test_a_file_that_holds_no_rows_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert cli.main(["eval", "holes", str(path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.torch
def test_the_commands_cut_holes_and_fill_them(tmp_path, capfd):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.source) for cell in CELLS]
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert cli.main(["eval", "cut", str(tmp_path / "n.ipynb"), "--count", "2"]) == 0
    (tmp_path / "rows.jsonl").write_text(capfd.readouterr().out)
    assert cli.main(["eval", "holes", str(tmp_path / "rows.jsonl"), "--json"]) == 0
    figures = json.loads(capfd.readouterr().out)
    names = {"model", "engine", "n", "exact_match", "edit_similarity", "parses", "by_kind"}
    assert names | {"first_token_ms_p50", "total_ms_p50"} <= set(figures)
    assert figures["n"] == 2


@pytest.mark.torch
def test_the_command_runs_humaneval_rows(tmp_path, capfd):
    (tmp_path / "rows.jsonl").write_text(json.dumps(FUNCTION))
    path = str(tmp_path / "rows.jsonl")
    assert cli.main(["eval", "humaneval-infilling", path, "--order", "psm", "--json"]) == 0
    assert {"model", "n", "exact_match", "pass_at_1"} <= set(json.loads(capfd.readouterr().out))
