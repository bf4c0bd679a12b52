"""The panel of ipywidgets: settings, prompt context and usage.

Only this module and `fields` import ipywidgets.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from dataclasses import replace

import ipywidgets as widgets
from IPython.core.interactiveshell import InteractiveShell
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel import settings_store
from jupyter_sc2.kernel.panel.fields import FULL_WIDTH, Fields
from jupyter_sc2.kernel.views import prompt as prompt_view
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views import text as text_view
from jupyter_sc2.models.cards import EMBEDDED, find_card
from jupyter_sc2.models.plan import PrecisionOption
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.prompt.sources import SETTINGS, tokens_by_setting
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.clock import sleep
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.settings import PRECISIONS, SC2
from jupyter_sc2.usage import Usage

# Delay after a completion before prompt size and usage are updated: they need not keep up with typing.
REFRESH_DELAY_S = 1.0

# Latencies in the sparkline: as many as fit into a sidebar.
MAX_LATENCIES = 24

BASIC_SETTINGS = ("mode", "after_enter", "max_tokens", "temperature")
CONTEXT_SETTINGS = tuple(name for name, setting in SETTINGS.items() if not setting.advanced)
MODEL_SETTINGS = ("model", "engine", "precision")


class Panel:
    """One panel, whose `widget` is displayed. It lives as long as the kernel, or until `close`."""

    def __init__(
        self,
        shell: InteractiveShell,
        settings: SC2,
        session: Session,
        usage: Usage,
        on_saved: Callable[[bool], None] = lambda saved: None,
    ) -> None:
        self.shell = shell
        self.settings = settings
        self.session = session
        self.usage = usage
        self._on_saved = on_saved
        self._planned: tuple[str, str] | None = None
        self._refresh_pending = self._failed = False
        self.state = widgets.Label()
        self.progress = widgets.FloatProgress(min=0.0, max=1.0, layout=FULL_WIDTH)
        # An error, the session's message, and the result of a click.
        self.refusal, self.message, self.note = (
            widgets.Label(layout={"display": "none"}) for _ in range(3)
        )
        self.refusal.add_class("jp-sc2-Panel-refusal")
        self.form = Fields(settings, self._show_error)
        self.fields = self.form.widgets
        self.load = _button("Load", "Load the model now")
        self.unload = _button("Unload", "Unload the model and free its memory")
        self.prompt_size = widgets.Label()
        self.show_prompt = _button("Show prompt", "Show the prompt of the last request")
        self.prompt = widgets.HTML(layout={"display": "none"})
        self.latency = widgets.HTML()
        self.stats = widgets.HTML()
        self.clear_usage = _button("Clear usage data", "Delete the counts and times")
        self.save = _button("Save as defaults", "New kernels start with these settings")
        self.reset_saved = _button(
            "Reset defaults", "New kernels start with the built-in defaults again"
        )
        self.reset = _button(
            "Reset settings", "Reset all settings of this kernel to the built-in defaults"
        )
        for label in (self.state, self.refusal, self.message, self.note, self.prompt_size):
            label.add_class("jp-sc2-Panel-words")
        self.widget = self._layout()
        self._on(self.load, lambda: session.load(settings.load_options()))
        self._on(self.unload, session.unload)
        self._on(self.show_prompt, self._toggle_prompt)
        self._on(self.reset, self.form.reset)
        self._on(self.save, lambda: self._save_settings(True))
        self._on(self.reset_saved, lambda: self._save_settings(False))
        self._on(self.clear_usage, self._clear_usage)
        settings.observe(self._setting_changed, list(SC2.settings()))
        self._show(session.status)
        self._show_numbers()
        self._show_prompt_size()
        self._unsubscribe = session.subscribe(
            lambda status: self.form.in_context(lambda: self._show(status))
        )

    def close(self) -> None:
        self._unsubscribe()
        self.form.close()
        self.settings.unobserve(self._setting_changed, list(SC2.settings()))
        self.widget.close()

    def _layout(self) -> widgets.VBox:
        """Frequently used widgets at the top, the others folded away."""
        fields, named = self.fields, {*BASIC_SETTINGS, *CONTEXT_SETTINGS, "model", "precision"}
        rest = [fields[name] for name in fields if name not in named]
        boxes = [field for field in rest if isinstance(field, widgets.Checkbox)]
        advanced = widgets.VBox(
            [
                *(field for field in rest if field not in boxes),
                *boxes,
                _row(self.reset_saved, self.clear_usage),
            ]
        )
        folded = widgets.Accordion([advanced], titles=("Advanced",), selected_index=None)
        panel = widgets.VBox(
            [
                self.state,
                self.progress,
                self.refusal,
                self.message,
                self.note,
                self.form.models,
                fields["model"],
                fields["precision"],
                _row(self.load, self.unload),
                *(fields[name] for name in BASIC_SETTINGS),
                _heading("Prompt context"),
                *(fields[name] for name in CONTEXT_SETTINGS),
                _row(self.prompt_size, self.show_prompt),
                self.prompt,
                _heading("Usage"),
                self.latency,
                self.stats,
                _row(self.save, self.reset),
                folded,
            ],
            layout={"max_width": "44em"},
        )
        panel.add_class("jp-sc2-Panel")
        return panel

    # Actions

    def _on(self, button: widgets.Button, act: Callable[[], object]) -> None:
        def click(_: object) -> None:
            self.form.context = contextvars.copy_context()
            try:
                act()
            except SC2Error as error:
                self._show_error(str(error))

        button.on_click(click)

    def _save_settings(self, for_good: bool) -> None:
        if for_good:
            self._show_note(
                f"Saved as defaults for new kernels: {settings_store.save(self.shell, self.settings)}"
            )
        else:
            settings_store.reset(self.shell)
            self._show_note("New kernels start with the built-in defaults again.")
        self._on_saved(for_good)

    def _clear_usage(self) -> None:
        self.usage.reset()
        self.session.reset_feedback()
        self._show_latency()
        self._show_numbers()

    def _toggle_prompt(self) -> None:
        shown = self.prompt.layout.display == ""
        self.prompt.layout.display = "none" if shown else ""
        self.show_prompt.description = "Show prompt" if shown else "Hide prompt"
        self._show_prompt_size()

    def _setting_changed(self, change: Bunch) -> None:
        if change.name in MODEL_SETTINGS:
            self._update_plan_soon()
        if change.name == "model" and not self.settings.server:
            card = find_card(change.new)
            self.form.in_context(
                lambda: self._show_note(text_view.licence(card) if card.hub_id else "")
            )
        if change.name.startswith("context_"):
            self._refresh_soon()

    # Display. Also called on other threads: sets widgets and prints nothing.

    def _show_error(self, words: str) -> None:
        _set_text(self.refusal, words)

    def _show_note(self, words: str) -> None:
        _set_text(self.note, words)

    def _show(self, status: Status) -> None:
        self.state.value = text_view.status(status, self.settings).partition("\n")[0]
        failed, message = status.state == "error", status.message or ""
        _set_text(self.message, "" if failed else message)
        if failed or self._failed:
            _set_text(self.refusal, message if failed else "")
        self._failed = failed
        self.progress.layout.display = "none" if status.progress is None else ""
        self.progress.value = status.progress or 0.0
        self.unload.disabled = status.state in ("unloaded", "error")
        self._show_latency()
        if status.state == "ready":
            self._update_plan_soon()
            self._refresh_soon()

    def _show_latency(self) -> None:
        recent = list(self.usage.recent)[-MAX_LATENCIES:]
        line = (
            f"<tt>{stats_view.sparkline(recent)}</tt> latest {recent[-1]:.0f} ms" if recent else ""
        )
        self.latency.value = _small(f"Time to first text<br>{line}") if line else ""

    def _show_numbers(self) -> None:
        events = self.usage.events()
        lines = stats_view.lines(events)[:4] if events or not self.usage.problem else []
        lines = [self.usage.problem, *lines] if self.usage.problem else lines
        rows = "<br>".join(map(stats_view.escaped, lines))
        plot = f"<br>{stats_view.plot(stats_view.per_day(events))}" if events else ""
        self.stats.value = _small(rows + plot)

    def _show_prompt_size(self) -> None:
        """Shows the tokens of each source in the prompt of the last request."""
        request = prompt_view.newest(self.session)
        explained = None if request is None else self.session.explain_prompt(request)
        if request is None or explained is None:
            self.prompt_size.value = "Counted at the first request."
            return
        pieces, plan = explained
        counts = tokens_by_setting((one.text, one.source, one.tokens) for one in pieces)
        for name in CONTEXT_SETTINGS:
            label = self.fields[name].description.partition(" · ")[0]
            tokens = counts.get(name, 0)
            self.fields[name].description = f"{label} · {tokens} tokens" if tokens else label
        total = sum(piece.tokens for piece in pieces)
        self.prompt_size.value = f"{total} tokens, of at most {self.settings.context_tokens}"
        if self.prompt.layout.display != "none":
            self.prompt.value = prompt_view.markup(
                pieces,
                plan,
                prompt_view.notes(self.shell, self.settings, pieces, plan, request),
            )

    def _refresh_soon(self) -> None:
        """Updates on a separate thread, as the calling one may have to generate the next text."""
        if not self._refresh_pending:
            self._refresh_pending = True
            run = self.form.context.copy().run
            background.Thread(run, self._refresh).start()

    def _refresh(self) -> None:
        sleep(REFRESH_DELAY_S)
        self._refresh_pending = False
        with silence, own_imports:
            self._show_prompt_size()
            self._show_numbers()

    # Memory needs per precision

    def _update_plan_soon(self) -> None:
        """Plans on a separate thread, unless torch would have to be imported to look at the machine."""
        wanted = (self.settings.model, self.settings.engine)
        can_look = wanted[0] == EMBEDDED.name or "torch" in sys.modules
        if wanted != self._planned and can_look and not self.settings.server:
            self._planned = wanted
            run = self.form.context.copy().run
            background.Thread(run, self._update_plan).start()

    def _update_plan(self) -> None:
        with silence, own_imports:
            self._show_plan()

    def _show_plan(self) -> None:
        from jupyter_sc2.models.files import plan_for

        options = replace(self.settings.load_options(), precision="auto")
        tokens = self.settings.context_tokens + self.settings.max_tokens
        try:
            _, _, rows = plan_for(options, tokens=tokens)
        except SC2Error:
            labels = {}  # the shape is known only when the model is loaded
        else:
            labels = {row.precision: _memory(row) for row in rows if row.precision in PRECISIONS}
            labels["auto"] = next(f"auto: {_memory(row)}" for row in rows if row.chosen)
        self.form.relabel("precision", labels)


def _set_text(label: widgets.Label, words: str) -> None:
    label.value = words
    label.layout.display = "" if words else "none"


def _button(label: str, tooltip: str) -> widgets.Button:
    return widgets.Button(
        description=label, tooltip=tooltip, layout={"width": "auto", "flex": "0 0 auto"}
    )


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(list(children), layout={"flex_flow": "row wrap"})


def _heading(words: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{words}</b>")


def _small(markup: str) -> str:
    return f'<div style="line-height: 1.4">{markup}</div>'


def _memory(row: PrecisionOption) -> str:
    fits = " (too large)" if row.fits is False else ""
    return f"{row.precision} · {format_bytes(row.memory_bytes)}{fits}"
