"""Imports point down, and importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jupyter_sc2

PACKAGE = Path(jupyter_sc2.__file__).parent

# Each line may import those above it, and its own; of two that fit a module the longer name counts.
LAYERS = [
    {"runtime", "errors", "embedded", "server"},
    {"notebook", "types"},
    {"source"},
    {"introspection"},
    {"models.calibration", "models.cards"},
    {"options", "settings", "prompt"},
    {"models"},
    {"engines.base", "engines.decoding", "engines.gguf", "engines.torch", "engines.onnx"},
    {"engines.llamacpp", "engines.openai"},
    {"engines"},
    {"pipeline", "attribution", "training", "usage"},
    {"kernel"},
    {"extension"},
    {"evaluation"},
    {"cli"},
]


def layer(module: str) -> int:
    found = [
        (len(name), height)
        for height, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert found, f"{module} is in no layer"
    return max(found)[1]


def modules() -> dict[str, Path]:
    """All but the package's own."""
    paths = {path.relative_to(PACKAGE): path for path in PACKAGE.rglob("*.py")}
    named = {".".join(at.with_suffix("").parts): path for at, path in paths.items()}
    return {n.removesuffix(".__init__"): p for n, p in named.items() if n != "__init__"}


MODULES = modules()


def imported(path: Path) -> set[str]:
    """The modules of the package that one imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in below if n.removeprefix("jupyter_sc2.") in MODULES} or {
                str(node.module)
            }
    inside = {name.removeprefix("jupyter_sc2.") for name in found if "jupyter_sc2." in name}
    return {name for name in inside if name in MODULES}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_point_down(name):
    for target in IMPORTS[name]:
        assert layer(target) <= layer(name), f"{name} imports {target}, which is above it"


def test_no_imports_go_in_a_circle():
    left = dict(IMPORTS)
    while free := {name for name, targets in left.items() if left.keys().isdisjoint(targets)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, f"These import one another: {sorted(left)}"


@pytest.mark.parametrize(
    "statement",
    [
        "import jupyter_sc2",
        "import jupyter_sc2.extension",
        "import jupyter_sc2.pipeline.session",
    ],
)
def test_importing_brings_in_neither_torch_nor_numpy(statement):
    heavy = ("torch", "transformers", "numpy", "ipywidgets")
    code = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


FRONT_ENDS = {"kernel.comm.channel", "kernel.magics", "kernel.panel.panel", "kernel.terminal"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("kernel.")])
def test_the_kernel_front_ends_do_not_know_each_other(name):
    # `%sc2 panel` opens the panel.
    known = IMPORTS[name] & FRONT_ENDS - {name}
    assert not known or (name, known) == ("kernel.subcommands", {"kernel.panel.panel"})
