"""A file is there whole, or as it was before."""

import os
import threading

import pytest

from jupyter_sc2.runtime.atomic_write import append_line, atomic_write


def test_writers_at_once_leave_one_whole_file_and_nothing_else(tmp_path):
    file, errors = tmp_path / "settings.json", []

    def write(data: bytes) -> None:
        try:
            for _ in range(50):
                atomic_write(file, data)
        except OSError as error:
            errors.append(error)

    texts = [letter * 10_000 for letter in (b"a", b"b", b"c")]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and file.read_bytes() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def test_the_permissions_of_a_file_stay(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text("old")
    file.chmod(0o600)
    atomic_write(file, b"new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "settings.json"
    file.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jupyter_sc2.runtime.atomic_write.os.fsync", full)
    with pytest.raises(OSError):
        atomic_write(file, b"new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [
        ("settings.json", "old")
    ]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    file = tmp_path / "settings.json"
    for name, age in (("old", 2 * 86_400), ("new", 0)):
        left = tmp_path / f".settings.json.{name}.part"
        left.write_text("half")
        os.utime(left, (left.stat().st_mtime - age,) * 2)
    atomic_write(file, b"whole")
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"settings.json", ".settings.json.new.part"}


@pytest.mark.parametrize("there", ["", "first\n", "first\ntor"])
def test_a_line_is_appended_on_a_line_of_its_own(tmp_path, there):
    file = tmp_path / "rows.jsonl"
    file.write_text(there)
    append_line(file, "é")
    assert file.read_text("utf-8").splitlines() == [*there.splitlines(), "é"]
