"""A completions server that goes away and comes back: who answers meanwhile, and when it is asked again."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

pytest.importorskip("httpx")
pytest.importorskip("tokenizers")

from jupyter_sc2.engines.openai import client as http_client
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline import recovery
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest
from tests.support.children import wait_until
from tests.support.servers import ScriptedServer, says, scripted

COMPLETIONS = "/v1/completions"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.delenv(http_client.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(http_client, "_from_keyring", lambda host: "")
    for module, name in ((http_client, "COMPLETIONS"), (recovery, "LOST_SERVERS")):
        monkeypatch.setattr(module, name, replace(getattr(module, name), first_delay_s=0.05))


class Asking:
    """A session on a server, and the different texts that are asked of it."""

    def __init__(self, server: ScriptedServer) -> None:
        self.taken_back: list[LoadOptions] = []
        options = LoadOptions(model="embedded", server=server.url)
        self.session = Session(
            load_options=options,
            taken_back=lambda failed, instead: bool(self.taken_back.append(failed)),
        )
        self.session.load()
        self.session.wait_ready(20)
        self.count = 0

    def __call__(self, trigger: str = "invoke"):
        self.count += 1
        text = f"value_{self.count} = "
        request = CompletionRequest(text=text, offset=len(text), trigger=trigger)
        *_, last = self.session.complete(request)
        return last


@pytest.fixture
def server():
    with scripted() as server:
        yield server


@pytest.fixture
def ask(server):
    ask = Asking(server)
    yield ask
    ask.session.close()


def stop(server: ScriptedServer) -> None:
    server.shutdown()
    server.socket.close()
    server.end_connections()


def test_the_embedded_model_answers_while_the_server_is_gone_and_the_status_says_so(ask, server):
    assert ask().engine == "openai"
    stop(server)
    for _ in range(3):
        last = ask()
        assert last.finish_reason is not None and last.engine != "openai"
    host = server.url.partition("//")[2]
    wait_until(lambda: ask.session.status.state == "ready")
    assert ask.session.status.message == (
        f"{host} cannot be reached: connection refused. Is the server running? The embedded model answers instead."
    )
    assert ask.taken_back == []


def test_the_server_answers_again_once_it_is_back(ask, server):
    port = server.server_address[1]
    stop(server)
    assert ask().engine != "openai"
    with scripted(port=port):
        wait_until(lambda: ask().engine == "openai", 20)
        assert ask.session.status.engine == "openai"


def test_it_is_asked_after_delays_that_double_and_only_if_something_is_requested(
    ask, server, monkeypatch
):
    asked: list[int] = []
    policy = recovery.LOST_SERVERS

    class Noting:
        def delay(self, failures: int) -> float | None:
            asked.append(failures)
            return policy.delay(failures)

    monkeypatch.setattr(recovery, "LOST_SERVERS", Noting())
    stop(server)
    wait_until(lambda: ask() is not None and len(asked) >= 4, 20)
    assert asked[:4] == [1, 2, 3, 4]
    threading.Event().wait(0.5)
    assert len(asked) <= 5  # nobody has asked since


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_a_proxy_does_not_find_counts_as_gone(ask, server, status):
    server.queue(COMPLETIONS, *[says(status, {"error": "no backend"})] * 4)
    server.queue("/v1/models", *[says(status, {"error": "no backend"})] * 4)
    assert ask().engine != "openai"
    wait_until(lambda: ask().engine == "openai", 20)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_of_one_request_changes_nothing(ask, server, status):
    server.queue(COMPLETIONS, *[says(status, {"error": "no"})] * (4 if status == 429 else 1))
    with pytest.raises(Exception, match=str(status)):
        ask()
    assert ask().engine == "openai"


def test_another_model_is_loaded_by_the_user_while_the_server_is_gone(ask, server):
    stop(server)
    assert ask().engine != "openai"
    ask.session.load(LoadOptions(model="embedded"))
    status = ask.session.wait_ready(20)
    assert status.engine != "openai" and status.message is None
    before = len(server.asked)
    ask()
    assert ask.session.status.message is None and len(server.asked) == before
