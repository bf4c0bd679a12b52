"""The panel of ipywidgets: settings, prompt context and usage.

Only this package imports ipywidgets.
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
from jupyter_sc2.kernel.panel import layout, markup
from jupyter_sc2.kernel.panel.fields import Fields
from jupyter_sc2.kernel.views import prompt as prompt_view
from jupyter_sc2.kernel.views import stats as stats_view
from jupyter_sc2.kernel.views.chart import bar_chart
from jupyter_sc2.models.cards import cards, find_card
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.prompt.sources import SETTINGS, tokens_by_setting
from jupyter_sc2.runtime import background, clock
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.settings import PRECISIONS, SC2
from jupyter_sc2.usage import Usage, summary

# Delay after a completion before prompt size and usage are updated: they need not keep up with typing.
REFRESH_DELAY_S = 1.0

# Latencies in the sparkline: as many as fit into a sidebar.
MAX_LATENCIES = 24

SUGGESTION_SETTINGS = ("mode", "after_enter", "max_tokens", "temperature", "confidence")
CONTEXT_SETTINGS = tuple(name for name, setting in SETTINGS.items() if not setting.advanced)
PLANNED_SETTINGS = ("model", "engine", "precision")


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
        self._planned: tuple[str, str, bool] | None = None
        self._refresh_pending = self._failed = False
        self.state = widgets.HTML()
        # An error, the session's message, the result of a click, and what accepts have changed.
        self.refusal, self.message, self.note, self.adjusted = (
            widgets.HTML(layout={"display": "none"}) for _ in range(4)
        )
        self.form = Fields(settings, self._show_error)
        self.fields = self.form.widgets
        self.load = layout.button("Load", "Load the model into memory")
        self.model_facts, self.licence = widgets.HTML(), widgets.HTML()
        self.tokens = widgets.HTML()
        self.counts = {name: widgets.HTML() for name in CONTEXT_SETTINGS}
        self.cell_count = widgets.HTML()
        self.show_prompt = layout.button("Show prompt", "What the model read at the last request")
        self.prompt = widgets.HTML(layout={"display": "none"})
        self.tiles = widgets.HTML()
        self.chart = widgets.HTML()
        self.details = widgets.HTML()
        self.reset_usage = layout.button("Reset usage", "Delete the counts and times")
        self.save = layout.button("Save as defaults", "New kernels start with these settings")
        self.reset_saved = layout.button(
            "Reset defaults", "New kernels start with the built-in settings"
        )
        self.reset = layout.button("Reset settings", "This kernel gets the built-in settings")
        self.advanced = layout.button("Advanced", "All other settings")
        self.widget = self._layout()
        self._on(self.load, self._toggle_model)
        self._on(self.show_prompt, self._toggle_prompt)
        self._on(self.reset, self.form.reset)
        self._on(self.save, lambda: self._save_settings(True))
        self._on(self.reset_saved, lambda: self._save_settings(False))
        self._on(self.reset_usage, self._reset_usage)
        settings.observe(self._setting_changed, list(SC2.settings()))
        self._show_licence(settings.model)
        self._show(session.status)
        self._show_usage()
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
        form, fields = self.form, self.fields
        named = {*SUGGESTION_SETTINGS, *CONTEXT_SETTINGS, "model", "precision"}
        self.advanced_group = layout.group(
            *(layout.explained(fields[name], name) for name in fields if name not in named),
            layout.row(self.reset_saved),
        )
        layout.fold(self.advanced, self.advanced_group)
        return layout.panel(
            layout.group(self.state, self.refusal, self.message, self.note),
            layout.section(
                "Model",
                form.models,
                fields["model"],
                self.model_facts,
                fields["precision"],
                self.licence,
                layout.row(self.load),
            ),
            layout.section(
                "Suggestions",
                *(fields[name] for name in SUGGESTION_SETTINGS),
                layout.slider_ends("fewer, surer", "more"),
                self.adjusted,
            ),
            layout.section(
                "Context",
                self.tokens,
                *(layout.source(name, fields[name], self.counts[name]) for name in self.counts),
                layout.source(markup.OTHER, layout.fixed("This cell"), self.cell_count),
                layout.row(self.show_prompt),
                self.prompt,
            ),
            layout.section(
                "Usage", self.tiles, self.chart, self.details, layout.row(self.reset_usage)
            ),
            layout.section("", layout.row(self.save, self.reset)),
            layout.section("", self.advanced, self.advanced_group),
        )

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

    def _reset_usage(self) -> None:
        self.usage.reset()
        self.session.reset_feedback()
        self._show_usage()

    def _toggle_model(self) -> None:
        if self.session.status.state in ("unloaded", "error"):
            self.session.load(self.settings.load_options())
        else:
            self.session.unload()

    def _toggle_prompt(self) -> None:
        shown = self.prompt.layout.display == ""
        self.prompt.layout.display = "none" if shown else ""
        self.show_prompt.description = "Show prompt" if shown else "Hide prompt"
        self._show_prompt_size()

    def _setting_changed(self, change: Bunch) -> None:
        if change.name in PLANNED_SETTINGS:
            self._update_plan_soon()
        if change.name in ("model", "server"):
            self.form.in_context(lambda: self._show_licence(self.settings.model))
        if change.name.startswith("context_"):
            self._refresh_soon()

    # Display. Also called on other threads: sets widgets and prints nothing.

    def _show_error(self, words: str) -> None:
        layout.set_line(self.refusal, words, "alert")

    def _show_note(self, words: str) -> None:
        layout.set_line(self.note, words)

    def _show(self, status: Status) -> None:
        self.state.value = markup.header(status, self.settings.model)
        failed, message = status.state == "error", status.message or ""
        layout.set_line(self.message, "" if failed else message)
        if failed or self._failed:
            self._show_error(message if failed else "")
        self._failed = failed
        loads = status.state in ("loading", "downloading")
        unloaded = status.state in ("unloaded", "error")
        self.load.description = "Load" if unloaded else "Cancel loading" if loads else "Unload"
        self.load.tooltip = (
            "Load the model into memory" if unloaded else "Free the memory of the model"
        )
        if status.state == "ready":
            self._update_plan_soon()
            self._refresh_soon()

    def _show_licence(self, model: str) -> None:
        """A server's models and their licences are not known here."""
        self.licence.value = "" if self.settings.server else markup.licence(find_card(model))

    def _show_usage(self) -> None:
        adjusted = self.session.adjusted_confidence()
        words = "" if adjusted is None else f"Learned from what you accept: {adjusted:.0%}."
        layout.set_line(self.adjusted, words)
        events, problem = self.usage.events(), self.usage.problem
        whole = summary(events)
        self.tiles.value = stats_view.tiles(whole) if events or not problem else ""
        self.chart.value = bar_chart(stats_view.per_day(events), clock.now()) if events else ""
        recent = list(self.usage.recent)[-MAX_LATENCIES:]
        found = [*([problem] if problem else []), *stats_view.details(whole, recent)]
        if not self.settings.statistics:
            found.insert(0, "Usage statistics are switched off.")
        self.details.value = "<br>".join(map(stats_view.escaped, found))

    def _show_prompt_size(self) -> None:
        """Shows the tokens of each source in the prompt of the last request."""
        request = prompt_view.newest(self.session)
        explained = None if request is None else self.session.explain_prompt(request)
        if request is None or explained is None:
            self.tokens.value = markup.token_bar({}, self.settings.context_tokens)
            return
        pieces, plan = explained
        counts = tokens_by_setting((one.text, one.source, one.tokens) for one in pieces)
        others = sum(count for name, count in counts.items() if name not in SETTINGS)
        by_setting = {name: counts.get(name, 0) for name in SETTINGS} | {markup.OTHER: others}
        self.tokens.value = markup.token_bar(by_setting, self.settings.context_tokens)
        for name, widget in self.counts.items():
            widget.value = markup.token_count(by_setting[name])
        self.cell_count.value = markup.token_count(others)
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
        clock.sleep(REFRESH_DELAY_S)
        self._refresh_pending = False
        with silence, own_imports:
            self._show_prompt_size()
            self._show_usage()

    # Memory and speed of the models and precisions

    def _update_plan_soon(self) -> None:
        """Plans on a separate thread."""
        # A GPU is seen only once torch is imported.
        wanted = (self.settings.model, self.settings.engine, "torch" in sys.modules)
        if wanted != self._planned and not self.settings.server:
            self._planned = wanted
            run = self.form.context.copy().run
            background.Thread(run, self._update_plan).start()

    def _update_plan(self) -> None:
        with silence, own_imports:
            self._show_plan()

    def _show_plan(self) -> None:
        from jupyter_sc2.models.files import plans_for

        options = replace(self.settings.load_options(), precision="auto")
        tokens = self.settings.context_tokens + self.settings.max_tokens
        plans = plans_for(options, (*cards(), options.model), tokens=tokens)
        rows = plans.get(options.model, [])  # its sizes may not be known yet
        labels = {row.precision: layout.memory(row) for row in rows if row.precision in PRECISIONS}
        for row in rows:
            if row.chosen:
                labels["auto"] = f"Automatic: {layout.memory(row)}"
        self.form.relabel("precision", labels)
        chosen = {name: next(row for row in rows if row.chosen) for name, rows in plans.items()}
        self.form.describe_models(
            {name: layout.model_details(find_card(name), row) for name, row in chosen.items()}
        )
        own = chosen.get(options.model)
        shown = own is None or (own.fits is not False and self.form.shows_details(options.model))
        self.model_facts.value = (
            "" if own is None or shown else markup.model_facts(find_card(options.model), own)
        )
