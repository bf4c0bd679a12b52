"""The sources of code that can be indexed (installed packages, folders and archives), and how their files are read.

Files that cannot be read, are larger than `MAX_FILE_BYTES`, or are binary or minified are left out and counted. Links
to folders are not followed, so there can be no cycle.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import sys
import sysconfig
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.lexemes import family_of_file
from jupyter_sc2.errors import RequestError

MAX_FILE_BYTES = 4 << 20
# Bytes of a zip's member that are decompressed at once.
_PIECE = 1 << 16
# The first bytes of compressed tar files, and what decompresses them.
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
# The exceptions that damaged archives raise.
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
# A file with longer lines on average is minified, or data.
MAX_MEAN_LINE_CHARS = 400
_LEFT_OUT = {
    *(".git", ".hg", ".svn", ".venv", ".ipynb_checkpoints"),
    *("node_modules", "__pycache__", "site-packages"),
}
_LICENCE_NAMES = ("licen", "copying", "notice", "unlicense")


@dataclass(frozen=True)
class Item:
    """One file: its path within the source, its content, and size and stamp, by which a change is noticed."""

    path: str
    size: int
    stamp: int
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package, a folder, a file or an archive. `root` is its path, `notices` are its licence files below that."""

    kind: str  # "package", "folder", "file", "zip", "tar" or "jsonl"
    name: str
    root: str
    version: str = ""
    licence: str = licences.UNKNOWN
    notices: tuple[str, ...] = ()
    listed: tuple[str, ...] = field(default=(), repr=False)  # the files of a package

    @property
    def key(self) -> str:
        return f"{self.root}::{self.name}" if self.kind == "package" else self.root

    def items(self, left_out: Counter[str]) -> Iterator[Item]:
        """The files with code. Raises RequestError for an archive that cannot be read."""
        found = {
            "package": self._listed_items,
            "folder": self._folder_items,
            "file": self._single_item,
            "zip": self._zip_items,
            "tar": self._tar_items,
            "jsonl": self._json_items,
        }[self.kind]
        for item in found(left_out):
            if not 0 <= item.size <= MAX_FILE_BYTES:
                left_out["too large"] += 1
            else:
                yield item

    def _listed_items(self, left_out: Counter[str]) -> Iterator[Item]:
        for path in self.listed:
            if family_of_file(path) is not None:
                yield from self._file(Path(self.root, path), path, left_out)

    def _folder_items(self, left_out: Counter[str]) -> Iterator[Item]:
        root = Path(self.root)

        def unreadable(error: OSError) -> None:
            left_out["unreadable"] += 1

        for folder, folders, files in os.walk(root, onerror=unreadable):
            folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
            for name in sorted(files):
                if family_of_file(name) is not None:
                    path = Path(folder, name)
                    yield from self._file(path, path.relative_to(root).as_posix(), left_out)

    def _single_item(self, left_out: Counter[str]) -> Iterator[Item]:
        yield from self._file(Path(self.root), Path(self.root).name, left_out)

    def _file(self, file: Path, path: str, left_out: Counter[str]) -> Iterator[Item]:
        try:
            stat = file.stat()
        except (OSError, ValueError):  # a broken or circular link
            left_out["unreadable"] += 1
            return
        if file.is_file():
            yield Item(path, stat.st_size, stat.st_mtime_ns, partial(_read, file))

    def _zip_items(self, left_out: Counter[str]) -> Iterator[Item]:
        with _readable(self.root), zipfile.ZipFile(self.root) as archive:
            for info in archive.infolist():
                if not info.is_dir() and family_of_file(info.filename) is not None:
                    read = partial(_member, archive, info)
                    yield Item(info.filename, info.file_size, info.CRC, read)

    def _tar_items(self, left_out: Counter[str]) -> Iterator[Item]:
        with _readable(self.root), _opened_tar(self.root) as archive:
            for info in archive:
                reader = archive.extractfile(info) if info.isfile() else None
                if reader is not None and family_of_file(info.name) is not None:
                    yield Item(info.name, info.size, int(info.mtime), reader.read)

    def _json_items(self, left_out: Counter[str]) -> Iterator[Item]:
        """A document for each line. Its path has the byte at which the line begins, so that it can be read again."""
        at = 0
        with open(self.root, "rb") as file:
            while line := file.readline(MAX_FILE_BYTES + 1):
                size, part = len(line), line
                while len(part) > MAX_FILE_BYTES and not part.endswith(b"\n"):  # the line continues
                    part = file.readline(MAX_FILE_BYTES + 1)
                    size += len(part)
                yield Item(f"@{at}.py", size, size, partial(_document, line))
                at += size


@contextmanager
def _readable(archive: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGED, RuntimeError, ValueError) as error:
        raise RequestError(f"{archive} cannot be read as an archive: {error}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | str) -> bytes:
    """The content of a file in a zip. Raises ValueError above `MAX_FILE_BYTES`, whatever size its header gives.

    `ZipFile.read` would decompress all of it at once and cut it afterwards. Compression methods other than deflate are
    refused: zipfile decompresses a whole piece of them at once, and 50 bytes of bzip2 can contain 45 MB. Wheels and
    most zips do not use them.
    """
    if isinstance(member, str):
        member = archive.getinfo(member)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its compression method is not supported")
    data = bytearray()
    opened: Any
    with archive.open(member) as opened:
        while piece := opened.read1(_PIECE):
            data += piece
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("it is larger than its header says")
    return bytes(data)


@contextmanager
def _opened_tar(root: str) -> Iterator[tarfile.TarFile]:
    """A tar file, compressed or not. A header that claims more than `MAX_FILE_BYTES` raises tarfile.ReadError."""
    with open(root, "rb") as file:
        start = file.read(6)
        file.seek(0)
        opener = next((o for magic, o in _COMPRESSED.items() if start.startswith(magic)), None)
        stream: Any = opener(file) if opener is not None else file
        bounded: Any = _Bounded(stream)
        with stream, tarfile.TarFile(fileobj=bounded) as archive:
            yield archive


class _Bounded:
    """A stream that refuses to read more than `MAX_FILE_BYTES` at once, as tarfile would for a member's long name."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"one of its headers claims {size:,} bytes")
        data: bytes = self._stream.read(size)
        return data


def read_again(kind: str, root: str, path: str) -> bytes | None:
    """The code in a file of a source as it is now; None if it cannot be read."""
    try:
        if kind in ("package", "folder", "file"):
            file = Path(root) if kind == "file" else Path(root, path)
            return (
                code_of(_read(file), file.name) if file.stat().st_size <= MAX_FILE_BYTES else None
            )
        if not Path(root).is_file():
            return None
        if kind == "zip":
            with zipfile.ZipFile(root) as archive:
                return code_of(_member(archive, path), path)
        if kind == "jsonl":
            with open(root, "rb") as lines:
                lines.seek(int(path[1:].partition(".")[0]))
                line = lines.readline(MAX_FILE_BYTES + 1)
                return _document(line) if len(line) <= MAX_FILE_BYTES else None
    except (*_DAMAGED, ValueError, KeyError, RuntimeError):
        pass
    return None  # a member of a tar file can only be reached by reading everything before it


def _read(file: Path) -> bytes:
    if not file.is_file():  # reading a pipe would block, and a device may have no end
        raise OSError(errno.EINVAL, "it is not a regular file")
    # No more than that, even if the file grows meanwhile.
    with open(file, "rb") as opened:
        return opened.read(MAX_FILE_BYTES + 1)


def code_of(data: bytes, path: str) -> bytes | None:
    """The code in a file, as UTF-8 unless it is in an encoding that is not recognised.

    None if the file is binary or minified, or named like a notebook without being one.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    if b"\0" in data[:8192]:
        return None
    if path.lower().endswith(".ipynb"):
        return _notebook_code(data)
    if len(data) > 2000 and len(data) / (data.count(b"\n") + 1) > MAX_MEAN_LINE_CHARS:
        return None
    return data.removeprefix(b"\xef\xbb\xbf")


def _notebook_code(data: bytes) -> bytes | None:
    try:
        cells = json.loads(data)["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return "\n\n".join(code).encode("utf-8", "replace")


def _document(line: bytes) -> bytes:
    """The code of one line of JSON: its `text`, `content` or `code`, or its code `cells`."""
    try:
        row = json.loads(line)
        if "cells" in row:
            text = "\n\n".join(source for kind, source in row["cells"] if kind == "code")
        else:
            text = next(row[name] for name in ("text", "content", "code") if name in row)
        return str(text).encode("utf-8", "replace")
    except (ValueError, TypeError, KeyError, StopIteration, RecursionError):
        return b""


# Finding what can be indexed


def named(path: Path, name: str | None = None, licence: str | None = None) -> Source:
    """The folder, file or archive at this path. Raises RequestError if there is none that can be indexed."""
    path = path.expanduser().resolve()
    if not path.exists():
        raise RequestError(f"{path} does not exist.")
    kind = _kind(path)
    notices = _notices_in(path) if kind == "folder" else ()
    stated = licences.canonical(licence) if licence else _licence_of_files(path, notices)
    if stated is None:
        raise RequestError(f"{licence!r} is not an SPDX licence, such as MIT or GPL-3.0-or-later.")
    return Source(
        kind=kind, name=name or path.name, root=str(path), licence=stated, notices=notices
    )


def _kind(path: Path) -> str:
    lower = path.name.lower()
    if path.is_dir():
        return "folder"
    if family_of_file(lower) is not None:
        return "file"
    if lower.endswith((".zip", ".whl", ".egg", ".jar")):
        return "zip"
    if lower.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return "tar"
    if lower.endswith(".jsonl"):
        return "jsonl"
    raise RequestError(
        f"{path} cannot be indexed: give a folder, a source file, or a .zip, .whl, .tar.gz or .jsonl file."
    )


def installed() -> list[Source]:
    """The distributions of this environment, and Python's standard library."""
    found = {
        source.key: source for source in map(_distribution, metadata.distributions()) if source
    }
    return [*sorted(found.values(), key=lambda source: source.name.lower()), _standard_library()]


def _distribution(distribution: metadata.Distribution) -> Source | None:
    files, about = distribution.files, distribution.metadata
    name = about["Name"] if about is not None else None
    if not files or not name:
        return None
    root = str(Path(str(distribution.locate_file(""))).resolve())
    paths = [PurePosixPath(file).as_posix() for file in files]
    notices = tuple(
        path for path in paths if ".dist-info/" in path and _is_notice(PurePosixPath(path).name)
    )
    return Source(
        kind="package",
        name=str(name),
        version=str(about["Version"] or ""),
        root=root,
        licence=licences.of_metadata(
            "".join(about.get_all("License-Expression") or []),
            "".join(about.get_all("License") or []),
            about.get_all("Classifier") or [],
            (_text(Path(root, path)) for path in notices),
        ),
        notices=notices,
        listed=tuple(path for path in paths if family_of_file(path) is not None),
    )


def _standard_library() -> Source:
    root = Path(sysconfig.get_path("stdlib")).resolve()
    left_out = {"site-packages", "test", "tests", "idlelib", "__pycache__"}
    listed = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in left_out)
        listed += [Path(folder, name).relative_to(root).as_posix() for name in sorted(files)]
    return Source(
        kind="package",
        name="Python",
        version=".".join(map(str, sys.version_info[:3])),
        root=str(root),
        licence="PSF-2.0",
        notices=("LICENSE.txt",) if (root / "LICENSE.txt").is_file() else (),
        listed=tuple(path for path in listed if family_of_file(path) is not None),
    )


def _is_notice(name: str) -> bool:
    return name.lower().startswith(_LICENCE_NAMES)


def _notices_in(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(p.name for p in folder.iterdir() if p.is_file() and _is_notice(p.name)))
    except OSError:
        return ()


def _licence_of_files(folder: Path, notices: tuple[str, ...]) -> str:
    texts = (_text(folder / name) for name in notices)
    return next(filter(None, map(licences.of_text, texts)), licences.UNKNOWN)


def _text(file: Path) -> str:
    try:
        return _read(file).decode("utf-8", "replace")
    except OSError:
        return ""


def notice_texts(source: Source) -> list[tuple[str, str]]:
    """The licence files of a source that are at hand, with their texts."""
    texts = [(path, _text(Path(source.root, path))) for path in source.notices]
    return [(path, text) for path, text in texts if text.strip()]
