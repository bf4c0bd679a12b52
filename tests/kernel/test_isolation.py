"""Real kernels: nothing of the user's is run or changed by the extension, and nothing of ours is in the user's way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernels import FrontEnd, page_expression
from tests.support.paths import TESTS

pytestmark = pytest.mark.kernel


@pytest.fixture
def notebooks(tmp_path):
    """The notebook's folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


def started(request, *arguments, **options):
    kernel = FrontEnd(*arguments, **options)
    request.addfinalizer(kernel.close)
    return kernel


def completing(request, **options):
    """A kernel in which the embedded model, the one that is shipped, has completed something."""
    kernel = started(request, **{"JUPYTER_SC2_EMBEDDED": "", **options})
    kernel.run("%load_ext jupyter_sc2")
    kernel.comm = kernel.open()
    kernel.comm.say({"type": "hello", "protocol": 1})
    kernel.comm.say({"type": "configure", "settings": {"confidence": 0.0}})
    assert completed(kernel) == "np"
    return kernel


def completed(kernel, text="import numpy as "):
    answer = kernel.comm.final(kernel.comm.ask(text), timeout=90)["content"]["data"]
    return answer.get("text") or str(answer)


def value(kernel, expression):
    return ast.literal_eval(kernel.evaluate(expression))


def names_that_are_new(kernel):
    """Without a dot, in sys.modules or kept apart, that came with the extension and the embedded model."""
    kernel.run("import sys; _before = {name.partition('.')[0] for name in sys.modules}")
    kernel.run("%load_ext jupyter_sc2")
    kernel.comm = kernel.open()
    kernel.comm.say({"type": "hello", "protocol": 1})
    assert completed(kernel)
    kept = "__import__('jupyter_sc2.runtime.import_isolation').runtime.import_isolation.own_imports._isolated.modules"
    return value(
        kernel,
        f"sorted({{n.partition('.')[0] for n in [*sys.modules, *{kept}]}} - _before - {{'jupyter_sc2'}})",
    )


def tell_tale(folder: Path, *names: str) -> Path:
    """Files of the user's that say so when they are run; returns where."""
    log = folder.parent / "log"
    log.touch()
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(log)!r}, 'a').write(__name__ + '\\n')\n")
    return log


# How a page loads the extension


def test_the_page_loads_what_is_installed_and_not_a_file_beside_the_notebook(request, notebooks):
    kernel = started(request, folder=notebooks)
    log = tell_tale(notebooks, "jupyter_sc2", "IPython", "importlib", "builtins", "site", "os")
    kernel.run(f"import sys; sys.path.insert(0, {str(notebooks)!r})")
    assert kernel.evaluate(page_expression("LOAD")) == "True"
    assert kernel.evaluate("__import__('jupyter_sc2').__file__") == repr(
        str(TESTS.parent / "jupyter_sc2" / "__init__.py")
    )
    assert log.read_text() == ""


def test_the_page_finds_an_editable_install_that_is_the_current_directory(request):
    kernel = started(request, folder=TESTS.parent, PYTHONPATH="")
    kernel.run("import sys; sys.path[:] = [entry for entry in sys.path if entry]")
    assert kernel.evaluate(page_expression("LOAD")) == "True"


def test_the_page_does_not_find_what_is_not_installed(request, notebooks):
    kernel = started(request, folder=notebooks)
    absent = page_expression("LOAD").replace("'jupyter_sc2'", "'jupyter_sc3'")
    (notebooks / "jupyter_sc3.py").write_text("")
    assert kernel.evaluate(absent) == "False"


def test_the_page_sees_whether_the_extension_is_loaded(request):
    kernel = started(request)
    assert kernel.evaluate(page_expression("CHECK")) == "False"
    kernel.run("%load_ext jupyter_sc2")
    assert kernel.evaluate(page_expression("CHECK")) == "True"


def test_loading_by_the_page_binds_no_name_and_minds_none(request):
    kernel = started(request)
    kernel.run("exec = sys = os = open = sorted = None")
    before = kernel.evaluate("[*globals()]")
    assert kernel.evaluate(page_expression("LOAD")) == "True"
    assert kernel.evaluate("[*globals()]") == before
    kernel.run("print(exec, sys, os)")
    assert kernel.text() == "None None None\n"


@pytest.mark.parametrize("name", ["LOAD", "CHECK"])
def test_a_kernel_without_ipython_is_left_alone(notebooks, name):
    log = tell_tale(notebooks, "IPython")
    code = f"import sys; print({page_expression(name)}, 'IPython' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=notebooks, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
    assert log.read_text() == ""


# What the extension imports


@pytest.fixture(scope="module")
def names():
    """What the extension and the embedded model import in a kernel that has run nothing else."""
    kernel = FrontEnd(JUPYTER_SC2_EMBEDDED="")
    names = names_that_are_new(kernel)
    kernel.close()
    assert {"numpy", "onnxruntime", "tokenizers"} <= set(names)
    return names


@pytest.fixture
def beside_all(request, notebooks, names):
    """A kernel whose notebook has a file beside it by each of these names."""
    kernel = started(request, folder=notebooks, JUPYTER_SC2_EMBEDDED="")
    kernel.run("import sys; sys.path.insert(0, '')")  # before the standard library, too
    kernel.log = tell_tale(notebooks, *names)
    assert set(names_that_are_new(kernel)) == set(names)
    return kernel


def test_no_file_of_the_users_is_run_by_our_imports_though_each_name_has_one(beside_all):
    assert beside_all.log.read_text() == ""


def test_the_users_own_import_gets_their_file_by_each_name_that_we_have_imported(
    beside_all, names, notebooks
):
    beside_all.run(f"import {', '.join(names)}")
    assert sorted(beside_all.log.read_text().split()) == names
    beside_all.run(f"found = [sys.modules[name].__file__ for name in {names}]")
    assert value(beside_all, "found") == [str(notebooks / f"{name}.py") for name in names]


def test_completion_continues_after_the_user_has_imported_files_by_all_our_names(beside_all, names):
    beside_all.run(f"import {', '.join(names)}")
    assert completed(beside_all, "import pandas as ") == "pd"


def test_the_embedded_model_loads_after_the_user_has_imported_files_by_all_our_names(
    request, notebooks, names
):
    kernel = started(request, folder=notebooks, JUPYTER_SC2_EMBEDDED="")
    log = tell_tale(notebooks, *names)
    kernel.run(f"import sys; sys.path.insert(0, '')\nimport {', '.join(names)}")
    assert sorted(log.read_text().split()) == names
    kernel.run("%load_ext jupyter_sc2")
    kernel.comm = kernel.open()
    kernel.comm.say({"type": "hello", "protocol": 1})
    assert completed(kernel) == "np"
    # Not by its repr: for that IPython itself uses the numpy that is in sys.modules.
    cell = kernel.start(f"print([sys.modules[name].__file__ for name in {names}])")
    kernel.finish(cell)
    files = [str(notebooks / f"{name}.py") for name in names]
    assert ast.literal_eval(kernel.text(cell)) == files


def test_a_file_in_a_folder_that_a_cell_put_on_the_path_is_not_run(request, notebooks, names):
    kernel = started(request, JUPYTER_SC2_EMBEDDED="")
    log = tell_tale(notebooks, *names)
    kernel.run(f"import sys; sys.path.insert(0, {str(notebooks)!r})")
    names_that_are_new(kernel)
    assert log.read_text() == ""


def test_numpy_is_not_loaded_as_far_as_the_user_can_see_and_then_works(request):
    kernel = completing(request)
    kernel.run(  # the last message comes just before the end of what is done for it
        "import sys, time\n"
        "end = time.monotonic() + 10\n"
        "while 'numpy' in sys.modules and time.monotonic() < end: time.sleep(0.01)"
    )
    assert value(kernel, "'numpy' in sys.modules") is False
    kernel.run(
        "import numpy as np, numpy.linalg, sys, pickle\n"
        "loads = pickle.loads(pickle.dumps(np.arange(3))).sum()\n"
        "solved = float(numpy.linalg.solve(np.eye(2), np.ones(2)).sum())"
    )
    assert value(kernel, "(int(loads), solved, sys.modules['numpy'] is np)") == (3, 2.0, True)
    assert completed(kernel, "import pandas as ") == "pd"


def test_what_runs_torch_models_is_not_imported_for_the_embedded_model(request):
    kernel = completing(request)
    heavy = {"torch", "transformers", "huggingface_hub", "safetensors", "bitsandbytes", "httpx"}
    kept = "__import__('jupyter_sc2.runtime.import_isolation').runtime.import_isolation.own_imports._isolated.modules"
    assert heavy.isdisjoint(value(kernel, f"[*__import__('sys').modules, *{kept}]"))


THREADS_OF_OPENBLAS = """
import ctypes, glob, numpy, os
_files = glob.glob(os.path.dirname(numpy.__file__) + ".libs/*openblas*")
_get = [ctypes.CDLL(file).scipy_openblas_get_num_threads64_ for file in _files]
threads = [get() for get in _get]
"""


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_threads_that_the_first_cell_sets_count_for_numpy(request, variable):
    if os.cpu_count() == 1 or sys.platform != "linux":
        pytest.skip("one core is one thread in any case; elsewhere the library has other names")
    kernel = completing(request, OMP_NUM_THREADS="", OPENBLAS_NUM_THREADS="")
    kernel.run(f"import os; os.environ[{variable!r}] = '1'" + THREADS_OF_OPENBLAS)
    assert value(kernel, "threads") == [1]


def test_a_function_that_the_user_puts_into_numpy_is_not_run_by_us(request):
    kernel = completing(request)
    kernel.run(
        "import numpy, threading, types\n"
        "called = []\n"
        "def traced(name, function):\n"
        "    def call(*arguments, **named):\n"
        "        if threading.current_thread() is not threading.main_thread(): called.append(name)\n"
        "        return function(*arguments, **named)\n"
        "    return call\n"
        "for name, function in list(vars(numpy).items()):\n"
        "    if callable(function) and not isinstance(function, type) and name[0] != '_':\n"
        "        setattr(numpy, name, traced(name, function))"
    )
    for text in ("import pandas as ", "import matplotlib.pyplot as "):
        assert completed(kernel, text) in ("pd", "plt")
    assert value(kernel, "sorted(set(called))") == []


def test_onnx_runtime_reports_nothing_to_anybody(request, tmp_path):
    """Without our variable it writes a device id and a database of events there, and sends them."""
    kernel = completing(request, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert value(kernel, "__import__('os').environ.get('ORT_DISABLE_TELEMETRY')") is None
    assert not [*tmp_path.rglob("*onnxruntime.db*"), *tmp_path.rglob("deviceid")]


def test_after_unloading_numpy_can_be_imported_as_ever(request):
    kernel = completing(request)
    kernel.run("%unload_ext jupyter_sc2")
    kernel.run("import numpy; total = int(numpy.arange(4).sum())")
    assert value(kernel, "total") == 6


# Torch models


@pytest.fixture
def tiny(tmp_path):
    pytest.importorskip("torch")
    from tests.support.tiny import make_tiny_model

    return make_tiny_model(tmp_path / "tiny", hidden=64, layers=2)


def said(kernel, code):
    cell = kernel.start(code)
    kernel.finish(cell, timeout=120)
    return kernel.text(cell) + kernel.text(cell, "stderr") + kernel.shown(cell)


def test_a_torch_model_loads_beside_files_by_names_of_what_it_imports_and_runs_none(
    request, notebooks, tiny
):
    # The last four are not installed: transformers asks whether they are.
    there = "torch", "transformers", "tqdm", "yaml", "regex", "sympy", "safetensors", "filelock"
    log = tell_tale(notebooks, *there, "datasets", "keras", "accelerate", "flash_attn")
    kernel = started(request, folder=notebooks)
    kernel.run("%load_ext jupyter_sc2")
    said(kernel, f"%sc2 load {tiny} --precision fp32")
    assert said(kernel, "%sc2 status").startswith("ready: tiny (transformers, fp32")
    assert log.read_text() == ""
    kernel.run("import tqdm, keras")
    assert log.read_text().split() == ["tqdm", "keras"]


def test_one_line_names_the_file_that_keeps_a_torch_model_from_loading(request, notebooks, tiny):
    tell_tale(notebooks, "safetensors")
    kernel = started(request, folder=notebooks)
    kernel.run("import safetensors\n%load_ext jupyter_sc2")
    lines = said(kernel, f"%sc2 load {tiny} --precision fp32")
    file = notebooks / "safetensors.py"
    assert f"could not be loaded: {file} hides the package safetensors." in lines


def test_variables_that_the_first_cell_sets_count_for_the_hub(request, tmp_path):
    pytest.importorskip("huggingface_hub")
    kernel = completing(request)
    kernel.run(
        f"import os; os.environ['HF_HOME'] = {str(tmp_path)!r}; os.environ['HF_HUB_OFFLINE'] = '1'"
    )
    said(kernel, "%sc2 load starcoder2-3b")
    cell = kernel.start(
        "from huggingface_hub import constants; print(constants.HF_HOME, constants.HF_HUB_OFFLINE)"
    )
    kernel.finish(cell)
    assert kernel.text(cell) == f"{tmp_path} True\n"


def test_the_process_of_llama_cpp_imports_no_file_of_the_users(monkeypatch, notebooks):
    from jupyter_sc2.runtime.child_process import ChildProcess

    log = tell_tale(notebooks, "xllamacpp", "json", "shutil", "signal")
    monkeypatch.setattr(sys, "path", [str(notebooks), *sys.path])
    monkeypatch.chdir(notebooks)
    process = ChildProcess("jupyter_sc2.engines.llamacpp.server", {})
    assert process.wait(60)  # it wants options, and ends
    assert "KeyError" in process.log()
    process.stop()
    assert log.read_text() == ""
