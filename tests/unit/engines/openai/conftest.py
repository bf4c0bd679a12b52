"""A scripted server, and engines on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.servers import scripted

pytest.importorskip("httpx")
pytest.importorskip("tokenizers")

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.openai import client as http_client


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv(http_client.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(http_client, "_from_keyring", lambda host: "")
    quick = replace(http_client.COMPLETIONS, first_delay_s=0.01)
    monkeypatch.setattr(http_client, "COMPLETIONS", quick)


@pytest.fixture
def server():
    with scripted() as server:
        yield server


@pytest.fixture
def engine(server):
    engine = load_engine("embedded", server=server.url)
    yield engine
    engine.close()


@pytest.fixture
def text_engine():
    """An engine on a server whose tokenizer nobody has here."""
    with scripted({"id": "acme/coder"}) as server:
        engine = load_engine("acme/coder", server=server.url, offline=True)
        yield engine, server
        engine.close()
