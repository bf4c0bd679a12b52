"""The record of what was accepted, the reports, and the commands for both."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import nbformat
import pytest

from jupyter_sc2 import cli
from jupyter_sc2.attribution import record, spdx
from jupyter_sc2.attribution.index import Index, default_folder
from jupyter_sc2.attribution.match import Matcher
from jupyter_sc2.attribution.report import of_file
from jupyter_sc2.kernel.views import attribution as magic
from tests.support.planted import original
from tests.unit.attribution.test_match import BLOCK

DIFFLIB = Path(sysconfig.get_path("stdlib")) / "difflib.py"
OWN = next(original(1, seed=4))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty index of the test's own."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def indexed(data: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("index", DIFFLIB, "--name", "Python", "--license", "PSF-2.0") == 0
    capsys.readouterr()
    return data


def run(*args: object) -> int:
    return cli.main(["attribution", *map(str, args)])


def note(text: str, id: str = "n1", **more: object) -> dict[str, object]:
    known = {"time": "2026-01-02T03:04:05Z", "model": "starcoder2-3b", "engine": "llamacpp"}
    return {"id": id, "text": text, **known, **more}


def notebook(path: Path, *cells: tuple[str, list[dict[str, object]]], **metadata: object) -> Path:
    written = [nbformat.v4.new_code_cell(source) for source, _ in cells]
    for cell, (_, notes) in zip(written, cells, strict=True):
        if notes:
            cell.metadata["jupyter_sc2"] = {"accepted": notes}
    nbformat.write(nbformat.v4.new_notebook(cells=written, metadata=metadata), path)
    return path


def kept(path: Path) -> dict[str, tuple[tuple[int, ...], float]]:
    cells = record.cells(record.read(path))
    rows = [(cell["source"], record.notes(cell["metadata"])) for cell in cells]
    return {one.accepted.id: (one.cells, round(one.share, 2)) for one in record.retained(rows)}


def test_what_is_left_of_a_note_is_counted_by_words(tmp_path):
    text = "total = sum(values)\nprint(total)"
    path = notebook(
        tmp_path / "n.ipynb",
        (f"values = []\n{text}\n", [note(text)]),
        ("total = sum(values)\nshow(it)", [note(text, "n2")]),
        ("nothing", [note(text, "n3")]),
    )
    left = kept(path)
    assert left["n1"] == ((0,), 1.0)
    assert 0.5 < left["n2"][1] < 0.8
    assert left["n3"] == ((2,), 0.0)


def test_a_note_survives_splitting_moving_and_merging(tmp_path):
    text = "first = one(a)\nsecond = two(b)"
    split = [("second = two(b)", [note(text)]), ("x", []), ("first = one(a)", [note(text)])]
    one = notebook(tmp_path / "one.ipynb", *split)
    assert kept(one) == {"n1": ((0, 2), 1.0)}
    other = notebook(tmp_path / "other.ipynb", (text, [note(text, "n9")]))
    merged = record.read(one)
    merged.cells += record.read(other).cells
    nbformat.write(merged, tmp_path / "merged.ipynb")
    assert kept(tmp_path / "merged.ipynb") == {"n1": ((0, 2), 1.0), "n9": ((3,), 1.0)}


@pytest.mark.parametrize("own", [None, 3, [], {"accepted": 1}, {"accepted": [1, {}, {"id": "a"}]}])
def test_malformed_notes_are_passed_over(own):
    assert record.notes({"jupyter_sc2": own}) == []


def test_strip_takes_the_notes_and_nothing_else(data, capsys):
    path = notebook(
        data / "n.ipynb", ("x = 1", [note("x")]), ("y", []), jupyter_sc2={"mode": "off"}
    )
    document = record.read(path)
    document.cells[1].metadata["jupyter_sc2"] = {"other": 1}
    nbformat.write(document, path)
    assert run("strip", path) == 0
    stripped = record.read(path)
    assert [dict(cell.metadata) for cell in stripped.cells] == [{}, {"jupyter_sc2": {"other": 1}}]
    assert stripped.metadata.jupyter_sc2 == {"mode": "off"}
    assert "1 cell had a record" in capsys.readouterr().out
    before = path.read_bytes()
    assert run("strip", path) == 0
    assert path.read_bytes() == before


def test_a_report_on_a_notebook_without_a_record_has_the_matches(indexed, capsys):
    path = notebook(indexed / "n.ipynb", (OWN, []), (f"x = 1\n{BLOCK}", []))
    assert run("report", path) == 0
    text = capsys.readouterr().out
    assert "This notebook keeps no record" in text
    assert "1 cell matches indexed code" in text
    assert "Cell 2" in text and "Cell 1" not in text
    assert "Python, difflib.py:" in text and "PSF-2.0" in text
    assert "bigcode/search-v2" in text


def test_a_report_has_the_retained_text_and_the_model_s_licence(indexed, capsys):
    path = notebook(indexed / "n.ipynb", ("x = 1\ny = x", [note("x = 1", revision="abc")]))
    assert run("report", path, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["notebooks"]
    (accepted,) = found["cells"][0]["accepted"]
    assert accepted["kept"] == 1.0
    assert (accepted["model"], accepted["revision"]) == ("starcoder2-3b", "abc")
    assert found["models"][0]["licence"] == "BigCode OpenRAIL-M"
    assert "no medical advice" in found["models"][0]["terms"]


def test_a_page_has_the_notices_and_escapes_what_it_quotes(indexed):
    path = notebook(indexed / "n.ipynb", (f"{BLOCK}\n# </pre><script>", [note("<script>")]))
    assert run("report", path, "--html", "--output", indexed / "r.html") == 0
    page = (indexed / "r.html").read_text("utf-8")
    assert "Notices to reproduce" in page
    assert "<script>" not in page


def test_an_spdx_document_names_the_package_and_its_licence(indexed, capsys):
    path = notebook(indexed / "n.ipynb", (BLOCK, []))
    assert run("report", path, "--spdx") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["spdxVersion"] == "SPDX-2.3"
    (package,) = document["packages"]
    assert (package["name"], package["licenseDeclared"]) == ("Python", "PSF-2.0")
    ids = {one["SPDXID"] for one in (*document["files"], *document["packages"], document)}
    assert all(
        {r["spdxElementId"], r["relatedSpdxElement"]} <= ids for r in document["relationships"]
    )


def test_licences_of_one_s_own_are_written_out_in_an_spdx_document(data, capsys):
    (data / "code").mkdir()
    (data / "code/m.py").write_text(BLOCK)
    (data / "code/LICENSE").write_text("Do what is right.")
    assert run("index", data / "code", "--license", "LicenseRef-Own") == 0
    report = of_file(notebook(data / "n.ipynb", (BLOCK, [])), Matcher(Index()))
    (text,) = spdx.document([report], "1")["hasExtractedLicensingInfos"]
    assert text == {"licenseId": "LicenseRef-Own", "extractedText": "Do what is right."}


def test_the_command_line_indexes_lists_and_removes(data, capsys):
    assert run("list") == 1
    assert "Nothing is indexed yet" in capsys.readouterr().err
    assert run("index", DIFFLIB, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["files"], row["packs"]) == (1, 1)
    assert row["index_lexemes"] == row["lexemes"] > 1000
    assert run("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["root"] == str(DIFFLIB)
    assert run("remove", "difflib.py") == 0
    assert run("remove", "difflib.py") == 1
    assert default_folder().is_relative_to(data)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("report", "missing.ipynb"), "Cannot read missing.ipynb"),
        (("index", "missing"), "does not exist"),
        (("index", "--name", "x"), "need exactly one PATH"),
        (("report", "x.ipynb", "--lexemes", "3"), "must be 50 or more"),
    ],
)
def test_a_mistake_is_said_in_one_line(data, capsys, args, words):
    assert run(*args) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_magic_reports_on_the_notebook_or_on_what_was_run(indexed, monkeypatch, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.history_manager.input_hist_raw.append(BLOCK)
    magic.show(shell, 65)
    assert "The code executed in this session" in (text := capsys.readouterr().out)
    assert "Python, difflib.py:" in text
    path = notebook(indexed / "n.ipynb", (OWN, [note(OWN[:40])]))
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    magic.show(shell, 65)
    assert "n.ipynb, as last saved" in (text := capsys.readouterr().out)
    assert "40 characters were accepted, 100% of them are still there" in text
