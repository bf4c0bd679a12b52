"""Locks of files: who waits for whom, and what becomes of them where a disk has none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import filelock
import pytest

from jupyter_sc2.models.file_lock import locked
from tests.support.paths import ROOT
from tests.support.without_locks import library


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "lock"


def test_one_holds_it_and_another_is_told_that_it_waits(file):
    waited, free = [], threading.Event()

    def hold() -> None:
        with locked(file) as held:
            assert held
            taken.set()
            free.wait(10)

    taken = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    with pytest.raises(filelock.Timeout), locked(file):
        pass

    def waiting() -> None:
        waited.append(1)
        free.set()

    with locked(file, waiting) as held:
        assert held and waited
    thread.join()


def test_an_exception_ends_the_wait_and_the_lock_is_free_afterwards(file):
    class Enough(Exception):
        pass

    def waiting() -> None:
        raise Enough

    with locked(file), pytest.raises(Enough), locked(file, waiting):
        pass
    with locked(file) as held:
        assert held


def test_a_folder_in_its_place_is_renamed(file):
    (file / "of the user").mkdir(parents=True)
    with locked(file) as held:
        assert held
    assert (file.with_name("lock.aside") / "of the user").is_dir()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_no_error(file, number, monkeypatch):
    def refuse(self, **_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with locked(file) as held:
        assert not held


def test_a_disk_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), locked(tmp_path / "file" / "lock"):
        pass


def test_what_is_locked_goes_on_where_the_system_refuses_locks(tmp_path):
    code = """
import pathlib, sys
from jupyter_sc2.attribution.index import writing
from jupyter_sc2.errors import RequestError
from jupyter_sc2.models.file_lock import locked
folder = pathlib.Path(sys.argv[1])
with locked(folder / "lock", lambda: None) as held:
    print(held)
try:
    with writing(folder / "index"):
        pass
except RequestError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"LD_PRELOAD": str(library(tmp_path))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    held, said = done.stdout.splitlines()
    assert held == "False"
    assert said.startswith("The index cannot be changed") and "has no file locks" in said
