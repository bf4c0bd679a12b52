"""Getting weights from a hub, and what can go wrong on the way: each with its one line."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from jupyter_sc2 import cli
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models import hub, hub_failures
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.runtime import http_retries
from tests.support.hub import SHA, Hub, etag

CARD = ModelCard(name="owner/name", hub_id="owner/name", gguf="owner/name")
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
SMALL = {"config.json": b'{"model_type": "starcoder2"}', "tokenizer.json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    for name, data in {**SMALL, "model.safetensors": WEIGHTS}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """A hub with one model, and this process's client with an empty cache."""
    with Hub(folder).running() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):
            if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
                monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(
            hub_failures, "DOWNLOADS", replace(http_retries.DOWNLOADS, first_delay_s=0.01)
        )
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield served


class Shares:
    """What a download tells of its progress."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float | None]] = []

    def __call__(self, state: str, share: float | None) -> None:
        self.told.append((state, share))

    def shares(self) -> list[float]:
        return [share for state, share in self.told if share is not None]


def fetch(*, offline=False, progress=lambda state, share: None, card=CARD, verify=False) -> Path:
    return model_files.download(card, "auto", offline=offline, progress=progress, verify=verify)


def message(**options) -> str:
    with pytest.raises(ModelLoadError) as caught:
        fetch(**options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 300
    return line


def partials(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_first_download_tells_its_progress_and_is_found_by_the_hubs_own_client(served, tmp_path):
    shares = Shares()
    folder = fetch(progress=shares)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert shares.told[0] == ("downloading", 0.0) and shares.told[-1] == ("downloading", 1.0)
    assert shares.shares() == sorted(shares.shares()) and len(shares.shares()) > 4
    assert huggingface_hub.snapshot_download("owner/name", local_files_only=True) == str(folder)
    assert partials(tmp_path) == []


def test_numbers_and_json_are_fetched_and_nothing_else(served, folder):
    for name in ("pytorch_model.bin", "modeling.py", "README.md", "onnx/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    fetch()
    assert sorted(name for name, _ in served.asked) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_what_is_there_is_not_fetched_again(served):
    fetch()
    served.asked.clear()
    fetch()
    assert served.asked == []


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(served):
    served.cut, served.cuts = len(WEIGHTS) * 6 // 10, 1
    shares = Shares()
    assert (fetch(progress=shares) / "model.safetensors").read_bytes() == WEIGHTS
    assert served.fetched("model.safetensors") == [0, served.cut]
    assert shares.shares() == sorted(shares.shares())


def test_a_download_that_broke_off_leaves_nothing_to_load_and_is_resumed(served, tmp_path):
    served.cut, served.cuts = len(WEIGHTS) * 6 // 10, 99
    said = message()
    assert said.startswith("The download of owner/name broke off (")
    assert said.endswith("): ask again, and it goes on from there.")
    assert not (
        tmp_path / "cache/models--owner--name/snapshots" / SHA / "model.safetensors"
    ).exists()
    assert "is not on this disk and offline is set" in message(offline=True)
    served.cuts = 0
    served.asked.clear()
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert served.asked == [("model.safetensors", served.cut)]


def test_a_corrupted_file_is_refused_and_fetched_again(served, tmp_path):
    served.corrupt = 1
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert served.fetched("model.safetensors") == [0, 0]


def test_a_file_that_arrives_damaged_twice_is_deleted(served, tmp_path):
    served.corrupt = 2
    assert message() == (
        "model.safetensors of owner/name arrived damaged twice: its checksum is not the one that the hub gives. "
        "Try again later, or over another network."
    )
    assert partials(tmp_path) == []
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_damage_on_this_disk_is_found_when_asked_for(served):
    folder = fetch()
    file = (folder / "model.safetensors").resolve()
    file.write_bytes(WEIGHTS[:-1] + b"x")
    fetch()
    assert file.read_bytes() != WEIGHTS
    fetch(verify=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_server_without_ranges_sends_all_again(served, tmp_path):
    blobs = tmp_path / "cache/models--owner--name/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag(WEIGHTS)}.incomplete").write_bytes(b"x" * (len(WEIGHTS) + 5))
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_no_room_on_the_disk_is_seen_before_anything_is_fetched(served, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))
    assert message().startswith("owner/name needs 3 MB of disk, and ")
    assert served.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_meanwhile_is_one_line(served, tmp_path):
    blobs = tmp_path / "cache/models--owner--name/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag(WEIGHTS)}.incomplete").symlink_to("/dev/full")
    assert message() == "owner/name cannot be stored: No space left on device."


def test_a_wrong_token_is_one_line(served, monkeypatch):
    served.token = "right"
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert message() == (
        "The hub refused your token for owner/name: log in with `hf auth login` again, or check the name."
    )
    assert served.asked == []


def test_the_token_of_the_environment_is_sent(served, monkeypatch):
    served.token = "right"
    monkeypatch.setenv("HF_TOKEN", "right")
    assert fetch().is_dir()


def test_a_private_or_missing_model_is_one_line(served):
    served.token = "right"
    assert message() == (
        "The hub has no model owner/name, or it is private: check the name, or log in with `hf auth login`."
    )


def test_a_gated_model_is_one_line(served):
    served.gated = True
    assert message() == (
        "owner/name asks you to accept its licence first: do so on its page on the hub, then log in with "
        "`hf auth login`."
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (403, "The hub does not let you read owner/name (403): log in with `hf auth login`"),
        (429, "The hub is too busy for owner/name (429): try again in some minutes."),
        (500, "owner/name is not on this disk and the hub answers 500 again and again: "),
    ],
)
def test_a_hub_that_refuses_is_one_line(served, status, line):
    served.status = status
    assert message().startswith(line)


def test_an_unknown_revision_is_one_line(served):
    card = ModelCard(name="owner/name", hub_id="owner/name", revision="v9")
    assert message(card=card) == "owner/name has no revision 'v9'."


def test_a_hub_model_with_pickles_only_is_not_downloaded(served, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert message().startswith("owner/name has no *.safetensors")
    assert served.asked == []


def test_without_a_network_what_is_on_this_disk_is_used_and_nothing_is_logged(served, tmp_path):
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    folder = fetch()
    served.stop()
    assert fetch() == folder
    shutil.rmtree(tmp_path / "cache")
    assert message() == (
        "owner/name is not on this disk and the hub cannot be reached (connection refused): "
        "download it once with a network, or give a folder (./folder)."
    )
    logger.warning("from the user's own code")
    logger.removeHandler(handler)
    assert shown == ["from the user's own code"]


def test_offline_asks_nobody(served, monkeypatch):
    started = time.monotonic()
    assert message(offline=True) == (
        "owner/name is not on this disk and offline is set: "
        "download it once with a network, or give a folder (./folder)."
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline is set" in message()
    assert time.monotonic() - started < 5
    assert served.asked == []


def test_a_cancelled_download_stays_for_the_next(served, tmp_path):
    class GivenUp(Exception):
        pass

    def give_up(state: str, share: float | None) -> None:
        if share is not None and share > 0.5:
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch(progress=give_up)
    assert partials(tmp_path)[0].stat().st_size > len(WEIGHTS) // 3


def test_one_downloads_and_the_other_waits_and_says_so(served):
    served.hold.clear()
    first, second = Shares(), Shares()
    threads = [threading.Thread(target=fetch, kwargs={"progress": one}) for one in (first, second)]
    threads[0].start()
    deadline = time.monotonic() + 10
    while not served.fetched("model.safetensors") and time.monotonic() < deadline:
        time.sleep(0.01)
    threads[1].start()
    while not second.told and time.monotonic() < deadline:
        time.sleep(0.01)
    served.hold.set()
    for thread in threads:
        thread.join(10)
    assert second.told[0] == ("waiting", None)
    assert served.fetched("model.safetensors") == [0]
    assert "waiting" not in [state for state, _ in first.told]


class NoLock:
    """A lock that everybody gets at once, as on Lustre, GPFS and some NFS."""

    def __init__(self, *arguments):
        pass

    def acquire(self, timeout):
        pass

    def release(self):
        pass


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr("filelock.FileLock", NoLock)


def fetch_together(served, begin) -> list[Path | Exception]:
    """Two kernels fetch one file at the same time: both have half of it when `begin` is called."""
    results: list[Path | Exception] = []

    def run() -> None:
        try:
            results.append(fetch())
        except Exception as error:
            results.append(error)

    served.hold.clear()
    threads = [threading.Thread(target=run) for _ in range(2)]
    deadline = time.monotonic() + 10
    for count, thread in enumerate(threads, 1):
        thread.start()
        while len(served.fetched("model.safetensors")) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # the first part arrives
    begin()
    served.hold.set()
    for thread in threads:
        thread.join(20)
    return results


def test_kernels_for_which_no_lock_holds_write_the_same_bytes_to_the_same_places(
    served, tmp_path, without_locks
):
    found = fetch_together(served, begin=lambda: None)
    assert [(one / "model.safetensors").read_bytes() == WEIGHTS for one in found] == [True, True]
    assert len(served.fetched("model.safetensors")) == 2  # neither begins again
    assert partials(tmp_path) == []


def test_a_file_that_another_kernel_removes_meanwhile_is_fetched_again(
    served, tmp_path, without_locks
):
    found = fetch_together(served, begin=lambda: partials(tmp_path)[0].unlink())
    assert [(one / "model.safetensors").read_bytes() == WEIGHTS for one in found] == [True, True]


def test_a_gguf_file_is_picked_by_its_precision(served, folder, tmp_path):
    for name in ("name-Q8_0.gguf", "name.q3_k_m.gguf", "name-bf16.gguf"):
        (folder / name).write_bytes(name.encode())
    options = {"offline": False, "progress": lambda state, share: None}
    assert model_files.gguf(CARD, "Q8_0", **options).name == "name-Q8_0.gguf"
    assert model_files.gguf(CARD, "auto", **options).name == "name.q3_k_m.gguf"
    with pytest.raises(ModelLoadError, match="owner/name has no file in F16; it has name-Q8_0"):
        model_files.gguf(CARD, "F16", **options)
    assert model_files.gguf(CARD, "Q8_0", offline=True, progress=options["progress"]).is_file()
    assert model_files.bytes_on_disk(CARD) == len("name-Q8_0.gguf") + len("name.q3_k_m.gguf")


# A hub that misbehaves


def adding(**fields):
    """A listing in which there is one file more."""
    return lambda info: {**info, "siblings": [fields, *info["siblings"]]}


@pytest.mark.parametrize(
    "name",
    [
        *("../../../../../pwn-Q4_K_M.gguf", "/tmp/pwn-Q4_K_M.gguf", "a/../../pwn-Q4_K_M.gguf"),
        *("..\\..\\pwn-Q4_K_M.gguf", "C:\\pwn-Q4_K_M.gguf", "c:pwn-Q4_K_M.gguf", "nul/x-Q4_K_M.gguf"),
        *("x\0-Q4_K_M.gguf", "x\u202e-Q4_K_M.gguf", "x\n-Q4_K_M.gguf", "./x-Q4_K_M.gguf"),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_listed_file_without_a_plain_name_is_never_made(served, folder, tmp_path, name):
    (folder / "sound.gguf").write_bytes(b"x")
    served.listing = adding(rfilename=name, size=1, blobId="0" * 40)
    with pytest.raises(ModelLoadError) as caught:
        model_files.gguf(CARD, "Q4_K_M", offline=False, progress=lambda state, share: None)
    assert "which is no plain name." in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() and not list(tmp_path.rglob("*Q4_K_M*"))


def test_a_file_with_a_strange_name_does_not_keep_the_others_from_being_fetched(served):
    served.listing = adding(rfilename="../x.safetensors", size=1, blobId="0" * 40)
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "commit", ["../../x", "/tmp/x", "..", "", None, 5, "a\\b", "x\0"], ids=ascii
)
def test_a_commit_without_a_plain_name_is_refused(served, commit):
    served.listing = lambda info: {**info, "sha": commit}
    assert message() == (
        "The hub's list of the files of owner/name cannot be read: check HF_ENDPOINT."
    )


@pytest.mark.parametrize(
    "listing",
    [
        [],
        "x",
        {"sha": SHA},
        {"sha": SHA, "siblings": 5},
        {"sha": SHA, "siblings": [{"size": 1}]},
        {"sha": SHA, "siblings": [[]]},
        {"sha": SHA, "siblings": [{"rfilename": "config.json", "lfs": {"size": 1}}]},
        {"sha": SHA, "siblings": [], "x": "\ud800"},
    ],
)
def test_a_listing_that_is_none_is_one_line(served, listing):
    served.listing = lambda info: listing
    assert "cannot be read: check HF_ENDPOINT." in message()


def sending(*parts: bytes, **headers: str):
    """Sends this; the last part on and on."""

    def send(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        for part in parts[:-1]:
            handler.wfile.write(part)
        while True:
            handler.wfile.write(parts[-1])

    return send


@pytest.mark.parametrize(
    "parts", [[b"x" * 65536], [b'{"siblings": [', b'"", ' * 9999], [b"\n" * 999]], ids=range(3)
)
def test_a_listing_without_an_end_is_one_line(served, monkeypatch, parts):
    monkeypatch.setattr(hub, "MAX_ANSWER_BYTES", 1 << 20)
    served.instead = sending(*parts)
    assert message() == "The hub says more than 1 MB about owner/name: check HF_ENDPOINT."


def test_an_error_without_an_end_is_one_line(served, monkeypatch):
    monkeypatch.setattr(hub, "MAX_ANSWER_BYTES", 1 << 20)

    def send(handler):
        handler.send_response(500)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    served.instead = send
    assert "says more than 1 MB" in message()


def test_a_listing_that_is_nested_deep_is_one_line(served):
    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "200000")
        handler.end_headers()
        handler.wfile.write(b"[" * 200_000)

    served.instead = send
    assert "cannot be read: check HF_ENDPOINT." in message()


def test_a_compressed_listing_is_not_unpacked(served):
    served.instead = sending(zlib.compress(bytes(1 << 20)), Content_Encoding="gzip")
    assert message() == (
        "The hub sends owner/name compressed, which was not asked for: check HF_ENDPOINT."
    )


def test_headers_without_an_end_are_one_line(served):
    def send(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")

    served.instead = send
    assert "the hub cannot be reached" in message()


def test_a_file_that_does_not_end_is_cut_where_it_was_said_to_end(served, tmp_path):
    served.endless = True
    folder = fetch()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert partials(tmp_path) == []


# The command


def environment(served: Hub, home: Path) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "TRANSFORMERS_"))}
    return {**kept, "HF_ENDPOINT": served.url, "HF_HOME": str(home)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jupyter_sc2.cli", "download", *arguments]


def test_a_download_that_is_killed_at_60_percent_goes_on_from_there(served, tmp_path):
    env = environment(served, tmp_path / "home")
    served.cut = None
    served.hold.clear()
    process = subprocess.Popen(command("owner/name"), env=env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        found = list((tmp_path / "home").rglob("*.incomplete"))
        if found and found[0].stat().st_size >= len(WEIGHTS) // 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    served.hold.set()
    there = next((tmp_path / "home").rglob("*.incomplete")).stat().st_size
    assert there > 0
    served.asked.clear()
    result = subprocess.run(command("owner/name"), env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout.count("\n")) == (0, 1)
    folder = result.stdout.strip().rpartition(" ")[2]
    assert Path(folder).is_relative_to(tmp_path / "home")
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert served.asked == [("model.safetensors", there)]


def test_the_command_shows_the_licence_once_and_says_where_the_model_is(served, capfd, tmp_path):
    assert cli.main(["download", "owner/name"]) == 0
    out, err = capfd.readouterr()
    where = tmp_path / "cache" / "models--owner--name" / "snapshots" / SHA
    assert out == f"owner/name is on this disk (3 MB): {where}\n"
    assert "Licence of owner/name: unknown" in err
    assert cli.main(["download", "owner/name"]) == 0
    assert "Licence" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["embedded"], "embedded comes with the package: there is nothing to download."),
        (["nobody"], "There is no model named 'nobody'."),
        (["owner/other"], "The hub has no model owner/other, or it is private"),
        (["owner/name", "--precision", "Q8_0"], "No GGUF files of owner/name are known"),
    ],
)
def test_the_command_refuses_in_one_line(served, capfd, arguments, line):
    assert cli.main(["download", *arguments]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(f"jupyter sc2: {line}")
