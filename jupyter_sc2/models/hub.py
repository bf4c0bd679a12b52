"""Downloads files of the Hugging Face hub into the hub's own cache, where other tools find them too.

The hub's client (huggingface_hub) finds a repository and its files, and knows the token, the endpoint and the cache.
The bytes are fetched here: the client (2.4.0) restarts a broken download from the beginning, compares no checksums,
downloads in thread pools that the interpreter waits for at its exit, and draws progress bars into the user's cell. A
file gets its name only once it is complete and its checksum is the hub's; until then it is `….incomplete`, and a later
download resumes it. What fails on the way is tried again, by the policy `DOWNLOADS` of runtime/http_retries.py. The
hub's answers are not trusted: they have a size limit, names in them must be plain file names, and no file becomes
longer than announced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import file_lock
from jupyter_sc2.models.hub_failures import (
    Incomplete,
    explain,
    is_network,
    is_unreachable,
    may_pass,
    retried,
    status_of,
    wait_after,
    what_failed,
    why_not,
)
from jupyter_sc2.runtime.bounded_read import parse_json
from jupyter_sc2.runtime.characters import is_plain_name, is_plain_path
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.log_filter import keep_logs_out
from jupyter_sc2.runtime.progress import Noted, Progress

# Seconds until the hub counts as unreachable.
TIMEOUT_S = 5.0
READ_BYTES = 1 << 20
# A transfer that breaks off after fewer bytes than these has failed once more; after more it is on its way again.
MIN_HEADWAY_BYTES = 1 << 18
MAX_REDIRECTS = 10
# Bytes of an answer that is not a file: the listing of 50,000 files has 15 MB.
MAX_ANSWER_BYTES = 32 << 20

# The answers that are final for a file that the hub has listed: whether the user may read it does not change by itself.
FORBIDDEN_STATUSES = (401, 403)

# Picks the files that are wanted from the names of all; raises ModelLoadError if none will do.
Choose = Callable[[Sequence[str]], Sequence[str]]


class DownloadInterrupted(Exception):
    """A transfer failed for good; the text says why."""


@dataclass(frozen=True)
class _Listed:
    """A file in the listing of a repository; None for what it does not report."""

    size: int | None
    checksum: str | None


@dataclass(frozen=True)
class _Listing:
    """A commit and its files by their names, of which none leads out of the repository's folder."""

    commit: str
    files: dict[str, _Listed]
    left_out: tuple[str, ...]  # what has no plain name


@dataclass(frozen=True)
class _File:
    """A file to download: its size in bytes and its checksum, by which the cache names it."""

    name: str
    url: str
    etag: str
    size: int


def fetch(
    hub_id: str,
    revision: str | None,
    choose: Choose,
    *,
    offline: bool,
    progress: Progress,
    verify: bool = False,
) -> Path:
    """The folder that holds the chosen files of a repository. What is there already is not fetched again.

    With `verify` it is, should its checksum be wrong. Without a network, or with `offline`, what is on this disk
    is used. Raises ModelLoadError.
    """
    hub = _client()
    if offline or _offline_by_environment():
        return _cached(hub_id, revision, choose, "offline is set")
    stopped: list[Exception] = []

    def tell(state: str, share: float | None) -> None:
        try:
            progress(state, share)
        except Exception as error:  # who asked for the model gives up: no failure of the hub's
            stopped.append(error)
            raise

    with keep_logs_out("huggingface_hub", "httpx", "httpx2", "filelock"):

        def on_disk() -> bool:
            """Whether there is no need to wait for a hub that is out of order."""
            whole = not verify and not _is_begun(hub_id)
            return whole and _find_cached(hub_id, revision, choose)[0] is not None

        try:
            listing = retried(
                lambda: _list(hub, hub_id, revision, tell),
                lambda error: may_pass(error) and not is_unreachable(error) and not on_disk(),
                tell,
            )
            return _Download(hub, hub_id, listing, tell).folder(choose, revision or "main", verify)
        except ModelLoadError:
            raise
        except DownloadInterrupted as error:
            raise ModelLoadError(
                f"The download of {hub_id} broke off ({error}): ask again, and it goes on from there."
            ) from error
        except Exception as error:  # each version of the client has its own HTTP library and errors
            if stopped:
                raise stopped[0] from None
            if may_pass(error) and (folder := _find_cached(hub_id, revision, choose)[0]):
                return folder
            if (message := explain(hub, hub_id, revision, error)) is not None:
                raise ModelLoadError(message) from error
            return _cached(hub_id, revision, choose, why_not(error), error)


def cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """The folder of what is on this disk of a repository, whole or not."""
    storage = _storage(hub_id)
    commit = revision or "main"
    with contextlib.suppress(OSError):
        commit = (storage / "refs" / commit).read_text(errors="replace").strip()
    folder = storage / "snapshots" / commit
    return folder if is_plain_name(commit) and folder.is_dir() else None


def _cached(
    hub_id: str,
    revision: str | None,
    choose: Choose,
    why: str,
    cause: Exception | None = None,
) -> Path:
    folder, error = _find_cached(hub_id, revision, choose)
    if folder is not None:
        return folder
    raise ModelLoadError(
        f"{hub_id} is not on this disk and {why}: download it once with a network, or give a folder (./folder)."
    ) from (cause or error)


def _find_cached(
    hub_id: str, revision: str | None, choose: Choose
) -> tuple[Path | None, ModelLoadError | None]:
    """The folder on this disk with the files that are wanted; None and perhaps an error where it has not all."""
    folder = cached_folder(hub_id, revision)
    try:
        if folder is not None:
            choose(sorted(file.name for file in folder.iterdir() if file.is_file()))
        return folder, None
    except ModelLoadError as error:
        return None, error


def _is_begun(hub_id: str) -> bool:
    """Whether a download of a repository has files left that it has begun, or was about to."""
    return any((_storage(hub_id) / "blobs").glob("*.incomplete"))


class _Download:
    """One download of some files of one commit."""

    def __init__(self, hub: Any, hub_id: str, listing: _Listing, progress: Progress) -> None:
        self._hub = hub
        self._id = hub_id
        self._listing = listing
        self._progress = progress
        self._storage = _storage(hub_id)
        self._folder: Path = self._storage / "snapshots" / listing.commit
        self._total = self._done = 0

    def folder(self, choose: Choose, revision: str, verify: bool) -> Path:
        try:
            names = choose(sorted(self._listing.files))
        except ModelLoadError as error:
            if not self._listing.left_out:
                raise
            raise ModelLoadError(
                f"{error} Left out is {self._listing.left_out[0]!r}, which is no plain name."
            ) from error
        if verify:
            for name in names:
                self._drop_damaged(name)
        if any(self._missing(name) for name in names):
            with self._alone():
                # Another kernel may have fetched some of them meanwhile.
                files = [self._look_up(name) for name in names if self._missing(name)]
                self._check_disk(files)
                self._total = sum(file.size for file in files)
                for file in files:  # so that a later attempt sees that these lack
                    partial = self._partial(file)
                    partial.parent.mkdir(parents=True, exist_ok=True)
                    partial.touch()
                self._tell()
                # The small ones first: without them the large one would be of no use.
                for file in sorted(files, key=lambda file: file.size):
                    self._get(file)
        self._remember(revision)
        return self._folder

    def _missing(self, name: str) -> bool:
        return not (self._folder / name).is_file()

    def _drop_damaged(self, name: str) -> None:
        file = self._folder / name
        if not file.is_file():
            return
        etag = self._listing.files[name].checksum or file.resolve().name
        self._progress("downloading", None)
        if not self._is_whole(file, etag):
            file.resolve().unlink()
            file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the repository's lock: other kernels wait, and then find the files."""
        place = self._storage.parent / ".locks" / self._storage.name
        # On a file system without locks both download.
        with file_lock.locked(place / "jupyter-sc2.lock", lambda: self._progress("waiting", None)):
            yield

    def _look_up(self, name: str) -> _File:
        listed = self._listing.files[name]
        url = self._hub.hf_hub_url(self._id, name, revision=self._listing.commit)
        # The client tries once: it would return to its own cache, and not to ours.
        found = retried(
            lambda: self._hub.get_hf_file_metadata(url, timeout=TIMEOUT_S),
            lambda error: is_network(error) or status_of(error) not in (None, *FORBIDDEN_STATUSES),
            self._progress,
        )
        etag = found.etag or listed.checksum
        if not is_plain_name(etag):
            raise ModelLoadError(
                f"The hub names no checksum for {name} of {self._id}: check HF_ENDPOINT."
            )
        size = found.size if listed.size is None else listed.size
        if size is None or size < 0 or found.size not in (None, size):
            sizes = "no size" if size is None or size < 0 else "two sizes"
            raise ModelLoadError(
                f"The hub names {sizes} for {name} of {self._id}: check HF_ENDPOINT."
            )
        return _File(name, url, etag, size)

    def _check_disk(self, files: Sequence[_File]) -> None:
        needed = sum(file.size - _size(self._partial(file)) for file in files)
        place = next(p for p in (self._storage, *self._storage.parents) if p.is_dir())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ModelLoadError(
                f"{self._id} needs {format_bytes(needed)} of disk, and {place} has {format_bytes(free)} free."
            )

    def _get(self, file: _File) -> None:
        blob, partial = self._storage / "blobs" / file.etag, self._partial(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        before, damaged = self._done, 0
        while not (blob.is_file() and blob.stat().st_size == file.size):
            self._done = before
            self._transfer(file, partial)
            # A kernel for which the lock does not hold may have given the file its name meanwhile, or begun it anew.
            with contextlib.suppress(FileNotFoundError):
                if partial.stat().st_size < file.size:
                    continue
                if self._is_whole(partial, file.etag):
                    os.replace(partial, blob)
                    continue
                partial.unlink()
                damaged += 1
            if damaged == 2:
                raise ModelLoadError(
                    f"{file.name} of {self._id} arrived damaged twice: its checksum is not the one that the hub "
                    "gives. Try again later, or over another network."
                )
        partial.unlink(missing_ok=True)  # where another revision has the file already
        self._done = before + file.size
        self._tell()
        _link(blob, self._folder / file.name)

    def _partial(self, file: _File) -> Path:
        return self._storage / "blobs" / f"{file.etag}.incomplete"

    def _transfer(self, file: _File, partial: Path) -> None:
        """Writes to `partial` what it lacks, and connects again when the connection breaks or the server has an error.

        Each byte goes to its own offset and none is appended: flock succeeds for everybody on Lustre, GPFS and some
        NFS, and kernels that then download one file at a time write the same bytes to the same places.

        Any status counts as such an error: the hub has just announced the file, and links to it expire. Raises
        DownloadInterrupted if it fails again and again without headway.
        """
        before, failures = self._done, 0
        partial.touch()
        with partial.open("r+b") as out:
            if out.seek(0, os.SEEK_END) > file.size:
                out.seek(0)
                out.truncate()
            while (have := out.tell()) < file.size:
                self._done = before + have
                self._tell()
                try:
                    self._receive(file, out, have)
                    out.flush()
                    continue
                except Exception as error:
                    if not is_network(error) and status_of(error) is None:
                        raise
                    failure = error
                out.flush()
                failures = 1 if out.tell() >= have + MIN_HEADWAY_BYTES else failures + 1
                if not wait_after(failure, failures, self._tell):
                    raise DownloadInterrupted(what_failed(failure)) from failure

    def _receive(self, file: _File, out: Any, have: int) -> None:
        """One connection: writes the bytes from offset `have` on, or all where the server knows no ranges.

        Returns with the last byte. Raises Incomplete if the answer ends before, or what the HTTP library raises.
        """
        utils = self._hub.utils
        # Asked for as it is: a compressed answer has no ranges.
        headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = self._hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        with _answer(self._hub, file.url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:  # what is there cannot be the beginning of this file
                self._begin_anew(out)
                raise Incomplete("the file has changed on the hub")
            if response.status_code >= 400:
                utils.hf_raise_for_status(_whole(response, self._id, self._tell))
            _check_plain(response, self._id)
            if have and response.status_code == 206 and not _is_rest(response, have, file.size):
                self._begin_anew(out)
                raise Incomplete("the file has changed on the hub")
            if have and response.status_code != 206:  # the server knows no ranges and sends all
                out.seek(0)
                self._done -= have
            for chunk in response.iter_raw():
                # More than was said is no part of the file; its checksum tells whether the rest is.
                chunk = chunk[: file.size - out.tell()]
                out.write(chunk)
                self._done += len(chunk)
                self._tell()
                if out.tell() >= file.size:
                    return
        raise Incomplete("the connection ended early")

    def _begin_anew(self, out: Any) -> None:
        self._done -= out.tell()
        out.seek(0)
        out.truncate()

    def _is_whole(self, path: Path, etag: str) -> bool:
        """Whether the file has the checksum: SHA-256 of large files, git's SHA-1 of a blob for the others."""
        if len(etag) == 64:
            digest: Any = hashlib.sha256()
        elif len(etag) == 40:
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        else:
            return True  # not a checksum: the size was right
        with path.open("rb") as stream:
            while chunk := stream.read(READ_BYTES):
                digest.update(chunk)
                self._tell()  # who waits may give up
        return bool(digest.hexdigest() == etag)

    def _tell(self, note: str = "") -> None:
        share = min(1.0, self._done / self._total) if self._total else None
        self._progress(Noted("downloading", note), share)

    def _remember(self, revision: str) -> None:
        """Notes which commit a branch was, as the hub's client does: offline, the files are found by that."""
        if revision != self._listing.commit and is_plain_path(revision):
            with contextlib.suppress(OSError):
                ref = self._storage / "refs" / revision
                ref.parent.mkdir(parents=True, exist_ok=True)
                ref.write_text(self._listing.commit)


# What the hub says


def _list(hub: Any, hub_id: str, revision: str | None, tell: Progress) -> _Listing:
    """Asks for a repository's files; the client itself would read an answer without an end."""
    hub.utils.validate_repo_id(hub_id)
    url = f"{hub.constants.ENDPOINT}/api/models/{hub_id}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    with _answer(hub, url, params={"blobs": True}, headers=headers, timeout=TIMEOUT_S) as response:
        answer = _whole(response, hub_id, lambda: tell("downloading", None))
    hub.utils.hf_raise_for_status(answer)
    try:
        said = parse_json(answer.content)
        listed = {file["rfilename"]: _listed(file) for file in said["siblings"]}
        if not is_plain_name(commit := said["sha"]):
            raise ValueError("its commit has no plain name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"The hub's list of the files of {hub_id} cannot be read: check HF_ENDPOINT."
        ) from error
    plain = {name: file for name, file in listed.items() if is_plain_path(name)}
    return _Listing(commit, plain, tuple(str(name) for name in listed if name not in plain))


@contextlib.contextmanager
def _answer(hub: Any, url: str, **options: Any) -> Iterator[Any]:
    """The answer to a GET, behind all redirects. The client itself would read a redirect's body without an end."""
    session = hub.utils.get_session()
    request = session.build_request("GET", url, **options)
    for _ in range(MAX_REDIRECTS):
        response = session.send(request, stream=True, follow_redirects=False)
        try:
            request = response.next_request
            if request is None:
                yield response
                return
        finally:
            response.close()
    raise ModelLoadError("The hub redirects again and again: check HF_ENDPOINT.")


def _listed(file: Any) -> _Listed:
    large = file.get("lfs")
    size, checksum = file.get("size"), large["sha256"] if large else file.get("blobId")
    known_size = isinstance(size, int) and size >= 0
    return _Listed(size if known_size else None, checksum if is_plain_name(checksum) else None)


def _whole(response: Any, hub_id: str, tell: Callable[[], None]) -> Any:
    """The answer with all that it says, up to a limit."""
    _check_plain(response, hub_id)
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > READ_BYTES:
            tell()  # who waits may give up
        if len(data) > MAX_ANSWER_BYTES:
            raise ModelLoadError(
                f"The hub says more than {format_bytes(MAX_ANSWER_BYTES)} about {hub_id}: check HF_ENDPOINT."
            )
    return type(response)(
        response.status_code,
        headers=response.headers,
        content=bytes(data),
        request=response.request,
    )


def _check_plain(response: Any, hub_id: str) -> None:
    """Nobody asked for compressed data, of which a few bytes may be gigabytes."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ModelLoadError(
            f"The hub sends {hub_id} compressed, which was not asked for: check HF_ENDPOINT."
        )


def _is_rest(response: Any, first: int, size: int) -> bool:
    """Whether an answer with status 206 is the rest of a file of this size from byte `first` on."""
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,20})-\d{1,20}/(\d{1,20}|\*)", said.strip())
    return match is not None and int(match[1]) == first and match[2] in ("*", str(size))


def _link(blob: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except FileExistsError:
        pass
    except OSError:  # Windows grants links to some users only
        os.replace(blob, name)


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ModelLoadError(
            "Models of the hub need the package huggingface_hub: pip install huggingface_hub."
        ) from error
    return huggingface_hub


def _storage(hub_id: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / ("models--" + hub_id.replace("/", "--"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _offline_by_environment() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)
