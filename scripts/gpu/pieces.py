"""Cuts files into pieces that fit into a transfer, each with a checksum, and joins them again.

Weights are compressed with Huffman's code alone, the even bytes before the odd ones, so that the exponents of 16-bit
numbers are next to each other. Weights have no repetitions that a better compressor would find: the shipped 77.7 MB
become 65.3 in a second, while xz takes forty times as long for a larger result. Of bf16 weights two thirds are left.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAW_PIECE = 14 * 2**20  # bytes of a file in one piece, before compression; 77.7 MB are six


class Damaged(Exception):
    """Pieces or files are not what they were when their checksums were taken."""


@dataclass(frozen=True)
class Piece:
    name: str
    kind: str
    bytes: int
    sha256: str

    def good_in(self, folder: Path) -> bool:
        """Whether the piece is in the folder, and whole."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.bytes and sha256(path) == self.sha256


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_piece(folder: Path, name: str, kind: str, data: bytes) -> Piece:
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / name, data)
    return Piece(name, kind, len(data), hashlib.sha256(data).hexdigest())


def replace(path: Path, data: bytes) -> None:
    """Replaces a file in one step: an interruption leaves the old one."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    replace(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path, otherwise: Any = None) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return otherwise


def squeeze(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data[0::2] + data[1::2]) + coder.flush()


def expand(squeezed: bytes) -> bytes:
    planes = zlib.decompress(squeezed)
    data = bytearray(len(planes))
    even = (len(planes) + 1) // 2
    data[0::2], data[1::2] = planes[:even], planes[even:]
    return bytes(data)


def cut(path: Path, folder: Path, stem: str, kind: str, *, raw: int = RAW_PIECE) -> list[Piece]:
    """Writes `path` in compressed pieces to the folder: STEM-00.piece, STEM-01.piece, …"""

    def one(n: int) -> Piece:
        with path.open("rb") as file:
            file.seek(n * raw)
            data = file.read(raw)
        return write_piece(folder, f"{stem}-{n:02d}.piece", kind, squeeze(data))

    count = -(-path.stat().st_size // raw)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, range(count)))


def join(pieces: Iterable[Piece], folders: Sequence[Path], path: Path, whole: str) -> None:
    """Writes the file that was cut into these pieces, whose checksum is `whole`. Raises Damaged if it cannot be had."""
    pieces = list(pieces)
    found = [next((f for f in folders if piece.good_in(f)), None) for piece in pieces]
    if missing := [p.name for p, folder in zip(pieces, found, strict=True) if folder is None]:
        raise Damaged(f"{path.name} lacks {', '.join(missing)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        for piece, folder in zip(pieces, found, strict=True):
            assert folder
            file.write(expand((folder / piece.name).read_bytes()))
    if sha256(part) != whole:
        raise Damaged(f"{path.name}: its pieces are intact, but the joined file is not.")
    os.replace(part, path)


def fill(pieces: Iterable[Piece], rooms: Sequence[int]) -> Iterator[tuple[int, Piece]]:
    """Puts each piece, in order, into the first transfer that has room for it, given the bytes of room in each.

    Yields the number of the transfer and the piece; pieces that fit into none are left out.
    """
    left = list(rooms)
    for piece in pieces:
        for n, room in enumerate(left):
            if piece.bytes <= room:
                left[n] -= piece.bytes
                yield n, piece
                break
