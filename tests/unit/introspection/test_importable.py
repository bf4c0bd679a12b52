"""What can be imported, found out from files."""

from __future__ import annotations

import sys
import textwrap

import pytest

from jupyter_sc2.introspection.importable import members_of, modules_in


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a module of the package "sample" and gives its path."""
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> tuple[str, str]:
        (tmp_path / "sample" / f"{name}.py").write_text(textwrap.dedent(source))
        return ("sample", name)

    return write


def test_the_modules_of_a_package_are_known_before_it_is_imported(package):
    package("one", "")
    assert modules_in(("sample",)) == {"one", "__init__"}
    assert "sample" not in sys.modules


def test_all_that_is_installed_is_known():
    modules = modules_in(())
    assert {"sys", "json", "pytest", "jupyter_sc2"} <= modules and "no_such_module" not in modules


def test_a_module_that_is_written_later_is_found(package):
    package("one", "")
    modules_in(("sample",))
    package("two", "")
    assert "two" in modules_in(("sample",))


def test_a_modules_names_stand_in_its_source(package):
    module = package(
        "one",
        """
        import os as system
        from json import dumps
        LIMIT, MAX_FOLDER_ENTRIES = 1, 2
        def load(): ...
        class Model: ...
        """,
    )
    assert {"system", "dumps", "LIMIT", "MAX_FOLDER_ENTRIES", "load", "Model"} <= members_of(module)
    assert "save" not in members_of(module)


def test_what_is_imported_with_a_star_belongs_to_it(package):
    package("one", "def load(): ...")
    module = package("two", "from .one import *")
    assert "load" in members_of(module)


def test_a_packages_names_are_those_of_its_own_file_and_its_modules(package, tmp_path):
    package("one", "")
    (tmp_path / "sample" / "__init__.py").write_text("def load(): ...")
    assert {"one", "load"} <= members_of(("sample",))


@pytest.mark.parametrize(
    "source",
    [
        "def __getattr__(name): return 1",
        "globals().update(a=1)",
        "from .missing import *",
        "from .two import *",  # itself
        "this is no python",
    ],
)
def test_where_names_are_made_otherwise_nothing_is_known(package, source):
    assert members_of(package("two", source)) is None


def test_a_compiled_module_is_not_known(package, tmp_path):
    (tmp_path / "sample" / "quick.cpython-311-x86_64-linux-gnu.so").touch()
    assert "quick" in modules_in(("sample",))
    assert members_of(("sample", "quick")) is None
    assert modules_in(("sample", "quick")) is None


def test_what_the_engine_brings_along_hides_nothing():
    pytest.importorskip("transformers")
    assert modules_in(()) is not None
    assert modules_in(("transformers",)) is None  # it finds modules under names of old


def test_where_another_finder_is_at_work_nothing_is_known(monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None): ...

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert modules_in(()) is None
