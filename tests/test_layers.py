"""Imports point down, and importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jupyter_sc2

PACKAGE = Path(jupyter_sc2.__file__).parent

# Each layer may import those above its line in this list, and its own.
LAYERS = [
    {
        "background",
        "characters",
        "clock",
        "errors",
        "hardware",
        "last",
        "progress",
        "mixture",
        "guessing",
        "openblas",
        "own_imports",
        "priority",
        "reading",
        "rhythm",
        "silence",
        "threads",
        "trusted_path",
        "unwarned",
        "usage",
        "writing",
        "prompt.brackets",
        "prompt.secrets",
    },
    {"prompt.notebook", "prompt.namespace", "prompt.inspection", "prompt.parsing"},
    {"prompt.tables"},
    {"prompt.importable", "prompt.keywords", "prompt.variables", "prompt.facts", "prompt.uses"},
    {"completion", "prompt.syntax"},
    {"prompt.languages"},
    {"prompt.near"},
    {"models", "settings"},
    {"prompt.layout", "fitting", "plan"},
    {"postprocess"},
    {"type_through", "grounding"},
    {"drawing"},
    {"engines"},
    {"answering"},
    {"request_queue"},
    {"session", "embedded", "provenance"},
    {"kernel"},
    {"extension"},
    {"evaluate"},
    {"commands"},
    {"cli"},
]


def layer(module: str) -> int:
    for height, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return height
    raise AssertionError(f"{module} is in no layer")


def modules() -> list[Path]:
    return [
        p
        for p in PACKAGE.rglob("*.py")
        if p.parent != PACKAGE or p.stem not in ("__init__", "__main__")
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    if name in ("prompt", ""):
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jupyter_sc2"):
            base = (node.module or "").removeprefix("jupyter_sc2").lstrip(".")
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            targets = [
                n
                for n in names
                if (PACKAGE / n.replace(".", "/")).exists()
                or (PACKAGE / (n.replace(".", "/") + ".py")).exists()
            ] or ([base] if base else [])
            for target in targets:
                assert layer(target) <= layer(name), f"{name} imports {target}, which is above it"


@pytest.mark.parametrize(
    "statement",
    ["import jupyter_sc2", "import jupyter_sc2.extension", "import jupyter_sc2.session"],
)
def test_importing_brings_in_neither_torch_nor_numpy(statement):
    heavy = ("torch", "transformers", "numpy", "ipywidgets")
    code = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_kernel_front_ends_do_not_know_each_other():
    # `wire` and `show` are what two of them say and draw, not front ends.
    front_ends = {"channel", "magics", "panel", "terminal"}
    for path in (PACKAGE / "kernel").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module == "jupyter_sc2.kernel":
                known = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                known = {(node.module or "").removeprefix("jupyter_sc2.kernel.")}
            else:
                continue
            assert not known & front_ends, f"{path.name} imports {known}"
