"""One widget per setting, linked both ways: moving a slider sets the trait, and the reverse.

Ranges and choices come from the traits, words from `labels`. A setting without words gets a widget, too.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
from traitlets import Bool, Enum, Float, Int
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import SC2Error, SettingsError
from jupyter_sc2.kernel.panel.labels import CHOICES, HINTS, label
from jupyter_sc2.models.cards import cards, find_card
from jupyter_sc2.settings import SC2

# For administrators only.
HIDDEN = ("allowed",)
SLIDER_STEPS = {"max_tokens": 8, "temperature": 0.05}
OTHER_MODEL = "Other…"
# What fits into a list in a sidebar of 250 pixels.
CLOSED_LIST_CHARACTERS = 28
# The slider of the confidence has a stop for each twentieth, and one for the model's default.
CONFIDENCE_STEPS = 20
DEFAULT = ""
LABEL_STYLE = {"description_width": "var(--jp-sc2-label-width, 6.5em)"}
FULL_WIDTH = {"width": "auto"}


class Fields:
    """The widgets by the names of their settings, in the settings' order."""

    def __init__(self, settings: SC2, on_error: Callable[[str], None]) -> None:
        """`on_error` is called with a message for a value that is not valid, and with "" after a valid one."""
        self._settings = settings
        self._on_error = on_error
        # Only one thread at a time gives a list new options: ipywidgets compares them in several steps.
        self._lock, self._updating = threading.RLock(), False
        self._details: Mapping[str, str] = {}
        self.context = contextvars.copy_context()
        names = [name for name in SC2.settings() if name not in HIDDEN]
        self.widgets = {name: self._make(name) for name in names}
        self.models = widgets.Dropdown(
            description="Model",
            tooltip="Sizes and speeds are estimates for this machine.",
            style=LABEL_STYLE,
            layout=FULL_WIDTH,
        )
        for wide in (self.models, self.widgets["precision"]):
            wide.add_class("jp-sc2-mod-wide")
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
        """Changes the labels of some of a setting's choices."""
        widget, values = self.widgets[name], SC2.settings()[name].values
        with self._while_updating(), widget.hold_sync():
            widget.options = [(labels.get(v, text), v) for text, v in _named(name, values)]
            widget.value = getattr(self._settings, name)

    def _make(self, name: str) -> widgets.Widget:
        trait, value = SC2.settings()[name], getattr(self._settings, name)
        low, high = getattr(trait, "min", None), getattr(trait, "max", None)
        options: dict[str, Any] = {
            "description": label(name).text,
            "tooltip": label(name).help,
            "layout": FULL_WIDTH,
        }
        if isinstance(trait, Bool):
            return widgets.Checkbox(value=value, indent=False, **options)
        options["style"] = LABEL_STYLE
        if isinstance(trait, Enum):
            choices = _named(name, trait.values or ())
            return widgets.Dropdown(options=choices, value=value, **options)
        options["continuous_update"] = False
        if name == "confidence":
            stops = confidence_stops(value, None)
            return widgets.SelectionSlider(options=stops, value=_or_default(value), **options)
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
        if isinstance(change.owner, widgets.SelectionSlider):
            value = None if value == DEFAULT else value
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
                self.relabel(change.name, {})
            if isinstance(widget, widgets.SelectionSlider):
                self._update_stops()
            with self._while_updating():
                widget.value = self._shown_value(change.name)
            if change.name == "model":
                self._update_models()

        self.in_context(show)

    def _shown_value(self, name: str) -> Any:
        """The value that the widget of a setting shows."""
        value = getattr(self._settings, name)
        if isinstance(self.widgets[name], widgets.SelectionSlider):
            return _or_default(value)
        return _text(value) if isinstance(self.widgets[name], widgets.Text) else value

    # The model: a known one, or any other by name

    def describe_models(self, details: Mapping[str, str]) -> None:
        """Shows these details behind the names of known models."""
        self._details = details
        self._update_models(typing=self.models.value == OTHER_MODEL)

    def _update_models(self, typing: bool = False) -> None:
        """`typing` keeps the field open in which another model is typed."""
        known, current = cards(), self._settings.model
        names = [*known, *([] if current in known else [current])]
        labels = [(self._described(name, current), name) for name in names]
        with self._while_updating(), self.models.hold_sync():
            self.models.options = [*labels, (OTHER_MODEL, OTHER_MODEL)]
            self.models.value = OTHER_MODEL if typing else current
        if not typing:
            self.widgets["model"].layout.display = "none"
        self._update_stops()

    def shows_details(self, name: str) -> bool:
        """Whether the closed list has room for a model's details behind its name."""
        return len(self._with_details(name)) <= CLOSED_LIST_CHARACTERS

    def _with_details(self, name: str) -> str:
        return ", ".join(filter(None, (name, self._details.get(name))))

    def _described(self, name: str, current: str) -> str:
        return (
            name if name == current and not self.shows_details(name) else self._with_details(name)
        )

    def _update_stops(self) -> None:
        """Puts the stop for the model's default where the model's threshold is."""
        widget, value = self.widgets["confidence"], self._settings.confidence
        try:
            threshold = (
                None if self._settings.server else find_card(self._settings.model).confidence
            )
        except SC2Error:
            threshold = None
        with self._while_updating(), widget.hold_sync():
            widget.options = confidence_stops(value, threshold)
            widget.value = _or_default(value)

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


def confidence_stops(value: float | None, threshold: float | None) -> list[tuple[str, float | str]]:
    """The stops of the slider from 1, few sure suggestions, to 0, all; `value` is one of them.

    The model's default is where its threshold is, or in the middle if that is not known.
    """
    stops = {step / CONFIDENCE_STEPS for step in range(CONFIDENCE_STEPS + 1)}
    if value is not None:
        stops.add(value)
    default = 0.5 if threshold is None else threshold
    above = [stop for stop in sorted(stops, reverse=True) if stop > default]
    below = [stop for stop in sorted(stops, reverse=True) if stop <= default]
    return [
        *((f"{stop:.0%}", stop) for stop in above),
        ("auto", DEFAULT),
        *((f"{stop:.0%}", stop) for stop in below),
    ]


def _named(name: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """The choices of a list, each with what it is called."""
    return [(CHOICES.get(name, {}).get(value, value), value) for value in values]


def _or_default(value: float | None) -> float | str:
    return DEFAULT if value is None else value


def _text(value: object) -> str:
    return "" if value is None else str(value)
