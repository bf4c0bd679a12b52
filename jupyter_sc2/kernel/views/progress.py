"""The progress bar under a cell that waits for a model: a widget in a notebook, a line of text in a terminal."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from IPython.core.interactiveshell import InteractiveShell

from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.progress import BAR_DELAY_S, TerminalBar, describe_load


class Bar(Protocol):
    def show(self, state: str, model: str, share: float | None) -> None: ...
    def close(self) -> None: ...


class NotebookBar:
    """An ipywidgets progress bar that appears if loading takes long, and leaves nothing in the notebook's file."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._at = monotonic() + BAR_DELAY_S
        self._box: Any = None
        self._id = uuid.uuid4().hex

    def show(self, state: str, model: str, share: float | None) -> None:
        if monotonic() < self._at:
            return
        if self._box is None:
            self._open()
        words = describe_load(state, model)
        self._label.value = words if share is None else f"{words}: {share:.0%}"
        self._bar.value = share or 0.0
        self._bar.layout.visibility = "hidden" if share is None else "visible"

    def _open(self) -> None:
        import ipywidgets as widgets

        self._label, self._bar = widgets.Label(), widgets.FloatProgress(min=0.0, max=1.0)
        self._box = widgets.HBox([self._label, self._bar])
        self._publish(self._box._repr_mimebundle_())

    def _publish(self, data: dict[str, Any], *, update: bool = False) -> None:
        # Not `display`, which always uses the process's first shell.
        publisher: Any = self._shell.display_pub
        publisher.publish(data, transient={"display_id": self._id}, update=update)

    def close(self) -> None:
        if self._box is not None:
            # A widget that is only closed would leave an error message in the saved notebook.
            self._publish({"text/plain": ""}, update=True)
            for widget in (self._label, self._bar, self._box):
                widget.close()


@contextmanager
def bar(shell: InteractiveShell) -> Iterator[Bar]:
    """The bar for this front end, removed at the end."""
    shown: Bar = NotebookBar(shell) if hasattr(shell, "kernel") else TerminalBar(sys.stderr)
    try:
        yield shown
    finally:
        shown.close()
