"""Engines of other packages: found by their entry point, imported once they are chosen, and not from anywhere."""

import subprocess
import sys
import zipfile

import pytest

from jupyter_sc2.cli.options import engine_name
from jupyter_sc2.engines import load_engine
from jupyter_sc2.errors import ModelLoadError, SettingsError
from jupyter_sc2.settings import ENGINES, SC2

MODULE = """
from tests.support.fake_engine import FakeEngine

def load(model, *, precision, server, threads, offline, progress):
    progress("loading", None)
    engine = FakeEngine("x")
    engine.asked_for = (model, precision, server, threads, offline)
    return engine
"""


def wheel(folder, name: str, module: str, entry: str):
    """A wheel of one module that registers one engine."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", module)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", f"[jupyter_sc2.engines]\n{entry}\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


def install(file, folder) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), str(file)], check=True)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder where packages are installed, as PYTHONPATH names it."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder
    for name in ("tiny_engine", "broken_engine"):
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(site, tmp_path):
    install(wheel(tmp_path, "tiny_engine", MODULE, "tiny = tiny_engine:load"), site)


def test_an_engine_of_another_package_is_chosen_by_the_setting(tiny):
    settings = SC2()
    settings.set("engine", "tiny")
    assert settings.load_options().engine == "tiny"
    assert engine_name("tiny") == "tiny"
    assert "tiny_engine" not in sys.modules


def test_it_is_imported_and_loaded_once_it_is_chosen(tiny):
    states = []
    engine = load_engine(
        "some/model",
        engine="tiny",
        precision="4bit",
        threads=2,
        offline=True,
        progress=lambda state, share: states.append(state),
    )
    assert engine.asked_for == ("some/model", "4bit", "", 2, True)
    assert states == ["loading"]


def test_the_automatic_choice_imports_no_other_package(tiny):
    load_engine("embedded").close()
    assert "tiny_engine" not in sys.modules


def test_it_is_listed_where_a_name_is_refused(tiny):
    with pytest.raises(SettingsError, match=r"it must be one of auto, .*, openai, tiny\."):
        SC2().set("engine", "tinny")


def test_what_is_not_installed_is_refused_as_before():
    with pytest.raises(SettingsError, match=f"one of {', '.join(ENGINES)}\\."):
        SC2().set("engine", "tiny")
    with pytest.raises(ModelLoadError, match="No installed package has an engine named tiny"):
        load_engine("embedded", engine="tiny")


def test_metadata_in_the_notebooks_folder_registers_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    install(wheel(tmp_path, "tiny_engine", MODULE, "tiny = tiny_engine:load"), folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path])
    with pytest.raises(SettingsError):
        SC2().set("engine", "tiny")
    with pytest.raises(ModelLoadError):
        load_engine("embedded", engine="tiny")
    assert "tiny_engine" not in sys.modules


def test_no_package_replaces_an_engine_of_this_one(site, tmp_path):
    install(wheel(tmp_path, "tiny_engine", MODULE, "onnxruntime = tiny_engine:load"), site)
    engine = load_engine("embedded", engine="onnxruntime")
    assert engine.name == "onnxruntime" and engine.encode("x")
    engine.close()
    assert "tiny_engine" not in sys.modules
    assert SC2.engine.values == list(ENGINES)


@pytest.mark.parametrize(
    ("module", "reason"),
    [("import not_there_either", "No module named"), ("1 / 0", "division by zero"), ("", "load")],
)
def test_a_package_that_cannot_be_imported_fails_with_one_line(site, tmp_path, module, reason):
    install(wheel(tmp_path, "broken_engine", module, "broken = broken_engine:load"), site)
    with pytest.raises(ModelLoadError, match=reason) as error:
        load_engine("embedded", engine="broken")
    assert "broken_engine" in str(error.value) and "\n" not in str(error.value)
