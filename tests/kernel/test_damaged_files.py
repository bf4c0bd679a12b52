"""Real kernels whose files are damaged: there is ghost text, and nothing of it in the user's outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.kernels import FrontEnd

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

# Everything that a kernel reads or writes, below folders of its own.
FILES = (
    "data/jupyter_sc2/usage.sqlite",
    "data/jupyter_sc2/feedback.json",
    "data/jupyter_sc2/attribution/index.json",
    "data/jupyter_sc2/attribution/lock",
    "config/jupyter_sc2_models.toml",
    "cache/onnxruntime",
    "cache/gguf",
    "runtime/sc2-server-1.json",
)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(5000))


def deep(file: Path) -> None:
    file.write_bytes(b"[" * 100_000)


def folder(file: Path) -> None:
    (file / "of the user").mkdir(parents=True)


def pipe(file: Path) -> None:
    os.mkfifo(file)


def link_to_itself(file: Path) -> None:
    file.symlink_to(file)


def device(file: Path) -> None:
    file.symlink_to("/dev/full")


STATES = [empty, garbage, deep, folder]
if os.name != "nt":
    STATES += [pipe, link_to_itself, device]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_there_is_ghost_text_whatever_state_the_files_are_in(tmp_path, state):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        state(tmp_path / name)
    front = FrontEnd(
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
        JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"),
        JUPYTER_SC2_CACHE=str(tmp_path / "cache"),
    )
    try:
        assert front.run("%load_ext jupyter_sc2") == []
        comm = front.open()
        comm.say({"type": "hello", "protocol": 1})
        comm.say({"type": "configure", "settings": {"confidence": 0.0}})
        comm.wait_for(type="hello")
        comm.wait_for(timeout=60, type="status", state="ready")
        for number in range(60):  # more than are counted at once
            final = comm.final(comm.ask(f"x{number} = 1\nimport numpy as "))["content"]["data"]
            assert final["type"] == "update" and final["reason"] != "not_ready", final
        shown = front.run("%sc2 stats")
        assert all(message["msg_type"] != "error" for message in shown)
        for command in ("%sc2 attribution", "%sc2", "%sc2 models"):
            outputs = front.run(command)
            assert not any("Traceback" in str(message["content"]) for message in outputs), outputs
    finally:
        front.close()
