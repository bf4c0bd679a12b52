"""The settings as a panel of ipywidgets, linked both ways: moving a slider sets the trait, and the reverse.

Only this module imports ipywidgets. Ranges and help texts are those of the traits.
"""

from __future__ import annotations

import contextvars
from typing import Any

import ipywidgets as widgets
from traitlets.utils.bunch import Bunch

import jupyter_sc2.kernel.show as show
from jupyter_sc2.errors import SettingsError
from jupyter_sc2.models import cards
from jupyter_sc2.session import Session, Status
from jupyter_sc2.settings import PRECISIONS, SC2

LABEL = {"description_width": "7em"}


class Panel:
    """One panel; `widget` is what is displayed. It lives as long as the kernel, or until `close`."""

    def __init__(self, settings: SC2, session: Session) -> None:
        self.settings = settings
        self.session = session
        traits = SC2.settings()

        def options(name: str, label: str) -> dict[str, Any]:
            return {
                "value": getattr(settings, name),
                "description": label,
                "tooltip": traits[name].help,
                "style": LABEL,
            }

        def limits(name: str) -> dict[str, Any]:
            return {"min": traits[name].min, "max": traits[name].max, "continuous_update": False}

        # A combobox tells of each letter typed, unless asked to wait for Enter or Tab.
        names = sorted({*cards(), settings.model})
        self.fields: dict[str, widgets.Widget] = {
            "model": widgets.Combobox(
                options=names, continuous_update=False, **options("model", "Model")
            ),
            "precision": widgets.Dropdown(options=PRECISIONS, **options("precision", "Precision")),
            "max_tokens": widgets.IntSlider(
                **limits("max_tokens"), **options("max_tokens", "Max tokens")
            ),
            "temperature": widgets.FloatSlider(
                step=0.05, **limits("temperature"), **options("temperature", "Temperature")
            ),
            "enabled": widgets.Checkbox(**options("enabled", "Ghost text")),
        }
        self.state = widgets.Label()
        self.progress = widgets.FloatProgress(min=0.0, max=1.0)
        self.refusal = widgets.Label()
        self.load = widgets.Button(description="Load", tooltip="Load the model now")
        self.unload = widgets.Button(description="Unload", tooltip="Give the model's memory back")
        self.widget = widgets.VBox(
            [
                *self.fields.values(),
                self.refusal,
                widgets.HBox([self.load, self.unload]),
                widgets.HBox([self.state, self.progress]),
            ]
        )
        # ipykernel 7.4 sends the next message of a widget to where the parent of the last push came from, so
        # a push has to go out in the context of what the front end did last.
        self._context = contextvars.copy_context()
        for name, field in self.fields.items():
            field.observe(self._moved, "value")
            settings.observe(self._set, name)
        self.load.on_click(
            lambda button: self._click(lambda: session.load(settings.load_options()))
        )
        self.unload.on_click(lambda button: self._click(session.unload))
        self._show(session.status)
        self._unsubscribe = session.subscribe(
            lambda status: self._context.copy().run(self._show, status)
        )

    def close(self) -> None:
        self._unsubscribe()
        for name in self.fields:
            self.settings.unobserve(self._set, name)
        self.widget.close()

    def _moved(self, change: Bunch) -> None:
        """A widget has a new value: it becomes the setting, or the widget goes back to what is set."""
        self._context = contextvars.copy_context()
        name = next(name for name, field in self.fields.items() if field is change.owner)
        if change.new == getattr(self.settings, name):
            return
        try:
            self.settings.set(name, change.new)
        except SettingsError as error:
            change.owner.value = getattr(self.settings, name)
            self.refusal.value = str(error)
        else:
            self.refusal.value = ""

    def _set(self, change: Bunch) -> None:
        self.fields[change.name].value = change.new

    def _click(self, act: Any) -> None:
        self._context = contextvars.copy_context()
        act()

    def _show(self, status: Status) -> None:
        """Called on the session's thread: it sets widgets and prints nothing."""
        self.state.value = show.status(status, self.settings).partition("\n")[0]
        if status.message:
            self.refusal.value = status.message
        self.progress.layout.visibility = "hidden" if status.progress is None else "visible"
        self.progress.value = status.progress or 0.0
        self.unload.disabled = status.state in ("unloaded", "error")
