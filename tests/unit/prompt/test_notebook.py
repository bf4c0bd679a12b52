import json

import nbformat
import pytest

from jupyter_sc2.errors import RequestError
from jupyter_sc2.notebook import Cell, Notebook


def sources(notebook: Notebook) -> list[str]:
    return [cell.source for cell in notebook.cells]


BASE = Notebook((Cell(id="a", source="1"), Cell(id="b", source="2")), rev=1)


def test_a_change_replaces_cells_and_keeps_the_order():
    assert sources(BASE.changed([Cell(id="a", source="9")], rev=2)) == ["9", "2"]


def test_a_change_with_an_order_adds_moves_and_removes():
    assert sources(BASE.changed([Cell(id="c", source="3")], order=["c", "a"])) == ["3", "1"]


def test_an_order_with_an_unknown_cell_is_refused():
    with pytest.raises(RequestError, match="unknown cell: 'z'"):
        BASE.changed([], order=["a", "z"])


def test_above_are_the_cells_before_the_one_with_the_id():
    assert [cell.id for cell in BASE.above("b")] == ["a"]


def test_above_an_unknown_cell_is_everything():
    assert [cell.id for cell in BASE.above("z")] == ["a", "b"]


def test_a_file_is_read_with_the_types_of_its_cells(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("hi"),
        nbformat.v4.new_code_cell("x = 1", execution_count=3),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    notebook = Notebook.from_file(path)
    assert [(c.cell_type, c.source, c.execution_count) for c in notebook.cells] == [
        ("markdown", "hi", None),
        ("code", "x = 1", 3),
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": 3}', "\x00\x01"])
def test_a_file_that_is_no_notebook_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "n.ipynb"
    path.write_text(content)
    with pytest.raises(RequestError) as error:
        Notebook.from_file(path)
    assert "n.ipynb is not a notebook" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(RequestError, match=r"Cannot read .*no\.ipynb: No such file"):
        Notebook.from_file(tmp_path / "no.ipynb")


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({}, "python"),
        ({"kernelspec": {"language": "R"}, "language_info": {"name": "python"}}, "R"),
        ({"kernelspec": {"name": "ir"}, "language_info": {"name": "julia"}}, "julia"),
        ({"kernelspec": "ir", "language_info": {"name": 5}}, "python"),
        ({"kernelspec": None}, "python"),
    ],
)
def test_a_file_tells_the_language_of_its_kernel(tmp_path, metadata, language):
    path = tmp_path / "n.ipynb"
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": []})
    )
    assert Notebook.from_file(path).language == language


@pytest.mark.parametrize(("name", "value"), [("id", 5), ("execution_count", ["a"])])
def test_a_cell_is_read_whatever_its_id_and_number_are(name, value, tmp_path):
    cell = {"cell_type": "code", "source": "x", "metadata": {}, "outputs": [], name: value}
    path = tmp_path / "x.ipynb"
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]})
    )
    (read,) = Notebook.from_file(path).cells
    assert (read.source, type(read.id), read.execution_count) == ("x", str, None)
