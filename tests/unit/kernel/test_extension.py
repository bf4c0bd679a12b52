"""Loading, unloading, and settings that reach the session, in a shell without a kernel."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config

from jupyter_sc2 import extension
from jupyter_sc2.errors import ModelLoadError, SettingsError
from jupyter_sc2.extension import WhenIdle
from jupyter_sc2.kernel.panel.panel import Panel
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.settings import PRECISIONS
from jupyter_sc2.types import CompletionRequest
from tests.unit.kernel.test_channel import FakeComm
from tests.unit.pipeline.test_session import wait_until

QUIET = Config(HistoryManager={"enabled": False})


class Loads:
    """A `load_engine` that remembers what it was asked to load."""

    def __init__(self, engine):
        self.engine = engine
        self.asked = []
        self.offline = []

    def __call__(self, model, *, precision, offline, **_):
        self.asked.append((model, precision))
        self.offline.append(offline)
        return self.engine


@pytest.fixture
def loads(fake_engine):
    return Loads(fake_engine)


@pytest.fixture
def shell():
    shell = InteractiveShell(config=QUIET)
    yield shell
    extension.unload(shell)


@pytest.fixture
def running(shell, loads):
    extension.load(shell, load_engine=loads)
    return extension._running[shell]


def footprint(shell):
    """Everything in a shell that an extension may leave behind."""
    return (
        {kind: set(names) for kind, names in shell.magics_manager.magics.items()},
        set(shell.magics_manager.registry),
        [type(one).__name__ for one in shell.configurables],
        {name: len(callbacks) for name, callbacks in shell.events.callbacks.items()},
        set(shell.user_ns),
    )


def test_loading_prints_nothing_and_loads_no_model(running, loads, capfd):
    assert capfd.readouterr() == ("", "")
    assert loads.asked == []
    assert running.session.status.state == "unloaded"


def test_loading_imports_neither_torch_nor_numpy_nor_ipywidgets():
    code = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell as Shell; "
        "from jupyter_sc2.extension import load; load(Shell.instance()); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'ipywidgets', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_loading_twice_is_harmless(shell, running):
    before = footprint(shell)
    extension.load(shell)
    assert footprint(shell) == before
    assert extension._running[shell] is running


def test_unloading_undoes_everything(shell, loads):
    before = footprint(shell)
    extension.load(shell, load_engine=loads)
    assert footprint(shell) != before
    extension.unload(shell)
    assert footprint(shell) == before


def test_a_model_that_is_loaded_again_is_loaded_offline_if_that_was_set_meanwhile(running, loads):
    running.session.load()
    running.session.wait_ready(10)
    running.session.unload()
    running.settings.offline = True
    running.session.load()  # as the menu does it, with the options of before
    running.session.wait_ready(10)
    assert loads.offline == [False, True]


def test_unloading_what_is_not_loaded_is_harmless(shell):
    extension.unload(shell)


def test_unloading_brings_a_hidden_magic_back(shell, loads):
    shell.register_magic_function(len, "line", "complete")
    extension.load(shell, load_engine=loads)
    assert shell.find_line_magic("complete") is not len
    extension.unload(shell)
    assert shell.find_line_magic("complete") is len


def test_the_session_knows_while_a_cell_runs(shell, running):
    shell.user_ns["session"] = running.session
    shell.run_cell("during = session._scheduler.kernel_is_busy")
    assert (shell.user_ns["during"], running.session._scheduler.kernel_is_busy) == (True, False)


def test_a_cell_that_fails_has_ended_too(shell, running):
    shell.run_cell("1 / 0")
    assert not running.session._scheduler.kernel_is_busy


def test_config_sets_a_setting(shell, running):
    shell.run_cell("%config SC2.temperature = 0.2")
    assert running.settings.temperature == 0.2
    assert running.session.options.sampling.temperature == 0.2


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("SC2.temperature = 7", "temperature", 0.0),
        ("SC2.temperature = float('nan')", "temperature", 0.0),
        ("SC2.max_tokens = 0", "max_tokens", 64),
        ("SC2.precision = '3bit'", "precision", "auto"),
        ("SC2.model = 'nobody'", "model", "embedded"),
    ],
)
def test_config_refuses_a_bad_value_in_one_line_and_keeps_the_old(
    shell, running, caplog, line, name, value
):
    shell.run_cell(f"%config {line}")
    assert [len(record.getMessage().splitlines()) for record in caplog.records] == [1]
    assert getattr(running.settings, name) == value
    caplog.clear()
    shell.run_cell("%config SC2.top_k = 7")
    assert caplog.records == []
    assert running.settings.top_k == 7


def test_a_refused_value_does_not_come_back_at_the_next_load(shell, running, loads, capsys):
    shell.run_cell("%config SC2.precision = '3bit'")
    capsys.readouterr()
    extension.unload(shell)
    extension.load(shell, load_engine=loads)
    assert extension._running[shell].settings.precision == "auto"
    assert capsys.readouterr().err == (
        f"jupyter-sc2: precision cannot be '3bit': it must be one of {', '.join(PRECISIONS)}.\n"
    )


def test_the_config_file_counts(loads):
    shell = InteractiveShell(config=Config(SC2={"model": "owner/name", "max_tokens": 7}))
    extension.load(shell, load_engine=loads)
    settings = extension._running[shell].settings
    assert (settings.model, settings.max_tokens) == ("owner/name", 7)
    extension.unload(shell)


def test_a_new_model_is_loaded_once_whatever_changes_with_it(running, loads):
    running.configure({"model": "owner/name", "precision": "4bit"})
    running.session.wait_ready(2)
    assert loads.asked == [("owner/name", "4bit")]


def test_a_sampling_setting_loads_nothing(running, loads):
    running.configure({"temperature": 0.3, "max_tokens": 9})
    time.sleep(0.05)
    assert loads.asked == []
    assert running.session.options.sampling.max_tokens == 9


def test_a_servers_model_is_accepted_from_the_config_file_in_any_order(capfd):
    values = {"model": "my-own-coder", "server": "http://127.0.0.1:8000"}
    settings = extension.settings_of(InteractiveShell(config=Config(SC2=values)))
    assert {name: getattr(settings, name) for name in values} == values
    assert capfd.readouterr().err == ""


def test_a_config_that_is_not_a_table_is_reported_in_one_line(capfd):
    shell = InteractiveShell(config=Config({"SC2": 3}))
    assert extension.settings_of(shell).model == "embedded"
    err = capfd.readouterr().err
    assert err.startswith("jupyter-sc2: SC2 is 3 in a config file") and err.count("\n") == 1


def test_configure_sets_all_or_none(running):
    with pytest.raises(SettingsError, match="top_k cannot be -1"):
        running.configure({"temperature": 0.3, "top_k": -1})
    assert (running.settings.temperature, running.settings.top_k) == (0.0, 0)
    assert running.session.options.sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"heat": 1}, "There is no setting named 'heat'."),
        ({"temperature": None}, "temperature cannot be None: it must lie between 0.0 and 2.0."),
        ({"temperature": float("nan")}, "temperature cannot be nan"),
        ({"max_tokens": 10**30}, "max_tokens cannot be 1000000000000000000000000000000"),
        ({"model": "nobody"}, "There is no model named 'nobody'."),
        ({"precision": []}, "precision cannot be \\[\\]"),
    ],
)
def test_configure_refuses_in_one_line(running, values, line):
    with pytest.raises(SettingsError, match=line) as refusal:
        running.configure(values)
    assert "\n" not in str(refusal.value)


def test_turning_ghost_text_on_loads_the_model(running, loads):
    running.configure({"mode": "manual"})
    assert loads.asked == []
    running.configure({"mode": "automatic"})
    running.session.wait_ready(2)
    assert loads.asked == [("embedded", "auto")]


def test_off_completes_nothing_and_manual_what_is_asked_for(running):
    refusals = []
    for mode in ("automatic", "manual", "off"):
        running.configure({"mode": mode})
        refusals.append([running.refusal(trigger) for trigger in ("automatic", "invoke")])
    assert refusals == [[None, None], ["disabled", None], ["disabled", "disabled"]]


def test_a_source_that_is_switched_off_is_left_out_at_the_next_completion(running, fake_engine):
    notebook = Notebook((Cell(id="1", source="import numpy as np"),))
    request = CompletionRequest(text="x = ", offset=4, trigger="invoke", notebook=notebook)
    list(running.session.complete(request))
    running.settings.context_cells = False
    list(running.session.complete(request))
    assert ["numpy" in fake_engine.asked(index) for index in (-2, -1)] == [True, False]


def test_how_sure_the_model_has_to_be_counts_at_once(running, fake_engine):
    text = "def mean(xs):\n    return "
    request = CompletionRequest(text=text, offset=len(text))
    reasons = []
    fake_engine.logprob = lambda said: -0.01
    for least in (0.95, 0.2):
        running.settings.confidence = least
        fake_engine.answers = ["sum(xs)"]
        *_, last = running.session.complete(request)
        reasons.append(last.reason)
    assert reasons == ["low_confidence", None]


class Idle:
    def __init__(self, seconds):
        self.happened = 0
        self.shell = InteractiveShell(config=QUIET)
        self.watch = WhenIdle(self.shell, seconds, self.act)

    def act(self):
        self.happened += 1


def test_idleness_is_reported_once():
    idle = Idle(0.05)
    wait_until(lambda: idle.happened == 1)
    idle.shell.run_cell("1", store_history=False)
    time.sleep(0.1)
    assert idle.happened == 1


def test_a_running_cell_is_no_idleness():
    idle = Idle(0.2)
    idle.shell.run_cell("import time; time.sleep(0.4)")
    assert idle.happened == 0
    wait_until(lambda: idle.happened == 1)


def test_a_stopped_watch_reports_nothing():
    idle = Idle(0.05)
    idle.watch.stop()
    idle.watch.stop()
    time.sleep(0.1)
    assert idle.happened == 0


def test_a_shell_that_idles_loads_the_model(shell, loads):
    extension.load(shell, load_engine=loads, idle_seconds=0.05)
    wait_until(lambda: loads.asked == [("embedded", "auto")])


def test_a_shell_that_idles_with_ghost_text_off_loads_nothing(loads):
    shell = InteractiveShell(config=Config(SC2={"mode": "manual"}))
    extension.load(shell, load_engine=loads, idle_seconds=0.05)
    time.sleep(0.2)
    assert loads.asked == []
    extension.unload(shell)


def test_a_kernel_gets_a_channel_and_loses_it_again(shell, loads):
    manager = SimpleNamespace(
        targets={},
        comm_open=print,
        comm_msg=print,
        comm_close=print,
        register_target=lambda name, target: manager.targets.update({name: target}),
    )
    shell.kernel = SimpleNamespace(comm_manager=manager, control_handlers={})
    extension.load(shell, load_engine=loads)
    assert list(manager.targets) == ["jupyter_sc2"]
    assert list(shell.kernel.control_handlers) == ["comm_open", "comm_msg", "comm_close"]
    extension.unload(shell)
    assert (manager.targets, shell.kernel.control_handlers) == ({}, {})


def test_moving_a_slider_of_the_panel_changes_the_next_completion(running, fake_engine):
    panel = Panel(running.shell, running.settings, running.session, running.usage)
    request = CompletionRequest(text="x = ", offset=4, trigger="invoke")
    list(running.session.complete(request))
    panel.fields["temperature"].value = 0.9
    list(running.session.complete(request))
    assert [sampling.temperature for sampling in fake_engine.samplings] == [0.0, 0.9]


def test_front_ends_hear_of_each_setting_and_of_saving(loads, tmp_path):
    """Whoever sets it: code, the panel, or another front end."""
    profile = ProfileDir(location=str(tmp_path / "profile"))
    shell = InteractiveShell(config=QUIET, profile_dir=profile)
    manager = SimpleNamespace(
        targets={},
        comm_open=print,
        comm_msg=print,
        comm_close=print,
        register_target=lambda name, target: manager.targets.update({name: target}),
    )
    shell.kernel = SimpleNamespace(comm_manager=manager, control_handlers={})
    extension.load(shell, load_engine=loads)
    comm = FakeComm(extension._running[shell].channel)
    try:
        shell.run_cell("%config SC2.top_k = 7")
        assert comm.wait_for(type="settings")["settings"]["top_k"] == 7
        comm.say({"type": "hello", "settings": {"max_tokens": 9, "top_k": 8}})
        hello = comm.wait_for(type="hello")["settings"]
        assert (hello["max_tokens"], hello["top_k"]) == (9, 7)
        shell.run_cell("%sc2 save")
        assert comm.wait_for(type="settings", saved=True)["settings"]["top_k"] == 7
    finally:
        extension.unload(shell)


def test_there_is_one_panel_for_all_who_look(loads, monkeypatch):
    shell = InteractiveShell(config=QUIET)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    extension.load(shell, load_engine=loads)
    magics = extension._running[shell].magics
    shell.kernel = SimpleNamespace()
    for _ in range(2):
        magics.sc2("panel")
    assert shown[0] is shown[1]
    extension.unload(shell)


# A load that fails


class Missing(Loads):
    """Has the embedded model and no other."""

    def __call__(self, model, **options):
        engine = super().__call__(model, **options)
        if model != "embedded":
            raise ModelLoadError(f"{model} is not there.")
        return engine


def settings_now(running):
    return {name: getattr(running.settings, name) for name in extension.LOADED_BY}


def by_a_magic(running):
    with pytest.raises(UsageError, match="is not there"):
        running.shell.run_line_magic("sc2", "load ./missing --precision 4bit")


def by_a_magic_that_does_not_wait(running):
    running.shell.run_line_magic("sc2", "load ./missing --no-wait")


def by_a_setting(running):
    running.settings.set("model", "./missing")


def by_a_front_end(running):
    running.configure({"model": "./missing", "engine": "transformers"})


WAYS = [by_a_magic, by_a_magic_that_does_not_wait, by_a_setting, by_a_front_end]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loaded", [True, False], ids=["beside one that answers", "as the first"])
def test_a_model_that_cannot_be_loaded_does_not_stay_the_setting(
    shell, fake_engine, way, loaded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "missing").mkdir()
    loads = Missing(fake_engine)
    extension.load(shell, load_engine=loads)
    running = extension._running[shell]
    before = settings_now(running)
    if loaded:
        running.session.load()
        running.session.wait_ready(10)
    way(running)
    wait_until(lambda: "is not there" in (running.session.status.message or ""))
    wait_until(lambda: running.session.status.state == "ready")
    assert running.session.status.model == "embedded"
    # The fallback may be ready before the thread whose load has failed is done with the settings.
    wait_until(lambda: settings_now(running) == before)
    asked = len(loads.asked)
    running.session.load()  # as a front end asks for it
    running.session.wait_ready(10)
    assert [model for model, _ in loads.asked[asked:]] == ["embedded"]


def test_what_the_config_files_say_stays_though_it_cannot_be_loaded(shell, fake_engine, tmp_path):
    shell.config.SC2.model = str(tmp_path)
    extension.load(shell, load_engine=Missing(fake_engine))
    running = extension._running[shell]
    running.session.load()
    with pytest.raises(ModelLoadError):
        running.session.wait_ready(10)
    assert running.settings.model == str(tmp_path)


@pytest.mark.parametrize("kernel", [None, SimpleNamespace()], ids=["none", "without comms"])
def test_a_kernel_without_comms_prints_one_line(shell, loads, capfd, kernel):
    """xeus-python's shell has the attribute, and None in it."""
    shell.kernel = kernel
    extension.load(shell, load_engine=loads)
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "ghost text is not available in this kernel" in err
