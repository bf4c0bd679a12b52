"""The settings as a panel of ipywidgets, linked both ways: moving a slider sets the trait, and the reverse.

Only this module imports ipywidgets. Ranges and help texts are those of the traits.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
from IPython.core.interactiveshell import InteractiveShell
from traitlets.utils.bunch import Bunch

import jupyter_sc2.kernel.show as show
from jupyter_sc2.errors import SC2Error, SettingsError
from jupyter_sc2.hardware import in_words
from jupyter_sc2.kernel import numbers, saved
from jupyter_sc2.models import cards
from jupyter_sc2.plan import Row
from jupyter_sc2.session import Session, Status
from jupyter_sc2.settings import ENGINES, PRECISIONS, SC2
from jupyter_sc2.usage import Usage

LABEL = {"description_width": "7.5em"}
WIDE = {"width": "auto"}
# Seconds between two looks at the statistics' file.
LOOK = 5.0


class Panel:
    """One panel; `widget` is what is displayed. It lives as long as the kernel, or until `close`."""

    def __init__(
        self, shell: InteractiveShell, settings: SC2, session: Session, usage: Usage
    ) -> None:
        self.shell = shell
        self.settings = settings
        self.session = session
        self.usage = usage
        self._relabelling = False
        self._planned: tuple[str, str] | None = None
        self._looked = 0.0
        self.fields = self._make_fields()
        self.state = widgets.Label()
        self.progress = widgets.FloatProgress(min=0.0, max=1.0, layout=WIDE)
        self.refusal = widgets.Label(layout={"display": "none"})
        self.refusal.style.text_color = "#d32f2f"
        for label in (self.state, self.refusal):
            label.add_class("jp-sc2-Panel-words")
        self.load = _button("Load", "Load the model now")
        self.unload = _button("Unload", "Give the model's memory back")
        self.reset = _button("Defaults", "Set everything back to the defaults, in this kernel")
        self.save = _button("Save for good", "New kernels start with these settings, too")
        self.forget = _button("Forget saved", "New kernels start with the defaults again")
        self.latency = widgets.HTML()
        self.stats = widgets.HTML()
        self.forget_stats = _button("Reset the numbers", "Forget what was counted")
        self.widget = widgets.VBox(
            [
                self.state,
                self.progress,
                self.refusal,
                *(self.fields[name] for name in ("model", "engine", "precision")),
                _row(self.load, self.unload),
                *(self.fields[name] for name in self.fields if name not in MODEL),
                _row(self.reset, self.save, self.forget),
                self.latency,
                self.stats,
                self.forget_stats,
            ],
            layout={"min_width": "18em", "max_width": "44em"},
        )
        # ipykernel 7.4 sends the next message of a widget to where the parent of the last push came from, so
        # a push has to go out in the context of what the front end did last.
        self._context = contextvars.copy_context()
        for name, field in self.fields.items():
            field.observe(self._moved, "value")
            settings.observe(self._set, name)
        self._on(self.load, lambda: session.load(settings.load_options()))
        self._on(self.unload, session.unload)
        self._on(self.reset, self._reset)
        self._on(self.save, lambda: self._say(f"Kept in {saved.save(shell, settings)}."))
        self._on(
            self.forget,
            lambda: self._say(f"New kernels start with the defaults: {saved.forget(shell)}."),
        )
        self._on(self.forget_stats, self._forget_stats)
        self._show(session.status)
        self._unsubscribe = session.subscribe(
            lambda status: self._context.copy().run(self._show, status)
        )

    def close(self) -> None:
        self._unsubscribe()
        for name in self.fields:
            self.settings.unobserve(self._set, name)
        self.widget.close()

    def _make_fields(self) -> dict[str, widgets.Widget]:
        settings, traits = self.settings, SC2.settings()

        def options(name: str, label: str) -> dict[str, Any]:
            return {
                "value": getattr(settings, name),
                "description": label,
                "tooltip": traits[name].help,
                "style": LABEL,
                "layout": WIDE,
            }

        def slider(name: str, label: str, **more: Any) -> widgets.Widget:
            kind = widgets.FloatSlider if isinstance(traits[name].min, float) else widgets.IntSlider
            limits = {"min": traits[name].min, "max": traits[name].max}
            return kind(continuous_update=False, **limits, **more, **options(name, label))

        # A combobox tells of each letter typed, unless asked to wait for Enter or Tab.
        names = sorted({*cards(), settings.model})
        return {
            "model": widgets.Combobox(
                options=names, continuous_update=False, **options("model", "Model")
            ),
            "engine": widgets.Dropdown(options=ENGINES, **options("engine", "Engine")),
            "precision": widgets.Dropdown(options=PRECISIONS, **options("precision", "Precision")),
            "max_tokens": slider("max_tokens", "Max tokens"),
            "temperature": slider("temperature", "Temperature", step=0.05),
            "top_k": slider("top_k", "Top k"),
            "top_p": slider("top_p", "Top p", step=0.01),
            "context_tokens": slider("context_tokens", "Context", step=128),
            "enabled": widgets.Checkbox(**options("enabled", "Ghost text")),
            "statistics": widgets.Checkbox(**options("statistics", "Count")),
        }

    # From the widgets to the settings and back

    def _moved(self, change: Bunch) -> None:
        """A widget has a new value: it becomes the setting, or the widget goes back to what is set."""
        self._context = contextvars.copy_context()
        name = next(name for name, field in self.fields.items() if field is change.owner)
        if self._relabelling or change.new == getattr(self.settings, name):
            return
        try:
            self.settings.set(name, change.new)
        except SettingsError as error:
            change.owner.value = getattr(self.settings, name)
            self._say(str(error))
        else:
            self._say("")

    def _set(self, change: Bunch) -> None:
        self.fields[change.name].value = change.new
        if change.name in MODEL:
            self._plan_soon()

    def _on(self, button: widgets.Button, act: Callable[[], object]) -> None:
        def click(_: object) -> None:
            self._context = contextvars.copy_context()
            try:
                act()
            except SC2Error as error:
                self._say(str(error))

        button.on_click(click)

    def _reset(self) -> None:
        for name in self.fields:
            self.settings.set(name, SC2.settings()[name].default_value)

    def _forget_stats(self) -> None:
        self.usage.reset()
        self._looked = 0.0
        self._show_numbers()

    # What is shown; called on the session's thread, too: it sets widgets and prints nothing

    def _say(self, words: str) -> None:
        self.refusal.value = words
        self.refusal.layout.display = "" if words else "none"

    def _show(self, status: Status) -> None:
        self.state.value = show.status(status, self.settings).partition("\n")[0]
        if status.message:
            self._say(status.message)
        self.progress.layout.display = "none" if status.progress is None else ""
        self.progress.value = status.progress or 0.0
        self.unload.disabled = status.state in ("unloaded", "error")
        if status.state == "ready":
            self._plan_soon()
        self._show_numbers()

    def _show_numbers(self) -> None:
        recent = list(self.usage.recent)
        self.latency.value = (
            f"<tt>{numbers.spark(recent)}</tt> first text after {recent[-1]:.0f} ms"
            if recent
            else ""
        )
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            events = self.usage.events()
            rows = "<br>".join(numbers.escaped(line) for line in numbers.lines(events)[:4])
            plot = f"<br>{numbers.plot(numbers.per_day(events))}" if events else ""
            self.stats.value = f'<div style="line-height: 1.4">{rows}{plot}</div>'

    # What each precision would take

    def _plan_soon(self) -> None:
        """Looks at the machine on a thread of its own, and only where torch, which looks, is there already."""
        wanted = (self.settings.model, self.settings.engine)
        if wanted != self._planned and "torch" in sys.modules and not self.settings.server:
            self._planned = wanted
            context = self._context.copy()
            threading.Thread(target=context.run, args=(self._plan,), daemon=True).start()

    def _plan(self) -> None:
        from jupyter_sc2.engines.weights import plan_for

        options = replace(self.settings.load_options(), precision="auto")
        tokens = self.settings.context_tokens + self.settings.max_tokens
        try:
            _, _, rows = plan_for(options, tokens=tokens)
        except SC2Error:
            return  # a model whose shape is known when it is loaded
        labels = {row.precision: _memory(row) for row in rows}
        chosen = next((row.precision for row in rows if row.chosen), "")
        with self._labelling():
            field = self.fields["precision"]
            field.options = [
                (f"auto: {chosen}" if name == "auto" and chosen else labels.get(name, name), name)
                for name in PRECISIONS
            ]
            field.value = self.settings.precision

    @contextmanager
    def _labelling(self) -> Iterator[None]:
        """A list that gets new options falls back to its first, which nobody has chosen."""
        self._relabelling = True
        try:
            yield
        finally:
            self._relabelling = False


MODEL = ("model", "engine", "precision")


def _button(label: str, tooltip: str) -> widgets.Button:
    return widgets.Button(
        description=label, tooltip=tooltip, layout={"width": "auto", "flex": "0 0 auto"}
    )


def _row(*buttons: widgets.Button) -> widgets.HBox:
    return widgets.HBox(list(buttons), layout={"flex_flow": "row wrap"})


def _memory(row: Row) -> str:
    fits = {True: "", False: ", does not fit", None: ""}[row.fits]
    return f"{row.precision}: {in_words(row.memory_bytes)} of memory, {row.speed}{fits}"
