"""One widget per setting, linked both ways: moving a slider sets the trait, and the reverse.

Ranges, choices and help texts come from the traits; only labels and the wording of choices are defined here. A setting
without an entry gets a widget, too.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
from traitlets import Bool, Enum, Float, Int
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.models.cards import cards
from jupyter_sc2.prompt.sources import SETTINGS
from jupyter_sc2.settings import SC2

# For administrators only.
HIDDEN = ("allowed",)
LABELS = {
    "model": "Model name",
    "mode": "Ghost text",
    "after_enter": "After Enter",
    "max_tokens": "Max tokens",
    "top_k": "Top k",
    "top_p": "Top p",
    "context_tokens": "Context tokens",
    **{name: setting.label for name, setting in SETTINGS.items()},
    "grounding": "Check against variables",
    "prose": "Complete Markdown and raw cells",
    "offline": "Stay offline",
    "statistics": "Count suggestions",
}
CHOICES = {
    "mode": {"automatic": "While typing", "manual": "On request (Alt+\\)", "off": "Off"},
    "after_enter": {"smart": "Where it helps", "always": "Always", "off": "Never"},
}
SLIDER_STEPS = {"max_tokens": 8, "temperature": 0.05}
# Placeholders of empty text fields.
HINTS = {
    "model": "owner/name, ./folder",
    "server": "none",
    "seed": "random",
    "confidence": "model's default",
}
OTHER_MODEL = "Other…"
LABEL_STYLE = {"description_width": "6.5em"}
FULL_WIDTH = {"width": "auto"}


class Fields:
    """The widgets by the names of their settings, in the settings' order."""

    def __init__(self, settings: SC2, on_error: Callable[[str], None]) -> None:
        """`on_error` is called with a message for a value that is not valid, and with "" after a valid one."""
        self._settings = settings
        self._on_error = on_error
        # Only one thread at a time gives a list new options: ipywidgets compares them in several steps.
        self._lock, self._updating = threading.RLock(), False
        self.context = contextvars.copy_context()
        names = [name for name in SC2.settings() if name not in HIDDEN]
        self.widgets = {name: self._make(name) for name in names}
        self.models = widgets.Dropdown(
            description="Model",
            tooltip=SC2.settings()["model"].help,
            style=LABEL_STYLE,
            layout=FULL_WIDTH,
        )
        self._update_models()
        self.models.observe(self._model_chosen, "value")
        for name, widget in self.widgets.items():
            widget.observe(self._widget_changed, "value")
            settings.observe(self._setting_changed, name)

    def close(self) -> None:
        for name in self.widgets:
            self._settings.unobserve(self._setting_changed, name)

    def in_context(self, push: Callable[[], None]) -> None:
        """Calls `push`, which sets widgets; on other threads in the context of the front end's last action.

        ipykernel 7.4 sends a widget's next message to the origin of the last push's parent message.
        """
        if threading.current_thread() is threading.main_thread():
            push()
        else:
            self.context.copy().run(push)

    def reset(self) -> None:
        """Resets all settings of this kernel to their defaults."""
        with self._settings.hold_trait_notifications():
            for name in self.widgets:
                self._settings.set(name, SC2.settings()[name].default_value)

    def relabel(self, name: str, labels: dict[str, str]) -> None:
        """Changes the labels of a setting's choices; a choice without one is shown as it is."""
        widget, values = self.widgets[name], SC2.settings()[name].values
        with self._while_updating(), widget.hold_sync():
            widget.options = [(labels.get(value, value), value) for value in values]
            widget.value = getattr(self._settings, name)

    def _make(self, name: str) -> widgets.Widget:
        trait, value = SC2.settings()[name], getattr(self._settings, name)
        low, high = getattr(trait, "min", None), getattr(trait, "max", None)
        label = LABELS.get(name, name.replace("_", " ").capitalize())
        options: dict[str, Any] = {
            "description": label,
            "tooltip": trait.help,
            "layout": FULL_WIDTH,
        }
        if isinstance(trait, Bool):
            return widgets.Checkbox(value=value, indent=False, **options)
        options["style"] = LABEL_STYLE
        if isinstance(trait, Enum):
            words = CHOICES.get(name, {})
            choices = [(words.get(choice, choice), choice) for choice in trait.values or ()]
            return widgets.Dropdown(options=choices, value=value, **options)
        options["continuous_update"] = False
        bounded = low is not None and high is not None and not trait.allow_none
        if isinstance(trait, Int | Float) and bounded:
            limits = {"min": low, "max": high, "step": SLIDER_STEPS.get(name, 1)}
            if isinstance(trait, Float):
                limits["step"] = SLIDER_STEPS.get(name, 0.01)
                kind = widgets.FloatSlider if name in SLIDER_STEPS else widgets.BoundedFloatText
            else:
                kind = widgets.IntSlider if name in SLIDER_STEPS else widgets.BoundedIntText
            return kind(value=value, **limits, **options)
        hint = HINTS.get(name, "")
        return widgets.Text(value=_text(value), placeholder=hint, **options)

    # From the widgets to the settings and back

    def _widget_changed(self, change: Bunch) -> None:
        """Sets the setting to a widget's new value, or the widget back to the setting if it is not valid."""
        if self._is_updating:
            return
        self.context = contextvars.copy_context()
        name = next(name for name, widget in self.widgets.items() if widget is change.owner)
        if self._shown_value(name) == change.new:
            return
        value = change.new
        if isinstance(change.owner, widgets.Text):
            value = value.strip() or str(SC2.settings()[name].default_value)
        try:
            self._settings.set(name, value)
        except SettingsError as error:
            self._on_error(str(error))
        else:
            self._on_error("")
        change.owner.value = self._shown_value(name)

    def _setting_changed(self, change: Bunch) -> None:
        def show() -> None:
            widget = self.widgets[change.name]
            # An engine may have been installed since the panel was opened.
            if (
                isinstance(widget, widgets.Dropdown)
                and change.new not in dict(widget.options).values()
            ):
                self.relabel(change.name, CHOICES.get(change.name, {}))
            with self._while_updating():
                widget.value = self._shown_value(change.name)
            if change.name == "model":
                self._update_models()

        self.in_context(show)

    def _shown_value(self, name: str) -> Any:
        """The value that the widget of a setting shows."""
        value = getattr(self._settings, name)
        return _text(value) if isinstance(self.widgets[name], widgets.Text) else value

    # The model: a known one, or any other by name

    def _update_models(self) -> None:
        known, current = cards(), self._settings.model
        names = [*known, *([] if current in known else [current])]
        sizes = {
            name: f"{name} · {card.parameters}"
            for name, card in known.items()
            if card.parameters != "?"
        }
        with self._while_updating(), self.models.hold_sync():
            self.models.options = [
                *((sizes.get(n, n), n) for n in names),
                (OTHER_MODEL, OTHER_MODEL),
            ]
            self.models.value = current
        self.widgets["model"].layout.display = "none"

    def _model_chosen(self, change: Bunch) -> None:
        if self._is_updating:
            return
        if change.new == OTHER_MODEL:
            self.widgets["model"].layout.display = ""
        else:
            self.widgets["model"].layout.display = "none"
            self.widgets["model"].value = change.new

    @contextmanager
    def _while_updating(self) -> Iterator[None]:
        """Ignores what changes in the widgets, as when a list gets new options and falls back to the first of them."""
        with self._lock:
            updating, self._updating = self._updating, True
            try:
                yield
            finally:
                self._updating = updating

    @property
    def _is_updating(self) -> bool:
        """Whether the calling thread is; waits while another one is."""
        with self._lock:
            return self._updating


def _text(value: object) -> str:
    return "" if value is None else str(value)
