"""The panel and the settings follow each other."""

import html
import re
import sys
import threading
import time
from contextvars import ContextVar

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir

from jupyter_sc2.extension import settings_of
from jupyter_sc2.kernel.panel.fields import OTHER_MODEL
from jupyter_sc2.kernel.panel.labels import MAX_TEXT, label
from jupyter_sc2.kernel.panel.panel import Panel
from jupyter_sc2.models.cards import find_card
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.session import Session
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


def text(widget):
    """What a widget of HTML says."""
    return html.unescape(re.sub(r"<[^>]*>", " ", widget.value)).strip()


def badge(panel):
    return re.search(r'role="status">([^<]*)<', panel.state.value)[1]


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


def test_ranges_come_from_the_traits(panel):
    slider, trait = panel.fields["max_tokens"], SC2.settings()["max_tokens"]
    assert (slider.min, slider.max) == (trait.min, trait.max)


def test_a_rejected_value_is_reported_and_reverted(panel, settings):
    panel.fields["model"].value = "nobody"
    assert text(panel.refusal).startswith(
        "model cannot be 'nobody': There is no model named 'nobody'."
    )
    assert panel.fields["model"].value == settings.model == "embedded"
    panel.fields["model"].value = "owner/name"
    assert text(panel.refusal) == ""


def test_a_model_is_chosen_from_the_list_or_typed(panel, settings):
    typed = panel.fields["model"]
    assert typed.layout.display == "none"
    panel.form.models.value = OTHER_MODEL
    assert (typed.layout.display, settings.model) == ("", "embedded")
    typed.value = "owner/name"
    assert (settings.model, panel.form.models.value) == ("owner/name", "owner/name")
    panel.form.models.value = "starcoder2-3b"
    assert (settings.model, typed.layout.display) == ("starcoder2-3b", "none")
    assert text(panel.licence).startswith("Licence: BigCode OpenRAIL-M")
    assert "<details open>" in panel.licence.value and "Attachment A" in text(panel.licence)


def test_a_seed_is_a_number_or_left_empty(panel, settings):
    seed = panel.fields["seed"]
    seed.value = "7"
    assert settings.seed == 7
    seed.value = "many"
    assert (settings.seed, seed.value) == (7, "7")
    seed.value = ""
    assert settings.seed is None


def test_one_button_loads_and_unloads(panel, session, fake_engine):
    assert (panel.load.description, badge(panel)) == ("Load", "Not loaded")
    panel.load.click()
    wait(lambda: badge(panel) == "Ready")
    assert "embedded · fake · fp32 · 0.0 MB" in text(panel.state)
    assert panel.load.description == "Unload"
    panel.load.click()
    wait(lambda: fake_engine.closed and badge(panel) == "Not loaded")
    assert panel.load.description == "Load"


def test_a_load_has_a_progress_bar_and_can_be_cancelled(panel):
    panel._show(Status(state="downloading", model="m", progress=0.25))
    assert '<progress max="1" value="0.250"' in panel.state.value
    assert (badge(panel), panel.load.description) == ("Downloading 25%", "Cancel loading")
    panel._show(Status(state="loading", model="m"))
    assert '<progress max="1" aria-label="Loading"' in panel.state.value
    panel._show(Status(state="ready", model="m"))
    assert "<progress" not in panel.state.value


def test_what_a_user_names_is_no_markup_in_the_header(panel):
    panel._show(Status(state="error", model="<b>m</b>", message="<i>no</i> & never"))
    assert "<b>" not in panel.state.value and "<i>" not in panel.refusal.value
    assert text(panel.refusal) == "<i>no</i> & never"


def test_a_failed_load_says_why(panel):
    panel._show(Status(state="error", model="m", message="The disk is full."))
    assert (badge(panel), text(panel.refusal)) == ("Error", "The disk is full.")
    assert 'role="alert"' in panel.refusal.value
    panel._show(Status(state="ready", model="m"))
    assert text(panel.refusal) == ""


def test_what_else_there_is_to_say_of_a_load_is_no_mistake_and_goes_with_it(panel):
    panel._show(Status(state="loading", model="m", message="The embedded model answers meanwhile."))
    assert (text(panel.message), text(panel.refusal)) == (
        "The embedded model answers meanwhile.",
        "",
    )
    panel._show(Status(state="ready", model="m"))
    assert panel.message.layout.display == "none"


def test_a_kernel_without_usage_data_shows_no_chart(panel):
    assert panel.chart.value == "" and "0 of 0 shown" in text(panel.tiles)


def test_the_usage_is_reset_at_a_click(panel, usage):
    usage.shown("a.ipynb", "1", 5, 10.0)
    usage.accepted("a.ipynb", "1", "all", 5)
    panel._show_usage()
    assert "100% accepted" in re.sub(r"\s+", " ", text(panel.tiles)) and "<svg" in panel.chart.value
    panel.reset_usage.click()
    assert "0 of 0 shown" in text(panel.tiles) and panel.chart.value == ""


def test_the_panel_says_that_statistics_are_off(panel, settings):
    settings.statistics = False
    panel._show_usage()
    assert "Usage statistics are switched off." in text(panel.details)


def test_the_confidence_goes_from_few_sure_suggestions_to_more(panel, settings):
    slider = panel.fields["confidence"]
    values = [value for _, value in slider.options if value != ""]
    assert (values[0], values[-1]) == (1.0, 0.0) and values == sorted(values, reverse=True)
    slider.value = values[0]
    assert settings.confidence == 1.0
    slider.value = ""
    assert settings.confidence is None


@pytest.mark.parametrize("value", [0.0, 0.333, 0.5, 1.0])
def test_any_confidence_has_a_stop(panel, settings, value):
    settings.confidence = value
    assert panel.fields["confidence"].value == value
    settings.confidence = None
    assert panel.fields["confidence"].value == ""


def test_the_models_default_confidence_is_where_its_threshold_is(panel, settings):
    options = [value for _, value in panel.fields["confidence"].options]
    place = options.index("")
    threshold = find_card(settings.model).confidence
    assert options[place - 1] > threshold >= options[place + 1]


def test_each_setting_has_words_of_at_most_sixty_characters(panel):
    for name, field in panel.fields.items():
        words = label(name)
        assert 0 < len(words.text) <= 32 and 0 < len(words.help) <= MAX_TEXT, name
        assert field.tooltip == words.help


def test_a_list_of_models_tells_speed_and_memory(panel):
    panel._update_plan()
    labels = {value: label for label, value in panel.form.models.options}
    assert re.fullmatch(r"starcoder2-3b, [\d.]+ s/line, [\d.]+ GB", labels["starcoder2-3b"])


def test_what_a_model_needs_stands_below_the_list_where_its_name_leaves_no_room(panel, settings):
    panel._update_plan()
    assert panel.model_facts.value == ""
    settings.model = "deepseek-coder-6.7b"
    panel._update_plan()
    assert re.search(
        r"6.7B parameters · about [\d.]+ s a line · [\d.]+ GB of memory", text(panel.model_facts)
    )
    labels = {value: label for label, value in panel.form.models.options}
    assert labels["deepseek-coder-6.7b"] == "deepseek-coder-6.7b"


def test_typing_another_model_is_not_ended_by_a_plan(panel):
    panel.form.models.value = OTHER_MODEL
    panel._update_plan()
    assert panel.form.models.value == OTHER_MODEL
    assert panel.fields["model"].layout.display == ""


def test_a_servers_model_has_no_licence_here(panel, settings):
    settings.server = "http://127.0.0.1:8000"
    settings.model = "whatever"
    assert panel.licence.value == ""


def test_advanced_settings_are_folded_until_a_click(panel):
    folded = panel.advanced_group
    assert folded.layout.display == "none"
    panel.advanced.click()
    assert folded.layout.display == ""
    panel.advanced.click()
    assert folded.layout.display == "none"


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
    assert labels["auto"].startswith("Automatic: ") and "GB" in labels["auto"]
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
    panel._show_usage()
    assert "Latest waits ▁█ 0.08 s" in text(panel.details)


def test_a_shell_without_a_profile_says_that_it_keeps_nothing(panel):
    panel.shell.profile_dir = None
    panel.save.click()
    assert "no profile" in text(panel.refusal)


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
    assert text(panel.counts["context_cells"]) == "18"
    assert text(panel.counts["context_markdown"]) == "13"
    assert re.search(r"\d+ of 2,048 tokens$", text(panel.tokens))
    total = int(re.search(r"(\d+) of", text(panel.tokens))[1])
    parts = re.findall(r'data-source="(\w+)" style="flex-grow: (\d+)"', panel.tokens.value)
    assert sum(int(count) for _, count in parts) == total and ("context_cells", "18") in parts


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
    wait(lambda: "0 of 1 shown" in text(panel.tiles))


def test_the_panel_says_how_accepts_have_moved_the_confidence(shell, settings, fake_engine, usage):
    feedback = Feedback()
    session = Session(
        load_engine=lambda model, **kwargs: fake_engine,
        options=CompletionOptions(confidence=0.4),
        feedback=feedback,
    )
    session.load()
    session.wait_ready(5)
    before = Panel(shell, settings, session, usage)
    for _ in range(5):
        feedback.accepted(fake_engine.card.name)
    after = Panel(shell, settings, session, usage)
    session.close()
    assert (text(before.adjusted), text(after.adjusted)) == (
        "",
        "Learned from what you accept: 35%.",
    )
