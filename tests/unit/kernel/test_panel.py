"""The panel and the settings follow each other."""

import sys
import threading
import time
from contextvars import ContextVar

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir

from jupyter_sc2.extension import settings_of
from jupyter_sc2.kernel.panel.fields import OTHER_MODEL
from jupyter_sc2.kernel.panel.panel import Panel
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.settings import PRECISIONS, SC2
from jupyter_sc2.types import CompletionRequest
from jupyter_sc2.usage import Usage


@pytest.fixture
def shell():
    return InteractiveShell()


@pytest.fixture
def settings(shell):
    return settings_of(shell)


@pytest.fixture
def usage(tmp_path):
    return Usage(lambda: True, tmp_path / "usage.sqlite")


@pytest.fixture
def panel(shell, settings, session, usage):
    return Panel(shell, settings, session, usage)


def wait(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_it_starts_with_what_is_set(shell, settings, session, usage):
    settings.temperature = 0.5
    panel = Panel(shell, settings, session, usage)
    values = {name: field.value for name, field in panel.fields.items()}
    named = {name: getattr(settings, name) for name in SC2.settings() if name != "allowed"}
    assert values == named | {"seed": "", "confidence": ""}


def test_every_setting_has_a_place_in_it_but_for_the_administrators(panel):
    def within(box):
        return [box, *(one for child in getattr(box, "children", ()) for one in within(child))]

    shown = within(panel.widget)
    assert set(panel.fields) == set(SC2.settings()) - {"allowed"}
    assert all(field in shown for field in panel.fields.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "owner/name"),
        ("engine", "llamacpp"),
        ("precision", "4bit"),
        ("max_tokens", 10),
        ("temperature", 1.5),
        ("mode", "manual"),
        ("after_enter", "off"),
        ("server", "http://127.0.0.1:8000"),
        ("threads", 2),
        ("offline", True),
        ("context_cells", False),
    ],
)
def test_a_widget_sets_the_setting_and_the_reverse(panel, settings, name, value):
    before = getattr(settings, name)
    panel.fields[name].value = value
    assert getattr(settings, name) == value
    setattr(settings, name, before)
    assert panel.fields[name].value == before


def test_an_engine_that_was_installed_after_the_panel_was_opened_is_shown(
    panel, settings, monkeypatch
):
    monkeypatch.setattr("jupyter_sc2.settings.registered", lambda group: {"mine": None})
    settings.set("engine", "mine")
    assert panel.fields["engine"].value == "mine"
    panel.fields["engine"].value = "auto"
    assert settings.engine == "auto"


def test_ranges_and_help_come_from_the_traits(panel):
    slider, trait = panel.fields["max_tokens"], SC2.settings()["max_tokens"]
    assert (slider.min, slider.max, slider.tooltip) == (trait.min, trait.max, trait.help)


def test_a_rejected_value_is_reported_and_reverted(panel, settings):
    panel.fields["model"].value = "nobody"
    assert panel.refusal.value.startswith(
        "model cannot be 'nobody': There is no model named 'nobody'."
    )
    assert panel.fields["model"].value == settings.model == "embedded"
    panel.fields["model"].value = "owner/name"
    assert panel.refusal.value == ""


def test_a_model_is_chosen_from_the_list_or_typed(panel, settings):
    typed = panel.fields["model"]
    assert typed.layout.display == "none"
    panel.form.models.value = OTHER_MODEL
    assert (typed.layout.display, settings.model) == ("", "embedded")
    typed.value = "owner/name"
    assert (settings.model, panel.form.models.value) == ("owner/name", "owner/name")
    panel.form.models.value = "starcoder2-3b"
    assert (settings.model, typed.layout.display) == ("starcoder2-3b", "none")
    assert "Licence of starcoder2-3b" in panel.note.value


def test_a_seed_is_a_number_or_left_empty(panel, settings):
    seed = panel.fields["seed"]
    seed.value = "7"
    assert settings.seed == 7
    seed.value = "many"
    assert (settings.seed, seed.value) == (7, "7")
    seed.value = ""
    assert settings.seed is None


def test_buttons_load_and_unload(panel, session, fake_engine):
    panel.load.click()
    wait(lambda: session.status.state == "ready")
    wait(lambda: panel.state.value == "ready: embedded (fake, fp32, 0.0 MB)")
    panel.unload.click()
    wait(lambda: fake_engine.closed and panel.state.value == "unloaded: embedded")


def test_progress_is_a_bar_that_is_hidden_when_nothing_loads(panel):
    panel._show(Status(state="downloading", model="m", progress=0.25))
    assert (panel.progress.value, panel.progress.layout.display) == (0.25, "")
    assert panel.state.value == "downloading: m, 25%"
    panel._show(Status(state="ready", model="m"))
    assert panel.progress.layout.display == "none"


def test_a_failed_load_says_why(panel):
    panel._show(Status(state="error", model="m", message="The disk is full."))
    assert (panel.state.value, panel.refusal.value) == ("error: m", "The disk is full.")
    panel._show(Status(state="ready", model="m"))
    assert panel.refusal.value == ""


def test_what_else_there_is_to_say_of_a_load_is_no_mistake_and_goes_with_it(panel):
    panel._show(Status(state="loading", model="m", message="The embedded model answers meanwhile."))
    assert (panel.message.value, panel.refusal.value) == (
        "The embedded model answers meanwhile.",
        "",
    )
    panel._show(Status(state="ready", model="m"))
    assert panel.message.layout.display == "none"


def test_the_state_is_shown_in_the_context_of_what_the_front_end_did_last(
    shell, settings, session, usage
):
    """ipykernel finds the parent of a message there, and so the cell and the subshell it belongs to."""
    parent = ContextVar("parent", default=None)
    parent.set("the panel's cell")
    panel = Panel(shell, settings, session, usage)
    parent.set("another cell")
    seen = []
    panel.state.observe(
        lambda change: seen.append((parent.get(), threading.current_thread().name)), "value"
    )
    session.load()
    wait(lambda: len(seen) >= 2)
    assert set(seen) == {("the panel's cell", "jupyter-sc2")}


def test_a_closed_panel_follows_nothing(panel, settings, session):
    panel.close()
    settings.temperature = 1.0
    session.load()
    session.wait_ready(2)
    assert panel.fields["temperature"].value == 0.0


def test_it_prints_nothing(panel, session, capfd):
    panel.load.click()
    wait(lambda: session.status.state == "ready")
    panel.fields["temperature"].value = 0.3
    assert capfd.readouterr() == ("", "")


def test_each_precision_shows_the_memory_it_needs(panel, settings, session):
    pytest.importorskip("torch")
    settings.model = "starcoder2-3b"
    panel._update_plan()
    labels = {value: label for label, value in panel.fields["precision"].options}
    assert "GB" in labels["4bit"]
    assert labels["auto"].startswith("auto: ") and "GB" in labels["auto"]
    assert settings.precision == panel.fields["precision"].value == "auto"


def test_two_threads_may_label_one_list_at_once(panel, settings):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failures, begin = [], threading.Barrier(4)

    def label(number: int) -> None:
        begin.wait()
        try:
            for count in range(30):
                names = {value: f"{value} {number} {count}" for value in PRECISIONS}
                panel.form.relabel("precision", names)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=label, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert failures == [] and settings.precision == "auto"
    panel.fields["precision"].value = "4bit"  # nothing is ignored afterwards
    assert settings.precision == "4bit"


def test_defaults_come_back_at_a_click(panel, settings):
    settings.temperature, settings.max_tokens = 1.0, 9
    panel.reset.click()
    assert (settings.temperature, settings.max_tokens, panel.fields["max_tokens"].value) == (
        0,
        64,
        64,
    )


def test_the_newest_latencies_are_a_line_of_blocks(panel, usage, session):
    for ms in (10.0, 80.0):
        usage.shown("a.ipynb", "1", 5, ms)
    panel._show(session.status)
    assert "▁" in panel.latency.value or "█" in panel.latency.value
    assert "80 ms" in panel.latency.value


def test_a_shell_without_a_profile_says_that_it_keeps_nothing(panel):
    panel.shell.profile_dir = None
    panel.save.click()
    assert "no profile" in panel.refusal.value


def test_saving_and_resetting_are_reported(shell, settings, session, usage, tmp_path):
    shell.profile_dir = ProfileDir(location=str(tmp_path / "profile"))
    told = []
    panel = Panel(shell, settings, session, usage, told.append)
    panel.save.click()
    panel.reset_saved.click()
    assert told == [True, False]


def test_each_source_shows_its_tokens(panel, session, shell, settings):
    shell.user_ns["heights"] = [1.5, 2.5]
    cells = [
        Cell(id="a", source="# Heights", cell_type="markdown"),
        Cell(id="b", source="heights = load()"),
    ]
    session.load()
    session.wait_ready(5)
    notebook = Notebook(tuple(cells))
    list(session.complete(CompletionRequest(text="x = heights.", offset=12, notebook=notebook)))
    panel._show_prompt_size()
    # A token of the scripted engine is a byte; cells end in an empty line, text is a comment.
    assert panel.fields["context_cells"].description == "Code cells above · 18 tokens"
    assert panel.fields["context_markdown"].description == "Markdown cells above · 13 tokens"
    assert " tokens, of at most 2048" in panel.prompt_size.value


def test_all_that_is_read_is_shown_at_a_click_and_hidden_at_the_next(panel, session):
    session.load()
    session.wait_ready(5)
    list(session.complete(CompletionRequest(text="x = <b>", offset=7)))
    panel.show_prompt.click()
    assert panel.prompt.layout.display == "" and "x = &lt;b" in panel.prompt.value
    panel.show_prompt.click()
    assert panel.prompt.layout.display == "none"


def test_the_numbers_are_looked_at_when_typing_rests(panel, session, usage, monkeypatch):
    monkeypatch.setattr("jupyter_sc2.kernel.panel.panel.REFRESH_DELAY_S", 0.05)
    usage.shown("a.ipynb", "1", 5, 10.0)
    panel._show(Status(state="ready", model="m"))
    wait(lambda: "shown 1" in panel.stats.value)
