"""The executed code of this session as a notebook: the context where no front end sends cells."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.notebook import Notebook

# Commands of this package are not the user's code.
OWN_COMMANDS = (
    "%%complete",
    "%complete",
    "%sc2",
    "%load_ext jupyter_sc2",
    "%reload_ext jupyter_sc2",
)


def is_own(text: str) -> bool:
    """Whether the text begins a command of this package, complete or while it is typed."""
    return any(text.startswith(own) or own.startswith(text) for own in OWN_COMMANDS)


def notebook(shell: InteractiveShell, running: str = "") -> Notebook:
    """The code executed so far, without the `running` cell and the commands of this package."""
    history = shell.history_manager
    run = list(history.input_hist_raw[1:]) if history is not None else []
    if run and run[-1] == running.rstrip("\n"):
        del run[-1]
    return Notebook.from_sources(
        source for source in run if source.strip() and not source.startswith(OWN_COMMANDS)
    )


def length(shell: InteractiveShell) -> tuple[int, int]:
    """Numbers that change when the history does."""
    history = shell.history_manager
    return shell.execution_count, len(history.input_hist_raw) if history is not None else 0
