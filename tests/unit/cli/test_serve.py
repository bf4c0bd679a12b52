"""`jupyter sc2 serve` as a process of its own: what serves for it may end, and so may it."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest

from jupyter_sc2.engines.openai import server_files
from tests.support.children import runs, wait_until
from tests.support.servers import serving

pytest.importorskip("torch")  # reads the weights that are served
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no signals like these"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """With the weights made once."""
    home = tmp_path_factory.mktemp("home")
    (home / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(home / "temporary"))
        yield home


@pytest.fixture
def served(home, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
    with serving(home, "--precision", "F16", "--slots", "1") as (process, url):
        yield process, url


def helpers(process):
    """The guard and the server behind it."""
    guard, server = psutil.Process(process.pid).children(recursive=True)
    return guard.pid, server.pid


def completes(url: str) -> bool:
    """Whether the model answers at this address to who has the token in the run file."""
    (running,) = server_files.running_servers()
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({"prompt": "import numpy as", "max_tokens": 1}).encode(),
        {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(json.loads(answer.read())["choices"])
    except (urllib.error.URLError, OSError):
        return False


def line_of(process) -> str:
    """The next line that is not one of the first three."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        select.select([process.stdout], [], [], 1)
        line = process.stdout.readline()
        if "llama.cpp" in line:
            return line
    raise AssertionError("no line")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_what_serves_is_started_again_at_its_address_and_with_its_token(served, number):
    process, url = served
    assert completes(url)
    before = helpers(process)
    os.kill(before[1], number)
    assert "it is started again." in line_of(process)
    wait_until(lambda: completes(url), 20)
    assert not any(map(runs, before))


def test_what_serves_goes_with_serve_when_that_is_killed_and_its_note_at_the_next_start(
    served, home
):
    process, _ = served
    before = helpers(process)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(runs, before)))
    assert [*(home / "temporary").glob("sc2-*")] == []
    assert [*(home / "runtime").iterdir()] != []
    assert server_files.running_servers() == []
    assert [*(home / "runtime").iterdir()] == []


def test_notes_of_other_machines_are_left_alone(home, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(home / "others"))
    with server_files.announced(url="http://127.0.0.1:1", token="t", model="m"):
        (file,) = (home / "others").iterdir()
        there = json.loads(file.read_text()) | {"machine": "elsewhere", "pid": 2**22 + 1}
        (home / "others" / "sc2-server-1.json").write_text(json.dumps(there))
        (home / "others" / "sc2-server-2.json").write_text("{")
        assert len(server_files.running_servers()) == 1
        assert len([*(home / "others").iterdir()]) == 3


@pytest.mark.slow
def test_what_ends_again_and_again_is_given_up_in_one_line(served, home):
    process, _ = served
    for _ in range(5):
        wait_until(
            lambda: len(psutil.Process(process.pid).children(recursive=True)) == 2, seconds=30
        )
        os.kill(helpers(process)[1], signal.SIGKILL)
        told = line_of(process)
    assert process.wait(20) == 1
    assert "5 times within 5 minutes: it is not started again." in told + process.stdout.read()
    assert [*(home / "temporary").glob("sc2-*")] == []
