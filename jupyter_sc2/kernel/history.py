"""What was run in this session, as a notebook: the context where no front end tells of cells."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.notebook import Notebook

# Our own commands are no code of the user's.
OWN_COMMANDS = (
    "%%complete",
    "%complete",
    "%sc2",
    "%load_ext jupyter_sc2",
    "%reload_ext jupyter_sc2",
)


def is_own(text: str) -> bool:
    """Whether it is one of our commands, or the beginning of one while it is typed."""
    return any(text.startswith(own) or own.startswith(text) for own in OWN_COMMANDS)


def notebook(shell: InteractiveShell, running: str = "") -> Notebook:
    """What was run so far, but for the cell that runs now and for our own commands."""
    history = shell.history_manager
    run = list(history.input_hist_raw[1:]) if history is not None else []
    if run and run[-1] == running.rstrip("\n"):
        del run[-1]
    return Notebook.from_sources(
        source for source in run if source.strip() and not source.startswith(OWN_COMMANDS)
    )


def length(shell: InteractiveShell) -> tuple[int, int]:
    """Numbers that are others when the history is."""
    history = shell.history_manager
    return shell.execution_count, len(history.input_hist_raw) if history is not None else 0
