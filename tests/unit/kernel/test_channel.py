"""One message in, messages out: the wire protocol, without a kernel."""

import random
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.kernel.comm import protocol
from jupyter_sc2.kernel.comm.channel import COMM_MESSAGES, TARGET, Channel
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.source.languages import language_at, runs_here
from jupyter_sc2.types import CompletionRequest
from jupyter_sc2.usage import Usage
from tests.support.fake_engine import FakeEngine
from tests.unit.pipeline.test_session import wait_until


class FakeComm:
    """A comm as the front end sees it: `say` is what it sends, `heard` what it gets."""

    def __init__(self, channel, comm_id="comm", opening=None):
        self.comm_id = comm_id
        self.heard = []
        self.closed = False
        self._news = threading.Condition()
        channel.on_open(self, {"header": {}, "content": {"data": opening or {}}})

    def send(self, data):
        with self._news:
            self.heard.append(data)
            self._news.notify_all()

    def on_close(self, callback):
        self.on_close = lambda: callback({})

    def close(self):
        self.closed = True

    def say(self, data):
        self.handle_msg({"header": {}, "content": {"comm_id": self.comm_id, "data": data}})

    def wait_for(self, **fields):
        """The first message with these fields, in time."""

        def found():
            return [m for m in self.heard if fields.items() <= m.items()]

        with self._news:
            assert self._news.wait_for(found, 10), f"no {fields} in {self.heard}"
        return found()[0]

    def final(self, id):
        """The message that ends a request."""

        def found():
            return [m for m in self.heard if m.get("id") == id and is_final(m)]

        with self._news:
            assert self._news.wait_for(found, 10), f"{id} was not ended: {self.heard}"
        return found()[0]


def is_final(message):
    return message["type"] == "error" or message.get("finish_reason") is not None


class FakeSettings:
    def __init__(self):
        self.on = True
        self.may = True
        self.set = {}
        self.told = None

    def enabled(self):
        return self.on and self.may

    def refusal(self, trigger):
        if not self.may:
            return "not_allowed"
        return None if self.on or trigger == "invoke" else "disabled"

    def allowed(self):
        return self.may

    def configure(self, values):
        if "nonsense" in values:
            raise SettingsError("There is no setting named 'nonsense'.")
        self.set |= values

    def apply_lab_settings(self, values):
        self.told = dict(values)
        self.configure(values)

    def values(self):
        return self.set


@pytest.fixture
def settings():
    return FakeSettings()


@pytest.fixture
def channel(session, settings):
    channel = Channel(session, settings)
    yield channel
    channel.close()


@pytest.fixture
def comm(channel):
    return FakeComm(channel)


def complete(text="def mean(xs):\n    return ", id="1", **fields):
    return {
        "type": "complete",
        "id": id,
        "text": text,
        "offset": len(text),
        "trigger": "invoke",
    } | fields


def cells(*sources):
    return [
        {"id": f"c{n}", "cell_type": "code", "source": source} for n, source in enumerate(sources)
    ]


def test_hello_reports_protocol_version_channel_and_model(comm):
    comm.say({"type": "hello", "protocol": 1, "client": "test"})
    hello = comm.wait_for(type="hello")
    assert hello.pop("version")
    assert {"embedded", "starcoder2-3b"} <= set(hello.pop("models"))
    assert hello.pop("languages")
    assert hello == {
        "type": "hello",
        "protocol": 1,
        "channel": "shell",
        "model": "embedded",
        "engine": "",
        "precision": "",
        "state": "unloaded",
        "allowed": True,
        "settings": {},
    }


def test_a_wrong_entry_in_the_users_models_is_reported_once_and_hello_comes(
    channel, tmp_path, monkeypatch
):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / "jupyter_sc2_models.toml").write_text("[model.x]\nhubid = 'a/b'\n")
    first, second = FakeComm(channel, "first"), FakeComm(channel, "second")
    for front_end in (first, second):
        front_end.say({"type": "hello"})
        assert "starcoder2-3b" in front_end.wait_for(type="hello")["models"]
    assert "hubid is no key of a model" in first.wait_for(type="error")["message"]
    assert not [one for one in second.heard if one["type"] == "error"]


def test_hello_sends_the_language_below_each_cell_magic(comm):
    comm.say({"type": "hello"})
    languages = comm.wait_for(type="hello")["languages"]
    asked = {
        "julia": "julia",
        "cython": "cython",
        "css": "css",
        "bigquery": "sql",
        "bash": "bash",
        "!": "bash",
    }
    assert {name: languages["magics"].get(name) for name in asked} == asked
    assert "constructor" not in languages["magics"]
    assert languages["files"] == ["file", "writefile"]
    assert languages["endings"]["sh"] == "bash"
    assert "time" in languages["own"]


def test_the_table_in_hello_agrees_with_the_language_of_a_request(comm):
    comm.say({"type": "hello"})
    table = comm.wait_for(type="hello")["languages"]

    def below(magic: str) -> str:
        text = f"%%{magic}\nx"
        return language_at(CompletionRequest(text=text, offset=len(text)))

    assert all(below(name) == language for name, language in table["magics"].items())
    assert all(below(name) == "python" for name in table["own"])
    for name in table["files"]:
        assert all(
            below(f"{name} a.{ending}") == language for ending, language in table["endings"].items()
        )


def test_hello_brings_the_front_ends_settings_and_reports_the_kernels(comm, settings):
    comm.say({"type": "hello", "settings": {"temperature": 0.5}})
    assert settings.told == {"temperature": 0.5}
    assert comm.wait_for(type="hello")["settings"] == {"temperature": 0.5}


def test_a_refused_setting_is_reported_after_the_hello(comm):
    comm.say({"type": "hello", "settings": {"nonsense": 1}})
    assert [m["type"] for m in comm.heard if m["type"] != "status"] == ["hello", "error"]


def test_each_front_end_gets_the_settings_and_whether_they_were_saved(channel, comm, settings):
    settings.set = {"top_k": 3}
    channel.broadcast_settings()
    channel.broadcast_settings(True)
    assert comm.heard == [
        {"type": "settings", "settings": {"top_k": 3}},
        {"type": "settings", "settings": {"top_k": 3}, "saved": True},
    ]


def test_hello_on_the_control_thread_reports_the_control_channel(comm):
    thread = threading.Thread(target=comm.say, args=({"type": "hello"},), name="Control")
    thread.start()
    thread.join()
    assert comm.wait_for(type="hello")["channel"] == "control"


def test_hello_on_a_subshells_thread_reports_the_subshell(comm):
    thread = threading.Thread(target=comm.say, args=({"type": "hello"},), name="subshell-0")
    thread.start()
    thread.join()
    assert comm.wait_for(type="hello")["channel"] == "subshell"


def test_hello_loads_the_model(comm):
    comm.say({"type": "hello"})
    status = comm.wait_for(type="status", state="ready")
    assert 0 <= status.pop("seconds") < 5
    assert status == {
        "type": "status",
        "state": "ready",
        "model": "embedded",
        "engine": "fake",
        "precision": "fp32",
    }


class HeldLoad:
    """Loads until told to be done: imports, then reads weights."""

    def __init__(self) -> None:
        self.imported, self.read = threading.Event(), threading.Event()

    def __call__(self, model, progress, **_):
        self.imported.wait(5)
        progress("loading", 0.5)
        self.read.wait(5)
        return FakeEngine("total")


class Times:
    """What is counted as the time to the first text."""

    def __init__(self) -> None:
        self.times: list[float | None] = []

    def shown(self, notebook, request, characters, ms):
        self.times.append(ms)


@pytest.fixture
def held():
    return HeldLoad()


@pytest.fixture
def loading(held, settings):
    """A front end of a kernel in which the model is being loaded."""
    session = Session(load_engine=held)
    usage = Times()
    channel = Channel(session, settings, usage=usage)
    comm = FakeComm(channel)
    comm.usage = usage
    comm.say({"type": "hello"})
    yield comm
    held.imported.set()
    held.read.set()
    channel.close()
    session.close()


def test_a_load_reports_its_stage_and_seconds(loading, held):
    importing = loading.wait_for(type="status", stage="importing")
    held.imported.set()
    reading = loading.wait_for(type="status", stage="loading")
    assert (importing["state"], reading["state"]) == ("loading", "loading")
    assert 0 <= importing["seconds"] < reading["seconds"] < 5


def test_a_front_end_that_connects_during_a_load_gets_its_stage(loading):
    loading.wait_for(type="status", stage="importing")
    loading.say({"type": "hello"})
    later = loading.wait_for(type="hello", stage="importing")
    assert 0 <= later["seconds"] < 5


def test_a_front_end_that_connects_later_learns_that_code_leaves_the_machine(
    comm, session, fake_engine
):
    fake_engine.notice = "Code leaves this machine: it is sent to example.org."
    session.load()
    session.wait_ready(5)
    comm.say({"type": "hello"})
    assert comm.wait_for(type="hello")["message"] == fake_engine.notice


def test_a_request_that_waited_for_the_model_reports_for_how_long(loading, held):
    loading.say(complete())
    held.imported.set()
    held.read.set()
    stats = loading.final("1")["stats"]
    assert 0 < stats["load_ms"] <= stats["first_token_ms"]


def test_the_wait_for_a_load_is_not_counted_as_latency(loading, held):
    loading.say(complete())
    held.imported.set()
    held.read.set()
    wait_until(lambda: loading.usage.times)
    assert loading.usage.times == [None]


def test_a_request_to_a_model_that_is_there_has_waited_for_none(comm, fake_engine):
    fake_engine.answers = ["a", "b"]
    for id in ("1", "2"):
        comm.say(complete(f"x{id} = ", id=id))
        last = comm.final(id)
    assert "load_ms" not in last["stats"]


def test_hello_loads_nothing_while_ghost_text_is_off(comm, settings, session):
    settings.on = False
    comm.say({"type": "hello"})
    comm.wait_for(type="hello")
    time.sleep(0.05)
    assert session.status.state == "unloaded"


def test_nothing_is_loaded_or_completed_where_the_configuration_forbids_it(comm, settings, session):
    settings.may = False
    comm.say({"type": "hello"})
    assert comm.wait_for(type="hello")["allowed"] is False
    comm.say({"type": "configure", "settings": {}, "load": True})
    comm.say(complete(id="a"))
    assert comm.final("a")["reason"] == "not_allowed"
    assert session.status.state == "unloaded"


def test_a_front_end_loads_and_unloads_the_model(comm, session):
    comm.say({"type": "configure", "settings": {}, "load": True})
    comm.wait_for(type="status", state="ready")
    comm.say({"type": "configure", "settings": {}, "load": False})
    comm.wait_for(type="status", state="unloaded")


def test_what_is_shown_accepted_and_kept_is_counted_by_notebook(
    session, settings, fake_engine, tmp_path
):
    usage = Usage(lambda: True, tmp_path / "usage.sqlite")
    channel = Channel(session, settings, usage=usage)
    comm = FakeComm(channel)
    comm.say({"type": "hello", "notebook": "a.ipynb"})
    fake_engine.answers = ["sum(xs)", ""]
    for id in ("a", "b"):
        comm.say(complete(id=id))
        comm.final(id)
    accepted = {"type": "accepted", "id": "a", "index": 0, "text": "sum"}
    comm.say(accepted | {"part": "word"})
    comm.say(accepted | {"when": "30s", "kept": True})
    comm.say(accepted | {"when": "run", "kept": False})
    channel.close()
    assert [(e.notebook, e.kind, e.request, e.part, e.size) for e in usage.events()] == [
        ("a.ipynb", "shown", "a", "", 7),
        ("a.ipynb", "accepted", "a", "word", 3),
        ("a.ipynb", "later", "a", "", 1),
        ("a.ipynb", "run", "a", "", 0),
    ]


def test_a_request_is_answered_with_one_final_update(comm, fake_engine):
    fake_engine.answers = ["sum(xs)"]
    comm.say(complete(id="a"))
    final = comm.final("a")
    assert (
        final["type"],
        final["text"],
        final["index"],
        final["finish_reason"],
        final["source"],
    ) == (
        "update",
        "sum(xs)",
        0,
        "stop",
        "model",
    )
    assert set(final["stats"]) >= {"prompt_tokens", "reused_tokens", "first_token_ms", "total_ms"}
    assert sum(is_final(m) for m in comm.heard if m.get("id") == "a") == 1


def test_the_notebook_is_what_the_prompt_shows(comm, fake_engine):
    comm.say({"type": "notebook", "rev": 1, "cells": cells("import numpy as np", "x = ")})
    comm.say(complete("x = ", cell_id="c1"))
    comm.final("1")
    assert "import numpy as np" in fake_engine.asked()


def test_a_changed_cell_replaces_the_old_one(comm, fake_engine):
    comm.say({"type": "notebook", "rev": 1, "cells": cells("old = 1", "x = ")})
    comm.say(
        {"type": "notebook", "rev": 2, "base": 1, "cells": cells("new = 2"), "order": ["c0", "c1"]}
    )
    comm.say(complete("x = ", cell_id="c1"))
    comm.final("1")
    assert "new = 2" in fake_engine.asked()
    assert "old = 1" not in fake_engine.asked()


def test_a_change_to_an_unknown_revision_asks_for_the_whole_notebook(comm):
    comm.say({"type": "notebook", "rev": 8, "base": 7, "cells": [], "order": []})
    assert comm.heard[-1]["code"] == "unknown_base"


def test_an_order_with_an_unknown_cell_asks_for_the_whole_notebook(comm):
    comm.say({"type": "notebook", "rev": 1, "cells": cells("a")})
    comm.say({"type": "notebook", "rev": 2, "base": 1, "cells": [], "order": ["c0", "lost"]})
    assert comm.heard[-1]["code"] == "unknown_base"


def test_outputs_may_be_text_or_as_nbformat_has_them(comm):
    outputs = [
        "plain",
        {"output_type": "stream", "text": ["a", "b"]},
        {"data": {"text/plain": "42"}},
        {"ename": "KeyError", "evalue": "'x'"},
        {"data": {"image/png": "…"}},
        None,
    ]
    comm.say(
        {"type": "notebook", "rev": 1, "cells": [{"id": "c", "source": "x", "outputs": outputs}]}
    )
    assert comm.heard == []


def test_what_a_cell_needs_is_read_when_it_is_entered(comm, fake_engine, session):
    session.load()
    session.wait_ready(5)
    comm.say({"type": "notebook", "rev": 1, "cells": cells("x = 1", "y = x")})
    wait_until(lambda: session.idle)
    assert fake_engine._read == ()
    comm.say({"type": "notebook", "rev": 2, "base": 1, "cells": [], "active": "c1"})
    wait_until(lambda: fake_engine._read != ())
    comm.say(complete("y = x + ", cell_id="c1", rev=2))
    assert comm.final("1")["stats"]["reused_tokens"] > len("x = 1")


def test_the_prompt_at_an_idle_cursor_inside_a_cell_is_prefilled(comm, fake_engine, session):
    session.load()
    session.wait_ready(5)
    source = "total = 0\n\nprint(total)"
    comm.say({"type": "notebook", "rev": 1, "cells": cells(source), "active": "c0", "offset": 10})
    wait_until(lambda: session.idle and fake_engine._read != ())
    text = source[:10] + "t" + source[10:]
    comm.say(complete(text, offset=11, cell_id="c0", rev=1))
    stats = comm.final("1")["stats"]
    assert stats["prompt_tokens"] - stats["reused_tokens"] <= 2


def test_a_cursor_that_rests_outside_its_cell_is_an_error_in_words(comm):
    comm.say({"type": "notebook", "rev": 1, "cells": cells("x"), "active": "c0", "offset": 2})
    assert comm.heard[-1]["type"] == "error"
    assert "lies outside the text" in comm.heard[-1]["message"]


def test_nothing_is_read_ahead_while_ghost_text_is_off(comm, settings, fake_engine, session):
    session.load()
    session.wait_ready(5)
    settings.on = False
    comm.say({"type": "notebook", "rev": 1, "cells": cells("x = 1"), "active": "c0"})
    wait_until(lambda: session.idle)
    assert fake_engine._read == ()


def test_each_front_end_has_its_own_notebook(channel, fake_engine):
    one, other = FakeComm(channel, "one"), FakeComm(channel, "other")
    one.say({"type": "notebook", "rev": 1, "cells": cells("mine = 1")})
    other.say(complete("x = "))
    other.final("1")
    assert "mine = 1" not in fake_engine.asked()


def test_a_newer_keystroke_ends_the_older_request(comm, fake_engine):
    fake_engine.answers = ["first", "second"]
    fake_engine.gate.clear()
    comm.say(complete("a = ", id="1", trigger="automatic"))
    fake_engine.started.wait(10)
    comm.say(complete("ab = ", id="2", trigger="automatic"))
    fake_engine.gate.set()
    assert comm.final("1")["finish_reason"] == "cancelled"
    assert comm.final("2")["text"] == "second"


def test_a_cancelled_request_gets_its_final_update(comm, fake_engine):
    fake_engine.answers = ["never"]
    fake_engine.gate.clear()
    comm.say(complete())
    fake_engine.started.wait(10)
    comm.say({"type": "cancel", "id": "1"})
    assert comm.final("1")["finish_reason"] == "cancelled"


def test_cancelling_what_nobody_asked_for_is_no_error(comm):
    comm.say({"type": "cancel", "id": "unheard of"})
    assert comm.heard == []


def test_two_front_ends_may_use_the_same_id(channel, fake_engine):
    one, other = FakeComm(channel, "one"), FakeComm(channel, "other")
    fake_engine.answers = ["1", "2"]
    fake_engine.gate.clear()
    one.say(complete("a = "))
    other.say(complete("b = "))
    one.say({"type": "cancel", "id": "1"})
    fake_engine.gate.set()
    assert one.final("1")["finish_reason"] == "cancelled"
    assert other.final("1")["finish_reason"] == "stop"


def test_a_front_end_that_left_is_not_answered(comm, fake_engine, session):
    fake_engine.answers = ["too late"]
    fake_engine.gate.clear()
    comm.say(complete())
    fake_engine.started.wait(10)
    comm.heard.clear()
    comm.on_close()
    fake_engine.gate.set()
    wait_until(lambda: session.idle)
    assert comm.heard == []


def test_a_failure_of_the_model_is_one_error(comm, fake_engine):
    fake_engine.error = RuntimeError("out of memory\nand a stack")
    comm.say(complete(id="x"))
    error = comm.final("x")
    assert (error["type"], error["code"]) == ("error", "generation")
    assert "out of memory" in error["message"] and "\n" not in error["message"]


def test_ghost_text_that_is_off_answers_at_once_and_asks_no_model(comm, settings, fake_engine):
    settings.on = False
    comm.say(complete(id="off", trigger="automatic"))
    assert (comm.heard[-1]["text"], comm.heard[-1]["finish_reason"], comm.heard[-1]["reason"]) == (
        "",
        "stop",
        "disabled",
    )
    assert fake_engine.prompts == []


def test_asking_on_purpose_works_while_ghost_text_is_off(comm, settings, fake_engine):
    settings.on = False
    fake_engine.answers = ["1"]
    comm.say(complete("a = ", id="on purpose"))
    assert comm.final("on purpose")["text"] == "1"


def test_configure_sets_settings(comm, settings):
    comm.say({"type": "configure", "settings": {"temperature": 0.2}})
    assert (settings.set, settings.told, comm.heard) == ({"temperature": 0.2}, None, [])


def test_a_front_ends_settings_for_all_kernels_are_followed(comm, settings):
    comm.say({"type": "configure", "settings": {"temperature": 0.2}, "scope": "all"})
    assert settings.told == {"temperature": 0.2}


def test_a_bad_setting_is_one_line(comm):
    comm.say({"type": "configure", "settings": {"nonsense": 1}})
    assert comm.heard == [
        {"type": "error", "code": "bad_setting", "message": "There is no setting named 'nonsense'."}
    ]


def test_progress_goes_out_five_times_a_second(channel, comm):
    for percent in range(50):
        channel._push_status(Status(state="downloading", model="m", progress=percent / 100))
    channel._push_status(Status(state="ready", model="m"))
    assert [m.get("progress") for m in comm.heard] == [0, None]


def test_a_message_that_cannot_be_sent_stops_nobody(channel, comm):
    def broken(data):
        raise OSError("the socket is closed")

    comm.send = broken
    other = FakeComm(channel, "other")
    channel._push_status(Status(state="ready"))
    assert other.heard[-1]["state"] == "ready"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, "bad_message"),
        ([], "bad_message"),
        ("hello", "bad_message"),
        (7, "bad_message"),
        ({}, "unknown_type"),
        ({"type": None}, "unknown_type"),
        ({"type": ["hello"]}, "unknown_type"),
        ({"type": "shutdown"}, "unknown_type"),
        ({"type": "shut\ud800down"}, "unknown_type"),
        ({"type": "complete"}, "bad_message"),
        (complete(offset="3"), "bad_message"),
        (complete(offset=True), "bad_message"),
        (complete(offset=float("nan")), "bad_message"),
        (complete(offset=-1), "bad_request"),
        (complete(offset=10**30), "bad_request"),
        (complete(offset=10**5000), "bad_message"),
        (complete(candidates=0), "bad_request"),
        (complete(candidates=10**9), "bad_request"),
        (complete(trigger="telepathy"), "bad_message"),
        (complete() | {"text": None}, "bad_message"),
        (complete(id=None), "bad_message"),
        ({"type": "notebook", "rev": 1}, "bad_message"),
        ({"type": "notebook", "rev": 1, "cells": [1]}, "bad_message"),
        ({"type": "notebook", "rev": 1, "cells": [{"source": "no id"}]}, "bad_message"),
        (
            {"type": "notebook", "rev": 1, "cells": [{"id": "a", "cell_type": "poem"}]},
            "bad_message",
        ),
        ({"type": "configure", "settings": None}, "bad_message"),
        ({"type": "cancel"}, "bad_message"),
    ],
)
def test_what_is_not_understood_gets_one_error(comm, fake_engine, data, code):
    comm.say(data)
    assert [(m["type"], m["code"]) for m in comm.heard] == [("error", code)]
    assert len(comm.heard[0]["message"]) <= 300 and "\n" not in comm.heard[0]["message"]
    comm.heard.clear()
    comm.say(complete("a = ", id="still alive"))
    assert comm.final("still alive")["type"] == "update"


def test_an_error_names_the_request_it_is_about(comm):
    comm.say(complete(id="mine", offset=99))
    assert comm.heard[0]["id"] == "mine"


def test_what_a_request_has_waited_counts_from_its_key(comm, channel):
    comm.say(complete("a = ", id="late", waited=150))
    comm.final("late")
    (request,) = channel.session.recent
    assert request.waited_s == 0.15


def test_a_message_without_content_is_one_error(comm):
    comm.handle_msg({})
    assert [m["type"] for m in comm.heard] == ["error"]


def test_half_a_surrogate_pair_never_reaches_the_wire(comm, fake_engine):
    comm.say({"type": "notebook", "rev": 1, "cells": cells("a = '\ud83d'")})
    comm.say(complete("b = '\ude00", id="id\ud83d"))
    comm.final("id\ufffd")
    for message in comm.heard:
        repr(message).encode()
        str(message["type"] == "update" and message["text"]).encode()


def test_a_deep_message_is_no_way_to_break_in(comm):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    comm.say({"type": "hello", "extra": deep})
    comm.say({"type": "configure", "settings": {"temperature": deep}})
    comm.say({"type": "notebook", "rev": 1, "cells": [{"id": "a", "outputs": [deep]}]})
    assert comm.heard[0]["type"] == "hello"
    while deep:  # or its destructor recurses
        deep = deep.pop()


def test_a_notebook_of_five_megabytes_takes_milliseconds(comm):
    big = cells(*["x = 'e' * 10\n" * 80] * 5000)
    started = time.perf_counter()
    comm.say({"type": "notebook", "rev": 1, "cells": big})
    # Measured: 0.07 s on a slow core. The control channel, and so an interrupt, waits no longer.
    assert time.perf_counter() - started < 1
    assert comm.heard == []


def garbled(source, value, depth=0):
    """A message that is a little, or entirely, wrong."""
    wrong = [
        None,
        True,
        -1,
        0,
        3.5,
        float("nan"),
        float("inf"),
        10**25,
        "",
        "\ud800",
        "é" * 50,
        [],
        {},
        [[]],
        {"id": 1},
    ]
    if source.random() < 0.15:
        return source.choice(wrong)
    if isinstance(value, dict):
        result = {
            k: garbled(source, v, depth + 1) for k, v in value.items() if source.random() > 0.1
        }
        if source.random() < 0.1:
            result[source.choice(["type", "id", "extra", "cells"])] = source.choice(wrong)
        return result
    if isinstance(value, list):
        return [garbled(source, v, depth + 1) for v in value] * source.choice([0, 1, 1, 1, 2])
    return value


def test_garbled_messages_never_raise_and_each_request_ends_once(comm, fake_engine, session):
    source = random.Random(20240229)
    patterns = [
        {"type": "hello", "protocol": 1, "client": "fuzz"},
        {
            "type": "notebook",
            "rev": 2,
            "base": 1,
            "cells": cells("a = 1", "b"),
            "order": ["c0", "c1"],
        },
        {"type": "notebook", "rev": 1, "cells": cells("a = 1", "b")},
        complete("x = ", trigger="automatic"),
        complete("x = ", candidates=2, cell_id="c1", language="python", rev=3),
        {"type": "cancel", "id": "1"},
        {"type": "accepted", "id": "1", "index": 0, "text": "x"},
        {"type": "configure", "settings": {"temperature": 1}},
    ]
    asked = []
    for number in range(2000):
        data = garbled(source, source.choice(patterns))
        if (
            isinstance(data, dict)
            and data.get("type") == "complete"
            and isinstance(data.get("id"), str)
        ):
            data["id"] = f"ask-{number}"
            asked.append(data["id"])
        before = len(comm.heard)
        comm.say(data)
        errors = [
            m for m in comm.heard[before:] if m["type"] == "error" and m["code"] != "generation"
        ]
        assert len(errors) <= 1
    for id in asked:
        comm.final(id)
    wait_until(lambda: session.idle)
    assert len(asked) > 200
    for id in asked:
        assert sum(is_final(m) for m in comm.heard if m.get("id") == id) == 1


class FakeKernel:
    def __init__(self, **handlers):
        self.comm_manager = SimpleNamespace(
            targets={},
            comm_open=lambda *a: None,
            comm_msg=lambda *a: None,
            comm_close=lambda *a: None,
        )
        self.comm_manager.register_target = self.comm_manager.targets.__setitem__
        self.control_handlers = {"shutdown_request": print} | handlers


def test_the_control_channel_learns_comm_messages(session, settings):
    kernel = FakeKernel()
    Channel(session, settings, kernel).install()
    assert [kernel.control_handlers[name] for name in COMM_MESSAGES] == [
        getattr(kernel.comm_manager, name) for name in COMM_MESSAGES
    ]
    assert TARGET in kernel.comm_manager.targets


def test_closing_leaves_the_kernel_as_it_was(session, settings):
    kernel = FakeKernel()
    channel = Channel(session, settings, kernel)
    channel.install()
    comm = FakeComm(channel)
    channel.close()
    assert kernel.control_handlers == {"shutdown_request": print}
    assert kernel.comm_manager.targets == {}
    assert comm.closed


def test_a_control_handler_of_someone_else_stays(session, settings):
    kernel = FakeKernel(comm_msg=len)
    channel = Channel(session, settings, kernel)
    channel.install()
    assert kernel.control_handlers["comm_msg"] is len
    channel.close()
    assert kernel.control_handlers == {"shutdown_request": print, "comm_msg": len}


def test_a_control_handler_that_was_replaced_since_stays(session, settings):
    kernel = FakeKernel()
    channel = Channel(session, settings, kernel)
    channel.install()
    kernel.control_handlers["comm_msg"] = len
    channel.close()
    assert kernel.control_handlers == {"shutdown_request": print, "comm_msg": len}


def test_a_kernel_without_control_handlers_is_served_all_the_same(session, settings):
    kernel = FakeKernel()
    del kernel.control_handlers
    channel = Channel(session, settings, kernel)
    channel.install()
    assert TARGET in kernel.comm_manager.targets
    channel.close()


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_request(settings):
    from jupyter_sc2.errors import ModelLoadError

    def load_engine(model, **kwargs):
        raise ModelLoadError("The disk is full.")

    session = Session(load_engine=load_engine)
    channel = Channel(session, settings)
    comm = FakeComm(channel)
    comm.say(complete("a = "))
    error = comm.final("1")
    assert (error["code"], error["message"]) == ("model", "The disk is full.")
    assert comm.wait_for(type="status", state="error")["message"] == "The disk is full."
    channel.close()
    session.close()


def test_a_status_is_pushed_to_every_front_end(channel):
    one, other = FakeComm(channel, "one"), FakeComm(channel, "other")
    status = Status(state="loading", model="m")
    channel._push_status(status)
    channel._push_status(replace(status, state="ready"))
    assert (
        [m["state"] for m in one.heard] == [m["state"] for m in other.heard] == ["loading", "ready"]
    )


def test_comms_that_reloaded_pages_left_behind_are_forgotten(channel, settings):
    settings.on = False  # or the hello would load the model, and tell of it
    first = FakeComm(channel, "first")
    first.say({"type": "hello"})
    first.wait_for(type="hello")
    *_, last = [FakeComm(channel, f"page-{n}") for n in range(16)]
    channel.session.load()
    last.wait_for(type="status", state="ready")
    assert not any(message.get("state") == "loading" for message in first.heard)


def test_a_front_end_that_waits_for_an_answer_is_not_forgotten(channel, fake_engine):
    fake_engine.answers = ["sum(xs)"]
    fake_engine.gate.clear()
    first = FakeComm(channel, "first")
    first.say(complete())
    assert fake_engine.started.wait(10)
    for n in range(40):
        FakeComm(channel, f"page-{n}").say({"type": "hello"})
    fake_engine.gate.set()
    assert first.final("1")["text"] == "sum(xs)"
    first.wait_for(type="status", state="ready")


def test_a_front_end_is_served_though_sixteen_others_wait_for_an_answer(channel, fake_engine):
    fake_engine.gate.clear()
    waiting = [FakeComm(channel, f"waiting-{n}") for n in range(20)]
    for comm in waiting:
        comm.say(complete(comm.comm_id))
    assert fake_engine.started.wait(10)
    last = FakeComm(channel, "last")
    last.say({"type": "hello"})
    fake_engine.gate.set()
    assert all(comm.final("1") for comm in waiting)
    last.wait_for(type="status", state="ready")


def test_once_all_are_answered_sixteen_front_ends_are_remembered(channel):
    comms = [FakeComm(channel, f"page-{n}") for n in range(40)]
    for comm in comms:
        comm.say(complete())
    for comm in comms:
        comm.final("1")
    comm.say({"type": "hello"})
    assert list(channel._front_ends) == [f"page-{n}" for n in range(24, 40)]


def test_a_front_end_whose_notebook_was_forgotten_is_asked_to_send_it_whole(channel, fake_engine):
    first = FakeComm(channel, "first")
    first.say({"type": "notebook", "rev": 1, "cells": cells("old = 1", "x = ")})
    for n in range(16):
        FakeComm(channel, f"page-{n}")
    error = first.wait_for(type="error", code="unknown_base")
    assert "id" not in error
    first.say({"type": "notebook", "rev": 2, "cells": cells("old = 1", "x = ")})
    first.say(complete("x = ", cell_id="c1"))
    assert first.final("1")
    assert "old = 1" in fake_engine.asked()


def test_a_queue_that_is_full_says_so_and_each_request_ends_once(comm, fake_engine, session):
    fake_engine.gate.clear()
    for number in range(50):
        comm.say(complete(f"x{number} = ", id=f"{number}"))
    refused = comm.wait_for(reason="queue_full")
    assert (refused["text"], refused["finish_reason"]) == ("", "stop")
    fake_engine.gate.set()
    finals = [comm.final(f"{number}") for number in range(50)]
    assert sum(final["reason"] == "queue_full" for final in finals) in (33, 34)
    wait_until(lambda: session.idle)
    assert sum(map(is_final, (m for m in comm.heard if "id" in m))) == 50


def test_unloading_the_extension_ends_what_is_open_before_the_comm_is_closed(
    channel, comm, fake_engine, session
):
    fake_engine.answers = ["too late"]
    fake_engine.gate.clear()
    comm.say(complete(id="running"))
    assert fake_engine.started.wait(10)
    comm.say(complete("a = ", id="waiting"))
    channel.close()
    assert comm.closed
    ended = {m["id"]: m["reason"] for m in comm.heard if "id" in m and is_final(m)}
    assert ended == {"running": "cancelled", "waiting": "cancelled"}
    fake_engine.gate.set()
    wait_until(lambda: session.idle)
    assert sum(is_final(m) for m in comm.heard if "id" in m) == 2


def test_what_a_front_end_that_left_had_asked_waits_no_longer(channel, fake_engine, session):
    fake_engine.hold_after("s")
    fake_engine.answers = ["stuck"]
    one, other = FakeComm(channel, "one"), FakeComm(channel, "other")
    one.say(complete())
    wait_until(lambda: fake_engine.held)
    for number in range(5):
        other.say(complete("a = ", id=f"{number}"))
    other.on_close()
    assert len(session._scheduler.queue) == 0
    fake_engine.hold_after(None)
    assert one.final("1")["text"] == "stuck"


def test_what_was_asked_on_a_comm_is_given_up_when_another_comes_with_its_id(
    channel, fake_engine, session
):
    fake_engine.answers = ["first", "second"]
    fake_engine.gate.clear()
    FakeComm(channel, "same").say(complete("a = "))
    assert fake_engine.started.wait(10)
    after = FakeComm(channel, "same")
    wait_until(lambda: session.idle)
    fake_engine.gate.set()
    after.say(complete("b = "))
    assert after.final("1")["text"] == "second"


def test_an_interrupt_while_a_request_is_handed_over_ends_it_once(channel, comm, monkeypatch):
    submit = channel.session.submit

    def interrupted(*args):
        submit(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(channel.session, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comm.say(complete(id="mine"))
    assert comm.final("mine")["reason"] == "cancelled"
    wait_until(lambda: channel.session.idle)
    assert sum(is_final(m) for m in comm.heard if m.get("id") == "mine") == 1


def test_a_request_that_cannot_be_handed_over_is_one_error(channel, comm, monkeypatch):
    def failing(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(channel.session, "submit", failing)
    comm.say(complete(id="mine"))
    assert [m["type"] for m in comm.heard if m.get("id") == "mine"] == ["error"]
    assert not channel._front_ends["comm"].has_open_requests


def test_hello_may_come_with_the_opening_of_the_comm(channel):
    comm = FakeComm(channel, opening={"type": "hello", "protocol": 1, "client": "test"})
    assert comm.wait_for(type="hello")["channel"] == "shell"


@pytest.mark.parametrize("cell", ["%%bash\necho ", "x = 1\n!ls "])
@pytest.mark.parametrize("trigger", ["automatic", "invoke"])
def test_disabled_languages_are_not_completed(comm, fake_engine, cell, trigger):
    fake_engine.card = replace(fake_engine.card, languages=("*",))
    comm.say(complete(cell, trigger=trigger, languages_off=["R", "Shell"]))
    assert comm.final("1")["reason"] == "disabled"
    assert fake_engine.prompts == []


@pytest.mark.parametrize(
    ("cell", "language"),
    [
        ("%%julia\nx = ", "julia"),
        ("%%cython\nx = ", "Cython"),
        ("%%css\na ", "css"),
        ("%%bigquery\nselect ", "sql"),
        ("%%writefile x.sh\necho ", "bash"),
        ("%%file -a style.css\na ", "css"),
        ("%%script perl\nmy ", "perl"),
    ],
)
def test_a_cell_magics_language_can_be_disabled(comm, fake_engine, cell, language):
    fake_engine.card = replace(fake_engine.card, languages=("*",))
    comm.say(complete(cell, languages_off=["R", language]))
    assert comm.final("1")["reason"] == "disabled"
    assert fake_engine.prompts == []


def test_python_beside_a_disabled_language_is_completed(comm, fake_engine):
    fake_engine.answers = ["1"]
    comm.say(complete("%%time\nx = ", languages_off=["bash"]))
    assert comm.final("1")["text"] == "1"


@pytest.mark.parametrize("language", [None, "python", "bash"])
def test_a_cell_in_a_language_that_the_model_is_not_for_says_so(comm, fake_engine, language):
    comm.say(complete("%%bash\necho ", language=language))
    final = comm.final("1")
    assert (final["text"], final["finish_reason"]) == ("", "stop")
    assert final["reason"] == "other_language"


def test_a_notebook_whose_name_is_no_text_is_answered_once_and_counted(session, settings, tmp_path):
    usage = Usage(lambda: True, tmp_path / "usage.sqlite")
    channel = Channel(session, settings, usage=usage)
    comm = FakeComm(channel)
    session._workers.load_engine = lambda model, **options: FakeEngine("1")
    comm.say({"type": "hello", "notebook": "x\udce9.ipynb"})
    comm.say({"type": "complete", "id": "a", "text": "x = ", "offset": 4, "trigger": "invoke"})
    comm.final("a")
    wait_until(lambda: session.idle)
    assert [m["type"] for m in comm.heard if m.get("id") == "a" and is_final(m)] == ["update"]
    assert [event.notebook for event in usage.events()] == ["x\\udce9.ipynb"]
    channel.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "complete", "id": "a"},
        {"type": "complete", "id": "a", "text": "x", "offset": 7, "trigger": "invoke"},
        {"type": "cancel", "id": "a", "when": 1} | {"type": "cancle"},
        {"type": "accepted", "id": "a", "index": "first"},
    ],
)
def test_an_error_does_not_end_a_request_that_is_still_to_be_answered(comm, fake_engine, bad):
    fake_engine.answers = ["1"]
    fake_engine.gate.clear()
    comm.say({"type": "complete", "id": "a", "text": "x = ", "offset": 4, "trigger": "invoke"})
    assert fake_engine.started.wait(10)
    comm.say(bad)
    assert "id" not in comm.wait_for(type="error")
    fake_engine.gate.set()
    assert comm.final("a")["text"] == "1"
    comm.say(bad)
    wait_until(lambda: [m for m in comm.heard if m["type"] == "error"][1:])
    assert [m.get("id") for m in comm.heard if m["type"] == "error"] == [None, "a"]


# Documents that the kernel does not run


def test_a_hello_that_says_companion_is_answered_by_one(channel):
    own, served = FakeComm(channel, "own"), FakeComm(channel, "served")
    own.say({"type": "hello"})
    served.say({"type": "hello", "companion": True})
    assert "companion" not in own.wait_for(type="hello")
    assert served.wait_for(type="hello")["companion"] is True


def test_hello_names_the_languages_of_each_model_by_the_names_of_requests(comm):
    comm.say({"type": "hello"})
    models = comm.wait_for(type="hello")["languages"]["models"]
    assert models["embedded"] == ["python"] and models["starcoder2-15b"] == ["*"]
    assert {"bash", "r", "rust"} <= set(models["starcoder2-3b"])


def test_hello_sends_rules_for_a_new_line_in_each_language(comm):
    comm.say({"type": "hello"})
    languages = comm.wait_for(type="hello")["languages"]
    assert languages["after_enter"].keys() >= set(languages["endings"].values())
    assert languages["after_enter"]["sql"]["comment"] == "--"


@pytest.mark.parametrize(
    ("path", "language", "found"),
    [
        ("src/main.rs", None, "rust"),
        ("analysis.R", "rsrc", "r"),
        ("Dockerfile", "plain", "dockerfile"),
        ("notes.txt", "python", "python"),
        ("a.unheard", "erlang", "erlang"),
        ("query.sql", "python", "sql"),
    ],
)
def test_a_text_file_is_in_the_language_of_its_name_or_of_its_editor(path, language, found):
    message = protocol.parse(complete("%%bash\nls ", path=path, language=language))
    assert language_at(message.request(Notebook(), "1")) == found


def test_the_variables_of_a_companion_mean_nothing_in_its_documents():
    message = protocol.parse(complete("df."))
    assert runs_here(message.request(Notebook(), "1"))
    assert not runs_here(message.request(Notebook(), "1", companion=True))


def test_the_prompt_is_prefetched_in_the_language_of_the_document(channel, comm, session):
    requests = []
    session.prefetch = requests.append
    comm.say({"type": "hello", "companion": True})
    comm.say(
        {"type": "notebook", "rev": 1, "cells": cells("x <- 1"), "active": "c0", "language": "R"}
    )
    [request] = requests
    assert language_at(request) == "r" and request.companion


def test_a_status_that_is_published_while_a_hello_is_written_is_the_last_that_is_sent(
    channel, comm, monkeypatch
):
    """A load that ends in this moment would else stay "loading" on the page."""
    write = protocol.hello

    def write_late(status, **fields):
        reply = write(status, **fields)
        channel.session._workers.board.publish(replace(status, state="loading", model="late"))
        return reply

    monkeypatch.setattr(protocol, "hello", write_late)
    channel.settings.enabled = lambda: False  # nothing else is published
    comm.say({"type": "hello"})
    assert [message["type"] for message in comm.heard[-2:]] == ["hello", "status"]
    assert comm.heard[-1]["model"] == "late"
