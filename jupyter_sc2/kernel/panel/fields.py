"""A widget for each setting, linked both ways: moving a slider sets the trait, and the reverse.

Ranges, choices and help texts are those of the traits; here is only what a setting is called, and how its choices
are worded. A setting that nothing is said of here gets a field all the same.
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

# For an administrator to say.
NOT_SHOWN = ("allowed",)
NAMES = {
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
SLIDERS = {"max_tokens": 8, "temperature": 0.05}  # and their steps
# Shown where nothing is set.
HINTS = {
    "model": "owner/name, ./folder",
    "server": "none",
    "seed": "random",
    "confidence": "model's default",
}
OTHER = "Other…"
LABEL = {"description_width": "6.5em"}
WIDE = {"width": "auto"}


class Fields:
    """The widgets by the names of their settings, in the order of these."""

    def __init__(self, settings: SC2, refused: Callable[[str], None]) -> None:
        """`refused` is called with the words for a value that cannot be set, and with "" for one that was."""
        self._settings = settings
        self._refused = refused
        self._held = False
        self.context = contextvars.copy_context()
        names = [name for name in SC2.settings() if name not in NOT_SHOWN]
        self.widgets = {name: self._make(name) for name in names}
        self.models = widgets.Dropdown(
            description="Model", tooltip=SC2.settings()["model"].help, style=LABEL, layout=WIDE
        )
        self._offer_models()
        self.models.observe(self._model_chosen, "value")
        for name, widget in self.widgets.items():
            widget.observe(self._moved, "value")
            settings.observe(self._set, name)

    def close(self) -> None:
        for name in self.widgets:
            self._settings.unobserve(self._set, name)

    def in_context(self, push: Callable[[], None]) -> None:
        """Calls what sets widgets; on another thread in the context of what the front end did last.

        ipykernel 7.4 sends the next message of a widget to where the parent of the last push came from.
        """
        if threading.current_thread() is threading.main_thread():
            push()
        else:
            self.context.copy().run(push)

    def reset(self) -> None:
        """Sets everything back to the defaults, in this kernel."""
        with self._settings.hold_trait_notifications():
            for name in self.widgets:
                self._settings.set(name, SC2.settings()[name].default_value)

    def relabel(self, name: str, labels: dict[str, str]) -> None:
        """Words the choices of a setting otherwise; what is not in `labels` is called what it is."""
        widget, values = self.widgets[name], SC2.settings()[name].values
        with self._hold(), widget.hold_sync():
            widget.options = [(labels.get(value, value), value) for value in values]
            widget.value = getattr(self._settings, name)

    def _make(self, name: str) -> widgets.Widget:
        trait, value = SC2.settings()[name], getattr(self._settings, name)
        low, high = getattr(trait, "min", None), getattr(trait, "max", None)
        label = NAMES.get(name, name.replace("_", " ").capitalize())
        options: dict[str, Any] = {"description": label, "tooltip": trait.help, "layout": WIDE}
        if isinstance(trait, Bool):
            return widgets.Checkbox(value=value, indent=False, **options)
        options["style"] = LABEL
        if isinstance(trait, Enum):
            words = CHOICES.get(name, {})
            choices = [(words.get(choice, choice), choice) for choice in trait.values or ()]
            return widgets.Dropdown(options=choices, value=value, **options)
        options["continuous_update"] = False
        bounded = low is not None and high is not None and not trait.allow_none
        if isinstance(trait, Int | Float) and bounded:
            limits = {"min": low, "max": high, "step": SLIDERS.get(name, 1)}
            if isinstance(trait, Float):
                limits["step"] = SLIDERS.get(name, 0.01)
                kind = widgets.FloatSlider if name in SLIDERS else widgets.BoundedFloatText
            else:
                kind = widgets.IntSlider if name in SLIDERS else widgets.BoundedIntText
            return kind(value=value, **limits, **options)
        hint = HINTS.get(name, "")
        return widgets.Text(value=_text(value), placeholder=hint, **options)

    # From the widgets to the settings and back

    def _moved(self, change: Bunch) -> None:
        """A widget has a new value: it becomes the setting, or the widget goes back to what is set."""
        if self._held:
            return
        self.context = contextvars.copy_context()
        name = next(name for name, widget in self.widgets.items() if widget is change.owner)
        if self._shown(name) == change.new:
            return
        value = change.new
        if isinstance(change.owner, widgets.Text):
            value = value.strip() or str(SC2.settings()[name].default_value)
        try:
            self._settings.set(name, value)
        except SettingsError as error:
            self._refused(str(error))
        else:
            self._refused("")
        change.owner.value = self._shown(name)

    def _set(self, change: Bunch) -> None:
        def show() -> None:
            self.widgets[change.name].value = self._shown(change.name)
            if change.name == "model":
                self._offer_models()

        self.in_context(show)

    def _shown(self, name: str) -> Any:
        """What the widget of a setting shows."""
        value = getattr(self._settings, name)
        return _text(value) if isinstance(self.widgets[name], widgets.Text) else value

    # The model: one of those known by name, or any other, which is typed

    def _offer_models(self) -> None:
        known, current = cards(), self._settings.model
        names = [*known, *([] if current in known else [current])]
        sizes = {
            name: f"{name} · {card.parameters}"
            for name, card in known.items()
            if card.parameters != "?"
        }
        with self._hold(), self.models.hold_sync():
            self.models.options = [*((sizes.get(n, n), n) for n in names), (OTHER, OTHER)]
            self.models.value = current
        self.widgets["model"].layout.display = "none"

    def _model_chosen(self, change: Bunch) -> None:
        if self._held:
            return
        if change.new == OTHER:
            self.widgets["model"].layout.display = ""
        else:
            self.widgets["model"].layout.display = "none"
            self.widgets["model"].value = change.new

    @contextmanager
    def _hold(self) -> Iterator[None]:
        """A list that gets new options falls back to its first, which nobody has chosen."""
        held, self._held = self._held, True
        try:
            yield
        finally:
            self._held = held


def _text(value: object) -> str:
    return "" if value is None else str(value)
