"""Models that only a server knows by their names: what `%sc2 load` does with them."""

from __future__ import annotations

import json

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

pytest.importorskip("httpx")

from jupyter_sc2 import cli
from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.openai import client as http_client
from jupyter_sc2.kernel.magics import SC2Magics
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.settings import SC2
from tests.support.servers import scripted

NAMES = ["acme-coder-7b", "acme-chat-7b", "tiny-fim", *(f"other-{n}" for n in range(30))]


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.delenv(http_client.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(http_client, "_from_keyring", lambda host: "")
    with scripted(*({"id": name} for name in NAMES)) as server:
        yield server


@pytest.fixture
def run(server, capsys):
    """Runs a line in a shell whose setting `server` names the server; gives what it printed."""
    settings = SC2(server=server.url, offline=True)
    session = Session(load_engine=load_engine, load_options=settings.load_options())
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    settings.observe(lambda change: session.load(settings.load_options()), ["model", "precision"])
    SC2Magics(shell, settings, session).install()

    def run(line: str) -> str:
        capsys.readouterr()
        shell.run_cell(line)
        out = capsys.readouterr()
        return out.out + out.err

    run.settings = settings
    yield run
    session.close()
    shell.magics_manager.magics = {"line": {}, "cell": {}}


@pytest.mark.parametrize("name", ["acme-coder-7b", "tiny-fim", "other-29"])
def test_a_name_that_only_the_server_knows_is_loaded(run, server, name):
    assert f"{name} (openai), loaded in " in run(f"%sc2 load {name}")
    assert run.settings.model == name
    assert server.asked[0][0] == "/v1/models"
    assert server.asked[-1][1]["model"] == name
    assert run("%sc2 license") == f"Licence of {name}: unknown here; see where it is from.\n"


def test_a_name_that_nobody_knows_is_one_line_with_the_nearest_names_first(run, server):
    said = run("%sc2 load acme-codr-7b")
    host = server.url.partition("//")[2]
    assert (
        f"{host} has no model acme-codr-7b: set model to one of acme-coder-7b, acme-chat-7b, "
        in said
    )
    assert "and 13 more." in said and "Traceback" not in said


def test_without_a_server_a_name_that_nobody_knows_is_refused_at_once(run, server):
    run.settings.server = ""
    assert "There is no model named 'acme-coder-7b'." in run("%sc2 load acme-coder-7b")
    assert server.asked == []


def test_the_command_line_takes_a_name_that_only_the_server_knows(server, tmp_path, capfd):
    file = tmp_path / "cell.py"
    file.write_text("import os\n")
    options = ["--server", server.url, "--offline", "--no-config", "--json"]
    assert cli.main(["complete", str(file), "--model", "tiny-fim", *options]) == 0
    assert json.loads(capfd.readouterr().out)["model"] == "tiny-fim"
    assert cli.main(["complete", str(file), "--model", "tiny-fin", *options]) == 1
    assert "has no model tiny-fin: set model to one of tiny-fim, " in capfd.readouterr().err
