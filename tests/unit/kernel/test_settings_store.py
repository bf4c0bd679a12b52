"""Settings for good: a file that new kernels read."""

import json
import os
import tempfile

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.kernel import settings_store
from jupyter_sc2.settings import SC2


@pytest.fixture
def shell(tmp_path):
    return InteractiveShell(profile_dir=ProfileDir(location=str(tmp_path / "profile")))


def test_what_differs_from_the_defaults_is_kept(shell):
    file = settings_store.save(shell, SC2(temperature=0.5, mode="off"))
    assert json.loads(file.read_text()) == {"SC2": {"mode": "off", "temperature": 0.5}}


def test_what_others_wrote_there_stays(shell):
    file = settings_store.reset(shell)
    file.write_text('{"InteractiveShell": {"colors": "nocolor"}, "SC2": {"top_k": 3}}')
    settings_store.save(shell, SC2(seed=1))
    assert json.loads(file.read_text()) == {
        "InteractiveShell": {"colors": "nocolor"},
        "SC2": {"seed": 1},
    }
    settings_store.reset(shell)
    assert json.loads(file.read_text()) == {"InteractiveShell": {"colors": "nocolor"}}


def test_with_all_defaults_there_is_no_file(shell):
    assert not settings_store.save(shell, SC2()).exists()


def test_a_file_that_cannot_be_read_is_not_written_over(shell):
    file = settings_store.reset(shell)
    file.write_text("{")
    with pytest.raises(SettingsError, match="Nothing was saved"):
        settings_store.save(shell, SC2(seed=1))
    assert file.read_text() == "{"


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(shell, monkeypatch):
    file = settings_store.save(shell, SC2(seed=1))
    before = file.read_text()

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jupyter_sc2.runtime.atomic_write.os.replace", full)
    with pytest.raises(SettingsError, match="No space left"):
        settings_store.save(shell, SC2(seed=2))
    assert file.read_text() == before


def test_what_the_configuration_forbids_nobody_allows():
    settings = SC2(allowed=False)
    with pytest.raises(SettingsError, match="forbids completion"):
        settings.set("allowed", True)
    assert settings.allowed is False


@pytest.mark.parametrize("there", [False, True], ids=["missing", "in the way"])
def test_nothing_is_kept_in_a_folder_that_does_not_last(there, monkeypatch, tmp_path):
    """IPython takes a temporary folder where it cannot write into its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    location = tmp_path / "temporary" / "tmp1" / "profile_default"
    shell = InteractiveShell(profile_dir=ProfileDir(location=str(location)))
    wanted = tmp_path / "file"
    wanted.write_text("")
    monkeypatch.setenv("IPYTHONDIR", str(wanted if there else wanted / "ipython"))
    with pytest.raises(SettingsError, match="IPYTHONDIR"):
        settings_store.save(shell, SC2(seed=1))
    assert not (location / settings_store.FILE).exists()


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_written_anew(shell, content):
    file = settings_store.reset(shell)
    file.write_bytes(content)
    settings_store.save(shell, SC2(seed=1))
    assert json.loads(file.read_text()) == {"SC2": {"seed": 1}}


@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 60_000, b"\xff\xfe{}", b"[]", b"null", b'{"SC2": {}}garbage'],
    ids=["cut", "deep", "UTF-16", "a list", "null", "garbage"],
)
def test_a_file_that_is_no_json_object_stays_and_the_line_says_what_to_do(shell, content):
    file = settings_store.reset(shell)
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"Nothing was saved: .* Correct or delete it\."):
        settings_store.save(shell, SC2(seed=1))
    assert file.read_bytes() == content


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_no_file_is_neither_waited_for_nor_replaced(shell, make):
    file = settings_store.reset(shell)
    if not hasattr(os, make):
        pytest.skip("there are no pipes with names")
    getattr(os, make)(file)
    with pytest.raises(SettingsError, match="could not be written"):
        settings_store.save(shell, SC2(seed=1))
