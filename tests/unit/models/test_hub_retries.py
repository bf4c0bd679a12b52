"""A hub that is out of order for a moment: what is tried again, when, and what is said of it."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from huggingface_hub import constants

from jupyter_sc2 import cli
from jupyter_sc2.models import hub, hub_failures
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime import http_retries
from jupyter_sc2.runtime.http_retries import DOWNLOADS
from jupyter_sc2.runtime.progress import note_of
from tests.support.certificates import certificate, secure
from tests.support.children import wait_until
from tests.support.hub import Fault, Hub, error, reset
from tests.unit.models.test_hub import (  # noqa: F401  (fixtures)
    WEIGHTS,
    fetch,
    folder,
    message,
    partials,
    served,
)


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.waits.append(seconds)


@pytest.fixture
def clock(served: Hub, monkeypatch) -> Clock:  # noqa: F811
    clock = Clock()
    monkeypatch.setattr(hub_failures, "DOWNLOADS", DOWNLOADS)
    monkeypatch.setattr(http_retries, "monotonic", clock.monotonic)
    monkeypatch.setattr(http_retries, "sleep", clock.sleep)
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.3)
    return clock


def notes_of(act) -> list[str]:
    """The different notes on a download's progress."""
    told: list[str] = []
    act(progress=lambda state, share: told.append(note_of(state)))
    return [note for note, before in zip(told, ["", *told], strict=False) if note != before]


def part_of(file: bytes, first: int, total: int | str, count: int = 10) -> Fault:
    """A part with status 206 that claims to be from byte `first` on."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{first + count - 1}/{total}")
        handler.send_header("Content-Length", str(count))
        handler.end_headers()
        handler.wfile.write(file[:count])

    return answer


def cut(share: float) -> Fault:
    """The beginning of the file, and then the end of the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(WEIGHTS)))
        handler.end_headers()
        handler.wfile.write(WEIGHTS[: int(len(WEIGHTS) * share)])
        handler.close_connection = True

    return answer


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Accepts the request and says nothing."""
    time.sleep(1.0)
    handler.close_connection = True


PASSING = [error(status) for status in (408, 429, 500, 502, 503, 504, 520)]


@pytest.mark.parametrize("fault", [*PASSING, error(403), error(404), error(410), reset])
def test_one_error_in_mid_file_is_tried_again_from_where_the_file_broke(served, clock, fault):  # noqa: F811
    served.faults["transfer"] = [cut(0.6), fault]
    notes = notes_of(lambda **options: fetch(**options))
    assert served.fetched("model.safetensors") == [len(WEIGHTS) * 6 // 10]
    assert len([note for note in notes if note]) == 2


@pytest.mark.parametrize("kind", ["listing", "announcement"])
@pytest.mark.parametrize("fault", [*PASSING, reset, silent])
def test_one_error_before_a_file_is_tried_again(served, clock, kind, fault):  # noqa: F811
    served.faults[kind] = [fault]
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_the_progress_names_the_status_and_the_seconds(served, clock):  # noqa: F811
    served.faults["transfer"] = [error(503, Retry_After="7"), reset]
    first, *_, last = [note for note in notes_of(lambda **options: fetch(**options)) if note]
    assert first == "The hub answers 503: next try in 7 s."
    assert last.startswith("Connection reset by peer: next try in ") or last.startswith("Server ")


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("7", 7.0),
        ("100000", 60.0),
        ("inf", 60.0),
        *((wrong, 1.0) for wrong in ("-5", "nan", "", "soon", "0", "1e999x")),
    ],
)
def test_retry_after_counts_within_bounds(served, clock, asked, waited):  # noqa: F811
    served.faults["transfer"] = [error(429, Retry_After=asked)]
    fetch()
    assert sum(clock.waits) == pytest.approx(waited, rel=0.25)


@pytest.mark.parametrize(("ahead", "waited"), [(20, 20.0), (86400, 60.0), (-20, 1.0)])
def test_a_date_in_retry_after_is_compared_with_the_servers_own_clock(
    served,  # noqa: F811
    clock,
    ahead,
    waited,
):
    def busy(handler):
        handler.send_response_only(503)
        handler.send_header("Date", formatdate(5_000_000, usegmt=True))
        handler.send_header("Retry-After", formatdate(5_000_000 + ahead, usegmt=True))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    served.faults["transfer"] = [busy]
    fetch()
    assert sum(clock.waits) == pytest.approx(waited, rel=0.25)


def test_the_delays_double_and_end_after_six_tries(served, clock):  # noqa: F811
    served.faults["transfer"] = [error(503)] * 99
    notes = []
    line = message(progress=lambda state, share: notes.append((note_of(state), clock.time)))
    assert line == (
        "The download of owner/name broke off (the hub answers 503): ask again, and it goes on from there."
    )
    assert len(served.faults["transfer"]) == 99 - 6
    begins = [
        at
        for (note, at), (before, _) in zip(notes, [("", 0.0), *notes], strict=False)
        if note and not before
    ]
    delays = [later - at for at, later in zip(begins, [*begins[1:], clock.time], strict=True)]
    assert delays == pytest.approx([1, 2, 4, 8, 16], rel=0.25)


@pytest.mark.parametrize("kind", ["listing", "announcement"])
def test_a_hub_that_stays_out_of_order_is_one_line_with_the_status(served, clock, kind):  # noqa: F811
    served.faults[kind] = [error(503)] * 99
    assert message().startswith("owner/name is not on this disk and the hub answers 503 again and")
    assert len(served.faults[kind]) == 99 - 6


@pytest.mark.parametrize("fault", [*PASSING, reset])
def test_what_is_on_this_disk_is_used_at_once_where_the_hub_is_out_of_order(served, clock, fault):  # noqa: F811
    place = fetch()
    served.faults["listing"] = [fault] * 99
    assert fetch() == place
    assert clock.waits == [] and len(served.faults["listing"]) == 98


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 501])
def test_an_error_that_will_not_pass_is_not_tried_again(served, clock, status):  # noqa: F811
    served.faults["listing"] = [error(status)] * 2
    message()
    assert clock.waits == []


def part_by_part(step: int) -> Fault:
    """The next bytes of the file, and then the end of the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        first = int((handler.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        handler.send_response(206)
        last = len(WEIGHTS) - 1
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(WEIGHTS)}")
        handler.send_header("Content-Length", str(len(WEIGHTS) - first))
        handler.end_headers()
        handler.wfile.write(WEIGHTS[first : first + step])
        handler.close_connection = True

    return answer


def test_a_transfer_that_makes_headway_is_not_given_up(served, clock):  # noqa: F811
    served.faults["transfer"] = [part_by_part(300_000)] * 9
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert served.faults["transfer"] == []


def test_a_transfer_of_a_few_bytes_at_a_time_is_given_up(served, clock):  # noqa: F811
    served.faults["transfer"] = [part_by_part(100)] * 99
    assert "broke off" in message()
    assert len(served.faults["transfer"]) == 99 - 6


@pytest.mark.parametrize(
    "answer",
    [
        part_of(b"x" * 10, 0, len(WEIGHTS)),
        part_of(b"x" * 10, 1_000_000, len(WEIGHTS)),
        part_of(b"x" * 10, len(WEIGHTS) * 6 // 10, len(WEIGHTS) + 5),
        error(416),
        error(206),
        error(206, Content_Range="bytes x-y/z"),
    ],
    ids=[
        "from the beginning",
        "from elsewhere",
        "of a longer file",
        "none",
        "no range",
        "no numbers",
    ],
)
def test_a_part_of_another_file_begins_the_download_anew(served, clock, answer):  # noqa: F811
    served.faults["transfer"] = [cut(0.6), answer]
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert served.fetched("model.safetensors") == [0]


def test_giving_up_interrupts_a_wait_at_once(served, clock):  # noqa: F811
    served.faults["transfer"] = [error(503, Retry_After="60")] * 9

    class NotWanted(Exception):
        pass

    def progress(state, share):
        if note_of(state) and clock.time > 1000.5:
            raise NotWanted

    with pytest.raises(NotWanted):
        fetch(progress=progress)
    assert clock.time < 1001.0


@pytest.mark.parametrize("size", [400 << 20, 5, 0])
def test_a_file_announced_with_another_size_than_listed_is_one_line(
    served,  # noqa: F811
    clock,
    tmp_path,
    size,
):
    served.listing = lambda info: {
        **info,
        "siblings": [
            {**one, "size": size} if one["rfilename"] == "model.safetensors" else one
            for one in info["siblings"]
        ],
    }
    assert "names two sizes for model.safetensors of owner/name: check HF_ENDPOINT." in message()
    assert partials(tmp_path) == []


@pytest.mark.parametrize("status", [200, 206])
def test_an_answer_longer_than_the_file_ends_with_the_file(served, clock, tmp_path, status):  # noqa: F811
    sent = threading.Event()

    def longer(handler):
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes 0-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        handler.end_headers()
        handler.close_connection = True
        for _ in range(130):
            handler.wfile.write(WEIGHTS)
        sent.set()

    served.faults["transfer"] = [longer]
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert not sent.is_set()


def test_a_redirect_with_an_endless_body_is_followed_without_reading_it(served, clock):  # noqa: F811
    ended = threading.Event()

    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", f"{served.cdn}/cdn/model.safetensors")
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(WEIGHTS)
        finally:
            ended.set()

    served.faults["transfer"] = [redirect]
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert ended.wait(10)


def test_redirects_without_an_end_are_one_line(served, clock):  # noqa: F811
    served.faults["listing"] = [
        error(302, Location=f"{served.url}/api/models/owner/name") for _ in range(99)
    ]
    assert message() == "The hub redirects again and again: check HF_ENDPOINT."


def test_the_status_tells_of_a_retry_and_unloading_ends_the_wait_at_once(served):  # noqa: F811
    served.faults["transfer"] = [error(503, Retry_After="60")] * 9
    session = Session(
        load_engine=lambda model, *, progress, **_: fetch(progress=progress),
        load_options=LoadOptions(model="owner/name"),
    )
    said: list[str] = []
    session.subscribe(lambda status: said.append(f"{status.state}: {status.message}"))
    session.load()
    try:
        wait_until(lambda: "The hub answers 503: next try in 60 s." in "".join(said), 20)
        assert session.status.state == "downloading"
        began = time.monotonic()
        session.unload()
        wait_until(lambda: not session._workers.alive, 5)
        assert time.monotonic() - began < 2
    finally:
        session.close()


def test_a_hub_whose_certificate_is_not_trusted_is_one_line(served, clock, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("cryptography")
    monkeypatch.setattr(constants, "ENDPOINT", served.url.replace("http:", "https:"))
    with secure(served._servers[0], certificate(tmp_path)):
        line = message()
    assert line.startswith(
        "owner/name is not on this disk and the hub cannot be reached (its certificate is not trusted (self"
    )
    assert clock.waits == []


def test_the_command_says_on_stderr_that_it_tries_again(served, clock, capfd):  # noqa: F811
    served.faults["transfer"] = [error(503, Retry_After="7")]
    assert cli.main(["download", "owner/name", "--no-config"]) == 0
    out, err = capfd.readouterr()
    assert "The hub answers 503: next try in 7 s.\n" in err
    assert out.startswith("owner/name is on this disk (3 MB): ")


def two_shards(folder: Path) -> None:  # noqa: F811
    """Has the model's weights in two files, of which the index tells."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / names[0])
    (folder / names[1]).write_bytes(WEIGHTS + bytes(5))


def test_a_download_of_which_one_file_is_there_goes_on_after_an_error_of_the_listing(
    served,  # noqa: F811
    clock,
    folder,  # noqa: F811
):
    two_shards(folder)
    served.cut, served.cuts = 10, 99
    served.faults["transfer"] = [lambda handler: sent(handler, WEIGHTS)]
    assert "broke off" in message()
    served.cuts = 0
    served.faults["listing"] = [error(503)]
    place = fetch()
    assert sorted(file.name for file in place.glob("*.safetensors"))[1].startswith("model-00002")
    assert list(place.parents[1].rglob("*.incomplete")) == []


def test_a_download_that_was_killed_between_two_files_is_not_taken_for_whole(
    served,  # noqa: F811
    clock,
    folder,  # noqa: F811
):
    two_shards(folder)

    def stop(state, share):
        if share is not None and share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=stop)
    served.faults["listing"] = [error(503)] * 5
    assert len(list(fetch().glob("*.safetensors"))) == 2


def sent(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
