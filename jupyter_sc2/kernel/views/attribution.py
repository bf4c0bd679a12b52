"""`%sc2 attribution`: the report on the notebook of this kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.kernel import history
from jupyter_sc2.kernel.views.text import BLOCK_STYLE


def show(shell: InteractiveShell, threshold: int) -> None:
    """Reports on the notebook's file as last saved; without one, on the executed code. Raises SC2Error."""
    from jupyter_sc2.attribution import render, report
    from jupyter_sc2.attribution.index import Index
    from jupyter_sc2.attribution.match import Matcher

    index = Index(verified=True)
    matcher = Matcher(index)
    file = notebook_file()
    if file is not None:
        found = report.of_file(file, matcher, threshold)
        heading = f"{file.name}, as last saved"
    else:
        run = history.notebook(shell).cells
        cells = [report.CellText(source=cell.source, id=cell.id) for cell in run]
        found = report.of_cells("The code executed in this session", cells, matcher, threshold)
        heading = found.notebook
    if index.problem:
        print(index.problem, file=sys.stderr)
    text = render.text([found], notices=False).replace(found.notebook, heading, 1)
    if found.notices:
        text += (
            "\nThe notices to reproduce: "
            "jupyter sc2 attribution report NOTEBOOK --html --output report.html"
        )
    if not hasattr(shell, "kernel"):
        print(text)
        return
    from IPython.display import publish_display_data

    markup = f'<div style="{BLOCK_STYLE}">{render.fragment(found)}</div>'
    publish_display_data({"text/plain": text, "text/html": markup})  # type: ignore[no-untyped-call]


def notebook_file() -> Path | None:
    """The file of this kernel's notebook, if the server gave its path and it is readable here."""
    path = os.environ.get("JPY_SESSION_NAME", "")
    file = Path(path)
    return file if path.endswith(".ipynb") and file.is_file() else None
