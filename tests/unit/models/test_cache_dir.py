"""Where what can be made again is stored."""

import sys
from pathlib import Path

import pytest

from jupyter_sc2.models.cache_dir import VARIABLE, cache_folder


def test_the_environment_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of Linux")
@pytest.mark.parametrize("cache", ["", "elsewhere"])
def test_on_linux_it_is_in_the_users_cache(monkeypatch, tmp_path, cache):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache) if cache else "")
    assert cache_folder() == tmp_path / (cache or ".cache") / "jupyter-sc2"


def test_on_windows_and_macos_it_is_where_it_always_was(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    from platformdirs.macos import MacOS
    from platformdirs.windows import Windows

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    macos = MacOS("jupyter-sc2", appauthor=False, opinion=False).user_cache_path
    assert macos == Path.home() / "Library" / "Caches" / "jupyter-sc2"
    monkeypatch.setattr(
        "platformdirs.windows.get_win_folder", lambda name: str(tmp_path), raising=True
    )
    windows = Windows("jupyter-sc2", appauthor=False, opinion=False).user_cache_path
    assert windows == tmp_path / "jupyter-sc2"
