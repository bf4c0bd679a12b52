"""What processes have not finished: whose it is, and when it goes."""

import os
import re
from dataclasses import replace

import pytest

from jupyter_sc2.models import unfinished
from jupyter_sc2.runtime.child_process import Identity

ME = Identity.of(os.getpid())
ELSEWHERE = replace(ME, pid=2**22 + 1, where="another machine")
GONE = replace(ME, pid=2**22 + 1)


@pytest.fixture(params=["file", "folder"])
def make(request, tmp_path):
    def make(name, old=False):
        path = tmp_path / name
        path.mkdir() if request.param == "folder" else path.write_bytes(b"")
        if old:
            os.utime(path, (1, 1))
        return path

    return make


def test_what_living_processes_have_not_finished_is_left_and_of_killed_ones_removed(make, tmp_path):
    mine, gone = make(f".{ME.name}.abc", old=True), make(f".{GONE.name}.abc")
    unfinished.sweep(tmp_path)
    assert mine.exists() and not gone.exists()


def test_what_another_machine_has_not_finished_is_left_for_a_day(make, tmp_path):
    young, old = make(f".{ELSEWHERE.name}.abc"), make(f".{ELSEWHERE.name}.old", old=True)
    unfinished.sweep(tmp_path)
    assert young.exists() and not old.exists()


@pytest.mark.parametrize(
    "name", [".git", ".2024-01-02.txt", ".1-2.00-x.y", "kept", "{gone}.abc", ".{gone}"]
)
def test_what_has_another_name_is_left(make, tmp_path, name):
    path = make(name.format(gone=GONE.name), old=True)
    unfinished.sweep(tmp_path)
    assert path.exists()


def test_what_an_earlier_version_has_left_is_removed_after_a_day(make, tmp_path):
    young, old, other = make(".a.part"), make(".b.part", old=True), make(".c", old=True)
    unfinished.sweep(tmp_path, others=".*.part")
    assert young.exists() and other.exists() and not old.exists()


def test_each_place_is_another_one_of_this_process(tmp_path):
    one, other = unfinished.place_in(tmp_path), unfinished.place_in(tmp_path)
    assert one != other and not one.exists()
    assert re.match(re.escape(f".{ME.name}."), one.name)
