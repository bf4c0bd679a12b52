"""Notes of servers that run here, whatever state their folder is in."""

from __future__ import annotations

import json
import os

import pytest

from jupyter_sc2.engines.openai import server_files
from jupyter_sc2.errors import SC2Error


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def announced():
    return server_files.announced(url="http://127.0.0.1:1", token="t", model="m")


def test_a_note_of_a_later_version_is_read_as_far_as_it_is_known(folder):
    with announced() as server:
        (file,) = folder.glob(server_files.PATTERN)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"slots": 4}))
        assert server_files.running_servers() == [server]


@pytest.mark.parametrize("field, value", [("url", 5), ("token", None), ("pid", "1"), ("model", [])])
def test_a_note_with_something_else_in_it_is_passed_over_and_left(folder, field, value):
    with announced():
        (file,) = folder.glob(server_files.PATTERN)
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
        assert server_files.running_servers() == []
        assert file.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"url": '])
def test_a_note_that_is_damaged_is_removed_after_a_day(folder, content):
    folder.mkdir()
    file = folder / "sc2-server-1.json"
    file.write_bytes(content)
    assert server_files.running_servers() == [] and file.exists()
    os.utime(file, (1, 1))
    assert server_files.running_servers() == [] and not file.exists()


def test_a_folder_in_place_of_the_note_is_renamed(folder):
    file = folder / f"sc2-server-{os.getpid()}.json"
    (file / "of the user").mkdir(parents=True)
    with announced() as server:
        assert server_files.running_servers() == [server]
    assert (file.with_name(f"{file.name}.aside") / "of the user").is_dir()


def test_where_no_note_can_be_written_there_is_a_line_that_says_what_to_do(folder):
    folder.write_text("a file")
    with pytest.raises(SC2Error, match="Set JUPYTER_RUNTIME_DIR"), announced():
        pass


def test_a_note_that_somebody_has_taken_away_is_no_error(folder):
    with announced():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
