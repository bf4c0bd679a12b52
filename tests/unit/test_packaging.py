"""What is installed: one version, the built front end, and an import that costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_path
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import jupyter_sc2
from tests.support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def labextension(pytestconfig: pytest.Config) -> Path:
    """Where JupyterLab finds the front end in this environment."""
    folders = [Path(path) / "labextensions" / "jupyter-sc2" for path in jupyter_path()]
    found = [folder for folder in folders if (folder / "package.json").is_file()]
    if not found and pytestconfig.getoption("quick"):
        pytest.skip("the front end is not built, which quick tests do without")
    assert found, "The front end is not installed; `make test` builds and links it."
    return found[0]


def test_python_and_the_front_end_have_one_version() -> None:
    package = json.loads((ROOT / "labextension" / "package.json").read_text())
    assert Version(jupyter_sc2.__version__) == Version(package["version"])
    assert jupyter_sc2.__version__ == metadata.version("jupyter-sc2")


def test_the_built_front_end_is_where_jupyterlab_looks(labextension: Path) -> None:
    package = json.loads((labextension / "package.json").read_text())
    assert Version(package["version"]) == Version(jupyter_sc2.__version__)
    assert (labextension / package["jupyterlab"]["_build"]["load"]).is_file()
    assert (labextension / "schemas" / "jupyter-sc2" / "plugin.json").is_file()


@pytest.mark.slow
def test_jupyterlab_accepts_the_front_end(labextension: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NO_COLOR": "1"},
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if " jupyter-sc2 " in line]
    assert len(lines) == 1
    assert "enabled" in lines[0]
    assert "OK" in lines[0]


@pytest.mark.slow
def test_the_wheel_holds_the_built_front_end_and_the_embedded_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    front_end = f"{wheel.name.split('-py3')[0]}.data/data/share/jupyter/labextensions/jupyter-sc2"
    assert {f"{front_end}/package.json", f"{front_end}/install.json"} <= set(names)
    assert any(name.startswith(f"{front_end}/static/remoteEntry.") for name in names)
    assert "jupyter_sc2/embedded/model/model.safetensors" in names
    assert not any("/labextension/static" in name for name in names)  # nothing twice


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "transformers", "IPython", "traitlets", "importlib.metadata"]
    code = f"import sys, jupyter_sc2; print([name for name in {heavy!r} if name in sys.modules])"
    assert python(code) == "[]"


HANDSHAKE = """
from jupyter_sc2.kernel.comm.channel import Channel
from jupyter_sc2.pipeline.session import Session
from tests.support.fake_engine import FakeEngine
from tests.unit.kernel.test_channel import FakeComm, FakeSettings

session = Session(load_engine=lambda model, **kwargs: FakeEngine("sum(values)"))
comm = FakeComm(Channel(session, FakeSettings()))
comm.say({"type": "hello", "protocol": 1})
comm.say({"type": "complete", "id": "1", "text": "total = ", "offset": 8})
print(comm.heard[0]["type"], comm.heard[0]["version"], comm.final("1")["text"])
session.close()
"""


@pytest.mark.parametrize("front_end", [True, False], ids=["source tree", "frozen"])
def test_the_handshake_works_where_the_metadata_is_missing(tmp_path: Path, front_end: bool) -> None:
    """As for a source tree that is only on the path, and for a frozen application."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("jupyter_sc2", "tests", *["labextension"] * front_end):
        (tree / name).symlink_to(ROOT / name)
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if "jupyter_sc2" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    # -S: the environment's own folder of packages is left out
    path = os.pathsep.join([str(tree), str(packages)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", HANDSHAKE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    version = jupyter_sc2.__version__ if front_end else "0+unknown"
    assert (done.stdout.strip(), done.stderr) == (f"hello {version} sum(values)", "")


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'novel'"):
        _ = jupyter_sc2.novel


def test_the_command_is_also_a_jupyter_subcommand() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="jupyter-sc2")
    assert script.value == "jupyter_sc2.cli:main"


LOCKS = ("constraints.txt", "labextension/yarn.lock", "labextension/lint/yarn.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()


def test_every_dependency_is_locked_to_one_version_that_pyproject_allows() -> None:
    """For this Python and system, in all extras; `make lock` mends what this finds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    here = {canonicalize_name(one.name): one.specifier for one in locked if applies(one)}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [one for group in groups for one in map(Requirement, group) if applies(one)]
    for one in wanted:
        if one.name != "jupyter-sc2":
            (exact,) = here[canonicalize_name(one.name)]
            assert exact.operator == "==" and one.specifier.contains(exact.version), one


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()
