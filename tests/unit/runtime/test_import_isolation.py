"""What our threads import is installed, and what the user's code imports is what it would be without us."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from pathlib import Path

import pytest

from jupyter_sc2.runtime import import_isolation
from jupyter_sc2.runtime.import_isolation import OwnImports


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder where packages are installed, as PYTHONPATH names it."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


@pytest.fixture
def users(tmp_path, installed, monkeypatch):
    """The notebook's folder: it comes first on the path."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return folder


@pytest.fixture
def imports(users):
    modules = dict(sys.modules)
    imports = OwnImports()
    imports.install()
    yield imports
    if imports._installed:
        imports.uninstall()
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
    sys.modules.update(modules)


def write(file: Path, text: str = "") -> str:
    """A module that knows where it lies; returns that."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"file = __file__\n{text}")
    return str(file)


def test_our_import_gets_what_is_installed_and_not_the_file_beside_the_notebook(
    imports, installed, users
):
    mine = write(installed / "sc2_one.py")
    write(users / "sc2_one.py", "raise AssertionError")
    with imports:
        import sc2_one
    assert sc2_one.file == mine


def test_a_folder_that_a_cell_put_on_the_path_is_not_looked_into(
    imports, installed, tmp_path, monkeypatch
):
    write(tmp_path / "more" / "sc2_one.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "more"), *sys.path])
    with imports, pytest.raises(ModuleNotFoundError):
        importlib.import_module("sc2_one")
    assert importlib.import_module("sc2_one")


def test_what_is_not_installed_has_no_spec_though_the_user_has_such_a_file(imports, users):
    write(users / "sc2_one.py")
    with imports:
        assert importlib.util.find_spec("sc2_one") is None
    assert importlib.util.find_spec("sc2_one") is not None


def test_the_users_import_gets_their_file_after_ours_got_the_package(imports, installed, users):
    write(installed / "sc2_one.py")
    theirs = write(users / "sc2_one.py")
    with imports:
        importlib.import_module("sc2_one")
    assert importlib.import_module("sc2_one").file == theirs


def test_our_import_gets_the_same_module_again_while_it_is_isolated(imports, installed):
    write(installed / "sc2_one.py")
    with imports:
        first = importlib.import_module("sc2_one")
    with imports:
        assert importlib.import_module("sc2_one") is first
    assert "sc2_one" not in sys.modules


def test_the_user_gets_the_very_modules_that_we_use_with_all_that_is_in_them(imports, installed):
    write(installed / "sc2_one" / "__init__.py", "from sc2_one import part")
    write(installed / "sc2_one" / "part.py")
    with imports:
        ours = importlib.import_module("sc2_one")
    assert not {"sc2_one", "sc2_one.part"} & sys.modules.keys()
    part = importlib.import_module("sc2_one.part")
    assert sys.modules["sc2_one"] is ours
    assert ours.part is part


def test_what_the_user_has_imported_is_not_taken_away(imports, installed):
    write(installed / "sc2_one.py")
    with imports:
        importlib.import_module("sc2_one")
    theirs = importlib.import_module("sc2_one")
    with imports:
        assert importlib.import_module("sc2_one") is theirs
    assert sys.modules["sc2_one"] is theirs


def on_a_thread(imports, name):
    """Imports it as a worker does."""

    def work():
        with imports:
            importlib.import_module(name)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_what_a_running_cell_may_have_got_is_not_taken_away(imports, installed):
    write(installed / "sc2_one.py")
    imports.cell_begins()
    on_a_thread(imports, "sc2_one")
    seen = sys.modules["sc2_one"]
    imports.cell_ended()
    with imports:
        pass
    assert sys.modules["sc2_one"] is seen


def test_a_hidden_module_is_isolated_while_a_cell_runs_too(imports, installed, users):
    write(installed / "sc2_one.py")
    theirs = write(users / "sc2_one.py")
    imports.cell_begins()
    on_a_thread(imports, "sc2_one")
    assert importlib.import_module("sc2_one").file == theirs


def test_nothing_is_isolated_while_another_thread_of_ours_imports(imports, installed):
    write(installed / "sc2_one.py")
    write(installed / "sc2_two.py", "import time\ntime.sleep(0.3)")
    slow = threading.Thread(target=on_a_thread, args=(imports, "sc2_two"))
    slow.start()
    while not imports.importing():
        time.sleep(0.001)
    on_a_thread(imports, "sc2_one")
    assert "sc2_one" in sys.modules
    slow.join()
    assert not {"sc2_one", "sc2_two"} & sys.modules.keys()


def test_what_could_not_be_imported_is_the_users_when_they_can(imports, installed, users):
    write(installed / "sc2_one.py", "raise ImportError")
    with imports, pytest.raises(ImportError):
        importlib.import_module("sc2_one")
    theirs = write(users / "sc2_one.py")
    assert importlib.import_module("sc2_one").file == theirs
    with imports:
        pass
    imports.cell_begins()
    assert "sc2_one" in sys.modules


def test_an_isolated_module_has_its_own_spec_after_it_was_handed_out(imports, installed):
    write(installed / "sc2_one.py")
    with imports:
        spec = importlib.import_module("sc2_one").__spec__
    assert importlib.import_module("sc2_one").__spec__ is spec
    assert type(spec.loader).__name__ == "SourceFileLoader"


def test_the_path_of_an_isolated_module_is_found(imports, installed):
    file = write(installed / "sc2_one.py")
    with imports:
        importlib.import_module("sc2_one")
    spec = importlib.util.find_spec("sc2_one")
    assert spec is not None and spec.origin == file
    assert "file" in spec.loader.get_source("sc2_one")
    assert "sc2_one" not in sys.modules


@pytest.fixture
def stdlib(monkeypatch):
    """A module of the standard library that is not loaded."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    return "colorsys"


def test_a_module_of_the_standard_library_stays_where_it_is(imports, stdlib):
    with imports:
        importlib.import_module(stdlib)
    assert stdlib in sys.modules


def test_a_module_of_the_standard_library_is_isolated_if_a_file_of_the_users_hides_it(
    imports, stdlib, users
):
    theirs = write(users / f"{stdlib}.py")
    with imports:
        assert not hasattr(importlib.import_module(stdlib), "file")
    assert importlib.import_module(stdlib).file == theirs


def test_a_file_that_was_written_meanwhile_counts_from_the_next_cell_on(imports, stdlib, users):
    with imports:
        importlib.import_module(stdlib)
    theirs = write(users / f"{stdlib}.py")
    imports.cell_begins()
    assert importlib.import_module(stdlib).file == theirs


def test_our_own_modules_are_found_though_our_checkout_is_the_current_directory(
    imports, monkeypatch
):
    monkeypatch.chdir(Path(import_isolation.__file__).parents[2])
    monkeypatch.delitem(sys.modules, "jupyter_sc2.models.quant_mix", raising=False)
    with imports:
        assert importlib.import_module("jupyter_sc2.models.quant_mix")


def test_the_modules_of_torch_stay_where_they_are_unless_they_are_hidden(
    imports, installed, users, monkeypatch
):
    monkeypatch.setattr(import_isolation, "HEAVY_PACKAGES", {"sc2_torch"})
    write(users / "sc2_hidden.py")
    for name in ("sc2_first", "sc2_hidden"):
        write(installed / f"{name}.py")
    write(installed / "sc2_torch.py", "import sc2_hidden")
    with imports:
        importlib.import_module("sc2_first")
    with imports:
        importlib.import_module("sc2_torch")
    assert {"sc2_torch", "sc2_first", "sc2_hidden"} & sys.modules.keys() == {
        "sc2_torch",
        "sc2_first",
    }


def test_a_part_of_a_namespace_package_in_the_users_folder_is_not_looked_into(
    imports, installed, users
):
    mine = write(installed / "sc2_space" / "one.py")
    write(users / "sc2_space" / "one.py", "raise AssertionError")
    write(users / "sc2_space" / "two.py", "raise AssertionError")
    with imports:
        assert importlib.import_module("sc2_space.one").file == mine
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("sc2_space.two")


def test_what_is_in_a_package_of_the_users_that_is_loaded_is_not_run(imports, users):
    write(users / "sc2_own" / "__init__.py")
    write(users / "sc2_own" / "part.py", "raise AssertionError")
    importlib.import_module("sc2_own")
    with imports, pytest.raises(ModuleNotFoundError):
        importlib.import_module("sc2_own.part")


def test_a_finder_of_the_users_is_not_asked(imports, installed):
    asked = []

    class Finder:
        __module__ = "__main__"

        @staticmethod
        def find_spec(name, path=None, target=None):
            asked.append(name)

    sys.meta_path.insert(0, Finder)
    with imports, pytest.raises(ModuleNotFoundError):
        importlib.import_module("sc2_one")
    assert asked == []
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sc2_one")
    assert asked == ["sc2_one"]
    sys.meta_path.remove(Finder)


def test_the_users_loaded_module_is_not_seen_while_imports_are_apart(imports, installed, users):
    theirs = write(users / "sc2_one.py")
    mine = write(installed / "sc2_one.py")
    loaded = importlib.import_module("sc2_one")
    with imports.without_user_modules():
        assert importlib.import_module("sc2_one").file == mine
    assert sys.modules["sc2_one"] is loaded
    assert importlib.import_module("sc2_one").file == theirs


def test_a_package_of_ours_is_whole_while_the_users_module_comes_back(imports, installed, users):
    write(users / "sc2_one.py")
    write(installed / "sc2_one" / "__init__.py")
    write(installed / "sc2_one" / "part.py")
    importlib.import_module("sc2_one")
    with imports.without_user_modules():
        part = importlib.import_module("sc2_one.part")

    class Modules(dict):  # what another thread of ours would find after each change
        def check(self):
            theirs = not hasattr(self.get("sc2_one", part), "part")
            seen.append(theirs and self.get("sc2_one.part") is not part)

        def pop(self, *arguments):
            found = super().pop(*arguments)
            self.check()
            return found

        def update(self, *arguments):
            super().update(*arguments)
            self.check()

    seen: list[bool] = []
    with imports.without_user_modules():
        importlib.import_module("sc2_one.part")
        modules, sys.modules = sys.modules, Modules(sys.modules)
    changed, sys.modules = sys.modules, modules
    modules.clear()
    modules |= changed
    assert seen and not any(seen)


def test_the_users_module_is_not_taken_for_ours_when_it_came_while_ours_was_in_use(
    imports, installed, users
):
    write(users / "sc2_one.py")
    write(installed / "sc2_one" / "__init__.py")
    write(installed / "sc2_one" / "part.py")
    theirs = importlib.import_module("sc2_one")
    with imports.without_user_modules():
        part = importlib.import_module("sc2_one.part")
    imports._found.add("sc2_one")  # as by another thread of ours that imported it in this moment
    imports.sweep()
    assert sys.modules["sc2_one"] is theirs
    with imports:
        assert importlib.import_module("sc2_one.part") is part


def test_what_our_package_imports_later_is_found_though_the_users_module_has_its_name(
    imports, installed, users
):
    write(users / "sc2_one.py")
    write(installed / "sc2_one" / "__init__.py")
    write(installed / "sc2_one" / "part" / "__init__.py")
    later = write(installed / "sc2_one" / "part" / "later.py")
    importlib.import_module("sc2_one")
    with imports.without_user_modules():
        importlib.import_module("sc2_one.part")
    with imports:
        assert importlib.import_module("sc2_one.part.later").file == later


def test_the_file_that_hides_a_package_is_named(imports, installed, users):
    theirs = write(users / "sc2_one.py")
    write(installed / "sc2_one.py", "wanted = 1")
    importlib.import_module("sc2_one")
    with pytest.raises(ImportError) as failed, imports:
        from sc2_one import wanted  # noqa: F401
    assert imports.to_blame(RuntimeError()) is None
    wrapped = RuntimeError()
    wrapped.__cause__ = failed.value
    assert imports.to_blame(wrapped) == ("sc2_one", theirs)


def test_a_module_of_the_users_that_hides_nothing_is_not_to_blame(imports, users):
    write(users / "sc2_one.py")
    importlib.import_module("sc2_one")
    assert "sc2_one" not in dict(imports._trust.hiding())


def test_distributions_are_found_on_our_threads(imports):
    from importlib.metadata import version

    with imports:
        assert version("pytest") == pytest.__version__


def test_leaving_gives_the_modules_to_everybody_and_the_list_of_finders_back(imports, installed):
    write(installed / "sc2_one.py")
    finders = imports._plain
    with imports:
        ours = importlib.import_module("sc2_one")
    sys.meta_path.append(Later)
    imports.uninstall()
    assert sys.meta_path is finders and finders[-1] is Later
    sys.meta_path.remove(Later)
    assert imports._finder not in finders
    assert sys.modules["sc2_one"] is ours


def test_leaving_gives_no_module_that_a_file_of_the_users_hides(imports, installed, users):
    write(installed / "sc2_one.py")
    theirs = write(users / "sc2_one.py")
    with imports:
        importlib.import_module("sc2_one")
    imports.uninstall()
    assert importlib.import_module("sc2_one").file == theirs


class Later:
    """A finder that somebody adds meanwhile."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None


def test_a_thread_of_ours_that_imports_nothing_looks_at_no_folder(imports, installed, monkeypatch):
    write(installed / "sc2_one.py")
    with imports:
        importlib.import_module("sc2_one")

    def look(*_):
        raise AssertionError

    monkeypatch.setattr(import_isolation, "_here", look)
    monkeypatch.setattr(import_isolation, "_changed_at", look)
    with imports:
        pass


def test_what_could_not_be_kept_apart_under_an_import_is_after_the_next_of_our_turns(
    imports, installed, monkeypatch
):
    write(installed / "sc2_one.py")
    with monkeypatch.context() as patch:
        patch.setattr(imports, "importing", lambda: True)
        with imports:
            importlib.import_module("sc2_one")
    assert "sc2_one" in sys.modules
    with imports:
        pass
    assert "sc2_one" not in sys.modules
