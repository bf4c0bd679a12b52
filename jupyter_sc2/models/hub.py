"""Downloads files of the Hugging Face hub into the hub's own cache, where other tools find them too.

The hub's client (huggingface_hub) finds a repository and its files, and knows the token, the endpoint and the cache.
The bytes are fetched here: the client (2.4.0) restarts a broken download from the beginning, compares no checksums,
downloads in thread pools that the interpreter waits for at its exit, and draws progress bars into the user's cell. A
file gets its name only once it is complete and its checksum is the hub's; until then it is `….incomplete`, and a later
download resumes it. The hub's answers are not trusted: they have a size limit, names in them must be plain file names,
and no file becomes longer than announced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import file_lock
from jupyter_sc2.runtime.bounded_read import parse_json
from jupyter_sc2.runtime.characters import is_plain_name, is_plain_path
from jupyter_sc2.runtime.clock import sleep
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.log_filter import keep_logs_out
from jupyter_sc2.runtime.progress import Progress

# Seconds until the hub counts as unreachable.
TIMEOUT_S = 5.0
# Consecutive failures without a byte before a transfer is given up, and the seconds between them.
MAX_RETRIES = 3
RETRY_DELAY_S = 1.0
READ_BYTES = 1 << 20
# Bytes of an answer that is not a file: the listing of 50,000 files has 15 MB.
MAX_ANSWER_BYTES = 32 << 20
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)

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
        try:
            listing = _list(hub, hub_id, revision, tell)
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
            if (message := _explain(hub, hub_id, revision, error)) is not None:
                raise ModelLoadError(message) from error
            return _cached(hub_id, revision, choose, "the hub cannot be reached", error)


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
    folder = cached_folder(hub_id, revision)
    try:
        if folder is not None:
            choose(sorted(file.name for file in folder.iterdir() if file.is_file()))
            return folder
    except ModelLoadError as error:
        cause = cause or error
    raise ModelLoadError(
        f"{hub_id} is not on this disk and {why}: download it once with a network, or give a folder (./folder)."
    ) from cause


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
        found = self._hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
        etag = found.etag or listed.checksum
        if not is_plain_name(etag):
            raise ModelLoadError(
                f"The hub names no checksum for {name} of {self._id}: check HF_ENDPOINT."
            )
        size = (listed.size or 0) if found.size is None else found.size
        return _File(name, url, etag, max(0, size))

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
        while not (blob.is_file() and blob.stat().st_size == file.size):  # as of another revision
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
        self._done = before + file.size
        self._tell()
        _link(blob, self._folder / file.name)

    def _partial(self, file: _File) -> Path:
        return self._storage / "blobs" / f"{file.etag}.incomplete"

    def _transfer(self, file: _File, partial: Path) -> None:
        """Writes to `partial` what it lacks, and reconnects when the connection breaks.

        Each byte goes to its own offset and none is appended: flock succeeds for everybody on Lustre, GPFS and some
        NFS, and kernels that then download one file at a time write the same bytes to the same places.

        Raises DownloadInterrupted if it breaks off again and again without a byte.
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
                    reason = "the connection ended early"
                except Exception as error:
                    if not _of_the_network(error):
                        raise
                    reason = str(error) or type(error).__name__
                out.flush()
                failures = 0 if out.tell() > have else failures + 1
                if failures > MAX_RETRIES:
                    raise DownloadInterrupted(reason.splitlines()[0])
                if failures:
                    sleep(RETRY_DELAY_S)

    def _receive(self, file: _File, out: Any, have: int) -> None:
        """One connection: writes the bytes from offset `have` on, or all where the server knows no ranges."""
        utils = self._hub.utils
        # Asked for as it is: a compressed answer has no ranges.
        headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = self._hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        with utils.get_session().stream(
            "GET", file.url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            if response.status_code == 416:  # what is there cannot be the beginning of this file
                out.seek(0)
                out.truncate()
                return
            if response.status_code >= 400:
                utils.hf_raise_for_status(_whole(response, self._id, self._tell))
            _check_plain(response, self._id)
            if have and response.status_code == 200:  # the server knows no ranges and sends all
                out.seek(0)
                self._done -= have
            for chunk in response.iter_raw():
                # More than was said is no part of the file; its checksum tells whether the rest is.
                chunk = chunk[: file.size - out.tell()]
                if not chunk:
                    return
                out.write(chunk)
                self._done += len(chunk)
                self._tell()

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

    def _tell(self) -> None:
        self._progress("downloading", min(1.0, self._done / self._total) if self._total else None)

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
    with hub.utils.get_session().stream(
        "GET",
        url,
        params={"blobs": True},
        headers=headers,
        timeout=TIMEOUT_S,
        follow_redirects=True,
    ) as response:
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


# What went wrong


def _status(error: Exception) -> int | None:
    """The HTTP status of an answer that was an error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _of_the_network(error: Exception) -> bool:
    """Whether the connection failed; an answer with an error is none of these."""
    # httpx of this or the next major version: which one, the hub's client decides.
    library = type(error).__module__.partition(".")[0]
    return library in ("httpx", "httpx2") or isinstance(error, (ConnectionError, TimeoutError))


def _explain(hub: Any, hub_id: str, revision: str | None, error: Exception) -> str | None:
    """What to tell the user; None where the hub cannot be reached at all."""
    log_in = "log in with `hf auth login`"
    status = _status(error)
    match error:
        case hub.errors.GatedRepoError():
            return (
                f"{hub_id} asks you to accept its licence first: do so on its page on the hub, then "
                f"{log_in}."
            )
        case hub.errors.RevisionNotFoundError():
            return f"{hub_id} has no revision {revision!r}."
        case hub.errors.HFValidationError():
            return f"{hub_id!r} cannot be the name of a model on the hub (owner/name)."
        case _ if status == 401 and hub.get_token():
            return f"The hub refused your token for {hub_id}: {log_in} again, or check the name."
        case hub.errors.RepositoryNotFoundError():
            return f"The hub has no model {hub_id}, or it is private: check the name, or {log_in}."
        case _ if status in (401, 403):
            return f"The hub does not let you read {hub_id} ({status}): {log_in}, or check your token's rights."
        case _ if status == 429:
            return f"The hub is too busy for {hub_id} (429): try again in some minutes."
        case OSError() if error.errno in DISK_ERRORS:
            return f"{hub_id} cannot be stored: {error.strerror}."
    return None
